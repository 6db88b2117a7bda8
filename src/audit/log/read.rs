//! The reading end: the last lines, an export, and one that follows. Nothing here holds the writer up.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use super::Inner;
use crate::audit::line::{self, Entry};
use crate::audit::segment::{self, Line, Lines};

/// Bytes of the lines that are given as the last ones, for they are all held in memory; an export gives all.
const MOST_OF_A_TAIL: usize = 8 << 20;

/// Which lines are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Selection {
    /// Only lines after the one with this number.
    pub after: Option<u64>,
    /// Only lines from this wall time on, in milliseconds since 1970.
    pub since_ms: Option<i64>,
}

/// Where a reader stands.
#[derive(Debug, Clone, Default)]
pub struct Cursor {
    /// The next line's number.
    next: u64,
    /// The file it was in, by its first line, and where in it.
    place: Option<(u64, u64)>,
}

impl Cursor {
    pub(super) fn at(next: u64) -> Self {
        Self { next, place: None }
    }
}

/// Up to `most` lines from the cursor on, which goes on with them. Lines that were dropped meanwhile are passed over:
/// the numbers show it, and a line says so.
pub(super) fn read(inner: &Inner, cursor: &mut Cursor, most: usize) -> io::Result<Vec<Vec<u8>>> {
    let mut taken = Vec::new();
    while taken.len() < most {
        // Opened under the lock and read without it: a file that is dropped meanwhile is still read to its end.
        let (mut lines, first, later, size) = {
            let writer = inner.writer();
            let size = writer.head.edge.size;
            let holds = writer.files.iter().rposition(|file| file.first <= cursor.next).unwrap_or(0);
            let place = match cursor.place {
                Some((file, offset)) => writer.files.iter().position(|kept| kept.first == file).map(|at| (at, offset)),
                None => None,
            };
            let (at, offset) = place.unwrap_or((holds, 0));
            let Some(file) = writer.files.get(at).filter(|_| cursor.next < size) else { return Ok(taken) };
            let opened = File::open(segment::path(&inner.dir, file.first))?;
            (Lines::of(opened, offset)?, file.first, writer.files.get(at + 1).map(|file| file.first), size)
        };
        cursor.place = Some((first, lines.offset()));
        while taken.len() < most && cursor.next < size {
            let Some(Line::Whole(bytes)) = lines.next()? else { break };
            cursor.place = Some((first, lines.offset()));
            match line::parse(&bytes) {
                Some((entry, _)) if entry.seq < cursor.next => continue,
                Some((entry, _)) if entry.seq < size => cursor.next = entry.seq + 1,
                // Damage is passed on as it stands. A number that no line has yet would end the following.
                _ => cursor.next += 1,
            }
            taken.push(bytes);
        }
        if taken.len() < most && cursor.next < size {
            // The end of this file, also where it holds fewer lines than it should.
            let Some(later) = later else { return Ok(taken) };
            cursor.place = Some((later, 0));
        }
    }
    Ok(taken)
}

/// The wanted lines as they stand, then, where `signed`, the checkpoint as a last line. Where to go on.
pub(super) fn export(inner: &Inner, wanted: Selection, signed: bool, out: &mut impl Write) -> io::Result<Cursor> {
    // Opened under the lock and read without it: the log goes on, also where the reader is slow.
    let (files, length, checkpoint, size) = {
        let writer = inner.writer();
        let begin = wanted.after.map_or(0, |after| after.saturating_add(1));
        let skipped = writer.files.iter().skip(1).take_while(|file| file.first <= begin).count();
        let open = |file: &super::writer::Kept| File::open(segment::path(&inner.dir, file.first));
        let files = writer.files.iter().skip(skipped).map(open).collect::<io::Result<Vec<_>>>()?;
        (files, writer.length, writer.checkpoint.clone(), writer.head.edge.size)
    };
    let last = files.len().saturating_sub(1);
    for (index, file) in files.into_iter().enumerate() {
        let mut lines = Lines::of(file, 0)?;
        while let Some(Line::Whole(bytes)) = lines.next()? {
            if index == last && lines.offset() > length {
                break;
            }
            if is_wanted(&bytes, wanted) {
                out.write_all(&bytes)?;
                out.write_all(b"\n")?;
            }
        }
    }
    if signed {
        writeln!(out, "{}", serde_json::to_string(&checkpoint)?)?;
    }
    out.flush()?;
    Ok(Cursor::at(size))
}

fn is_wanted(bytes: &[u8], wanted: Selection) -> bool {
    if wanted == Selection::default() {
        return true;
    }
    // A line that is no line any more is never left out.
    line::parse(bytes).is_none_or(|(entry, _)| {
        wanted.after.is_none_or(|after| entry.seq > after)
            && wanted.since_ms.is_none_or(|since| entry.wall_ms().is_none_or(|at| at >= since))
    })
}

/// The last lines, up to `count` of them and to [`MOST_OF_A_TAIL`].
pub(super) fn tail(dir: &Path, count: usize) -> io::Result<Vec<Entry>> {
    let mut entries = VecDeque::new();
    let (mut bytes_of_all, mut is_full) = (0, false);
    for first in segment::list(dir)?.into_iter().rev() {
        let mut these = VecDeque::new();
        segment::read(&segment::path(dir, first), |line, _| {
            if let Line::Whole(bytes) = line
                && let Some((entry, _)) = line::parse(&bytes)
            {
                bytes_of_all += bytes.len();
                these.push_back((entry, bytes.len()));
                while these.len() + entries.len() > count || bytes_of_all > MOST_OF_A_TAIL {
                    is_full = true;
                    let Some((_, bytes)) = these.pop_front() else { break };
                    bytes_of_all -= bytes;
                }
            }
        })?;
        these.append(&mut entries);
        entries = these;
        if is_full || entries.len() >= count {
            break;
        }
    }
    Ok(entries.into_iter().map(|(entry, _)| entry).collect())
}
