//! One pairing run over a link: drives the protocol's machine and keeps its persistence points.
//!
//! The order on the disk: an attempt at an issued code is counted before the sensor's tag is verified; the new
//! key is pending before M5 goes out, and becomes current on M6 or on the first valid record under it,
//! whichever comes first; only then is the code used and the old key dropped.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::json;
use tokio::sync::{mpsc, watch};
use zeroize::Zeroizing;

use clawgate_protocol::code::Code;
use clawgate_protocol::id::Id;
use clawgate_protocol::message::{Kind, REFUSE};
use clawgate_protocol::pairing::{Ceremony, Failure, Gateway, GatewayOptions, GatewayStep, LabelBackoff, Suite};

use super::code::CodeId;
use super::code_book::{Claim, CodeError, Codes};
use super::commission::Commission;
use super::event::{Cause, PairEvent, PairFailure, Stage};
use super::random::OsRandom;
use super::report::Report;
use super::words;
use crate::audit::{Actor, Audit, Event, Outcome};
use crate::clock::Clock;
use crate::ids::{DeviceId, PairingId};
use crate::link::{Link, printable};
use crate::metrics::{Metrics, Reason};
use crate::secret::Secret;
use crate::session::blocking;
use crate::store::{DeviceInfo, KeySlot, NewPairing, Store, StoreError};
use crate::token::scope::Scope;

/// Sensors whose wrong guesses at the label are remembered.
const GUESSES_KEPT: usize = 64;

/// How soon a new code is noticed, and an old one ended.
const TEND_CODES: Duration = Duration::from_secs(1);

/// What pairing works with.
#[derive(Clone)]
pub(crate) struct EngineParts {
    pub(crate) gateway: Id,
    pub(crate) min_suite: Suite,
    pub(crate) store: Store,
    pub(crate) codes: Codes,
    pub(crate) audit: Audit,
    pub(crate) commission: Arc<dyn Commission>,
    pub(crate) metrics: Metrics,
    pub(crate) clock: Clock,
}

/// Runs pairings. Shared by all links.
pub(crate) struct Engine {
    parts: EngineParts,
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

/// One run to be made.
pub(crate) struct Plan {
    pub(crate) ceremony: Ceremony,
    pub(crate) code: Code,
    /// Of an issued code.
    pub(crate) code_id: Option<CodeId>,
    pub(crate) device: DeviceId,
    pub(crate) hardware_id: Id,
    pub(crate) sensor_name: String,
    pub(crate) link: String,
    pub(crate) scopes: Vec<Scope>,
    pub(crate) actor: Actor,
}

/// A pairing by label, as an operator asked for it.
#[derive(Debug)]
pub(crate) struct LabelJob {
    pub(crate) code: Code,
    pub(crate) name: Option<DeviceId>,
    pub(crate) scopes: Vec<Scope>,
    pub(crate) actor: Actor,
    pub(crate) report: Report,
}

impl LabelJob {
    /// The port cannot be used.
    pub(crate) fn unreachable(self, why: &str) {
        let failure = self.report.failure(Cause::Port, format!("{why}."), "See clawgate status.");
        self.report.fail(failure);
    }
}

/// What both ends agreed on.
#[derive(Debug, Clone)]
pub(crate) struct Agreed {
    pub(crate) device: DeviceId,
    pub(crate) pairing: PairingId,
    pub(crate) code: Option<CodeId>,
    pub(crate) actor: Actor,
    pub(crate) ceremony: &'static str,
}

/// How a run ended.
pub(crate) enum Ended {
    /// With M6.
    Paired(Agreed),
    /// With the new key pending on our side and no M6: a session under it may yet prove it.
    InDoubt(Agreed, PairFailure),
    /// Without a key.
    Failed(PairFailure),
}

/// A step of the machine, free of its borrow.
enum Next {
    Wait,
    Send(Vec<u8>),
    Count,
    Store(Box<NewPairing>),
    Paired,
    Failed { failure: Failure, refuse: bool },
}

impl Engine {
    pub(crate) fn new(parts: EngineParts) -> Self {
        Self { parts, live_codes: watch::Sender::new(0), watchers: Mutex::default(), guesses: Mutex::default() }
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
                Some((claim, Report::to(events)))
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

    /// Makes one run. The report has passed [`Stage::Connect`].
    pub(crate) async fn run(&self, link: &mut Link, plan: &Plan, report: &mut Report) -> Ended {
        self.parts.metrics.pairing.started.inc();
        let ended = match self.drive(link, plan, report).await {
            Ok(agreed) => Ended::Paired(agreed),
            Err((failure, None)) => Ended::Failed(failure),
            Err((failure, Some(agreed))) => Ended::InDoubt(agreed, failure),
        };
        if let Ended::Failed(failure) = &ended {
            self.note_failure(plan, failure).await;
        }
        ended
    }

    async fn drive(
        &self,
        link: &mut Link,
        plan: &Plan,
        report: &mut Report,
    ) -> Result<Agreed, (PairFailure, Option<Agreed>)> {
        let mut agreed = None;
        let result = self.steps(link, plan, report, &mut agreed).await;
        match (result, agreed) {
            (Ok(()), Some(agreed)) => Ok(agreed),
            (Ok(()), None) => Err((words::protocol(report, Failure::Malformed), None)),
            (Err(failure), agreed) => Err((failure, agreed)),
        }
    }

    async fn steps(
        &self,
        link: &mut Link,
        plan: &Plan,
        report: &mut Report,
        agreed: &mut Option<Agreed>,
    ) -> Result<(), PairFailure> {
        let mut machine = self.start(link, plan, report).await?;
        send(link, machine.message().to_vec(), report).await?;
        loop {
            let mut next = self.input(link, &mut machine, plan, report).await?;
            loop {
                next = match next {
                    Next::Wait => break,
                    Next::Send(message) => {
                        send(link, message, report).await?;
                        break;
                    }
                    Next::Count => {
                        report.passed(Stage::Confirm, None);
                        if let Err(failure) = self.count(plan, report).await {
                            send(link, REFUSE.to_vec(), report).await?;
                            return Err(failure);
                        }
                        plan.read(machine.attempt_counted())
                    }
                    Next::Store(new) => {
                        let pairing = new.key.pairing;
                        let store = self.parts.store.clone();
                        blocking(move || store.put_pending(&new))
                            .await
                            .map_err(|error| words::store(report, &error))?;
                        *agreed = Some(plan.agreed(pairing));
                        plan.read(machine.pending_stored())
                    }
                    Next::Paired => return Ok(()),
                    Next::Failed { failure, refuse } => {
                        if refuse {
                            send(link, REFUSE.to_vec(), report).await?;
                        }
                        return Err(self.explain(plan, report, failure).await);
                    }
                };
            }
        }
    }

    async fn start(&self, link: &Link, plan: &Plan, report: &Report) -> Result<Box<Gateway>, PairFailure> {
        let store = self.parts.store.clone();
        let own = blocking(move || store.gateway_identity()).await.map_err(|error| words::store(report, &error))?;
        let options = GatewayOptions {
            gateway: self.parts.gateway,
            device: Some(plan.hardware_id),
            ceremony: plan.ceremony,
            transport: link.transport(),
            max_suite: Suite::Two,
            min_suite: self.parts.min_suite,
            config: &[],
        };
        let prs = Zeroizing::new(plan.code.prs());
        let machine = Gateway::start(&options, &prs, own.expose(), self.now_ms(), &mut OsRandom);
        machine.map(Box::new).map_err(|failure| words::protocol(report, failure))
    }

    /// Waits for the next message of the run, or its time.
    async fn input(
        &self,
        link: &mut Link,
        machine: &mut Gateway,
        plan: &Plan,
        report: &Report,
    ) -> Result<Next, PairFailure> {
        let wait = machine.poll_timeout().unwrap_or_default().saturating_sub(self.now_ms());
        tokio::select! {
            message = link.receive() => {
                let message = message.map_err(|end| words::link(report, &end))?;
                Ok(match Kind::of(&message) {
                    Ok(Kind::M2 | Kind::M4 | Kind::M6 | Kind::Refuse) => plan.read(machine.handle(&message, self.now_ms())),
                    // Records of a session that goes on meanwhile: the sensor keeps what is not acknowledged.
                    _ => Next::Wait,
                })
            }
            () = tokio::time::sleep(Duration::from_millis(wait)) => Ok(plan.read(machine.handle_timeout(self.now_ms()))),
        }
    }

    /// Counts the attempt where the code is ours to guard.
    async fn count(&self, plan: &Plan, report: &Report) -> Result<(), PairFailure> {
        self.parts.metrics.pairing.attempts.inc();
        let Some(id) = plan.code_id.clone() else { return Ok(()) };
        let codes = self.parts.codes.clone();
        blocking(move || codes.count_attempt(&id)).await.map(drop).map_err(|error| words::code(report, &error))
    }

    async fn explain(&self, plan: &Plan, report: &Report, failure: Failure) -> PairFailure {
        let is_label = plan.ceremony == Ceremony::Label;
        match (failure, report.stage()) {
            // The label's sensor verifies first: its refusal of our tag is its answer to a wrong code.
            (Failure::Refused, Stage::Confirm) if is_label => {
                words::wrong_label(report, self.guessed(plan.hardware_id))
            }
            (Failure::Refused, Stage::KeyExchange) if is_label => {
                let wait = self.guess_wait(plan.hardware_id);
                words::refused_label(report, wait)
            }
            (Failure::WrongCode, _) => match plan.code_id.clone() {
                Some(id) => {
                    let codes = self.parts.codes.clone();
                    match blocking(move || codes.attempt_failed(&id)).await {
                        Ok(left) => words::wrong_issued(report, left),
                        Err(error) => words::code(report, &error),
                    }
                }
                // It took our proof and has none: it is not the sensor whose label was read.
                None => words::protocol(report, Failure::Unauthentic),
            },
            _ => words::protocol(report, failure),
        }
    }

    /// The sensor proved the new key: makes it current, and its code used.
    pub(crate) async fn confirmed(&self, agreed: &Agreed) -> Result<(), StoreError> {
        let (store, device, pairing) = (self.parts.store.clone(), agreed.device.clone(), agreed.pairing);
        blocking(move || store.confirm_pending(&device, pairing)).await?;
        self.proven(agreed).await;
        Ok(())
    }

    /// The key is current: the code is used, and it is noted.
    pub(crate) async fn proven(&self, agreed: &Agreed) {
        self.parts.metrics.pairing.succeeded.inc();
        if let Some(id) = agreed.code.clone() {
            self.code_used(id, agreed.device.clone()).await;
        }
        tracing::info!(device = %agreed.device, pairing = %agreed.pairing, ceremony = agreed.ceremony, "paired");
        let details = json!({ "pairing": agreed.pairing.to_string(), "ceremony": agreed.ceremony });
        self.audit(Event::done(agreed.actor.clone(), "device.pair", agreed.device.as_str()).with(details)).await;
    }

    /// No session proved the key in time. It stays pending: the sensor may yet come.
    pub(crate) async fn note_doubt(&self, agreed: &Agreed, failure: &PairFailure) {
        self.parts.metrics.pairing.failed.get_or_create(&Reason { reason: "not_confirmed" }).inc();
        let event = Event::done(agreed.actor.clone(), "device.pair", agreed.device.as_str());
        self.audit(event.ended(Outcome::Failed).because(format!("not confirmed: {}", failure.message))).await;
    }

    async fn code_used(&self, id: CodeId, device: DeviceId) {
        let codes = self.parts.codes.clone();
        if let Err(error) = blocking(move || codes.used(&id, &device)).await {
            tracing::error!(error = %error, "a code could not be marked used");
        }
    }

    async fn note_failure(&self, plan: &Plan, failure: &PairFailure) {
        self.parts.metrics.pairing.failed.get_or_create(&Reason { reason: failure.cause.name() }).inc();
        tracing::warn!(sensor = %plan.hardware_id, stage = %failure.stage, cause = failure.cause.name(), "{}", failure.message);
        let details = json!({ "stage": failure.stage, "cause": failure.cause, "ceremony": plan.ceremony.name() });
        let event = Event::done(plan.actor.clone(), "device.pair", plan.hardware_id.as_str());
        self.audit(event.ended(Outcome::Failed).because(&failure.message).with(details)).await;
    }

    async fn audit(&self, event: Event) {
        let audit = self.parts.audit.clone();
        if let Err(error) = blocking(move || audit.record(event)).await {
            tracing::error!(error = %error, "the audit log refused");
        }
    }

    /// Counts a wrong guess at a label; how long the sensor takes no other.
    fn guessed(&self, sensor: Id) -> Duration {
        let now = self.now_ms();
        let mut guesses = lock(&self.guesses);
        if guesses.len() >= GUESSES_KEPT {
            guesses.retain(|_, guess| !guess.allows(now));
        }
        let guess = guesses.entry(sensor).or_default();
        guess.count(now);
        Duration::from_millis(guess.not_before_ms().saturating_sub(now))
    }

    fn guess_wait(&self, sensor: Id) -> Duration {
        let until = lock(&self.guesses).get(&sensor).map_or(0, LabelBackoff::not_before_ms);
        Duration::from_millis(until.saturating_sub(self.now_ms()))
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.parts.clock.boot().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Plan {
    fn read(&self, step: GatewayStep<'_>) -> Next {
        match step {
            GatewayStep::Send(message) => Next::Send(message.to_vec()),
            GatewayStep::CountAttempt => Next::Count,
            GatewayStep::StorePending { record, profile } => {
                let capabilities = profile.capabilities.split(',').filter(|text| !text.is_empty());
                Next::Store(Box::new(NewPairing {
                    device: self.device.clone(),
                    hardware_id: self.hardware_id.as_str().to_owned(),
                    info: DeviceInfo {
                        sensor_name: self.sensor_name.clone(),
                        firmware: printable(profile.firmware),
                        capabilities: capabilities.map(printable).collect(),
                        link: self.link.clone(),
                        scopes: self.scopes.clone(),
                    },
                    key: KeySlot {
                        pairing: PairingId(record.pairing_id),
                        record: Secret::new(record.to_bytes().to_vec()),
                    },
                    code: self.code_id.as_ref().map(|id| id.as_str().to_owned()),
                }))
            }
            GatewayStep::Paired(_) => Next::Paired,
            GatewayStep::Failed { failure, refuse } => Next::Failed { failure, refuse },
            _ => Next::Wait,
        }
    }

    fn agreed(&self, pairing: PairingId) -> Agreed {
        Agreed {
            device: self.device.clone(),
            pairing,
            code: self.code_id.clone(),
            actor: self.actor.clone(),
            ceremony: self.ceremony.name(),
        }
    }
}

impl Agreed {
    /// A pairing of a run before this start, whose key was proven only now.
    pub(crate) fn found(device: DeviceId, pairing: PairingId, code: Option<CodeId>) -> Self {
        let ceremony = if code.is_some() { Ceremony::Issued } else { Ceremony::Label };
        Self { device, pairing, code, actor: Actor::Daemon, ceremony: ceremony.name() }
    }

    /// What a person may compare at both ends.
    pub(crate) fn fingerprint(&self) -> String {
        self.pairing.fingerprint()
    }
}

async fn send(link: &Link, message: Vec<u8>, report: &Report) -> Result<(), PairFailure> {
    link.send(message).await.map_err(|end| words::link(report, &end))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
