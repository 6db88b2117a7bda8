//! The token of one device: its life from the first request to its revocation.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::KeeperError;
use super::journal::Became;
use super::schedule::{back_off, random, refresh_after, sleep_until};
use super::status::SharedStatus;
use crate::clock::Clock;
use crate::token::clocks;
use crate::token::handle::{TokenFeed, TokenState, TokenWish};
use crate::token::{AccessToken, Approval, Issuer, IssuerError, Remedy, TokenRequest};

/// Times in a token are whole seconds, and its answer takes a while: a broker ends one up to so much before we do.
const ROUNDED: Duration = Duration::from_secs(2);
/// A request that takes longer has failed.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);

type Answer = oneshot::Sender<Result<(), KeeperError>>;

/// What an operator or the registry asks of a device's token.
#[derive(Debug)]
pub(super) enum Command {
    /// Other rights; lifts a revocation.
    Grant(Box<TokenRequest>),
    /// Tokens that live so long, where the device has one.
    Life(Duration),
    /// No token until the next grant.
    Hold {
        /// What it will have then.
        request: Box<TokenRequest>,
        /// For the operator.
        why: String,
    },
    /// A new token now.
    Rotate(Answer),
    /// Cut off.
    Revoke {
        /// For the operator.
        why: String,
        /// When it is done.
        answer: Answer,
    },
}

/// A revocation that the issuer could not be told yet.
struct Untold {
    request: TokenRequest,
    token: Option<Arc<AccessToken>>,
    why: String,
}

pub(super) struct DeviceTask {
    issuer: Arc<dyn Issuer>,
    request: TokenRequest,
    feed: TokenFeed,
    commands: mpsc::Receiver<Command>,
    status: SharedStatus,
    clock: Clock,
    requests: Arc<Semaphore>,
    /// When to ask for a token, or tell a revocation; none while an operator must act first.
    due: Option<Duration>,
    /// Failures in a row.
    failures: u32,
    /// The last token received: the one to revoke, also when it is not in use any more.
    last: Option<Arc<AccessToken>>,
    /// The broker refused the token before this one, and this one was made in answer to that.
    refused_before: bool,
    /// Tokens in a row that the broker refused and that are of no time that this machine knows.
    out_of_time: u32,
    untold: Option<Untold>,
    /// Somebody else has the device's name, and waits for the end of this task.
    hurry: CancellationToken,
}

impl DeviceTask {
    pub(super) fn new(
        issuer: Arc<dyn Issuer>,
        request: TokenRequest,
        feed: TokenFeed,
        commands: mpsc::Receiver<Command>,
        status: SharedStatus,
        clock: Clock,
        requests: Arc<Semaphore>,
    ) -> Self {
        let due = Some(clock.boot()).filter(|_| !matches!(*feed.state.borrow(), TokenState::Held { .. }));
        status.state(&feed.state.borrow());
        // The run before may have ended before the issuer was told of a revocation.
        let untold = match &*feed.state.borrow() {
            TokenState::Revoked { reason } => {
                Some(Untold { request: request.clone(), token: None, why: reason.clone() })
            }
            _ => None,
        };
        Self {
            issuer,
            request,
            feed,
            commands,
            status,
            clock,
            requests,
            due,
            failures: 0,
            last: None,
            refused_before: false,
            out_of_time: 0,
            untold,
            hurry: CancellationToken::new(),
        }
    }

    /// Cancelled when somebody else has the device's name and waits for the end of this task.
    pub(super) fn hurry(&self) -> CancellationToken {
        self.hurry.clone()
    }

    /// Until the keeper forgets the device and the issuer knows of its revocation.
    pub(super) async fn run(mut self) {
        let mut forgotten = false;
        while !forgotten || self.untold.is_some() {
            let expiry = self.expiry();
            self.status.next_request(self.due.filter(|_| self.untold.is_none()));
            tokio::select! {
                command = self.commands.recv(), if !forgotten => match command {
                    Some(command) => self.obey(command).await,
                    None => forgotten = true,
                },
                Some(wish) = self.feed.wishes.recv() => self.refused(wish).await,
                () = sleep_until(&self.clock, self.due) => self.act().await,
                () = sleep_until(&self.clock, expiry) => self.expired(),
                () = self.hurry.cancelled(), if forgotten => return self.tell_once_more().await,
            }
        }
    }

    async fn act(&mut self) {
        if self.untold.is_some() {
            let _ = self.tell_revocation().await;
        } else {
            // A token that reaches its refresh was taken by the broker for most of its life.
            self.refused_before &= self.current().is_none();
            if self.current().is_some() {
                self.out_of_time = 0;
            }
            self.ask(Vec::new()).await;
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Grant(request) => {
                let same = *request == self.request && self.current().is_some();
                // Told of later, it would hit what comes of this grant.
                self.tell_once_more().await;
                self.request = *request;
                if !same {
                    self.refused_before = false;
                    self.failures = 0;
                    if self.current().is_none() {
                        self.wait(None);
                    }
                    self.ask(Vec::new()).await;
                }
            }
            Command::Life(life) => {
                self.request.life = life;
                if matches!(*self.feed.state.borrow(), TokenState::Valid(_) | TokenState::Waiting { .. }) {
                    self.ask(Vec::new()).await;
                }
            }
            Command::Rotate(answer) if matches!(*self.feed.state.borrow(), TokenState::Revoked { .. }) => {
                let _ = answer.send(Err(KeeperError::Revoked(self.request.device.clone())));
            }
            Command::Hold { request, why } => {
                self.tell_once_more().await;
                self.hold(*request, why);
            }
            Command::Rotate(answer) if self.held().is_some() => {
                let (device, reason) = (self.request.device.clone(), self.held().unwrap_or_default());
                let _ = answer.send(Err(KeeperError::Held { device, reason }));
            }
            Command::Rotate(answer) => {
                self.refused_before = false;
                self.ask(vec![answer]).await;
            }
            Command::Revoke { why, answer } => self.revoke(why, answer).await,
        }
    }

    /// The broker refused a token: the first time get another, the second time wait for an operator.
    async fn refused(&mut self, TokenWish::Refused { jti }: TokenWish) {
        let Some(token) = self.current().filter(|token| token.jti() == jti) else { return };
        if token.left(&self.clock) < ROUNDED.min(token.life() / 5) {
            return self.expired();
        }
        if let Some(seconds) = token.clock_off(&self.clock) {
            return self.out_of_time(seconds);
        }
        if !token.claims().claw_addresses.is_empty() {
            self.status.limited_refusal();
        }
        if self.refused_before {
            let reason = "the broker refused two tokens in a row (0x87): check the broker's access rules and that it \
                          knows this issuer's key, then: clawgate token rotate";
            self.quarantine(reason.to_owned());
        } else {
            info!(device = %self.request.device, jti, "the broker refused the token; asking for another");
            self.refused_before = true;
            self.wait(Some("the broker refused the last token (0x87)".to_owned()));
            // An issuer that just failed is left its time, above all where it asked for some.
            if self.failures == 0 {
                self.ask(Vec::new()).await;
            }
        }
    }

    /// The broker refused a token that is of no time that this machine knows. The next one will be as long as the clocks
    /// are so, and no longer: it is asked for less and less often, and no operator has to lift a pause.
    fn out_of_time(&mut self, seconds: i64) {
        self.out_of_time = self.out_of_time.saturating_add(1);
        let words = format!("the broker refused the token (0x87), which is of another time: {}", clocks(seconds));
        self.status.failed(&words);
        self.status.note(&self.clock, Became::Failed(words.clone()));
        if self.out_of_time.is_power_of_two() {
            warn!(device = %self.request.device, attempt = self.out_of_time, error = words, "no token of this time");
        }
        self.due = Some(self.clock.boot() + back_off(self.out_of_time, None, random()));
        self.wait(Some(words));
    }

    /// One request at the issuer. Who asks meanwhile gets its result; a revocation ends it.
    async fn ask(&mut self, mut waiting: Vec<Answer>) {
        let (issuer, request, requests) = (Arc::clone(&self.issuer), self.request.clone(), Arc::clone(&self.requests));
        let mut asking = Box::pin(async move {
            // The semaphore is never closed.
            let _slot = requests.acquire_owned().await;
            tokio::time::timeout(REQUEST_LIMIT, issuer.issue(&request)).await
        });
        let expiry = self.expiry();
        let result = loop {
            let expiry = expiry.filter(|_| self.current().is_some());
            tokio::select! {
                result = &mut asking => break result,
                () = sleep_until(&self.clock, expiry) => self.expired(),
                command = self.commands.recv() => match command {
                    Some(Command::Rotate(answer)) => waiting.push(answer),
                    Some(Command::Revoke { why, answer }) => {
                        drop(asking);
                        self.revoke(why, answer).await;
                        for answer in waiting {
                            let _ = answer.send(Err(KeeperError::Revoked(self.request.device.clone())));
                        }
                        return;
                    }
                    Some(Command::Grant(request)) => {
                        self.request = *request;
                        // Asked anew with the new rights as soon as this request is answered.
                        self.due = Some(self.clock.boot());
                        drop(asking);
                        answer_all(waiting, Err("the device's rights changed meanwhile; ask again"));
                        return;
                    }
                    Some(Command::Life(life)) => {
                        self.request.life = life;
                        self.due = Some(self.clock.boot());
                        drop(asking);
                        answer_all(waiting, Err("the life of tokens changed meanwhile; ask again"));
                        return;
                    }
                    Some(Command::Hold { request, why }) => {
                        drop(asking);
                        self.hold(*request, why);
                        answer_all(waiting, Err("the device is held meanwhile"));
                        return;
                    }
                    // The keeper forgot the device.
                    None => return,
                },
            }
        };
        let result = result.unwrap_or_else(|_| {
            let reason = format!("no answer within {} s", REQUEST_LIMIT.as_secs());
            Err(IssuerError::Unreachable { endpoint: "the issuer".to_owned(), reason })
        });
        match result {
            Ok(token) => {
                self.received(token);
                answer_all(waiting, Ok(()));
            }
            Err(problem) => {
                let words = problem.to_string();
                self.failed(&problem, &words);
                answer_all(waiting, Err(&words));
            }
        }
    }

    fn received(&mut self, token: AccessToken) {
        self.failures = 0;
        self.due = Some(self.clock.boot() + refresh_after(token.life(), random()));
        self.status.received(&token, &self.clock);
        if self.held().is_some() {
            // The word to hold the device is on its way to this task.
            return;
        }
        debug!(device = %self.request.device, jti = token.jti(), life_s = token.life().as_secs(), "token received");
        let token = Arc::new(token);
        self.last = Some(Arc::clone(&token));
        self.show(TokenState::Valid(token));
    }

    fn failed(&mut self, problem: &IssuerError, words: &str) {
        if let IssuerError::Approval { approval, poll } = problem {
            return self.awaits(approval.clone(), *poll);
        }
        self.failures = self.failures.saturating_add(1);
        self.status.failed(words);
        self.status.note(&self.clock, Became::Failed(words.to_owned()));
        match problem.remedy() {
            Remedy::Quarantine => self.quarantine(words.to_owned()),
            Remedy::Retry(retry_after) => {
                // First and then by powers of two: an outage of a day must not fill the log.
                if self.failures.is_power_of_two() {
                    warn!(device = %self.request.device, attempt = self.failures, error = words, "no new token");
                }
                self.due = Some(self.clock.boot() + back_off(self.failures, retry_after, random()));
                if self.current().is_none() {
                    self.wait(Some(words.to_owned()));
                }
            }
        }
    }

    /// A person decides at the issuer: no failure, however long it takes.
    fn awaits(&mut self, approval: Approval, poll: Duration) {
        let shown = matches!(&*self.feed.state.borrow(),
            TokenState::Waiting { approval: Some(shown), .. } if shown.code == approval.code);
        if !shown {
            info!(device = %self.request.device, url = approval.url, "the issuer asks for a person's approval");
        }
        self.due = Some(self.clock.boot() + poll);
        if self.current().is_none() {
            let since = self.clock.boot();
            self.show(TokenState::Waiting { since, last_error: None, approval: Some(approval) });
        }
    }

    /// Somebody decides about the device first. The token of before is not used any more, and not revoked either.
    fn hold(&mut self, request: TokenRequest, why: String) {
        info!(device = %request.device, why, "the device gets no token yet");
        self.request = request;
        self.due = None;
        self.failures = 0;
        self.untold = None;
        self.show(TokenState::Held { reason: why });
    }

    fn held(&self) -> Option<String> {
        match &*self.feed.state.borrow() {
            TokenState::Held { reason } => Some(reason.clone()),
            _ => None,
        }
    }

    /// The token's life is over and no other came.
    fn expired(&mut self) {
        let last_error = self.status.report(&self.clock).reason;
        warn!(device = %self.request.device, "token expired before another came; the queue is kept");
        self.wait(last_error);
    }

    fn quarantine(&mut self, reason: String) {
        self.due = None;
        error!(device = %self.request.device, error = reason, "device paused: its token needs an operator");
        self.status.note(&self.clock, Became::Paused(reason.clone()));
        self.show(TokenState::Quarantined { reason });
    }

    async fn revoke(&mut self, why: String, answer: Answer) {
        let token = self.last.take();
        info!(device = %self.request.device, why, "token revoked");
        self.show(TokenState::Revoked { reason: why.clone() });
        self.failures = 0;
        self.untold = Some(Untold { request: self.request.clone(), token, why });
        let _ = answer.send(self.tell_revocation().await);
    }

    /// Tells the issuer of a revocation; again later when it cannot be told now.
    async fn tell_revocation(&mut self) -> Result<(), KeeperError> {
        let Some(untold) = self.untold.take() else { return Ok(()) };
        let telling = self.issuer.revoke(&untold.request, untold.token.as_deref(), &untold.why);
        let told = match tokio::time::timeout(REQUEST_LIMIT, telling).await {
            Err(_) => Err(format!("no answer within {} s", REQUEST_LIMIT.as_secs())),
            Ok(Err(problem)) if problem.is_final() => {
                self.due = None;
                self.status.failed(&problem.to_string());
                warn!(device = %self.request.device, error = %problem, "the issuer does not take the revocation");
                return Err(KeeperError::NotAtIssuer(problem.to_string()));
            }
            Ok(told) => told.map_err(|problem| problem.to_string()),
        };
        self.due = None;
        let Err(words) = told else {
            if self.failures > 0 {
                self.status.note(&self.clock, Became::RevocationTold(self.failures));
            }
            return Ok(());
        };
        self.failures = self.failures.saturating_add(1);
        self.status.failed(&words);
        if self.failures.is_power_of_two() {
            let device = &self.request.device;
            warn!(%device, attempt = self.failures, error = words, "issuer not told of a revocation");
        }
        self.due = Some(self.clock.boot() + back_off(self.failures, None, random()));
        self.untold = Some(untold);
        Err(KeeperError::NotYetAtIssuer(words))
    }

    /// The device's name is granted something again: the issuer is told of a revocation now or never.
    async fn tell_once_more(&mut self) {
        if let Err(error) = self.tell_revocation().await {
            self.untold = None;
            let device = &self.request.device;
            warn!(%device, %error, "the issuer was not told of a revocation: the token of before is good until it expires");
        }
    }

    fn wait(&mut self, last_error: Option<String>) {
        self.show(TokenState::Waiting { since: self.clock.boot(), last_error, approval: None });
    }

    fn show(&mut self, state: TokenState) {
        self.status.state(&state);
        self.feed.state.send_replace(state);
    }

    /// When the token in use is over.
    fn expiry(&self) -> Option<Duration> {
        self.current().map(|token| self.clock.boot() + token.left(&self.clock))
    }

    fn current(&self) -> Option<Arc<AccessToken>> {
        match &*self.feed.state.borrow() {
            TokenState::Valid(token) => Some(Arc::clone(token)),
            _ => None,
        }
    }
}

fn answer_all(waiting: Vec<Answer>, result: Result<(), &str>) {
    for answer in waiting {
        let _ = answer.send(result.map_err(|words| KeeperError::Issuer(words.to_owned())));
    }
}
