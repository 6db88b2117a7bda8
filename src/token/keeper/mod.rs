//! Keeps the token of each device fresh: one task a device, so that one device's trouble is nobody else's.

mod device;
mod journal;
mod schedule;
mod status;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use journal::{Became, Note};
pub use status::{TokenStatus, TokenTally};

use super::handle::{TokenFeed, TokenHandle, TokenState};
use super::scope::Scope;
use super::{Issuer, Limits, Stage, TokenRequest};
use crate::clock::Clock;
use crate::ids::DeviceId;
use device::{Command, DeviceTask};
use journal::Journal;
use status::SharedStatus;

/// More devices than one gateway can serve.
const MAX_DEVICES: usize = 10_000;
/// Requests at the issuer at one time, all devices together: a restart must not be a storm.
const MAX_REQUESTS: usize = 8;
/// Commands waiting for one device.
const MAX_COMMANDS: usize = 64;

/// Why the keeper did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeeperError {
    /// No such device has a token here.
    #[error("{0} has no token here: see clawgate devices ls")]
    Unknown(DeviceId),
    /// The device table is full.
    #[error("{MAX_DEVICES} devices have tokens already; remove one first")]
    TooMany,
    /// Too much is asked of one device at a time, or the keeper is stopping.
    #[error("the token of {0} is busy: ask again in a moment")]
    Busy(DeviceId),
    /// No new token came.
    #[error("{0}")]
    Issuer(String),
    /// The device is revoked: a new token would undo that.
    #[error("the token of {0} was revoked: pair the device again to let it back in")]
    Revoked(DeviceId),
    /// Somebody decides about it first.
    #[error("{device} gets no token yet: {reason}")]
    Held {
        /// Which.
        device: DeviceId,
        /// Why.
        reason: String,
    },
    /// It is revoked here, and the issuer does not take it.
    #[error("revoked here and cut off; the issuer does not take it back: {0}")]
    NotAtIssuer(String),
    /// It is revoked here, and the issuer could not be told yet.
    #[error("revoked here and cut off; the issuer could not be told yet and is asked again: {0}")]
    NotYetAtIssuer(String),
}

/// Whose tokens are kept.
#[derive(Debug, Clone)]
pub struct KeeperOptions {
    /// Tenant of the site.
    pub tenant: String,
    /// Id of the gateway.
    pub gateway: String,
    /// The one stage of the gateway.
    pub stage: Stage,
}

/// What a device is granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// What it may do.
    pub scope: Vec<Scope>,
    /// How long one token lives.
    pub life: Duration,
    /// The broker its tokens are for.
    pub audience: String,
    /// From where its tokens may be used, and how often.
    pub limits: Limits,
}

/// The tokens of all devices. Cheap to clone; the tasks end with [`TokenKeeper::shutdown`].
#[derive(Clone)]
pub struct TokenKeeper(Arc<Inner>);

struct Inner {
    issuer: Arc<dyn Issuer>,
    options: KeeperOptions,
    clock: Clock,
    devices: Mutex<HashMap<DeviceId, Entry>>,
    /// Of devices that were removed, and whose revocation the issuer may not know yet.
    leaving: Arc<Mutex<HashMap<DeviceId, End>>>,
    requests: Arc<Semaphore>,
    journal: Journal,
    tasks: TaskTracker,
    stop: CancellationToken,
}

struct Entry {
    commands: mpsc::Sender<Command>,
    handle: TokenHandle,
    state: watch::Sender<TokenState>,
    status: SharedStatus,
    end: End,
}

/// The end of a device's task.
#[derive(Clone)]
struct End {
    /// It shall not wait for a better time to tell the issuer of a revocation.
    hurry: CancellationToken,
    /// It has ended.
    ended: CancellationToken,
}

impl TokenKeeper {
    /// A keeper that asks `issuer`.
    #[must_use]
    pub fn new(issuer: Arc<dyn Issuer>, options: KeeperOptions, clock: Clock) -> Self {
        Self(Arc::new(Inner {
            issuer,
            options,
            clock,
            devices: Mutex::default(),
            leaving: Arc::default(),
            requests: Arc::new(Semaphore::new(MAX_REQUESTS)),
            journal: Journal::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }))
    }

    /// Keeps a token for the device from now on. Called again, the device has the new grant under the same handle;
    /// a revocation is lifted, for that is what pairing again means.
    ///
    /// # Errors
    /// [`KeeperError::TooMany`] or [`KeeperError::Busy`].
    pub fn add(&self, device: &DeviceId, grant: Grant) -> Result<TokenHandle, KeeperError> {
        let request = self.request(device, grant);
        let devices = self.devices();
        if let Some(entry) = devices.get(device) {
            let told = entry.commands.try_send(Command::Grant(Box::new(request)));
            told.map_err(|_| KeeperError::Busy(device.clone()))?;
            // Whoever looks at the handle next must not see why the device was out before.
            entry.state.send_if_modified(|state| {
                let out = !matches!(state, TokenState::Waiting { .. } | TokenState::Valid(_));
                if out {
                    *state = self.waiting();
                }
                out
            });
            return Ok(entry.handle.clone());
        }
        self.start(devices, request, self.waiting())
    }

    /// Knows the device as one that gets no token until it is added again: somebody decides about it first.
    ///
    /// # Errors
    /// [`KeeperError::TooMany`] or [`KeeperError::Busy`].
    pub(crate) fn hold(&self, device: &DeviceId, grant: Grant, why: &str) -> Result<TokenHandle, KeeperError> {
        let request = self.request(device, grant);
        let held = TokenState::Held { reason: why.to_owned() };
        let devices = self.devices();
        if let Some(entry) = devices.get(device) {
            let told = entry.commands.try_send(Command::Hold { request: Box::new(request), why: why.to_owned() });
            told.map_err(|_| KeeperError::Busy(device.clone()))?;
            // Whoever looks at the handle next must not find the token of before.
            entry.state.send_replace(held);
            return Ok(entry.handle.clone());
        }
        self.start(devices, request, held)
    }

    fn waiting(&self) -> TokenState {
        TokenState::Waiting { since: self.0.clock.boot(), last_error: None, approval: None }
    }

    /// Knows the device as one that was revoked before this start: it gets no token until it is added again.
    ///
    /// # Errors
    /// [`KeeperError::TooMany`].
    pub(crate) fn add_revoked(&self, device: &DeviceId, grant: Grant, why: &str) -> Result<TokenHandle, KeeperError> {
        let revoked = TokenState::Revoked { reason: why.to_owned() };
        self.start(self.devices(), self.request(device, grant), revoked)
    }

    fn start(
        &self,
        mut devices: MutexGuard<'_, HashMap<DeviceId, Entry>>,
        request: TokenRequest,
        state: TokenState,
    ) -> Result<TokenHandle, KeeperError> {
        if devices.len() >= MAX_DEVICES {
            return Err(KeeperError::TooMany);
        }
        let device = request.device.clone();
        // Whoever had the name before: told of later, its revocation would hit the tokens of this one.
        let before = devices.remove(&device).map(|entry| entry.end);
        let before: Vec<End> = before.into_iter().chain(locked(&self.0.leaving).remove(&device)).collect();
        let (feed, handle) = TokenFeed::new(state);
        let state = feed.state.clone();
        let (commands, receiver) = mpsc::channel(MAX_COMMANDS);
        let status = SharedStatus::new(device.clone(), self.0.journal.clone());
        let task = DeviceTask::new(
            Arc::clone(&self.0.issuer),
            request,
            feed,
            receiver,
            status.clone(),
            self.0.clock.clone(),
            Arc::clone(&self.0.requests),
        );
        let end = End { hurry: task.hurry(), ended: CancellationToken::new() };
        let (stop, ended) = (self.0.stop.clone(), end.ended.clone());
        let (leaving, name) = (Arc::clone(&self.0.leaving), device.clone());
        self.0.tasks.spawn(async move {
            let ended = ended.drop_guard();
            let work = async {
                for before in before {
                    before.hurry.cancel();
                    before.ended.cancelled().await;
                }
                task.run().await;
            };
            // Dropping the task drops a request in flight with it.
            let _ = stop.run_until_cancelled(work).await;
            let mut leaving = locked(&leaving);
            drop(ended);
            leaving.retain(|device, end| *device != name || !end.ended.is_cancelled());
        });
        devices.insert(device, Entry { commands, handle: handle.clone(), state, status, end });
        Ok(handle)
    }

    fn request(&self, device: &DeviceId, grant: Grant) -> TokenRequest {
        TokenRequest {
            tenant: self.0.options.tenant.clone(),
            gateway: self.0.options.gateway.clone(),
            device: device.clone(),
            scope: grant.scope,
            life: grant.life,
            audience: grant.audience,
            limits: grant.limits,
            stage: self.0.options.stage,
        }
    }

    /// Revokes the device's tokens and forgets the device.
    ///
    /// # Errors
    /// As [`TokenKeeper::revoke`]; the device is forgotten in any case.
    pub(crate) async fn remove(&self, device: &DeviceId, why: &str) -> Result<(), KeeperError> {
        let revoked = self.revoke(device, why).await;
        if let Some(entry) = self.devices().remove(device) {
            let mut leaving = locked(&self.0.leaving);
            if !entry.end.ended.is_cancelled() {
                leaving.insert(device.clone(), entry.end);
            }
        }
        revoked
    }

    /// Another life of the tokens of all devices: those that have one get a new one. Which could not be told.
    pub(crate) fn set_life(&self, life: Duration) -> Vec<DeviceId> {
        let devices = self.devices();
        let told = |(device, entry): (&DeviceId, &Entry)| {
            let is_gateway = *device == DeviceId::gateway();
            (!is_gateway && entry.commands.try_send(Command::Life(life)).is_err()).then(|| device.clone())
        };
        devices.iter().filter_map(told).collect()
    }

    /// Gets a new token now, also for a quarantined device. Whoever asks while a request is in flight gets its result.
    ///
    /// # Errors
    /// [`KeeperError`] when no token came.
    pub async fn rotate(&self, device: &DeviceId) -> Result<TokenStatus, KeeperError> {
        let (answer, answered) = oneshot::channel();
        self.ask(device, Command::Rotate(answer))?;
        answered.await.map_err(|_| KeeperError::Busy(device.clone()))??;
        self.status(device).ok_or_else(|| KeeperError::Unknown(device.clone()))
    }

    /// Makes the device's tokens worthless, here at once and at the issuer before what this gives is ready. Who grants
    /// the device something from now on lets it back in.
    ///
    /// # Errors
    /// [`KeeperError::NotYetAtIssuer`] when only the first was possible; the issuer is asked again until it takes it.
    /// [`KeeperError::NotAtIssuer`] when it said no.
    pub fn revoke(&self, device: &DeviceId, why: &str) -> impl Future<Output = Result<(), KeeperError>> + use<> {
        let (answer, answered) = oneshot::channel();
        let asked = self.ask(device, Command::Revoke { why: why.to_owned(), answer });
        let busy = KeeperError::Busy(device.clone());
        async move {
            asked?;
            answered.await.map_err(|_| busy)?
        }
    }

    fn ask(&self, device: &DeviceId, command: Command) -> Result<(), KeeperError> {
        let commands = self.devices().get(device).map(|entry| entry.commands.clone());
        let commands = commands.ok_or_else(|| KeeperError::Unknown(device.clone()))?;
        commands.try_send(command).map_err(|_| KeeperError::Busy(device.clone()))
    }

    /// The token of one device.
    #[must_use]
    pub fn status(&self, device: &DeviceId) -> Option<TokenStatus> {
        self.devices().get(device).map(|entry| entry.status.report(&self.0.clock))
    }

    /// The relay's end for a device that was added before.
    #[cfg(test)]
    pub(crate) fn handle(&self, device: &DeviceId) -> Option<TokenHandle> {
        self.devices().get(device).map(|entry| entry.handle.clone())
    }

    /// The tokens of all devices, by name.
    #[must_use]
    pub(crate) fn list(&self) -> Vec<TokenStatus> {
        let mut all: Vec<_> = self.devices().values().map(|entry| entry.status.report(&self.0.clock)).collect();
        all.sort_by(|a, b| a.device.cmp(&b.device));
        all
    }

    /// Sums over all devices, for metrics.
    #[must_use]
    pub(crate) fn tally(&self) -> TokenTally {
        self.devices().values().map(|entry| entry.status.report(&self.0.clock)).collect()
    }

    /// What became of requests for tokens since the last call, in order, and how many there was no room for: for the
    /// audit log, which is the only reader.
    #[must_use]
    pub(crate) fn take_notes(&self) -> (Vec<Note>, u64) {
        self.0.journal.take()
    }

    /// Ends the tasks. Tokens stay as they are: a restart is no revocation.
    pub async fn shutdown(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    fn devices(&self) -> MutexGuard<'_, HashMap<DeviceId, Entry>> {
        locked(&self.0.devices)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for TokenKeeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TokenKeeper({} devices)", self.devices().len())
    }
}

#[cfg(test)]
mod tests;
