//! Alarms: what a person should look at although nothing has failed yet. Each is a line in the log, a count, a line in
//! the audit log, and a message to whoever subscribed (the gateway's own MQTT connection, `clawgate status`).
//!
//! Who raises one says what happened and what to do; here is decided how often that is said.

mod attempts;
pub(crate) mod rate;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::broadcast;

use crate::audit::{Action, Actor, Audit, Event};
use crate::clock::Clock;
use crate::metrics::{Kind, Metrics};
use attempts::Attempts;

/// The same alarm is not said again within this time; it is counted.
const SILENCE: Duration = Duration::from_secs(600);
/// An alarm that was not raised again for so long is no longer live.
const LIVE: Duration = Duration::from_secs(3600);
/// Alarms that are kept apart; the one that was raised longest ago goes first.
const MOST: usize = 256;
/// Alarms that wait for a slow subscriber; it loses the oldest, and learns how many.
const QUEUE: usize = 64;
/// Longest subject, and longest text, in characters.
const MAX_SUBJECT: usize = 64;
const MAX_WORDS: usize = 512;

/// What an alarm is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AlarmKind {
    /// More failed pairing attempts than the operator allows.
    FailedAttempts,
    /// A token was used from an address that it does not allow.
    OffAllowList,
    /// A device sends far more than it used to, or more than its token allows.
    RateSpike,
    /// A certificate, a key or a refresh token ends soon.
    Expiry,
    /// A device is paused until an operator acts.
    Quarantine,
    /// The audit log cannot be trusted or written.
    Audit,
    /// A signed command was refused.
    Command,
    /// What was revoked is not on the disk, or not where the broker reads it.
    DenyList,
}

impl AlarmKind {
    /// As metrics, audit and MQTT name it.
    #[must_use]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::FailedAttempts => "failed_attempts",
            Self::OffAllowList => "off_allow_list",
            Self::RateSpike => "rate_spike",
            Self::Expiry => "expiry",
            Self::Quarantine => "quarantine",
            Self::Audit => "audit",
            Self::Command => "command",
            Self::DenyList => "deny_list",
        }
    }
}

/// One alarm. No field may hold a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// What it is about.
    pub kind: AlarmKind,
    /// Whom or what it concerns: a device, a sensor, a key.
    pub subject: String,
    /// What happened, in words.
    pub words: String,
    /// What a person should do.
    pub next_step: String,
}

/// An alarm as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveAlarm {
    /// The alarm as it was raised last.
    pub alarm: Alarm,
    /// First raised, wall time in milliseconds since 1970.
    pub since_ms: i64,
    /// Last raised.
    pub last_ms: i64,
    /// Raised so often, said or not.
    pub count: u64,
}

/// From when on something is an alarm; a reload may change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AlarmPolicy {
    /// So many wrong codes within [`AlarmPolicy::window`].
    pub failed_attempts: u16,
    /// The sliding time in which wrong codes are counted.
    pub window: Duration,
    /// So many times a device's own baseline of readings a second.
    pub rate_factor: u16,
    /// How long a device's baseline is learnt before it is judged by it.
    pub rate_learning: Duration,
}

impl Default for AlarmPolicy {
    fn default() -> Self {
        let rate_learning = Duration::from_secs(600);
        Self { failed_attempts: 5, window: Duration::from_secs(600), rate_factor: 10, rate_learning }
    }
}

/// Takes alarms from every part and tells them on. Cheap to clone.
#[derive(Clone)]
pub struct Alarms(Arc<Inner>);

struct Inner {
    /// None in tests of parts that raise alarms without a disk.
    audit: Option<Audit>,
    metrics: Metrics,
    clock: Clock,
    subscribers: broadcast::Sender<Alarm>,
    live: Mutex<HashMap<(AlarmKind, String), State>>,
    policy: ArcSwap<AlarmPolicy>,
    attempts: Mutex<Attempts>,
}

struct State {
    live: LiveAlarm,
    /// Boot times.
    said: Duration,
    last: Duration,
    unsaid: u64,
}

impl Alarms {
    /// Alarms that are audited in `audit` and counted in `metrics`.
    #[must_use]
    pub fn new(audit: Audit, metrics: Metrics, clock: Clock) -> Self {
        Self::with(Some(audit), metrics, clock)
    }

    /// Alarms that only their subscribers and the log hear of.
    #[cfg(test)]
    pub(crate) fn unaudited(clock: Clock) -> Self {
        Self::with(None, Metrics::new(), clock)
    }

    fn with(audit: Option<Audit>, metrics: Metrics, clock: Clock) -> Self {
        let (subscribers, _) = broadcast::channel(QUEUE);
        metrics.limit("alarms_live", MOST);
        let policy = ArcSwap::from_pointee(AlarmPolicy::default());
        let (live, attempts) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Inner { audit, metrics, clock, subscribers, live, policy, attempts }))
    }

    /// From when on something is an alarm now.
    #[must_use]
    pub(crate) fn policy(&self) -> AlarmPolicy {
        **self.0.policy.load()
    }

    /// From now on.
    pub(crate) fn set_policy(&self, policy: AlarmPolicy) {
        self.0.policy.store(Arc::new(policy));
    }

    /// A sensor that calls itself so had another code than was asked of it. Too many of those, by whatever names, are an
    /// alarm.
    pub(crate) fn wrong_code(&self, sensor: &str) {
        let AlarmPolicy { failed_attempts, window, .. } = self.policy();
        let count = {
            let mut attempts = self.0.attempts.lock().unwrap_or_else(PoisonError::into_inner);
            attempts.note(self.0.clock.boot(), window)
        };
        if count < usize::from(failed_attempts) {
            return;
        }
        let minutes = window.as_secs().div_ceil(60);
        self.raise(Alarm {
            kind: AlarmKind::FailedAttempts,
            subject: "pairing".to_owned(),
            words: format!("{count} wrong codes within {minutes} min, the last one at the sensor {sensor}"),
            next_step:
                "If nobody mistypes, somebody guesses: clawgate audit tail; live codes: clawgate code ls, and end \
                        them: clawgate code revoke ID."
                    .to_owned(),
        });
    }

    /// Raises an alarm. Said again at most every ten minutes for the same kind and subject; never waits.
    pub(crate) fn raise(&self, alarm: Alarm) {
        let Alarm { kind, subject, words, next_step } = alarm;
        let (subject, words) = (capped(subject, MAX_SUBJECT), capped(words, MAX_WORDS));
        let alarm = Alarm { kind, subject, words, next_step: capped(next_step, MAX_WORDS) };
        if let Some(unsaid) = self.note(&alarm) {
            self.say(alarm, unsaid);
        }
    }

    /// What it was about is over.
    pub(crate) fn clear(&self, kind: AlarmKind, subject: &str) {
        self.live_map().remove(&(kind, capped(subject.to_owned(), MAX_SUBJECT)));
    }

    /// The alarms that stand, the latest first.
    #[must_use]
    pub(crate) fn live(&self) -> Vec<LiveAlarm> {
        let now = self.0.clock.boot();
        let mut live = self.live_map();
        live.retain(|_, state| now.saturating_sub(state.last) < LIVE);
        let mut all: Vec<_> = live.values().map(|state| (state.last, state.live.clone())).collect();
        all.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.alarm.subject.cmp(&b.1.alarm.subject)));
        all.into_iter().map(|(_, alarm)| alarm).collect()
    }

    /// Every alarm that is said from now on.
    #[must_use]
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Alarm> {
        self.0.subscribers.subscribe()
    }

    /// Keeps the alarm; `Some` where it is to be said, with how often it was raised unsaid since the last time.
    fn note(&self, alarm: &Alarm) -> Option<u64> {
        let now = self.0.clock.boot();
        let wall_ms = self.0.clock.wall_ms();
        let mut live = self.live_map();
        let key = (alarm.kind, alarm.subject.clone());
        if let Some(state) = live.get_mut(&key).filter(|state| now.saturating_sub(state.last) < LIVE) {
            state.last = now;
            state.live.count += 1;
            state.live.last_ms = wall_ms;
            state.live.alarm.clone_from(alarm);
            if now.saturating_sub(state.said) < SILENCE {
                state.unsaid += 1;
                return None;
            }
            state.said = now;
            return Some(std::mem::take(&mut state.unsaid));
        }
        if live.len() >= MOST && !live.contains_key(&key) {
            let oldest = live.iter().min_by_key(|(_, state)| state.last).map(|(key, _)| key.clone());
            oldest.map(|key| live.remove(&key));
        }
        let first = LiveAlarm { alarm: alarm.clone(), since_ms: wall_ms, last_ms: wall_ms, count: 1 };
        live.insert(key, State { live: first, said: now, last: now, unsaid: 0 });
        Some(0)
    }

    fn say(&self, alarm: Alarm, unsaid: u64) {
        let kind = alarm.kind.as_str();
        tracing::warn!(
            kind,
            subject = %alarm.subject.escape_default(),
            unsaid,
            words = %alarm.words.escape_default(),
            next_step = %alarm.next_step.escape_default(),
            "alarm"
        );
        self.0.metrics.alarms.get_or_create(&Kind { kind }).inc();
        if let Some(audit) = self.0.audit.clone() {
            let details = json!({ "kind": kind, "next_step": alarm.next_step, "unsaid_before": unsaid });
            let event =
                Event::done(Actor::Daemon, Action::AlarmRaise, &alarm.subject).because(&alarm.words).with(details);
            off_the_async_threads(move || {
                if let Err(error) = audit.record(event) {
                    tracing::error!(%error, "an alarm is missing in the audit log");
                }
            });
        }
        // Nobody listening is no failure.
        let _ = self.0.subscribers.send(alarm);
    }

    fn live_map(&self) -> MutexGuard<'_, HashMap<(AlarmKind, String), State>> {
        self.0.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The audit log is fsynced.
fn off_the_async_threads(work: impl FnOnce() + Send + 'static) {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(work)),
        Err(_) => work(),
    }
}

fn capped(mut text: String, most: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(most) {
        text.truncate(end);
    }
    text
}

impl std::fmt::Debug for Alarms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Alarms({} live)", self.live_map().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alarms() -> (Alarms, Clock) {
        let clock = Clock::manual(Duration::from_secs(1_700_000_000));
        (Alarms::unaudited(clock.clone()), clock)
    }

    fn spike(subject: &str) -> Alarm {
        Alarm {
            kind: AlarmKind::RateSpike,
            subject: subject.to_owned(),
            words: "sends 90 readings a second; it used to send 2".to_owned(),
            next_step: "Look at the sensor.".to_owned(),
        }
    }

    #[test]
    fn the_same_alarm_is_said_once_in_ten_minutes_and_counted() {
        let (alarms, clock) = alarms();
        let mut heard = alarms.subscribe();
        for _ in 0..700 {
            alarms.raise(spike("pump-3"));
            clock.advance(Duration::from_secs(1));
        }
        assert_eq!(heard.try_recv().unwrap(), spike("pump-3"));
        assert_eq!(heard.try_recv().unwrap(), spike("pump-3"), "after ten minutes it is said again");
        assert!(heard.try_recv().is_err());
        assert_eq!(alarms.live()[0].count, 700);
        let said = alarms.0.metrics.alarms.get_or_create(&Kind { kind: "rate_spike" }).get();
        assert_eq!(said, 2);
    }

    #[test]
    fn another_subject_or_kind_is_another_alarm() {
        let (alarms, _) = alarms();
        let mut heard = alarms.subscribe();
        alarms.raise(spike("pump-3"));
        alarms.raise(spike("pump-4"));
        alarms.raise(Alarm { kind: AlarmKind::Expiry, ..spike("pump-3") });
        assert_eq!((0..3).map(|_| heard.try_recv().is_ok()).collect::<Vec<_>>(), [true; 3]);
    }

    #[test]
    fn an_alarm_that_is_over_or_old_is_not_live_and_comes_back_at_once() {
        let (alarms, clock) = alarms();
        let mut heard = alarms.subscribe();
        alarms.raise(spike("pump-3"));
        alarms.clear(AlarmKind::RateSpike, "pump-3");
        assert!(alarms.live().is_empty());
        alarms.raise(spike("pump-3"));
        assert_eq!((heard.try_recv().is_ok(), heard.try_recv().is_ok()), (true, true));
        clock.advance(LIVE);
        assert!(alarms.live().is_empty());
    }

    #[test]
    fn many_subjects_take_no_more_memory_than_some_and_the_newest_stay() {
        let (alarms, clock) = alarms();
        for number in 0..10_000 {
            clock.advance(Duration::from_millis(1));
            alarms.raise(spike(&format!("{number:05}{}", "x".repeat(1000))));
        }
        let live = alarms.live();
        assert_eq!(live.len(), MOST);
        assert!(live[0].alarm.subject.starts_with("09999"), "{:?}", live[0]);
        assert!(live.iter().all(|live| live.alarm.subject.len() == MAX_SUBJECT));
    }

    #[test]
    fn wrong_codes_are_an_alarm_from_the_threshold_on_whatever_the_sensor_calls_itself() {
        let (alarms, clock) = alarms();
        alarms.set_policy(AlarmPolicy {
            failed_attempts: 3,
            window: Duration::from_secs(60),
            ..AlarmPolicy::default()
        });
        let mut heard = alarms.subscribe();
        alarms.wrong_code("th-1");
        alarms.wrong_code("th-2");
        clock.advance(Duration::from_secs(60));
        alarms.wrong_code("th-3");
        alarms.wrong_code("th-4");
        assert!(heard.try_recv().is_err(), "the first two are too long ago");
        alarms.wrong_code("th-5");
        let alarm = heard.try_recv().unwrap();
        assert_eq!(alarm.kind, AlarmKind::FailedAttempts);
        assert_eq!(alarm.words, "3 wrong codes within 1 min, the last one at the sensor th-5");
    }

    #[test]
    fn an_alarm_stands_in_the_audit_log() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::manual(Duration::from_secs(1_700_000_000));
        let audit = Audit::open(dir.path(), &crate::secret::Secret::new([1; 32]), clock.clone()).unwrap();
        Alarms::new(audit.clone(), Metrics::new(), clock).raise(spike("pump-3"));
        let line = audit.tail(1).unwrap().remove(0);
        assert_eq!((line.action.as_str(), line.subject.as_str()), ("alarm.raise", "pump-3"));
    }
}
