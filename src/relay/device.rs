//! One device's task: get a token, connect, serve the connection, and come back after every end.

mod renewal;
mod serving;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::backoff::Backoff;
use super::message::Composer;
use super::mqtt::{Connection, Failure, Target};
use super::rate::Rate;
use super::status::{Cell, RelayState};
use crate::config::Reauth;
use crate::ids::DeviceId;
use crate::metrics::Reason;
use crate::spool::Lane;
use crate::token::scope::Action;
use crate::token::{AccessToken, TokenHandle, TokenState};
use serving::{Serving, next};

/// Why a connection was left.
#[derive(Debug)]
enum End {
    /// The device is detached, or nobody keeps its token any more.
    Stopped,
    /// Nothing to send.
    Idle,
    /// The token changed and can only be shown on a new connection.
    Renew,
    /// The broker refuses this token, or it does not allow what it is for.
    Refused { jti: String, why: String },
    /// The token was revoked or quarantined meanwhile.
    Withdrawn,
    /// Anything else.
    Failed(Failure),
}

/// The task of one device.
pub(super) struct Task {
    shared: Arc<Shared>,
    device: DeviceId,
    composer: Composer,
    /// The lane that is served; the lanes after it wait until it is empty.
    lane: Lane,
    later: VecDeque<Lane>,
    token: TokenHandle,
    tokens: watch::Receiver<TokenState>,
    cell: Arc<Cell>,
    stop: CancellationToken,
    backoff: Backoff,
    /// The broker refused the token with this id.
    refused: Option<String>,
    /// Messages still to be sent one by one.
    careful: u64,
    /// What the token's rate leaves, over all connections.
    rate: Rate,
    /// Connections in a row that ended with messages unanswered and none confirmed.
    fruitless: u32,
    /// The broker takes this device's tokens as password only. Not for all devices at once: a broker may want it for
    /// one whose token says something that it can check in no other way.
    password_only: bool,
}

impl Task {
    pub(super) fn new(
        shared: Arc<Shared>,
        device: DeviceId,
        composer: Composer,
        lanes: Vec<Lane>,
        token: TokenHandle,
        cell: Arc<Cell>,
        stop: CancellationToken,
    ) -> Option<Self> {
        let mut later = VecDeque::from(lanes);
        let lane = later.pop_front()?;
        let (first, cap) = shared.options.backoff;
        let tokens = token.watch();
        let backoff = Backoff::new(first, cap);
        Some(Self {
            shared,
            device,
            composer,
            lane,
            later,
            token,
            tokens,
            cell,
            stop,
            backoff,
            refused: None,
            careful: 0,
            rate: Rate::none(Instant::now()),
            fruitless: 0,
            password_only: false,
        })
    }

    /// Until the device is detached. A panic ends the connection, and not the device with it: what was in flight is
    /// published again, on a later one.
    pub(super) async fn run(mut self) {
        while unwound(self.work()).await {
            tracing::error!(device = %self.device, "the device's connection failed within; it begins anew");
            self.lane.requeue();
            self.cell.failed(&"an error in clawgate itself ended the connection; the journal has it, please report it");
            self.cell.enter(RelayState::BackingOff);
            self.count_end("panic");
            let stop = self.stop.clone();
            tokio::select! {
                () = tokio::time::sleep(self.backoff.next()) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn work(&mut self) {
        let stop = self.stop.clone();
        let mut wanted = true;
        while !stop.is_cancelled() {
            if !wanted {
                self.cell.enter(RelayState::Idle);
                tokio::select! {
                    () = self.something_waits() => {}
                    () = stop.cancelled() => return,
                }
            }
            let token = tokio::select! {
                token = self.usable_token() => token,
                () = stop.cancelled() => return,
            };
            let Some(token) = token else { return };
            let end = self.connection(token).await;
            self.lane.requeue();
            if matches!(end, End::Stopped) {
                return;
            }
            wanted = !matches!(end, End::Idle);
            if let Some(wait) = self.after(end) {
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = stop.cancelled() => return,
                }
            }
        }
    }

    /// Waits for something to publish, and has done with the lanes that are through meanwhile. Cancel safe.
    async fn something_waits(&mut self) {
        while !next(&self.lane, !self.later.is_empty()).await {
            self.next_lane();
        }
    }

    fn next_lane(&mut self) {
        if let Some(next) = self.later.pop_front() {
            self.lane = next;
        }
    }

    /// What an end means for the next attempt: how long to wait.
    fn after(&mut self, end: End) -> Option<Duration> {
        let failure = match end {
            End::Stopped | End::Idle | End::Renew | End::Withdrawn => return None,
            End::Refused { jti, why } => {
                tracing::warn!(device = %self.device, why, "the broker refuses the device's token");
                self.count_end("refused");
                self.cell.failed(&why);
                self.token.refused(&jti);
                self.refused = Some(jti);
                // A new token is tried at once, but a broker that refuses every one is not stormed.
                return Some(self.backoff.next());
            }
            End::Failed(failure) => failure,
        };
        if failure == Failure::NoEnhancedAuth && self.shared.options.reauth != Reauth::Always {
            tracing::info!(device = %self.device, "the broker takes no enhanced authentication: the token goes as password");
            self.password_only = true;
            return None;
        }
        tracing::warn!(device = %self.device, error = %failure, "the broker's connection is down");
        self.cell.failed(&failure);
        self.cell.enter(RelayState::BackingOff);
        self.count_end(match failure {
            Failure::Tls(_) => "tls",
            Failure::Busy(_) => "busy",
            Failure::Rejected(_) => "message",
            Failure::TakenOver => "taken_over",
            _ => "lost",
        });
        if matches!(failure, Failure::Tls(_) | Failure::TakenOver) {
            self.backoff.exhaust();
        }
        Some(self.backoff.next())
    }

    fn count_end(&self, reason: &'static str) {
        self.shared.metrics.disconnects.get_or_create(&Reason { reason }).inc();
    }

    /// Waits for a token that is valid and that the broker has not refused; `None` when there will be none.
    async fn usable_token(&mut self) -> Option<Arc<AccessToken>> {
        loop {
            let state = self.tokens.borrow_and_update().clone();
            match state {
                TokenState::Valid(token) => {
                    let refused = self.refused.as_deref() == Some(token.jti());
                    if !refused && !self.usable(&token).is_zero() {
                        return Some(token);
                    }
                    self.cell.enter(if refused { RelayState::Paused } else { RelayState::WaitingForToken });
                }
                TokenState::Waiting { last_error, .. } => {
                    if let Some(error) = last_error {
                        self.cell.failed(&error);
                    }
                    self.cell.enter(RelayState::WaitingForToken);
                }
                TokenState::Quarantined { reason } | TokenState::Held { reason } | TokenState::Revoked { reason } => {
                    self.cell.failed(&reason);
                    self.cell.enter(RelayState::Paused);
                }
            }
            self.tokens.changed().await.ok()?;
        }
    }

    /// One connection from its first byte to its last.
    async fn connection(&mut self, token: Arc<AccessToken>) -> End {
        if let Some(end) = self.out_of_scope(&token) {
            return end;
        }
        let shared = Arc::clone(&self.shared);
        let stop = self.stop.clone();
        let room = if let Ok(room) = shared.room.try_acquire() {
            Ok(room)
        } else {
            self.cell.enter(RelayState::Queued);
            let _waits = shared.queue_up();
            tokio::select! {
                room = shared.room.acquire() => room,
                () = stop.cancelled() => return End::Stopped,
            }
        };
        let Ok(_room) = room else { return End::Stopped };
        self.cell.enter(RelayState::Connecting);
        shared.metrics.connects.inc();
        let options = &shared.options;
        let [_, _, state] = self.composer.topics();
        let target = Target::new(options, shared.tls.clone(), self.device.as_str(), &token);
        let mut target = match target {
            Ok(target) => target,
            Err(failure) => return End::Failed(failure),
        };
        target.method = shared.method(self.password_only);
        target.will = token.allows(state, Action::Publish).then(|| self.composer.will());
        let opened = Connection::open(target);
        let opened = tokio::select! {
            opened = opened => opened,
            () = stop.cancelled() => return End::Stopped,
        };
        let connection = match opened {
            Ok(connection) => connection,
            Err(Failure::Refused(why)) => return End::Refused { jti: token.jti().to_owned(), why },
            Err(failure) => return End::Failed(failure),
        };
        self.cell.enter(RelayState::Connected);
        self.cell.healthy();
        self.cell.count(|figures| figures.connects += 1);
        let _live = Live::new(&shared.metrics.connections);
        let mut serving = Serving::new(connection, token);
        let end = self.serve(&mut serving).await;
        self.suspect(&end, &serving.connection.lost());
        if !matches!(end, End::Failed(_)) {
            serving.connection.close(options.drain).await;
        }
        end
    }

    /// What a token does not allow is not sent: the broker would refuse it, and a mistake must be seen here.
    fn out_of_scope(&self, token: &AccessToken) -> Option<End> {
        let [telemetry, event, _] = self.composer.topics();
        let missing = [telemetry, event].into_iter().find(|topic| !token.allows(topic, Action::Publish))?;
        let why = format!("the token does not allow publishing to {missing}");
        Some(End::Refused { jti: token.jti().to_owned(), why })
    }
}

/// A live connection, as it is counted; however it ends.
struct Live(Gauge);

impl Live {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Does the work; whether a panic ended it.
async fn unwound(work: impl Future<Output = ()>) -> bool {
    let mut work = pin!(work);
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))) {
        Ok(polled) => polled.map(|()| false),
        Err(_) => Poll::Ready(true),
    })
    .await
}
