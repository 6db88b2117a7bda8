//! Messages as values: the two tasks behind a [`Link`] over a sensor's GATT service.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use clawgate_protocol::ble::room;
use clawgate_protocol::fragment::{Header, Joiner, split};
use clawgate_protocol::message::Kind;
use clawgate_protocol::{MAX_MESSAGE, Transport};

use super::gatt::{Gatt, GattError, Values, next};
use crate::link::duplex::{Ends, Link, LinkEnd};
use crate::metrics;

/// What passes over one link, and whether an answer is missing.
#[derive(Debug)]
pub(crate) struct Traffic {
    waiting: Mutex<Option<Instant>>,
    received: prometheus_client::metrics::counter::Counter,
    values: prometheus_client::metrics::counter::Counter,
    bad: prometheus_client::metrics::counter::Counter,
    /// Subscribe anew.
    pub(crate) resubscribe: Notify,
    /// The link is gone, as BlueZ has it, or it is ended from outside.
    pub(crate) gone: Notify,
}

impl Traffic {
    /// Counted under the adapter's name.
    pub(crate) fn new(adapter: &str, metrics: &metrics::LinkMetrics) -> Self {
        let link = metrics::Link { link: adapter.to_owned() };
        Self {
            waiting: Mutex::default(),
            received: metrics.received_bytes.get_or_create(&link).clone(),
            values: metrics.frames.get_or_create(&link).clone(),
            bad: metrics.bad_frames.get_or_create(&link).clone(),
            resubscribe: Notify::new(),
            gone: Notify::new(),
        }
    }

    /// How long a question of ours has been waiting for an answer.
    pub(crate) fn unanswered(&self) -> Option<Duration> {
        self.waiting().map(|since| since.elapsed())
    }

    fn waiting(&self) -> MutexGuard<'_, Option<Instant>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sent(&self, message: &[u8]) {
        let asks = matches!(Kind::of(message), Ok(Kind::Probe | Kind::M1 | Kind::M3 | Kind::M5 | Kind::Handshake1));
        if asks {
            self.waiting().get_or_insert_with(Instant::now);
        }
    }

    fn heard(&self) {
        *self.waiting() = None;
    }
}

/// Starts a link over a connected sensor.
///
/// # Errors
/// The sensor's notifications cannot be subscribed to.
pub(crate) async fn start<G: Gatt>(gatt: Arc<G>, traffic: &Arc<Traffic>) -> Result<Link, GattError> {
    let values = gatt.subscribe().await?;
    let (mut link, Ends { incoming, outgoing, end }) = Link::new(Transport::Ble);
    let reader = Reader { gatt: Arc::clone(&gatt), values, incoming, traffic: Arc::clone(traffic) };
    link.drive(end.clone().guard(reader.run()));
    let writer = Writer { gatt, outgoing, traffic: Arc::clone(traffic) };
    link.drive(end.guard(writer.run()));
    Ok(link)
}

struct Reader<G> {
    gatt: Arc<G>,
    values: Values,
    incoming: mpsc::Sender<Vec<u8>>,
    traffic: Arc<Traffic>,
}

impl<G: Gatt> Reader<G> {
    async fn run(mut self) -> LinkEnd {
        let mut joiner = Box::new(Joiner::<MAX_MESSAGE>::new());
        loop {
            tokio::select! {
                value = next(&mut self.values) => match value {
                    Some(value) => self.take(&value, &mut joiner),
                    None => return LinkEnd::Gone,
                },
                () = self.traffic.resubscribe.notified() => {
                    match self.gatt.subscribe().await {
                        Ok(values) => self.values = values,
                        Err(error) => return LinkEnd::Failed(error.to_string()),
                    }
                    joiner.reset();
                }
                () = self.traffic.gone.notified() => return LinkEnd::Gone,
            }
        }
    }

    /// Never waits: the library's queue has no bound, so what finds no room here is dropped, and who needs it
    /// asks for it again.
    fn take(&self, value: &[u8], half: &mut Joiner<MAX_MESSAGE>) {
        self.traffic.received.inc_by(u64::try_from(value.len()).unwrap_or(u64::MAX));
        let joined = match value {
            [header, payload @ ..] => half.join(Header::from_byte(*header), payload),
            [] => return,
        };
        match joined {
            Ok(Some(message)) => {
                self.traffic.values.inc();
                self.traffic.heard();
                if self.incoming.try_send(message.to_vec()).is_err() {
                    tracing::debug!("a message found no room and was dropped");
                }
            }
            Ok(None) => drop(self.traffic.values.inc()),
            Err(error) => {
                self.traffic.bad.inc();
                tracing::debug!(%error, "a value was dropped");
            }
        }
    }
}

struct Writer<G> {
    gatt: Arc<G>,
    outgoing: mpsc::Receiver<Vec<u8>>,
    traffic: Arc<Traffic>,
}

impl<G: Gatt> Writer<G> {
    async fn run(mut self) -> LinkEnd {
        while let Some(message) = self.outgoing.recv().await {
            self.traffic.sent(&message);
            let room = room(self.gatt.mtu());
            let count = message.len().div_ceil(room);
            for (number, (header, piece)) in split(&message, room).enumerate() {
                let value = [&[header.byte()], piece].concat();
                // The last with response: a dead link is noticed, and no more than a message is on its way.
                if let Err(error) = self.gatt.write(value, number + 1 == count).await {
                    return match error {
                        GattError::Silent { .. } => LinkEnd::PeerStalled,
                        other => LinkEnd::Failed(other.to_string()),
                    };
                }
            }
        }
        LinkEnd::Closed
    }
}
