//! Opening a log that is there: goes on from the signed checkpoint, not from what the files claim.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;

use super::writer::{Kept, Writer, begin};
use crate::audit::checkpoint::{Checkpoint, State};
use crate::audit::line;
use crate::audit::retention::Retention;
use crate::audit::rotation::Rotation;
use crate::audit::segment::{self, Line};
use crate::audit::{Digest, Outcome};
use crate::clock::Clock;

/// What opening found, and whether it is damage or merely to be said.
pub(super) type Remarks = Vec<(Outcome, String)>;

/// The key in use, and the one that a change of keys may have gone over to.
pub(super) struct Keys {
    pub(super) current: SigningKey,
    pub(super) next: Option<SigningKey>,
    /// Whether they have signed a log before.
    pub(super) is_known: bool,
}

impl Keys {
    /// Goes over to the next key where `public` is its public half; whether the key in use is `public` then.
    fn go_over(&mut self, public: Digest) -> bool {
        let is = |key: &SigningKey| key.verifying_key().to_bytes() == public.0;
        if let Some(next) = self.next.take_if(|next| is(next)) {
            self.current = next;
        }
        is(&self.current)
    }
}

/// What was changed stays a finding.
pub(super) fn resume(dir: &Path, mut keys: Keys, retention: Retention, clock: &Clock) -> io::Result<(Writer, Remarks)> {
    let mut remarks = Remarks::new();
    let mut files = segment::list(dir)?;
    let genuine = match Checkpoint::read(dir)? {
        Some(Ok(read)) if read.is_genuine() && keys.go_over(read.key()) => Some(read),
        None if files.is_empty() => {
            if keys.is_known {
                let what = "the log that was here is gone, and its checkpoint with it: this one begins anew";
                remarks.push((Outcome::Failed, what.to_owned()));
            }
            None
        }
        found => {
            let what = if found.is_some() { "its checkpoint was changed" } else { "its checkpoint is missing" };
            let kept = set_aside(dir, clock)?;
            remarks.push((Outcome::Failed, format!("{what}; the old log is kept in {}", kept.display())));
            files.clear();
            None
        }
    };
    let is_new = genuine.is_none();
    let (mut head, base) = genuine.map_or_else(Default::default, |read| (read.body.head, read.body.base));
    let first = files.last().copied().unwrap_or(head.edge.size);
    let path = segment::path(dir, first);
    let file = begin(&path, dir)?;
    if files.is_empty() {
        files.push(first);
    }
    // The file that the checkpoint ends in, and what came after it.
    let from = files.iter().rposition(|first| *first <= head.edge.size).unwrap_or(0);
    let (length, begun_ms) = catch_up(dir, files.get(from..).unwrap_or_default(), &mut head, &mut keys, &mut remarks)?;
    let kept = files.into_iter().map(|first| {
        let bytes = fs::metadata(segment::path(dir, first)).map_or(0, |metadata| metadata.len());
        Kept::new(first, bytes)
    });
    let kept: VecDeque<Kept> = kept.collect();
    let key = keys.current;
    let checkpoint = Checkpoint::sign(&key, head.clone(), base.clone(), clock.wall_ms());
    let mut writer = Writer {
        file,
        path,
        length,
        begun_ms,
        torn: true,
        head,
        base,
        files: kept,
        key,
        checkpoint,
        retention,
        looked: None,
    };
    writer.mend()?;
    match writer.checkpoint.write(dir) {
        // The one that is there is merely older: the next line renews it.
        Err(error) if !is_new => tracing::warn!(%error, "the audit checkpoint could not be written"),
        written => written?,
    }
    Ok((writer, remarks))
}

/// Reads the last files, which begin with the lines `firsts`: takes up whole lines that were written after the
/// checkpoint, and says what is wrong. Of the last file, gives the bytes up to the last line feed, and the time of the
/// first line.
fn catch_up(
    dir: &Path,
    firsts: &[u64],
    head: &mut State,
    keys: &mut Keys,
    remarks: &mut Remarks,
) -> io::Result<(u64, Option<i64>)> {
    let (signed, last) = (head.edge.size, head.last);
    let (mut reaches_signed, mut changed) = (firsts.first() == Some(&signed), false);
    let (mut length, mut begun_ms) = (0, None);
    for (index, first) in firsts.iter().enumerate() {
        let is_last = index + 1 == firsts.len();
        (length, begun_ms) = (0, None);
        segment::read(&segment::path(dir, *first), |line, offset| match line {
            Line::Torn(bytes) if is_last => {
                let torn =
                    format!("{} bytes of a line that was cut off while it was written were removed", bytes.len());
                remarks.push((Outcome::Ok, torn));
            }
            Line::Torn(_) => changed = true,
            Line::Whole(bytes) => {
                length = offset;
                match line::parse(&bytes) {
                    Some((entry, hash)) if entry.seq < signed => {
                        begun_ms = begun_ms.or(entry.wall_ms());
                        reaches_signed |= hash == last;
                    }
                    Some((entry, hash)) if entry.seq == head.edge.size && entry.prev == head.last => {
                        begun_ms = begun_ms.or(entry.wall_ms());
                        head.push(hash);
                        // A change of keys whose checkpoint a crash took.
                        if let Some(rotation) = Rotation::of(&entry).filter(Rotation::is_genuine)
                            && rotation.from.0 == keys.current.verifying_key().to_bytes()
                        {
                            keys.go_over(rotation.to);
                        }
                    }
                    _ => changed = true,
                }
            }
        })?;
    }
    if changed || !reaches_signed {
        remarks
            .push((Outcome::Failed, "lines were changed or are missing: clawgate audit verify shows which".to_owned()));
    }
    if head.edge.size > signed {
        let range =
            format!("lines {signed} to {} were written but not signed before the last stop", head.edge.size - 1);
        remarks.push((Outcome::Ok, range));
    }
    Ok((length, begun_ms))
}

/// Moves a log whose checkpoint cannot be trusted to a directory beside it, for whoever looks into it.
fn set_aside(dir: &Path, clock: &Clock) -> io::Result<PathBuf> {
    let kept = dir.join(format!("damaged-{}", clock.wall_ms()));
    DirBuilder::new().mode(0o700).create(&kept)?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::rename(entry.path(), kept.join(entry.file_name()))?;
        }
    }
    Ok(kept)
}
