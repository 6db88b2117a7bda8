//! The sensor's end: answers handshakes under either key slot, changes over at the gateway's first record.

use super::{Opened, SessionError};
use crate::keys::Slots;
use crate::{Random, Transport};

/// The sensor's sessions with its gateway.
#[derive(Debug, Default)]
pub struct Sensor {}

impl Sensor {
    /// Takes Handshake1 and gives the Handshake2 to send. The live session goes on until the gateway's first
    /// record in the new one.
    ///
    /// # Errors
    /// Nothing is answered and nothing changes.
    pub fn handle_handshake1(
        &mut self,
        message: &[u8],
        slots: &Slots,
        transport: Transport,
        now_ms: u64,
        random: &mut dyn Random,
    ) -> Result<&[u8], SessionError> {
        let _ = (message, slots, transport, now_ms, random);
        Err(SessionError::UnknownKey)
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
    pub fn open<'m>(&mut self, message: &'m mut [u8], now_ms: u64) -> Result<Opened<'m>, SessionError> {
        let _ = (message, now_ms);
        Err(SessionError::UnknownSession)
    }

    /// Whether a session is live.
    #[must_use]
    pub fn is_live(&self) -> bool {
        false
    }

    /// Drops every session: a reset or an unpairing.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}
