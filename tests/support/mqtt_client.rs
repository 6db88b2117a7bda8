//! An MQTT v5 client for tests: connects once, never again by itself, and tells everything that happened to it.
//! Included by path where a test needs it.
#![allow(dead_code, reason = "each test file uses its part of it")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rumqttc::mqttbytes::v5::AuthProperties;
use rumqttc::{
    AsyncClient, BrokerSessionResumePolicy, ConnectionError, Event, Incoming, MqttOptions, Publish, PublishOptions,
    PublishProperties, PublishResult, QoS, TlsConfiguration, Transport,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Everything in these tests happens sooner, also on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// How the token reaches the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// MQTT v5 enhanced authentication, method `OAUTH2-JWT`.
    EnhancedAuth,
    /// As the password.
    Password,
}

/// Where and as whom to connect.
#[derive(Clone)]
pub(crate) struct Connect<'a> {
    pub(crate) addr: SocketAddr,
    pub(crate) tls: Option<Arc<rustls::ClientConfig>>,
    pub(crate) client_id: &'a str,
    pub(crate) token: &'a str,
    pub(crate) by: By,
    /// Topic and payload, retained.
    pub(crate) will: Option<(&'a str, &'a str)>,
    /// Whether the broker shall keep the session, with what comes while the client is away.
    pub(crate) keeps_session: bool,
}

impl<'a> Connect<'a> {
    /// By enhanced authentication, without TLS, and with nothing kept.
    pub(crate) fn to(addr: SocketAddr, client_id: &'a str, token: &'a str) -> Self {
        Self { addr, tls: None, client_id, token, by: By::EnhancedAuth, will: None, keeps_session: false }
    }
}

/// A live connection.
pub(crate) struct MqttClient {
    client: AsyncClient,
    messages: mpsc::UnboundedReceiver<Publish>,
    polling: JoinHandle<String>,
}

impl MqttClient {
    /// Connects; what the broker said otherwise.
    pub(crate) async fn connect(how: Connect<'_>) -> Result<Self, String> {
        let host = if how.tls.is_some() { "localhost".to_owned() } else { how.addr.ip().to_string() };
        let mut options = MqttOptions::new(how.client_id, (host, how.addr.port()));
        options.set_keep_alive(30);
        options.set_connect_timeout(DEADLINE);
        match how.by {
            By::EnhancedAuth => {
                options.set_authentication_method(Some("OAUTH2-JWT".to_owned()));
                options.set_authentication_data(Some(how.token.to_owned().into()));
            }
            By::Password => {
                options.set_credentials(how.client_id, how.token.to_owned());
            }
        }
        if let Some(tls) = how.tls {
            options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls)));
        }
        if how.keeps_session {
            options.set_clean_start(false);
            options.set_session_expiry_interval(Some(3600));
            options.set_broker_session_resume_policy(BrokerSessionResumePolicy::AllowBrokerOnly);
        }
        if let Some((topic, payload)) = how.will {
            let will = rumqttc::mqttbytes::v5::LastWill::new(topic, payload.to_owned(), QoS::AtLeastOnce, true, None);
            options.set_last_will(will);
        }
        let (client, mut events) = AsyncClient::builder(options).capacity(64).build();
        loop {
            match tokio::time::timeout(DEADLINE, events.poll()).await.map_err(|_| "no answer".to_owned())? {
                Ok(Event::Incoming(Incoming::ConnAck(_))) => break,
                Ok(_) => {}
                Err(ConnectionError::ConnectionRefused(code)) => return Err(format!("{code:?}")),
                Err(other) => return Err(other.to_string()),
            }
        }
        let (sender, messages) = mpsc::unbounded_channel();
        let polling = tokio::spawn(async move {
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Incoming::Publish(publish))) => drop(sender.send(publish)),
                    Ok(Event::Incoming(Incoming::Disconnect(disconnect))) => {
                        return format!("{:?}", disconnect.reason_code);
                    }
                    Ok(_) => {}
                    Err(error) => return error.to_string(),
                }
            }
        });
        Ok(Self { client, messages, polling })
    }

    /// Publishes at QoS 1: the reason of the PUBACK, or why there was none.
    pub(crate) async fn publish(&self, topic: &str, payload: &str) -> String {
        self.publish_as(topic, payload, PublishOptions::new(QoS::AtLeastOnce)).await
    }

    /// The same with the CloudEvents attributes of a reading.
    pub(crate) async fn publish_named(&self, topic: &str, payload: &str, id: &str) -> String {
        let attribute = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let properties = PublishProperties {
            content_type: Some("application/senml+json".to_owned()),
            user_properties: vec![attribute("id", id), attribute("type", "claw.telemetry.v1")],
            ..PublishProperties::default()
        };
        self.publish_as(topic, payload, PublishOptions::new(QoS::AtLeastOnce).properties(properties)).await
    }

    /// The same with a retained message.
    pub(crate) async fn retain(&self, topic: &str, payload: &str) -> String {
        self.publish_as(topic, payload, PublishOptions::new(QoS::AtLeastOnce).retain(true)).await
    }

    async fn publish_as(&self, topic: &str, payload: &str, options: PublishOptions) -> String {
        let published = async {
            let notice = self.client.publish_tracked(topic, payload.to_owned(), options).await;
            notice.map_err(|error| error.to_string())?.wait_async().await.map_err(|error| format!("{error:?}"))
        };
        match tokio::time::timeout(DEADLINE, published).await {
            Ok(Ok(PublishResult::Qos1(ack))) => format!("{:?}", ack.reason),
            Ok(Ok(other)) => format!("{other:?}"),
            Ok(Err(error)) => error,
            Err(_) => "no answer".to_owned(),
        }
    }

    /// Subscribes at QoS 1: the reason of the SUBACK.
    pub(crate) async fn subscribe(&self, filter: &str) -> String {
        let subscribed = async {
            let notice = self.client.subscribe_tracked(filter, QoS::AtLeastOnce).await;
            notice.map_err(|error| error.to_string())?.wait_async().await.map_err(|error| format!("{error:?}"))
        };
        match tokio::time::timeout(DEADLINE, subscribed).await {
            Ok(Ok(ack)) => format!("{:?}", ack.return_codes[0]),
            Ok(Err(error)) => error,
            Err(_) => "no answer".to_owned(),
        }
    }

    /// Replaces the token of the live connection.
    pub(crate) async fn reauthenticate(&self, token: &str) -> Result<(), String> {
        let properties = AuthProperties {
            method: Some("OAUTH2-JWT".to_owned()),
            data: Some(token.to_owned().into()),
            reason: None,
            user_properties: Vec::new(),
        };
        let notice = self.client.reauth_tracked(Some(properties)).await.map_err(|error| error.to_string())?;
        let answered = tokio::time::timeout(DEADLINE, notice.wait_async()).await;
        answered.map_err(|_| "no answer".to_owned())?.map(drop).map_err(|error| error.to_string())
    }

    /// The next message.
    pub(crate) async fn next(&mut self) -> Publish {
        let next = tokio::time::timeout(DEADLINE, self.messages.recv()).await;
        next.expect("a message in time").expect("a live connection")
    }

    /// The next message, if one comes within this time.
    pub(crate) async fn try_next(&mut self, time: Duration) -> Option<Publish> {
        tokio::time::timeout(time, self.messages.recv()).await.ok().flatten()
    }

    /// Whether the connection lives.
    pub(crate) fn is_connected(&self) -> bool {
        !self.polling.is_finished()
    }

    /// Waits until the connection is gone; what it ended with.
    pub(crate) async fn ended(&mut self) -> String {
        tokio::time::timeout(DEADLINE, &mut self.polling).await.expect("an end in time").expect("no panic")
    }
}

impl Drop for MqttClient {
    fn drop(&mut self) {
        self.polling.abort();
    }
}
