//! One device's queue, as its two users hold it: the session puts in, the relay takes out.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

use super::entry::{Incoming, Outgoing, Progress, Submitted, Ticket};
use super::error::SpoolError;
use super::queue::Queue;
use super::shared::Shared;
use crate::ids::{DeviceId, PairingId};

/// The state of one lane and those who wait for it.
pub(super) struct LaneCell {
    pub(super) pairing: PairingId,
    /// Lanes in the order they were made.
    pub(super) born: u64,
    pub(super) shared: Arc<Shared>,
    queue: Mutex<Queue>,
    wake: Notify,
    progress: watch::Sender<Progress>,
}

impl LaneCell {
    pub(super) fn new(pairing: PairingId, shared: Arc<Shared>, queue: Queue) -> Self {
        let progress = watch::Sender::new(queue.progress());
        let born = shared.next_birth();
        Self { pairing, born, shared, queue: Mutex::new(queue), wake: Notify::new(), progress }
    }

    /// Runs `work` under the lane's lock and keeps the account of memory.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut Queue) -> T) -> T {
        let mut queue = self.lock();
        let before = queue.memory_bytes();
        let out = work(&mut queue);
        self.shared.memory_moved(before, queue.memory_bytes());
        out
    }

    /// As [`with`](Self::with), and tells the session what became safe. Under the lock: worker and relay both do, and
    /// the word of who was first, told last, would stand until the sensor sends something new.
    fn report<T>(&self, work: impl FnOnce(&mut Queue) -> T) -> T {
        self.with(|queue| {
            let out = work(queue);
            let progress = queue.progress();
            self.progress.send_if_modified(|known| std::mem::replace(known, progress) != progress);
            out
        })
    }

    /// As [`report`](Self::report), then tells the relay that something may be taken.
    pub(super) fn advance<T>(&self, work: impl FnOnce(&mut Queue) -> T) -> T {
        let out = self.report(work);
        self.wake.notify_one();
        out
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One device's queue. Cheap to clone; one session and one relay connection use it at a time.
#[derive(Clone)]
pub struct Lane(pub(super) Arc<LaneCell>);

impl Lane {
    /// Whose lane it is.
    #[must_use]
    pub fn pairing(&self) -> PairingId {
        self.0.pairing
    }

    /// Says that this is now the lane of `device`, and returns its lanes in the order they are to be served:
    /// those of earlier pairings that still hold something, and this one last.
    #[must_use]
    pub fn serve(&self, device: &DeviceId) -> Vec<Self> {
        let renamed = self.0.with(|queue| queue.assign(device));
        let all = self.0.shared.all_lanes();
        if let Some(old) = renamed {
            for cell in &all {
                cell.with(|queue| (queue.owner() == Some(&old)).then(|| queue.assign(device)));
            }
        }
        let earlier = |cell: &Arc<LaneCell>| {
            !Arc::ptr_eq(cell, &self.0) && cell.with(|queue| queue.owner() == Some(device) && !queue.is_empty())
        };
        let mut lanes: Vec<Self> = all.into_iter().filter(earlier).map(Self).collect();
        lanes.sort_by_key(|lane| lane.0.born);
        lanes.push(self.clone());
        lanes
    }

    /// Answers a sensor's hello: how far this epoch is here. `lowest` is the lowest seq that the sensor still
    /// holds, or still has to report as a gap; whatever lies below was acknowledged to it before.
    #[must_use]
    pub fn hello(&self, epoch: u64, lowest: u64) -> Progress {
        self.0.report(|queue| queue.hello(epoch, lowest))
    }

    /// Takes an entry if it is the next one. Returns at once, whatever the cloud or the disk does.
    ///
    /// # Errors
    /// [`SpoolError::Full`] when memory is at its bound because the disk does not take what the broker does not;
    /// the reading stays with the sensor, which sends it again. [`SpoolError::Purged`] after the device was removed.
    pub fn submit(&self, incoming: Incoming) -> Result<Submitted, SpoolError> {
        let mut outcome = Submitted::Duplicate;
        self.submit_all([incoming], |_, submitted| outcome = submitted)?;
        Ok(outcome)
    }

    /// As [`submit`](Self::submit) for entries that follow on one another; the relay hears of them once. `told` is
    /// given each entry's last seq and what became of it. Ends at the first one that is out of order.
    ///
    /// # Errors
    /// As [`submit`](Self::submit), of the first entry that was refused; those before it are taken.
    pub(crate) fn submit_all(
        &self,
        entries: impl IntoIterator<Item = Incoming>,
        mut told: impl FnMut(u64, Submitted),
    ) -> Result<(), SpoolError> {
        let shared = &self.0.shared;
        let now = shared.clock.boot();
        let mut accepted = false;
        let result = self.0.with(|queue| {
            for incoming in entries {
                if queue.is_closed() {
                    return Err(SpoolError::Purged { pairing: self.0.pairing });
                }
                if !shared.has_room(queue.memory_bytes()) {
                    return Err(SpoolError::Full { limit: shared.options.memory_bytes });
                }
                let last_seq = incoming.last_seq();
                let submitted = queue.submit(incoming, now);
                accepted |= submitted == Submitted::Accepted;
                told(last_seq, submitted);
                if matches!(submitted, Submitted::OutOfOrder { .. }) {
                    break;
                }
            }
            Ok(())
        });
        if accepted {
            self.0.wake.notify_one();
            shared.wake_if_pressed();
        }
        if matches!(result, Err(SpoolError::Full { .. })) {
            shared.wake();
        }
        result
    }

    /// How far the lane is, as entries become safe.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.0.progress.subscribe()
    }

    /// Waits until [`take`](Self::take) yields something. Cancel safe; for one waiter at a time.
    pub async fn ready(&self) {
        self.wait(false).await;
    }

    /// As [`ready`](Self::ready), but ends with `false` when the lane is empty.
    pub async fn ready_or_empty(&self) -> bool {
        self.wait(true).await
    }

    async fn wait(&self, until_empty: bool) -> bool {
        loop {
            let (ready, empty, refill) =
                self.0.with(|queue| (queue.is_ready(), queue.is_empty(), queue.wants_refill()));
            if refill {
                self.0.shared.refill(&self.0);
            }
            if ready || (empty && until_empty) {
                return ready;
            }
            self.0.wake.notified().await;
        }
    }

    /// Takes what waits, in order, at most `max` and up to the in-flight bound. Each ticket is to be settled by
    /// [`confirm`](Self::confirm), [`dead_letter`](Self::dead_letter) or [`requeue`](Self::requeue).
    #[must_use]
    pub fn take(&self, max: usize) -> Vec<Outgoing> {
        let mut out = Vec::new();
        self.take_into(max, &mut out);
        out
    }

    /// Like [`take`](Self::take), appending to `out`: for who takes often.
    pub fn take_into(&self, max: usize, out: &mut Vec<Outgoing>) {
        let refill = self.0.with(|queue| {
            queue.take_into(max, out);
            queue.wants_refill()
        });
        if refill {
            self.0.shared.refill(&self.0);
        }
    }

    /// The broker has these for good: they are forgotten. Returns how many were still in flight.
    #[expect(clippy::must_use_candidate, reason = "the count is for those who want it")]
    pub fn confirm(&self, tickets: &[Ticket]) -> usize {
        let (count, unrecorded) = self.0.report(|queue| {
            let count = tickets.iter().filter(|ticket| queue.confirm(**ticket)).count();
            (count, queue.unrecorded())
        });
        if unrecorded >= self.0.shared.record_at() {
            self.0.shared.wake();
        }
        count
    }

    /// The broker will never take this one: it moves to the dead letters, with the reason.
    pub fn dead_letter(&self, ticket: Ticket, reason: &str) {
        if self.0.with(|queue| queue.dead_letter(ticket, reason.to_owned())) {
            self.0.shared.wake();
        }
    }

    /// The connection is gone: what was in flight is published again on the next one, in order.
    pub fn requeue(&self) {
        self.0.with(Queue::requeue);
    }
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lane({})", self.0.pairing)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::super::SpoolOptions;
    use super::super::entry::{Capture, Kind};
    use super::*;
    use crate::clock::Clock;

    fn lane(shared: &Arc<Shared>, pairing: PairingId) -> Lane {
        let queue = Queue::new(pairing, shared.options.limits());
        Lane(Arc::new(LaneCell::new(pairing, Arc::clone(shared), queue)))
    }

    fn reading(seq: u64, content: Bytes) -> Incoming {
        Incoming { epoch: 7, seq, kind: Kind::Telemetry, content, captured: Capture::Exact }
    }

    #[test]
    fn four_lanes_that_hold_all_the_memory_do_not_stop_a_fifth() {
        let options = SpoolOptions { memory_bytes: 1 << 20, ..SpoolOptions::default() };
        let shared = Arc::new(Shared::new(options, Clock::system()));
        let fill = |lane: &Lane| {
            (1..=10_000).take_while(|seq| lane.submit(reading(*seq, Bytes::from_static(&[0; 936]))).is_ok()).count()
        };
        let lanes: Vec<Lane> = (0..5).map(|device| lane(&shared, PairingId([device; 8]))).collect();
        assert_eq!(lanes.iter().map(fill).collect::<Vec<_>>(), [263, 263, 263, 260, 9]);
    }

    #[test]
    fn what_is_told_last_is_the_newest() {
        let shared = Arc::new(Shared::new(SpoolOptions::default(), Clock::system()));
        let lane = lane(&shared, PairingId([1; 8]));
        let cell = Arc::clone(&lane.0);
        let told = lane.progress();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // As the worker does after every commit.
                while !done.load(Ordering::Relaxed) {
                    cell.advance(|_| ());
                }
            });
            // Found here, and asserted when the other one has ended: it would not end after a panic.
            let behind = (1..=20_000).find(|&seq| {
                let accepted = lane.submit(reading(seq, Bytes::new())).is_ok();
                let taken: Vec<Ticket> = lane.take(1).iter().map(|entry| entry.ticket).collect();
                !accepted || lane.confirm(&taken) != 1 || told.borrow().safe < seq
            });
            done.store(true, Ordering::Relaxed);
            assert_eq!(behind, None, "it is safe, and less was told: {:?}", *told.borrow());
        });
    }
}
