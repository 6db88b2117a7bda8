//! The worker's end of a lane: what is to be written, what was, what is read back, what the cap takes.

use std::collections::VecDeque;
use std::time::Duration;

use super::Queue;
use crate::ids::DeviceId;
use crate::spool::entry::LaneStatus;
use crate::spool::parts::{ChunkRef, Draft, DropPlan, Dying, Entry, Settled, State};

/// Rows that one transaction drops of one lane at most.
const DROP_ROWS: usize = 256;
/// Rows that one refill reads at most.
const REFILL_ROWS: usize = 64;

impl Queue {
    /// Bytes in memory that are neither on disk nor confirmed.
    pub(in crate::spool) fn memory_bytes(&self) -> usize {
        self.unsafe_bytes
    }

    /// When the oldest entry came that is neither on disk nor confirmed.
    pub(in crate::spool) fn oldest_unsafe(&self) -> Option<Duration> {
        self.unsafe_entries().next().map(|entry| entry.since)
    }

    /// Everything that is neither on disk nor confirmed, cut into rows that are being written until
    /// [`written`](Self::written).
    pub(in crate::spool) fn drafts(&mut self, max_entries: usize, max_bytes: usize) -> Vec<Draft> {
        let mut drafts: Vec<Draft> = Vec::new();
        for entry in self.unsafe_entries() {
            let open = drafts.last_mut().filter(|draft| {
                draft.epoch() == entry.epoch
                    && draft.last_seq().checked_add(1) == Some(entry.seq)
                    && draft.entries.len() < max_entries
                    && draft.bytes() + entry.content.len() <= max_bytes
            });
            match open {
                Some(draft) => draft.entries.push(entry.clone()),
                None => drafts.push(Draft { entries: vec![entry.clone()] }),
            }
        }
        let last = drafts.last().and_then(|draft| draft.entries.last());
        self.writing = last.map_or(0, |entry| entry.arrival);
        drafts
    }

    /// Nothing is being written any more: what was [drafted](Self::drafts) is [committed](Self::committed), or is not on
    /// disk.
    pub(in crate::spool) fn written(&mut self) {
        (self.writing, self.through) = (0, 0);
    }

    /// A draft is fsynced as row `id`, holding `bytes`.
    pub(in crate::spool) fn committed(&mut self, draft: &Draft, id: i64, bytes: u32) {
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
                self.push_window(entry);
            }
        }
        let mut present = 0;
        for entry in &mut self.window {
            if entry.arrival >= first.arrival && entry.arrival <= last.arrival {
                if !entry.is_safe() {
                    self.unsafe_bytes -= entry.charge();
                }
                entry.row = id;
                present += 1;
            }
        }
        // Its first ones were confirmed while it was written: a restart would publish them again.
        chunk.done = chunk.count.saturating_sub(present);
        self.settled.unrecorded += chunk.done as usize;
        if present == 0 {
            self.settled.deletes.push(id);
        } else {
            if chunk.done > 0 {
                self.settled.mark = Some((id, chunk.done));
            }
            self.live.push_back(chunk);
        }
        self.pop_done();
        self.advance_safe();
    }

    /// Refused entries that wait for the dead-letter table.
    pub(in crate::spool) fn dying(&self) -> Vec<Dying> {
        let find = |(pos, reason): &(u64, String)| {
            let entry = self.window.get(self.index(*pos))?.clone();
            Some(Dying { pos: *pos, entry, reason: reason.clone() })
        };
        self.dying.iter().filter_map(find).collect()
    }

    /// These now stand in the dead-letter table.
    pub(in crate::spool) fn buried(&mut self, dead: &[Dying]) {
        for dead in dead {
            self.dying.retain(|(pos, _)| *pos != dead.pos);
            let index = self.index(dead.pos);
            let dying = |entry: &&mut Entry| dead.pos >= self.front && entry.state == State::Dying;
            if let Some(entry) = self.window.get_mut(index).filter(dying) {
                if !entry.is_safe() {
                    self.unsafe_bytes -= entry.charge();
                }
                entry.state = State::Done;
                self.ahead += 1;
            }
        }
        self.pop_done();
    }

    /// What the file must learn about settled entries; given back to [`recorded`](Self::recorded).
    pub(in crate::spool) fn settled(&mut self) -> Settled {
        let kept = Settled { unrecorded: self.settled.unrecorded, ..Settled::default() };
        std::mem::replace(&mut self.settled, kept)
    }

    /// The file knows of `settled` (`true`), or the transaction failed and it must be tried again.
    pub(in crate::spool) fn recorded(&mut self, mut settled: Settled, success: bool) {
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
    pub(in crate::spool) fn unrecorded(&self) -> usize {
        self.settled.unrecorded
    }

    /// Whether the window should be refilled from disk.
    pub(in crate::spool) fn wants_refill(&self) -> bool {
        !self.loading
            && !self.backlog.is_empty()
            && self.window.len() < self.limits.window_entries / 2
            && self.window_bytes < self.limits.window_bytes / 2
    }

    /// Begins a refill: the rows to read, in order.
    pub(in crate::spool) fn begin_refill(&mut self) -> Vec<ChunkRef> {
        if !self.wants_refill() {
            return Vec::new();
        }
        self.loading = true;
        let mut room = self.limits.window_entries.saturating_sub(self.window.len());
        let mut bytes = self.limits.window_bytes.saturating_sub(self.window_bytes);
        let mut rows = Vec::new();
        for chunk in &self.backlog {
            rows.push(*chunk);
            room = room.saturating_sub(chunk.count as usize);
            bytes = bytes.saturating_sub(chunk.bytes as usize);
            if room == 0 || bytes == 0 || rows.len() >= REFILL_ROWS {
                break;
            }
        }
        rows
    }

    /// Ends a refill with what was read of each row, in the order of [`begin_refill`](Self::begin_refill).
    pub(in crate::spool) fn end_refill(&mut self, rows: Vec<(ChunkRef, Vec<Entry>)>) {
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

    /// Puts what is on disk and unclaimed out of memory while nobody serves the lane. Not what was confirmed before its
    /// turn: the file does not know of that, and it would be published again.
    pub(in crate::spool) fn spill(&mut self) {
        if self.served || self.loading || self.in_flight > 0 || self.window.is_empty() {
            return;
        }
        if !self.dying.is_empty() || self.ahead > 0 || self.window.iter().any(|entry| entry.row == 0) {
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
    pub(in crate::spool) fn push_backlog(&mut self, chunk: ChunkRef) {
        self.backlog_bytes += chunk.charge();
        self.backlog_entries += chunk.waiting();
        self.backlog.push_back(chunk);
    }

    /// Bytes that wait on disk beyond the window.
    pub(in crate::spool) fn backlog_bytes(&self) -> u64 {
        self.backlog_bytes
    }

    /// Bytes on disk, also those the window holds.
    pub(in crate::spool) fn disk_bytes(&self) -> u64 {
        self.backlog_bytes + self.live.iter().map(ChunkRef::charge).sum::<u64>()
    }

    /// What the cap takes from this lane to free `need` bytes: its oldest rows, each stretch becoming one gap
    /// record of `gap_bytes` in the place of its first row. `None` when there is nothing to gain.
    pub(in crate::spool) fn plan_drop(&self, need: u64, gap_bytes: u32) -> Option<DropPlan> {
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
                plan.lost += chunk.waiting();
            }
            let open = plan.gaps.last_mut();
            let joins =
                |gap: &&mut ChunkRef| gap.epoch == chunk.epoch && gap.last_seq.checked_add(1) == Some(chunk.first_seq);
            if let Some(gap) = open.filter(joins) {
                gap.last_seq = chunk.last_seq;
                plan.deletes.push(chunk.id);
            } else {
                let gap = ChunkRef { count: 1, done: 0, bytes: gap_bytes, gap: true, ..*chunk };
                plan.freed = plan.freed.saturating_sub(gap.charge());
                plan.gaps.push(gap);
            }
        }
        (plan.lost > 0 && plan.freed > 0).then_some(plan)
    }

    /// A drop as planned stands in the file.
    pub(in crate::spool) fn dropped(&mut self, plan: DropPlan) {
        for _ in 0..plan.rows {
            self.pop_backlog();
        }
        for gap in plan.gaps.into_iter().rev() {
            self.push_front_backlog(gap);
        }
    }

    /// Forgets everything that waits; how many entries that were. Its rows are gone already.
    pub(in crate::spool) fn purge(&mut self) -> u64 {
        let entries = (self.window.len() + self.fresh.len()) as u64 + self.backlog_entries;
        let taken = self.front + self.window.len() as u64;
        self.window.clear();
        self.fresh.clear();
        self.live.clear();
        self.backlog.clear();
        self.dying.clear();
        self.settled = Settled::default();
        (self.window_bytes, self.unsafe_bytes) = (0, 0);
        (self.backlog_bytes, self.backlog_entries) = (0, 0);
        (self.front, self.taken, self.unsafe_from) = (taken, taken, taken);
        (self.in_flight, self.ahead, self.through) = (0, 0, 0);
        self.round = self.round.wrapping_add(1);
        self.loading = false;
        self.closed = true;
        entries
    }

    /// The owner, if the file does not know it and has a reason to.
    pub(in crate::spool) fn unsaved_owner(&mut self) -> Option<DeviceId> {
        if self.owner_saved {
            return None;
        }
        self.owner_saved = true;
        self.owner.clone()
    }

    /// Puts back what [`unsaved_owner`](Self::unsaved_owner) took when the transaction failed.
    pub(in crate::spool) fn owner_unsaved(&mut self) {
        self.owner_saved = false;
    }

    /// What an earlier process knew of the owner.
    pub(in crate::spool) fn restore_owner(&mut self, owner: DeviceId) {
        self.owner = Some(owner);
    }

    /// Progress as the file keeps it, if it changed since the last call.
    pub(in crate::spool) fn changed_epochs(&mut self) -> Option<Vec<(u64, u64)>> {
        let durable = self.durable_epochs();
        (durable != self.saved).then(|| {
            self.saved.clone_from(&durable);
            durable
        })
    }

    /// Puts back what [`changed_epochs`](Self::changed_epochs) took when the transaction failed.
    pub(in crate::spool) fn epochs_unsaved(&mut self) {
        self.saved.clear();
    }

    /// What an earlier process knew of an epoch.
    pub(in crate::spool) fn restore_epoch(&mut self, epoch: u64, next: u64) {
        let next = next.max(self.next_of(epoch).unwrap_or(1));
        self.set_next(epoch, next);
    }

    pub(in crate::spool) fn status(&self, now: Duration) -> LaneStatus {
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

    fn drop_fresh_until(&mut self, arrival: u64) {
        while self.fresh.front().is_some_and(|entry| entry.arrival <= arrival) {
            if let Some(entry) = self.fresh.pop_front() {
                self.unsafe_bytes -= entry.charge();
            }
        }
    }

    fn push_front_backlog(&mut self, chunk: ChunkRef) {
        self.backlog_bytes += chunk.charge();
        self.backlog_entries += chunk.waiting();
        self.backlog.push_front(chunk);
    }

    fn pop_backlog(&mut self) {
        if let Some(chunk) = self.backlog.pop_front() {
            self.backlog_bytes -= chunk.charge();
            self.backlog_entries -= chunk.waiting();
        }
    }

    /// Only what is safe may be remembered: after a restart the sensor must send the rest again.
    fn durable_epochs(&self) -> Vec<(u64, u64)> {
        let progress = self.progress();
        let cut = |&(epoch, next): &(u64, u64)| {
            let next = self.first_unsafe(epoch).map_or(next, |lost| lost.min(next));
            (epoch, if epoch == progress.epoch { next.min(progress.safe + 1) } else { next })
        };
        self.known.iter().map(cut).collect()
    }
}
