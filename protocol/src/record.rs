//! Encrypted records of one session: counters, the replay window, the AEAD.
//!
//! A record is its type byte, the session index, a 4-byte big-endian counter and the ciphertext with its tag;
//! the first six bytes are the AAD. No counter is used twice and none beyond the limit; the window moves
//! only after a record authenticated.

use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::aead::{self, TAG_LEN};
use crate::message::Kind;
use crate::session::SessionError;

/// Type byte, session index, counter.
const HEADER_LEN: usize = 1 + 1 + 4;

/// The bytes a record adds to its plaintext: type, session index, counter, tag.
pub const RECORD_OVERHEAD: usize = HEADER_LEN + TAG_LEN;

/// The counter that is never used; a session is renewed long before.
const COUNTER_LIMIT: u32 = u32::MAX;

/// What we send in a session.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) struct Sealer {
    key: [u8; 32],
    index: u8,
    next: u32,
}

impl Sealer {
    pub(crate) const fn new(key: [u8; 32], index: u8) -> Self {
        Self { key, index, next: 0 }
    }

    /// How many records were sealed.
    pub(crate) const fn count(&self) -> u32 {
        self.next
    }

    /// As if that many records had been sealed.
    #[cfg(test)]
    pub(crate) const fn skip_to(&mut self, counter: u32) {
        self.next = counter;
    }

    /// Writes the record of `plaintext` into `out`; gives its length.
    pub(crate) fn seal(&mut self, plaintext: &[u8], out: &mut [u8]) -> Result<usize, SessionError> {
        let length = plaintext.len().saturating_add(RECORD_OVERHEAD);
        let record = out.get_mut(..length).ok_or(SessionError::NoSpace)?;
        if self.next == COUNTER_LIMIT {
            return Err(SessionError::Exhausted);
        }
        let counter = self.next;
        // Taken before it is used: whatever happens below, it is not used again.
        self.next = counter.saturating_add(1);
        let (header, rest) = record.split_first_chunk_mut::<HEADER_LEN>().ok_or(SessionError::NoSpace)?;
        let [a, b, c, d] = counter.to_be_bytes();
        *header = [Kind::Record.byte(), self.index, a, b, c, d];
        let (text, tag) = rest.split_last_chunk_mut::<TAG_LEN>().ok_or(SessionError::NoSpace)?;
        text.copy_from_slice(plaintext);
        *tag = aead::seal(&self.key, u64::from(counter), header, text).map_err(|_| SessionError::NoSpace)?;
        Ok(length)
    }
}

/// What we receive in a session.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) struct Opener {
    key: [u8; 32],
    #[zeroize(skip)]
    window: Window,
}

impl Opener {
    pub(crate) fn new(key: [u8; 32]) -> Self {
        Self { key, window: Window::default() }
    }

    /// One more than the highest counter that was taken.
    pub(crate) const fn count(&self) -> u32 {
        self.window.next
    }

    /// Decrypts a record in place.
    pub(crate) fn open<'m>(&mut self, record: &'m mut [u8]) -> Result<&'m [u8], SessionError> {
        let (header, rest) = record.split_first_chunk_mut::<HEADER_LEN>().ok_or(SessionError::Malformed)?;
        let (text, tag) = rest.split_last_chunk_mut::<TAG_LEN>().ok_or(SessionError::Malformed)?;
        let [_, _, a, b, c, d] = *header;
        let counter = u32::from_be_bytes([a, b, c, d]);
        if counter == COUNTER_LIMIT || !self.window.allows(counter) {
            return Err(SessionError::Replayed);
        }
        aead::open(&self.key, u64::from(counter), header, text, tag).map_err(|_| SessionError::Unauthentic)?;
        self.window.take(counter);
        Ok(text)
    }
}

/// The session index of a record.
pub(crate) fn index_of(record: &[u8]) -> Result<u8, SessionError> {
    match record {
        [kind, index, ..] if *kind == Kind::Record.byte() && record.len() >= RECORD_OVERHEAD => Ok(*index),
        _ => Err(SessionError::Malformed),
    }
}

/// The last 64 counters that were taken.
#[derive(Clone, Copy, Default)]
struct Window {
    /// One more than the highest counter taken.
    next: u32,
    /// Bit n: the counter `next - 1 - n` was taken.
    taken: u64,
}

impl Window {
    fn allows(&self, counter: u32) -> bool {
        match self.age(counter) {
            None => true,
            Some(age) => age < 64 && self.taken & (1 << age) == 0,
        }
    }

    fn take(&mut self, counter: u32) {
        if let Some(age) = self.age(counter) {
            self.taken |= 1_u64.checked_shl(age).unwrap_or(0);
        } else {
            let ahead = counter.saturating_sub(self.next).saturating_add(1);
            self.taken = self.taken.checked_shl(ahead).unwrap_or(0) | 1;
            self.next = counter.saturating_add(1);
        }
    }

    /// How far a counter lies behind the highest one taken; none if it is ahead.
    const fn age(&self, counter: u32) -> Option<u32> {
        match self.next.checked_sub(counter) {
            None | Some(0) => None,
            Some(behind) => behind.checked_sub(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::vec::Vec;

    fn ends() -> (Sealer, Opener) {
        (Sealer::new([7; 32], 3), Opener::new([7; 32]))
    }

    fn sealed(sealer: &mut Sealer) -> Vec<u8> {
        let mut out = [0; 64];
        let length = sealer.seal(b"reading", &mut out).unwrap();
        out[..length].to_vec()
    }

    #[test]
    fn a_record_has_its_index_and_a_big_endian_counter_in_front() {
        let (mut sealer, mut opener) = ends();
        sealer.next = 0x0102_0304;
        let mut record = sealed(&mut sealer);
        assert_eq!(record[..6], [0x23, 3, 1, 2, 3, 4]);
        assert_eq!(record.len(), b"reading".len() + RECORD_OVERHEAD);
        assert_eq!(opener.open(&mut record), Ok(b"reading".as_slice()));
    }

    #[test]
    fn the_last_counter_is_never_used() {
        let (mut sealer, mut opener) = ends();
        sealer.next = u32::MAX - 1;
        let mut last = sealed(&mut sealer);
        assert!(opener.open(&mut last).is_ok());
        for _ in 0..3 {
            assert_eq!(sealer.seal(b"reading", &mut [0; 64]), Err(SessionError::Exhausted));
        }
    }

    #[test]
    fn a_record_that_does_not_fit_uses_no_counter() {
        let (mut sealer, _) = ends();
        assert_eq!(sealer.seal(b"reading", &mut [0; 20]), Err(SessionError::NoSpace));
        assert_eq!(sealer.count(), 0);
    }

    #[test]
    fn a_forged_counter_does_not_move_the_window() {
        let (mut sealer, mut opener) = ends();
        let mut forged = sealed(&mut sealer);
        let mut honest = forged.clone();
        forged[2] = 0x7f;
        assert_eq!(opener.open(&mut forged), Err(SessionError::Unauthentic));
        assert_eq!(opener.count(), 0);
        assert!(opener.open(&mut honest).is_ok());
    }

    #[test]
    fn a_forged_record_leaves_no_plaintext_behind() {
        let (mut sealer, mut opener) = ends();
        let mut forged = sealed(&mut sealer);
        forged[6] ^= 1;
        let before = forged.clone();
        assert!(opener.open(&mut forged).is_err());
        assert_eq!(forged, before);
    }

    proptest! {
        #[test]
        fn the_window_takes_each_of_the_last_64_once(counters in proptest::collection::vec(0_u32..200, 1..300)) {
            let (mut window, mut seen) = (Window::default(), BTreeSet::new());
            for counter in counters {
                let highest = seen.last().copied();
                let fresh = !seen.contains(&counter) && highest.is_none_or(|high| counter + 64 > high);
                prop_assert_eq!(window.allows(counter), fresh, "{} after {:?}", counter, highest);
                if fresh {
                    window.take(counter);
                    seen.insert(counter);
                }
            }
        }

        #[test]
        fn no_bytes_make_an_opener_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let (_, mut opener) = ends();
            prop_assert!(opener.open(&mut bytes).is_err());
        }
    }
}
