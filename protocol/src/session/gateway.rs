//! The gateway's end: starts handshakes, speaks first in each new session.

use core::fmt;

use zeroize::Zeroizing;

use super::keyed::{Prologue, Session, key_id_tag};
use super::{HANDSHAKE1_LEN, HANDSHAKE2_LEN, Opened, SessionError};
use crate::keys::PairingRecord;
use crate::message::Kind;
use crate::noise::Initiator;
use crate::record::index_of;
use crate::{Random, Transport};

/// The gateway's sessions with one sensor.
#[derive(Default)]
pub struct Gateway {
    live: Option<Session>,
    /// The one before: records that were on their way still open, until the sensor speaks in the new one.
    previous: Option<Session>,
    handshake: Option<Handshake>,
}

/// A Handshake1 that waits for its answer.
struct Handshake {
    initiator: Initiator,
    index: u8,
    pairing_id: [u8; 8],
    message: [u8; HANDSHAKE1_LEN],
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway").field("live", &self.is_live()).finish_non_exhaustive()
    }
}

impl Gateway {
    /// Starts a handshake under `record` (of a new link, or to renew); the live session goes on. The returned
    /// Handshake1 may be sent again unchanged while no answer comes ([`Self::handshake1`]). After two seconds
    /// without one call this again: a fresh handshake draws another index, and the sensor no longer holds an
    /// earlier one against it.
    ///
    /// # Errors
    /// [`SessionError::Unauthentic`] if the keys of the record are unusable.
    pub fn connect(
        &mut self,
        record: &PairingRecord,
        transport: Transport,
        random: &mut dyn Random,
    ) -> Result<&[u8], SessionError> {
        let (mut ephemeral, mut index) = (Zeroizing::new([0; 32]), [0]);
        random.fill(&mut *ephemeral);
        random.fill(&mut index);
        let index = self.free_index(index);
        let prologue = Prologue::new(record, transport, index)?;

        let mut message = [0; HANDSHAKE1_LEN];
        let [kind, at, rest @ ..] = &mut message;
        (*kind, *at) = (Kind::Handshake1.byte(), index);
        let (tag, noise) = rest.split_first_chunk_mut::<8>().ok_or(SessionError::NoSpace)?;
        let initiator =
            Initiator::start(&prologue.known(record), &ephemeral, &[], noise).map_err(|_| SessionError::Unauthentic)?;
        let point = noise.first_chunk::<32>().ok_or(SessionError::NoSpace)?;
        *tag = key_id_tag(record, point, index);
        let handshake = Handshake { initiator, index, pairing_id: record.pairing_id, message };
        Ok(&self.handshake.insert(handshake).message)
    }

    /// The Handshake1 that waits for its answer.
    #[must_use]
    pub fn handshake1(&self) -> Option<&[u8]> {
        self.handshake.as_ref().map(|handshake| handshake.message.as_slice())
    }

    /// Takes Handshake2. The new session is live from now on: seal a record at once, since the sensor
    /// changes over at the first one.
    ///
    /// # Errors
    /// The answer is dropped; the handshake still waits for the right one.
    pub fn handle_handshake2(&mut self, message: &[u8], now_ms: u64) -> Result<(), SessionError> {
        let answer: &[u8; HANDSHAKE2_LEN] = message.try_into().map_err(|_| SessionError::Malformed)?;
        let [kind, index, noise @ ..] = answer;
        if *kind != Kind::Handshake2.byte() {
            return Err(SessionError::Malformed);
        }
        let handshake = self.handshake.as_ref().filter(|h| h.index == *index).ok_or(SessionError::UnknownSession)?;
        let keys = handshake.initiator.finish(noise, &mut []).map_err(|_| SessionError::Unauthentic)?;
        let session = Session::new(handshake.index, handshake.pairing_id, &keys, now_ms);
        self.handshake = None;
        self.previous = self.live.replace(session);
        Ok(())
    }

    /// Seals `plaintext` into `out`; gives the length of the record.
    ///
    /// # Errors
    /// [`SessionError::UnknownSession`], [`SessionError::Exhausted`], [`SessionError::NoSpace`].
    pub fn seal(&mut self, plaintext: &[u8], out: &mut [u8]) -> Result<usize, SessionError> {
        self.live.as_mut().ok_or(SessionError::UnknownSession)?.seal(plaintext, out)
    }

    /// Opens a record in place.
    ///
    /// # Errors
    /// The record is dropped; the session goes on.
    pub fn open<'m>(&mut self, message: &'m mut [u8]) -> Result<Opened<'m>, SessionError> {
        let index = index_of(message)?;
        if let Some(live) = self.live.as_mut().filter(|live| live.index == index) {
            let opened = live.open(message)?;
            self.previous = None;
            return Ok(opened);
        }
        self.previous.as_mut().filter(|p| p.index == index).ok_or(SessionError::UnknownSession)?.open(message)
    }

    /// Whether a session is live.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        self.live.is_some()
    }

    /// Whether it is time to [`Self::connect`] again: no session, 24 h, or 2^20 records in a direction.
    #[must_use]
    pub fn wants_rekey(&self, now_ms: u64) -> bool {
        self.live.as_ref().is_none_or(|live| live.is_old(now_ms))
    }

    /// The next index from `drawn` on that neither session has.
    fn free_index(&self, [drawn]: [u8; 1]) -> u8 {
        let used = [&self.live, &self.previous].map(|s| s.as_ref().map(|s| s.index));
        (0..=2).map(|step| drawn.wrapping_add(step)).find(|index| !used.contains(&Some(*index))).unwrap_or(drawn)
    }
}
