//! The thread that owns the database: it commits what has waited too long, records what is settled, drops at the
//! cap, and reads rows back for the relay. A failed transaction changes nothing in memory and is tried again.

mod asked;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::chunk;
use super::disk::{Disk, Writer};
use super::entry::{Capture, Kind};
use super::error::SpoolError;
use super::lane::LaneCell;
use super::parts::{ChunkRef, Draft, DropPlan, Dying, Entry, OVERHEAD, Settled};
use super::queue::Queue;
use super::shared::Shared;
use crate::ids::DeviceId;

/// Entries of one row at most.
const ROW_ENTRIES: usize = 256;
/// Bytes of content of one row at most, unless one entry alone has more.
const ROW_BYTES: usize = 32 << 10;
/// Dead letters kept at most.
const DEAD_LETTERS: u64 = 10_000;
/// After a failed transaction the next one is tried no sooner.
const RETRY: Duration = Duration::from_secs(1);
/// Progress that no row tells is written this often.
const PROGRESS: Duration = Duration::from_secs(60);

const CAP_REASON: &str = "dropped at the byte cap of the gateway's spool";
const DAMAGE_REASON: &str = "lost to damage of the gateway's spool";

pub(super) struct Worker {
    shared: Arc<Shared>,
    disk: Disk,
    retry_at: Option<Duration>,
    progress_at: Duration,
    starved: Vec<Arc<LaneCell>>,
    was_empty: bool,
}

/// What one lane has for a transaction.
struct Work {
    cell: Arc<LaneCell>,
    drafts: Vec<Draft>,
    settled: Settled,
    dying: Vec<Dying>,
    epochs: Option<Vec<(u64, u64)>>,
    owner: Option<DeviceId>,
    drop: Option<DropPlan>,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, disk: Disk) -> Self {
        let progress_at = shared.clock.boot() + PROGRESS;
        Self { shared, disk, retry_at: None, progress_at, starved: Vec::new(), was_empty: true }
    }

    pub(super) fn run(mut self) -> Result<(), SpoolError> {
        let tick = (self.shared.options.commit / 4).clamp(Duration::from_millis(2), Duration::from_millis(250));
        loop {
            let inbox = self.shared.wait(tick);
            if inbox.stop {
                let result = self.transact(true);
                self.shared.close();
                return result;
            }
            let mut refills = std::mem::take(&mut self.starved);
            refills.extend(inbox.refills);
            for cell in refills {
                self.refill(&cell);
            }
            for ask in inbox.asks {
                self.answer(ask);
            }
            if self.retry_at.is_none_or(|at| self.shared.clock.boot() >= at) {
                // The error is kept in the totals, and it is tried again.
                let _ = self.transact(false);
            }
        }
    }

    /// One commit for all lanes that have something for it; with `all` also for what has not waited long yet.
    fn transact(&mut self, all: bool) -> Result<(), SpoolError> {
        let now = self.shared.clock.boot();
        let lanes = self.shared.all_lanes();
        let due_age = self.shared.options.commit.mul_f32(0.75);
        let pressed = all || self.shared.is_pressed();
        let lazily = all || now >= self.progress_at;
        let mut work: Vec<Work> = Vec::new();
        for cell in lanes {
            let gathered = cell.with(|queue| {
                let due = queue.oldest_unsafe().is_some_and(|since| pressed || now.saturating_sub(since) >= due_age);
                let drafts = if due { queue.drafts(ROW_ENTRIES, ROW_BYTES) } else { Vec::new() };
                let settled = queue.settled();
                let epochs = if lazily || !settled.deletes.is_empty() { queue.changed_epochs() } else { None };
                // An owner matters only to a lane that has something on disk.
                let dying = queue.dying();
                let kept = !drafts.is_empty() || !dying.is_empty() || epochs.is_some() || queue.disk_bytes() > 0;
                let owner = if kept { queue.unsaved_owner() } else { None };
                (drafts, settled, dying, epochs, owner)
            });
            let (drafts, settled, dying, epochs, owner) = gathered;
            let idle = drafts.is_empty() && dying.is_empty() && settled.unrecorded == 0;
            if !idle || epochs.is_some() || owner.is_some() {
                work.push(Work { cell, drafts, settled, dying, epochs, owner, drop: None });
            }
        }
        if lazily {
            self.progress_at = now + PROGRESS;
        }
        if work.is_empty() {
            return Ok(());
        }
        // Rows of an earlier pairing of a device stand before those of a later one: by that they are served in their order
        // after a restart.
        work.sort_unstable_by_key(|work| work.cell.born);
        self.plan_drops(&mut work);
        let at = u64::try_from(self.shared.clock.wall().as_millis()).unwrap_or(u64::MAX);
        let durable = work.iter().any(|work| !work.drafts.is_empty() || !work.dying.is_empty() || work.drop.is_some());
        match self.disk.write(durable, |writer| write_all(writer, &work, at)) {
            Ok((rows, buried)) => {
                self.apply(work, rows, durable, buried);
                Ok(())
            }
            Err(error) => {
                undo(work);
                self.failed(&error);
                Err(error)
            }
        }
    }

    /// Finds room under the cap for what is about to be written: the largest lanes' oldest rows.
    fn plan_drops(&self, work: &mut Vec<Work>) {
        let new: u64 = work.iter().flat_map(|work| &work.drafts).map(draft_charge).sum();
        let lanes = self.shared.all_lanes();
        let mut on_disk = 0;
        let mut sizes = Vec::with_capacity(lanes.len());
        for cell in lanes {
            let (all, backlog) = cell.with(|queue| (queue.disk_bytes(), queue.backlog_bytes()));
            on_disk += all;
            sizes.push((backlog, cell));
        }
        let mut need = (on_disk + new).saturating_sub(self.shared.options.max_bytes);
        sizes.sort_unstable_by_key(|(backlog, _)| std::cmp::Reverse(*backlog));
        for (at, (backlog, cell)) in sizes.iter().enumerate() {
            if need == 0 {
                return;
            }
            // Take the largest down to the next one's size first, so that nobody pays for a chatty one.
            let next = sizes.get(at + 1).map_or(0, |(next, _)| *next);
            let share = need.min((backlog - next).max(need.min(u64::from(u16::MAX))));
            let Some(plan) = cell.with(|queue| queue.plan_drop(share, gap_bytes())) else { continue };
            need = need.saturating_sub(plan.freed);
            match work.iter_mut().find(|work| Arc::ptr_eq(&work.cell, cell)) {
                Some(work) => work.drop = Some(plan),
                None => work.push(Work {
                    cell: Arc::clone(cell),
                    drafts: Vec::new(),
                    settled: Settled::default(),
                    dying: Vec::new(),
                    epochs: None,
                    owner: None,
                    drop: Some(plan),
                }),
            }
        }
    }

    fn apply(&mut self, work: Vec<Work>, rows: Vec<Vec<(i64, u32)>>, durable: bool, buried: Option<Buried>) {
        let dropped: u64 = work.iter().filter_map(|work| work.drop.as_ref()).map(|plan| plan.lost).sum();
        let trimmed = buried.map_or(0, |buried| buried.trimmed);
        {
            let mut totals = self.shared.totals();
            totals.dropped += dropped + trimmed;
            totals.dead_letters = buried.map_or(totals.dead_letters, |buried| buried.left);
            totals.commits += u64::from(durable);
            if totals.trouble.take().is_some() {
                tracing::info!("the spool's disk takes readings again");
            }
        }
        if dropped > 0 {
            tracing::warn!(readings = dropped, "readings dropped at the spool's byte cap");
        }
        if trimmed > 0 {
            tracing::warn!(
                readings = trimmed,
                most = DEAD_LETTERS,
                "the oldest dead letters dropped: there are too many"
            );
        }
        let mut unrecorded = 0;
        for (work, rows) in work.into_iter().zip(rows) {
            let behind = work.cell.advance(|queue| {
                if let Some(plan) = work.drop {
                    queue.dropped(plan);
                }
                for (draft, (id, bytes)) in work.drafts.iter().zip(rows) {
                    queue.committed(draft, id, bytes);
                }
                queue.written();
                queue.buried(&work.dying);
                queue.recorded(work.settled, true);
                queue.spill();
                queue.unrecorded()
            });
            unrecorded = unrecorded.max(behind);
        }
        if unrecorded >= self.shared.record_at() {
            // What was confirmed during the commit holds up what is to be published: recorded at once.
            self.shared.wake();
        }
        self.retry_at = None;
        self.give_space_back();
    }

    fn failed(&mut self, error: &SpoolError) {
        self.retry_at = Some(self.shared.clock.boot() + RETRY);
        let mut totals = self.shared.totals();
        let text = error.to_string();
        if totals.trouble.as_deref() != Some(&text) {
            tracing::error!(error = %error, "the spool cannot be written; readings stay unacknowledged with their sensors");
        }
        totals.trouble = Some(text);
    }

    fn give_space_back(&mut self) {
        let empty = self.shared.all_lanes().iter().all(|cell| cell.with(|queue| queue.disk_bytes() == 0));
        if empty
            && !self.was_empty
            && let Err(error) = self.disk.shrink()
        {
            tracing::warn!(error = %error, "the spool's file could not be made smaller");
        }
        self.was_empty = empty;
    }

    fn refill(&mut self, cell: &Arc<LaneCell>) {
        let rows = cell.with(Queue::begin_refill);
        if rows.is_empty() {
            return;
        }
        let mut read = Vec::with_capacity(rows.len());
        for row in rows {
            match self.disk.read(row.id) {
                Ok(body) => read.push(self.decode(row, body)),
                Err(error) => {
                    self.failed(&error);
                    self.starved.push(Arc::clone(cell));
                    break;
                }
            }
        }
        cell.advance(|queue| queue.end_refill(read));
    }

    /// The entries of a row; of one that is damaged, a gap record that says so.
    fn decode(&mut self, row: ChunkRef, body: Option<Bytes>) -> (ChunkRef, Vec<Entry>) {
        let entries = body
            .ok_or(chunk::ChunkError::Truncated)
            .and_then(|body| chunk::decode(row.id, row.epoch, row.first_seq, row.count, &body));
        entries.map_or_else(
            |error| {
                tracing::error!(row = row.id, readings = row.count, error = %error, "a row of the spool is damaged");
                self.shared.totals().dropped += u64::from(row.count);
                let gap = gap_entry(&row, DAMAGE_REASON);
                (ChunkRef { count: 1, done: 0, gap: true, ..row }, vec![gap])
            },
            |entries| (row, entries),
        )
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// The id and size of each new row, lane by lane, and what became of the dead letters if there are new ones.
type Written = (Vec<Vec<(i64, u32)>>, Option<Buried>);

/// The dead letters after new ones came.
#[derive(Clone, Copy)]
struct Buried {
    left: u64,
    /// The oldest went: there were more than are kept.
    trimmed: u64,
}

/// Writes what the lanes have.
fn write_all(writer: &mut Writer<'_>, work: &[Work], at_unix_ms: u64) -> rusqlite::Result<Written> {
    let mut rows = Vec::with_capacity(work.len());
    let mut buried = false;
    for lane in work {
        let pairing = lane.cell.pairing;
        if let Some(plan) = &lane.drop {
            for gap in &plan.gaps {
                writer.replace(gap, &chunk::encode(gap.epoch, gap.first_seq, &[gap_entry(gap, CAP_REASON)]))?;
            }
            for id in &plan.deletes {
                writer.delete(*id)?;
            }
            writer.add_dropped(plan.lost)?;
        }
        for dying in &lane.dying {
            writer.bury(pairing, &dying.entry, &dying.reason, at_unix_ms)?;
            buried = true;
        }
        let mut written = Vec::with_capacity(lane.drafts.len());
        for draft in &lane.drafts {
            let body = chunk::encode(draft.epoch(), draft.first_seq(), &draft.entries);
            let seqs = (draft.epoch(), draft.first_seq(), draft.last_seq());
            let id = writer.insert(pairing, seqs, draft.entries.len(), &body)?;
            written.push((id, u32::try_from(body.len()).unwrap_or(u32::MAX)));
        }
        rows.push(written);
        for id in &lane.settled.deletes {
            writer.delete(*id)?;
        }
        if let Some((row, done)) = lane.settled.mark {
            writer.mark(pairing, row, done)?;
        }
        if let Some(epochs) = &lane.epochs {
            writer.epochs(pairing, epochs)?;
        }
        if let Some(owner) = &lane.owner {
            writer.owner(pairing, owner)?;
        }
    }
    if !buried {
        return Ok((rows, None));
    }
    let trimmed = writer.trim_dead_letters(DEAD_LETTERS)?;
    writer.add_dropped(trimmed)?;
    Ok((rows, Some(Buried { left: writer.count_dead_letters()?, trimmed })))
}

/// The transaction failed: everything is to be tried again.
fn undo(work: Vec<Work>) {
    for work in work {
        // The relay may wait for what is written.
        work.cell.advance(|queue| {
            queue.written();
            queue.recorded(work.settled, false);
            if work.epochs.is_some() {
                queue.epochs_unsaved();
            }
            if work.owner.is_some() {
                queue.owner_unsaved();
            }
        });
    }
}

fn gap_entry(row: &ChunkRef, reason: &'static str) -> Entry {
    let kind = Kind::Gap { to: row.last_seq };
    Entry::from_disk(row.id, row.epoch, row.first_seq, kind, Capture::Exact, Bytes::from_static(reason.as_bytes()))
}

/// Upper bound of the body of a gap record of the cap.
fn gap_bytes() -> u32 {
    u32::try_from(CAP_REASON.len() + 24).unwrap_or(u32::MAX)
}

fn draft_charge(draft: &Draft) -> u64 {
    draft.entries.iter().map(|entry| entry.content.len() as u64 + 6).sum::<u64>() + OVERHEAD as u64
}
