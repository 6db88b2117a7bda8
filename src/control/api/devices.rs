//! Paired devices, with their token and their connection to the broker.

use serde::{Deserialize, Serialize};

/// A paired device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// The certificate that must be shown with it (`x5t#S256`); none where whoever has it may use it.
    #[serde(default)]
    pub bound_to: Option<String>,
    /// What clawgate does next, and what a person should do; empty where nothing is the matter.
    #[serde(default)]
    pub next_step: String,
}

/// `POST /v1/devices/{id}/rename`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenameRequest {
    /// The new name.
    pub name: String,
}
