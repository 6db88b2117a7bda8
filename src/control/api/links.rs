//! Sensors in reach, and how one is paired.

use serde::{Deserialize, Serialize};

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
