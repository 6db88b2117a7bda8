//! One live connection: what is sent on it, what comes back, and when it has to end.

use std::sync::Arc;
use std::time::Duration;

use rumqttc::PubAckReason;
use tokio::time::Instant;

use super::renewal::{Reauthentication, reauthenticated};
use super::{End, Task};
use crate::metrics::Reason;
use crate::relay::mqtt::{Answer, Connection, Failure};
use crate::relay::status::RelayState;
use crate::spool::{Lane, Outgoing, Ticket};
use crate::token::AccessToken;
use crate::token::scope::Action;

/// An idle connection is given up after this time when others wait for room.
const CROWDED_IDLE: Duration = Duration::from_secs(5);
/// After the broker ended a connection over some message, so many go one by one to find it.
const CAREFUL: u64 = 200;

/// What one connection carries along.
pub(super) struct Serving {
    pub(super) connection: Connection,
    /// The token that the broker knows: what is published and refused is so under this one.
    pub(super) token: Arc<AccessToken>,
    answers: Vec<Answer>,
    confirmed: Vec<Ticket>,
    taken: Vec<Outgoing>,
    /// The token that the broker is being shown.
    pub(super) reauthentication: Option<Reauthentication>,
    /// Set when nothing more is sent: how it will end, and when at the latest.
    pub(super) draining: Option<(End, Instant)>,
    active: Instant,
}

impl Serving {
    pub(super) fn new(connection: Connection, token: Arc<AccessToken>) -> Self {
        Self {
            connection,
            token,
            answers: Vec::new(),
            confirmed: Vec::new(),
            taken: Vec::new(),
            reauthentication: None,
            draining: None,
            active: Instant::now(),
        }
    }

    /// The token that the broker saw last.
    fn newest(&self) -> &AccessToken {
        self.reauthentication.as_ref().map_or(&self.token, |running| &running.token)
    }
}

impl Task {
    /// Until its end.
    pub(super) async fn serve(&mut self, it: &mut Serving) -> End {
        self.presence(it, "online");
        let stop = self.stop.clone();
        let shared = Arc::clone(&self.shared);
        let (mut has_keeper, mut stopping) = (true, false);
        loop {
            if it.connection.is_idle()
                && let Some((end, _)) = it.draining.take()
            {
                return end;
            }
            self.rate.set(it.token.claims().claw_rate);
            let room = self.rate.room(Instant::now());
            // Before it is looked who waits for room: who comes after that look is heard.
            let crowded = shared.crowded.notified();
            let deadline = self.deadline(it);
            tokio::select! {
                biased;
                answered = it.connection.answers(&mut it.answers) => match answered {
                    Ok(()) => self.settle(it),
                    Err(Failure::Refused(why)) => return End::Refused { jti: it.newest().jti().to_owned(), why },
                    Err(failure) => return End::Failed(failure),
                },
                changed = self.tokens.changed(), if has_keeper => {
                    has_keeper = changed.is_ok();
                    if !has_keeper && it.draining.is_none() {
                        self.cell.failed(&"nobody keeps the device's token any more; restart clawgate");
                        self.cell.enter(RelayState::Paused);
                        return End::Stopped;
                    }
                    if let Some(end) = self.token_changed(it) {
                        return end;
                    }
                }
                result = reauthenticated(&mut it.reauthentication) => {
                    if let Some(end) = self.reauthenticated(it, result) {
                        return end;
                    }
                }
                () = stop.cancelled(), if !stopping => {
                    stopping = true;
                    if matches!(it.draining, None | Some((End::Renew, _))) {
                        self.presence(it, "offline");
                    }
                    self.drain(it, End::Stopped);
                }
                () = tokio::time::sleep_until(deadline) => {
                    if let Some(end) = self.overdue(it) {
                        return end;
                    }
                }
                // How long it may still be idle is reckoned anew.
                () = crowded, if it.draining.is_none() => {}
                ready = next(&self.lane, !self.later.is_empty()),
                    if it.draining.is_none() && room > 0 && (self.careful == 0 || it.connection.is_idle()) =>
                {
                    if ready {
                        self.publish(it, room);
                    } else {
                        self.next_lane();
                    }
                }
            }
        }
    }

    /// Sends what the lane has, within the bounds; `room` is what the token's rate leaves.
    fn publish(&mut self, it: &mut Serving, room: usize) {
        let mut taken = std::mem::take(&mut it.taken);
        self.lane.take_into(if self.careful == 0 { room } else { 1 }, &mut taken);
        it.active = Instant::now();
        self.rate.take(taken.len(), it.active);
        if taken.len() == room {
            self.cell.count(|figures| figures.held += 1);
            self.shared.metrics.held.inc();
        }
        let mut published = 0;
        for entry in taken.drain(..) {
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
        it.taken = taken;
        self.cell.count(|figures| figures.published += published);
    }

    fn bury(&self, ticket: Ticket, reason: &str) {
        tracing::warn!(device = %self.device, reason, "a message goes to the dead letters");
        self.lane.dead_letter(ticket, reason);
        self.cell.count(|figures| figures.refused += 1);
        self.shared.metrics.refused.get_or_create(&Reason { reason: "message" }).inc();
    }

    /// Takes in what the broker answered; the connection drains if it says so.
    fn settle(&mut self, it: &mut Serving) {
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
        // Others in flight may still be taken, by a fresh token that went between them, too: let them come back, so that
        // they are not sent twice.
        if let Some(end) = end
            && !matches!(it.draining, Some((End::Refused { .. } | End::Failed(_) | End::Stopped, _)))
        {
            self.drain(it, end);
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

    pub(super) fn presence(&mut self, it: &mut Serving, state: &str) {
        let [_, _, topic] = self.composer.topics();
        if !it.token.allows(topic, Action::Publish) {
            return;
        }
        let message = self.composer.presence(state);
        if message.size > it.connection.max_packet {
            // It would end the connection, and every later one, before the first reading.
            tracing::debug!(device = %self.device, size = message.size, "presence is larger than the broker takes");
            return;
        }
        let retain = self.shared.options.profile.table.retain;
        // The broker counts it too; it never waits.
        self.rate.take(1, Instant::now());
        // An error means that the connection has ended: its own end says why.
        let _ = it.connection.publish(None, message, retain);
    }

    /// Sends nothing more, and ends so when what is in flight came back. Who leaves only for another token waits for it
    /// as long as on any other day: what is given up comes twice.
    pub(super) fn drain(&self, it: &mut Serving, end: End) {
        let options = &self.shared.options;
        let patience = if matches!(end, End::Renew | End::Withdrawn) { options.ack_timeout } else { options.drain };
        it.draining = Some((end, Instant::now() + patience));
    }

    /// When something has to be looked at even if nothing happens.
    fn deadline(&self, it: &Serving) -> Instant {
        let options = &self.shared.options;
        if let Some((_, end)) = &it.draining {
            return *end;
        }
        let due = match it.connection.oldest() {
            Some(sent) => sent + options.ack_timeout,
            None => it.active + self.idle(),
        };
        let now = Instant::now();
        let due = self.rate.next(now).map_or(due, |room| due.min(room));
        due.min(now + self.usable(&it.token))
    }

    /// A connection with nothing to send is given up after this time.
    fn idle(&self) -> Duration {
        let idle = self.shared.options.idle;
        if self.shared.is_crowded() { idle.min(CROWDED_IDLE) } else { idle }
    }

    fn overdue(&mut self, it: &mut Serving) -> Option<End> {
        if let Some((end, _)) = it.draining.take() {
            return Some(end);
        }
        if self.usable(&it.token).is_zero() {
            self.leave_before_expiry(it);
            return None;
        }
        if let Some(sent) = it.connection.oldest() {
            let late = sent.elapsed() >= self.shared.options.ack_timeout;
            return late.then(|| End::Failed(Failure::Lost("the broker does not confirm what it is sent".to_owned())));
        }
        if it.active.elapsed() >= self.idle() {
            self.presence(it, "idle");
            self.drain(it, End::Idle);
        }
        None
    }
}

/// Waits for something to publish; `false` when an older lane is through.
pub(super) async fn next(lane: &Lane, older: bool) -> bool {
    if older {
        return lane.ready_or_empty().await;
    }
    lane.ready().await;
    true
}
