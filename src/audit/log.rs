//! The log: each line is on the disk before the call returns, and the checkpoint follows it.

mod missing;
mod read;
mod resume;
mod writer;

use std::fs::DirBuilder;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ed25519_dalek::SigningKey;
use tokio::sync::watch;

pub use missing::Missing;
pub use read::{Cursor, Selection};

use super::checkpoint::Checkpoint;
use super::line::{Entry, When};
use super::retention::Retention;
use super::{Action, Actor, Digest, Event, Outcome};
use crate::clock::{self, Clock};
use crate::secret::Secret;
use resume::{Keys, resume};
use writer::Writer;

/// Why an event could not be written. The caller must not go on as if it were.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// The log cannot be read or written.
    #[error("{}: cannot {action}: {source}; the audit log must be writable: check the disk and the owner", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system answered.
        source: io::Error,
    },
}

impl AuditError {
    fn unwritten(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), action: "write the audit log", source }
    }
}

/// The audit log; clones share it.
#[derive(Debug, Clone)]
pub struct Audit(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    clock: Clock,
    boot_id: String,
    /// Whether the wall clock may be believed; without that nothing is too old.
    clock_is_right: fn() -> bool,
    writer: Mutex<Writer>,
    damage: Option<String>,
    /// Changed by who holds the writer.
    missing: Mutex<Option<Missing>>,
    checkpoints: watch::Sender<Checkpoint>,
}

/// The secret halves of the keys that sign the log.
#[derive(Debug)]
pub struct AuditKeys<'a> {
    /// The key in use.
    pub current: &'a Secret<[u8; 32]>,
    /// The key that [`Audit::rotate_key`] was to go over to, when a crash left open whether it did: the log knows, and
    /// [`Audit::key`] then says which one is in use.
    pub next: Option<&'a Secret<[u8; 32]>>,
    /// Whether these keys have signed a log before: one that is not there was removed.
    pub is_known: bool,
}

impl Audit {
    /// Opens the log in `dir`, or begins one; `seed` makes its signing key.
    ///
    /// A log that was damaged or cut does not stop the gateway: it stays as it is, [`super::verify()`] goes on
    /// finding it, and the first new line says so.
    ///
    /// # Errors
    /// [`AuditError::Io`] when the directory cannot be read or written.
    pub fn open(dir: &Path, seed: &Secret<[u8; 32]>, clock: Clock) -> Result<Self, AuditError> {
        Self::open_with(dir, &AuditKeys { current: seed, next: None, is_known: false }, Retention::default(), clock)
    }

    /// The same, where a change of keys may be under way, and with what is to be kept.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(dir: &Path, keys: &AuditKeys<'_>, retention: Retention, clock: Clock) -> Result<Self, AuditError> {
        Self::open_trusting(dir, keys, retention, clock, clock::is_synchronised)
    }

    fn open_trusting(
        dir: &Path,
        keys: &AuditKeys<'_>,
        retention: Retention,
        clock: Clock,
        clock_is_right: fn() -> bool,
    ) -> Result<Self, AuditError> {
        let error = |source| AuditError::Io { path: dir.to_owned(), action: "open the audit log", source };
        if !dir.is_dir() {
            DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(error)?;
        }
        let key = |seed: &Secret<[u8; 32]>| SigningKey::from_bytes(seed.expose());
        let keys = Keys { current: key(keys.current), next: keys.next.map(key), is_known: keys.is_known };
        let (writer, remarks) = resume(dir, keys, retention, &clock).map_err(error)?;
        let checkpoints = watch::Sender::new(writer.checkpoint.clone());
        let boot_id = clock.boot_id();
        let writer = Mutex::new(writer);
        let is_damage = |(outcome, remark): &(Outcome, String)| (*outcome == Outcome::Failed).then(|| remark.clone());
        let (dir, damage) = (dir.to_owned(), remarks.iter().find_map(is_damage));
        let missing = Mutex::default();
        let audit = Self(Arc::new(Inner { dir, clock, boot_id, clock_is_right, writer, damage, missing, checkpoints }));
        for (outcome, remark) in remarks {
            if outcome == Outcome::Failed {
                tracing::error!(dir = %audit.0.dir.display(), problem = %remark, "the audit log is damaged");
            }
            let action = if outcome == Outcome::Failed { Action::AuditDamaged } else { Action::AuditRecovered };
            // On a full disk it counts as missing: a gateway that does not start would lose more than this line.
            if let Err(error) = audit.record(Event::done(Actor::Daemon, action, "audit").ended(outcome).because(remark))
            {
                tracing::error!(%error, "an audit event is missing in the log");
            }
        }
        Ok(audit)
    }

    /// Writes an event; when this returns it is on the disk.
    ///
    /// # Errors
    /// [`AuditError::Io`]: the event is not in the log, and a half-written line was or will be cut off. It counts as
    /// [missing](Self::missing), and the first line that can be written again says so.
    pub fn record(&self, event: Event) -> Result<(), AuditError> {
        let inner = &*self.0;
        let mut writer = inner.writer();
        writer.retain(inner);
        let written = writer.tell_missing(inner).and_then(|()| writer.write(inner, event));
        written.map_err(|source| {
            let error = AuditError::unwritten(&writer.path, source);
            inner.miss(1, &error);
            error
        })
    }

    /// Writes an event for a part that goes on without it: beside the runtime, and where it cannot be written our log
    /// says so, and the answer is `false`.
    pub(crate) async fn note(&self, event: Event) -> bool {
        let audit = self.clone();
        let written = tokio::task::spawn_blocking(move || audit.record(event)).await;
        let error = match written {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::error!(%error, "an audit event is missing in the log");
        false
    }

    /// Signs with another key from now on. A line `audit.key`, signed by the key until now, says so: who knows an older
    /// key follows from it to the newer one. Keep `next` on disk before, beside the key in use, and give both to
    /// [`Self::open_with`] until [`Self::sign`] has put a checkpoint under it on the disk.
    ///
    /// # Errors
    /// [`AuditError::Io`]: the line is not in the log, and the key until now stays in use.
    pub fn rotate_key(&self, next: &Secret<[u8; 32]>, actor: Actor) -> Result<(), AuditError> {
        let inner = &*self.0;
        let mut writer = inner.writer();
        let next = SigningKey::from_bytes(next.expose());
        if next.verifying_key() == writer.key.verifying_key() {
            return Ok(());
        }
        let rotated = writer.rotate(inner, next, actor);
        rotated.map_err(|source| AuditError::unwritten(&writer.path, source))
    }

    /// Signs the log as it stands. When this returns, the checkpoint is on the disk, also over a power cut.
    ///
    /// # Errors
    /// [`AuditError::Io`]: the checkpoint on the disk may be an older one.
    pub fn sign(&self) -> Result<(), AuditError> {
        let error = |source| AuditError::Io { path: self.0.dir.clone(), action: "sign the audit log", source };
        self.0.writer().seal(&self.0).map_err(error)
    }

    /// What was wrong with the log when it was opened.
    #[must_use]
    pub(crate) fn damage(&self) -> Option<&str> {
        self.0.damage.as_deref()
    }

    /// The public half of the key in use.
    #[must_use]
    pub fn key(&self) -> Digest {
        Digest(self.0.writer().key.verifying_key().to_bytes())
    }

    /// Changes what is kept, from the next line on.
    pub(crate) fn set_retention(&self, retention: Retention) {
        let mut writer = self.0.writer();
        writer.retention = retention;
        writer.looked = None;
    }

    /// The last signed statement about the log, and each one after it: for whoever keeps a copy elsewhere. It changes
    /// with every line, so that a reader who takes his time sees the newest, not each.
    #[must_use]
    pub fn checkpoints(&self) -> watch::Receiver<Checkpoint> {
        self.0.checkpoints.subscribe()
    }

    /// The last `count` events, oldest first.
    ///
    /// # Errors
    /// [`AuditError::Io`] when a file cannot be read.
    pub fn tail(&self, count: usize) -> Result<Vec<Entry>, AuditError> {
        read::tail(&self.0.dir, count).map_err(|source| self.unreadable(source))
    }

    /// The wanted lines as they stand, then, where `signed`, the checkpoint as a last line. Nothing waits for `out`.
    /// [`Self::read`] goes on from where it ended.
    ///
    /// # Errors
    /// [`AuditError::Io`] when a file cannot be read or `out` refuses.
    pub fn export(&self, wanted: Selection, signed: bool, out: &mut impl Write) -> Result<Cursor, AuditError> {
        let error = |source| AuditError::Io { path: self.0.dir.clone(), action: "export the audit log", source };
        read::export(&self.0, wanted, signed, out).map_err(error)
    }

    /// Up to `most` lines from the cursor on, as they stand; none where there is no new one.
    ///
    /// # Errors
    /// [`AuditError::Io`] when a file cannot be read.
    pub(crate) fn read(&self, cursor: &mut Cursor, most: usize) -> Result<Vec<Vec<u8>>, AuditError> {
        read::read(&self.0, cursor, most).map_err(|source| self.unreadable(source))
    }

    fn unreadable(&self, source: io::Error) -> AuditError {
        AuditError::Io { path: self.0.dir.clone(), action: "read the audit log", source }
    }
}

impl Inner {
    fn now(&self) -> When {
        When { wall_ms: self.clock.wall_ms(), boot_ms: self.clock.boot_ms(), boot_id: self.boot_id.clone() }
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
