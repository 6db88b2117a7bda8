//! One lane in memory: order, window, progress. Plain data without I/O; the worker does the disk part.
//!
//! A lane is three stretches in order: the **window** (in memory, open to the relay; on disk or not), the
//! **backlog** (only on disk), and **fresh** entries (in memory, not yet on disk). While the backlog is empty
//! new entries go straight to the window; else they wait in `fresh` for the next commit.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use super::entry::{Capture, Incoming, Kind, LaneStatus, Outgoing, Progress, Submitted, Ticket};
use crate::ids::{PairingId, ReadingId};

/// Bytes an entry is charged beyond its content, in memory and against the cap.
pub(super) const OVERHEAD: usize = 64;
/// Epochs of a lane whose progress is remembered; a sensor speaks of its newest ones only.
const EPOCHS: usize = 8;
/// Rows that one transaction drops of one lane at most.
const DROP_ROWS: usize = 256;
/// Rows that one refill reads at most.
const REFILL_ROWS: usize = 64;

/// Bounds of one lane.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) window_entries: usize,
    pub(super) window_bytes: usize,
    pub(super) in_flight: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
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
    arrival: u64,
    /// The row it stands in; 0 while it is only in memory.
    row: i64,
    state: State,
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

    fn charge(&self) -> usize {
        self.content.len() + OVERHEAD
    }

    fn is_safe(&self) -> bool {
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

    fn bytes(&self) -> usize {
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

/// The state of one lane.
#[derive(Debug)]
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
    /// Counts requeues, so that a late settlement of an earlier connection is recognised.
    round: u32,
    /// Rows whose entries are in the window, oldest first.
    live: VecDeque<ChunkRef>,
    backlog: VecDeque<ChunkRef>,
    backlog_bytes: u64,
    backlog_entries: u64,
    fresh: VecDeque<Entry>,
    fresh_bytes: usize,
    arrivals: u64,
    settled: Settled,
    dying: Vec<(u64, String)>,
    loading: bool,
    served: bool,
    epoch: u64,
    /// First seq of the current epoch that this process is answerable for.
    floor: u64,
    /// What is expected next in each epoch, newest last.
    known: Vec<(u64, u64)>,
    known_changed: bool,
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
            round: 0,
            live: VecDeque::new(),
            backlog: VecDeque::new(),
            backlog_bytes: 0,
            backlog_entries: 0,
            fresh: VecDeque::new(),
            fresh_bytes: 0,
            arrivals: 0,
            settled: Settled::default(),
            dying: Vec::new(),
            loading: false,
            served: false,
            epoch: 0,
            floor: 0,
            known: Vec::new(),
            known_changed: false,
        }
    }

    // --- the session's end ---

    /// Answers a sensor's hello: what is already here of this epoch, given the lowest seq it still holds.
    pub(super) fn hello(&mut self, epoch: u64, lowest: u64) -> Progress {
        let known = self.next_of(epoch).unwrap_or(1);
        let next = known.max(lowest).max(1);
        if epoch != self.epoch {
            self.epoch = epoch;
            self.floor = next;
        }
        if !self.holds_unsafe(epoch) {
            // What lies below is on disk, confirmed, or was acknowledged before this process began.
            self.floor = next;
        }
        self.set_next(epoch, next);
        self.progress()
    }

    /// Takes the next entry in order; tells anything else apart.
    pub(super) fn submit(&mut self, incoming: Incoming, now: Duration) -> Submitted {
        if incoming.epoch != self.epoch || self.next_of(incoming.epoch).is_none() {
            self.hello(incoming.epoch, 1);
        }
        let next = self.next_of(incoming.epoch).unwrap_or(1);
        let last = match incoming.kind {
            Kind::Telemetry => incoming.seq,
            Kind::Gap { to } => to.max(incoming.seq),
        };
        if last < next {
            return Submitted::Duplicate;
        }
        // A gap may begin below `next`: the sensor resends what it has not seen acknowledged.
        let seq = match incoming.kind {
            Kind::Gap { .. } => incoming.seq.max(next),
            Kind::Telemetry => incoming.seq,
        };
        if seq != next {
            return Submitted::OutOfOrder { next };
        }
        self.set_next(incoming.epoch, last + 1);
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
        if self.backlog.is_empty() && self.fresh.is_empty() && !self.loading && self.window_has_room() {
            self.push_window(entry);
        } else {
            self.fresh_bytes += entry.charge();
            self.fresh.push_back(entry);
        }
        Submitted::Accepted
    }

    /// How far the current epoch is.
    pub(super) fn progress(&self) -> Progress {
        let next = self.next_of(self.epoch).unwrap_or(1);
        let unsafe_entry = self
            .window
            .iter()
            .skip(self.index(self.unsafe_from))
            .find(|entry| !entry.is_safe())
            .or_else(|| self.fresh.front());
        let safe = match unsafe_entry {
            None => next - 1,
            Some(entry) if entry.epoch == self.epoch => entry.seq - 1,
            // An older epoch is not through yet; this one says no more than what was sure at its start.
            Some(_) => self.floor.saturating_sub(1),
        };
        Progress { epoch: self.epoch, safe, next }
    }

    // --- the relay's end ---

    /// Whether [`take`](Self::take) would yield something now.
    pub(super) fn is_ready(&mut self) -> bool {
        self.served = true;
        self.pull_fresh();
        self.allowance() > 0 && self.has_queued()
    }

    /// Whether the window should be refilled from disk.
    pub(super) fn wants_refill(&self) -> bool {
        !self.loading
            && !self.backlog.is_empty()
            && self.window.len() < self.limits.window_entries / 2
            && self.window_bytes < self.limits.window_bytes / 2
    }

    /// Hands out entries in order, up to the in-flight bound.
    pub(super) fn take(&mut self) -> Vec<Outgoing> {
        self.served = true;
        self.pull_fresh();
        let mut allowance = self.allowance();
        let mut out = Vec::with_capacity(allowance.min(self.window.len()));
        let mut index = self.index(self.taken);
        while allowance > 0 {
            let Some(entry) = self.window.get_mut(index) else { break };
            if entry.state == State::Queued {
                entry.state = State::InFlight;
                self.in_flight += 1;
                allowance -= 1;
                out.push(Outgoing {
                    ticket: Ticket { pos: self.front + index as u64, round: self.round },
                    id: ReadingId { pairing: self.pairing, epoch: entry.epoch, seq: entry.seq },
                    kind: entry.kind,
                    content: entry.content.clone(),
                    captured: entry.captured,
                });
            }
            index += 1;
        }
        self.taken = self.front + index as u64;
        out
    }

    /// The broker has it for good. `false` if the ticket is of an earlier connection.
    pub(super) fn confirm(&mut self, ticket: Ticket) -> bool {
        if !self.settle(ticket, State::Done) {
            return false;
        }
        self.pop_done();
        true
    }

    /// The broker will never take it. It leaves once the reason stands on disk.
    pub(super) fn dead_letter(&mut self, ticket: Ticket, reason: String) -> bool {
        if !self.settle(ticket, State::Dying) {
            return false;
        }
        self.dying.push((ticket.pos, reason));
        true
    }

    /// The connection is gone: everything in flight is queued again, in order.
    pub(super) fn requeue(&mut self) {
        for entry in &mut self.window {
            if entry.state == State::InFlight {
                entry.state = State::Queued;
            }
        }
        self.in_flight = 0;
        self.taken = self.front;
        self.round = self.round.wrapping_add(1);
        self.served = false;
    }

    // --- the worker's end ---

    /// Bytes in memory that are not on disk.
    pub(super) fn memory_bytes(&self) -> usize {
        self.window_bytes + self.fresh_bytes
    }

    /// When the oldest entry came that is neither on disk nor confirmed.
    pub(super) fn oldest_unsafe(&self) -> Option<Duration> {
        self.window
            .iter()
            .skip(self.index(self.unsafe_from))
            .find(|entry| !entry.is_safe())
            .or_else(|| self.fresh.front())
            .map(|entry| entry.since)
    }

    /// Everything that is neither on disk nor confirmed, cut into rows.
    pub(super) fn drafts(&self, max_entries: usize, max_bytes: usize) -> Vec<Draft> {
        let mut drafts: Vec<Draft> = Vec::new();
        let window = self.window.iter().skip(self.index(self.unsafe_from));
        for entry in window.chain(&self.fresh).filter(|entry| !entry.is_safe()) {
            let open = drafts.last_mut().filter(|draft| {
                draft.epoch() == entry.epoch
                    && draft.last_seq() + 1 == entry.seq
                    && draft.entries.len() < max_entries
                    && draft.bytes() + entry.content.len() <= max_bytes
            });
            match open {
                Some(draft) => draft.entries.push(entry.clone()),
                None => drafts.push(Draft { entries: vec![entry.clone()] }),
            }
        }
        drafts
    }

    /// A draft is fsynced as row `id`, holding `bytes`.
    pub(super) fn committed(&mut self, draft: &Draft, id: i64, bytes: u32) {
        let Some(first) = draft.entries.first() else { return };
        let Some(last) = draft.entries.last() else { return };
        let mut chunk = ChunkRef {
            id,
            epoch: first.epoch,
            first_seq: first.seq,
            last_seq: last.last_seq(),
            count: u32::try_from(draft.entries.len()).unwrap_or(u32::MAX),
            done: 0,
            bytes,
            gap: false,
        };
        let waiting = self.fresh.front().is_some_and(|entry| entry.arrival <= first.arrival);
        if waiting {
            self.drop_fresh_until(last.arrival);
            self.push_backlog(chunk);
            return;
        }
        // Some of it is in the window, or through already: the rest belongs there too.
        while self.fresh.front().is_some_and(|entry| entry.arrival <= last.arrival) {
            if let Some(entry) = self.fresh.pop_front() {
                self.fresh_bytes -= entry.charge();
                self.push_window(entry);
            }
        }
        let mut present = 0;
        for entry in &mut self.window {
            if entry.arrival >= first.arrival && entry.arrival <= last.arrival {
                entry.row = id;
                present += 1;
            }
        }
        chunk.done = chunk.count.saturating_sub(present);
        if present == 0 {
            self.settled.deletes.push(id);
            self.settled.unrecorded += chunk.count as usize;
        } else {
            self.live.push_back(chunk);
        }
        self.pop_done();
        self.advance_safe();
    }

    /// Refused entries that wait for the dead-letter table.
    pub(super) fn dying(&self) -> Vec<Dying> {
        let find = |(pos, reason): &(u64, String)| {
            let entry = self.window.get(self.index(*pos))?.clone();
            Some(Dying { pos: *pos, entry, reason: reason.clone() })
        };
        self.dying.iter().filter_map(find).collect()
    }

    /// These now stand in the dead-letter table.
    pub(super) fn buried(&mut self, dead: &[Dying]) {
        for dead in dead {
            self.dying.retain(|(pos, _)| *pos != dead.pos);
            let index = self.index(dead.pos);
            if let Some(entry) = self.window.get_mut(index).filter(|_| dead.pos >= self.front) {
                entry.state = State::Done;
            }
        }
        self.pop_done();
    }

    /// What the file must learn about settled entries; given back to [`recorded`](Self::recorded).
    pub(super) fn settled(&mut self) -> Settled {
        let kept = Settled { unrecorded: self.settled.unrecorded, ..Settled::default() };
        let out = std::mem::replace(&mut self.settled, kept);
        Settled { deletes: out.deletes, mark: out.mark, unrecorded: out.unrecorded }
    }

    /// The file knows of `settled` (`true`), or the transaction failed and it must be tried again.
    pub(super) fn recorded(&mut self, mut settled: Settled, success: bool) {
        if success {
            self.settled.unrecorded = self.settled.unrecorded.saturating_sub(settled.unrecorded);
            return;
        }
        settled.deletes.append(&mut self.settled.deletes);
        self.settled.deletes = settled.deletes;
        if self.settled.mark.is_none() {
            // A newer mark, or the deletion of that chunk, outdates the one that failed.
            self.settled.mark = settled.mark.filter(|(id, _)| !self.settled.deletes.contains(id));
        }
    }

    /// How many settled entries the file does not know of.
    pub(super) fn unrecorded(&self) -> usize {
        self.settled.unrecorded
    }

    /// Begins a refill: the rows to read, in order.
    pub(super) fn begin_refill(&mut self) -> Vec<ChunkRef> {
        if !self.wants_refill() {
            return Vec::new();
        }
        self.loading = true;
        let mut room = self.limits.window_entries.saturating_sub(self.window.len());
        let mut rows = Vec::new();
        for chunk in &self.backlog {
            rows.push(*chunk);
            room = room.saturating_sub(chunk.count as usize);
            if room == 0 || rows.len() >= REFILL_ROWS {
                break;
            }
        }
        rows
    }

    /// Ends a refill with what was read of each row, in the order of [`begin_refill`](Self::begin_refill).
    pub(super) fn end_refill(&mut self, rows: Vec<(ChunkRef, Vec<Entry>)>) {
        self.loading = false;
        for (chunk, entries) in rows {
            if self.backlog.front().map(|front| front.id) != Some(chunk.id) {
                break;
            }
            self.pop_backlog();
            for entry in entries.into_iter().skip(chunk.done as usize) {
                self.push_window(entry);
            }
            self.live.push_back(chunk);
        }
        self.pull_fresh();
        self.advance_safe();
    }

    /// Puts what is on disk and unclaimed out of memory while nobody serves the lane.
    pub(super) fn spill(&mut self) {
        if self.served || self.loading || self.in_flight > 0 || self.window.is_empty() {
            return;
        }
        if !self.dying.is_empty() || self.window.iter().any(|entry| entry.row == 0) {
            return;
        }
        self.front += self.window.len() as u64;
        (self.taken, self.unsafe_from) = (self.front, self.front);
        self.window.clear();
        self.window_bytes = 0;
        while let Some(chunk) = self.live.pop_back() {
            self.push_front_backlog(chunk);
        }
    }

    /// A row found at start, or written by a replay.
    pub(super) fn push_backlog(&mut self, chunk: ChunkRef) {
        self.backlog_bytes += chunk.charge();
        self.backlog_entries += u64::from(chunk.count - chunk.done.min(chunk.count));
        self.backlog.push_back(chunk);
    }

    /// Bytes that wait on disk beyond the window.
    pub(super) fn backlog_bytes(&self) -> u64 {
        self.backlog_bytes
    }

    /// Bytes on disk, also those the window holds.
    pub(super) fn disk_bytes(&self) -> u64 {
        self.backlog_bytes + self.live.iter().map(ChunkRef::charge).sum::<u64>()
    }

    /// What the cap takes from this lane to free `need` bytes: its oldest rows, each stretch becoming one gap
    /// record of `gap_bytes` in the place of its first row. `None` when there is nothing to gain.
    pub(super) fn plan_drop(&self, need: u64, gap_bytes: u32) -> Option<DropPlan> {
        if self.loading {
            return None;
        }
        let mut plan = DropPlan::default();
        for chunk in self.backlog.iter().take(DROP_ROWS) {
            if plan.freed >= need {
                break;
            }
            plan.rows += 1;
            plan.freed += chunk.charge();
            if !chunk.gap {
                plan.lost += u64::from(chunk.count - chunk.done.min(chunk.count));
            }
            let open = plan.gaps.last_mut();
            match open.filter(|gap| gap.epoch == chunk.epoch && gap.last_seq.checked_add(1) == Some(chunk.first_seq)) {
                Some(gap) => {
                    gap.last_seq = chunk.last_seq;
                    plan.deletes.push(chunk.id);
                }
                None => {
                    let gap = ChunkRef { count: 1, done: 0, bytes: gap_bytes, gap: true, ..*chunk };
                    plan.freed = plan.freed.saturating_sub(gap.charge());
                    plan.gaps.push(gap);
                }
            }
        }
        (plan.lost > 0 && plan.freed > 0).then_some(plan)
    }

    /// A drop as planned stands in the file.
    pub(super) fn dropped(&mut self, plan: DropPlan) {
        for _ in 0..plan.rows {
            self.pop_backlog();
        }
        for gap in plan.gaps.into_iter().rev() {
            self.push_front_backlog(gap);
        }
    }

    /// Forgets everything that waits; how many entries that were. Its rows are gone already.
    pub(super) fn purge(&mut self) -> u64 {
        let entries = (self.window.len() + self.fresh.len()) as u64 + self.backlog_entries;
        let taken = self.front + self.window.len() as u64;
        self.window.clear();
        self.fresh.clear();
        self.live.clear();
        self.backlog.clear();
        self.dying.clear();
        self.settled = Settled::default();
        (self.window_bytes, self.fresh_bytes) = (0, 0);
        (self.backlog_bytes, self.backlog_entries) = (0, 0);
        (self.front, self.taken, self.unsafe_from) = (taken, taken, taken);
        self.in_flight = 0;
        self.round = self.round.wrapping_add(1);
        self.loading = false;
        entries
    }

    /// Progress as the file keeps it, if it changed since the last call.
    pub(super) fn changed_epochs(&mut self) -> Option<Vec<(u64, u64)>> {
        std::mem::take(&mut self.known_changed).then(|| self.durable_epochs())
    }

    /// Puts back what [`changed_epochs`](Self::changed_epochs) took when the transaction failed.
    pub(super) fn epochs_unsaved(&mut self) {
        self.known_changed = true;
    }

    /// What an earlier process knew of an epoch.
    pub(super) fn restore_epoch(&mut self, epoch: u64, next: u64) {
        let next = next.max(self.next_of(epoch).unwrap_or(1));
        self.set_next(epoch, next);
        self.known_changed = false;
    }

    pub(super) fn status(&self, now: Duration) -> LaneStatus {
        let oldest = self.window.iter().chain(&self.fresh).find(|entry| entry.arrival > 0);
        let waiting = |entries: &VecDeque<Entry>| {
            let open = entries.iter().filter(|entry| entry.state != State::Done);
            open.fold((0, 0), |(count, bytes), entry| (count + 1, bytes + entry.content.len() as u64))
        };
        let (window, window_bytes) = waiting(&self.window);
        let (fresh, fresh_bytes) = waiting(&self.fresh);
        LaneStatus {
            pairing: self.pairing,
            depth: window + fresh + self.backlog_entries,
            bytes: window_bytes + fresh_bytes + self.backlog.iter().map(|chunk| u64::from(chunk.bytes)).sum::<u64>(),
            oldest_ms: oldest
                .map(|entry| u64::try_from(now.saturating_sub(entry.since).as_millis()).unwrap_or(u64::MAX)),
            in_flight: self.in_flight as u64,
        }
    }

    // --- within ---

    fn index(&self, pos: u64) -> usize {
        usize::try_from(pos.saturating_sub(self.front)).unwrap_or(usize::MAX)
    }

    fn has_queued(&self) -> bool {
        self.window.iter().skip(self.index(self.taken)).any(|entry| entry.state == State::Queued)
    }

    /// How many may be handed out: what is in flight, and what is settled but not recorded (a restart would
    /// publish it again), together stay within the bound.
    fn allowance(&self) -> usize {
        self.limits.in_flight.saturating_sub(self.in_flight + self.settled.unrecorded)
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
            self.fresh_bytes -= entry.charge();
            self.push_window(entry);
        }
    }

    fn drop_fresh_until(&mut self, arrival: u64) {
        while self.fresh.front().is_some_and(|entry| entry.arrival <= arrival) {
            if let Some(entry) = self.fresh.pop_front() {
                self.fresh_bytes -= entry.charge();
            }
        }
    }

    fn push_front_backlog(&mut self, chunk: ChunkRef) {
        self.backlog_bytes += chunk.charge();
        self.backlog_entries += u64::from(chunk.count - chunk.done.min(chunk.count));
        self.backlog.push_front(chunk);
    }

    fn pop_backlog(&mut self) {
        if let Some(chunk) = self.backlog.pop_front() {
            self.backlog_bytes -= chunk.charge();
            self.backlog_entries -= u64::from(chunk.count - chunk.done.min(chunk.count));
        }
    }

    fn settle(&mut self, ticket: Ticket, state: State) -> bool {
        if ticket.round != self.round || ticket.pos < self.front {
            return false;
        }
        let index = self.index(ticket.pos);
        let Some(entry) = self.window.get_mut(index).filter(|entry| entry.state == State::InFlight) else {
            return false;
        };
        entry.state = state;
        self.in_flight -= 1;
        true
    }

    fn pop_done(&mut self) {
        while self.window.front().is_some_and(|entry| entry.state == State::Done) {
            let Some(entry) = self.window.pop_front() else { break };
            self.window_bytes -= entry.charge();
            self.front += 1;
            if entry.row != 0 {
                self.record_done(entry.row);
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
        self.settled.mark = None;
        self.live.remove(at);
    }

    fn advance_safe(&mut self) {
        self.unsafe_from = self.unsafe_from.max(self.front);
        while self.window.get(self.index(self.unsafe_from)).is_some_and(Entry::is_safe) {
            self.unsafe_from += 1;
        }
    }

    fn holds_unsafe(&self, epoch: u64) -> bool {
        self.window.iter().chain(&self.fresh).any(|entry| entry.epoch == epoch && !entry.is_safe())
    }

    fn next_of(&self, epoch: u64) -> Option<u64> {
        self.known.iter().rev().find(|(known, _)| *known == epoch).map(|(_, next)| *next)
    }

    fn set_next(&mut self, epoch: u64, next: u64) {
        match self.known.iter_mut().rev().find(|(known, _)| *known == epoch) {
            Some((_, kept)) if *kept == next => return,
            Some((_, kept)) => *kept = next,
            None => {
                if self.known.len() >= EPOCHS {
                    self.known.remove(0);
                }
                self.known.push((epoch, next));
            }
        }
        self.known_changed = true;
    }

    /// Only what is safe may be remembered: after a restart the sensor must send the rest again.
    fn durable_epochs(&self) -> Vec<(u64, u64)> {
        let progress = self.progress();
        let cut = |&(epoch, next): &(u64, u64)| {
            let lost = self.window.iter().chain(&self.fresh).find(|entry| entry.epoch == epoch && !entry.is_safe());
            let next = lost.map_or(next, |entry| entry.seq.min(next));
            (epoch, if epoch == progress.epoch { next.min(progress.safe + 1) } else { next })
        };
        self.known.iter().map(cut).collect()
    }
}
