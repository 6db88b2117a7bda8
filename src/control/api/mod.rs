//! The words of the control API: what goes over the socket, both ways. Times are seconds or milliseconds, as named.
//!
//! One file an area, named like the file of its handlers; here is what several share.

mod codes;
mod configuration;
mod dead_letters;
mod devices;
mod keys;
mod links;
mod status;

use serde::{Deserialize, Serialize};

pub use codes::{CodeExplanation, CodeRecord, NewCode, NewCodeRequest};
pub use configuration::{ConfigKey, Configuration, Unset, UnsetRequest};
pub use dead_letters::DeadLetter;
pub use devices::{Decision, Device, Relay, RenameRequest, Token};
pub use keys::{Key, KeyRotated, RotateKeyRequest};
pub use links::{Found, IdentifyRequest, PairLine, PairRequest};
pub use status::{Alarm, Health, Overlaid, Port, Problem, Radio, Spool, Status, WatchLine};

/// `POST /v1/codes/{id}/revoke`, `POST /v1/devices/{id}/approve`, `POST /v1/devices/{id}/reject`,
/// `POST /v1/tokens/{device}/revoke` and `POST /v1/dead-letters/{device}/drop`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WhyRequest {
    /// Why, for the audit log.
    #[serde(default)]
    pub why: String,
}

/// Why, where a person said nothing.
pub(crate) const NO_REASON: &str = "no reason was given";

/// An answer with nothing to say but that it is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// What was done, for people.
    pub done: String,
}
