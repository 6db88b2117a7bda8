//! What became of each request for a token, for the audit log. Nobody waits for whoever reads it.

use std::sync::{Arc, Mutex, PoisonError};
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
#[derive(Debug, Clone, Default)]
pub(super) struct Journal(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    notes: Vec<Note>,
    unkept: u64,
}

impl Journal {
    pub(super) fn note(&self, device: &DeviceId, at: Duration, what: Became) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.notes.len() < MOST {
            kept.notes.push(Note { device: device.clone(), at, what });
        } else {
            kept.unkept += 1;
        }
    }

    /// All since the last call, in order, and how many there was no room for.
    pub(super) fn take(&self) -> (Vec<Note>, u64) {
        let kept = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        (kept.notes, kept.unkept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_reads_takes_no_memory_without_end() {
        let journal = Journal::default();
        let device: DeviceId = "pump-3".parse().unwrap();
        for _ in 0..MOST + 3 {
            journal.note(&device, Duration::ZERO, Became::Failed("down".to_owned()));
        }
        let (notes, unkept) = journal.take();
        assert_eq!((notes.len(), unkept), (MOST, 3));
        assert_eq!(journal.take(), (Vec::new(), 0));
    }
}
