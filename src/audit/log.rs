//! Writes the log: each line is on the disk before the call returns, and the checkpoint follows it.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ed25519_dalek::SigningKey;
use serde_json::json;
use tokio::sync::watch;

use super::checkpoint::{Checkpoint, State};
use super::line::{self, Entry, When};
use super::segment::{self, Line};
use super::{Actor, Event, Outcome};
use crate::clock::Clock;
use crate::secret::Secret;

/// A file is closed at this size, and after this many files the oldest goes: 64 MiB at most.
const LIMITS: Limits = Limits { file_bytes: 4 << 20, files: 16 };

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

#[derive(Debug, Clone, Copy)]
struct Limits {
    file_bytes: u64,
    files: usize,
}

/// The audit log; clones share it.
#[derive(Debug, Clone)]
pub struct Audit(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    key: SigningKey,
    clock: Clock,
    boot_id: String,
    limits: Limits,
    writer: Mutex<Writer>,
    checkpoints: watch::Sender<Checkpoint>,
}

#[derive(Debug)]
struct Writer {
    file: File,
    path: PathBuf,
    /// Bytes of the file that are whole lines.
    length: u64,
    /// Whether bytes after `length` may stand in the file: a write failed.
    torn: bool,
    head: State,
    base: State,
    /// First line numbers of the files that are kept.
    files: VecDeque<u64>,
    checkpoint: Checkpoint,
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
        Self::open_within(dir, seed, clock, LIMITS)
    }

    fn open_within(dir: &Path, seed: &Secret<[u8; 32]>, clock: Clock, limits: Limits) -> Result<Self, AuditError> {
        let error = |source| AuditError::Io { path: dir.to_owned(), action: "open the audit log", source };
        if !dir.is_dir() {
            DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(error)?;
        }
        let key = SigningKey::from_bytes(seed.expose());
        let (writer, remarks) = resume(dir, &key, &clock).map_err(error)?;
        let checkpoints = watch::Sender::new(writer.checkpoint.clone());
        let boot_id = clock.boot_id();
        let writer = Mutex::new(writer);
        let audit = Self(Arc::new(Inner { dir: dir.to_owned(), key, clock, boot_id, limits, writer, checkpoints }));
        for (outcome, remark) in remarks {
            if outcome == Outcome::Failed {
                tracing::error!(dir = %dir.display(), problem = %remark, "the audit log is damaged");
            }
            let action = if outcome == Outcome::Failed { "audit.damaged" } else { "audit.recovered" };
            audit.record(Event::done(Actor::Daemon, action, "audit").ended(outcome).because(remark))?;
        }
        Ok(audit)
    }

    /// Writes an event; when this returns it is on the disk.
    ///
    /// # Errors
    /// [`AuditError::Io`]: the event is not in the log, and a half-written line was or will be cut off.
    pub fn record(&self, event: Event) -> Result<(), AuditError> {
        let inner = &*self.0;
        let mut writer = self.writer();
        let entry = Entry::new(writer.head.edge.size, writer.head.last, &inner.now(), event);
        let (line, hash) = entry.to_line();
        let full = writer.length > 0 && writer.length.saturating_add(line.len() as u64) > inner.limits.file_bytes;
        let path = writer.path.clone();
        let written = writer.mend().and_then(|()| if full { writer.turn(inner) } else { Ok(()) });
        written.and_then(|()| writer.append(&line)).map_err(|source| AuditError::Io {
            path,
            action: "write the audit log",
            source,
        })?;
        writer.head.push(hash);
        // The line is safe already; a checkpoint that lags is caught up by the next one.
        if let Err(error) = writer.sign(inner) {
            tracing::warn!(error = %error, "the audit checkpoint could not be written");
        }
        Ok(())
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
        tail(&self.0.dir, count).map_err(|source| AuditError::Io {
            path: self.0.dir.clone(),
            action: "read the audit log",
            source,
        })
    }

    /// All that is kept, as it stands: the lines, then the checkpoint as a last line. Nothing waits for `out`.
    ///
    /// # Errors
    /// [`AuditError::Io`] when a file cannot be read or `out` refuses.
    pub fn export(&self, out: &mut impl Write) -> Result<(), AuditError> {
        let error = |source| AuditError::Io { path: self.0.dir.clone(), action: "export the audit log", source };
        // Opened under the lock and read without it: the log goes on, also where the reader is slow.
        let (files, length, checkpoint) = {
            let writer = self.writer();
            let open = |first: &u64| File::open(segment::path(&self.0.dir, *first));
            let files = writer.files.iter().map(open).collect::<io::Result<Vec<_>>>().map_err(error)?;
            (files, writer.length, json!(writer.checkpoint))
        };
        let last = files.len().saturating_sub(1);
        for (index, file) in files.into_iter().enumerate() {
            let length = if index == last { length } else { u64::MAX };
            io::copy(&mut file.take(length), out).map_err(error)?;
        }
        writeln!(out, "{checkpoint}").map_err(error)
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.0.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn now(&self) -> When {
        let boot_ms = u64::try_from(self.clock.boot().as_millis()).unwrap_or(u64::MAX);
        When { wall_ms: wall_ms(&self.clock), boot_ms, boot_id: self.boot_id.clone() }
    }
}

impl Writer {
    /// Cuts off what a failed write left, before anything is written after it.
    fn mend(&mut self) -> io::Result<()> {
        if self.torn {
            self.file.set_len(self.length)?;
            self.file.sync_data()?;
            self.torn = false;
        }
        Ok(())
    }

    /// Writes a line and waits for the disk. After an error nobody knows what stands there: it is cut off.
    fn append(&mut self, line: &str) -> io::Result<()> {
        self.torn = true;
        if let Err(error) = self.file.write_all(line.as_bytes()).and_then(|()| self.file.sync_data()) {
            // If cutting fails too, the next call tries again first.
            let _ = self.mend();
            return Err(error);
        }
        self.torn = false;
        self.length = self.length.saturating_add(line.len() as u64);
        Ok(())
    }

    /// Begins a new file; beyond the limit the oldest goes, after the checkpoint no longer speaks for it.
    fn turn(&mut self, inner: &Inner) -> io::Result<()> {
        let first = self.head.edge.size;
        let path = segment::path(&inner.dir, first);
        self.file = begin(&path, &inner.dir)?;
        (self.path, self.length) = (path, 0);
        self.files.push_back(first);
        while self.files.len() > inner.limits.files {
            let Some(oldest) = self.files.pop_front() else { break };
            let path = segment::path(&inner.dir, oldest);
            segment::read::<io::Error>(&path, |line, _| {
                if let Line::Whole(bytes) = line
                    && let Some((entry, hash)) = line::parse(&bytes)
                    && entry.seq == self.base.edge.size
                {
                    self.base.push(hash);
                }
                Ok(())
            })?;
            self.sign(inner)?;
            fs::remove_file(&path)?;
        }
        Ok(())
    }

    fn sign(&mut self, inner: &Inner) -> io::Result<()> {
        let checkpoint = Checkpoint::sign(&inner.key, self.head.clone(), self.base.clone(), wall_ms(&inner.clock));
        checkpoint.write(&inner.dir)?;
        inner.checkpoints.send_replace(checkpoint.clone());
        self.checkpoint = checkpoint;
        Ok(())
    }
}

/// What opening found, and whether it is damage or merely to be said.
type Remarks = Vec<(Outcome, String)>;

/// Goes on from the signed checkpoint, not from what the files claim: what was changed stays a finding.
fn resume(dir: &Path, key: &SigningKey, clock: &Clock) -> io::Result<(Writer, Remarks)> {
    let mut remarks = Remarks::new();
    let mut files: VecDeque<u64> = segment::list(dir)?.into();
    let genuine = match Checkpoint::read(dir)? {
        Some(Ok(read)) if read.is_genuine() && read.key().0 == key.verifying_key().to_bytes() => Some(read),
        None if files.is_empty() => None,
        found => {
            let what = if found.is_some() { "its checkpoint was changed" } else { "its checkpoint is missing" };
            let kept = set_aside(dir, clock)?;
            remarks.push((Outcome::Failed, format!("{what}; the old log is kept in {}", kept.display())));
            files.clear();
            None
        }
    };
    let (mut head, base) = genuine.map_or_else(Default::default, |read| (read.body.head, read.body.base));
    let first = files.back().copied().unwrap_or(head.edge.size);
    let path = segment::path(dir, first);
    let file = begin(&path, dir)?;
    if files.is_empty() {
        files.push_back(first);
    }
    let length = catch_up(&path, first, &mut head, &mut remarks)?;
    let checkpoint = Checkpoint::sign(key, head.clone(), base.clone(), wall_ms(clock));
    let mut writer = Writer { file, path, length, torn: true, head, base, files, checkpoint };
    writer.mend()?;
    writer.checkpoint.write(dir)?;
    Ok((writer, remarks))
}

/// Reads the last file, which begins with line `first`: takes up whole lines that were written after the
/// checkpoint, and says what is wrong. Returns the bytes up to the last line feed.
fn catch_up(path: &Path, first: u64, head: &mut State, remarks: &mut Remarks) -> io::Result<u64> {
    let (signed, last) = (head.edge.size, head.last);
    let (mut length, mut reaches_signed, mut changed) = (0, first == signed, false);
    segment::read::<io::Error>(path, |line, offset| {
        match line {
            Line::Torn(bytes) => {
                let torn =
                    format!("{} bytes of a line that was cut off while it was written were removed", bytes.len());
                remarks.push((Outcome::Ok, torn));
            }
            Line::Whole(bytes) => {
                length = offset;
                match line::parse(&bytes) {
                    Some((entry, hash)) if entry.seq < signed => reaches_signed |= hash == last,
                    Some((entry, hash)) if entry.seq == head.edge.size && entry.prev == head.last => head.push(hash),
                    _ => changed = true,
                }
            }
        }
        Ok(())
    })?;
    if changed || !reaches_signed {
        remarks
            .push((Outcome::Failed, "lines were changed or are missing: clawgate audit verify shows which".to_owned()));
    }
    if head.edge.size > signed {
        let range =
            format!("lines {signed} to {} were written but not signed before the last stop", head.edge.size - 1);
        remarks.push((Outcome::Ok, range));
    }
    Ok(length)
}

/// Moves a log whose checkpoint cannot be trusted to a directory beside it, for whoever looks into it.
fn set_aside(dir: &Path, clock: &Clock) -> io::Result<PathBuf> {
    let kept = dir.join(format!("damaged-{}", wall_ms(clock)));
    DirBuilder::new().mode(0o700).create(&kept)?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::rename(entry.path(), kept.join(entry.file_name()))?;
        }
    }
    Ok(kept)
}

/// Opens a file of the log for appending; makes it where it is missing.
fn begin(path: &Path, dir: &Path) -> io::Result<File> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    File::open(dir)?.sync_all()?;
    Ok(file)
}

fn tail(dir: &Path, count: usize) -> io::Result<Vec<Entry>> {
    let mut entries = VecDeque::new();
    for first in segment::list(dir)?.into_iter().rev() {
        let mut these = VecDeque::new();
        segment::read::<io::Error>(&segment::path(dir, first), |line, _| {
            if let Line::Whole(bytes) = line
                && let Some((entry, _)) = line::parse(&bytes)
            {
                these.push_back(entry);
                if these.len() + entries.len() > count {
                    these.pop_front();
                }
            }
            Ok(())
        })?;
        these.append(&mut entries);
        entries = these;
        if entries.len() >= count {
            break;
        }
    }
    Ok(entries.into())
}

fn wall_ms(clock: &Clock) -> i64 {
    i64::try_from(clock.wall().as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
