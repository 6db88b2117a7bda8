//! The log: a line of JSON for every reading made and every acknowledgement, so that an outside program can
//! count what arrived. A reading is in the file before its first byte is on the line.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// What happened, without the time.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(crate) enum Entry<'a> {
    /// The unit started: a new epoch.
    Start { device: &'a str, epoch: String },
    /// A reading was made: `pairing.epoch.seq`, hex, hex and decimal.
    Reading { id: &'a str },
    /// Every reading up to `safe` is safe.
    Ack { epoch: String, safe: u64 },
    /// Readings were dropped for want of memory.
    Dropped { epoch: String, from: u64, to: u64 },
    /// Anything else, for people.
    Note { text: &'a str },
}

#[derive(Serialize)]
struct Line<'a> {
    /// Microseconds since 1970 UTC.
    at_us: u64,
    #[serde(flatten)]
    entry: Entry<'a>,
}

/// The log file, if one was asked for.
pub(crate) struct Journal(Option<BufWriter<File>>);

impl Journal {
    pub(crate) fn open(path: Option<&Path>) -> std::io::Result<Self> {
        let file = path.map(|path| File::options().create(true).append(true).open(path)).transpose()?;
        Ok(Self(file.map(|file| BufWriter::with_capacity(1 << 16, file))))
    }

    pub(crate) fn add(&mut self, entry: Entry<'_>) -> std::io::Result<()> {
        let Some(file) = &mut self.0 else { return Ok(()) };
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at_us = u64::try_from(at.as_micros()).unwrap_or(u64::MAX);
        serde_json::to_writer(&mut *file, &Line { at_us, entry })?;
        file.write_all(b"\n")
    }

    pub(crate) fn flush(&mut self) -> std::io::Result<()> {
        self.0.as_mut().map_or(Ok(()), BufWriter::flush)
    }
}

/// An epoch as it stands in a reading's name.
pub(crate) fn epoch_text(epoch: u64) -> String {
    format!("{epoch:016x}")
}
