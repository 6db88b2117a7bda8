//! One live connection: what is sent on it, what comes back, and when it has to end.

use std::sync::Arc;
use std::time::Duration;

use rumqttc::PubAckReason;
use tokio::time::Instant;

use super::renewal::{Reauthentication, reauthenticated};
use super::{End, Task};
use crate::metrics::Reason;
use crate::relay::mqtt::{Answer, Connection, Failure};
use crate::spool::{Lane, Ticket};
use crate::token::AccessToken;
use crate::token::scope::Action;

/// An idle connection is given up after this time when others wait for room.
const CROWDED_IDLE: Duration = Duration::from_secs(5);
/// After the broker ended a connection over some message, so many go one by one to find it.
const CAREFUL: u64 = 200;

/// What one connection carries along.
pub(super) struct Serving {
    pub(super) connection: Connection,
    /// The token that the broker knows, or is being shown.
    pub(super) token: Arc<AccessToken>,
    answers: Vec<Answer>,
    confirmed: Vec<Ticket>,
    pub(super) reauthentication: Option<Reauthentication>,
    /// Set when nothing more is sent: how it will end, and when at the latest.
    draining: Option<(End, Instant)>,
    active: Instant,
}

impl Serving {
    pub(super) fn new(connection: Connection, token: Arc<AccessToken>) -> Self {
        Self {
            connection,
            token,
            answers: Vec::new(),
            confirmed: Vec::new(),
            reauthentication: None,
            draining: None,
            active: Instant::now(),
        }
    }
}

impl Task {
    /// Until its end.
    pub(super) async fn serve(&mut self, it: &mut Serving) -> End {
        self.presence(it, "online");
        let stop = self.stop.clone();
        let shared = Arc::clone(&self.shared);
        loop {
            if it.connection.is_idle()
                && let Some((end, _)) = it.draining.take()
            {
                return end;
            }
            self.rate.set(it.token.claims().claw_rate);
            let room = self.rate.room(Instant::now());
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
                    if it.draining.is_none() && room > 0 && (self.careful == 0 || it.connection.is_idle()) =>
                {
                    if ready {
                        self.publish(it, room);
                    } else if let Some(next) = self.later.pop_front() {
                        self.lane = next;
                    }
                }
            }
        }
    }

    /// Sends what the lane has, within the bounds; `room` is what the token's rate leaves.
    fn publish(&mut self, it: &mut Serving, room: usize) {
        let taken = self.lane.take(if self.careful == 0 { room } else { 1 });
        it.active = Instant::now();
        self.rate.take(taken.len(), it.active);
        if taken.len() == room {
            self.cell.count(|figures| figures.held += 1);
            self.shared.metrics.held.inc();
        }
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
    pub(super) fn suspect(&mut self, end: &End, lost: &[Ticket]) {
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

    fn presence(&mut self, it: &mut Serving, state: &str) {
        let [_, _, topic] = self.composer.topics();
        if !it.token.allows(topic, Action::Publish) {
            return;
        }
        let retain = self.shared.options.profile.table.retain;
        // The broker counts it too; it never waits.
        self.rate.take(1, Instant::now());
        // An error means that the connection has ended: its own end says why.
        let _ = it.connection.publish(None, self.composer.presence(state), retain);
    }

    /// Sends nothing more, and ends so when what is in flight came back.
    pub(super) fn drain(&self, it: &mut Serving, end: End) {
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
        let now = Instant::now();
        let due = self.rate.next(now).map_or(due, |room| due.min(room));
        self.left(it).map_or(due, |left| due.min(now + left))
    }

    /// What is left of the token, where the broker lets a connection live longer than that.
    fn left(&self, it: &Serving) -> Option<Duration> {
        self.shared.options.profile.table.outlives_token.then(|| it.token.left(&self.shared.clock))
    }

    fn overdue(&mut self, it: &mut Serving) -> Option<End> {
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
}

/// Waits for something to publish; `false` when an older lane is through.
async fn next(lane: &Lane, older: bool) -> bool {
    if older {
        return lane.ready_or_empty().await;
    }
    lane.ready().await;
    true
}
