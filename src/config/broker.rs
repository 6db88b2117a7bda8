//! Where readings go, and where the tokens for that come from: `[broker]` and `[issuer]`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::loopback;
use crate::http_client::is_here;
use crate::secret_source::SecretSource;
use crate::token::oauth::Grant;

/// `[broker]`: the MQTT broker.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BrokerConfig {
    /// `mqtts://host[:port]`, or `mqtt://` for a loopback or lab broker.
    #[serde(deserialize_with = "super::values::broker_url")]
    pub url: Option<BrokerUrl>,
    /// The only CA (PEM) that the broker's certificate may come from.
    pub ca: Option<PathBuf>,
    /// Client certificate chain (PEM), where the broker asks for one.
    pub client_cert: Option<PathBuf>,
    /// Its key (PEM): a file, or another place of a secret.
    pub client_key: Option<SecretSource>,
    /// How a fresh token reaches the live connection.
    pub reauth: Reauth,
    /// How a reading is written.
    pub payload: Payload,
    /// What kind of broker it is.
    pub profile: BrokerProfile,
    /// Method of MQTT v5 enhanced authentication, where it is another than the profile's.
    pub auth_method: Option<AuthMethod>,
    /// AWS IoT: name of the custom authorizer.
    pub authorizer: Option<String>,
    /// AWS IoT: name of the token's parameter, where the authorizer checks signatures.
    pub authorizer_token: Option<String>,
    /// AWS IoT: the RSA key (PEM) whose signatures it checks.
    pub authorizer_key: Option<PathBuf>,
}

/// Kinds of brokers and clouds; docs/brokers.md compares them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BrokerProfile {
    /// Any MQTT v5 broker that takes a token by enhanced authentication or as password.
    #[default]
    Mqtt5,
    /// RabbitMQ with its MQTT plugin and its OAuth 2 backend.
    Rabbitmq,
    /// EMQX with JWT authentication.
    Emqx,
    /// The MQTT broker of an Azure Event Grid namespace.
    AzureEventGrid,
    /// Azure IoT Hub.
    AzureIotHub,
    /// AWS IoT Core with a custom authorizer.
    AwsIot,
}

/// Methods of MQTT v5 enhanced authentication.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuthMethod {
    /// A token of the broker's own issuer (at Azure Event Grid: Microsoft Entra).
    #[serde(rename = "OAUTH2-JWT")]
    Oauth2Jwt,
    /// A token of an issuer that was registered at Azure Event Grid.
    #[serde(rename = "CUSTOM-JWT")]
    CustomJwt,
}

impl AuthMethod {
    /// The name in a CONNECT.
    #[must_use]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Oauth2Jwt => crate::token::AUTH_METHOD,
            Self::CustomJwt => "CUSTOM-JWT",
        }
    }
}

/// A broker's address, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerUrl {
    /// Host name or address.
    pub host: String,
    /// Port; 8883 or 1883 by default.
    pub port: u16,
    /// Whether TLS is spoken.
    pub tls: bool,
}

impl BrokerUrl {
    /// Whether it is on this machine, where nobody else can listen on the way.
    pub(crate) fn is_here(&self) -> bool {
        is_here(&self.host)
    }
}

/// How a refreshed token reaches the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reauth {
    /// MQTT v5 AUTH where the broker takes it, else drain and reconnect.
    #[default]
    Auto,
    /// Always drain and reconnect, token as password.
    Never,
    /// MQTT v5 AUTH only: a broker that does not take it gets no token.
    Always,
}

/// The content of a PUBLISH.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Payload {
    /// SenML JSON.
    #[default]
    Json,
    /// SenML CBOR.
    Cbor,
}

/// `[issuer]`: where access tokens come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IssuerConfig {
    /// This process, an OAuth server, or the keys of Azure IoT Hub.
    pub kind: IssuerKind,
    /// Life of a token; 5 s to 1 day.
    #[serde(deserialize_with = "super::values::token_life", serialize_with = "super::written::duration")]
    pub life: Duration,
    /// The `aud` of every token; [`Config::audience`](super::Config::audience) says which it is where none is written.
    pub audience: Option<String>,
    /// Local: where its endpoints (tokens for subscribers, keys and deny list for brokers) listen.
    pub listen: SocketAddr,
    /// OAuth: the issuer's URL, whose metadata names the endpoints. Local: the URL that others know it by.
    pub url: Option<String>,
    /// OAuth: this gateway's client id; its gateway id by default.
    pub client_id: Option<String>,
    /// OAuth: the ES256 key (PEM) that signs client assertions: a file, or another place of a
    /// secret.
    pub client_key: Option<SecretSource>,
    /// OAuth: the only CA (PEM) that the issuer's certificate may come from.
    pub ca: Option<PathBuf>,
    /// OAuth: how a device's token is asked for.
    pub grant: Grant,
    /// Azure SAS: the file of the group's key, or the folder with one key file a device.
    pub device_keys: Option<PathBuf>,
    /// Local: the folder where its public keys and its deny list are written for a broker on this machine.
    pub publish_dir: Option<PathBuf>,
}

/// Who makes access tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IssuerKind {
    /// The issuer inside this process.
    #[default]
    Local,
    /// A standard OAuth server.
    Oauth,
    /// Shared access signatures of Azure IoT Hub, made in this process from the devices' keys.
    #[serde(rename = "azure-sas")]
    AzureSas,
}

impl Default for IssuerConfig {
    fn default() -> Self {
        Self {
            kind: IssuerKind::default(),
            life: Duration::from_secs(600),
            audience: None,
            listen: loopback(7480),
            url: None,
            client_id: None,
            client_key: None,
            ca: None,
            grant: Grant::default(),
            device_keys: None,
            publish_dir: None,
        }
    }
}
