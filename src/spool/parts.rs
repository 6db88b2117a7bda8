//! What a lane is made of: entries in memory, rows on disk, and what passes between a lane and the worker.

use std::time::Duration;

use bytes::Bytes;

use super::entry::{Capture, Kind};

/// Bytes an entry is charged beyond its content, in memory and against the cap.
pub(super) const OVERHEAD: usize = 64;

/// Where an entry in memory stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Queued,
    InFlight,
    /// Refused by the broker; leaves once it stands in the dead-letter table.
    Dying,
    Done,
}

/// An entry in memory.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) epoch: u64,
    pub(super) seq: u64,
    pub(super) kind: Kind,
    pub(super) captured: Capture,
    pub(super) content: Bytes,
    /// When it came, on the boot clock.
    pub(super) since: Duration,
    /// Numbers entries that came in this process and are not on disk; 0 for those that came from disk.
    pub(super) arrival: u64,
    /// The row it stands in; 0 while it is only in memory.
    pub(super) row: i64,
    pub(super) state: State,
}

impl Entry {
    /// An entry as it is read back from row `row`.
    pub(super) fn from_disk(row: i64, epoch: u64, seq: u64, kind: Kind, captured: Capture, content: Bytes) -> Self {
        Self { epoch, seq, kind, captured, content, since: Duration::ZERO, arrival: 0, row, state: State::Queued }
    }

    /// The last seq it accounts for.
    pub(super) fn last_seq(&self) -> u64 {
        match self.kind {
            Kind::Telemetry => self.seq,
            Kind::Gap { to } => to,
        }
    }

    /// What it counts in memory.
    pub(super) fn charge(&self) -> usize {
        self.content.len() + OVERHEAD
    }

    /// On disk or confirmed.
    pub(super) fn is_safe(&self) -> bool {
        self.row != 0 || self.state == State::Done
    }
}

/// A stretch of one epoch on disk, in one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChunkRef {
    pub(super) id: i64,
    pub(super) epoch: u64,
    pub(super) first_seq: u64,
    pub(super) last_seq: u64,
    pub(super) count: u32,
    /// How many of its entries, from the front, are settled.
    pub(super) done: u32,
    pub(super) bytes: u32,
    /// A gap record of the spool's own making.
    pub(super) gap: bool,
}

impl ChunkRef {
    /// What it counts against the cap.
    pub(super) fn charge(&self) -> u64 {
        u64::from(self.bytes) + OVERHEAD as u64
    }

    /// How many of its entries are not settled.
    pub(super) fn waiting(&self) -> u64 {
        u64::from(self.count.saturating_sub(self.done))
    }
}

/// Entries of one epoch, without holes, that are to become one row.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) entries: Vec<Entry>,
}

impl Draft {
    pub(super) fn epoch(&self) -> u64 {
        self.entries.first().map_or(0, |entry| entry.epoch)
    }

    pub(super) fn first_seq(&self) -> u64 {
        self.entries.first().map_or(0, |entry| entry.seq)
    }

    pub(super) fn last_seq(&self) -> u64 {
        self.entries.last().map_or(0, Entry::last_seq)
    }

    pub(super) fn bytes(&self) -> usize {
        self.entries.iter().map(|entry| entry.content.len()).sum()
    }
}

/// What the relay settled and the file does not know yet.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// Chunks that are through.
    pub(super) deletes: Vec<i64>,
    /// The chunk at the front of the window and how many of its entries are through.
    pub(super) mark: Option<(i64, u32)>,
    pub(super) unrecorded: usize,
}

/// What the cap is about to take from a lane.
#[derive(Debug, Default)]
pub(super) struct DropPlan {
    /// Rows that go, from the front of the backlog.
    pub(super) rows: usize,
    /// Gap records that come in their place, each under the id of the first row it replaces.
    pub(super) gaps: Vec<ChunkRef>,
    /// Ids of the other rows.
    pub(super) deletes: Vec<i64>,
    /// Entries that are lost.
    pub(super) lost: u64,
    /// Bytes that are gained.
    pub(super) freed: u64,
}

/// A refused entry on its way to the dead-letter table.
#[derive(Debug, Clone)]
pub(super) struct Dying {
    pub(super) pos: u64,
    pub(super) entry: Entry,
    pub(super) reason: String,
}
