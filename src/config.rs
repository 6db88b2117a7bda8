//! What the operator decides: `/etc/clawgate/clawgate.toml` and `conf.d/*.toml`, read once and on SIGHUP.
//!
//! The structs here are the whole vocabulary: a key that is not a field is refused with its file and line
//! ([`load`](mod@load)). This program never writes these files. No secret stands in them, only paths of secrets.

mod broker;
mod cloud;
pub mod load;
mod locate;
pub(crate) mod origin;
pub(crate) mod places;
mod principal;
mod profile;
pub(crate) mod secrets;
pub(crate) mod stages;
mod together;
mod upkeep;
mod values;
mod written;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::secret_source::VaultConfig;
use crate::token::Stage;
pub use broker::{AuthMethod, BrokerConfig, BrokerProfile, BrokerUrl, IssuerConfig, IssuerKind, Payload, Reauth};
pub use cloud::{CloudConfig, CloudStatus, CommandClock, CommandKeyConfig};
pub(crate) use load::with_text;
pub use load::{ConfigError, load};
pub use principal::Principal;
pub(crate) use principal::id_of;
pub use stages::StageError;
pub(crate) use together::warnings;
pub use upkeep::{AlarmsConfig, AuditConfig, KeysConfig, LogConfig, LogLevel, MetricsConfig};
pub use values::Name;
pub(crate) use values::{lead, parse_duration, schedule};

/// Where the configuration stands unless the command line says otherwise.
pub const DEFAULT_PATH: &str = "/etc/clawgate/clawgate.toml";

/// The whole configuration of one gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    pub(crate) fn audience(&self) -> &str {
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// To the broker of `[broker]`.
    #[default]
    Relay,
    /// To a broker inside this process; no cloud account needed.
    Standalone,
}

/// `[gateway]`: names that stand in every topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ControlConfig {
    /// Path of the unix socket (mode 0660).
    pub socket: PathBuf,
    /// `[control.roles]`; root and the daemon's own user are always admin.
    pub roles: RolesConfig,
}

/// `[control.roles]`: who has a role; `user:kim`, `group:plugdev`, `uid:1000` or `gid:27`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UartConfig {
    /// `[uart.ports.NAME]`, one table a line.
    pub ports: BTreeMap<Name, PortConfig>,
}

/// `[uart.ports.NAME]`: one serial line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PortConfig {
    /// Device node, best by a stable name (`/dev/serial/by-id/...`).
    pub path: PathBuf,
    /// Line rate in baud.
    #[serde(deserialize_with = "values::baud")]
    pub baud: u32,
}

/// `[ble]`: sensors on Bluetooth Low Energy, by BlueZ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PairingConfig {
    /// Life of a code unless its maker says another; 1 s to 1 day.
    #[serde(deserialize_with = "values::code_life", serialize_with = "written::duration")]
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
    #[serde(deserialize_with = "values::code_life", serialize_with = "written::duration")]
    pub approval_time: Duration,
}

/// Whose yes a pairing needs beside the operator's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PairingApproval {
    /// Nobody's.
    #[default]
    None,
    /// The backend's, by a signed command or an admin here.
    Backend,
}

/// `[spool]`: what waits for the broker, in memory and on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SpoolConfig {
    /// A reading that the broker has not confirmed after this many milliseconds goes to disk; 10 to 60000.
    #[serde(deserialize_with = "values::commit_ms")]
    pub commit_ms: u64,
    /// Readings kept on disk, in bytes; beyond it the largest user's oldest go, counted.
    #[serde(deserialize_with = "values::spool_bytes", serialize_with = "written::size")]
    pub max_bytes: u64,
}

/// `[standalone]`: the broker and issuer inside this process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StandaloneConfig {
    /// Where the broker listens; port 0 takes a free one (see `clawgate status`).
    pub listen: SocketAddr,
    /// `[standalone.subscribers.NAME]`: who may read.
    pub subscribers: BTreeMap<Name, SubscriberConfig>,
}

/// `[standalone.subscribers.NAME]`: a reader with a key of its own.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SubscriberConfig {
    /// Its ES256 public key (PEM file).
    pub public_key: PathBuf,
    /// Topic filters that it may subscribe to.
    pub topics: Vec<String>,
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

impl Default for SpoolConfig {
    fn default() -> Self {
        Self { commit_ms: 1000, max_bytes: 256 << 20 }
    }
}

impl Default for StandaloneConfig {
    fn default() -> Self {
        Self { listen: loopback(1883), subscribers: BTreeMap::new() }
    }
}
