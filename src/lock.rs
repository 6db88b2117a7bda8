//! A lock on a file, taken with a little patience.

use std::fs::{File, TryLockError};
use std::thread;
use std::time::Duration;

/// Who let go of it a moment ago may have been starting a program meanwhile, which holds a copy until it runs.
const TRIES: u32 = 50;
const BETWEEN: Duration = Duration::from_millis(10);

/// Takes the lock, or says that another keeps it.
pub(crate) fn take(file: &File) -> Result<(), TryLockError> {
    patiently(|| file.try_lock())
}

fn patiently(mut attempt: impl FnMut() -> Result<(), TryLockError>) -> Result<(), TryLockError> {
    for _ in 1..TRIES {
        match attempt() {
            Err(TryLockError::WouldBlock) => thread::sleep(BETWEEN),
            done => return done,
        }
    }
    attempt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_comes_free_is_waited_for_and_one_that_does_not_is_given_up() {
        let mut tries = 0;
        let mut free_at = |at: u32| {
            tries = 0;
            patiently(|| {
                tries += 1;
                if tries == at { Ok(()) } else { Err(TryLockError::WouldBlock) }
            })
        };
        assert!(free_at(1).is_ok() && free_at(TRIES).is_ok());
        assert!(matches!(free_at(TRIES + 1), Err(TryLockError::WouldBlock)));
    }
}
