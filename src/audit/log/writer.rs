//! The writing end: appends lines, closes files, and lets the oldest go.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use serde_json::json;

use super::{Inner, Missing};
use crate::audit::checkpoint::{Checkpoint, State};
use crate::audit::line::{self, Entry};
use crate::audit::retention::Retention;
use crate::audit::rotation::{self, Rotation};
use crate::audit::segment::{self, Line};
use crate::audit::{Action, Actor, Digest, Event};

/// How often it is looked at what became too old.
const LOOK: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub(super) struct Writer {
    pub(super) file: File,
    pub(super) path: PathBuf,
    /// Bytes of the file that are whole lines.
    pub(super) length: u64,
    /// When its first line was written, wall time.
    pub(super) begun_ms: Option<i64>,
    /// Whether bytes after `length` may stand in the file: a write failed.
    pub(super) torn: bool,
    pub(super) head: State,
    pub(super) base: State,
    /// The files that are kept, the one that is written to last.
    pub(super) files: VecDeque<Kept>,
    pub(super) key: SigningKey,
    pub(super) checkpoint: Checkpoint,
    pub(super) retention: Retention,
    /// When it was last looked at what is too old.
    pub(super) looked: Option<Duration>,
}

/// A file of the log.
#[derive(Debug)]
pub(super) struct Kept {
    /// Number of its first line.
    pub(super) first: u64,
    /// Its size, once it is closed.
    pub(super) bytes: u64,
    /// When its last line was written, once that was looked up.
    newest_ms: Option<i64>,
}

impl Kept {
    pub(super) fn new(first: u64, bytes: u64) -> Self {
        Self { first, bytes, newest_ms: None }
    }
}

impl Writer {
    /// Writes an event as the next line and signs the log with it.
    pub(super) fn write(&mut self, inner: &Inner, event: Event) -> io::Result<()> {
        self.add(inner, event)?;
        // The line is safe already; a checkpoint that lags is caught up by the next one.
        if let Err(error) = self.sign(inner) {
            tracing::warn!(error = %error, "the audit checkpoint could not be written");
        }
        Ok(())
    }

    /// Says in a line what is missing, where something is.
    pub(super) fn tell_missing(&mut self, inner: &Inner) -> io::Result<()> {
        let Some(event) = inner.missing().as_ref().map(Missing::event) else { return Ok(()) };
        self.write(inner, event)?;
        *inner.missing() = None;
        Ok(())
    }

    /// Goes over to another key: the old one says so in a line, and from then on the new one signs.
    pub(super) fn rotate(&mut self, inner: &Inner, next: SigningKey, actor: Actor) -> io::Result<()> {
        let to = Digest(next.verifying_key().to_bytes());
        let rotation = Rotation::sign(&self.key, to, self.head.edge.size, self.head.last);
        self.add(inner, rotation.event(actor))?;
        self.key = next;
        if let Err(error) = self.sign(inner) {
            tracing::warn!(error = %error, "the audit checkpoint could not be written");
        }
        Ok(())
    }

    fn add(&mut self, inner: &Inner, event: Event) -> io::Result<()> {
        let now = inner.now();
        let wall_ms = now.wall_ms;
        let (line, hash) = Entry::new(self.head.edge.size, self.head.last, &now, event).to_line();
        self.mend()?;
        let large = self.length.saturating_add(line.len() as u64) > self.retention.file_bytes();
        let aged = |begun: i64| self.retention.file_age_ms().is_some_and(|age| wall_ms.saturating_sub(begun) > age);
        if self.length > 0 && (large || self.begun_ms.is_some_and(aged)) {
            self.turn(inner)?;
        }
        self.append(&line)?;
        self.begun_ms.get_or_insert(wall_ms);
        self.head.push(hash);
        Ok(())
    }

    /// Cuts off what a failed write left, before anything is written after it.
    pub(super) fn mend(&mut self) -> io::Result<()> {
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

    /// Begins a new file.
    fn turn(&mut self, inner: &Inner) -> io::Result<()> {
        let first = self.head.edge.size;
        let path = segment::path(&inner.dir, first);
        self.file = begin(&path, &inner.dir)?;
        if let Some(closed) = self.files.back_mut() {
            closed.bytes = self.length;
        }
        (self.path, self.length, self.begun_ms) = (path, 0, None);
        self.files.push_back(Kept::new(first, 0));
        Ok(())
    }

    pub(super) fn sign(&mut self, inner: &Inner) -> io::Result<()> {
        let (head, base) = (self.head.clone(), self.base.clone());
        let checkpoint = Checkpoint::sign(&self.key, head, base, inner.now().wall_ms);
        checkpoint.write(&inner.dir)?;
        inner.checkpoints.send_replace(checkpoint.clone());
        self.checkpoint = checkpoint;
        Ok(())
    }

    /// The same, and the checkpoint stays where it is over a power cut too.
    pub(super) fn seal(&mut self, inner: &Inner) -> io::Result<()> {
        self.sign(inner)?;
        File::open(&inner.dir)?.sync_all()
    }

    /// Lets the oldest files go that are beyond what is kept; the one that is written to stays in any case.
    pub(super) fn retain(&mut self, inner: &Inner) {
        // Each that goes leaves a line: not without end, should the bound be smaller than those lines.
        for _ in 0..self.files.len() {
            let Some(why) = self.excess(inner) else { return };
            if let Err(error) = self.drop_oldest(inner, why) {
                tracing::warn!(error = %error, "an old file of the audit log could not be removed");
                return;
            }
        }
    }

    /// Why the oldest file must go; none where it may stay.
    fn excess(&mut self, inner: &Inner) -> Option<&'static str> {
        let closed: u64 = self.files.iter().rev().skip(1).map(|file| file.bytes).sum();
        if self.files.len() > 1 && closed > self.retention.closed_bytes() {
            return Some("audit.max_bytes");
        }
        let now = inner.clock.boot();
        if self.looked.is_some_and(|looked| now.saturating_sub(looked) < LOOK) {
            return None;
        }
        let limit = self.retention.too_old_ms(inner.now().wall_ms);
        let oldest = if self.files.len() > 1 { self.files.front_mut() } else { None };
        let too_old = limit.zip(oldest).is_some_and(|(limit, file)| {
            let path = segment::path(&inner.dir, file.first);
            let newest = *file.newest_ms.get_or_insert_with(|| newest_ms(&path).unwrap_or(i64::MAX));
            newest < limit && (inner.clock_is_right)()
        });
        if !too_old {
            self.looked = Some(now);
        }
        too_old.then_some("audit.max_age")
    }

    /// The line that says so, a checkpoint that covers what goes, and only then the file.
    fn drop_oldest(&mut self, inner: &Inner, why: &'static str) -> io::Result<()> {
        // Where nothing can be signed nothing goes: no line says that it did, again with each line that is written.
        self.sign(inner)?;
        let Some(oldest) = self.files.front() else { return Ok(()) };
        let (path, bytes) = (segment::path(&inner.dir, oldest.first), oldest.bytes);
        let (mut base, mut keys, mut until) = (self.base.clone(), Vec::new(), None);
        segment::read(&path, |line, _| {
            if let Line::Whole(bytes) = line
                && let Some((entry, hash)) = line::parse(&bytes)
                && entry.seq == base.edge.size
            {
                base.push(hash);
                if Rotation::of(&entry).is_some() {
                    keys.extend([bytes, b"\n".to_vec()].concat());
                }
                until = Some(entry.time);
            }
        })?;
        rotation::keep(&inner.dir, &keys)?;
        let (from, to) = (self.base.edge.size, base.edge.size);
        let details = json!({
            "from": from, "to": to.saturating_sub(1), "lines": to - from, "bytes": bytes, "until": until,
        });
        self.write(inner, Event::done(Actor::Daemon, Action::AuditDrop, "audit").because(why).with(details))?;
        let before = std::mem::replace(&mut self.base, base);
        if let Err(error) = self.seal(inner) {
            self.base = before;
            return Err(error);
        }
        self.files.pop_front();
        fs::remove_file(&path)
    }
}

/// When the last line of a file was written.
fn newest_ms(path: &Path) -> io::Result<i64> {
    let mut newest = None;
    segment::read(path, |line, _| {
        if let Line::Whole(bytes) = line
            && let Some((entry, _)) = line::parse(&bytes)
        {
            newest = Some(entry);
        }
    })?;
    newest.and_then(|entry| entry.wall_ms()).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// Opens a file of the log for appending; makes it where it is missing.
pub(super) fn begin(path: &Path, dir: &Path) -> io::Result<File> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    File::open(dir)?.sync_all()?;
    Ok(file)
}
