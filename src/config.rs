//! What the operator decides: `/etc/clawgate/clawgate.toml` and `conf.d/*.toml`, read once and on SIGHUP.
//!
//! The structs here are the whole vocabulary: a key that is not a field is refused with its file and line
//! ([`load`](mod@load)). This program never writes these files. No secret stands in them, only paths of secrets.

pub mod load;
mod locate;
mod principal;
mod profile;
pub(crate) mod stages;
mod values;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::audit::Retention;
use crate::principal::command::CommandName;
use crate::secret_source::{SecretSource, VaultConfig};
use crate::token::Stage;
use crate::token::oauth::Grant;
pub use load::{ConfigError, load};
pub use principal::Principal;
pub(crate) use principal::id_of;
pub use stages::StageError;
pub use values::Name;
pub(crate) use values::parse_duration;

/// Where the configuration stands unless the command line says otherwise.
pub const DEFAULT_PATH: &str = "/etc/clawgate/clawgate.toml";

/// The whole configuration of one gateway.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Whether the broker is somebody's or this process's own.
    pub mode: Mode,
    /// Databases, keys and the audit log; made with mode 0700.
    pub state_dir: PathBuf,
    /// A file that holds the master key; by default a systemd credential, else `master.key` in the state directory.
    pub master_key: Option<PathBuf>,
    /// Who this gateway is.
    pub gateway: GatewayConfig,
    /// The socket that the command line talks to.
    pub control: ControlConfig,
    /// Serial lines.
    pub uart: UartConfig,
    /// Bluetooth Low Energy.
    pub ble: BleConfig,
    /// Codes and their limits.
    pub pairing: PairingConfig,
    /// From when on something is an alarm.
    pub alarms: AlarmsConfig,
    /// What waits for the broker.
    pub spool: SpoolConfig,
    /// The broker, unless standalone.
    pub broker: BrokerConfig,
    /// Where access tokens come from.
    pub issuer: IssuerConfig,
    /// The broker and issuer inside this process, when standalone.
    pub standalone: StandaloneConfig,
    /// The Prometheus endpoint.
    pub metrics: MetricsConfig,
    /// The log.
    pub log: LogConfig,
    /// What is kept of the audit log.
    pub audit: AuditConfig,
    /// When keys are changed without being asked.
    pub keys: KeysConfig,
    /// The store of secrets that `"vault:PATH#FIELD"` is read from.
    pub vault: VaultConfig,
    /// The gateway itself at the broker.
    pub cloud: CloudConfig,
}

impl Config {
    /// The `aud` of every token: what is written, else one that is the stage's alone.
    #[must_use]
    pub fn audience(&self) -> &str {
        self.issuer.audience.as_deref().unwrap_or(default_audience(self.gateway.stage))
    }
}

/// The audience of a stage where none is written.
pub(crate) fn default_audience(stage: Stage) -> &'static str {
    match stage {
        Stage::Dev => "claw-dev",
        Stage::Staging => "claw-staging",
        Stage::Prod => "claw",
    }
}

/// Where readings go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// To the broker of `[broker]`.
    #[default]
    Relay,
    /// To a broker inside this process; no cloud account needed.
    Standalone,
}

/// `[gateway]`: names that stand in every topic.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GatewayConfig {
    /// Site id; survives the replacement of the box.
    pub id: Name,
    /// Tenant at the broker.
    pub tenant: Name,
    /// Where it serves; issuer, key and audience are of this stage alone.
    pub stage: Stage,
}

/// `[control]`: the socket and who may do what on it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ControlConfig {
    /// Path of the unix socket (mode 0660).
    pub socket: PathBuf,
    /// `[control.roles]`; root and the daemon's own user are always admin.
    pub roles: RolesConfig,
}

/// `[control.roles]`: who has a role; `user:kim`, `group:plugdev`, `uid:1000` or `gid:27`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RolesConfig {
    /// May look.
    pub viewer: Vec<Principal>,
    /// May also pair and unpair, and make codes.
    pub operator: Vec<Principal>,
    /// May also revoke tokens and export the audit log.
    pub admin: Vec<Principal>,
}

/// `[uart]`: the serial lines that may be spoken to. No other port is ever written.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UartConfig {
    /// `[uart.ports.NAME]`, one table a line.
    pub ports: BTreeMap<Name, PortConfig>,
}

/// `[uart.ports.NAME]`: one serial line.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PortConfig {
    /// Device node, best by a stable name (`/dev/serial/by-id/...`).
    pub path: PathBuf,
    /// Line rate in baud.
    #[serde(deserialize_with = "values::baud")]
    pub baud: u32,
}

/// `[ble]`: sensors on Bluetooth Low Energy, by BlueZ.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BleConfig {
    /// Whether at all.
    pub enabled: BleEnabled,
    /// The adapters, such as `hci0`; all if none is named.
    pub adapters: Vec<Name>,
    /// Links an adapter can have at once; 1 to 32. One is kept for pairing.
    #[serde(deserialize_with = "values::ble_links")]
    pub links: u8,
}

/// Whether BLE is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BleEnabled {
    /// Where there is an adapter; without one that is no problem.
    #[default]
    Auto,
    /// Without an adapter the gateway is degraded.
    On,
    /// Not at all.
    Off,
}

/// `[pairing]`: how long a code lives and how often it may be tried.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PairingConfig {
    /// Life of a code unless its maker says another; 1 s to 1 day.
    #[serde(deserialize_with = "values::code_life")]
    pub ttl: Duration,
    /// Guesses a code survives; 1 to 10.
    #[serde(deserialize_with = "values::attempts")]
    pub attempts: u8,
    /// Lowest suite that is accepted: 1, or 2 to insist on ML-KEM-768.
    #[serde(deserialize_with = "values::suite")]
    pub min_suite: u8,
    /// Whose yes a pairing waits for before its device gets a token.
    pub approval: PairingApproval,
    /// How long `pair` waits for that yes; 1 s to 1 day. The device waits on, unserved, until somebody decides.
    #[serde(deserialize_with = "values::code_life")]
    pub approval_time: Duration,
}

/// Whose yes a pairing needs beside the operator's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PairingApproval {
    /// Nobody's.
    #[default]
    None,
    /// The backend's, by a signed command or an admin here.
    Backend,
}

/// `[alarms]`: from when on something is an alarm.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AlarmsConfig {
    /// So many wrong codes within `window`; 1 to 1000.
    #[serde(deserialize_with = "values::alarm_number")]
    pub failed_attempts: u16,
    /// The sliding time in which wrong codes are counted; 1 s to 1 day.
    #[serde(deserialize_with = "values::code_life")]
    pub window: Duration,
    /// So many times a device's own baseline of readings a second; 2 to 1000.
    #[serde(deserialize_with = "values::rate_factor")]
    pub rate_factor: u16,
}

/// `[spool]`: what waits for the broker, in memory and on disk.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SpoolConfig {
    /// A reading that the broker has not confirmed after this many milliseconds goes to disk; 10 to 60000.
    #[serde(deserialize_with = "values::commit_ms")]
    pub commit_ms: u64,
    /// Readings kept on disk, in bytes; beyond it the largest user's oldest go, counted.
    #[serde(deserialize_with = "values::spool_bytes")]
    pub max_bytes: u64,
}

/// `[audit]`: how much of the audit log is kept.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuditConfig {
    /// Lines kept on disk, in bytes; beyond it the oldest go.
    #[serde(deserialize_with = "values::spool_bytes")]
    pub max_bytes: u64,
    /// Age of the oldest line that is kept, or `"off"`: by size alone.
    #[serde(deserialize_with = "values::audit_age")]
    pub max_age: Option<Duration>,
}

/// `[broker]`: the MQTT broker.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BrokerConfig {
    /// `mqtts://host[:port]`, or `mqtt://` for a loopback or lab broker.
    #[serde(deserialize_with = "values::broker_url")]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
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
    pub fn as_str(self) -> &'static str {
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

/// How a refreshed token reaches the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Payload {
    /// SenML JSON.
    #[default]
    Json,
    /// SenML CBOR.
    Cbor,
}

/// `[issuer]`: where access tokens come from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IssuerConfig {
    /// This process, an OAuth server, or the keys of Azure IoT Hub.
    pub kind: IssuerKind,
    /// Life of a token; 5 s to 1 day.
    #[serde(deserialize_with = "values::token_life")]
    pub life: Duration,
    /// The `aud` of every token; [`Config::audience`] says which it is where none is written.
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
}

/// Who makes access tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
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

/// `[standalone]`: the broker and issuer inside this process.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StandaloneConfig {
    /// Where the broker listens; port 0 takes a free one (see `clawgate status`).
    pub listen: SocketAddr,
    /// `[standalone.subscribers.NAME]`: who may read.
    pub subscribers: BTreeMap<Name, SubscriberConfig>,
}

/// `[standalone.subscribers.NAME]`: a reader with a key of its own.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SubscriberConfig {
    /// Its ES256 public key (PEM file).
    pub public_key: PathBuf,
    /// Topic filters that it may subscribe to.
    pub topics: Vec<String>,
}

/// `[metrics]`: Prometheus text over HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsConfig {
    /// Address and port, or `"off"`.
    #[serde(deserialize_with = "values::listen_or_off")]
    pub listen: Option<SocketAddr>,
}

/// `[log]`: what is said.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// The least important level that is written.
    pub level: LogLevel,
}

/// Levels of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// An operator must act.
    Error,
    /// Heals itself.
    Warn,
    /// Life-cycle.
    #[default]
    Info,
    /// Per exchange.
    Debug,
    /// Per frame.
    Trace,
}

/// `[keys]`: when keys are changed without being asked; docs/keys.md says what each change means.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeysConfig {
    /// The key that signs access tokens, where the issuer is in this process.
    #[serde(deserialize_with = "values::schedule")]
    pub issuer: Option<Duration>,
    /// How long the issuer's new key is published before it signs; up to 1 day.
    #[serde(deserialize_with = "values::lead")]
    pub issuer_lead: Duration,
    /// The key that signs the audit log.
    #[serde(deserialize_with = "values::schedule")]
    pub audit: Option<Duration>,
    /// The gateway's static key; pairings keep the one that they were made with.
    #[serde(deserialize_with = "values::schedule")]
    pub gateway: Option<Duration>,
    /// The master key, where it is the key file of our own.
    #[serde(deserialize_with = "values::schedule")]
    pub master: Option<Duration>,
}

/// `[cloud]`: the gateway itself at the broker, beside its devices.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CloudConfig {
    /// Whether it says how it is: status, audit checkpoints, alarms.
    pub status: CloudStatus,
    /// Its status is said again after this time without a change; 10 s to 1 day.
    #[serde(deserialize_with = "values::status_every")]
    pub status_every: Duration,
    /// Whether signed commands are taken while the kernel does not call its clock synchronised.
    pub clock: CommandClock,
    /// `[cloud.command_keys.NAME]`: who may command what. None by default: no command is taken.
    pub command_keys: BTreeMap<Name, CommandKeyConfig>,
}

/// How sure the time must be at which a command is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CommandClock {
    /// As any NTP client keeps it.
    #[default]
    Synchronised,
    /// As the machine has it: for sites whose time comes from elsewhere.
    Any,
}

/// `[cloud.command_keys.NAME]`: who commands as NAME (the claim `iss`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CommandKeyConfig {
    /// The ES256 public key or keys: PEM, JWK, or JWK set.
    pub public_key: PathBuf,
    /// What may be commanded with it.
    pub commands: Vec<CommandName>,
}

/// Whether the gateway speaks for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CloudStatus {
    /// With a broker elsewhere; an issuer that gives the gateway itself no token is no problem.
    #[default]
    Auto,
    /// Also in standalone mode; without a connection of its own the gateway is degraded.
    On,
    /// Not at all.
    Off,
}

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            state_dir: "/var/lib/clawgate".into(),
            master_key: None,
            gateway: GatewayConfig::default(),
            control: ControlConfig::default(),
            uart: UartConfig::default(),
            ble: BleConfig::default(),
            pairing: PairingConfig::default(),
            alarms: AlarmsConfig::default(),
            spool: SpoolConfig::default(),
            broker: BrokerConfig::default(),
            issuer: IssuerConfig::default(),
            standalone: StandaloneConfig::default(),
            metrics: MetricsConfig::default(),
            log: LogConfig::default(),
            keys: KeysConfig::default(),
            vault: VaultConfig::default(),
            cloud: CloudConfig::default(),
            audit: AuditConfig::default(),
        }
    }
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self { id: Name::fixed("gateway"), tenant: Name::fixed("default"), stage: Stage::default() }
    }
}

impl Default for ControlConfig {
    fn default() -> Self {
        Self { socket: "/run/clawgate/control.sock".into(), roles: RolesConfig::default() }
    }
}

impl Default for PortConfig {
    fn default() -> Self {
        Self { path: PathBuf::new(), baud: 115_200 }
    }
}

impl Default for BleConfig {
    fn default() -> Self {
        Self { enabled: BleEnabled::default(), adapters: Vec::new(), links: 7 }
    }
}

impl Default for PairingConfig {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(60),
            attempts: 3,
            min_suite: 1,
            approval: PairingApproval::default(),
            approval_time: Duration::from_secs(600),
        }
    }
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self { max_bytes: Retention::default().max_bytes, max_age: None }
    }
}

impl AuditConfig {
    /// What the log is told of it.
    #[must_use]
    pub fn retention(&self) -> Retention {
        Retention { max_bytes: self.max_bytes, max_age: self.max_age }
    }
}

impl Default for AlarmsConfig {
    fn default() -> Self {
        Self { failed_attempts: 5, window: Duration::from_secs(600), rate_factor: 10 }
    }
}

impl Default for SpoolConfig {
    fn default() -> Self {
        Self { commit_ms: 1000, max_bytes: 256 << 20 }
    }
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
        }
    }
}

impl Default for StandaloneConfig {
    fn default() -> Self {
        Self { listen: loopback(1883), subscribers: BTreeMap::new() }
    }
}

impl Default for KeysConfig {
    fn default() -> Self {
        Self {
            issuer: None,
            issuer_lead: Duration::from_secs(600),
            audit: None,
            gateway: Some(Duration::from_secs(365 * 86_400)),
            master: None,
        }
    }
}

impl Default for CloudConfig {
    fn default() -> Self {
        Self {
            status: CloudStatus::default(),
            status_every: Duration::from_secs(300),
            clock: CommandClock::default(),
            command_keys: BTreeMap::new(),
        }
    }
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self { listen: Some(loopback(9464)) }
    }
}
