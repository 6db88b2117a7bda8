//! The words of the control API: what goes over the socket, both ways. Times are seconds or milliseconds, as named.

use serde::{Deserialize, Serialize};

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

/// A paired device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its name: a level of its topics, the `sub` of its token.
    pub id: String,
    /// Hardware id of the sensor.
    pub sensor: String,
    /// Its pairing's id, the first part of every reading's name.
    pub pairing: String,
    /// Fingerprint of the keys.
    pub fingerprint: String,
    /// Firmware version the sensor told.
    pub firmware: String,
    /// When it was paired, RFC 3339.
    pub paired_at: String,
    /// What its token grants.
    pub scopes: Vec<String>,
    /// State of its token.
    pub token: Token,
    /// State of its connection to the broker: `up`, `idle`, ...
    pub relay: Relay,
    /// Readings that wait for the broker.
    pub waiting: u64,
    /// The stage it was paired in.
    pub stage: String,
    /// From where its token may be used; empty for anywhere.
    pub addresses: Vec<String>,
    /// Publishes a second that its token allows.
    pub per_second: Option<u32>,
    /// What the backend said, where it had to be asked.
    pub decision: Option<Decision>,
}

/// The backend's word on a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// `waiting` or `approved`.
    pub state: String,
    /// Since when, RFC 3339.
    pub at: String,
    /// Who said so.
    pub by: Option<String>,
    /// Why.
    pub why: Option<String>,
}

/// The MQTT connection of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relay {
    /// `connected`, `connecting`, ...
    pub state: String,
    /// Seconds it has been so.
    pub for_s: u64,
    /// Why it is not connected.
    pub error: Option<String>,
    /// Published since start.
    pub published: u64,
    /// Confirmed by the broker since start.
    pub confirmed: u64,
    /// Refused by the broker since start.
    pub refused: u64,
}

/// The token of a device. The token itself never leaves the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Whose.
    pub device: String,
    /// `valid`, `waiting`, `quarantined`, `held`, `revoked`.
    pub state: String,
    /// Token id.
    pub jti: Option<String>,
    /// What it grants.
    pub scope: String,
    /// Seconds until it expires.
    pub expires_in_s: Option<u64>,
    /// Why there is none.
    pub reason: Option<String>,
    /// Refreshed so often since start.
    pub refreshed: u64,
    /// The last time, RFC 3339.
    pub refreshed_at: Option<String>,
    /// Seconds until the next request for one.
    pub refresh_in_s: Option<u64>,
    /// Requests that failed since start.
    pub failed: u64,
    /// What it is limited to, in words: addresses, rate; empty where to nothing.
    pub limits: String,
}

/// What waits for the broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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

/// One sensor in reach: a line of `GET /v1/scan`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// What `pair` takes.
    pub id: String,
    /// The name the sensor gives itself.
    pub name: String,
    /// Where it is.
    pub link: String,
    /// Signal strength.
    pub rssi_dbm: Option<i16>,
    /// `pairable`, `closed`, `paired`, `paired_elsewhere`.
    pub state: String,
    /// The window stays open so long.
    pub window_left_s: Option<u64>,
    /// Which ceremonies it takes: `label`, `issued`.
    pub ceremonies: Vec<String>,
    /// Its name here, where it is paired.
    pub device: Option<String>,
    /// What keeps it from being connected, and when it is tried again.
    pub note: Option<String>,
}

/// `POST /v1/identify`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentifyRequest {
    /// As `scan` names it.
    pub target: String,
}

/// `POST /v1/pair`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairRequest {
    /// As `scan` names it, or a device that is paired again.
    pub target: String,
    /// The name it gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The code on its label; without it the gateway issues one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Life of an issued code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_s: Option<u64>,
    /// What its token grants; empty for `telemetry:write`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// From where its token may be used, as CIDR ranges; empty for anywhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// Publishes a second that its token allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_second: Option<u32>,
}

/// One line of the answer to `POST /v1/pair`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum PairLine {
    /// Enter this code at the sensor.
    Code {
        /// Its id.
        id: String,
        /// The code; shown once.
        code: String,
        /// What a QR of it says.
        qr: String,
        /// It lives so long.
        ttl_s: u64,
    },
    /// A stage ended well.
    Stage {
        /// `connect`, `key_exchange`, `confirm`, `token`, `first_reading`.
        stage: String,
        /// It took so long.
        elapsed_ms: u64,
        /// What came of it.
        detail: Option<String>,
    },
    /// A person has to approve the device at the issuer.
    Approval {
        /// Where.
        url: String,
        /// The same with the code in it, for a QR.
        complete_url: Option<String>,
        /// What to compare or type there.
        code: String,
        /// The issuer waits so long.
        left_s: u64,
    },
    /// The backend, or an admin here, decides about the device.
    Decision {
        /// Its name.
        device: String,
        /// It is waited for so long; after that the device stays paired and unserved.
        within_s: u64,
    },
    /// A stage failed.
    Failed {
        /// Which.
        stage: String,
        /// For programs.
        cause: String,
        /// What happened and why.
        message: String,
        /// What to do.
        next_step: String,
        /// Exit code of the command line.
        exit_code: u8,
    },
    /// All stages ended well.
    Paired {
        /// Its name.
        device: String,
        /// Of the keys.
        fingerprint: String,
        /// From the arrival of the first reading at the gateway to the cloud's confirmation.
        confirmed_after_ms: u64,
    },
}

/// `POST /v1/devices/{id}/rename`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenameRequest {
    /// The new name.
    pub name: String,
}

/// `POST /v1/codes`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewCodeRequest {
    /// The name that the device gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The one sensor it is for, by its own id; without it the first to claim it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sensor: Option<String>,
    /// `dev`, `staging` or `prod`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// What it is for, in a person's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_s: Option<u64>,
    /// What the device's token grants, `[service/]resource:action`; empty for `telemetry:write`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// Void when no sensor has claimed it within this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_s: Option<u64>,
    /// From where the device's token may be used, as CIDR ranges; empty for anywhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// Publishes a second that the device's token allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_second: Option<u32>,
    /// Asked again with the same key by the same user, no other code is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
}

/// The answer to `POST /v1/codes`: the only time a code is shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewCode {
    /// `ocpc_...`.
    pub id: String,
    /// Whether it was made now; not where the idempotency key had made it before.
    pub made: bool,
    /// The code; none where it was shown before.
    pub code: Option<String>,
    /// What a QR of it says; none where it was shown before.
    pub qr: Option<String>,
    /// It lives so long.
    pub ttl_s: u64,
    /// Guesses it survives.
    pub attempts: u8,
}

/// A code's record; never the code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeRecord {
    /// `ocpc_...`.
    pub id: String,
    /// `active`, `claimed`, `used`, `expired`, `revoked`, `exhausted`.
    pub state: String,
    /// What it is for.
    pub label: Option<String>,
    /// The name that its device gets.
    pub device: Option<String>,
    /// The sensor it is bound to.
    pub sensor: Option<String>,
    /// What the device's token grants.
    pub scopes: Vec<String>,
    /// Who made it.
    pub made_by: String,
    /// When, RFC 3339.
    pub made_at: String,
    /// Seconds it still lives.
    pub left_s: Option<u64>,
    /// Guesses taken.
    pub attempts_taken: u8,
    /// Guesses in all.
    pub attempts: u8,
    /// `dev`, `staging` or `prod`.
    pub stage: String,
    /// From where the device's token may be used; empty for anywhere.
    pub addresses: Vec<String>,
    /// Publishes a second that the device's token allows.
    pub per_second: Option<u32>,
    /// Its whole life.
    pub ttl_s: u64,
    /// How long it waits for a sensor to claim it.
    pub idle_s: Option<u64>,
    /// When a sensor claimed it last, RFC 3339.
    pub claimed_at: Option<String>,
    /// When its life ended, RFC 3339.
    pub ended_at: Option<String>,
    /// Who ended it.
    pub ended_by: Option<String>,
    /// Why.
    pub ended_why: Option<String>,
}

/// `GET /v1/codes/{id}`: why it is as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeExplanation {
    /// `ocpc_...`.
    pub id: String,
    /// As in its record.
    pub state: String,
    /// Its story in words.
    pub explanation: String,
    /// How to go on.
    pub next_step: String,
    /// Its record.
    pub code: CodeRecord,
}

/// A message that the broker refused for good: an element of `GET /v1/dead-letters`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Its name for ever: pairing, epoch and number.
    pub id: String,
    /// Whose it is, where that is known.
    pub device: Option<String>,
    /// `telemetry` or `gap`.
    pub kind: String,
    /// Length of its content.
    pub bytes: usize,
    /// What the broker said.
    pub reason: String,
    /// When, RFC 3339.
    pub at: String,
}

/// `POST /v1/codes/{id}/revoke`, `POST /v1/devices/{id}/approve`, `POST /v1/devices/{id}/reject`, `POST /v1/tokens/{device}/revoke` and `POST /v1/dead-letters/{device}/drop`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WhyRequest {
    /// Why, for the audit log.
    #[serde(default)]
    pub why: String,
}

/// A key of the gateway's own: an element of `GET /v1/keys`. The key itself never leaves the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// What it is for: `issuer`, ...
    pub kind: String,
    /// Names it: a thumbprint of its public half.
    pub id: String,
    /// `in_use`, `published`, `retired`.
    pub state: String,
    /// When it was made, RFC 3339.
    pub made_at: Option<String>,
    /// Seconds since then.
    pub age_s: Option<u64>,
    /// Seconds until it is changed by schedule.
    pub rotates_in_s: Option<u64>,
    /// How it is kept.
    pub protection: String,
    /// What else there is to say.
    pub note: String,
}

/// `POST /v1/keys/{kind}/rotate`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotateKeyRequest {
    /// Whose, for the kind `device`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The old key is known to somebody else: it goes at once.
    #[serde(default)]
    pub now: bool,
}

/// A key was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRotated {
    /// What it is for.
    pub kind: String,
    /// The new one.
    pub id: String,
    /// What was done, for people.
    pub done: String,
    /// What a person does now; empty where nothing is to be done.
    pub next_step: String,
}

/// An answer with nothing to say but that it is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// What was done, for people.
    pub done: String,
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
