//! One device's task: get a token, connect, publish and confirm, and come back after every end.

use std::collections::VecDeque;
use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rumqttc::PubAckReason;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::backoff::Backoff;
use super::message::Composer;
use super::mqtt::{Answer, Connection, Failure, Target};
use super::status::{Cell, RelayState};
use crate::config::Reauth;
use crate::ids::DeviceId;
use crate::metrics::Reason;
use crate::spool::{Lane, Ticket};
use crate::token::scope::Action;
use crate::token::{AccessToken, TokenHandle, TokenState};

/// An idle connection is given up after this time when others wait for room.
const CROWDED_IDLE: Duration = Duration::from_secs(5);
/// After the broker ended a connection over some message, so many go one by one to find it.
const CAREFUL: u64 = 200;

/// Why a connection was left.
#[derive(Debug)]
enum End {
    /// The device is detached.
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

type Reauthentication = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

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
    /// Connections in a row that ended with messages unanswered and none confirmed.
    fruitless: u32,
}

/// What one connection carries along.
struct Serving {
    connection: Connection,
    token: Arc<AccessToken>,
    answers: Vec<Answer>,
    confirmed: Vec<Ticket>,
    reauthentication: Option<Reauthentication>,
    /// Set when nothing more is sent: how it will end, and when at the latest.
    draining: Option<(End, Instant)>,
    active: Instant,
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
            fruitless: 0,
        })
    }

    pub(super) async fn run(mut self) {
        let stop = self.stop.clone();
        let mut wanted = true;
        while !stop.is_cancelled() {
            if !wanted {
                self.cell.enter(RelayState::Idle);
                tokio::select! {
                    () = self.lane.ready() => {}
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
            wanted = !matches!(end, End::Idle);
            if let Some(wait) = self.after(end) {
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = stop.cancelled() => return,
                }
            }
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
            tracing::info!("the broker knows no enhanced authentication: tokens go as password");
            self.shared.password_only.store(true, Ordering::Relaxed);
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
                    if !refused && !token.left(&self.shared.clock).is_zero() {
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
            shared.crowded.notify_waiters();
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
        let profile = &options.profile;
        let login = match profile.login(&options.host, &options.gateway, self.device.as_str(), token.bearer()) {
            Ok(login) => login,
            Err(error) => return End::Failed(Failure::Lost(error)),
        };
        let opened = Connection::open(Target {
            host: &options.host,
            port: options.port,
            tls: shared.tls.clone(),
            table: profile.table,
            login,
            method: shared.method(),
            will: token.allows(state, Action::Publish).then(|| self.composer.will()),
            in_flight: profile.in_flight(options.in_flight),
            keep_alive_s: profile.keep_alive(options.keep_alive.as_secs()),
            timeout: options.connect_timeout,
        });
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
        shared.metrics.connections.inc();
        let mut serving = Serving {
            connection,
            token,
            answers: Vec::new(),
            confirmed: Vec::new(),
            reauthentication: None,
            draining: None,
            active: Instant::now(),
        };
        let end = self.serve(&mut serving).await;
        shared.metrics.connections.dec();
        self.suspect(&end, &serving.connection.lost());
        if !matches!(end, End::Failed(_)) {
            serving.connection.close(options.drain).await;
        }
        end
    }

    async fn serve(&mut self, it: &mut Serving) -> End {
        self.presence(it, "online");
        let stop = self.stop.clone();
        let shared = Arc::clone(&self.shared);
        loop {
            if it.connection.is_idle()
                && let Some((end, _)) = it.draining.take()
            {
                return end;
            }
            let deadline = self.deadline(it);
            tokio::select! {
                biased;
                answered = it.connection.answers(&mut it.answers) => match answered {
                    Ok(()) => if let Some(end) = self.settle(it) {
                        return end;
                    },
                    Err(Failure::Refused(why)) => return End::Refused { jti: it.token.jti().to_owned(), why },
                    Err(failure) => return End::Failed(failure),
                },
                changed = self.tokens.changed(), if it.reauthentication.is_none() && it.draining.is_none() => {
                    if changed.is_err() {
                        return End::Stopped;
                    }
                    if let Some(end) = self.token_changed(it) {
                        return end;
                    }
                }
                result = reauthenticated(&mut it.reauthentication) => self.reauthenticated(it, result),
                () = stop.cancelled(), if it.draining.is_none() => {
                    self.presence(it, "offline");
                    self.drain(it, End::Stopped);
                }
                () = tokio::time::sleep_until(deadline) => {
                    if let Some(end) = self.overdue(it) {
                        return end;
                    }
                }
                () = shared.crowded.notified(), if it.draining.is_none() => {
                    if it.connection.is_idle() && it.active.elapsed() >= CROWDED_IDLE {
                        self.presence(it, "idle");
                        self.drain(it, End::Idle);
                    }
                }
                ready = next(&self.lane, !self.later.is_empty()),
                    if it.draining.is_none() && (self.careful == 0 || it.connection.is_idle()) =>
                {
                    if ready {
                        self.publish(it);
                    } else if let Some(next) = self.later.pop_front() {
                        self.lane = next;
                    }
                }
            }
        }
    }

    /// Sends what the lane has, within the bounds.
    fn publish(&self, it: &mut Serving) {
        let taken = self.lane.take(if self.careful == 0 { usize::MAX } else { 1 });
        it.active = Instant::now();
        let mut published = 0;
        for entry in taken {
            let message = match self.composer.entry(&entry) {
                Ok(message) if message.size <= it.connection.max_packet => message,
                Ok(message) => {
                    let limit = it.connection.max_packet;
                    let reason =
                        format!("0x95 packet too large: up to {} bytes, the broker takes {limit}", message.size);
                    self.bury(entry.ticket, &reason);
                    continue;
                }
                Err(error) => {
                    self.bury(entry.ticket, &format!("0x99 payload format invalid: {error}"));
                    continue;
                }
            };
            // An error means that the connection has ended: its own end says why.
            if it.connection.publish(Some(entry.ticket), message, false).is_err() {
                break;
            }
            published += 1;
        }
        self.cell.count(|figures| figures.published += published);
    }

    fn bury(&self, ticket: Ticket, reason: &str) {
        tracing::warn!(device = %self.device, reason, "a message goes to the dead letters");
        self.lane.dead_letter(ticket, reason);
        self.cell.count(|figures| figures.refused += 1);
        self.shared.metrics.refused.get_or_create(&Reason { reason: "message" }).inc();
    }

    /// Takes in what the broker answered; an end if it says so.
    fn settle(&mut self, it: &mut Serving) -> Option<End> {
        let mut end = None;
        let mut unheard = 0;
        let now = Instant::now();
        for answer in it.answers.drain(..) {
            match (answer.reason, answer.ticket) {
                (PubAckReason::Success | PubAckReason::NoMatchingSubscribers, ticket) => {
                    unheard += u64::from(answer.reason == PubAckReason::NoMatchingSubscribers && ticket.is_some());
                    it.confirmed.extend(ticket);
                    self.shared.metrics.confirm_seconds.observe(now.duration_since(answer.sent).as_secs_f64());
                }
                (PubAckReason::TopicNameInvalid, Some(ticket)) => self.bury(ticket, "0x90 topic name invalid"),
                (PubAckReason::PayloadFormatInvalid, Some(ticket)) => self.bury(ticket, "0x99 payload format invalid"),
                (_, None) => {} // presence is no reason to stop readings
                (PubAckReason::NotAuthorized, Some(_)) => {
                    self.cell.count(|figures| figures.refused += 1);
                    let why = "the broker refused a publish (0x87 not authorized)".to_owned();
                    end = Some(End::Refused { jti: it.token.jti().to_owned(), why });
                }
                (PubAckReason::QuotaExceeded, Some(_)) => {
                    end.get_or_insert(End::Failed(Failure::Busy("0x97 quota exceeded".to_owned())));
                }
                (reason, Some(_)) => {
                    end.get_or_insert(End::Failed(Failure::Lost(format!("the broker refused a publish: {reason:?}"))));
                }
            }
        }
        if !it.confirmed.is_empty() {
            self.backoff.reset();
            self.fruitless = 0;
            let confirmed = self.lane.confirm(&it.confirmed) as u64;
            self.careful = self.careful.saturating_sub(confirmed);
            it.confirmed.clear();
            self.cell.count(|figures| {
                figures.confirmed += confirmed;
                figures.unheard += unheard;
            });
            self.shared.metrics.unheard.inc_by(unheard);
        }
        match end {
            // Others in flight may still be taken: let them come back, so that they are not sent twice.
            Some(end @ End::Failed(_)) if it.draining.is_none() => {
                self.drain(it, end);
                None
            }
            end => end,
        }
    }

    /// The broker ended the connection over a message: find it, and let the others through. What the broker said
    /// may be lost with the connection, so two ends in a row that brought nothing count as such, too.
    fn suspect(&mut self, end: &End, lost: &[Ticket]) {
        match (end, lost) {
            (_, []) => {}
            (End::Failed(Failure::Rejected(reason)), [only]) => self.bury(*only, reason),
            (End::Failed(Failure::Rejected(_)), _) => self.careful = CAREFUL,
            _ => {
                self.fruitless += 1;
                if self.fruitless >= 2 {
                    self.careful = CAREFUL;
                }
            }
        }
    }

    fn presence(&self, it: &mut Serving, state: &str) {
        let [_, _, topic] = self.composer.topics();
        if !it.token.allows(topic, Action::Publish) {
            return;
        }
        let retain = self.shared.options.profile.table.retain;
        // An error means that the connection has ended: its own end says why.
        let _ = it.connection.publish(None, self.composer.presence(state), retain);
    }

    fn drain(&self, it: &mut Serving, end: End) {
        it.draining = Some((end, Instant::now() + self.shared.options.drain));
    }

    /// When something has to be looked at even if nothing happens.
    fn deadline(&self, it: &Serving) -> Instant {
        let options = &self.shared.options;
        if let Some((_, end)) = &it.draining {
            return *end;
        }
        let due = match it.connection.oldest() {
            Some(sent) => sent + options.ack_timeout,
            None => it.active + options.idle,
        };
        self.left(it).map_or(due, |left| due.min(Instant::now() + left))
    }

    /// What is left of the token, where the broker lets a connection live longer than that.
    fn left(&self, it: &Serving) -> Option<Duration> {
        self.shared.options.profile.table.outlives_token.then(|| it.token.left(&self.shared.clock))
    }

    fn overdue(&self, it: &mut Serving) -> Option<End> {
        if let Some((end, _)) = it.draining.take() {
            return Some(end);
        }
        if self.left(it).is_some_and(|left| left.is_zero()) {
            return Some(End::Withdrawn);
        }
        if let Some(sent) = it.connection.oldest() {
            let late = sent.elapsed() >= self.shared.options.ack_timeout;
            return late.then(|| End::Failed(Failure::Lost("the broker does not confirm what it is sent".to_owned())));
        }
        if it.active.elapsed() >= self.shared.options.idle {
            self.presence(it, "idle");
            self.drain(it, End::Idle);
        }
        None
    }

    fn token_changed(&mut self, it: &mut Serving) -> Option<End> {
        let state = self.tokens.borrow_and_update().clone();
        match state {
            TokenState::Valid(token) if token.jti() == it.token.jti() => None,
            TokenState::Valid(token) => {
                if let Some(end) = self.out_of_scope(&token) {
                    return Some(end);
                }
                if let Some(running) = it.connection.reauthentication(token.bearer().to_owned()) {
                    it.reauthentication = Some(Box::pin(running));
                    it.token = token;
                } else {
                    self.drain(it, End::Renew);
                }
                None
            }
            // The broker decides when the old one is over.
            TokenState::Waiting { .. } => None,
            TokenState::Quarantined { .. } | TokenState::Held { .. } | TokenState::Revoked { .. } => {
                Some(End::Withdrawn)
            }
        }
    }

    fn reauthenticated(&self, it: &mut Serving, result: Result<(), String>) {
        it.reauthentication = None;
        match result {
            Ok(()) => {
                self.cell.count(|figures| figures.reauths += 1);
                self.shared.metrics.reauths.inc();
            }
            Err(error) => {
                tracing::info!(device = %self.device, error, "re-authentication failed: connecting anew");
                self.drain(it, End::Renew);
            }
        }
    }

    /// What a token does not allow is not sent: the broker would refuse it, and a mistake must be seen here.
    fn out_of_scope(&self, token: &AccessToken) -> Option<End> {
        let [telemetry, event, _] = self.composer.topics();
        let missing = [telemetry, event].into_iter().find(|topic| !token.allows(topic, Action::Publish))?;
        let why = format!("the token does not allow publishing to {missing}");
        Some(End::Refused { jti: token.jti().to_owned(), why })
    }
}

/// Waits for something to publish; `false` when an older lane is through.
async fn next(lane: &Lane, older: bool) -> bool {
    if older {
        return lane.ready_or_empty().await;
    }
    lane.ready().await;
    true
}

async fn reauthenticated(running: &mut Option<Reauthentication>) -> Result<(), String> {
    match running {
        Some(running) => running.await,
        None => pending().await,
    }
}
