//! What the broker refused for good.

use serde::{Deserialize, Serialize};

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
