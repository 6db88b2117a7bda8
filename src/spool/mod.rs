//! What is not yet confirmed by the broker: memory first, SQLite when it must wait.
//!
//! An entry is published from memory at once. What the broker has not confirmed within
//! [`SpoolOptions::commit`] goes to `spool.db`, all lanes in one fsynced commit. An entry is *safe*, and so
//! acknowledged to its sensor, when it is confirmed or committed, whichever comes first; it is forgotten only
//! when it is confirmed. So while the broker answers, nothing is written, and when it does not, nothing is lost.
//!
//! **After a restart** the rows are published again, in order, from the first one that is not recorded as
//! settled. Settled entries are recorded in batches without an fsync (a process that is killed loses nothing
//! that was written), and a lane has at most [`SpoolOptions::in_flight`] entries that are published and not
//! recorded: so that many may reach the broker twice, with the same identity. Entries that were only in memory
//! are still with their sensor, unless the broker had confirmed them; the sensor says from where it goes on
//! ([`Lane::hello`]), and progress that the file keeps lazily narrows what it repeats.
//!
//! **Pairings and devices.** A lane belongs to a pairing. A device that is paired again gets a new lane; what
//! waits in its older ones goes out first ([`Lane::serve`]), each reading under the name it came with.
//!
//! **Bounds.** Memory: [`SpoolOptions::memory_bytes`], a quarter of it for one lane, and 8 KiB for each that finds it full. Disk:
//! [`SpoolOptions::max_bytes`]; beyond it the largest lane's oldest rows become one gap record in their place.
//!
//! The database has a thread of its own; the lanes are plain data behind short locks.

mod chunk;
mod disk;
mod entry;
mod error;
mod lane;
mod parts;
mod queue;
mod shared;
mod worker;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

pub use entry::{Capture, DeadLetter, Incoming, Kind, LaneStatus, Outgoing, Progress, SpoolStatus, Submitted, Ticket};
pub use error::SpoolError;
pub use lane::Lane;

use crate::clock::Clock;
use crate::ids::PairingId;
use disk::Disk;
use lane::LaneCell;
use queue::{Limits, Queue};
use shared::{Ask, Reply, Shared, lock};

/// Bounds and times of the spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolOptions {
    /// An entry that is not confirmed after this time goes to disk.
    pub commit: Duration,
    /// Bytes kept on disk.
    pub max_bytes: u64,
    /// Bytes in memory that are neither on disk nor confirmed, all lanes.
    pub memory_bytes: usize,
    /// Entries of one lane that may be published and not yet recorded as settled.
    pub in_flight: usize,
}

impl Default for SpoolOptions {
    fn default() -> Self {
        Self { commit: Duration::from_secs(1), max_bytes: 256 << 20, memory_bytes: 16 << 20, in_flight: 100 }
    }
}

impl SpoolOptions {
    fn limits(&self) -> Limits {
        Limits { window_entries: self.in_flight.max(1) * 8, window_bytes: 128 << 10, in_flight: self.in_flight.max(1) }
    }
}

/// The durable queue of all devices. Cheap to clone.
#[derive(Clone)]
pub struct Spool {
    shared: Arc<Shared>,
    /// Waits for [`Spool::run`].
    disk: Arc<Mutex<Option<Disk>>>,
}

impl Spool {
    /// Opens the spool at `path`, or makes it where there is none. What an earlier process left is there again.
    ///
    /// # Errors
    /// Every [`SpoolError`] but `Full` and `Stopped`. A file that is damaged, of a newer schema or in use is refused
    /// and left as it is; the spool never starts empty over it.
    pub fn open(path: &Path, options: SpoolOptions, clock: Clock) -> Result<Self, SpoolError> {
        let (disk, mut left) = Disk::open(path)?;
        // Whose rows are the oldest was made first; a lane may be in the file for the first time after a later one.
        left.lanes.sort_by_key(|lane| lane.rows.first().map_or(i64::MAX, |row| row.id));
        let limits = options.limits();
        let shared = Arc::new(Shared::new(options, clock));
        {
            let mut totals = shared.totals();
            totals.dropped = left.dropped;
            totals.dead_letters = left.dead_letters;
        }
        for found in left.lanes {
            let mut queue = Queue::new(found.pairing, limits);
            if let Some(owner) = found.owner {
                queue.restore_owner(owner);
            }
            for (epoch, next) in found.epochs {
                queue.restore_epoch(epoch, next);
            }
            for row in found.rows {
                queue.restore_epoch(row.epoch, row.last_seq.saturating_add(1));
                queue.push_backlog(row);
            }
            let cell = Arc::new(LaneCell::new(found.pairing, Arc::clone(&shared), queue));
            lock(&shared.lanes).insert(found.pairing, cell);
        }
        Ok(Self { shared, disk: Arc::new(Mutex::new(Some(disk))) })
    }

    /// The queue of one pairing, made where there is none. Of one that was purged it takes nothing.
    #[must_use]
    pub fn lane(&self, pairing: PairingId) -> Lane {
        let mut lanes = lock(&self.shared.lanes);
        let made = || {
            let queue = Queue::new(pairing, self.shared.options.limits());
            Arc::new(LaneCell::new(pairing, Arc::clone(&self.shared), queue))
        };
        if lock(&self.shared.gone).contains(&pairing) {
            let cell = made();
            cell.with(Queue::purge);
            return Lane(cell);
        }
        let cell = lanes.entry(pairing).or_insert_with(made);
        Lane(Arc::clone(cell))
    }

    /// Depths, bytes and troubles.
    #[must_use]
    pub fn status(&self) -> SpoolStatus {
        let now = self.shared.clock.boot();
        let mut status = SpoolStatus { max_bytes: self.shared.options.max_bytes, ..SpoolStatus::default() };
        for cell in self.shared.all_lanes() {
            let (lane, disk) = cell.with(|queue| (queue.status(now), queue.disk_bytes()));
            status.depth += lane.depth;
            status.disk_bytes += disk;
            status.lanes.push(lane);
        }
        status.lanes.sort_by_key(|lane| lane.pairing);
        status.memory_bytes = self.shared.memory() as u64;
        let totals = self.shared.totals().clone();
        status.dropped = totals.dropped;
        status.dead_letters = totals.dead_letters;
        status.commits = totals.commits;
        status.trouble = totals.trouble;
        status
    }

    /// Entries of one pairing that the broker has not confirmed.
    #[must_use]
    pub(crate) fn waiting(&self, pairing: PairingId) -> u64 {
        let cell = lock(&self.shared.lanes).get(&pairing).cloned();
        cell.map_or(0, |cell| cell.with(|queue| queue.status(self.shared.clock.boot()).depth))
    }

    /// Commits, records and refills until `shutdown`; then everything that is not confirmed is committed.
    ///
    /// # Errors
    /// [`SpoolError::Stopped`] when it is already running, or its thread ended by itself; the error of the last
    /// commit when that could not be made.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), SpoolError> {
        let disk = lock(&self.disk).take().ok_or(SpoolError::Stopped)?;
        let path = disk.path().to_owned();
        let (ended_tx, mut ended) = oneshot::channel();
        let shared = Arc::clone(&self.shared);
        std::thread::Builder::new()
            .name("spool".to_owned())
            .spawn(move || {
                let _ = ended_tx.send(worker::Worker::new(shared, disk).run());
            })
            .map_err(|source| SpoolError::Io { path, source })?;
        let stop = StopOnDrop(&self.shared);
        tokio::select! {
            result = &mut ended => return result.unwrap_or(Err(SpoolError::Stopped)),
            () = shutdown.cancelled() => drop(stop),
        }
        ended.await.unwrap_or(Err(SpoolError::Stopped))
    }

    /// Commits what waits now and not when its time has come. Answered while [`run`](Self::run) runs.
    ///
    /// # Errors
    /// [`SpoolError::Stopped`] after `run` has ended; otherwise why it could not be committed.
    pub async fn commit(&self) -> Result<(), SpoolError> {
        self.ask(|reply| Ask::Commit { reply }).await
    }

    /// The newest dead letters, at most `limit`. Answered while [`run`](Self::run) runs.
    ///
    /// # Errors
    /// [`SpoolError::Stopped`] after `run` has ended; otherwise what the database said.
    pub async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, SpoolError> {
        self.ask(|reply| Ask::DeadLetters { limit, reply }).await
    }

    /// Queues the dead letters of the device with this pairing again; how many there were. Those of an earlier pairing
    /// of the device go out once its lane is [served](Lane::serve) again.
    ///
    /// # Errors
    /// As [`dead_letters`](Self::dead_letters).
    pub async fn replay_dead_letters(&self, pairing: PairingId) -> Result<u64, SpoolError> {
        self.ask(|reply| Ask::Replay { pairing, reply }).await
    }

    /// Forgets the dead letters of the device with this pairing; how many there were.
    ///
    /// # Errors
    /// As [`dead_letters`](Self::dead_letters).
    pub(crate) async fn drop_dead_letters(&self, pairing: PairingId) -> Result<u64, SpoolError> {
        self.ask(|reply| Ask::DropDead { pairing, reply }).await
    }

    /// Forgets everything of the device with this pairing, as when it is unpaired; how many entries that lost.
    ///
    /// # Errors
    /// As [`dead_letters`](Self::dead_letters).
    pub async fn purge(&self, pairing: PairingId) -> Result<u64, SpoolError> {
        self.ask(|reply| Ask::Purge { pairing, reply }).await
    }

    async fn ask<T>(&self, ask: impl FnOnce(Reply<T>) -> Ask) -> Result<T, SpoolError> {
        let (reply, answer) = oneshot::channel();
        self.shared.ask(ask(reply));
        answer.await.unwrap_or(Err(SpoolError::Stopped))
    }
}

/// Ends the worker also when [`Spool::run`] itself is dropped.
struct StopOnDrop<'a>(&'a Shared);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl std::fmt::Debug for Spool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spool").field("options", &self.shared.options).finish_non_exhaustive()
    }
}
