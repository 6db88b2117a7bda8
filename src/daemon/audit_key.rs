//! The key that signs the audit log, and the one that takes its place. Three steps: the new key is kept beside the one in
//! use, the log goes over to it by a line that the old one signed, the store follows. The log says which key it is signed
//! by, so a crash between any two steps is put right when it is opened.

use std::sync::{Mutex, PoisonError};

use zeroize::Zeroizing;

use crate::audit::{Actor, Audit, AuditError, AuditKeys, Digest, Retention};
use crate::clock::Clock;
use crate::secret::Secret;
use crate::store::{Store, StoreError};

/// Name of the sealed key.
const KEY: &str = "audit-key";
/// Name of the one that is to take its place.
const NEXT: &str = "audit-key.next";

/// Opens the audit log of a gateway, and finishes a change of its key that was cut off.
pub(crate) fn open<E>(store: &Store, retention: Retention, clock: Clock) -> Result<Audit, E>
where
    E: From<StoreError> + From<AuditError>,
{
    // The key is made for the first log.
    let is_known = store.secret_made_ms(KEY)?.is_some();
    let current = store.seed(KEY)?;
    let next = next(store)?;
    let keys = AuditKeys { current: &current, next: next.as_ref(), is_known };
    let audit = Audit::open_with(&store.dir().join("audit"), &keys, retention, clock)?;
    if let Some(next) = next {
        settle::<E>(store, &audit, &next)?;
    }
    Ok(audit)
}

/// The key that a change was to go over to, and has not come to its end.
fn next(store: &Store) -> Result<Option<Secret<[u8; 32]>>, StoreError> {
    let kept = store.secret(NEXT)?;
    Ok(kept.and_then(|next| <[u8; 32]>::try_from(next.expose().as_slice()).ok().map(Secret::new)))
}

/// One change at a time: with two, the log could be signed by one key and the store keep the other.
static TURN: Mutex<()> = Mutex::new(());

/// Signs the log with a new key from now on; its public half.
pub(crate) fn rotate<E>(store: &Store, audit: &Audit, actor: Actor) -> Result<Digest, E>
where
    E: From<StoreError> + From<AuditError>,
{
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    // A change that a full disk cut off is brought to its end: the log may be signed by its key already.
    let next = if let Some(next) = next(store)? {
        next
    } else {
        let mut fresh = Zeroizing::new([0u8; 32]);
        getrandom::fill(fresh.as_mut()).map_err(|error| StoreError::Random(error.to_string()))?;
        store.put_secret(NEXT, fresh.as_ref())?;
        Secret::new(*fresh)
    };
    audit.rotate_key(&next, actor)?;
    settle::<E>(store, audit, &next)?;
    Ok(audit.key())
}

/// When the key in use was made, in milliseconds since 1970.
pub(crate) fn made_ms(store: &Store) -> Result<Option<i64>, StoreError> {
    store.secret_made_ms(KEY)
}

/// Keeps the key that the log is signed by, and forgets the other.
fn settle<E>(store: &Store, audit: &Audit, next: &Secret<[u8; 32]>) -> Result<(), E>
where
    E: From<StoreError> + From<AuditError>,
{
    let public = ed25519_dalek::SigningKey::from_bytes(next.expose()).verifying_key().to_bytes();
    if audit.key() == Digest(public) {
        // Without the old key a checkpoint under it is a forged one.
        audit.sign()?;
        store.put_secret(KEY, next.expose())?;
    }
    Ok(store.remove_secret(NEXT)?)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::audit::{Action, Event, Trust, verify};
    use crate::daemon::StartError;
    use crate::store::StoreOptions;

    fn store(dir: &Path) -> Store {
        let options = StoreOptions { dir: dir.to_owned(), ..StoreOptions::default() };
        crate::testing::let_go();
        Store::open(&options, Clock::manual(Duration::from_secs(1_700_000_000))).unwrap()
    }

    fn log(store: &Store) -> Audit {
        let clock = Clock::manual(Duration::from_secs(1_700_000_000));
        open::<StartError>(store, Retention::default(), clock).unwrap()
    }

    /// One more line, and the whole log held against the first key.
    fn goes_on(store: &Store, first: Digest) -> Digest {
        let audit = log(store);
        audit.record(Event::done(Actor::Daemon, Action::AlarmRaise, "x")).unwrap();
        let trust = Trust { key: Some(first), ..Trust::default() };
        let report = verify(&store.dir().join("audit"), &trust).unwrap();
        assert!(report.is_whole(), "{report:?}");
        assert!(store.secret(NEXT).unwrap().is_none());
        audit.key()
    }

    #[test]
    fn a_log_that_was_removed_whole_is_missed() {
        let temp = tempfile::tempdir().unwrap();
        let store = store(temp.path());
        assert_eq!(log(&store).damage(), None, "the first log of all");
        log(&store).record(Event::done(Actor::Daemon, Action::DaemonStart, "x")).unwrap();
        for file in std::fs::read_dir(store.dir().join("audit")).unwrap() {
            std::fs::remove_file(file.unwrap().path()).unwrap();
        }
        let report = verify(&store.dir().join("audit"), &Trust::default()).unwrap();
        assert!(!report.is_whole(), "nothing there is not whole: {report:?}");
        let audit = log(&store);
        assert!(audit.damage().is_some_and(|damage| damage.contains("is gone")), "{:?}", audit.damage());
        let first = &audit.tail(1).unwrap()[0];
        assert_eq!((first.seq, first.action.as_str()), (0, Action::AuditDamaged.as_str()), "its first line says so");
    }

    #[test]
    fn a_crash_between_any_two_steps_leaves_a_log_that_goes_on_under_the_old_key_or_the_new_one() {
        let temp = tempfile::tempdir().unwrap();
        let store = store(temp.path());
        let first = log(&store).key();
        // The new key is kept; the log knows nothing of it.
        store.put_secret(NEXT, &[7; 32]).unwrap();
        assert_eq!(goes_on(&store, first), first);
        // The log has gone over; the store has not.
        let audit = log(&store);
        store.put_secret(NEXT, &[8; 32]).unwrap();
        audit.rotate_key(&Secret::new([8; 32]), Actor::Daemon).unwrap();
        drop(audit);
        let second = goes_on(&store, first);
        assert!(second != first);
        // The store has too, and the other name is still there.
        store.put_secret(NEXT, &[8; 32]).unwrap();
        assert_eq!(goes_on(&store, first), second);
        // All of it.
        let third = rotate::<StartError>(&store, &log(&store), Actor::Daemon).unwrap();
        assert!(third != second);
        assert_eq!(goes_on(&store, first), third);
    }

    #[test]
    fn a_change_whose_checkpoint_cannot_be_written_keeps_both_keys_and_is_finished_later() {
        let temp = tempfile::tempdir().unwrap();
        let store = store(temp.path());
        let audit = log(&store);
        audit.record(Event::done(Actor::Daemon, Action::AlarmRaise, "x")).unwrap();
        let first = audit.key();
        // As on a full disk: the line finds room, the file beside the checkpoint does not.
        let aside = store.dir().join("audit/checkpoint.json.new");
        std::fs::create_dir(&aside).unwrap();
        assert!(rotate::<StartError>(&store, &audit, Actor::Daemon).is_err());
        let second = audit.key();
        assert!(second != first);
        drop(audit);
        std::fs::remove_dir(&aside).unwrap();
        // A restart, at which the checkpoint on the disk is still the old key's.
        let audit = log(&store);
        assert_eq!((audit.damage(), audit.key()), (None, second));
        assert_eq!(goes_on(&store, first), second);

        // Without a restart the next change is the end of this one.
        drop(audit);
        let audit = log(&store);
        std::fs::create_dir(&aside).unwrap();
        assert!(rotate::<StartError>(&store, &audit, Actor::Daemon).is_err());
        let third = audit.key();
        std::fs::remove_dir(&aside).unwrap();
        assert_eq!(rotate::<StartError>(&store, &audit, Actor::Daemon).unwrap(), third);
        drop(audit);
        assert_eq!(goes_on(&store, first), third);
    }

    #[test]
    fn a_change_waits_for_the_one_that_is_under_way() {
        let temp = tempfile::tempdir().unwrap();
        let store = store(temp.path());
        let audit = log(&store);
        let first = audit.key();
        std::thread::scope(|threads| {
            let turn = TURN.lock().unwrap();
            let other = threads.spawn(|| rotate::<StartError>(&store, &audit, Actor::Daemon).unwrap());
            // Nothing is claimed of how fast it is: one that does not wait is done long before.
            std::thread::sleep(Duration::from_millis(300));
            assert!(!other.is_finished() && store.secret(NEXT).unwrap().is_none());
            drop(turn);
            other.join().unwrap();
        });
        assert!(audit.key() != first);
    }
}
