//! The files of the log: `audit-NNNNNNNNNNNN.jsonl`, named by the number of their first line.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

/// Longest line that is read; ours are shorter, so a longer one is damage and not worth the memory.
const LONGEST_LINE: usize = 64 << 10;

pub(super) fn path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("audit-{first:012}.jsonl"))
}

/// The first line numbers of all files, in order.
pub(super) fn list(dir: &Path) -> io::Result<Vec<u64>> {
    let mut firsts = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("audit-")?.strip_suffix(".jsonl"));
        let first = number.and_then(|number| number.parse::<u64>().ok());
        // One whose number is written otherwise is none of ours, and would be looked for under another name.
        firsts.extend(first.filter(|first| path(dir, *first).file_name() == Some(&name)));
    }
    firsts.sort_unstable();
    Ok(firsts)
}

/// One line of a file.
pub(super) enum Line {
    /// Ended by a line feed, which is not part of it.
    Whole(Vec<u8>),
    /// The rest of the file after its last line feed: a write that a power cut tore.
    Torn(Vec<u8>),
}

/// The lines of a file, one after the other.
pub(super) struct Lines {
    reader: BufReader<File>,
    offset: u64,
}

impl Lines {
    /// From `offset` on, where a line begins.
    pub(super) fn of(mut file: File, offset: u64) -> io::Result<Self> {
        file.seek(SeekFrom::Start(offset))?;
        Ok(Self { reader: BufReader::new(file), offset })
    }

    /// The offset after the last line that was given.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next line; none at the end of the file.
    pub(super) fn next(&mut self) -> io::Result<Option<Line>> {
        let mut line = Vec::new();
        let taken = (&mut self.reader).take(LONGEST_LINE as u64).read_until(b'\n', &mut line)?;
        if taken == 0 {
            return Ok(None);
        }
        self.offset += taken as u64;
        let whole = line.pop_if(|last| *last == b'\n').is_some();
        Ok(Some(if whole || taken == LONGEST_LINE { Line::Whole(line) } else { Line::Torn(line) }))
    }
}

/// Calls `each` for every line with the offset after it.
pub(super) fn read(path: &Path, mut each: impl FnMut(Line, u64)) -> io::Result<()> {
    let mut lines = Lines::of(File::open(path)?, 0)?;
    while let Some(line) = lines.next()? {
        each(line, lines.offset());
    }
    Ok(())
}
