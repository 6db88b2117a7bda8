//! What comes down: handed on without waiting for whoever reads, and acknowledged to the broker by that reader alone.
//! What is not acknowledged the broker sends again over the next connection, where it keeps the session.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

/// Messages of one connection that may wait for their acknowledgement. An MQTT 5 broker is told less
/// ([`RECEIVE_MAXIMUM`]); one that speaks 3.1.1 cannot be told.
pub(super) const PLACES: u32 = 32;
/// Messages that an MQTT 5 broker may send down before the first is acknowledged.
pub(super) const RECEIVE_MAXIMUM: u16 = 16;

/// Who takes what comes down.
pub(crate) struct Inbox {
    /// What finds no room stays unacknowledged, and so does all that comes after it on this connection.
    pub(crate) sender: mpsc::Sender<Received>,
    /// Whether the broker keeps messages for a client that is away.
    pub(crate) is_kept: bool,
}

/// What came down.
#[derive(Debug)]
pub(crate) struct Received {
    /// The topic it was published to.
    pub(crate) topic: String,
    /// What it says.
    pub(crate) payload: Bytes,
    receipt: Receipt,
}

impl Received {
    /// Tells the broker that it need not be sent again. Dropped without that, it is.
    pub(crate) fn acknowledge(self) {
        // An error means that its connection has ended: then it comes again, and is known.
        match self.receipt.acknowledgement {
            Acknowledgement::V5(client, Some(ack)) => drop(client.try_manual_ack(ack)),
            Acknowledgement::V311(client, Some(ack)) => drop(client.try_manual_ack(ack)),
            Acknowledgement::V5(_, None) | Acknowledgement::V311(_, None) => {}
        }
    }
}

#[derive(Debug)]
struct Receipt {
    acknowledgement: Acknowledgement,
    /// Given back when it was taken, or dropped.
    _place: OwnedSemaphorePermit,
}

/// The client that the message came by, and what it sends; nothing for what was published at QoS 0.
#[derive(Debug)]
pub(super) enum Acknowledgement {
    V5(rumqttc::AsyncClient, Option<rumqttc::ManualAck>),
    V311(rumqttc_v4::AsyncClient, Option<rumqttc_v4::ManualAck>),
}

impl Acknowledgement {
    fn is_wanted(&self) -> bool {
        matches!(self, Self::V5(_, Some(_)) | Self::V311(_, Some(_)))
    }
}

/// The connection's end of an [`Inbox`].
#[derive(Clone)]
pub(super) struct Ear {
    sender: mpsc::Sender<Received>,
    places: Arc<Semaphore>,
    missed: CancellationToken,
    dropped: Arc<AtomicU64>,
}

impl Ear {
    pub(super) fn of(inbox: &Inbox) -> Self {
        let places = Arc::new(Semaphore::new(PLACES as usize));
        Self { sender: inbox.sender.clone(), places, missed: CancellationToken::new(), dropped: Arc::default() }
    }

    /// Hands a message on. It is never waited for a place: the keep-alive goes on.
    pub(super) fn hears(&self, topic: &[u8], payload: Bytes, acknowledgement: Acknowledgement) {
        let is_wanted = acknowledgement.is_wanted();
        // The order is kept: what follows one that was not taken comes again with it.
        if self.missed.is_cancelled() && is_wanted {
            return;
        }
        let topic = String::from_utf8_lossy(topic).into_owned();
        let taken = Arc::clone(&self.places).try_acquire_owned().is_ok_and(|place| {
            let receipt = Receipt { acknowledgement, _place: place };
            self.sender.try_send(Received { topic, payload, receipt }).is_ok()
        });
        match (taken, is_wanted) {
            (true, _) => {}
            (false, true) => {
                tracing::info!("many messages from the broker wait; it keeps the others until these are done");
                self.missed.cancel();
            }
            (false, false) => {
                let dropped = self.dropped.fetch_add(1, Ordering::Relaxed) + 1;
                // Whoever sends them must not fill the log.
                if dropped.is_power_of_two() {
                    tracing::warn!(dropped, "many messages from the broker wait; of QoS 0 some were dropped");
                }
            }
        }
    }

    /// Ready when the broker has to send something again and all that was taken is done: then a new connection
    /// brings it.
    pub(super) async fn missed(self) {
        self.missed.cancelled().await;
        self.settled().await;
    }

    /// Ready when all that was taken is done.
    pub(super) async fn settled(self) {
        // It is never closed.
        let _ = self.places.acquire_many(PLACES).await;
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;

    fn acknowledgement(client: &rumqttc_v4::AsyncClient) -> Acknowledgement {
        let ack = rumqttc_v4::ManualAck::PubAck(rumqttc_v4::PubAck::new(7));
        Acknowledgement::V311(client.clone(), Some(ack))
    }

    #[tokio::test]
    async fn what_finds_no_room_and_what_follows_it_is_left_to_the_broker_until_the_rest_is_done() {
        let options = rumqttc_v4::MqttOptions::new("g", rumqttc_v4::Broker::tcp("localhost", 1));
        let (client, _events) = rumqttc_v4::AsyncClient::builder(options).capacity(64).build();
        let (sender, mut taken) = mpsc::channel(64);
        let ear = Ear::of(&Inbox { sender, is_kept: true });
        let hears = |n: u32| ear.hears(b"t", Bytes::from(n.to_string()), acknowledgement(&client));
        (0..=PLACES).for_each(hears);
        let mut missed = std::pin::pin!(ear.clone().missed());
        for n in 0..PLACES {
            assert!(missed.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending(), "{n}");
            let received = taken.recv().await.unwrap();
            assert_eq!(received.payload, n.to_string());
            received.acknowledge();
            // There is room again, and yet it would overtake the one that was missed.
            hears(100 + n);
        }
        assert!(taken.try_recv().is_err());
        missed.await;
    }
}
