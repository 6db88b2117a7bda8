//! What goes through the spool: readings and gap records, their progress, and how they are named.

use bytes::Bytes;

use crate::ids::{DeviceId, PairingId, ReadingId};

/// What an entry is, and so on which topic it is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One reading: a SenML pack in CBOR, with absolute times.
    Telemetry,
    /// Readings that are gone: from the entry's own seq to `to`, both included. The content is the
    /// reason in a few words. Made by a sensor that had to drop, or by the spool at its byte cap.
    Gap {
        /// The last seq that is missing.
        to: u64,
    },
}

/// How the capture time in a pack came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capture {
    /// The sensor's own clock was set.
    Exact,
    /// The gateway mapped the sensor's uptime by its anchor of that epoch.
    Mapped,
}

/// One entry as a session hands it in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    /// The sensor's epoch.
    pub epoch: u64,
    /// Sequence number within the epoch, from 1.
    pub seq: u64,
    /// Reading or gap.
    pub kind: Kind,
    /// The SenML pack, or the reason of a gap.
    pub content: Bytes,
    /// Origin of the capture time.
    pub captured: Capture,
}

impl Incoming {
    /// Its seq; of a gap, the last one that is missing.
    pub(super) fn last_seq(&self) -> u64 {
        match self.kind {
            Kind::Telemetry => self.seq,
            Kind::Gap { to } => to.max(self.seq),
        }
    }
}

/// What became of an entry that was handed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Submitted {
    /// It was the next one and is taken; it is safe once [`Progress::safe`] covers it.
    Accepted,
    /// It was taken before.
    Duplicate,
    /// It is not the next one; the sensor goes on from `next`.
    OutOfOrder {
        /// The seq expected.
        next: u64,
    },
}

/// How far one epoch of a lane has come: what a session tells its sensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// The sensor's epoch; 0 before the first hello.
    pub epoch: u64,
    /// Every seq up to and including this one is confirmed by the broker or fsynced.
    pub safe: u64,
    /// The seq expected next.
    pub next: u64,
}

/// Names one taken entry of one lane until it is settled; void after [`Lane::requeue`](super::Lane::requeue).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    pub(super) pos: u64,
    pub(super) round: u32,
}

#[cfg(test)]
impl Ticket {
    /// A ticket of no lane.
    pub(crate) fn of(pos: u64) -> Self {
        Self { pos, round: 0 }
    }
}

/// One entry on its way to the broker.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Settles it.
    pub ticket: Ticket,
    /// Its name for ever.
    pub id: ReadingId,
    /// Reading or gap.
    pub kind: Kind,
    /// The SenML pack, or the reason of a gap.
    pub content: Bytes,
    /// Origin of the capture time.
    pub captured: Capture,
}

/// A message the broker refused for what it is, kept until somebody replays it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its name for ever.
    pub id: ReadingId,
    /// Whose it is, where that is known.
    pub device: Option<DeviceId>,
    /// Reading or gap.
    pub kind: Kind,
    /// The SenML pack, or the reason of a gap.
    pub content: Bytes,
    /// What the broker said.
    pub reason: String,
    /// When, in milliseconds since 1970 UTC.
    pub at_unix_ms: u64,
}

/// The depth of one lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneStatus {
    /// Whose lane it is.
    pub pairing: PairingId,
    /// Entries that wait for the broker.
    pub depth: u64,
    /// Bytes of content they hold.
    pub bytes: u64,
    /// How long the oldest has waited in this process, in milliseconds; `None` when nothing waits in memory.
    pub oldest_ms: Option<u64>,
    /// Entries handed to the relay and not yet settled.
    pub in_flight: u64,
}

/// The state of the whole spool.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SpoolStatus {
    /// One a lane that this process knows, also empty ones.
    pub lanes: Vec<LaneStatus>,
    /// Entries waiting, all lanes.
    pub depth: u64,
    /// Bytes in memory that are neither on disk nor confirmed, all lanes.
    pub memory_bytes: u64,
    /// Bytes that wait on disk, counted against the cap.
    pub disk_bytes: u64,
    /// The cap.
    pub max_bytes: u64,
    /// Readings dropped since the file was made: at the cap, or as the oldest of too many dead letters.
    pub dropped: u64,
    /// Dead letters kept.
    pub dead_letters: u64,
    /// Commits that were fsynced in this process.
    pub commits: u64,
    /// Why nothing can be committed at the moment; entries stay in memory, unacknowledged.
    pub trouble: Option<String>,
}
