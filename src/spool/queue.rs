//! One lane in memory: order, window, progress. Plain data without I/O; the worker does the disk part. The session's
//! end of it is here, the relay's in [`taken`], the worker's in [`stored`].
//!
//! A lane is three stretches in order: the **window** (in memory, open to the relay; on disk or not), the
//! **backlog** (only on disk), and **fresh** entries (in memory, not yet on disk). While the backlog is empty
//! new entries go straight to the window; else they wait in `fresh` for the next commit.

mod stored;
mod taken;

use std::collections::VecDeque;
use std::time::Duration;

use super::entry::{Incoming, Kind, Progress, Submitted};
use super::parts::{ChunkRef, Entry, Settled, State};
use crate::ids::{DeviceId, PairingId};

/// Epochs of a lane whose progress is remembered; a sensor speaks of its newest ones only.
const EPOCHS: usize = 8;

/// Bounds of one lane.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) window_entries: usize,
    pub(super) window_bytes: usize,
    pub(super) in_flight: usize,
}

/// The state of one lane.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Queue {
    pairing: PairingId,
    limits: Limits,
    window: VecDeque<Entry>,
    window_bytes: usize,
    /// Position of the window's first entry; positions count entries that ever entered the window.
    front: u64,
    /// Position of the first entry the relay has not taken.
    taken: u64,
    /// Position of the first entry that may be neither on disk nor confirmed.
    unsafe_from: u64,
    in_flight: usize,
    /// Entries of the window that were confirmed before their turn.
    ahead: usize,
    /// Counts requeues, so that a late settlement of an earlier connection is recognised.
    round: u32,
    /// Rows whose entries are in the window, oldest first.
    live: VecDeque<ChunkRef>,
    backlog: VecDeque<ChunkRef>,
    backlog_bytes: u64,
    backlog_entries: u64,
    fresh: VecDeque<Entry>,
    /// Bytes of entries that are neither on disk nor confirmed.
    unsafe_bytes: usize,
    arrivals: u64,
    /// Entries up to this arrival are being written to disk; 0 when none are.
    writing: u64,
    /// How many of those were confirmed and forgotten meanwhile.
    through: usize,
    settled: Settled,
    dying: Vec<(u64, String)>,
    loading: bool,
    served: bool,
    epoch: u64,
    /// First seq of the current epoch that this process is answerable for.
    floor: u64,
    /// What is expected next in each epoch, newest last.
    known: Vec<(u64, u64)>,
    /// The same as the file has it.
    saved: Vec<(u64, u64)>,
    /// The device it belongs to, once somebody said so; and whether the file knows.
    owner: Option<DeviceId>,
    owner_saved: bool,
    /// Purged: nothing is taken any more.
    closed: bool,
}

impl Queue {
    pub(super) fn new(pairing: PairingId, limits: Limits) -> Self {
        Self {
            pairing,
            limits,
            window: VecDeque::new(),
            window_bytes: 0,
            front: 0,
            taken: 0,
            unsafe_from: 0,
            in_flight: 0,
            ahead: 0,
            round: 0,
            live: VecDeque::new(),
            backlog: VecDeque::new(),
            backlog_bytes: 0,
            backlog_entries: 0,
            fresh: VecDeque::new(),
            unsafe_bytes: 0,
            arrivals: 0,
            writing: 0,
            through: 0,
            settled: Settled::default(),
            dying: Vec::new(),
            loading: false,
            served: false,
            epoch: 0,
            floor: 0,
            known: Vec::new(),
            saved: Vec::new(),
            owner: None,
            owner_saved: true,
            closed: false,
        }
    }

    /// Whether the lane was purged.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whose lane it is.
    pub(super) fn owner(&self) -> Option<&DeviceId> {
        self.owner.as_ref()
    }

    /// Says whose lane it is; the device it was of until now, if that was another.
    pub(super) fn assign(&mut self, device: &DeviceId) -> Option<DeviceId> {
        if self.owner.as_ref() == Some(device) {
            return None;
        }
        self.owner_saved = false;
        self.owner.replace(device.clone())
    }

    /// Whether nothing waits here, neither in memory nor on disk.
    pub(super) fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.backlog.is_empty() && self.window.is_empty()
    }

    // --- the session's end ---

    /// Answers a sensor's hello: what is already here of this epoch, given the lowest seq it still holds.
    pub(super) fn hello(&mut self, epoch: u64, lowest: u64) -> Progress {
        let known = self.next_of(epoch).unwrap_or(1);
        let next = known.max(lowest).max(1);
        self.epoch = epoch;
        // What lies below is on disk, confirmed, or was acknowledged before this process began.
        self.floor = self.first_unsafe(epoch).unwrap_or(next);
        self.set_next(epoch, next);
        // The one that is spoken of is forgotten last.
        if let Some(at) = self.known.iter().position(|(known, _)| *known == epoch) {
            self.known[at..].rotate_left(1);
        }
        self.progress()
    }

    /// Takes the next entry in order; tells anything else apart.
    pub(super) fn submit(&mut self, incoming: Incoming, now: Duration) -> Submitted {
        if incoming.epoch != self.epoch || self.next_of(incoming.epoch).is_none() {
            self.hello(incoming.epoch, 1);
        }
        let next = self.next_of(incoming.epoch).unwrap_or(1);
        let last = incoming.last_seq();
        if last < next {
            return Submitted::Duplicate;
        }
        // A gap may begin below `next`: the sensor resends what it has not seen acknowledged.
        let seq = match incoming.kind {
            Kind::Gap { .. } => incoming.seq.max(next),
            Kind::Telemetry => incoming.seq,
        };
        // The last number there is would have no next one: nobody counts that far, and who says so is not believed.
        let Some(after) = last.checked_add(1).filter(|_| seq == next) else {
            return Submitted::OutOfOrder { next };
        };
        self.set_next(incoming.epoch, after);
        self.arrivals += 1;
        let entry = Entry {
            epoch: incoming.epoch,
            seq,
            kind: incoming.kind,
            captured: incoming.captured,
            content: incoming.content,
            since: now,
            arrival: self.arrivals,
            row: 0,
            state: State::Queued,
        };
        self.unsafe_bytes += entry.charge();
        if self.backlog.is_empty() && self.fresh.is_empty() && !self.loading && self.window_has_room() {
            self.push_window(entry);
        } else {
            self.fresh.push_back(entry);
        }
        Submitted::Accepted
    }

    /// How far the current epoch is.
    pub(super) fn progress(&self) -> Progress {
        let next = self.next_of(self.epoch).unwrap_or(1);
        let safe = match self.unsafe_entries().next() {
            None => next - 1,
            Some(entry) if entry.epoch == self.epoch => entry.seq - 1,
            // An older epoch is not through yet; this one says no more than what was sure at its start.
            Some(_) => self.floor.saturating_sub(1),
        };
        Progress { epoch: self.epoch, safe, next }
    }

    // --- within ---

    fn index(&self, pos: u64) -> usize {
        usize::try_from(pos.saturating_sub(self.front)).unwrap_or(usize::MAX)
    }

    fn window_has_room(&self) -> bool {
        self.window.len() < self.limits.window_entries && self.window_bytes < self.limits.window_bytes
    }

    fn push_window(&mut self, entry: Entry) {
        self.window_bytes += entry.charge();
        self.window.push_back(entry);
    }

    fn pull_fresh(&mut self) {
        while self.backlog.is_empty() && !self.loading && self.window_has_room() {
            let Some(entry) = self.fresh.pop_front() else { break };
            self.push_window(entry);
        }
    }

    fn pop_done(&mut self) {
        while self.window.front().is_some_and(|entry| entry.state == State::Done) {
            let Some(entry) = self.window.pop_front() else { break };
            self.window_bytes -= entry.charge();
            self.front += 1;
            self.ahead -= 1;
            if entry.row != 0 {
                self.record_done(entry.row);
            } else if entry.arrival <= self.writing {
                self.through += 1;
            }
        }
        self.taken = self.taken.max(self.front);
        self.advance_safe();
    }

    fn record_done(&mut self, row: i64) {
        self.settled.unrecorded += 1;
        // Nearly always the first one; a replayed dead letter may stand before it.
        let Some(at) = self.live.iter().position(|chunk| chunk.id == row) else { return };
        let chunk = &mut self.live[at];
        chunk.done += 1;
        if chunk.done < chunk.count {
            self.settled.mark = Some((chunk.id, chunk.done));
            return;
        }
        self.settled.deletes.push(chunk.id);
        // Of this row; a dead letter that was replayed into the midst of another leaves that one's.
        self.settled.mark = self.settled.mark.filter(|(marked, _)| *marked != row);
        self.live.remove(at);
    }

    fn advance_safe(&mut self) {
        self.unsafe_from = self.unsafe_from.max(self.front);
        while self.window.get(self.index(self.unsafe_from)).is_some_and(Entry::is_safe) {
            self.unsafe_from += 1;
        }
    }

    /// Entries that are neither on disk nor confirmed, in order.
    fn unsafe_entries(&self) -> impl Iterator<Item = &Entry> {
        let window = self.window.iter().skip(self.index(self.unsafe_from));
        window.chain(&self.fresh).filter(|entry| !entry.is_safe())
    }

    /// The first seq of an epoch that is neither on disk nor confirmed.
    fn first_unsafe(&self, epoch: u64) -> Option<u64> {
        self.unsafe_entries().find(|entry| entry.epoch == epoch).map(|entry| entry.seq)
    }

    fn next_of(&self, epoch: u64) -> Option<u64> {
        self.known.iter().rev().find(|(known, _)| *known == epoch).map(|(_, next)| *next)
    }

    fn set_next(&mut self, epoch: u64, next: u64) {
        if let Some((_, kept)) = self.known.iter_mut().rev().find(|(known, _)| *known == epoch) {
            *kept = next;
            return;
        }
        if self.known.len() >= EPOCHS {
            self.known.remove(0);
        }
        self.known.push((epoch, next));
    }
}

#[cfg(test)]
mod tests;
