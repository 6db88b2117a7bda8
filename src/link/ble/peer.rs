//! The task of one sensor in reach: waits until the adapter lends it a link, and attends to that.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;

use super::arbiter::Want;
use super::bus::Ear;
use super::carry::Traffic;
use crate::link::attend::Attendance;
use crate::link::duplex::{Link, LinkEnd};
use crate::link::order::Order;
use crate::link::port::Owner;

/// A link on which nothing is to be done is given back after this time.
const IDLE: Duration = Duration::from_secs(12);

/// Somebody who wants something of a sensor waits so long for a link to it.
const PATIENCE: Duration = Duration::from_secs(30);

/// A sensor's task that panicked is started anew after this time.
const AFTER_PANIC: Duration = Duration::from_secs(5);

/// What the adapter and the sensor's task both see.
#[derive(Debug)]
pub(crate) struct Card {
    /// An operator waits.
    wanted: AtomicBool,
    linked: AtomicBool,
    /// How the last link ended: see [`Card::take_end`].
    end: AtomicU8,
    /// Why no link could be made, last.
    pub(crate) trouble: StdMutex<Option<String>>,
    /// Of the present link, or the last.
    traffic: StdMutex<Option<Arc<Traffic>>>,
    ear: Ear,
}

const NO_END: u8 = 0;
const OF_USE: u8 = 1;
const OF_NO_USE: u8 = 2;

impl Card {
    pub(crate) fn new(ear: Ear) -> Arc<Self> {
        Arc::new(Self {
            wanted: AtomicBool::new(false),
            linked: AtomicBool::new(false),
            end: AtomicU8::new(NO_END),
            trouble: StdMutex::new(None),
            traffic: StdMutex::new(None),
            ear,
        })
    }

    pub(crate) fn is_linked(&self) -> bool {
        self.linked.load(Ordering::Acquire)
    }

    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire)
    }

    /// The more urgent of what the adapter wants of it and what an operator does.
    pub(crate) fn want(&self, want: Want) -> Want {
        if self.is_wanted() { Want::Pairing } else { want }
    }

    /// Whether the link that ended since the last call was of use; nothing if none ended.
    pub(crate) fn take_end(&self) -> Option<bool> {
        match self.end.swap(NO_END, Ordering::AcqRel) {
            NO_END => None,
            end => Some(end == OF_USE),
        }
    }

    /// Whether an operator waits.
    pub(crate) fn set_wanted(&self, wanted: bool) {
        if self.wanted.swap(wanted, Ordering::AcqRel) != wanted {
            self.ear.nudge();
        }
    }

    /// A link is about to be made.
    pub(crate) fn begin(&self, traffic: Traffic) -> Arc<Traffic> {
        let traffic = Arc::new(traffic);
        *self.traffic.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&traffic));
        traffic
    }

    fn traffic(&self) -> Option<Arc<Traffic>> {
        self.traffic.lock().unwrap_or_else(PoisonError::into_inner).clone().filter(|_| self.is_linked())
    }

    /// Ends the link, if there is one.
    pub(crate) fn hang_up(&self) {
        if let Some(traffic) = self.traffic() {
            traffic.gone.notify_one();
        }
    }

    /// Subscribes anew, if there is a link.
    pub(crate) fn resubscribe(&self) {
        if let Some(traffic) = self.traffic() {
            traffic.resubscribe.notify_one();
        }
    }

    /// How long a question of ours has been waiting for its answer.
    pub(crate) fn unanswered(&self) -> Option<Duration> {
        self.traffic()?.unanswered()
    }

    /// The link is the task's until what is returned is dropped.
    pub(crate) fn lend(self: &Arc<Self>) -> Lent {
        self.linked.store(true, Ordering::Release);
        Lent { card: Arc::clone(self), of_use: false }
    }
}

/// Gives the link back when it is dropped, also by a panic.
#[derive(Debug)]
pub(crate) struct Lent {
    card: Arc<Card>,
    of_use: bool,
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.card.end.store(if self.of_use { OF_USE } else { OF_NO_USE }, Ordering::Release);
        self.card.linked.store(false, Ordering::Release);
        self.card.ear.nudge();
    }
}

/// A link as the adapter lends it.
pub(crate) struct Grant {
    pub(crate) link: Link,
    pub(crate) lent: Lent,
    /// Has BlueZ end the connection.
    pub(crate) let_go: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// The task; it lives on when it panics and is started anew.
pub(crate) struct Peer {
    pub(crate) owner: Owner,
    pub(crate) card: Arc<Card>,
    pub(crate) orders: Mutex<mpsc::Receiver<Order>>,
    pub(crate) grants: Mutex<mpsc::Receiver<Grant>>,
}

impl Peer {
    /// Runs until the adapter gives the sensor up.
    pub(crate) async fn supervise(self: Arc<Self>) {
        loop {
            let task = Arc::clone(&self);
            let Err(error) = tokio::spawn(async move { task.run().await }).await else { return };
            tracing::error!(link = %self.owner.view.link_name(), %error, "the sensor's task failed and is started anew");
            self.card.set_wanted(false);
            self.owner.view.unlinked();
            tokio::time::sleep(AFTER_PANIC).await;
        }
    }

    async fn run(&self) {
        let (mut orders, mut grants) = (self.orders.lock().await, self.grants.lock().await);
        loop {
            let goes_on = tokio::select! {
                grant = grants.recv() => match grant {
                    Some(grant) => self.attend(grant, None, &mut orders).await,
                    None => return,
                },
                order = orders.recv() => match order {
                    Some(Order::Rest) => true,
                    Some(order) => {
                        self.card.set_wanted(true);
                        let granted = tokio::time::timeout(PATIENCE, grants.recv()).await;
                        let goes_on = match granted {
                            Ok(Some(grant)) => self.attend(grant, Some(order), &mut orders).await,
                            Ok(None) => {
                                order.unreachable(&self.why()).await;
                                false
                            }
                            Err(_) => {
                                order.unreachable(&self.why()).await;
                                true
                            }
                        };
                        self.card.set_wanted(false);
                        goes_on
                    }
                    None => return,
                },
            };
            if !goes_on {
                return;
            }
        }
    }

    fn why(&self) -> String {
        let trouble = self.card.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
        trouble.unwrap_or_else(|| "the adapter has had no link for it; see clawgate status".to_owned())
    }

    /// Until the link is over; whether there may be another.
    async fn attend(&self, grant: Grant, first: Option<Order>, orders: &mut mpsc::Receiver<Order>) -> bool {
        let Grant { mut link, mut lent, let_go } = grant;
        let (view, begun) = (&self.owner.view, Instant::now());
        tracing::info!(link = %view.link_name(), "connected");
        view.opened(None);
        let attendance = Attendance::new(&self.owner, &mut link).leaving_after(IDLE).begun_for(first).await;
        let end = attendance.run(orders).await;
        let gone = link.close().await;
        let_go.await;
        lent.of_use = view.sensor().is_some();
        let why = if end == LinkEnd::Closed { gone } else { end };
        tracing::info!(link = %view.link_name(), why = %why, after_s = begun.elapsed().as_secs(), "disconnected");
        view.unlinked();
        drop(lent);
        !orders.is_closed() || !orders.is_empty()
    }
}
