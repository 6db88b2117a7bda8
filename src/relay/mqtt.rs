//! The thin edge to the MQTT client: one connection from CONNECT to its end, never a second one by itself.
//!
//! The client library would reconnect, resend and forget on its own terms. Here every connection is a new
//! client that is dropped with it; what was not confirmed is the spool's to send again.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use rumqttc::{
    AsyncClient, AuthProperties, Broker, ConnectAuth, ConnectReturnCode, ConnectionError, DisconnectReasonCode, Event,
    EventLoop, Incoming, LastWill, MqttOptions, NetworkOptions, PublishNotice, PublishNoticeError, PublishOptions,
    PublishResult, QoS, StateError, TlsConfiguration, Transport,
};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::ReusableBoxFuture;

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

/// A live connection.
pub(super) struct Connection {
    client: AsyncClient,
    pump: JoinHandle<Failure>,
    /// Largest packet the broker takes.
    pub(super) max_packet: usize,
    /// Whether the token went in the authentication data, so that it can be replaced there.
    pub(super) enhanced: bool,
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
        let mut pump = tokio::spawn(pump(events, up_tx, enhanced));
        tokio::select! {
            biased;
            Ok(max_packet) = up => Ok(Self { client, pump, max_packet, enhanced }),
            failure = &mut pump => Err(failure.unwrap_or_else(|_| ended())),
        }
    }

    /// Queues a publish at QoS 1.
    pub(super) fn publish(&self, message: Message, retain: bool) -> Result<PublishNotice, Failure> {
        let options = PublishOptions::new(QoS::AtLeastOnce).retain(retain).properties(message.properties);
        self.client
            .try_publish_tracked(message.topic, message.payload, options)
            .map_err(|error| Failure::Lost(error.to_string()))
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

    /// Waits for the connection's end.
    pub(super) async fn ended(&mut self) -> Failure {
        (&mut self.pump).await.unwrap_or_else(|_| ended())
    }

    /// Says goodbye, so that the will stays unsaid, and waits a moment for the end.
    pub(super) async fn close(mut self, patience: Duration) {
        if self.client.disconnect_with_timeout(patience).await.is_ok() {
            let _ = tokio::time::timeout(patience, self.ended()).await;
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

/// Drives the connection until it ends; on a task of its own, because a dropped poll loses what it was doing.
async fn pump(mut events: EventLoop, up: oneshot::Sender<usize>, enhanced: bool) -> Failure {
    let mut up = Some(up);
    loop {
        match events.poll().await {
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

fn ended() -> Failure {
    Failure::Lost("the connection's task ended".to_owned())
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
    pub(super) sent: Instant,
    pub(super) result: Result<PublishResult, PublishNoticeError>,
}

type Waiting = ReusableBoxFuture<'static, Result<PublishResult, PublishNoticeError>>;

/// Publishes in flight, in order. A broker answers QoS 1 in the order it was asked (MQTT 5, 4.6), so only the
/// oldest is waited for, and the ones behind it are collected with it.
pub(super) struct Flight {
    queue: VecDeque<(Option<Ticket>, Instant, PublishNotice)>,
    head: Option<(Option<Ticket>, Instant)>,
    waiting: Waiting,
}

impl Flight {
    pub(super) fn new() -> Self {
        let waiting = ReusableBoxFuture::new(async { Err(PublishNoticeError::Recv) });
        Self { queue: VecDeque::new(), head: None, waiting }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.head.is_none() && self.queue.is_empty()
    }

    pub(super) fn push(&mut self, ticket: Option<Ticket>, sent: Instant, notice: PublishNotice) {
        self.queue.push_back((ticket, sent, notice));
    }

    /// When the oldest was sent.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.head.map(|(_, sent)| sent).or_else(|| self.queue.front().map(|(_, sent, _)| *sent))
    }

    /// Waits for answers and appends all that are there. Cancel safe; never ends while nothing is in flight.
    pub(super) async fn answers(&mut self, out: &mut Vec<Answer>) {
        poll_fn(|context| self.poll(context, out)).await;
    }

    /// The answers that are there, without waiting.
    pub(super) async fn leftovers(&mut self, out: &mut Vec<Answer>) {
        poll_fn(|context| {
            let _ = self.poll(context, out);
            Poll::Ready(())
        })
        .await;
    }

    fn poll(&mut self, context: &mut Context<'_>, out: &mut Vec<Answer>) -> Poll<()> {
        loop {
            if self.head.is_none() {
                let Some((ticket, sent, notice)) = self.queue.pop_front() else { break };
                self.waiting.set(notice.wait_async());
                self.head = Some((ticket, sent));
            }
            let Poll::Ready(result) = self.waiting.poll(context) else { break };
            if let Some((ticket, sent)) = self.head.take() {
                out.push(Answer { ticket, sent, result });
            }
        }
        if out.is_empty() { Poll::Pending } else { Poll::Ready(()) }
    }
}
