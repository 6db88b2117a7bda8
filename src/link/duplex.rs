//! [`Link`]: messages to and from one peer, whatever carries them.
//!
//! Behind it stand two tasks of the transport, one for each direction; both end with the link, and the link
//! says why it ended. Both queues are bounded: a peer that sends faster than we take finds its line full.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

use clawgate_protocol::Transport;

/// Messages that wait in one direction; with the longest messages, 128 KiB.
pub(crate) const QUEUE: usize = 32;

/// How long a link that is closed waits for a peer to take what was queued.
const FLUSH: Duration = Duration::from_millis(500);

/// Why a link is over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkEnd {
    /// The device went: unplugged, or its other end was closed.
    #[error("the device is gone; it is taken again as soon as it is back")]
    Gone,
    /// It takes no bytes: hung, or held back by flow control.
    #[error("the sensor takes no bytes; restart it, or check the wiring")]
    PeerStalled,
    /// The system refused to read or write.
    #[error("the system gave up the line: {0}")]
    Failed(String),
    /// We ended it.
    #[error("the link was closed here")]
    Closed,
}

/// A duplex of protocol messages. Dropping it ends the transport's tasks.
#[derive(Debug)]
pub(crate) struct Link {
    transport: Transport,
    incoming: mpsc::Receiver<Vec<u8>>,
    outgoing: mpsc::Sender<Vec<u8>>,
    end: Ending,
    tasks: JoinSet<()>,
    _stop: DropGuard,
}

/// The transport's side of a [`Link`].
pub(crate) struct Ends {
    /// To put received messages into. Waits while the queue is full.
    pub(crate) incoming: mpsc::Sender<Vec<u8>>,
    /// To take messages from that are to be sent.
    pub(crate) outgoing: mpsc::Receiver<Vec<u8>>,
    /// Both directions end when either does, or when the link is dropped.
    pub(crate) end: Ending,
}

/// How both directions learn that one of them is over, and the owner learns why.
#[derive(Debug, Clone)]
pub(crate) struct Ending {
    cause: Arc<OnceLock<LinkEnd>>,
    stop: CancellationToken,
}

impl Ending {
    /// Ends the link; the first cause stays.
    pub(crate) fn end(&self, cause: LinkEnd) {
        // An error means that the other direction was quicker.
        let _ = self.cause.set(cause);
        self.stop.cancel();
    }

    fn why(&self) -> LinkEnd {
        // Without a cause a task of the transport panicked: the device may be taken anew.
        self.cause.get().cloned().unwrap_or(LinkEnd::Gone)
    }

    /// Runs one direction until it fails or the link is over.
    pub(crate) async fn guard(self, direction: impl Future<Output = LinkEnd>) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            cause = direction => self.end(cause),
        }
    }
}

impl Link {
    /// A link over `transport`, and what the transport's tasks need.
    pub(crate) fn new(transport: Transport) -> (Self, Ends) {
        let (to_owner, incoming) = mpsc::channel(QUEUE);
        let (outgoing, to_send) = mpsc::channel(QUEUE);
        let stop = CancellationToken::new();
        let end = Ending { cause: Arc::default(), stop: stop.clone() };
        let ends = Ends { incoming: to_owner, outgoing: to_send, end: end.clone() };
        (Self { transport, incoming, outgoing, end, tasks: JoinSet::new(), _stop: stop.drop_guard() }, ends)
    }

    /// Gives the link a task of its transport.
    pub(crate) fn drive(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// The kind of transport; it is bound into the keys.
    pub(crate) fn transport(&self) -> Transport {
        self.transport
    }

    /// The next message. Loses nothing when it is dropped before it ends.
    ///
    /// # Errors
    /// Why the link is over.
    pub(crate) async fn receive(&mut self) -> Result<Vec<u8>, LinkEnd> {
        match self.incoming.recv().await {
            Some(message) => Ok(message),
            None => Err(self.end.why()),
        }
    }

    /// Takes a message that has come already.
    pub(crate) fn try_receive(&mut self) -> Option<Vec<u8>> {
        self.incoming.try_recv().ok()
    }

    /// Queues a message; waits while the peer has not taken the ones before.
    ///
    /// # Errors
    /// Why the link is over.
    pub(crate) async fn send(&self, message: Vec<u8>) -> Result<(), LinkEnd> {
        self.outgoing.send(message).await.map_err(|_| self.end.why())
    }

    /// Sends what is queued, if the peer takes it, and waits until the transport has let go of the device.
    pub(crate) async fn close(self) -> LinkEnd {
        let Self { outgoing, mut tasks, end, .. } = self;
        // The writing half ends by itself when its queue does, and the reading half with it.
        drop(outgoing);
        if tokio::time::timeout(FLUSH, async { while tasks.join_next().await.is_some() {} }).await.is_err() {
            end.end(LinkEnd::Closed);
            while tasks.join_next().await.is_some() {}
        }
        end.why()
    }
}
