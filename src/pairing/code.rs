//! The life of a pairing code that the gateway makes: active -> claimed -> used, or expired, revoked,
//! exhausted. Plain functions over plain records; [`super::code_book`] keeps them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use super::code_id::{CodeId, NotACodeId};
use crate::audit::Actor;
use crate::ids::DeviceId;
use crate::token::scope::Scope;
use crate::token::{Limits, Stage};

/// Shortest and longest life of a code.
pub const TTL_RANGE: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(86_400);
/// Most codes alive at once: a person can use few, and each is a chance for a guesser.
pub const MOST_LIVE: usize = 32;
/// What ends a code that no sensor claimed within its idle time.
pub(super) const IDLE: &str = "no sensor claimed it within its idle time";
/// What voids every live code at a start.
pub(super) const RESTARTED: &str = "the gateway restarted";

/// What ends a code whose making or claim could not be written down.
pub(super) const UNWRITTEN: &str = "the audit log could not be written";

/// What is asked for a code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeRequest {
    /// What its maker calls it.
    pub label: Option<String>,
    /// Where the device will serve.
    pub stage: Stage,
    /// The sensor it is for, by its own id; without one the first to claim it.
    pub hardware_id: Option<String>,
    /// The name the device gets.
    pub device: Option<DeviceId>,
    /// What the device's tokens may do.
    pub scopes: Vec<Scope>,
    /// What the device's tokens are limited to.
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    pub limits: Limits,
    /// How long it lives, in [`TTL_RANGE`].
    #[serde(rename = "ttl_ms", with = "as_ms")]
    pub ttl: Duration,
    /// How long it waits for a sensor to claim it: a code that nobody took up is not left lying about. Its life only
    /// when absent.
    #[serde(rename = "idle_ms", default, skip_serializing_if = "Option::is_none", with = "as_ms::optional")]
    pub idle: Option<Duration>,
    /// Guesses it survives.
    pub max_attempts: u8,
}

/// Where a code stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CodeState {
    /// Nobody has tried it.
    Active,
    /// A sensor runs, or has run, a pairing with it.
    Claimed,
    /// It made a pairing.
    Used,
    /// Its time is over.
    Expired,
    /// Somebody ended it, or a restart did.
    Revoked,
    /// Its attempts are spent.
    Exhausted,
}

impl CodeState {
    /// The state in one word.
    #[must_use]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Claimed => "claimed",
            Self::Used => "used",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Exhausted => "exhausted",
        }
    }

    /// Whether it may still make a pairing.
    #[must_use]
    pub(crate) fn is_live(self) -> bool {
        matches!(self, Self::Active | Self::Claimed)
    }
}

/// How a code's life ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// Wall time in milliseconds since 1970.
    pub at_ms: i64,
    /// Who ended it.
    pub by: Actor,
    /// Why, in words.
    pub why: String,
}

/// A code without the code itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CodeRecord {
    /// Its name.
    pub id: CodeId,
    /// Where it stands.
    pub state: CodeState,
    /// What was asked for; its sensor is set by the first claim where it was open.
    #[serde(flatten)]
    pub request: CodeRequest,
    /// Who made it.
    pub creator: Actor,
    /// When, on the clock that its life counts on: milliseconds since the machine started, suspend included.
    #[serde(skip)]
    pub made_boot_ms: u64,
    /// When, for people: wall time in milliseconds since 1970.
    pub made_ms: i64,
    /// Attempts that were counted.
    pub attempts: u8,
    /// The last claim, in wall time.
    pub claimed_ms: Option<i64>,
    /// How it ended.
    pub ending: Option<Ending>,
}

/// Why a code cannot be used for this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Its life is over.
    Dead,
    /// It is for another sensor.
    OtherSensor,
    /// It was never claimed, so nothing can have been proven with it.
    NotClaimed,
    /// It is of another stage than this gateway.
    OtherStage,
}

impl CodeRecord {
    /// What is left of its life; nothing from its TTL on, or while unclaimed from its idle time on, to the millisecond.
    #[must_use]
    pub(crate) fn left(&self, boot: Duration) -> Duration {
        let age = boot.saturating_sub(Duration::from_millis(self.made_boot_ms));
        let idle = self.request.idle.filter(|_| self.state == CodeState::Active);
        idle.map_or(self.request.ttl, |idle| idle.min(self.request.ttl)).saturating_sub(age)
    }

    /// Ends a life whose time or attempts are over; true if it ended here.
    pub(super) fn age(&mut self, boot: Duration, wall_ms: i64) -> bool {
        if !self.state.is_live() || self.left(boot) > Duration::ZERO {
            return false;
        }
        let was_idle = self.state == CodeState::Active && self.request.idle.is_some_and(|idle| idle < self.request.ttl);
        let why = if was_idle { IDLE } else { "its time was over" };
        self.end(CodeState::Expired, wall_ms, Actor::Daemon, why);
        true
    }

    /// A sensor wants to run a pairing with it, at a gateway of this stage.
    pub(super) fn claim(&mut self, hardware_id: &str, stage: Stage, wall_ms: i64) -> Result<(), Refusal> {
        if !self.state.is_live() {
            return Err(Refusal::Dead);
        }
        if self.request.stage != stage {
            let why = format!("it is of the stage {}, this gateway of {stage}", self.request.stage);
            self.end(CodeState::Revoked, wall_ms, Actor::Daemon, &why);
            return Err(Refusal::Dead);
        }
        if self.attempts >= self.request.max_attempts {
            self.end(CodeState::Exhausted, wall_ms, Actor::Daemon, "its attempts were spent");
            return Err(Refusal::Dead);
        }
        match &self.request.hardware_id {
            Some(bound) if bound != hardware_id => return Err(Refusal::OtherSensor),
            Some(_) => {}
            None => self.request.hardware_id = Some(hardware_id.to_owned()),
        }
        self.state = CodeState::Claimed;
        self.claimed_ms = Some(wall_ms);
        Ok(())
    }

    /// A tag is about to be verified: the attempt counts before its outcome is known. Gives its number.
    pub(super) fn count_attempt(&mut self, wall_ms: i64) -> Result<u8, Refusal> {
        match self.state {
            CodeState::Claimed if self.attempts < self.request.max_attempts => {
                self.attempts = self.attempts.saturating_add(1);
                Ok(self.attempts)
            }
            CodeState::Claimed => {
                self.end(CodeState::Exhausted, wall_ms, Actor::Daemon, "its attempts were spent");
                Err(Refusal::Dead)
            }
            CodeState::Active => Err(Refusal::NotClaimed),
            _ => Err(Refusal::Dead),
        }
    }

    /// The counted attempt was wrong; gives how many are left.
    pub(super) fn attempt_failed(&mut self, wall_ms: i64) -> u8 {
        let left = self.request.max_attempts.saturating_sub(self.attempts);
        if left == 0 && self.state.is_live() {
            self.end(CodeState::Exhausted, wall_ms, Actor::Daemon, "its attempts were spent");
        }
        left
    }

    /// The sensor has proven the key that was agreed with it. That may come after its time was over, or after a
    /// restart; only a person's revocation stands against it.
    pub(super) fn used(&mut self, device: &DeviceId, stage: Stage, wall_ms: i64) -> Result<(), Refusal> {
        if self.request.stage != stage {
            return Err(Refusal::OtherStage);
        }
        match self.state {
            CodeState::Used => return Ok(()),
            CodeState::Revoked if self.is_revoked() => return Err(Refusal::Dead),
            _ if self.attempts == 0 => return Err(Refusal::NotClaimed),
            _ => {}
        }
        self.request.device = Some(device.clone());
        self.end(CodeState::Used, wall_ms, Actor::Device { id: device.clone() }, "it made a pairing");
        Ok(())
    }

    /// Somebody ends it; a dead one stays as it is.
    pub(super) fn revoke(&mut self, wall_ms: i64, by: Actor, why: &str) -> Result<(), Refusal> {
        if !self.state.is_live() {
            return Err(Refusal::Dead);
        }
        self.end(CodeState::Revoked, wall_ms, by, why);
        Ok(())
    }

    /// Somebody ends what may still come of it: a key that was agreed with it before it was over.
    pub(super) fn forbid(&mut self, wall_ms: i64, by: Actor, why: &str) -> Result<(), Refusal> {
        if self.state == CodeState::Used || self.is_revoked() {
            return Err(Refusal::Dead);
        }
        self.end(CodeState::Revoked, wall_ms, by, why);
        Ok(())
    }

    /// Somebody did not want it to be used; not: a restart voided it.
    fn is_revoked(&self) -> bool {
        let is_voided = self.ending.as_ref().is_some_and(|end| end.by == Actor::Daemon && end.why == RESTARTED);
        self.state == CodeState::Revoked && !is_voided
    }

    fn end(&mut self, state: CodeState, at_ms: i64, by: Actor, why: &str) {
        self.state = state;
        self.ending = Some(Ending { at_ms, by, why: why.chars().take(256).collect() });
    }
}

/// Which of the live codes a sensor may try: the one that is bound to it, else the one that is open to the first.
pub(super) fn choose<'a>(live: &'a mut [CodeRecord], hardware_id: &str) -> Option<&'a mut CodeRecord> {
    let bound = live.iter().position(|code| code.request.hardware_id.as_deref() == Some(hardware_id));
    let open = || live.iter().position(|code| code.request.hardware_id.is_none());
    let index = bound.or_else(open)?;
    live.get_mut(index)
}

/// A duration as whole milliseconds.
mod as_ms {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }

    /// The same for a duration that may be absent.
    pub(super) mod optional {
        use super::{Deserialize as _, Deserializer, Duration, Serializer};

        #[allow(clippy::ref_option, reason = "serde hands the field over so")]
        pub(in super::super) fn serialize<S: Serializer>(from: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
            match from {
                Some(duration) => super::serialize(duration, to),
                None => to.serialize_none(),
            }
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
            Ok(Option::<u64>::deserialize(from)?.map(Duration::from_millis))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code() -> CodeRecord {
        CodeRecord {
            id: CodeId::new(Duration::from_millis(1), [0; 10]),
            state: CodeState::Active,
            request: CodeRequest {
                label: None,
                stage: Stage::Prod,
                hardware_id: Some("th-1".to_owned()),
                device: None,
                scopes: vec![],
                limits: Limits::default(),
                ttl: Duration::from_secs(60),
                idle: None,
                max_attempts: 3,
            },
            creator: Actor::Daemon,
            made_boot_ms: 1000,
            made_ms: 0,
            attempts: 0,
            claimed_ms: None,
            ending: None,
        }
    }

    fn pump() -> DeviceId {
        "pump-3".parse().unwrap()
    }

    #[test]
    fn a_code_lives_to_the_last_millisecond_before_its_ttl() {
        let mut code = code();
        assert!(!code.age(Duration::from_millis(60_999), 0));
        assert_eq!(code.left(Duration::from_millis(60_999)), Duration::from_millis(1));
        assert!(code.age(Duration::from_secs(61), 0));
        assert_eq!(code.state, CodeState::Expired);
    }

    #[test]
    fn a_code_that_nobody_claims_dies_at_its_idle_time_and_a_claimed_one_lives_on() {
        let idle =
            || CodeRecord { request: CodeRequest { idle: Some(Duration::from_secs(20)), ..code().request }, ..code() };
        let (mut lonely, mut claimed) = (idle(), idle());
        assert!(!lonely.age(Duration::from_millis(20_999), 0));
        claimed.claim("th-1", Stage::Prod, 0).unwrap();
        assert!(lonely.age(Duration::from_secs(21), 0));
        assert_eq!(lonely.ending.unwrap().why, IDLE);
        assert!(!claimed.age(Duration::from_millis(60_999), 0));
        assert!(claimed.age(Duration::from_secs(61), 0));
        assert_eq!(claimed.ending.unwrap().why, "its time was over");
    }

    #[test]
    fn a_code_of_another_stage_is_ended_by_its_first_claim_and_proves_nothing() {
        let (mut code, mut proven) = (code(), code());
        assert_eq!(code.claim("th-1", Stage::Dev, 0), Err(Refusal::Dead));
        assert_eq!((code.state, code.ending.unwrap().by), (CodeState::Revoked, Actor::Daemon));
        proven.claim("th-1", Stage::Prod, 0).unwrap();
        proven.count_attempt(0).unwrap();
        assert_eq!(proven.used(&pump(), Stage::Dev, 0), Err(Refusal::OtherStage));
    }

    #[test]
    fn a_code_survives_exactly_its_attempts() {
        let mut code = code();
        assert_eq!(code.count_attempt(0), Err(Refusal::NotClaimed));
        for number in 1..=3 {
            code.claim("th-1", Stage::Prod, 0).unwrap();
            assert_eq!(code.count_attempt(0), Ok(number));
        }
        assert_eq!(code.count_attempt(0), Err(Refusal::Dead));
        assert_eq!(code.state, CodeState::Exhausted);
        assert_eq!(code.claim("th-1", Stage::Prod, 0), Err(Refusal::Dead));
    }

    #[test]
    fn the_last_attempt_may_still_succeed() {
        let mut code = code();
        code.claim("th-1", Stage::Prod, 0).unwrap();
        (0..3).for_each(|_| assert!(code.count_attempt(0).is_ok()));
        assert_eq!(code.used(&pump(), Stage::Prod, 0), Ok(()));
        assert_eq!(code.state, CodeState::Used);
    }

    #[test]
    fn a_code_is_for_one_sensor() {
        let mut code = code();
        assert_eq!(code.claim("th-2", Stage::Prod, 0), Err(Refusal::OtherSensor));
        code.request.hardware_id = None;
        code.claim("th-2", Stage::Prod, 0).unwrap();
        assert_eq!(code.claim("th-1", Stage::Prod, 0), Err(Refusal::OtherSensor));
    }

    #[test]
    fn a_key_may_be_proven_after_expiry_and_restart_but_not_after_a_revocation() {
        let counted = || {
            let mut code = code();
            code.claim("th-1", Stage::Prod, 0).unwrap();
            code.count_attempt(0).unwrap();
            code
        };
        let (mut late, mut restarted, mut revoked) = (counted(), counted(), counted());
        assert!(late.age(Duration::from_secs(100), 0));
        restarted.revoke(0, Actor::Daemon, RESTARTED).unwrap();
        revoked.revoke(0, Actor::Uid { uid: 0, name: None }, RESTARTED).unwrap();
        assert_eq!(late.used(&pump(), Stage::Prod, 0), Ok(()));
        assert_eq!(restarted.used(&pump(), Stage::Prod, 0), Ok(()));
        assert_eq!(revoked.used(&pump(), Stage::Prod, 0), Err(Refusal::Dead));
        assert_eq!(code().used(&pump(), Stage::Prod, 0), Err(Refusal::NotClaimed));
    }

    #[test]
    fn a_dead_code_stays_as_it_died() {
        let mut code = code();
        code.revoke(5, Actor::Daemon, "lost").unwrap();
        assert_eq!(code.revoke(6, Actor::Daemon, "again"), Err(Refusal::Dead));
        assert!(!code.age(Duration::from_secs(100), 7));
        assert_eq!(code.claim("th-1", Stage::Prod, 0), Err(Refusal::Dead));
        assert_eq!(code.count_attempt(0), Err(Refusal::Dead));
        assert_eq!(code.ending.map(|end| (end.at_ms, end.why)), Some((5, "lost".to_owned())));
    }

    #[test]
    fn the_bound_code_goes_before_the_open_one() {
        let mut open = code();
        open.request.hardware_id = None;
        let mut live = [open, code()];
        assert_eq!(choose(&mut live, "th-1").unwrap().request.hardware_id.as_deref(), Some("th-1"));
        assert_eq!(choose(&mut live, "th-9").unwrap().request.hardware_id, None);
        assert!(choose(&mut live[1..], "th-9").is_none());
    }
}
