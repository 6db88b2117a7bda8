//! What a sensor keeps over a reboot, as one block of bytes with a checksum.

use core::fmt;

use sha2::{Digest, Sha512};
use zeroize::Zeroizing;

use crate::Random;
use crate::keys::{self, PairingRecord, Slots};

/// The length of the block.
pub const STATE_LEN: usize = HEAD + 2 * keys::RECORD_LEN + CHECK;

/// Format, which slots are used, own static secret, label attempts.
const HEAD: usize = 1 + 1 + 32 + 4;
const CHECK: usize = 8;
const FORMAT: u8 = 1;
const CURRENT: u8 = 1;
const PENDING: u8 = 2;

/// Keeps one block of bytes over a power cut.
pub trait Storage {
    /// Replaces the block that is kept (secrets in clear: for protected flash or a private file only). On return the new block is safe from a power cut; a cut in between
    /// leaves the old one or the new one, never a mixture.
    ///
    /// # Errors
    /// The block could not be kept. The sensor then goes no further in what it was doing.
    fn save(&mut self, state: &[u8; STATE_LEN]) -> Result<(), StorageFailed>;
}

/// The storage could not keep the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StorageFailed;

impl fmt::Display for StorageFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the sensor's storage failed: nothing was changed")
    }
}

impl core::error::Error for StorageFailed {}

/// The block that was kept is damaged or of another version.
#[derive(Debug)]
pub(super) struct DamagedState;

/// What is kept.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) own_static: Zeroizing<[u8; 32]>,
    pub(super) attempts: u32,
    pub(super) slots: Slots,
}

impl State {
    /// The state of a sensor that was never paired, with a static key of its own.
    pub(super) fn fresh(random: &mut dyn Random) -> Self {
        let mut own_static = Zeroizing::new([0; 32]);
        random.fill(own_static.as_mut_slice());
        Self { own_static, attempts: 0, slots: Slots::default() }
    }

    pub(super) fn to_bytes(&self) -> Zeroizing<[u8; STATE_LEN]> {
        let mut out = Zeroizing::new([0; STATE_LEN]);
        let (body, check) = out.split_at_mut(STATE_LEN - CHECK);
        let used = |slot: Option<&PairingRecord>, bit| if slot.is_some() { bit } else { 0 };
        let flags = used(self.slots.current(), CURRENT) | used(self.slots.pending(), PENDING);
        let mut rest = body.iter_mut();
        let mut put = |bytes: &[u8]| rest.by_ref().zip(bytes).for_each(|(to, from)| *to = *from);
        put(&[FORMAT, flags]);
        put(self.own_static.as_slice());
        put(&self.attempts.to_be_bytes());
        for slot in [self.slots.current(), self.slots.pending()] {
            put(Zeroizing::new(slot.map_or([0; keys::RECORD_LEN], PairingRecord::to_bytes)).as_slice());
        }
        check.iter_mut().zip(Sha512::digest(&*body)).for_each(|(to, from)| *to = from);
        out
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, DamagedState> {
        Self::parse(bytes).ok_or(DamagedState)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let block: &[u8; STATE_LEN] = bytes.try_into().ok()?;
        let (body, check) = block.split_last_chunk::<CHECK>()?;
        if Sha512::digest(body).first_chunk()? != check {
            return None;
        }
        let ([FORMAT, flags], rest) = body.split_first_chunk()? else { return None };
        let (own_static, rest) = rest.split_first_chunk()?;
        let (attempts, rest) = rest.split_first_chunk()?;
        let (current, pending) = rest.split_at_checked(keys::RECORD_LEN)?;
        let slot = |bit, bytes: &[u8]| match flags & bit {
            0 => Some(None),
            _ => PairingRecord::from_bytes(bytes.try_into().ok()?).ok().map(Some),
        };
        Some(Self {
            own_static: Zeroizing::new(*own_static),
            attempts: u32::from_be_bytes(*attempts),
            slots: Slots::new(slot(CURRENT, current)?, slot(PENDING, pending)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counting(u8);

    impl Random for Counting {
        fn fill(&mut self, bytes: &mut [u8]) {
            for byte in bytes {
                self.0 = self.0.wrapping_add(1);
                *byte = self.0;
            }
        }
    }

    #[test]
    fn the_state_survives_as_bytes_and_no_damaged_bit_goes_unseen() {
        let state = State { attempts: 7, ..State::fresh(&mut Counting(0)) };
        let bytes = state.to_bytes();
        let again = State::from_bytes(bytes.as_slice()).unwrap();
        assert_eq!((again.attempts, &again.own_static), (7, &state.own_static));
        assert!(again.slots.candidates().next().is_none());
        for bit in 0..STATE_LEN * 8 {
            let mut damaged = *bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(State::from_bytes(&damaged).is_err(), "bit {bit}");
        }
        assert!(State::from_bytes(&bytes[1..]).is_err());
    }
}
