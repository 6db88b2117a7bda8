//! One lane in memory: order, window, progress. Plain data without I/O; the worker does the disk part.
//!
//! A lane is three stretches in order: the **window** (in memory, open to the relay; on disk or not), the
//! **backlog** (only on disk), and **fresh** entries (in memory, not yet on disk). While the backlog is empty
//! new entries go straight to the window; else they wait in `fresh` for the next commit.

mod stored;

use std::collections::VecDeque;
use std::time::Duration;

use super::entry::{Incoming, Kind, Outgoing, Progress, Submitted, Ticket};
use super::parts::{ChunkRef, Entry, Settled, State};
use crate::ids::{DeviceId, PairingId, ReadingId};

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

    /// Whether [`take`](Self::take) is worth while now: it yields all that waits, or half of what may be in flight.
    /// Otherwise every single confirmation would be answered with a single message.
    pub(super) fn is_ready(&mut self) -> bool {
        self.served = true;
        self.pull_fresh();
        let waiting = self.window.len().saturating_sub(self.index(self.taken));
        let enough = waiting.min(self.limits.in_flight.saturating_sub(self.ahead) / 2).max(1);
        self.allowance() >= enough && self.has_queued()
    }

    /// Whether the window should be refilled from disk.
    pub(super) fn wants_refill(&self) -> bool {
        !self.loading
            && !self.backlog.is_empty()
            && self.window.len() < self.limits.window_entries / 2
            && self.window_bytes < self.limits.window_bytes / 2
    }

    /// Hands out entries in order, at most `max`, up to the in-flight bound.
    pub(super) fn take(&mut self, max: usize) -> Vec<Outgoing> {
        self.served = true;
        self.pull_fresh();
        let mut allowance = self.allowance().min(max);
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

    // --- within ---

    fn index(&self, pos: u64) -> usize {
        usize::try_from(pos.saturating_sub(self.front)).unwrap_or(usize::MAX)
    }

    fn has_queued(&self) -> bool {
        self.window.iter().skip(self.index(self.taken)).any(|entry| entry.state == State::Queued)
    }

    /// How many may be handed out: what is in flight, what is settled but not recorded, what was confirmed while it was
    /// written, and what was confirmed behind one that was not (a restart would publish each again), together stay within
    /// the bound.
    fn allowance(&self) -> usize {
        self.limits.in_flight.saturating_sub(self.in_flight + self.settled.unrecorded + self.through + self.ahead)
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

    fn drop_fresh_until(&mut self, arrival: u64) {
        while self.fresh.front().is_some_and(|entry| entry.arrival <= arrival) {
            if let Some(entry) = self.fresh.pop_front() {
                self.unsafe_bytes -= entry.charge();
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
        if state == State::Done {
            self.ahead += 1;
            if entry.row == 0 {
                self.unsafe_bytes -= entry.charge();
            }
        }
        true
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

    /// The first seq of an epoch that is neither on disk nor confirmed.
    fn first_unsafe(&self, epoch: u64) -> Option<u64> {
        let mut entries = self.window.iter().chain(&self.fresh);
        entries.find(|entry| entry.epoch == epoch && !entry.is_safe()).map(|entry| entry.seq)
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::entry::Capture;
    use super::*;

    fn incoming(epoch: u64, seq: u64) -> Incoming {
        Incoming { epoch, seq, kind: Kind::Telemetry, content: Bytes::from_static(b"x"), captured: Capture::Exact }
    }

    fn queue(in_flight: usize) -> Queue {
        Queue::new(PairingId([1; 8]), Limits { window_entries: 100, window_bytes: 1 << 20, in_flight })
    }

    #[test]
    fn who_goes_back_to_an_earlier_epoch_is_not_told_that_what_waits_of_it_is_safe() {
        let mut queue = queue(10);
        // The other epoch's reading comes first, so that none of this one's is the first that is not safe.
        queue.hello(7, 1);
        queue.submit(incoming(7, 1), Duration::ZERO);
        queue.hello(8, 1);
        queue.submit(incoming(8, 1), Duration::ZERO);
        queue.submit(incoming(8, 2), Duration::ZERO);
        assert_eq!(queue.hello(7, 1).safe, 0);
        assert_eq!(queue.hello(8, 1), Progress { epoch: 8, safe: 0, next: 3 });
        for (taken, safe) in queue.take(usize::MAX).into_iter().zip([0, 1, 2]) {
            assert!(queue.confirm(taken.ticket));
            assert_eq!(queue.progress().safe, safe);
        }
    }

    #[test]
    fn what_is_confirmed_behind_one_that_is_not_counts_as_in_flight_and_holds_up_nothing_for_ever() {
        let mut queue = queue(10);
        for seq in 1..=50 {
            queue.submit(incoming(1, seq), Duration::ZERO);
        }
        let first = queue.take(usize::MAX);
        assert!(first[1..].iter().all(|taken| queue.confirm(taken.ticket)));
        assert!(!queue.is_ready(), "a kill now repeats nine");
        queue.requeue();
        assert!(queue.is_ready());
        let again = queue.take(usize::MAX);
        assert_eq!(again.iter().map(|taken| taken.id.seq).collect::<Vec<_>>(), [1]);
        assert!(queue.dead_letter(again[0].ticket, String::new()));
        assert!(queue.is_ready());
        assert!(queue.take(usize::MAX).iter().all(|taken| queue.confirm(taken.ticket)));
        assert!(!queue.is_ready(), "not before the dead letter is on disk");
        let dying = queue.dying();
        queue.buried(&dying);
        assert!(queue.is_ready());
        assert_eq!(queue.take(usize::MAX).len(), 10);
    }

    #[test]
    fn a_dead_letter_that_was_replayed_into_the_midst_of_a_row_leaves_it_known_how_far_that_is_through() {
        let mut queue = queue(10);
        let of_row =
            |id, seq| ChunkRef { id, epoch: 1, first_seq: seq, last_seq: seq, count: 1, done: 0, bytes: 1, gap: false };
        (1..=3).for_each(|seq| assert_eq!(queue.submit(incoming(1, seq), Duration::ZERO), Submitted::Accepted));
        queue.push_backlog(of_row(7, 99));
        queue.submit(incoming(1, 4), Duration::ZERO);
        let rows = queue.begin_refill();
        let letter = Entry::from_disk(7, 1, 99, Kind::Telemetry, Capture::Exact, Bytes::new());
        queue.end_refill(vec![(rows[0], vec![letter])]);
        let drafts = queue.drafts(256, 1 << 20);
        queue.committed(&drafts[0], 9, 100);
        queue.written();
        assert!(queue.take(4).into_iter().all(|taken| queue.confirm(taken.ticket)));
        let settled = queue.settled();
        assert_eq!((settled.deletes, settled.mark), (vec![7], Some((9, 3))));
    }

    #[test]
    fn what_is_confirmed_while_it_is_written_is_recorded_as_through() {
        let mut queue = queue(10);
        for seq in 1..=5 {
            queue.submit(incoming(1, seq), Duration::ZERO);
        }
        let drafts = queue.drafts(256, 1 << 20);
        for taken in queue.take(2) {
            assert!(queue.confirm(taken.ticket));
        }
        queue.committed(&drafts[0], 9, 100);
        queue.written();
        assert_eq!(queue.take(usize::MAX).len(), 3);
        let settled = queue.settled();
        assert_eq!((settled.mark, settled.unrecorded, queue.unrecorded()), (Some((9, 2)), 2, 2));
    }

    #[test]
    fn no_more_is_confirmed_while_it_is_written_than_a_kill_may_repeat() {
        let mut queue = queue(10);
        for seq in 1..=30 {
            queue.submit(incoming(1, seq), Duration::ZERO);
        }
        let confirm_all = |queue: &mut Queue| {
            let taken = queue.take(usize::MAX);
            assert!(taken.iter().all(|taken| queue.confirm(taken.ticket)));
            taken.len()
        };
        queue.drafts(256, 1 << 20);
        assert_eq!(confirm_all(&mut queue), 10);
        assert!(!queue.is_ready(), "killed once the row is on disk, and all ten come again");
        // The transaction fails: none of it is on disk.
        queue.written();
        assert!(queue.is_ready());
        let drafts = queue.drafts(256, 1 << 20);
        assert_eq!(confirm_all(&mut queue), 10);
        queue.committed(&drafts[0], 9, 100);
        queue.written();
        assert!(!queue.is_ready(), "the row does not say yet how far it is through");
        let settled = queue.settled();
        queue.recorded(settled, true);
        assert_eq!(confirm_all(&mut queue), 10);
    }

    #[test]
    fn the_epoch_that_is_spoken_of_is_forgotten_last() {
        let mut queue = queue(10);
        queue.hello(1, 5);
        for epoch in 2..=EPOCHS as u64 {
            queue.hello(epoch, 1);
        }
        queue.hello(1, 1);
        queue.hello(100, 1);
        assert_eq!((queue.hello(1, 1).next, queue.hello(3, 1).next), (5, 1));
    }

    #[test]
    fn the_end_of_the_numbers_is_no_panic() {
        let mut queue = queue(10);
        let gap = |seq| Incoming { kind: Kind::Gap { to: u64::MAX }, ..incoming(7, seq) };
        assert_eq!(queue.submit(gap(1), Duration::ZERO), Submitted::OutOfOrder { next: 1 });
        assert_eq!(queue.hello(7, u64::MAX).next, u64::MAX);
        assert_eq!(queue.submit(gap(u64::MAX), Duration::ZERO), Submitted::OutOfOrder { next: u64::MAX });
        assert_eq!(queue.submit(incoming(7, u64::MAX - 1), Duration::ZERO), Submitted::Duplicate);
        assert_eq!(queue.progress().safe, u64::MAX - 1);
    }

    #[test]
    fn a_full_flight_is_refilled_by_halves_and_the_last_ones_go_at_once() {
        let mut queue = queue(10);
        for seq in 1..=17 {
            assert_eq!(queue.submit(incoming(1, seq), Duration::ZERO), Submitted::Accepted);
        }
        let mut flying: VecDeque<_> = queue.take(usize::MAX).into_iter().map(|entry| entry.ticket).collect();
        let confirm = |queue: &mut Queue, flying: &mut VecDeque<_>, count| {
            flying.drain(..count).for_each(|ticket| assert!(queue.confirm(ticket)));
            queue.is_ready()
        };
        assert_eq!(flying.len(), 10);
        assert!(!confirm(&mut queue, &mut flying, 4), "seven wait: four are not worth a write");
        assert!(confirm(&mut queue, &mut flying, 1));
        flying.extend(queue.take(usize::MAX).into_iter().map(|entry| entry.ticket));
        assert!(!confirm(&mut queue, &mut flying, 1), "two wait");
        assert!(confirm(&mut queue, &mut flying, 1), "and all of them may go");
        assert_eq!(queue.take(usize::MAX).len(), 2);
    }
}
