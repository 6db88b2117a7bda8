//! Signed commands from the cloud: who may command what, whether one is good now, what its answer is. Plain functions
//! over bytes; the daemon carries them out.
//!
//! A command is a compact JWS (RFC 7515) over JSON claims. Nothing of it is believed before the signature of a key that
//! the operator configured has been checked.

mod judge;
mod jwe;
mod keys;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(crate) use judge::{Judged, Refused, Rules, judge};
pub(crate) use jwe::encrypt;
pub use keys::CommandKeyError;
pub(crate) use keys::CommandKeys;

/// What a key can be allowed to command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CommandName {
    /// End a device's token, or a pairing code.
    Revoke,
    /// Say yes or no to a pairing that waits.
    Approve,
    /// Make a pairing code.
    Code,
    /// Change a key of the configuration while running.
    Config,
}

impl CommandName {
    /// As it stands in a topic and in the claim `cmd`.
    #[must_use]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Revoke => "revoke",
            Self::Approve => "approve",
            Self::Code => "code",
            Self::Config => "config",
        }
    }
}

/// What a key of the configuration says in its claims.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Claims {
    /// The key's name in the configuration.
    pub(crate) iss: String,
    /// `TENANT/GATEWAY`.
    pub(crate) aud: String,
    /// Made at, seconds since 1970.
    pub(crate) iat: u64,
    /// Not good from then on.
    pub(crate) exp: u64,
    /// The command's own id: the same one is carried out once.
    pub(crate) jti: String,
    /// What to do.
    pub(crate) cmd: CommandName,
    /// With what.
    #[serde(default)]
    pub(crate) args: Value,
}
