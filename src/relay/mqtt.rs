//! The thin edge to the MQTT client: one connection from CONNECT to its end, never a second one by itself.
//!
//! The client library would reconnect, resend and forget on its own terms. Here every connection is a new
//! client that is dropped with it; what was not confirmed is the spool's to send again.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use rumqttc::{
    AsyncClient, AuthProperties, Broker, ConnectAuth, ConnectReturnCode, ConnectionError, DisconnectReasonCode, Event,
    EventLoop, Incoming, LastWill, MqttOptions, NetworkOptions, Outgoing, PubAckReason, PublishOptions, QoS,
    StateError, TlsConfiguration, Transport,
};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::message::Message;
use crate::spool::Ticket;

/// The authentication method of a token in the authentication data.
const METHOD: &str = "OAUTH2-JWT";

/// Everything that one connect needs.
pub(super) struct Target<'a> {
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) tls: Option<Arc<rustls::ClientConfig>>,
    pub(super) client_id: String,
    pub(super) device: &'a str,
    pub(super) bearer: &'a str,
    /// Token in the authentication data, else as password.
    pub(super) enhanced: bool,
    pub(super) will: Option<LastWill>,
    pub(super) in_flight: u16,
    pub(super) keep_alive: Duration,
    pub(super) timeout: Duration,
}

/// Why a connection could not be had, or ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
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
    /// Somebody else connected under the same client id.
    #[error("another client took the connection over: is a second gateway running with this id?")]
    TakenOver,
    /// Network, time-out, or a broker that does not speak MQTT v5.
    #[error("{0}")]
    Lost(String),
}

/// A live connection. It moves only while somebody waits for its [`answers`](Connection::answers).
pub(super) struct Connection {
    client: AsyncClient,
    pump: Pump,
    flight: Flight,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// Largest packet the broker takes.
    pub(super) max_packet: usize,
    /// Whether the token went in the authentication data, so that it can be replaced there.
    pub(super) enhanced: bool,
}

/// What became of publishes, as the client tells it.
enum Seen {
    /// The next one was sent under this packet id.
    Sent(u16),
    /// The one with this packet id was answered.
    Answered(u16, PubAckReason),
}

impl Connection {
    /// Connects and waits for the broker's answer.
    pub(super) async fn open(target: Target<'_>) -> Result<Self, Failure> {
        let enhanced = target.enhanced;
        // What the spool hands out, and presence: the channel is never full.
        let capacity = usize::from(target.in_flight) * 2 + 16;
        let (client, events) = AsyncClient::builder(options(target))
            .capacity(capacity)
            .try_build()
            .map_err(|error| Failure::Lost(error.to_string()))?;
        let (up_tx, up) = oneshot::channel();
        let seen = Arc::default();
        let mut pump = Pump::new(run(events, up_tx, enhanced, Arc::clone(&seen)));
        tokio::select! {
            failure = poll_fn(|context| pump.poll(context)) => Err(failure),
            Ok(max_packet) = up => {
                let flight = Flight::default();
                Ok(Self { client, pump, flight, seen, max_packet, enhanced })
            }
        }
    }

    /// Queues a publish at QoS 1: of the spool's entry with this ticket, or a message of the relay's own.
    pub(super) fn publish(&mut self, ticket: Option<Ticket>, message: Message, retain: bool) -> Result<(), Failure> {
        let options = PublishOptions::new(QoS::AtLeastOnce).retain(retain).properties(message.properties);
        self.client
            .try_publish(message.topic, message.payload, options)
            .map_err(|error| Failure::Lost(error.to_string()))?;
        self.flight.queued.push_back((ticket, Instant::now()));
        Ok(())
    }

    /// Drives the connection until publishes were answered, and appends the answers; or until its end. Cancel safe.
    pub(super) async fn answers(&mut self, out: &mut Vec<Answer>) -> Result<(), Failure> {
        poll_fn(|context| {
            let end = self.pump.poll(context);
            self.flight.take_in(&mut lock(&self.seen), out);
            // With answers in hand the end can wait: it is told again.
            if out.is_empty() { end.map(Err) } else { Poll::Ready(Ok(())) }
        })
        .await
    }

    /// Whether every publish was answered.
    pub(super) fn is_idle(&self) -> bool {
        self.flight.oldest().is_none()
    }

    /// When the oldest publish that is not answered was queued.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.flight.oldest()
    }

    /// The spool's entries that were not answered when the connection ended; none while it has not.
    pub(super) fn lost(&self) -> Vec<Ticket> {
        if matches!(self.pump, Pump::Running(_)) {
            return Vec::new();
        }
        let sent = self.flight.sent.iter().map(|(_, publish)| publish);
        sent.chain(&self.flight.queued).filter_map(|(ticket, _)| *ticket).collect()
    }

    /// Replaces the token on the live connection.
    pub(super) async fn reauthenticate(client: AsyncClient, bearer: String) -> Result<(), String> {
        let properties = AuthProperties {
            method: Some(METHOD.to_owned()),
            data: Some(Bytes::from(bearer)),
            ..AuthProperties::default()
        };
        let notice = client.reauth_tracked(Some(properties)).await.map_err(|error| error.to_string())?;
        notice.wait_async().await.map(|_| ()).map_err(|error| error.to_string())
    }

    /// A handle for [`reauthenticate`](Self::reauthenticate).
    pub(super) fn client(&self) -> AsyncClient {
        self.client.clone()
    }

    /// Says goodbye, so that the will stays unsaid, and waits a moment for the end.
    pub(super) async fn close(mut self, patience: Duration) {
        let goodbye = self.client.disconnect_with_timeout(patience);
        let end = poll_fn(|context| self.pump.poll(context));
        let _ = tokio::time::timeout(patience, async { tokio::join!(goodbye, end) }).await;
    }
}

/// What drives the connection. It is kept between polls, because what drops it half-way loses what it was doing; and
/// it is polled by the task that publishes: one of its own would be woken for every few messages, and wake back.
enum Pump {
    Running(Pin<Box<dyn Future<Output = Failure> + Send>>),
    Ended(Failure),
}

impl Pump {
    fn new(running: impl Future<Output = Failure> + Send + 'static) -> Self {
        Self::Running(Box::pin(running))
    }

    /// Ready from the connection's end on.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Failure> {
        if let Self::Running(running) = self {
            // A panic of the library's ends this connection and not its device.
            let failure = match catch_unwind(AssertUnwindSafe(|| running.as_mut().poll(context))) {
                Ok(Poll::Pending) => return Poll::Pending,
                Ok(Poll::Ready(failure)) => failure,
                Err(_) => Failure::Lost("the connection's client ended".to_owned()),
            };
            *self = Self::Ended(failure);
        }
        match self {
            Self::Ended(failure) => Poll::Ready(failure.clone()),
            Self::Running(_) => Poll::Pending,
        }
    }
}

/// Runs the client until the connection ends.
async fn run(
    mut events: EventLoop,
    up: oneshot::Sender<usize>,
    enhanced: bool,
    seen: Arc<Mutex<Vec<Seen>>>,
) -> Failure {
    let mut up = Some(up);
    loop {
        match events.poll().await {
            Ok(Event::Outgoing(Outgoing::Publish(id))) => lock(&seen).push(Seen::Sent(id)),
            Ok(Event::Incoming(Incoming::PubAck(answer))) => {
                lock(&seen).push(Seen::Answered(answer.pkid, answer.reason));
            }
            Ok(Event::Incoming(Incoming::ConnAck(answer))) => {
                let limit = answer.properties.and_then(|properties| properties.max_packet_size);
                let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
                if let Some(up) = up.take() {
                    let _ = up.send(limit);
                }
            }
            Ok(_) => {}
            Err(error) => return classify(&error, enhanced && up.is_some()),
        }
    }
}

fn lock(seen: &Mutex<Vec<Seen>>) -> MutexGuard<'_, Vec<Seen>> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn options(target: Target<'_>) -> MqttOptions {
    let mut options = MqttOptions::new(target.client_id, Broker::tcp(target.host, target.port));
    if let Some(config) = target.tls {
        options.set_transport(Transport::Tls(TlsConfiguration::Rustls(config)));
    }
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    options.set_clean_start(true);
    options.set_connect_timeout(target.timeout);
    options.set_keep_alive(u16::try_from(target.keep_alive.as_secs()).unwrap_or(u16::MAX).max(1));
    options.set_outgoing_inflight_upper_limit(target.in_flight);
    options.set_max_request_batch(usize::from(target.in_flight));
    if let Some(will) = target.will {
        options.set_last_will(will);
    }
    if target.enhanced {
        options.set_authentication_method(Some(METHOD.to_owned()));
        options.set_authentication_data(Some(Bytes::copy_from_slice(target.bearer.as_bytes())));
    } else {
        options.set_auth(ConnectAuth::UsernamePassword {
            username: target.device.to_owned(),
            password: Bytes::copy_from_slice(target.bearer.as_bytes()),
        });
    }
    options
}

/// What an error means for the next attempt. `method_offered` while an enhanced CONNECT is unanswered.
fn classify(error: &ConnectionError, method_offered: bool) -> Failure {
    use ConnectReturnCode as Code;
    match error {
        ConnectionError::ConnectionRefused(Code::BadAuthenticationMethod) if method_offered => Failure::NoEnhancedAuth,
        // Accepted without naming the method: the broker did not look at the token.
        ConnectionError::MqttState(StateError::Deserialization(rumqttc::Error::ProtocolError)) if method_offered => {
            Failure::NoEnhancedAuth
        }
        ConnectionError::ConnectionRefused(code) => match code {
            Code::NotAuthorized | Code::BadUserNamePassword | Code::Banned | Code::BadAuthenticationMethod => {
                Failure::Refused(format!("{code:?}"))
            }
            Code::ServerBusy | Code::QuotaExceeded | Code::ConnectionRateExceeded | Code::ServerUnavailable => {
                Failure::Busy(format!("{code:?}"))
            }
            _ => Failure::Lost(format!("the broker refused the connection: {code:?}")),
        },
        ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, reason_string }) => {
            ended_by_broker(*reason_code, reason_string.as_deref())
        }
        ConnectionError::MqttState(StateError::OutgoingPacketTooLarge { pkt_size, max }) => {
            Failure::Rejected(format!("0x95 packet too large: {pkt_size} bytes, the broker takes {max}"))
        }
        ConnectionError::Tls(rumqttc::TlsError::Io(error))
        | ConnectionError::Io(error)
        | ConnectionError::MqttState(StateError::Io(error) | StateError::Deserialization(rumqttc::Error::Io(error))) => {
            tls_or_network(error)
        }
        ConnectionError::Tls(error) => Failure::Tls(error.to_string()),
        ConnectionError::Timeout(_) => Failure::Lost("the broker did not answer in time".to_owned()),
        error => Failure::Lost(error.to_string()),
    }
}

/// A failed handshake comes as an I/O error that carries what TLS said.
fn tls_or_network(error: &std::io::Error) -> Failure {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(tls) => Failure::Tls(tls.to_string()),
        None => Failure::Lost(error.to_string()),
    }
}

fn ended_by_broker(code: DisconnectReasonCode, said: Option<&str>) -> Failure {
    use DisconnectReasonCode as Code;
    let text = said.map_or_else(|| format!("{code:?}"), |said| format!("{code:?}: {said}"));
    match code {
        Code::NotAuthorized | Code::MaximumConnectTime => Failure::Refused(text),
        Code::TopicNameInvalid | Code::PacketTooLarge | Code::PayloadFormatInvalid => Failure::Rejected(text),
        Code::ServerBusy | Code::QuotaExceeded | Code::MessageRateTooHigh | Code::ConnectionRateExceeded => {
            Failure::Busy(text)
        }
        Code::SessionTakenOver => Failure::TakenOver,
        _ => Failure::Lost(format!("the broker ended the connection: {text}")),
    }
}

/// The answer to one publish.
pub(super) struct Answer {
    /// The spool's entry; `None` for a message of the relay's own.
    pub(super) ticket: Option<Ticket>,
    /// When it was queued.
    pub(super) sent: Instant,
    /// What the broker says.
    pub(super) reason: PubAckReason,
}

/// A publish on its way: the spool's entry, if it is one's, and when it was queued.
type Publish = (Option<Ticket>, Instant);

/// Publishes on their way. The client sends them in the order in which it was given them, and says which packet id
/// each got; by that an answer finds its publish.
#[derive(Default)]
struct Flight {
    queued: VecDeque<Publish>,
    sent: VecDeque<(u16, Publish)>,
}

impl Flight {
    /// When the oldest was queued.
    fn oldest(&self) -> Option<Instant> {
        self.sent.front().map(|(_, publish)| publish).or_else(|| self.queued.front()).map(|(_, since)| *since)
    }

    fn take_in(&mut self, seen: &mut Vec<Seen>, out: &mut Vec<Answer>) {
        for seen in seen.drain(..) {
            match seen {
                Seen::Sent(id) => self.sent.extend(self.queued.pop_front().map(|publish| (id, publish))),
                Seen::Answered(id, reason) => {
                    // A broker answers in order (MQTT 5, 4.6): nearly always the first.
                    let at = self.sent.iter().position(|(sent, _)| *sent == id);
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
        flight.take_in(&mut seen, &mut answers);
        assert_eq!(tickets(&answers), [ticket(1), ticket(0)]);
        answers.clear();
        // Nobody was told of 9, and 7 is through: neither settles anything.
        let mut seen = vec![Seen::Answered(9, ok), Seen::Answered(7, ok), Seen::Sent(7), Seen::Answered(7, ok)];
        flight.take_in(&mut seen, &mut answers);
        assert_eq!(tickets(&answers), [ticket(2)]);
        assert!(flight.oldest().is_some(), "the relay's own message is not answered yet");
        flight.take_in(&mut vec![Seen::Answered(8, ok)], &mut answers);
        assert!(flight.oldest().is_none());
    }
}
