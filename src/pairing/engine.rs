//! What all pairings share: codes that wait to be entered, names, wrong guesses, and what is noted of each run.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use serde_json::json;
use tokio::sync::{mpsc, watch};

use clawgate_protocol::code::Code;
use clawgate_protocol::id::Id;
use clawgate_protocol::pairing::{Ceremony, LabelBackoff, Suite};

use super::code::CodeId;
use super::code_book::{Claim, CodeError, Codes};
use super::commission::Commission;
use super::event::{Cause, PairEvent, PairFailure};
use super::report::{About, Report};
use super::run::{Agreed, Ended, Plan, Run};
use super::words;
use crate::alarm::Alarms;
use crate::audit::{Action, Actor, Audit, Event};
use crate::blocking::blocking;
use crate::clock::Clock;
use crate::ids::DeviceId;
use crate::link::Link;
use crate::metrics::{Metrics, Reason};
use crate::session::FirstReadings;
use crate::store::{Decision, Store, StoreError};
use crate::token::scope::Scope;
use crate::token::{Limits, Stage};

/// Sensors whose wrong guesses at the label are remembered.
const GUESSES_KEPT: usize = 64;

/// How soon a new code is noticed, and an old one ended.
const TEND_CODES: Duration = Duration::from_secs(1);

/// What pairing works with.
#[derive(Clone)]
pub(crate) struct EngineParts {
    pub(crate) gateway: Id,
    pub(crate) store: Store,
    pub(crate) codes: Codes,
    pub(crate) audit: Audit,
    pub(crate) commission: Arc<dyn Commission>,
    pub(crate) metrics: Metrics,
    pub(crate) clock: Clock,
    pub(crate) firsts: FirstReadings,
    pub(crate) alarms: Alarms,
    pub(crate) stage: Stage,
}

/// What the operator allows; a reload may change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PairingPolicy {
    /// The lowest suite that a pairing may use.
    pub min_suite: Suite,
    /// Guesses that a code of `pair --issue` survives.
    pub attempts: u8,
    /// A pairing waits for the backend's yes before the device gets a token.
    pub asks_backend: bool,
}

/// Runs pairings. Shared by all links.
pub(crate) struct Engine {
    parts: EngineParts,
    policy: ArcSwap<PairingPolicy>,
    /// Live codes, as last counted.
    live_codes: watch::Sender<usize>,
    /// Who waits for the outcome of an issued code.
    watchers: Mutex<HashMap<CodeId, Watcher>>,
    /// Wrong guesses at labels, as their sensors count them too.
    guesses: Mutex<HashMap<Id, LabelBackoff>>,
}

/// Who waits for the outcome of a code.
struct Watcher {
    events: mpsc::Sender<PairEvent>,
    /// A run under the code began.
    begun: bool,
}

/// A pairing by label, as an operator asked for it.
#[derive(Debug)]
pub(crate) struct LabelJob {
    pub(crate) code: Code,
    pub(crate) name: Option<DeviceId>,
    pub(crate) scopes: Vec<Scope>,
    pub(crate) limits: Limits,
    pub(crate) actor: Actor,
    pub(crate) report: Report,
}

impl LabelJob {
    /// The port cannot be used.
    pub(crate) async fn unreachable(self, why: &str) {
        let failure = self.report.failure(Cause::Port, format!("{why}."), "See clawgate status.");
        self.report.fail(failure).await;
    }
}

impl Engine {
    pub(crate) fn new(parts: EngineParts, policy: PairingPolicy) -> Self {
        Self {
            parts,
            policy: ArcSwap::from_pointee(policy),
            live_codes: watch::Sender::new(0),
            watchers: Mutex::default(),
            guesses: Mutex::default(),
        }
    }

    /// What the operator allows now.
    pub(crate) fn policy(&self) -> PairingPolicy {
        **self.policy.load()
    }

    /// For pairings that begin from now on.
    pub(crate) fn set_policy(&self, policy: PairingPolicy) {
        self.policy.store(policy.into());
    }

    /// Counts the live codes and ends those whose time is over, until it is dropped.
    pub(crate) async fn tend_codes(&self) {
        loop {
            let codes = self.parts.codes.clone();
            match blocking(move || codes.expire()).await {
                Ok(live) => {
                    self.live_codes.send_if_modified(|count| std::mem::replace(count, live) != live);
                    self.parts.metrics.pairing.codes_active.set(i64::try_from(live).unwrap_or(i64::MAX));
                }
                Err(error) => tracing::error!(error = %error, "codes cannot be looked after"),
            }
            tokio::time::sleep(TEND_CODES).await;
        }
    }

    /// Whether somebody may enter a code at any moment.
    pub(crate) fn has_live_codes(&self) -> bool {
        *self.live_codes.borrow() > 0
    }

    /// Counts from now on.
    pub(crate) fn watch_codes(&self) -> watch::Receiver<usize> {
        self.live_codes.subscribe()
    }

    pub(crate) fn parts(&self) -> &EngineParts {
        &self.parts
    }

    /// From now on `events` hears what becomes of a code.
    pub(crate) fn watch_code(&self, id: CodeId, events: mpsc::Sender<PairEvent>) {
        lock(&self.watchers).insert(id, Watcher { events, begun: false });
    }

    /// Whether a run under the code that is watched has begun.
    pub(crate) fn has_begun(&self, id: &CodeId) -> bool {
        lock(&self.watchers).get(id).is_some_and(|watcher| watcher.begun)
    }

    /// Nobody waits for the code any more.
    pub(crate) fn forget_code(&self, id: &CodeId) {
        lock(&self.watchers).remove(id);
    }

    /// The code that a sensor with an issued window may try, if one lives, and who waits for the outcome.
    pub(crate) async fn claim(&self, hardware_id: Id) -> Option<(Claim, Report)> {
        let codes = self.parts.codes.clone();
        match blocking(move || codes.claim(hardware_id.as_str())).await {
            Ok(claim) => {
                let mut watchers = lock(&self.watchers);
                let watcher = watchers.get_mut(&claim.record.id);
                let events = watcher.map(|watcher| {
                    watcher.begun = true;
                    watcher.events.clone()
                });
                let about = self.about(claim.record.creator.clone(), hardware_id.as_str(), Ceremony::Issued);
                Some((claim, Report::new(about, events)))
            }
            Err(CodeError::NoneLive(_)) => None,
            Err(error) => {
                tracing::warn!(sensor = %hardware_id, error = %error, "a code was entered that cannot be used");
                None
            }
        }
    }

    /// The name a sensor gets. Checked before a run, so that a name that is taken burns no attempt.
    pub(crate) async fn name(
        &self,
        wish: Option<DeviceId>,
        hardware_id: Id,
        report: &Report,
    ) -> Result<DeviceId, PairFailure> {
        let store = self.parts.store.clone();
        let known = blocking(move || {
            let by_hardware = store.device_by_hardware(hardware_id.as_str())?;
            let by_name = match &wish {
                Some(name) => store.device(name)?,
                None => None,
            };
            Ok::<_, StoreError>((by_hardware, by_name, wish))
        });
        let (by_hardware, by_name, wish) = known.await.map_err(|error| words::store(report, &error))?;
        match (by_hardware, wish) {
            (Some(known), None) => Ok(known.id),
            (Some(known), Some(wish)) if known.id == wish => Ok(wish),
            (Some(known), Some(_)) => {
                let text = format!("This sensor is known as {}.", known.id);
                let next = format!(
                    "Pair it under that name, rename it (clawgate devices rename), or first: clawgate unpair {}",
                    known.id
                );
                Err(report.failure(Cause::NameTaken, text, next))
            }
            (None, Some(wish)) => match by_name {
                Some(other) if other.hardware_id != hardware_id.as_str() => {
                    let text = format!("{wish} is the name of another sensor ({}).", other.hardware_id);
                    Err(report.failure(Cause::NameTaken, text, "Choose another name with --name."))
                }
                _ => Ok(wish),
            },
            (None, None) => hardware_id.as_str().parse().map_err(|_| {
                report.failure(Cause::NameTaken, "The sensor's own id is reserved.", "Give it a name with --name.")
            }),
        }
    }

    /// Makes one run. The report has passed the connect stage.
    pub(crate) async fn run(&self, link: &mut Link, plan: &Plan, report: &mut Report) -> Ended {
        self.parts.metrics.pairing.started.inc();
        let ended = Run::make(self, link, plan, report).await;
        if let Ended::Failed(failure) = &ended {
            self.count_failure(failure.cause.name());
            if failure.cause == Cause::WrongCode {
                self.parts.alarms.wrong_code(plan.hardware_id.as_str());
            }
        }
        ended
    }

    /// The sensor proved the new key: its code is used, and it becomes current.
    ///
    /// # Errors
    /// The code was revoked during the run, or our disk refused: the key is not used.
    pub(crate) async fn confirmed(&self, agreed: &Agreed, report: &Report) -> Result<(), PairFailure> {
        let (parts, agreed_there) = (self.parts.clone(), agreed.clone());
        let revoked = blocking(move || {
            let Agreed { device, pairing, code, .. } = agreed_there;
            if let Some(error) = code.and_then(|id| parts.codes.used(&id, &device).err()) {
                parts.codes.give_up(&device, pairing)?;
                return Ok(Some(error));
            }
            parts.store.confirm_pending(&device, pairing).map(|()| None)
        });
        match revoked.await {
            Ok(None) => {
                self.proven(agreed).await;
                Ok(())
            }
            Ok(Some(error)) => Err(words::code(report, &error)),
            Err(error) => Err(words::store(report, &error)),
        }
    }

    /// Notes that the sensor proved the key, which is current, and its code used.
    pub(crate) async fn proven(&self, agreed: &Agreed) {
        self.parts.metrics.pairing.succeeded.inc();
        tracing::info!(device = %agreed.device, pairing = %agreed.pairing, ceremony = agreed.ceremony.name(), "paired");
        let details = json!({ "pairing": agreed.pairing.to_string(), "ceremony": agreed.ceremony.name() });
        let event = Event::done(agreed.actor.clone(), Action::DevicePair, agreed.device.as_str());
        self.parts.audit.note(event.with(details)).await;
    }

    /// A run ended without a key, or without a proof of it.
    pub(crate) fn count_failure(&self, reason: &'static str) {
        self.parts.metrics.pairing.failed.get_or_create(&Reason { reason }).inc();
    }

    /// What the audit log is told where a pairing fails.
    pub(crate) fn about(&self, actor: Actor, subject: &str, ceremony: Ceremony) -> About {
        About { audit: self.parts.audit.clone(), actor, subject: subject.to_owned(), ceremony }
    }

    /// Counts a wrong guess at a label; how long the sensor takes no other.
    pub(super) fn guessed(&self, sensor: Id) -> Duration {
        let now = self.parts.clock.boot_ms();
        let mut guesses = lock(&self.guesses);
        if guesses.len() >= GUESSES_KEPT {
            guesses.retain(|_, guess| !guess.allows(now));
        }
        let guess = guesses.entry(sensor).or_default();
        guess.count(now);
        Duration::from_millis(guess.not_before_ms().saturating_sub(now))
    }

    pub(super) fn guess_wait(&self, sensor: Id) -> Duration {
        let until = lock(&self.guesses).get(&sensor).map_or(0, LabelBackoff::not_before_ms);
        Duration::from_millis(until.saturating_sub(self.parts.clock.boot_ms()))
    }

    /// What a pairing that begins now has to wait for.
    pub(crate) fn decision(&self) -> Decision {
        if !self.policy().asks_backend {
            return Decision::NotNeeded;
        }
        Decision::Waiting { since_ms: self.parts.clock.wall_ms() }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
