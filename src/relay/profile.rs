//! What each kind of broker and cloud wants to see: a table, and the few words that are put together for a CONNECT.
//!
//! Nothing here touches a network. Each entry follows its vendor's documents; the tests say which and quote their
//! examples. docs/brokers.md has the same as a table for people.

mod authorizer;

use std::path::PathBuf;

use authorizer::Authorizer;
pub use authorizer::ProfileError;

use crate::config::{AuthMethod, BrokerProfile};
use crate::token::scope::mqtt_client_id;

/// MQTT as the broker speaks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// MQTT 5.
    V5,
    /// MQTT 3.1.1: no reason codes, no properties, no re-authentication.
    V311,
}

/// Where a reading's CloudEvents attributes stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attributes {
    /// In MQTT v5 user properties; the payload is the SenML pack (binary mode).
    UserProperties,
    /// Beside the pack in a JSON document, `application/cloudevents+json` (structured mode).
    Envelope,
    /// In the topic, as Azure IoT Hub's property bag; the payload is the SenML pack.
    PropertyBag,
}

/// What is fixed for a kind of broker.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) version: Version,
    /// Method of enhanced authentication, by which a token is replaced on the live connection too.
    method: Option<AuthMethod>,
    pub(super) attributes: Attributes,
    /// Whether it keeps retained messages; else presence is an event like others.
    pub(super) retain: bool,
    /// Seconds of keep-alive that it takes, from and to.
    keep_alive: (u64, u64),
    /// Largest message in bytes, where its documents say one.
    pub(super) max_packet: usize,
    /// Publishes without an answer that it takes on one connection.
    in_flight: u16,
    /// Protocol name in the TLS handshake, where it insists on one.
    alpn: Option<&'static [u8]>,
    /// Whether a connection may live longer there than its token, as far as was seen: then it is ended here.
    pub(super) outlives_token: bool,
    /// What a connection that ends without a word is likely to mean.
    pub(super) silence: &'static str,
}

const UNBOUNDED: usize = 268_435_455;
const LOST: &str = "the broker closed the connection without a reason";

/// The common ground of brokers that speak MQTT v5.
const MQTT5: Table = Table {
    version: Version::V5,
    method: Some(AuthMethod::Oauth2Jwt),
    attributes: Attributes::UserProperties,
    retain: true,
    keep_alive: (1, 65_535),
    max_packet: UNBOUNDED,
    in_flight: u16::MAX,
    alpn: None,
    outlives_token: false,
    silence: LOST,
};

const RABBITMQ: Table = Table {
    version: Version::V311,
    method: None,
    attributes: Attributes::Envelope,
    outlives_token: true,
    silence: "RabbitMQ closed the connection without a reason: it does so when the token does not allow a topic; \
              see its log",
    ..MQTT5
};

const EMQX: Table = Table { method: None, outlives_token: true, ..MQTT5 };

const EVENT_GRID: Table = Table {
    method: Some(AuthMethod::CustomJwt),
    retain: false,
    keep_alive: (1, 1160),
    outlives_token: true,
    max_packet: 512 * 1024,
    ..MQTT5
};

const IOT_HUB: Table = Table {
    version: Version::V311,
    method: None,
    attributes: Attributes::PropertyBag,
    retain: false,
    keep_alive: (1, 1177),
    outlives_token: true,
    max_packet: 256 * 1024,
    silence: "IoT Hub closed the connection without a reason: it does so when the signature expired, the device is \
              disabled or throttled, or another connection of it came",
    ..MQTT5
};

const AWS_IOT: Table = Table {
    method: None,
    keep_alive: (30, 1200),
    max_packet: 128 * 1024,
    in_flight: 100,
    alpn: Some(b"mqtt"),
    outlives_token: true,
    silence: "AWS IoT closed the connection without a reason: it does so when the authorizer's policy does not allow \
              a topic or a client id",
    ..MQTT5
};

/// How one broker is spoken to: its table, and what the operator chose.
#[derive(Debug, Clone)]
pub struct Profile {
    pub(super) table: &'static Table,
    kind: BrokerProfile,
    method: Option<AuthMethod>,
    authorizer: Option<Authorizer>,
}

/// What stands in a CONNECT for one device. It holds the token: it is neither printed nor kept.
pub(crate) struct Login {
    pub(crate) client_id: String,
    pub(crate) username: String,
    /// Token or its like; empty where the username carries it.
    pub(crate) password: String,
}

impl Profile {
    /// The profile of a kind of broker, with its documented defaults.
    #[must_use]
    pub fn of(kind: BrokerProfile) -> Self {
        let table = match kind {
            BrokerProfile::Mqtt5 => &MQTT5,
            BrokerProfile::Rabbitmq => &RABBITMQ,
            BrokerProfile::Emqx => &EMQX,
            BrokerProfile::AzureEventGrid => &EVENT_GRID,
            BrokerProfile::AzureIotHub => &IOT_HUB,
            BrokerProfile::AwsIot => &AWS_IOT,
        };
        Self { table, kind, method: table.method, authorizer: None }
    }

    /// The same with another method of enhanced authentication, where it has one at all.
    #[must_use]
    pub(crate) fn with_method(mut self, method: Option<AuthMethod>) -> Self {
        if self.table.method.is_some() {
            self.method = method.or(self.table.method);
        }
        self
    }

    /// The same with AWS IoT's custom authorizer: its name, and where it checks signatures, the name of the token's
    /// parameter and the RSA key's file (PEM).
    #[must_use]
    pub fn with_authorizer(mut self, name: &str, signing: Option<(String, PathBuf)>) -> Self {
        self.authorizer = Some(Authorizer::new(name, signing));
        self
    }

    /// Reads the key that it names, if any.
    pub(crate) fn load(&mut self) -> Result<(), ProfileError> {
        self.authorizer.as_mut().map_or(Ok(()), Authorizer::load)
    }

    /// Protocol name in the TLS handshake, where the broker insists on one.
    pub(crate) fn alpn(&self) -> Option<&'static [u8]> {
        self.table.alpn
    }

    /// Whether a token can be replaced on the live connection, as far as documents say.
    #[must_use]
    pub(crate) fn reauthenticates(&self) -> bool {
        self.method.is_some()
    }

    /// Whether readings can only go as JSON.
    #[must_use]
    pub(crate) fn is_json_only(&self) -> bool {
        self.table.attributes == Attributes::Envelope
    }

    /// Whether the gateway itself can have a connection there: where our own topics are those on the wire.
    pub(crate) fn takes_principal(&self) -> bool {
        self.table.attributes != Attributes::PropertyBag
    }

    /// Whether a connection may live longer there than its token.
    pub(crate) fn outlives_token(&self) -> bool {
        self.table.outlives_token
    }

    /// Whether it keeps retained messages.
    pub(crate) fn retains(&self) -> bool {
        self.table.retain
    }

    /// Name of the method of enhanced authentication.
    pub(crate) fn method(&self) -> Option<&'static str> {
        self.method.map(AuthMethod::as_str)
    }

    /// The keep-alive nearest to the wanted one that the broker takes, in seconds.
    pub(crate) fn keep_alive(&self, wanted_s: u64) -> u16 {
        let (least, most) = self.table.keep_alive;
        u16::try_from(wanted_s.clamp(least, most)).unwrap_or(u16::MAX)
    }

    /// Publishes in flight, where the broker takes fewer than wanted.
    pub(super) fn in_flight(&self, wanted: u16) -> u16 {
        wanted.min(self.table.in_flight).max(1)
    }

    /// Client id, username and password of a device's connection.
    ///
    /// # Errors
    /// When the token could not be signed for AWS IoT.
    pub(crate) fn login(&self, host: &str, gateway: &str, device: &str, token: &str) -> Result<Login, String> {
        let client_id = mqtt_client_id(gateway, device);
        let (username, password) = match self.kind {
            BrokerProfile::AzureIotHub => (format!("{host}/{client_id}/?api-version=2021-04-12"), token.to_owned()),
            BrokerProfile::AwsIot => match &self.authorizer {
                Some(authorizer) => authorizer.login(device, token)?,
                None => (device.to_owned(), token.to_owned()),
            },
            // A colon in RabbitMQ's username would name a virtual host: device ids have none.
            _ => (device.to_owned(), token.to_owned()),
        };
        Ok(Login { client_id, username, password })
    }

    /// The topic on the wire of a message with this topic of ours. `attributes` are its content type and CloudEvents
    /// attributes.
    pub(super) fn topic(
        &self,
        ours: &str,
        gateway: &str,
        device: &str,
        content_type: &str,
        attributes: &[(String, String)],
    ) -> String {
        if self.table.attributes != Attributes::PropertyBag {
            return ours.to_owned();
        }
        // System properties begin with '$': content type, and the encoding where the body is text that can be routed on.
        let mut topic = format!("devices/{}/messages/events/$.ct=", mqtt_client_id(gateway, device));
        topic.push_str(&percent(content_type));
        if content_type.ends_with("json") {
            topic.push_str("&$.ce=utf-8");
        }
        for (name, value) in attributes {
            if name == "id" {
                topic.push_str("&$.mid=");
                topic.push_str(&percent(value));
            }
            topic.push('&');
            topic.push_str(&percent(name));
            topic.push('=');
            topic.push_str(&percent(value));
        }
        topic
    }
}

/// Everything but RFC 3986's unreserved characters as `%XX`.
pub(crate) fn percent(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(kind: BrokerProfile) -> (String, String, String) {
        let login = Profile::of(kind).login("contoso.azure-devices.net", "gw-1", "pump-3", "TOKEN").unwrap();
        (login.client_id, login.username, login.password)
    }

    fn topic(kind: BrokerProfile, content_type: &str, attributes: &[(&str, &str)]) -> String {
        let attributes: Vec<_> = attributes.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        Profile::of(kind).topic("claw/v1/t/gw-1/pump-3/up/telemetry", "gw-1", "pump-3", content_type, &attributes)
    }

    #[test]
    fn a_token_is_the_password_of_its_device_where_nothing_else_is_documented() {
        // https://docs.emqx.com/en/emqx/latest/access-control/authn/jwt.html: "from" is password by default.
        // https://www.rabbitmq.com/docs/3.13/oauth2: the token is the password, the username is ignored; and in
        // https://www.rabbitmq.com/docs/3.13/mqtt a colon in the username separates a virtual host.
        for kind in [BrokerProfile::Mqtt5, BrokerProfile::Emqx, BrokerProfile::Rabbitmq] {
            let (client_id, username, password) = login(kind);
            assert_eq!((client_id.as_str(), username.as_str(), password.as_str()), ("gw-1.pump-3", "pump-3", "TOKEN"));
            assert!(!username.contains(':'));
            assert_eq!(topic(kind, "application/senml+json", &[("id", "1")]), "claw/v1/t/gw-1/pump-3/up/telemetry");
        }
    }

    #[test]
    fn event_grid_takes_its_two_methods_and_keeps_nothing() {
        // https://learn.microsoft.com/azure/event-grid/mqtt-client-custom-jwt: CUSTOM-JWT in CONNECT and AUTH (25).
        // https://learn.microsoft.com/azure/event-grid/mqtt-client-microsoft-entra-token-and-rbac: OAUTH2-JWT.
        let profile = Profile::of(BrokerProfile::AzureEventGrid);
        assert_eq!((profile.method(), profile.reauthenticates()), (Some("CUSTOM-JWT"), true));
        let entra = profile.with_method(Some(AuthMethod::Oauth2Jwt));
        assert_eq!(entra.method(), Some("OAUTH2-JWT"));
        // https://learn.microsoft.com/azure/event-grid/mqtt-support: at most 1160 s, 512 KB.
        assert_eq!(entra.keep_alive(3600), 1160);
        assert!(!entra.table.retain);
    }

    #[test]
    fn iot_hub_gets_its_own_names_and_properties_in_the_topic() {
        // https://learn.microsoft.com/azure/iot/iot-mqtt-connect-to-iot-hub: the client id is the device id, the user
        // name of MyDevice01 at contoso is contoso.azure-devices.net/MyDevice01/?api-version=2021-04-12.
        let (client_id, username, password) = login(BrokerProfile::AzureIotHub);
        assert_eq!(client_id, "gw-1.pump-3");
        assert_eq!(username, "contoso.azure-devices.net/gw-1.pump-3/?api-version=2021-04-12");
        assert_eq!(password, "TOKEN");
        // The same page: devices/{device-id}/messages/events/{property-bag}, `$.ct=application%2Fjson&$.ce=utf-8`.
        let kind = BrokerProfile::AzureIotHub;
        assert_eq!(
            topic(kind, "application/json", &[]),
            "devices/gw-1.pump-3/messages/events/$.ct=application%2Fjson&$.ce=utf-8"
        );
        assert_eq!(
            topic(
                kind,
                "application/senml+cbor",
                &[("id", "00ff.00fe.17"), ("source", "claw/v1/t"), ("a b", "a string")]
            ),
            "devices/gw-1.pump-3/messages/events/$.ct=application%2Fsenml%2Bcbor\
             &$.mid=00ff.00fe.17&id=00ff.00fe.17&source=claw%2Fv1%2Ft&a%20b=a%20string"
        );
        let profile = Profile::of(kind);
        assert_eq!((profile.keep_alive(3600), profile.table.retain, profile.reauthenticates()), (1177, false, false));
        assert_eq!(profile.table.version, Version::V311);
    }

    #[test]
    fn aws_iot_has_its_limits() {
        // https://docs.aws.amazon.com/general/latest/gr/iot-core.html: keep-alive 30 to 1200 s, 100 publishes without an
        // answer, 128 KB; and https://docs.aws.amazon.com/iot/latest/developerguide/protocols.html: "mqtt" as ALPN.
        let profile = Profile::of(BrokerProfile::AwsIot);
        assert_eq!((profile.keep_alive(5), profile.keep_alive(3600), profile.in_flight(500)), (30, 1200, 100));
        assert_eq!(profile.alpn(), Some(b"mqtt".as_slice()));
        // The same page as above: a topic has at most seven slashes.
        let ours = topic(BrokerProfile::AwsIot, "application/json", &[]);
        assert!(ours.matches('/').count() <= 7);
    }

    #[test]
    fn what_is_not_unreserved_is_escaped() {
        assert_eq!(percent("a-b_c.d~e/f+g#h i\u{e9}"), "a-b_c.d~e%2Ff%2Bg%23h%20i%C3%A9");
    }
}
