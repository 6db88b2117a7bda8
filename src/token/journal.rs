//! Notes for the audit log. Nobody waits for whoever reads them, and nobody may read them at all: so they are bounded.

use std::sync::{Arc, Mutex, PoisonError};

/// The notes since the last look, `MOST` at most. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Journal<N, const MOST: usize>(Arc<Mutex<(Vec<N>, u64)>>);

impl<N, const MOST: usize> Default for Journal<N, MOST> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<N, const MOST: usize> Journal<N, MOST> {
    pub(super) fn note(&self, note: N) {
        let (notes, unkept) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if notes.len() < MOST {
            notes.push(note);
        } else {
            *unkept += 1;
        }
    }

    /// All since the last call, in order, and how many there was no room for.
    pub(super) fn take(&self) -> (Vec<N>, u64) {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_reads_takes_no_memory_without_end() {
        let journal = Journal::<_, 4>::default();
        (0..7).for_each(|number| journal.note(number));
        assert_eq!(journal.take(), (vec![0, 1, 2, 3], 3));
        assert_eq!(journal.take(), (Vec::new(), 0));
    }
}
