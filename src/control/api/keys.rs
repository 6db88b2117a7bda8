//! The gateway's own keys.

use serde::{Deserialize, Serialize};

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
