//! The thin edge to the MQTT client: one connection from CONNECT to its end, never a second one by itself.
//!
//! The client library would reconnect, resend and forget on its own terms. Here every connection is a new
//! client that is dropped with it; what was not confirmed is the spool's to send again. What differs between MQTT 5 and
//! 3.1.1 stands in [`v5`] and [`v311`]; all else is the same for both.

mod inbox;
mod pump;
mod resumed;
mod v311;
mod v5;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use rumqttc::PubAckReason;
use tokio::sync::oneshot;
use tokio::time::Instant;

use inbox::{Acknowledgement, Ear};
pub(crate) use inbox::{Inbox, Received};
use pump::Pump;

use super::RelayOptions;
use super::message::{Message, Will};
use super::profile::{Login, Table, Version};
use crate::spool::Ticket;
use crate::token::AccessToken;

/// Largest packet that a connection with an inbox takes. A command has 16 KiB at most; one that is larger than that is
/// refused in words.
const MAX_INCOMING: u16 = u16::MAX;

/// Everything that one connect needs.
pub(crate) struct Target<'a> {
    host: &'a str,
    port: u16,
    tls: Option<Arc<rustls::ClientConfig>>,
    table: &'static Table,
    login: Login,
    keep_alive_s: u16,
    timeout: Duration,
    /// Publishes without an answer. The client makes room for so many at every connect.
    pub(crate) in_flight: u16,
    /// Token in the authentication data by this method, else as password.
    pub(crate) method: Option<&'static str>,
    /// What the broker says in the client's place.
    pub(crate) will: Option<Will>,
    /// Where what comes down goes; a connection without one hears nothing.
    pub(crate) inbox: Option<Inbox>,
}

impl<'a> Target<'a> {
    /// The broker of these options, for this device, or the gateway itself, under its token as password.
    ///
    /// # Errors
    /// Where the profile cannot make a login of the token.
    pub(crate) fn new(
        options: &'a RelayOptions,
        tls: Option<Arc<rustls::ClientConfig>>,
        principal: &str,
        token: &AccessToken,
    ) -> Result<Self, Failure> {
        let profile = &options.profile;
        let login = profile.login(&options.host, &options.gateway, principal, token.bearer());
        Ok(Self {
            host: &options.host,
            port: options.port,
            tls,
            table: profile.table,
            login: login.map_err(Failure::Lost)?,
            in_flight: profile.in_flight(options.in_flight),
            keep_alive_s: profile.keep_alive(options.keep_alive.as_secs()),
            timeout: options.connect_timeout,
            method: None,
            will: None,
            inbox: None,
        })
    }
}

/// Why a connection could not be had, or ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// The broker knows no enhanced authentication: the token goes as password.
    #[error("the broker takes no enhanced authentication (0x8C)")]
    NoEnhancedAuth,
    /// The token, or what it asks for, was refused.
    #[error("the broker refused the token: {0}")]
    Refused(String),
    /// Certificates do not fit; time alone will not mend it.
    #[error("TLS with the broker failed: {0}; check [broker] ca, client_cert and the broker's certificate")]
    Tls(String),
    /// The broker wants to be left alone for a while.
    #[error("the broker is busy: {0}")]
    Busy(String),
    /// A message in flight is one that it will never take.
    #[error("the broker ended the connection over a message: {0}")]
    Rejected(String),
    /// A message came that is larger than any that is taken.
    #[error(
        "the broker sent a message of {0} bytes, which is no command; what it keeps for this gateway is thrown away"
    )]
    TooLarge(usize),
    /// Somebody else connected under the same client id.
    #[error("another client took the connection over: is a second gateway running with this id?")]
    TakenOver,
    /// Network, time-out, or a broker that speaks another version.
    #[error("{0}")]
    Lost(String),
}

/// A live connection. It moves only while somebody waits for its [`answers`](Connection::answers).
pub(crate) struct Connection {
    client: Client,
    pump: Pump,
    flight: Flight,
    seen: Arc<Mutex<Vec<Seen>>>,
    ear: Option<Ear>,
    /// Largest packet the broker takes.
    pub(crate) max_packet: usize,
    /// The method by which the token went in the authentication data, so that it can be replaced there.
    method: Option<&'static str>,
}

/// The client of the version that the broker speaks.
#[derive(Clone)]
enum Client {
    V5(rumqttc::AsyncClient),
    V311(rumqttc_v4::AsyncClient),
}

/// What became of publishes, as the client tells it.
enum Seen {
    /// The next one was sent under this packet id.
    Sent(u16),
    /// The one with this packet id was answered.
    Answered(u16, PubAckReason),
}

/// What a client's loop tells while it runs.
struct Events {
    /// Told once, with the broker's limit of a packet, when it accepted the connection.
    up: Option<oneshot::Sender<usize>>,
    seen: Arc<Mutex<Vec<Seen>>>,
    ear: Option<Ear>,
}

impl Events {
    fn accepted(&mut self, max_packet: usize) {
        if let Some(up) = self.up.take() {
            let _ = up.send(max_packet);
        }
    }

    fn saw(&self, what: Seen) {
        lock(&self.seen).push(what);
    }

    fn came(&self, topic: &[u8], payload: Bytes, acknowledgement: Acknowledgement) {
        if let Some(ear) = &self.ear {
            ear.hears(topic, payload, acknowledgement);
        }
    }
}

impl Connection {
    /// Connects and waits for the broker's answer.
    pub(crate) async fn open(target: Target<'_>) -> Result<Self, Failure> {
        let method = target.method;
        let most = target.table.max_packet;
        // What the spool hands out, and presence, and acknowledgements: the channel is never full.
        let capacity =
            usize::from(target.in_flight) * 2 + 16 + target.inbox.as_ref().map_or(0, |_| inbox::PLACES as usize);
        let (up_tx, up) = oneshot::channel();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let ear = target.inbox.as_ref().map(Ear::of);
        let events = Events { up: Some(up_tx), seen: Arc::clone(&seen), ear: ear.clone() };
        let (client, mut pump) = match target.table.version {
            Version::V5 => {
                let (client, running) = v5::start(target, capacity, events)?;
                (Client::V5(client), Pump::new(running))
            }
            Version::V311 => {
                let (client, running) = v311::start(target, capacity, events)?;
                (Client::V311(client), Pump::new(running))
            }
        };
        tokio::select! {
            failure = poll_fn(|context| pump.poll(context)) => Err(failure),
            Ok(limit) = up => {
                let flight = Flight::default();
                Ok(Self { client, pump, flight, seen, ear, max_packet: limit.min(most), method })
            }
        }
    }

    /// Queues a publish at QoS 1: of the spool's entry with this ticket, or a message of the relay's own.
    pub(crate) fn publish(&mut self, ticket: Option<Ticket>, message: Message, retain: bool) -> Result<(), Failure> {
        let client = &self.client;
        self.pump.quietly(|| match client {
            Client::V5(client) => v5::publish(client, message, retain),
            Client::V311(client) => v311::publish(client, message, retain),
        })?;
        self.flight.queued.push_back((ticket, Instant::now()));
        Ok(())
    }

    /// Drives the connection until publishes were answered, and appends the answers; or until its end. Cancel safe.
    pub(crate) async fn answers(&mut self, out: &mut Vec<Answer>) -> Result<(), Failure> {
        poll_fn(|context| {
            let end = self.pump.poll(context);
            self.flight.take_in(&mut lock(&self.seen), out, Instant::now());
            // With answers in hand the end can wait: it is told again.
            if out.is_empty() { end.map(Err) } else { Poll::Ready(Ok(())) }
        })
        .await
    }

    /// Whether every publish was answered.
    pub(crate) fn is_idle(&self) -> bool {
        self.flight.oldest().is_none()
    }

    /// Since when an answer is waited for.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.flight.oldest()
    }

    /// The spool's entries that were not answered when the connection ended; none while it has not.
    pub(crate) fn lost(&self) -> Vec<Ticket> {
        if self.pump.is_running() {
            return Vec::new();
        }
        let sent = self.flight.sent.iter().map(|(_, publish)| publish);
        sent.chain(&self.flight.queued).filter_map(|(ticket, _)| *ticket).collect()
    }

    /// Replaces the token on the live connection; `None` where that cannot be done.
    pub(crate) fn reauthentication(
        &self,
        bearer: String,
    ) -> Option<impl Future<Output = Result<(), String>> + Send + use<>> {
        match (&self.client, self.method) {
            (Client::V5(client), Some(method)) => Some(v5::reauthenticate(client.clone(), method, Bytes::from(bearer))),
            _ => None,
        }
    }

    /// Subscribes at QoS 1; `false` where the broker refuses. It goes on only while the connection is driven. What this
    /// client publishes itself does not come back with `only_others`, which MQTT 3.1.1 does not know.
    pub(crate) fn subscription(
        &self,
        filter: String,
        only_others: bool,
    ) -> impl Future<Output = Result<bool, String>> + Send + use<> {
        let client = self.client.clone();
        async move {
            match client {
                Client::V5(client) => v5::subscribe(client, filter, only_others).await,
                Client::V311(client) => v311::subscribe(client, filter).await,
            }
        }
    }

    /// Ready when the broker has to send something again, and a new connection would bring it.
    pub(crate) fn missed(&self) -> Option<impl Future<Output = ()> + Send + use<>> {
        self.ear.clone().map(Ear::missed)
    }

    /// Ready when all that was taken of what came down is done.
    pub(crate) fn settled(&self) -> Option<impl Future<Output = ()> + Send + use<>> {
        self.ear.clone().map(Ear::settled)
    }

    /// Says goodbye, so that the will stays unsaid, and waits a moment for the end.
    pub(crate) async fn close(mut self, patience: Duration) {
        let goodbye = async {
            match &self.client {
                Client::V5(client) => drop(client.disconnect_with_timeout(patience).await),
                Client::V311(client) => drop(client.disconnect_with_timeout(patience).await),
            }
        };
        let end = poll_fn(|context| self.pump.poll(context));
        let _ = tokio::time::timeout(patience, async { tokio::join!(goodbye, end) }).await;
    }
}

fn lock(seen: &Mutex<Vec<Seen>>) -> MutexGuard<'_, Vec<Seen>> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A failed handshake comes as an I/O error that carries what TLS said.
fn tls_or_network(error: &std::io::Error, silence: &str) -> Failure {
    use std::io::ErrorKind as Kind;
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(tls) => Failure::Tls(tls.to_string()),
        None if matches!(error.kind(), Kind::UnexpectedEof | Kind::ConnectionReset | Kind::ConnectionAborted) => {
            Failure::Lost(format!("{silence} ({error})"))
        }
        None => Failure::Lost(error.to_string()),
    }
}

/// The answer to one publish.
pub(crate) struct Answer {
    /// The spool's entry; `None` for a message of the relay's own.
    pub(crate) ticket: Option<Ticket>,
    /// When it was queued.
    pub(crate) sent: Instant,
    /// What the broker says.
    pub(crate) reason: PubAckReason,
}

/// A publish on its way: the spool's entry, if it is one's, and when it was queued.
type Publish = (Option<Ticket>, Instant);

/// Publishes on their way. The client sends them in the order in which it was given them, and says which packet id
/// each got; by that an answer finds its publish.
#[derive(Default)]
struct Flight {
    queued: VecDeque<Publish>,
    sent: VecDeque<(u16, Publish)>,
    /// When one was answered in its turn: those behind it were not waited for before.
    answered: Option<Instant>,
}

impl Flight {
    /// Since when the oldest is waited for: since it was queued, or the one before it was answered. A slow line, or a broker
    /// that takes few at once, is no dead one.
    fn oldest(&self) -> Option<Instant> {
        let oldest = self.sent.front().map(|(_, publish)| publish).or_else(|| self.queued.front());
        oldest.map(|(_, queued)| self.answered.map_or(*queued, |answered| answered.max(*queued)))
    }

    fn take_in(&mut self, seen: &mut Vec<Seen>, out: &mut Vec<Answer>, now: Instant) {
        for seen in seen.drain(..) {
            match seen {
                Seen::Sent(id) => self.sent.extend(self.queued.pop_front().map(|publish| (id, publish))),
                Seen::Answered(id, reason) => {
                    // A broker answers in order (MQTT 5, 4.6): nearly always the first.
                    let at = self.sent.iter().position(|(sent, _)| *sent == id);
                    if at == Some(0) {
                        self.answered = Some(now);
                    }
                    if let Some((_, (ticket, sent))) = at.and_then(|at| self.sent.remove(at)) {
                        out.push(Answer { ticket, sent, reason });
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tickets(answers: &[Answer]) -> Vec<Option<Ticket>> {
        answers.iter().map(|answer| answer.ticket).collect()
    }

    #[test]
    fn an_answer_settles_the_publish_that_got_its_packet_id() {
        let ticket = |pos| Some(Ticket::of(pos));
        let mut flight = Flight::default();
        flight.queued.extend([ticket(0), None, ticket(1), ticket(2)].map(|ticket| (ticket, Instant::now())));
        let mut answers = Vec::new();
        let ok = PubAckReason::Success;
        let mut seen = vec![Seen::Sent(7), Seen::Sent(8), Seen::Sent(1), Seen::Answered(1, ok), Seen::Answered(7, ok)];
        flight.take_in(&mut seen, &mut answers, Instant::now());
        assert_eq!(tickets(&answers), [ticket(1), ticket(0)]);
        answers.clear();
        // Nobody was told of 9, and 7 is through: neither settles anything.
        let mut seen = vec![Seen::Answered(9, ok), Seen::Answered(7, ok), Seen::Sent(7), Seen::Answered(7, ok)];
        flight.take_in(&mut seen, &mut answers, Instant::now());
        assert_eq!(tickets(&answers), [ticket(2)]);
        assert!(flight.oldest().is_some(), "the relay's own message is not answered yet");
        flight.take_in(&mut vec![Seen::Answered(8, ok)], &mut answers, Instant::now());
        assert!(flight.oldest().is_none());
    }

    #[test]
    fn a_broker_that_answers_one_after_the_other_is_not_called_dead_for_those_behind() {
        let long_ago = Instant::now();
        let now = long_ago + Duration::from_secs(60);
        let mut flight = Flight::default();
        flight.queued.extend((0..4).map(|pos| (Some(Ticket::of(pos)), long_ago)));
        let mut answered = |seen: Vec<Seen>| {
            flight.take_in(&mut { seen }, &mut Vec::new(), now);
            flight.oldest()
        };
        let ok = PubAckReason::Success;
        assert_eq!(answered(vec![Seen::Sent(1), Seen::Sent(2), Seen::Sent(3)]), Some(long_ago));
        assert_eq!(answered(vec![Seen::Answered(2, ok)]), Some(long_ago), "the first still waits for its own answer");
        assert_eq!(answered(vec![Seen::Answered(1, ok)]), Some(now), "nobody waited for the third before");
        assert_eq!(answered(vec![Seen::Answered(3, ok)]), Some(now), "nor for one that could not be sent yet");
        assert_eq!(answered(vec![Seen::Sent(4), Seen::Answered(4, ok)]), None);
    }
}
