//! The sensor's end: answers handshakes under either key slot, changes over at the gateway's first record.

use core::fmt;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::keyed::{Prologue, Session, key_id_tag};
use super::{HANDSHAKE1_LEN, HANDSHAKE2_LEN, Opened, PENDING_HOLD_MS, SessionError};
use crate::keys::Slots;
use crate::message::Kind;
use crate::noise::respond;
use crate::record::index_of;
use crate::{Random, Transport};

/// How many handshakes are remembered, so that none is taken twice.
const REMEMBERED: usize = 16;

/// The sensor's sessions with its gateway.
#[derive(Default)]
pub struct Sensor {
    live: Option<Session>,
    pending: Option<Pending>,
    /// The 8 bytes in front of the last handshakes taken: they differ wherever the ephemeral does.
    remembered: heapless::Deque<[u8; 8], REMEMBERED>,
}

/// A handshake that was answered; no record of the gateway came under it yet.
struct Pending {
    session: Session,
    since_ms: u64,
    handshake1: [u8; HANDSHAKE1_LEN],
    handshake2: [u8; HANDSHAKE2_LEN],
}

impl fmt::Debug for Sensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sensor").field("live", &self.is_live()).finish_non_exhaustive()
    }
}

impl Sensor {
    /// Takes Handshake1 and gives the Handshake2 to send. The live session goes on until the gateway's first
    /// record in the new one; the same Handshake1 again gets the same answer.
    ///
    /// # Errors
    /// Nothing is answered and nothing changes. Nothing but [`SessionError::Unauthentic`] costs more than two
    /// HMACs.
    pub fn handle_handshake1(
        &mut self,
        message: &[u8],
        slots: &Slots,
        transport: Transport,
        now_ms: u64,
        random: &mut dyn Random,
    ) -> Result<&[u8], SessionError> {
        let handshake1: &[u8; HANDSHAKE1_LEN] = message.try_into().map_err(|_| SessionError::Malformed)?;
        let [kind, index, rest @ ..] = handshake1;
        let (tag, noise) = rest.split_first_chunk::<8>().ok_or(SessionError::Malformed)?;
        let point = noise.first_chunk::<32>().ok_or(SessionError::Malformed)?;
        if *kind != Kind::Handshake1.byte() {
            return Err(SessionError::Malformed);
        }
        if self.pending.as_ref().is_some_and(|pending| pending.handshake1 == *handshake1) {
            return self.pending.as_ref().map(|p| p.handshake2.as_slice()).ok_or(SessionError::Malformed);
        }
        let record = slots
            .candidates()
            .find(|record| key_id_tag(record, point, *index).ct_eq(tag).into())
            .ok_or(SessionError::UnknownKey)?;
        if self.remembered.iter().any(|seen| seen == tag) {
            return Err(SessionError::Replayed);
        }
        if self.live.as_ref().is_some_and(|live| live.index == *index) {
            return Err(SessionError::IndexInUse);
        }
        let held = |pending: &Pending| now_ms < pending.since_ms.saturating_add(PENDING_HOLD_MS);
        if self.pending.as_ref().is_some_and(held) {
            return Err(SessionError::Busy);
        }

        let mut ephemeral = Zeroizing::new([0; 32]);
        random.fill(&mut *ephemeral);
        let prologue = Prologue::new(record, transport, *index)?;
        let mut handshake2 = [0; HANDSHAKE2_LEN];
        let [answer_kind, answer_index, answer @ ..] = &mut handshake2;
        (*answer_kind, *answer_index) = (Kind::Handshake2.byte(), *index);
        let keys = respond(&prologue.known(record), &ephemeral, noise, &mut [], &[], answer)
            .map_err(|_| SessionError::Unauthentic)?;
        let session = Session::new(*index, record.pairing_id, &keys, now_ms);
        self.remember(*tag);
        let pending = Pending { session, since_ms: now_ms, handshake1: *handshake1, handshake2 };
        Ok(&self.pending.insert(pending).handshake2)
    }

    /// Seals `plaintext` into `out`; gives the length of the record.
    ///
    /// # Errors
    /// [`SessionError::UnknownSession`], [`SessionError::Exhausted`], [`SessionError::NoSpace`].
    pub fn seal(&mut self, plaintext: &[u8], out: &mut [u8]) -> Result<usize, SessionError> {
        self.live.as_mut().ok_or(SessionError::UnknownSession)?.seal(plaintext, out)
    }

    /// Opens a record in place. The first one of a pending session makes it the live one.
    ///
    /// # Errors
    /// The record is dropped; the session goes on.
    pub fn open<'m>(&mut self, message: &'m mut [u8]) -> Result<Opened<'m>, SessionError> {
        let index = index_of(message)?;
        if let Some(live) = self.live.as_mut().filter(|live| live.index == index) {
            return live.open(message);
        }
        let mut pending = self.pending.take_if(|p| p.session.index == index).ok_or(SessionError::UnknownSession)?;
        let opened = pending.session.open(message);
        if opened.is_ok() {
            self.live = Some(pending.session);
        } else {
            self.pending = Some(pending);
        }
        opened
    }

    /// Whether a session is live.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        self.live.is_some()
    }

    /// Drops every session: a reset or an unpairing.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    fn remember(&mut self, tag: [u8; 8]) {
        if self.remembered.is_full() {
            let _oldest = self.remembered.pop_front();
        }
        // Never full here.
        let _ = self.remembered.push_back(tag);
    }
}
