//! What clients of the endpoints were given, and had taken back, for the audit log. Nobody waits for whoever reads it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Notes that wait to be read; more than any site's clients ask for between two looks.
const MOST: usize = 1000;

/// What a client was given or had taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Handed {
    /// Who asked, by its own key.
    pub(crate) client: String,
    /// Whom the token stands for.
    pub(crate) subject: String,
    /// When, on the boot clock.
    pub(crate) at: Duration,
    /// What.
    pub(crate) what: Deed,
}

/// Given or taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Deed {
    /// A token.
    Issued {
        /// Its own id.
        jti: String,
        /// From its making to its expiry.
        life: Duration,
    },
    /// Every token of the subject until now.
    Revoked,
}

/// The notes since the last look. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Ledger(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    notes: Vec<Handed>,
    unkept: u64,
}

impl Ledger {
    pub(super) fn note(&self, note: Handed) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.notes.len() < MOST {
            kept.notes.push(note);
        } else {
            kept.unkept += 1;
        }
    }

    /// All since the last call, in order, and how many there was no room for.
    pub(super) fn take(&self) -> (Vec<Handed>, u64) {
        let kept = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        (kept.notes, kept.unkept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_reads_takes_no_memory_without_end() {
        let ledger = Ledger::default();
        let note = Handed { client: "c".into(), subject: "s".into(), at: Duration::ZERO, what: Deed::Revoked };
        for _ in 0..MOST + 3 {
            ledger.note(note.clone());
        }
        let (notes, unkept) = ledger.take();
        assert_eq!((notes.len(), unkept), (MOST, 3));
        assert_eq!(ledger.take(), (Vec::new(), 0));
    }
}
