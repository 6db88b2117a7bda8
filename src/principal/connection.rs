//! One MQTT v5 connection of the gateway itself, from CONNECT to its end.

use std::sync::Arc;

use bytes::Bytes;
use rumqttc::{
    AsyncClient, AuthProperties, Broker, ConnectAuth, Event, EventLoop, Incoming, LastWill, LastWillProperties,
    MqttOptions, NetworkOptions, PubAckReason, PublishOptions, PublishProperties, PublishResult, QoS, TlsConfiguration,
    Transport,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::outbox::Item;
use crate::ids::GATEWAY_PRINCIPAL;
use crate::relay::{Failure, RelayOptions, classify};
use crate::token::AccessToken;

/// Largest packet that is taken. A command has 16 KiB at most; one that is larger than that is refused in words.
const MAX_PACKET: u32 = 64 * 1024;
/// Commands that the broker may send before the first is acknowledged.
const RECEIVE_MAXIMUM: u16 = 16;
/// Requests to the client library that wait: one publish, one subscription, one re-authentication.
const REQUESTS: usize = 8;
/// Publishes that may be in flight: one, and the last word. Unsaid it is 65535, and the client makes room for so many
/// at every connect: 14 MB.
const IN_FLIGHT: u16 = 8;
const JSON: &str = "application/json";

/// What came down.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    /// The topic it was published to.
    pub(crate) topic: String,
    /// What it says.
    pub(crate) payload: Bytes,
}

/// Everything that one connect needs.
pub(super) struct Target<'a> {
    pub(super) options: &'a RelayOptions,
    pub(super) tls: Option<Arc<rustls::ClientConfig>>,
    pub(super) token: &'a AccessToken,
    /// Token in the authentication data, where the broker has a method for it; else as password.
    pub(super) enhanced: bool,
    /// Topic and payload of the last will.
    pub(super) will: (String, Bytes),
    /// Takes what comes down; what finds no room is dropped.
    pub(super) inbox: mpsc::Sender<Received>,
}

/// A live connection; it moves by itself.
pub(super) struct Connection {
    client: AsyncClient,
    ended: watch::Receiver<Option<Failure>>,
    pump: JoinHandle<()>,
    /// Method by which the token can be replaced here.
    pub(super) method: Option<&'static str>,
    retains: bool,
}

impl Connection {
    /// Connects and waits for the broker's answer.
    pub(super) async fn open(target: Target<'_>) -> Result<Self, Failure> {
        let profile = &target.options.profile;
        let method = profile.method().filter(|_| target.enhanced);
        let (retains, silence, inbox) = (profile.retains(), profile.silence(), target.inbox.clone());
        let (client, events) = AsyncClient::builder(mqtt_options(target, method)?)
            .capacity(REQUESTS)
            .try_build()
            .map_err(|error| Failure::Lost(error.to_string()))?;
        let (up_tx, up) = oneshot::channel();
        let (ended_tx, mut ended) = watch::channel(None);
        // A task of its own: what drops the poll half-way loses what it was doing.
        let pump = tokio::spawn(async move {
            let failure = run(events, up_tx, method.is_some(), silence, inbox).await;
            ended_tx.send_replace(Some(failure));
        });
        let abort = pump.abort_handle();
        let opened = tokio::select! {
            Ok(()) = up => Ok(()),
            failure = end(&mut ended) => Err(failure),
        };
        match opened {
            Ok(()) => Ok(Self { client, ended, pump, method, retains }),
            Err(failure) => {
                abort.abort();
                Err(failure)
            }
        }
    }

    /// The end of the connection, and why. Cancel safe.
    pub(super) async fn ended(&mut self) -> Failure {
        end(&mut self.ended).await
    }

    /// A handle that outlives a borrow of the connection.
    pub(super) fn client(&self) -> AsyncClient {
        self.client.clone()
    }

    /// Publishes at QoS 1 and waits for the answer.
    pub(super) fn publish(
        &self,
        topic: String,
        item: Item,
    ) -> impl Future<Output = Result<PubAckReason, Failure>> + Send + use<> {
        Self::publish_by(self.client.clone(), topic, self.retains && item.is_retained(), item)
    }

    async fn publish_by(client: AsyncClient, topic: String, retain: bool, item: Item) -> Result<PubAckReason, Failure> {
        let properties = PublishProperties { content_type: Some(JSON.to_owned()), ..PublishProperties::default() };
        let options = PublishOptions::new(QoS::AtLeastOnce).retain(retain).properties(properties);
        let lost = |error: &dyn std::fmt::Display| Failure::Lost(error.to_string());
        let notice =
            client.publish_tracked(topic, item.payload().clone(), options).await.map_err(|error| lost(&error))?;
        match notice.wait_async().await {
            Ok(PublishResult::Qos1(answer)) => Ok(answer.reason),
            Ok(_) => Ok(PubAckReason::Success),
            Err(error) => Err(lost(&error)),
        }
    }

    /// Subscribes at QoS 1 and waits for the answer: `false` where the broker refuses.
    pub(super) async fn subscribe(client: AsyncClient, filter: String) -> Result<bool, Failure> {
        let lost = |error: &dyn std::fmt::Display| Failure::Lost(error.to_string());
        let notice = client.subscribe_tracked(filter, QoS::AtLeastOnce).await.map_err(|error| lost(&error))?;
        let answer = notice.wait_async().await.map_err(|error| lost(&error))?;
        let taken = |code: &rumqttc::SubscribeReasonCode| matches!(code, rumqttc::SubscribeReasonCode::Success(_));
        Ok(answer.return_codes.iter().all(taken))
    }

    /// Replaces the token on the live connection.
    pub(super) async fn reauthenticate(
        client: AsyncClient,
        method: &'static str,
        bearer: String,
    ) -> Result<(), String> {
        let properties = AuthProperties {
            method: Some(method.to_owned()),
            data: Some(Bytes::from(bearer)),
            ..AuthProperties::default()
        };
        let notice = client.reauth_tracked(Some(properties)).await.map_err(|error| error.to_string())?;
        notice.wait_async().await.map(drop).map_err(|error| error.to_string())
    }

    /// Says goodbye, so that the will stays unsaid, and waits a moment for the end.
    pub(super) async fn close(mut self, patience: std::time::Duration) {
        let goodbye = self.client.disconnect_with_timeout(patience);
        let _ = tokio::time::timeout(patience, async { tokio::join!(goodbye, end(&mut self.ended)) }).await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

async fn end(ended: &mut watch::Receiver<Option<Failure>>) -> Failure {
    match ended.wait_for(Option::is_some).await {
        Ok(failure) => failure.clone().unwrap_or_else(client_ended),
        // The pump panicked: this connection ends and not its gateway.
        Err(_) => client_ended(),
    }
}

fn client_ended() -> Failure {
    Failure::Lost("the connection's client ended".to_owned())
}

async fn run(
    mut events: EventLoop,
    up: oneshot::Sender<()>,
    enhanced: bool,
    silence: &str,
    inbox: mpsc::Sender<Received>,
) -> Failure {
    let mut up = Some(up);
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Incoming::ConnAck(_))) => {
                if let Some(up) = up.take() {
                    let _ = up.send(());
                }
            }
            Ok(Event::Incoming(Incoming::Publish(publish))) => {
                let topic = String::from_utf8_lossy(&publish.topic).into_owned();
                // Never waited for: the keep-alive goes on. Whoever sent it gets no reply and sends it again.
                if inbox.try_send(Received { topic, payload: publish.payload }).is_err() {
                    tracing::warn!("too many commands wait; one was dropped");
                }
            }
            Ok(_) => {}
            Err(error) => return classify(&error, enhanced && up.is_some(), silence),
        }
    }
}

fn mqtt_options(target: Target<'_>, method: Option<&'static str>) -> Result<MqttOptions, Failure> {
    let Target { options: relay, tls, token, will: (topic, payload), .. } = target;
    let login = relay.profile.login(&relay.host, &relay.gateway, GATEWAY_PRINCIPAL, token.bearer());
    let login = login.map_err(Failure::Lost)?;
    let mut options = MqttOptions::new(login.client_id, Broker::tcp(&relay.host, relay.port));
    if let Some(config) = tls {
        options.set_transport(Transport::Tls(TlsConfiguration::Rustls(config)));
    }
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    options.set_connect_timeout(relay.connect_timeout);
    options.set_keep_alive(relay.profile.keep_alive(relay.keep_alive.as_secs()));
    // Nothing waits at the broker for a gateway that is away: whoever sends a command learns that nobody heard it, and
    // sends it again under the same id.
    options.set_clean_start(true);
    options.set_outgoing_inflight_upper_limit(IN_FLIGHT);
    options.set_receive_maximum(Some(RECEIVE_MAXIMUM));
    options.set_max_packet_size(Some(MAX_PACKET));
    let properties = LastWillProperties {
        delay_interval: None,
        payload_format_indicator: None,
        message_expiry_interval: None,
        content_type: Some(JSON.to_owned()),
        response_topic: None,
        correlation_data: None,
        user_properties: Vec::new(),
    };
    options.set_last_will(LastWill::new(topic, payload, QoS::AtLeastOnce, relay.profile.retains(), Some(properties)));
    if let Some(method) = method {
        options.set_authentication_method(Some(method.to_owned()));
        options.set_authentication_data(Some(Bytes::from(login.password)));
    } else {
        options.set_auth(ConnectAuth::UsernamePassword {
            username: login.username,
            password: Bytes::from(login.password),
        });
    }
    Ok(options)
}
