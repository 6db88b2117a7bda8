//! What drives a connection, and who is woken when it can go on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use super::Failure;

/// What drives the connection. It is kept between polls, because what drops it half-way loses what it was doing; and
/// it is polled by the task that publishes: one of its own would be woken for every few messages, and wake back.
pub(super) struct Pump {
    stage: Stage,
    bell: Arc<Bell>,
    waker: Waker,
}

enum Stage {
    Running(Pin<Box<dyn Future<Output = Failure> + Send>>),
    Ended(Failure),
}

impl Pump {
    pub(super) fn new(running: impl Future<Output = Failure> + Send + 'static) -> Self {
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(Arc::clone(&bell));
        Self { stage: Stage::Running(Box::pin(running)), bell, waker }
    }

    /// Ready from the connection's end on.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Failure> {
        if let Stage::Running(running) = &mut self.stage {
            self.bell.belongs_to(context.waker());
            let mut context = Context::from_waker(&self.waker);
            // A panic of the library's ends this connection and not its device.
            let failure = match catch_unwind(AssertUnwindSafe(|| running.as_mut().poll(&mut context))) {
                Ok(Poll::Pending) => return Poll::Pending,
                Ok(Poll::Ready(failure)) => failure,
                Err(_) => Failure::Lost("the connection's client ended".to_owned()),
            };
            self.stage = Stage::Ended(failure);
        }
        match &self.stage {
            Stage::Ended(failure) => Poll::Ready(failure.clone()),
            Stage::Running(_) => Poll::Pending,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self.stage, Stage::Running(_))
    }

    /// Does what gives it something to do, and wakes nobody for it: whoever holds it polls it next anyway. A task that
    /// is woken while it runs goes to the end of the runtime's queue, from where another thread is woken to take it.
    pub(super) fn quietly<T>(&mut self, work: impl FnOnce() -> T) -> T {
        self.bell.lock().is_muted = true;
        let done = work();
        self.bell.lock().is_muted = false;
        done
    }
}

/// Wakes whoever polled last. What it is rung for while muted is seen at the next poll: whatever changed did so before
/// the lock was taken to look whether it is muted, and the poll comes after it was taken to end that.
#[derive(Default)]
struct Bell(Mutex<Ring>);

#[derive(Default)]
struct Ring {
    owner: Option<Waker>,
    is_muted: bool,
}

impl Bell {
    fn belongs_to(&self, waker: &Waker) {
        let mut ring = self.lock();
        match &mut ring.owner {
            Some(owner) => owner.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let ring = self.lock();
        let owner = if ring.is_muted { None } else { ring.owner.clone() };
        drop(ring);
        if let Some(owner) = owner {
            owner.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::mpsc;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A pump that ends with the second thing it is given.
    fn pump() -> (Pump, mpsc::UnboundedSender<()>) {
        let (sender, mut given) = mpsc::unbounded_channel();
        let pump = Pump::new(async move {
            given.recv().await;
            given.recv().await;
            Failure::TakenOver
        });
        (pump, sender)
    }

    #[test]
    fn what_its_owner_gives_it_wakes_nobody_and_is_found_at_the_next_poll() {
        let ((mut pump, sender), count) = (pump(), Arc::new(Count::default()));
        let waker = Waker::from(Arc::clone(&count));
        let mut context = Context::from_waker(&waker);
        assert!(pump.poll(&mut context).is_pending());
        pump.quietly(|| sender.send(()).unwrap());
        assert_eq!(count.0.load(Ordering::Relaxed), 0);
        assert!(pump.poll(&mut context).is_pending() && pump.is_running());
        pump.quietly(|| sender.send(()).unwrap());
        assert_eq!(pump.poll(&mut context), Poll::Ready(Failure::TakenOver));
        assert!(!pump.is_running());
    }

    #[test]
    fn what_comes_from_elsewhere_wakes_whoever_polled_last() {
        let ((mut pump, sender), before, count) = (pump(), Arc::new(Count::default()), Arc::new(Count::default()));
        let polled_by = |pump: &mut Pump, count: &Arc<Count>| {
            let waker = Waker::from(Arc::clone(count));
            assert!(pump.poll(&mut Context::from_waker(&waker)).is_pending());
        };
        polled_by(&mut pump, &before);
        polled_by(&mut pump, &count);
        sender.send(()).unwrap();
        polled_by(&mut pump, &count);
        pump.quietly(|| ());
        sender.send(()).unwrap();
        assert_eq!((before.0.load(Ordering::Relaxed), count.0.load(Ordering::Relaxed)), (0, 2));
    }
}
