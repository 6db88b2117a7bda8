//! Pairing codes made here.

use serde::{Deserialize, Serialize};

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
    /// It is void when no sensor has claimed it within this time.
    #[serde(default)]
    pub idle_s: Option<u64>,
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
