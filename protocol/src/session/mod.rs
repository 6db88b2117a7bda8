//! Sessions: the Noise handshake under a pairing's keys, and the records it protects.
//!
//! [`Gateway`] and [`Sensor`] each hold the live session and at most one that is being set up. A session is
//! fresh at every reconnect, every [`SESSION_LIMIT_MS`] or [`REKEY_AFTER_RECORDS`] records. The old one lives
//! until the first valid gateway record of the new one: after a handshake the gateway sends a record at once.
//! All messages here start with their type byte.

mod gateway;
mod keyed;
mod sensor;

use core::fmt;

pub use gateway::Gateway;
pub use sensor::Sensor;

pub use crate::record::RECORD_OVERHEAD;

/// The length of Handshake1 with its type byte: index 1, HMAC 8, ephemeral 32, tag 16.
pub const HANDSHAKE1_LEN: usize = 1 + 1 + 8 + 32 + 16;

/// The length of Handshake2 with its type byte: index 1, ephemeral 32, tag 16.
pub const HANDSHAKE2_LEN: usize = 1 + 1 + 32 + 16;

/// The longest a session may live before it is renewed: 24 hours.
pub const SESSION_LIMIT_MS: u64 = 24 * 60 * 60 * 1000;

/// After this many records in one direction a session is renewed.
pub const REKEY_AFTER_RECORDS: u32 = 1 << 20;

/// How long a pending handshake at the sensor is not displaced by another.
pub const PENDING_HOLD_MS: u64 = 2_000;

/// A record that was opened.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened<'m> {
    /// What stood in it.
    pub plaintext: &'m [u8],
    /// The peer's first valid record of this session: it proves that the peer has this pairing's keys. At the
    /// sensor it is also the moment at which the new session replaces the old one.
    pub first: bool,
    /// The pairing whose keys the session is under: give it to [`Slots::prove`](crate::keys::Slots::prove)
    /// when `first` is set.
    pub pairing_id: [u8; 8],
}

/// Why a handshake or a record was not taken. Nothing of it is told to the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionError {
    /// Too short, too long or not of this type.
    Malformed,
    /// No session or handshake with this index is live.
    UnknownSession,
    /// The 8 bytes in front of a handshake fit none of our keys.
    UnknownKey,
    /// It did not authenticate.
    Unauthentic,
    /// This counter or this ephemeral was seen before, or is too old to tell.
    Replayed,
    /// The live session has this index.
    IndexInUse,
    /// Another handshake is pending and not yet to be displaced.
    Busy,
    /// The counter is used up: set up a new session.
    Exhausted,
    /// The output buffer is too small.
    NoSpace,
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "the peer sent a handshake or record of a wrong form: check its firmware version",
            Self::UnknownSession => "a record of no live session: one end restarted; a new handshake follows",
            Self::UnknownKey => "a handshake under no key of ours: not our gateway, or paired anew meanwhile",
            Self::Unauthentic => "a handshake or record did not authenticate: changed on its way or forged; dropped",
            Self::Replayed => "a handshake or record came twice: dropped",
            Self::IndexInUse => "a handshake for the index of the live session: the gateway draws another one",
            Self::Busy => "another handshake is pending: wait two seconds",
            Self::Exhausted => "the session's counter is used up: a new handshake must come first",
            Self::NoSpace => "the buffer for a record is too small: give 22 bytes more than the plaintext",
        })
    }
}

impl core::error::Error for SessionError {}
