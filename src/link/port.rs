//! The task that owns one port: opens it, finds the sensor, runs its session, lends the line to pairing, and
//! begins anew when the line is lost.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;

use super::LinkEnd;
use super::attend::Attendance;
use super::order::Order;
use super::state::PortCondition;
use super::uart::{self, Hotplug, Meter, Port};
use super::view::View;
use crate::pairing::engine::Engine;

/// A port that somebody else holds is tried again after this time, doubling.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// And at least so often.
const LAST_RETRY: Duration = Duration::from_secs(15);

/// What whoever attends to a link works with, whatever carries it.
#[derive(Clone)]
pub(super) struct Owner {
    pub(super) engine: Arc<Engine>,
    pub(super) spool: crate::spool::Spool,
    pub(super) view: Arc<View>,
}

/// Everything the task needs; it lives on when the task panics and is started anew.
pub(super) struct PortOwner {
    pub(super) port: Port,
    pub(super) owner: Owner,
    pub(super) meter: Arc<Meter>,
    pub(super) hotplug: Hotplug,
    pub(super) orders: Mutex<mpsc::Receiver<Order>>,
}

impl PortOwner {
    /// Runs until the port is given up: its orders are closed.
    pub(super) async fn run(&self) {
        let mut orders = self.orders.lock().await;
        let mut hotplug = self.hotplug.clone();
        let mut retry = FIRST_RETRY;
        loop {
            match uart::open(&self.port) {
                Ok(stream) => {
                    self.opened();
                    retry = FIRST_RETRY;
                    let mut link = uart::start(stream, self.port.baud, &self.meter);
                    let end = Attendance::new(&self.owner, &mut link).run(&mut orders).await;
                    link.close().await;
                    self.lost(&end);
                    if end == LinkEnd::Closed {
                        return;
                    }
                }
                Err(condition) => self.not_opened(condition),
            }
            let until = Instant::now() + retry;
            retry = (retry * 2).min(LAST_RETRY);
            loop {
                tokio::select! {
                    () = hotplug.changed() => break,
                    () = tokio::time::sleep_until(until), if self.owner.view.wants_retry() => break,
                    order = orders.recv() => match order {
                        Some(order) => order.unreachable(&self.owner.view.why_unreachable()).await,
                        None => return,
                    },
                }
            }
        }
    }

    fn opened(&self) {
        tracing::info!(link = %self.owner.view.alias(), path = %self.port.path.display(), baud = self.port.baud, "port open");
        self.owner.engine.parts().metrics.link.ports_open.inc();
        self.owner.view.opened(self.port.path.canonicalize().ok());
    }

    fn lost(&self, end: &LinkEnd) {
        tracing::info!(link = %self.owner.view.alias(), why = %end, "port closed");
        self.owner.engine.parts().metrics.link.ports_open.dec();
        let condition = match end {
            LinkEnd::Gone | LinkEnd::Closed => PortCondition::Absent,
            other => PortCondition::Failed { reason: other.to_string() },
        };
        self.owner.view.closed(condition);
    }

    /// Says it once, until it changes.
    fn not_opened(&self, condition: PortCondition) {
        if self.owner.view.condition() == condition {
            return;
        }
        if condition == PortCondition::Absent {
            tracing::info!(link = %self.owner.view.alias(), path = %self.port.path.display(), "{condition}");
        } else {
            tracing::warn!(link = %self.owner.view.alias(), path = %self.port.path.display(), "{condition}");
        }
        self.owner.view.closed(condition);
    }
}
