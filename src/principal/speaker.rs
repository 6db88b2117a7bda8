//! The task of the gateway's own connection: gets a token, connects, says what waits, hears commands, and comes back
//! after every end. Devices and their readings never wait for it.

use std::future::pending;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use rumqttc::PubAckReason;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::outbox::{Item, Outbox};
use super::{Standing, status};
use crate::clock::Clock;
use crate::config::Reauth;
use crate::ids::{DeviceId, GATEWAY_PRINCIPAL};
use crate::relay::{Answer, Backoff, Connection, Failure, Inbox, Message, Received, RelayOptions, Target, Will};
use crate::token::scope::{self, Action};
use crate::token::{AccessToken, TokenHandle, TokenState};

/// Publishes in flight: one, and the last word.
const IN_FLIGHT: u16 = 8;
/// What is said at an orderly end takes no longer: somebody waits for it. A test's machine may stand still meanwhile.
const FAREWELL: Duration = Duration::from_secs(if cfg!(test) { 60 } else { 2 });

/// Why a connection was left.
enum End {
    Stopped,
    /// The token changed and can only be shown on a new connection, or allows something else.
    Renew,
    /// The broker refuses this token.
    Refused(String),
    /// The token was withdrawn.
    Withdrawn,
    Failed(Failure),
}

type Running<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What the task needs.
pub(super) struct Speaker {
    pub(super) options: RelayOptions,
    pub(super) tls: Option<Arc<rustls::ClientConfig>>,
    pub(super) clock: Clock,
    pub(super) token: TokenHandle,
    pub(super) outbox: Outbox,
    pub(super) commands: mpsc::Sender<Received>,
    pub(super) standing: watch::Sender<Standing>,
    pub(super) stop: CancellationToken,
}

/// One connection's state.
struct Serving {
    connection: Connection,
    token: Arc<AccessToken>,
    answers: Vec<Answer>,
    /// What is being published; one at a time.
    publishing: Option<Item>,
    reauthenticating: Option<Running<Result<(), String>>>,
    subscribing: Option<Running<Result<bool, String>>>,
    /// Ready when the broker has to send something again: a new connection brings it.
    missed: Option<Running<()>>,
    /// Nothing more is said: the connection is left when what is under way was answered, or then.
    leaving: Option<Instant>,
    /// What came down and is not done while the connection is left.
    settling: Option<Running<()>>,
}

/// What one connection leaves to the next.
struct Memory {
    backoff: Backoff,
    /// The broker refused the token with this id.
    refused: Option<String>,
    password_only: bool,
    /// What the broker keeps for this gateway is to be thrown away: something in it cannot be taken, and would come
    /// again for ever.
    discard: bool,
}

impl Speaker {
    /// Until told to stop.
    pub(super) async fn run(self) {
        let (first, cap) = self.options.backoff;
        let mut tokens = self.token.watch();
        let mut memory = Memory {
            backoff: Backoff::new(first, cap),
            refused: None,
            password_only: self.options.reauth == Reauth::Never,
            discard: false,
        };
        loop {
            let usable = usable_token(&mut tokens, memory.refused.as_deref(), &self.clock, &self.standing);
            let Some(Some(token)) = self.stop.run_until_cancelled(usable).await else { return };
            match self.connection(Arc::clone(&token), &mut tokens, &mut memory).await {
                End::Stopped => return,
                End::Renew | End::Withdrawn => continue,
                End::Failed(Failure::NoEnhancedAuth) => {
                    memory.password_only = true;
                    continue;
                }
                End::Refused(why) => {
                    tracing::warn!(error = why, "the broker refuses the gateway's own token");
                    self.standing.send_replace(Standing::Down(why));
                    self.token.refused(token.jti());
                    memory.refused = Some(token.jti().to_owned());
                }
                End::Failed(failure) => {
                    tracing::warn!(error = %failure, "the gateway's own connection is down");
                    self.standing.send_replace(Standing::Down(failure.to_string()));
                    // An attempt that fails in between has thrown nothing away.
                    memory.discard |= matches!(failure, Failure::TooLarge(_));
                    if matches!(failure, Failure::Tls(_) | Failure::TakenOver) {
                        memory.backoff.exhaust();
                    }
                }
            }
            if self.stop.run_until_cancelled(tokio::time::sleep(memory.backoff.next())).await.is_none() {
                return;
            }
        }
    }

    async fn connection(
        &self,
        token: Arc<AccessToken>,
        tokens: &mut watch::Receiver<TokenState>,
        memory: &mut Memory,
    ) -> End {
        let profile = &self.options.profile;
        let mut target = match Target::new(&self.options, self.tls.clone(), GATEWAY_PRINCIPAL, &token) {
            Ok(target) => target,
            Err(failure) => return End::Failed(failure),
        };
        target.in_flight = IN_FLIGHT;
        target.method = profile.method().filter(|_| !memory.password_only);
        target.will = Some(Will::json(self.topic("up/status"), status::offline(&self.options), profile.retains()));
        let filter = self.topic("down/cmd/+");
        let hears = token.allows(&filter, Action::Subscribe);
        target.inbox = Some(Inbox { sender: self.commands.clone(), is_kept: hears && !memory.discard });
        let connection = match self.stop.run_until_cancelled(Connection::open(target)).await {
            None => return End::Stopped,
            Some(Ok(connection)) => connection,
            Some(Err(Failure::Refused(why))) => return End::Refused(why),
            Some(Err(failure)) => return End::Failed(failure),
        };
        if std::mem::take(&mut memory.discard) {
            // What the broker kept is gone. From now on it shall keep again what comes.
            connection.close(self.options.drain).await;
            return End::Renew;
        }
        self.standing.send_replace(Standing::Up);
        self.outbox.begin();
        let alarms = self.topic("up/alarm");
        let is_told = token.allows(&alarms, Action::Subscribe);
        let commands = hears.then(|| connection.subscription(filter, false));
        // Not of its own, which stand there, too.
        let alarms = is_told.then(|| connection.subscription(alarms, true));
        let subscribing: Option<Running<_>> =
            if hears || is_told { Some(Box::pin(subscribed(commands, alarms))) } else { None };
        let mut it = Serving {
            missed: connection.missed().map(|missed| Box::pin(missed) as Running<_>),
            connection,
            token,
            answers: Vec::new(),
            publishing: None,
            reauthenticating: None,
            subscribing,
            leaving: None,
            settling: None,
        };
        let end = self.serve(&mut it, tokens, &mut memory.backoff).await;
        if let Some(item) = it.publishing.take() {
            self.outbox.put_back(item);
        }
        if matches!(end, End::Stopped | End::Renew | End::Withdrawn) {
            it.connection.close(self.options.drain).await;
        }
        end
    }

    async fn serve(&self, it: &mut Serving, tokens: &mut watch::Receiver<TokenState>, backoff: &mut Backoff) -> End {
        loop {
            if it.leaving.is_some() && it.publishing.is_none() && it.settling.is_none() {
                return End::Renew;
            }
            let deadline = self.deadline(it);
            tokio::select! {
                biased;
                answered = it.connection.answers(&mut it.answers) => match answered {
                    Ok(()) => if let Some(end) = self.settle(it, backoff) {
                        return end;
                    },
                    Err(Failure::Refused(why)) => return End::Refused(why),
                    Err(failure) => return End::Failed(failure),
                },
                () = self.stop.cancelled() => return self.farewell(it).await,
                changed = tokens.changed(), if it.reauthenticating.is_none() && it.leaving.is_none() => {
                    if changed.is_err() {
                        return End::Stopped;
                    }
                    let state = tokens.borrow_and_update().clone();
                    if let Some(end) = self.token_changed(it, state) {
                        return end;
                    }
                }
                done = running(&mut it.reauthenticating) => {
                    it.reauthenticating = None;
                    if let Err(error) = done {
                        tracing::info!(error, "re-authentication of the gateway itself failed: connecting anew");
                        self.leave(it);
                    }
                }
                done = running(&mut it.subscribing) => {
                    it.subscribing = None;
                    match done {
                        Ok(true) => {}
                        Ok(false) => return End::Refused("the broker refused the subscription to commands".to_owned()),
                        Err(error) => return End::Failed(Failure::Lost(error)),
                    }
                }
                () = running(&mut it.missed) => {
                    it.missed = None;
                    self.leave(it);
                }
                () = running(&mut it.settling) => it.settling = None,
                item = self.outbox.next(), if it.publishing.is_none() && it.leaving.is_none() => self.say(it, item),
                () = tokio::time::sleep_until(deadline) => if let Some(end) = self.overdue(it) {
                    return end;
                },
            }
        }
    }

    /// Publishes at QoS 1, if it may.
    fn say(&self, it: &mut Serving, item: Item) {
        let topic = self.topic(&format!("up/{}", item.leaf()));
        if !it.token.allows(&topic, Action::Publish) {
            tracing::debug!(topic, "the gateway's own token does not allow it; not sent");
            return;
        }
        let retain = self.options.profile.retains() && item.is_retained();
        // An error means that the connection has ended: its own end says why.
        let _ = it.connection.publish(None, Message::json(topic, item.payload().clone()), retain);
        it.publishing = Some(item);
    }

    /// Takes in what the broker answered; an end if it says so.
    fn settle(&self, it: &mut Serving, backoff: &mut Backoff) -> Option<End> {
        for answer in it.answers.drain(..) {
            let Some(item) = it.publishing.take() else { continue };
            match answer.reason {
                PubAckReason::Success | PubAckReason::NoMatchingSubscribers => backoff.reset(),
                PubAckReason::NotAuthorized => {
                    let why = format!("the broker refused up/{} (0x87 not authorized)", item.leaf());
                    self.outbox.put_back(item);
                    return Some(End::Refused(why));
                }
                reason => {
                    // A message that it never takes must not stand before all others.
                    tracing::warn!(topic = item.leaf(), ?reason, "the broker refused a message of the gateway's own");
                }
            }
        }
        None
    }

    fn token_changed(&self, it: &mut Serving, state: TokenState) -> Option<End> {
        match state {
            TokenState::Valid(token) if token.jti() == it.token.jti() => {}
            // Other rights: subscriptions follow them.
            TokenState::Valid(token) if token.claims().scope != it.token.claims().scope => self.leave(it),
            TokenState::Valid(token) => match it.connection.reauthentication(token.bearer().to_owned()) {
                Some(running) => {
                    it.reauthenticating = Some(Box::pin(running));
                    it.token = token;
                }
                None => self.leave(it),
            },
            // The broker decides when the old one is over, or `overdue`.
            TokenState::Waiting { .. } => {}
            TokenState::Quarantined { .. } | TokenState::Held { .. } | TokenState::Revoked { .. } => {
                return Some(End::Withdrawn);
            }
        }
        None
    }

    /// Says nothing more, and leaves for a new connection when what is under way was answered.
    fn leave(&self, it: &mut Serving) {
        // A command that is under way would come again, and be answered twice.
        it.settling = it.connection.settled().map(|settled| Box::pin(settled) as Running<_>);
        it.leaving = Some(Instant::now() + self.options.drain);
    }

    /// When something has to be looked at even if nothing happens.
    fn deadline(&self, it: &Serving) -> Instant {
        let now = Instant::now();
        let unanswered = it.connection.oldest().unwrap_or(now) + self.options.ack_timeout;
        let left = self.left(it).map(|left| now + left);
        [it.leaving, left].into_iter().flatten().fold(unanswered, Instant::min)
    }

    /// What is left of the token, where the broker lets a connection live longer than that.
    fn left(&self, it: &Serving) -> Option<Duration> {
        self.options.profile.outlives_token().then(|| it.token.left(&self.clock))
    }

    fn overdue(&self, it: &Serving) -> Option<End> {
        if self.left(it).is_some_and(|left| left.is_zero()) {
            return Some(End::Withdrawn);
        }
        if it.leaving.is_some() {
            return Some(End::Renew);
        }
        let late = it.connection.oldest().is_some_and(|since| since.elapsed() >= self.options.ack_timeout);
        late.then(|| End::Failed(Failure::Lost("the broker does not confirm what it is sent".to_owned())))
    }

    /// In order: the answer to what is under way, what waits, and that nobody is here any more.
    async fn farewell(&self, it: &mut Serving) -> End {
        let patience = self.options.drain.min(FAREWELL);
        let last_words = async {
            // The broker has been told that a command is done: its answer may not stay here.
            if let Some(settled) = it.connection.settled() {
                let mut settled = pin!(settled);
                loop {
                    tokio::select! {
                        () = &mut settled => break,
                        answered = it.connection.answers(&mut it.answers) => if answered.is_err() {
                            return;
                        },
                    }
                }
            }
            while let Some(item) = self.outbox.take() {
                self.say(it, item);
                drain(it).await;
            }
        };
        let _ = tokio::time::timeout(patience / 2, last_words).await;
        self.say(it, Item::Status(status::stopped(&self.options)));
        let _ = tokio::time::timeout(patience, drain(it)).await;
        it.publishing = None;
        End::Stopped
    }

    fn topic(&self, below: &str) -> String {
        let base = scope::device_base(&self.options.tenant, &self.options.gateway, &DeviceId::gateway());
        format!("{base}/{below}")
    }
}

/// Waits for a token that is valid and that the broker has not refused; `None` when there will be none.
async fn usable_token(
    tokens: &mut watch::Receiver<TokenState>,
    refused: Option<&str>,
    clock: &Clock,
    standing: &watch::Sender<Standing>,
) -> Option<Arc<AccessToken>> {
    loop {
        let state = tokens.borrow_and_update().clone();
        match state {
            TokenState::Valid(token) if refused != Some(token.jti()) && !token.left(clock).is_zero() => {
                return Some(token);
            }
            TokenState::Valid(_) => {}
            TokenState::Waiting { last_error, .. } => {
                standing.send_if_modified(|standing| {
                    let words = last_error.unwrap_or_else(|| "there is no token yet".to_owned());
                    let next = Standing::Waiting(words);
                    let differs = *standing != next && !matches!(standing, Standing::Down(_));
                    if differs {
                        *standing = next;
                    }
                    differs
                });
            }
            TokenState::Quarantined { reason } | TokenState::Held { reason } | TokenState::Revoked { reason } => {
                standing.send_replace(Standing::Refused(reason));
            }
        }
        tokens.changed().await.ok()?;
    }
}

/// Until all that was sent is answered, or nothing more comes.
async fn drain(it: &mut Serving) {
    while !it.connection.is_idle() && it.connection.answers(&mut it.answers).await.is_ok() {
        it.answers.clear();
    }
}

/// Whether the broker agrees that commands are heard. What it tells of its own is heard where it lets that be heard: it is
/// no reason to hear no command.
async fn subscribed(
    commands: Option<impl Future<Output = Result<bool, String>>>,
    alarms: Option<impl Future<Output = Result<bool, String>>>,
) -> Result<bool, String> {
    if let Some(commands) = commands {
        if !commands.await? {
            return Ok(false);
        }
        tracing::info!("commands from the cloud are heard");
    }
    if let Some(alarms) = alarms {
        if alarms.await? {
            tracing::info!("what the broker tells beside the alarms is heard");
        } else {
            tracing::warn!("the broker refused the subscription to its own alarms (cloud.broker_alarms)");
        }
    }
    Ok(true)
}

async fn running<T>(work: &mut Option<Running<T>>) -> T {
    match work {
        Some(work) => work.await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests;
