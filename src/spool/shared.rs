//! What the lanes and the worker have in common: bounds, the account of memory, the worker's inbox.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::SpoolOptions;
use super::entry::DeadLetter;
use super::error::SpoolError;
use super::lane::LaneCell;
use crate::clock::Clock;
use crate::ids::PairingId;

/// One lane may hold this share of the memory for itself.
const SHARE: usize = 4;

/// So much of a lane has room also when others hold all there is: a few that nobody takes from do not stop the rest.
const RESERVE: usize = 8 << 10;

pub(super) struct Shared {
    pub(super) options: SpoolOptions,
    pub(super) clock: Clock,
    pub(super) lanes: Mutex<HashMap<PairingId, Arc<LaneCell>>>,
    /// Pairings that were purged: a session that still runs gets no new lane for them. Locked after `lanes`.
    pub(super) gone: Mutex<HashSet<PairingId>>,
    pub(super) totals: Mutex<Totals>,
    memory: AtomicUsize,
    births: AtomicU64,
    inbox: Mutex<Inbox>,
    rung: Condvar,
}

/// Figures that only the worker changes.
#[derive(Debug, Clone, Default)]
pub(super) struct Totals {
    pub(super) dropped: u64,
    pub(super) dead_letters: u64,
    pub(super) commits: u64,
    pub(super) trouble: Option<String>,
}

/// What the worker is asked to do.
#[derive(Default)]
pub(super) struct Inbox {
    rung: bool,
    /// Nobody will read it again.
    closed: bool,
    pub(super) stop: bool,
    pub(super) refills: Vec<Arc<LaneCell>>,
    pub(super) asks: Vec<Ask>,
}

/// A question or order that needs the database.
pub(super) enum Ask {
    Commit { reply: Reply<()> },
    DeadLetters { limit: usize, reply: Reply<Vec<DeadLetter>> },
    Replay { pairing: PairingId, reply: Reply<u64> },
    DropDead { pairing: PairingId, reply: Reply<u64> },
    Purge { pairing: PairingId, reply: Reply<u64> },
}

pub(super) type Reply<T> = oneshot::Sender<Result<T, SpoolError>>;

impl Shared {
    pub(super) fn new(options: SpoolOptions, clock: Clock) -> Self {
        Self {
            options,
            clock,
            lanes: Mutex::default(),
            gone: Mutex::default(),
            totals: Mutex::default(),
            memory: AtomicUsize::new(0),
            births: AtomicU64::new(0),
            inbox: Mutex::default(),
            rung: Condvar::new(),
        }
    }

    /// Numbers the lanes.
    pub(super) fn next_birth(&self) -> u64 {
        self.births.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn memory(&self) -> usize {
        self.memory.load(Ordering::Relaxed)
    }

    pub(super) fn memory_moved(&self, before: usize, after: usize) {
        if after >= before {
            self.memory.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.memory.fetch_sub(before - after, Ordering::Relaxed);
        }
    }

    /// Whether a lane that holds `lane_bytes` may take one more entry.
    pub(super) fn has_room(&self, lane_bytes: usize) -> bool {
        let share = self.options.memory_bytes / SHARE;
        lane_bytes < share && (self.memory() < self.options.memory_bytes || lane_bytes < RESERVE)
    }

    /// Memory is half used: commit now rather than when the time has come.
    pub(super) fn is_pressed(&self) -> bool {
        self.memory() > self.options.memory_bytes / 2
    }

    pub(super) fn wake_if_pressed(&self) {
        if self.is_pressed() {
            self.wake();
        }
    }

    /// So many settled entries of a lane that the file does not know of are worth a transaction.
    pub(super) fn record_at(&self) -> usize {
        (self.options.in_flight / 4).max(1)
    }

    pub(super) fn wake(&self) {
        self.post(|_| ());
    }

    pub(super) fn refill(&self, lane: &Arc<LaneCell>) {
        self.post(|inbox| {
            if !inbox.refills.iter().any(|waiting| Arc::ptr_eq(waiting, lane)) {
                inbox.refills.push(Arc::clone(lane));
            }
        });
    }

    pub(super) fn ask(&self, ask: Ask) {
        self.post(|inbox| inbox.asks.push(ask));
    }

    /// The worker ends: what was asked stays unanswered.
    pub(super) fn close(&self) {
        *lock(&self.inbox) = Inbox { closed: true, ..Inbox::default() };
    }

    pub(super) fn stop(&self) {
        self.post(|inbox| inbox.stop = true);
    }

    /// Waits for work, at most `tick`.
    pub(super) fn wait(&self, tick: Duration) -> Inbox {
        let inbox = lock(&self.inbox);
        let waited = self.rung.wait_timeout_while(inbox, tick, |inbox| !inbox.rung);
        let (mut inbox, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let stop = inbox.stop;
        let work = std::mem::take(&mut *inbox);
        inbox.stop = stop;
        work
    }

    fn post(&self, put: impl FnOnce(&mut Inbox)) {
        let mut inbox = lock(&self.inbox);
        if inbox.closed {
            return;
        }
        put(&mut inbox);
        if !inbox.rung {
            inbox.rung = true;
            self.rung.notify_one();
        }
    }

    pub(super) fn all_lanes(&self) -> Vec<Arc<LaneCell>> {
        lock(&self.lanes).values().cloned().collect()
    }

    pub(super) fn totals(&self) -> MutexGuard<'_, Totals> {
        lock(&self.totals)
    }
}

/// A panic elsewhere leaves the data behind a lock as good as it was: every change is a whole one.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
