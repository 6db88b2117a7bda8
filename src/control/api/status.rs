//! The gateway as a whole: its state, and what changes in it.

use serde::{Deserialize, Serialize};

use super::Device;

/// `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// All well, or not.
    pub health: Health,
    /// What is not well; empty when all is.
    pub problems: Vec<Problem>,
    /// Version of the daemon.
    pub version: String,
    /// Gateway id.
    pub gateway: String,
    /// Tenant at the broker.
    pub tenant: String,
    /// `relay` or `standalone`.
    pub mode: String,
    /// Where the broker is.
    pub broker: String,
    /// Where tokens come from.
    pub issuer: String,
    /// Where metrics are served.
    pub metrics: Option<String>,
    /// Process id of the daemon.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Serial lines.
    pub ports: Vec<Port>,
    /// Bluetooth adapters.
    pub radios: Vec<Radio>,
    /// Devices.
    pub devices: Vec<Device>,
    /// What waits for the broker.
    pub spool: Spool,
    /// Why the last reload was refused; the configuration before it goes on.
    pub config_refused: Option<String>,
    /// Keys that are another in the files since the start, and wait for a restart.
    pub restart_needed: Vec<String>,
    /// `dev`, `staging` or `prod`.
    pub stage: String,
    /// What a person should look at, the latest first.
    pub alarms: Vec<Alarm>,
    /// Keys of the configuration that commands from the cloud changed; they lie over the files.
    #[serde(default)]
    pub overlay: Vec<Overlaid>,
}

/// The gateway at a glance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Everything works.
    Ok,
    /// Something does not; readings are kept.
    Degraded,
}

/// Something that is not well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The part: a port, a device, `config`, ...
    pub part: String,
    /// What is the matter, and why.
    pub message: String,
}

/// Something that a person should look at although readings flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// `failed_attempts`, `rate_spike`, `expiry`, ...
    pub kind: String,
    /// Whom or what it concerns.
    pub subject: String,
    /// What happened.
    pub words: String,
    /// What to do.
    pub next_step: String,
    /// First raised, RFC 3339.
    pub since: String,
    /// Last raised, RFC 3339.
    pub last: String,
    /// Raised so often.
    pub count: u64,
}

/// A key of the configuration that a command changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlaid {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: serde_json::Value,
    /// Who changed it.
    pub by: String,
    /// When, RFC 3339.
    pub at: String,
}

/// A serial line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Short name.
    pub id: String,
    /// Device node by its configured name.
    pub path: String,
    /// Line rate.
    pub baud: u32,
    /// `open`, `absent`, `busy`, ...
    pub state: String,
    /// State in words, with what to do.
    pub explanation: String,
    /// What the bytes say: `good`, `silent`, ...
    pub line: String,
    /// The device whose session runs here.
    pub device: Option<String>,
}

/// A Bluetooth adapter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Radio {
    /// `hci0`; `ble` while there is none.
    pub id: String,
    /// `listening`, or `failed`.
    pub state: String,
    /// State in words, with what to do.
    pub explanation: String,
    /// Sensors that are connected.
    pub links: usize,
    /// Sensors that can be.
    pub max_links: usize,
    /// Sensors that are heard.
    pub heard: usize,
    /// Steps taken because expected data was missing, since the start.
    pub recoveries: u64,
    /// The last of them.
    pub last_recovery: Option<String>,
}

/// What waits for the broker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spool {
    /// Readings, memory and disk.
    pub waiting: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Size of the file.
    pub disk_bytes: u64,
    /// Cap of the readings' bytes.
    pub max_bytes: u64,
    /// Dropped at the cap since start.
    pub dropped: u64,
    /// Refused by the broker for good.
    pub dead_letters: u64,
}

/// One line of `GET /v1/watch`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchLine {
    /// When, RFC 3339.
    pub at: String,
    /// The part or device that it is about.
    pub part: String,
    /// What happened, in words.
    pub what: String,
}
