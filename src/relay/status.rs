//! Where each device's connection stands, for people and metrics.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use serde::Serialize;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::ids::DeviceId;
use crate::metrics::{Device, RelayMetrics};

/// What a device's connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RelayState {
    /// It has just been attached, or waits for the connection before it to end.
    Starting,
    /// There is no usable token yet.
    WaitingForToken,
    /// As many connections are up as are allowed; it waits for its turn.
    Queued,
    /// A connect is under way.
    Connecting,
    /// Readings flow.
    Connected,
    /// Nothing to send; it connects when there is.
    Idle,
    /// The last attempt failed; the next one comes by itself.
    BackingOff,
    /// The broker or the issuer refused the device's token; an operator has to act unless a new one comes.
    Paused,
}

/// One device's connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RelayStatus {
    /// Whose it is.
    pub device: DeviceId,
    /// What it is doing.
    pub state: RelayState,
    /// For how long, in milliseconds.
    pub for_ms: u64,
    /// Why the last connection ended, or the last attempt failed.
    pub last_error: Option<String>,
    /// Messages sent, repetitions included.
    pub published: u64,
    /// Messages the broker confirmed.
    pub confirmed: u64,
    /// Of those, confirmed with "no matching subscribers" (0x10).
    pub unheard: u64,
    /// Messages the broker refused.
    pub refused: u64,
    /// How often the token's rate was used up: what came then waited.
    pub held: u64,
    /// Connects that succeeded.
    pub connects: u64,
    /// Tokens replaced on the live connection.
    pub reauths: u64,
}

#[derive(Debug)]
struct Inner {
    state: RelayState,
    since: Duration,
    last_error: Option<String>,
    figures: Figures,
}

/// What is counted of one connection.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Figures {
    pub(super) published: u64,
    pub(super) confirmed: u64,
    pub(super) unheard: u64,
    pub(super) refused: u64,
    pub(super) held: u64,
    pub(super) connects: u64,
    pub(super) reauths: u64,
}

/// The status of one device, written by its task.
#[derive(Debug)]
pub(super) struct Cell {
    device: DeviceId,
    clock: Clock,
    inner: Mutex<Inner>,
    pub(super) confirmed: watch::Sender<u64>,
    published_total: Counter,
    confirmed_total: Counter,
}

impl Cell {
    pub(super) fn new(device: DeviceId, clock: Clock, metrics: &RelayMetrics) -> Self {
        let label = Device::of(&device);
        let since = clock.boot();
        Self {
            published_total: metrics.published.get_or_create(&label).clone(),
            confirmed_total: metrics.confirmed.get_or_create(&label).clone(),
            device,
            clock,
            inner: Mutex::new(Inner {
                state: RelayState::Starting,
                since,
                last_error: None,
                figures: Figures::default(),
            }),
            confirmed: watch::Sender::new(0),
        }
    }

    pub(super) fn enter(&self, state: RelayState) {
        let mut inner = self.lock();
        if inner.state != state {
            inner.state = state;
            inner.since = self.clock.boot();
        }
    }

    pub(super) fn failed(&self, error: &dyn std::fmt::Display) {
        self.lock().last_error = Some(error.to_string());
    }

    pub(super) fn healthy(&self) {
        self.lock().last_error = None;
    }

    /// Changes the figures; tells those who wait for confirmations.
    pub(super) fn count(&self, change: impl FnOnce(&mut Figures)) {
        let (before, after) = {
            let mut inner = self.lock();
            let before = inner.figures;
            change(&mut inner.figures);
            (before, inner.figures)
        };
        self.published_total.inc_by(after.published - before.published);
        if after.confirmed != before.confirmed {
            self.confirmed_total.inc_by(after.confirmed - before.confirmed);
            self.confirmed.send_replace(after.confirmed);
        }
    }

    pub(super) fn status(&self) -> RelayStatus {
        let now = self.clock.boot();
        let inner = self.lock();
        RelayStatus {
            device: self.device.clone(),
            state: inner.state,
            for_ms: u64::try_from(now.saturating_sub(inner.since).as_millis()).unwrap_or(u64::MAX),
            last_error: inner.last_error.clone(),
            published: inner.figures.published,
            confirmed: inner.figures.confirmed,
            unheard: inner.figures.unheard,
            refused: inner.figures.refused,
            held: inner.figures.held,
            connects: inner.figures.connects,
            reauths: inner.figures.reauths,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
