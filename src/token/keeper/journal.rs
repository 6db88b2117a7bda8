//! What became of each request for a token, for the audit log. Nobody waits for whoever reads it.

use std::time::Duration;

use crate::ids::DeviceId;

/// Notes that wait to be read: two for each device there can be.
const MOST: usize = 20_000;

/// Something that became of a device's token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Whose token.
    pub device: DeviceId,
    /// When, on the boot clock.
    pub at: Duration,
    /// What.
    pub what: Became,
}

/// What became of a token, or of a request for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Became {
    /// It came.
    Issued {
        /// Its own id.
        jti: String,
        /// From its receipt to its expiry.
        life: Duration,
    },
    /// None came, and why.
    Failed(String),
    /// The device is paused until an operator acts, and why.
    Paused(String),
    /// The issuer took the revocation that it could not be told at first, after so many failures.
    RevocationTold(u32),
}

/// The notes since the last look. Clones share it.
pub(super) type Journal = crate::token::journal::Journal<Note, MOST>;
