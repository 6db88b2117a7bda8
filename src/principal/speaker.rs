//! The task of the gateway's own connection: gets a token, connects, says what waits, hears commands, and comes back
//! after every end. Devices and their readings never wait for it.

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rumqttc::PubAckReason;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::connection::{Connection, Received, Target};
use super::outbox::{Item, Outbox};
use super::{Standing, status};
use crate::clock::Clock;
use crate::config::Reauth;
use crate::ids::DeviceId;
use crate::relay::{Backoff, Failure, RelayOptions};
use crate::token::scope::{self, Action};
use crate::token::{AccessToken, TokenHandle, TokenState};

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
    /// What is being published, and its outcome.
    publishing: Option<(Item, Running<Result<PubAckReason, Failure>>)>,
    reauthenticating: Option<Running<Result<(), String>>>,
    subscribing: Option<Running<Result<bool, Failure>>>,
}

impl Speaker {
    /// Until told to stop.
    pub(super) async fn run(self) {
        let (first, cap) = self.options.backoff;
        let mut backoff = Backoff::new(first, cap);
        let mut tokens = self.token.watch();
        let (mut refused, mut password_only) = (None::<String>, self.options.reauth == Reauth::Never);
        loop {
            let usable = usable_token(&mut tokens, refused.as_deref(), &self.clock, &self.standing);
            let Some(Some(token)) = self.stop.run_until_cancelled(usable).await else { return };
            let end = self.connection(Arc::clone(&token), &mut tokens, !password_only, &mut backoff).await;
            match end {
                End::Stopped => return,
                End::Renew | End::Withdrawn => continue,
                End::Failed(Failure::NoEnhancedAuth) => {
                    password_only = true;
                    continue;
                }
                End::Refused(why) => {
                    tracing::warn!(error = why, "the broker refuses the gateway's own token");
                    self.standing.send_replace(Standing::Down(why));
                    self.token.refused(token.jti());
                    refused = Some(token.jti().to_owned());
                }
                End::Failed(failure) => {
                    tracing::warn!(error = %failure, "the gateway's own connection is down");
                    self.standing.send_replace(Standing::Down(failure.to_string()));
                    if matches!(failure, Failure::Tls(_) | Failure::TakenOver) {
                        backoff.exhaust();
                    }
                }
            }
            if self.stop.run_until_cancelled(tokio::time::sleep(backoff.next())).await.is_none() {
                return;
            }
        }
    }

    async fn connection(
        &self,
        token: Arc<AccessToken>,
        tokens: &mut watch::Receiver<TokenState>,
        enhanced: bool,
        backoff: &mut Backoff,
    ) -> End {
        let opened = Connection::open(Target {
            options: &self.options,
            tls: self.tls.clone(),
            token: &token,
            enhanced,
            will: (self.topic("up/status"), status::offline(&self.options)),
            inbox: self.commands.clone(),
        });
        let connection = match self.stop.run_until_cancelled(opened).await {
            None => return End::Stopped,
            Some(Ok(connection)) => connection,
            Some(Err(Failure::Refused(why))) => return End::Refused(why),
            Some(Err(failure)) => return End::Failed(failure),
        };
        self.standing.send_replace(Standing::Up);
        self.outbox.begin();
        let filter = self.topic("down/cmd/+");
        let subscribing: Option<Running<_>> = if token.allows(&filter, Action::Subscribe) {
            Some(Box::pin(Connection::subscribe(connection.client(), filter)))
        } else {
            None
        };
        let mut it = Serving { connection, token, publishing: None, reauthenticating: None, subscribing };
        let end = self.serve(&mut it, tokens, backoff).await;
        if let Some((item, _)) = it.publishing.take() {
            self.outbox.put_back(item);
        }
        if matches!(end, End::Stopped | End::Renew | End::Withdrawn) {
            it.connection.close(self.options.drain).await;
        }
        end
    }

    async fn serve(&self, it: &mut Serving, tokens: &mut watch::Receiver<TokenState>, backoff: &mut Backoff) -> End {
        loop {
            tokio::select! {
                failure = it.connection.ended() => return match failure {
                    Failure::Refused(why) => End::Refused(why),
                    failure => End::Failed(failure),
                },
                () = self.stop.cancelled() => return self.farewell(it).await,
                changed = tokens.changed(), if it.reauthenticating.is_none() => {
                    if changed.is_err() {
                        return End::Stopped;
                    }
                    if let Some(end) = token_changed(it, &tokens.borrow_and_update().clone()) {
                        return end;
                    }
                }
                done = running(&mut it.reauthenticating) => {
                    it.reauthenticating = None;
                    if let Err(error) = done {
                        tracing::info!(error, "re-authentication of the gateway itself failed: connecting anew");
                        return End::Renew;
                    }
                }
                done = running(&mut it.subscribing) => {
                    it.subscribing = None;
                    match done {
                        Ok(true) => tracing::info!("commands from the cloud are heard"),
                        Ok(false) => return End::Refused("the broker refused the subscription to commands".to_owned()),
                        Err(failure) => return End::Failed(failure),
                    }
                }
                answer = published(&mut it.publishing) => {
                    let Some((item, _)) = it.publishing.take() else { continue };
                    match answer {
                        Ok(PubAckReason::Success | PubAckReason::NoMatchingSubscribers) => backoff.reset(),
                        Ok(PubAckReason::NotAuthorized) => {
                            let why = format!("the broker refused up/{} (0x87 not authorized)", item.leaf());
                            self.outbox.put_back(item);
                            return End::Refused(why);
                        }
                        Ok(reason) => {
                            // A message that it never takes must not stand before all others.
                            tracing::warn!(topic = item.leaf(), ?reason, "the broker refused a message of the gateway's own");
                        }
                        Err(failure) => {
                            self.outbox.put_back(item);
                            return End::Failed(failure);
                        }
                    }
                }
                item = self.outbox.next(), if it.publishing.is_none() => {
                    let topic = self.topic(&format!("up/{}", item.leaf()));
                    if !it.token.allows(&topic, Action::Publish) {
                        tracing::debug!(topic, "the gateway's own token does not allow it; not sent");
                        continue;
                    }
                    it.publishing = Some((item.clone(), self.publish(it, topic, item)));
                }
            }
        }
    }

    fn publish(&self, it: &Serving, topic: String, item: Item) -> Running<Result<PubAckReason, Failure>> {
        let (publishing, limit) = (it.connection.publish(topic, item), self.options.ack_timeout);
        Box::pin(async move {
            let late = || Failure::Lost("the broker does not confirm what it is sent".to_owned());
            let answer = tokio::time::timeout(limit, publishing).await;
            answer.unwrap_or_else(|_| Err(late()))
        })
    }

    /// In order: what waits, and that nobody is here any more.
    async fn farewell(&self, it: &mut Serving) -> End {
        let words = async {
            let last = Item::Status(status::stopped(&self.options));
            let topic = self.topic("up/status");
            it.connection.publish(topic, last).await
        };
        let _ = tokio::time::timeout(self.options.drain.min(Duration::from_secs(2)), words).await;
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

fn token_changed(it: &mut Serving, state: &TokenState) -> Option<End> {
    match state {
        TokenState::Valid(token) if token.jti() == it.token.jti() => None,
        // Other rights: subscriptions follow them.
        TokenState::Valid(token) if token.claims().scope != it.token.claims().scope => Some(End::Renew),
        TokenState::Valid(token) => {
            let Some(method) = it.connection.method else { return Some(End::Renew) };
            let (client, bearer) = (it.connection.client(), token.bearer().to_owned());
            it.reauthenticating = Some(Box::pin(Connection::reauthenticate(client, method, bearer)));
            it.token = Arc::clone(token);
            None
        }
        // The broker decides when the old one is over.
        TokenState::Waiting { .. } => None,
        TokenState::Quarantined { .. } | TokenState::Held { .. } | TokenState::Revoked { .. } => Some(End::Withdrawn),
    }
}

async fn running<T>(work: &mut Option<Running<T>>) -> T {
    match work {
        Some(work) => work.await,
        None => pending().await,
    }
}

async fn published(work: &mut Option<(Item, Running<Result<PubAckReason, Failure>>)>) -> Result<PubAckReason, Failure> {
    match work {
        Some((_, work)) => work.await,
        None => pending().await,
    }
}
