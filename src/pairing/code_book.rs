//! Keeps the codes: each step of a code's life is on the disk and in the audit log before the call returns.

use std::time::Duration;

use clawgate_protocol::Random;
use clawgate_protocol::code::Code;
use serde_json::json;

use super::code::{
    CodeId, CodeRecord, CodeRequest, CodeState, MOST_LIVE, RESTARTED, Refusal, TTL_RANGE, UNWRITTEN, choose,
};
use super::code_explain::{Explanation, explain};
use crate::audit::{Action, Actor, Audit, AuditError, Event, Outcome};
use crate::clock::Clock;
use crate::ids::{DeviceId, PairingId};
use crate::store::{Store, StoreError};
use crate::token::Stage;

/// Most guesses that a code can be given.
const MOST_ATTEMPTS: u8 = 10;

/// Why a code cannot be made or used. The text is for the operator; a peer learns nothing of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodeError {
    /// A life that no code may have.
    #[error("a code lives 1 s to 1 day, not {}: choose --ttl in that range", human(*.0))]
    Ttl(Duration),
    /// An idle time that no code may have.
    #[error("a code waits 1 s to its whole life ({}) for its sensor, not {}: choose --idle in that range", human(*.ttl), human(*.idle))]
    Idle {
        /// The idle time that was asked for.
        idle: Duration,
        /// Its life.
        ttl: Duration,
    },
    /// The code is of another stage than this gateway.
    #[error("the code is of the stage {stage}, this gateway of {own}: a device is paired at a gateway of its stage")]
    OtherStage {
        /// The code's.
        stage: Stage,
        /// The gateway's.
        own: Stage,
    },
    /// A number of attempts that no code may have.
    #[error("a code survives 1 to {MOST_ATTEMPTS} guesses, not {0}")]
    Attempts(u8),
    /// The sensor that it is for has another name.
    #[error(
        "the sensor {sensor} is known as {known}, not {wish}: ask for that name, or: clawgate devices rename {known} {wish}"
    )]
    OtherName {
        /// The sensor.
        sensor: String,
        /// Its name here.
        known: DeviceId,
        /// The name that was asked for.
        wish: DeviceId,
    },
    /// The name is another sensor's.
    #[error("{wish} is the name of another sensor ({sensor}): choose another")]
    NameTaken {
        /// The name.
        wish: DeviceId,
        /// Whose it is.
        sensor: String,
    },
    /// Too many codes live.
    #[error("{MOST_LIVE} codes are live already: wait, or end one: clawgate code revoke ID")]
    TooMany,
    /// No such code.
    #[error("no code {0}: it may be older than what is kept; clawgate code ls shows the kept ones")]
    Unknown(CodeId),
    /// No code may be tried by that sensor.
    #[error("no live code for the sensor {0}: make one: clawgate code new")]
    NoneLive(String),
    /// The code cannot be used any more, or not for this.
    #[error("{0}")]
    NotUsable(Box<Explanation>),
    /// The code was not claimed before.
    #[error("the code {0} was not claimed by a sensor")]
    NotClaimed(CodeId),
    /// The disk refused; nothing was done.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The audit log refused; nothing may go on.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The operating system gave no random bytes.
    #[error("no random bytes from the operating system: {0}")]
    Random(getrandom::Error),
    /// The sealed code is not a code.
    #[error("the code {0} was altered at rest: make another: clawgate code new")]
    Altered(CodeId),
}

/// A code that a sensor may try now.
#[derive(Debug)]
pub struct Claim {
    /// The record.
    pub record: CodeRecord,
    /// The code.
    pub code: Code,
}

/// The codes of this gateway; clones share them. Calls are synchronous and reach the disk.
#[derive(Debug, Clone)]
pub struct Codes {
    store: Store,
    audit: Audit,
    clock: Clock,
    stage: Stage,
}

impl Codes {
    /// Takes the codes over, at a gateway of this stage; whatever lived before this start is void.
    ///
    /// # Errors
    /// [`CodeError::Store`], [`CodeError::Audit`].
    pub fn start(store: Store, audit: Audit, clock: Clock, stage: Stage) -> Result<Self, CodeError> {
        let codes = Self { store, audit, clock, stage };
        let wall_ms = codes.clock.wall_ms();
        let voided = codes.store.edit_live_codes(|live| {
            live.iter_mut()
                .filter_map(|code| code.revoke(wall_ms, Actor::Daemon, RESTARTED).is_ok().then(|| code.id.clone()))
                .collect::<Vec<_>>()
        })?;
        for id in voided {
            // They are void already: what stands in no line counts as missing, and nobody must wait for it.
            if let Err(error) = codes.note(Actor::Daemon, Action::CodeVoid, &id, Outcome::Ok, Some(RESTARTED)) {
                tracing::error!(%error, code = %id, "an audit event is missing in the log");
            }
        }
        Ok(codes)
    }

    /// Makes a code; this is the only time it is shown. A live code for the same sensor (or, of those that are
    /// for the first to claim, the other one) is replaced: two would leave open which one was entered.
    ///
    /// # Errors
    /// [`CodeError::Ttl`], [`CodeError::Idle`], [`CodeError::Attempts`], [`CodeError::OtherStage`],
    /// [`CodeError::OtherName`], [`CodeError::NameTaken`], [`CodeError::TooMany`], and as [`Self::start`].
    pub fn new_code(&self, request: CodeRequest, creator: Actor) -> Result<(CodeRecord, Code), CodeError> {
        if !TTL_RANGE.contains(&request.ttl) {
            return Err(CodeError::Ttl(request.ttl));
        }
        let waits = *TTL_RANGE.start()..=request.ttl;
        if let Some(idle) = request.idle.filter(|idle| !waits.contains(idle)) {
            return Err(CodeError::Idle { idle, ttl: request.ttl });
        }
        if request.stage != self.stage {
            return Err(CodeError::OtherStage { stage: request.stage, own: self.stage });
        }
        if !(1..=MOST_ATTEMPTS).contains(&request.max_attempts) {
            return Err(CodeError::Attempts(request.max_attempts));
        }
        self.check_name(&request)?;
        let mut random = Os(Ok(()));
        let mut tail = [0; 10];
        random.fill(&mut tail);
        let code = Code::random(&mut random);
        random.0.map_err(CodeError::Random)?;
        let record = CodeRecord {
            id: CodeId::new(self.clock.wall(), tail),
            state: CodeState::Active,
            request,
            creator: creator.clone(),
            made_boot_ms: self.clock.boot_ms(),
            made_ms: self.clock.wall_ms(),
            attempts: 0,
            claimed_ms: None,
            ending: None,
        };
        self.expire()?;
        let why = format!("replaced by {}", record.id);
        let kept = self.store.insert_code(&record, &code.to_string(), |live| {
            let same = |code: &&mut CodeRecord| code.request.hardware_id == record.request.hardware_id;
            let replaced = live
                .iter_mut()
                .find(same)
                .and_then(|code| code.revoke(record.made_ms, creator.clone(), &why).is_ok().then(|| code.id.clone()));
            let left = live.iter().filter(|code| code.state.is_live()).count();
            if left < MOST_LIVE { Ok(replaced) } else { Err(CodeError::TooMany) }
        });
        let replaced = kept??;
        let details = json!({
            "label": record.request.label, "stage": record.request.stage, "sensor": record.request.hardware_id,
            "device": record.request.device, "scopes": record.request.scopes, "ttl_ms": record.request.ttl.as_millis(),
            "idle_ms": record.request.idle.map(|idle| idle.as_millis()), "limits": record.request.limits,
        });
        if let Some(id) = replaced {
            let event = Event::done(creator.clone(), Action::CodeRevoke, id.as_str());
            self.record_or_void(Event { reason: Some(why), ..event }, &record.id)?;
        }
        let event = Event::done(creator, Action::CodeNew, record.id.as_str()).with(details);
        // Nobody was shown it.
        self.record_or_void(event, &record.id)?;
        Ok((record, code))
    }

    /// A name that cannot be given is said now, not when the code was entered.
    fn check_name(&self, request: &CodeRequest) -> Result<(), CodeError> {
        let (Some(sensor), Some(wish)) = (&request.hardware_id, &request.device) else { return Ok(()) };
        let (sensor, wish) = (sensor.clone(), wish.clone());
        match (self.store.device_by_hardware(&sensor)?, self.store.device(&wish)?) {
            (Some(known), _) if known.id != wish => Err(CodeError::OtherName { sensor, known: known.id, wish }),
            (None, Some(other)) => Err(CodeError::NameTaken { wish, sensor: other.hardware_id }),
            _ => Ok(()),
        }
    }

    /// The code that a sensor may try now; the first claim of an open code binds it.
    ///
    /// # Errors
    /// [`CodeError::NoneLive`] when there is none, [`CodeError::NotUsable`] when there was one, and as
    /// [`Self::start`].
    pub fn claim(&self, hardware_id: &str) -> Result<Claim, CodeError> {
        self.expire()?;
        let (wall_ms, stage) = (self.clock.wall_ms(), self.stage);
        let claimed = self.store.edit_live_codes(|live| {
            choose(live, hardware_id).map(|code| {
                let is_first = code.state == CodeState::Active;
                let refusal = code.claim(hardware_id, stage, wall_ms).err();
                (code.clone(), is_first, refusal)
            })
        })?;
        let (record, is_first, refusal) = claimed.ok_or_else(|| CodeError::NoneLive(hardware_id.to_owned()))?;
        if refusal.is_some() {
            self.note_ending(&record)?;
            return Err(self.not_usable(&record));
        }
        if is_first {
            let event = Event::done(Actor::Daemon, Action::CodeClaim, record.id.as_str());
            self.record_or_void(event.with(json!({ "sensor": hardware_id })), &record.id)?;
        }
        let secret = self.store.code_secret(&record.id)?;
        let code = secret.and_then(|text| Code::parse(std::str::from_utf8(text.expose()).ok()?).ok());
        let code = code.ok_or_else(|| CodeError::Altered(record.id.clone()))?;
        Ok(Claim { record, code })
    }

    /// Counts an attempt, on the disk, BEFORE the sensor's tag is verified; gives its number. Whoever gets an
    /// error must not verify.
    ///
    /// # Errors
    /// [`CodeError::NotUsable`] once time or attempts are over, [`CodeError::NotClaimed`],
    /// [`CodeError::Unknown`], and as [`Self::start`].
    pub fn count_attempt(&self, id: &CodeId) -> Result<u8, CodeError> {
        self.expire()?;
        let wall_ms = self.clock.wall_ms();
        let (record, (was, counted)) = self.edit(id, |code| (code.state, code.count_attempt(wall_ms)))?;
        if was.is_live() {
            self.note_ending(&record)?;
        }
        match counted {
            Ok(number) => {
                let event = Event::done(Actor::Daemon, Action::CodeAttempt, id.as_str());
                let of = record.request.max_attempts;
                self.audit
                    .record(event.with(json!({ "sensor": record.request.hardware_id, "attempt": number, "of": of })))?;
                Ok(number)
            }
            Err(refusal) => self.refuse(&record, refusal),
        }
    }

    /// The counted attempt was wrong; gives how many are left.
    ///
    /// # Errors
    /// [`CodeError::Unknown`], and as [`Self::start`].
    pub(crate) fn attempt_failed(&self, id: &CodeId) -> Result<u8, CodeError> {
        let wall_ms = self.clock.wall_ms();
        let (record, left) = self.edit(id, |code| code.attempt_failed(wall_ms))?;
        self.note(Actor::Daemon, Action::CodeAttemptFailed, id, Outcome::Failed, Some("the sensor has another code"))?;
        if left == 0 {
            self.note_ending(&record)?;
        }
        Ok(left)
    }

    /// The sensor has proven the key that was agreed with the code. Told twice, it stays as it is.
    ///
    /// # Errors
    /// [`CodeError::NotUsable`] when somebody revoked it meanwhile: drop the pending key;
    /// [`CodeError::OtherStage`], [`CodeError::NotClaimed`], [`CodeError::Unknown`], and as [`Self::start`].
    pub(crate) fn used(&self, id: &CodeId, device: &DeviceId) -> Result<(), CodeError> {
        let (wall_ms, stage) = (self.clock.wall_ms(), self.stage);
        let (record, (was, used)) = self.edit(id, |code| (code.state, code.used(device, stage, wall_ms)))?;
        match used {
            Ok(()) if was == CodeState::Used => Ok(()),
            Ok(()) => {
                let event = Event::done(Actor::Device { id: device.clone() }, Action::CodeUsed, id.as_str());
                Ok(self.audit.record(event.with(json!({ "sensor": record.request.hardware_id })))?)
            }
            Err(refusal) => self.refuse(&record, refusal),
        }
    }

    /// A session has proven a key that was pending: its code is used, and the key is current. Where the code stands
    /// against it, the key is given up.
    ///
    /// # Errors
    /// As [`Self::used`]; after [`CodeError::Store`] and [`CodeError::Audit`] the key waits on, and may be proven again.
    pub(crate) fn proven(&self, device: &DeviceId, pairing: PairingId, code: Option<&CodeId>) -> Result<(), CodeError> {
        match code.map_or(Ok(()), |id| self.used(id, device)) {
            Ok(()) => Ok(self.store.confirm_pending(device, pairing)?),
            Err(error @ (CodeError::Store(_) | CodeError::Audit(_))) => Err(error),
            Err(error) => {
                self.give_up(device, pairing)?;
                Err(error)
            }
        }
    }

    /// Gives a pending key up; who revoked its code may have done so before.
    ///
    /// # Errors
    /// [`StoreError`] where the disk refuses.
    pub(crate) fn give_up(&self, device: &DeviceId, pairing: PairingId) -> Result<(), StoreError> {
        match self.store.drop_pending(device, pairing) {
            Err(StoreError::NotPending { .. }) => Ok(()),
            other => other,
        }
    }

    /// Ends a code before its time, and with it a key that was agreed with it and that its sensor has not proven: also
    /// where the code itself is over already.
    ///
    /// # Errors
    /// [`CodeError::NotUsable`] when it is dead already, [`CodeError::Unknown`], and as [`Self::start`].
    pub fn revoke(&self, id: &CodeId, who: Actor, why: &str) -> Result<CodeRecord, CodeError> {
        self.expire()?;
        let wall_ms = self.clock.wall_ms();
        let (mut record, mut revoked) = self.edit(id, |code| code.revoke(wall_ms, who.clone(), why))?;
        if record.state != CodeState::Used && self.store.drop_pending_of(id)? && revoked.is_err() {
            (record, revoked) = self.edit(id, |code| code.forbid(wall_ms, who.clone(), why))?;
        }
        if revoked.is_err() {
            self.note(who, Action::CodeRevoke, id, Outcome::Refused, Some(record.state.as_str()))?;
            return Err(self.not_usable(&record));
        }
        self.note(who, Action::CodeRevoke, id, Outcome::Ok, Some(why))?;
        Ok(record)
    }

    /// Ends the codes whose time is over; gives how many are live. To be called now and then, so that a code
    /// does not stand in the list, nor sealed on the disk, after its time.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub(crate) fn expire(&self) -> Result<usize, CodeError> {
        let (boot, wall_ms) = (self.clock.boot(), self.clock.wall_ms());
        let (expired, live) = self.store.edit_live_codes(|live| {
            let expired: Vec<CodeRecord> =
                live.iter_mut().filter_map(|code| code.age(boot, wall_ms).then(|| code.clone())).collect();
            let left = live.len() - expired.len();
            (expired, left)
        })?;
        // All of them: what stands in no line is counted as missing in the log.
        let told: Vec<_> = expired.iter().map(|record| self.note_ending(record)).collect();
        told.into_iter().collect::<Result<(), _>>()?;
        Ok(live)
    }

    /// All codes that are kept, the newest first.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn list(&self) -> Result<Vec<CodeRecord>, CodeError> {
        self.expire()?;
        Ok(self.store.codes()?)
    }

    /// Says where a code stands, why, and what to do now.
    ///
    /// # Errors
    /// [`CodeError::Unknown`], and as [`Self::start`].
    pub(crate) fn explain(&self, id: &CodeId) -> Result<(CodeRecord, Explanation), CodeError> {
        self.expire()?;
        let (record, ()) = self.edit(id, |_| ())?;
        let told = self.explanation(&record);
        Ok((record, told))
    }

    /// Changes one code on the disk; gives it as it stands then.
    fn edit<T>(&self, id: &CodeId, edit: impl FnOnce(&mut CodeRecord) -> T) -> Result<(CodeRecord, T), CodeError> {
        let edited = self.store.edit_code(id, |code| {
            let result = edit(code);
            (code.clone(), result)
        })?;
        edited.ok_or_else(|| CodeError::Unknown(id.clone()))
    }

    fn refuse<T>(&self, record: &CodeRecord, refusal: Refusal) -> Result<T, CodeError> {
        match refusal {
            Refusal::NotClaimed => Err(CodeError::NotClaimed(record.id.clone())),
            Refusal::OtherStage => Err(CodeError::OtherStage { stage: record.request.stage, own: self.stage }),
            Refusal::Dead | Refusal::OtherSensor => Err(self.not_usable(record)),
        }
    }

    fn not_usable(&self, record: &CodeRecord) -> CodeError {
        CodeError::NotUsable(Box::new(self.explanation(record)))
    }

    fn explanation(&self, record: &CodeRecord) -> Explanation {
        explain(record, self.clock.boot(), self.clock.wall_ms(), &jiff::tz::TimeZone::system())
    }

    /// Audits that a life ended by itself.
    fn note_ending(&self, record: &CodeRecord) -> Result<(), CodeError> {
        let action = match record.state {
            CodeState::Expired => Action::CodeExpire,
            CodeState::Exhausted => Action::CodeExhaust,
            CodeState::Revoked if record.ending.as_ref().is_some_and(|end| end.by == Actor::Daemon) => Action::CodeVoid,
            _ => return Ok(()),
        };
        self.note(Actor::Daemon, action, &record.id, Outcome::Ok, record.ending.as_ref().map(|end| end.why.as_str()))
    }

    /// What stands in no line is not to be used: a code whose step cannot be written is void.
    fn record_or_void(&self, event: Event, id: &CodeId) -> Result<(), CodeError> {
        let Err(error) = self.audit.record(event) else { return Ok(()) };
        let wall_ms = self.clock.wall_ms();
        let _ = self.edit(id, |code| code.revoke(wall_ms, Actor::Daemon, UNWRITTEN));
        Err(error.into())
    }

    fn note(
        &self,
        actor: Actor,
        action: Action,
        id: &CodeId,
        outcome: Outcome,
        why: Option<&str>,
    ) -> Result<(), CodeError> {
        let event = Event { reason: why.map(str::to_owned), ..Event::done(actor, action, id.as_str()).ended(outcome) };
        Ok(self.audit.record(event)?)
    }
}

/// The operating system's random source; remembers a failure, which its user must look at.
struct Os(Result<(), getrandom::Error>);

impl Random for Os {
    fn fill(&mut self, bytes: &mut [u8]) {
        if let Err(error) = getrandom::fill(bytes) {
            self.0 = Err(error);
        }
    }
}

fn human(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f32())
}

#[cfg(test)]
mod tests;
