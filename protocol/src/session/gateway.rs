//! The gateway's end: starts handshakes, speaks first in each new session.

use super::{Opened, SessionError};
use crate::keys::PairingRecord;
use crate::{Random, Transport};

/// The gateway's sessions with one sensor.
#[derive(Debug, Default)]
pub struct Gateway {}

impl Gateway {
    /// Starts a handshake under `record` (of a new link, or to renew); the live session goes on. The returned
    /// Handshake1 may be sent again unchanged while no answer comes ([`Self::handshake1`]).
    ///
    /// # Errors
    /// [`SessionError::Unauthentic`] if the keys of the record are unusable.
    pub fn connect(
        &mut self,
        record: &PairingRecord,
        transport: Transport,
        random: &mut dyn Random,
    ) -> Result<&[u8], SessionError> {
        let _ = (record, transport, random);
        Err(SessionError::Unauthentic)
    }

    /// The Handshake1 that waits for its answer.
    #[must_use]
    pub fn handshake1(&self) -> Option<&[u8]> {
        None
    }

    /// Takes Handshake2. The new session is live from now on: seal a record at once, since the sensor
    /// changes over at the first one.
    ///
    /// # Errors
    /// The answer is dropped; the handshake still waits for the right one.
    pub fn handle_handshake2(&mut self, message: &[u8], now_ms: u64) -> Result<(), SessionError> {
        let _ = (message, now_ms);
        Err(SessionError::Malformed)
    }

    /// Seals `plaintext` into `out`; gives the length of the record.
    ///
    /// # Errors
    /// [`SessionError::UnknownSession`], [`SessionError::Exhausted`], [`SessionError::NoSpace`].
    pub fn seal(&mut self, plaintext: &[u8], out: &mut [u8]) -> Result<usize, SessionError> {
        let _ = (plaintext, out);
        Err(SessionError::UnknownSession)
    }

    /// Opens a record in place.
    ///
    /// # Errors
    /// The record is dropped; the session goes on.
    pub fn open<'m>(&mut self, message: &'m mut [u8]) -> Result<Opened<'m>, SessionError> {
        let _ = message;
        Err(SessionError::UnknownSession)
    }

    /// Whether a session is live.
    #[must_use]
    pub fn is_live(&self) -> bool {
        false
    }

    /// Whether it is time to [`Self::connect`] again: no session, 24 h, or 2^20 records in a direction.
    #[must_use]
    pub fn wants_rekey(&self, now_ms: u64) -> bool {
        let _ = now_ms;
        true
    }
}
