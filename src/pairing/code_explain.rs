//! Says in one sentence why a code works or stopped working, and what to do now.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::code::{CodeId, CodeRecord, CodeState, Ending, IDLE, RESTARTED};
use crate::audit::Actor;

/// Where a code stands, for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Which code.
    pub id: CodeId,
    /// Where it stands.
    pub state: CodeState,
    /// Why, in one sentence.
    pub sentence: String,
    /// What to do now; none where there is nothing to do.
    pub next_step: Option<String>,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)?;
        self.next_step.iter().try_for_each(|step| write!(f, "\n  {step}"))
    }
}

/// Explains `record` at a time on both clocks, in the words and the time zone of a person.
pub(super) fn explain(record: &CodeRecord, boot: Duration, wall_ms: i64, zone: &TimeZone) -> Explanation {
    let at = |ms: i64| time_of_day(ms, wall_ms, zone);
    let (sentence, next_step) = match (record.state, &record.ending) {
        (CodeState::Active | CodeState::Claimed, _) | (_, None) => live(record, boot, at),
        (CodeState::Used, Some(end)) => (format!("Used at {} by {}; a code works once.", at(end.at_ms), end.by), None),
        (CodeState::Expired, Some(end)) => (expired(record, end, at), Some(again(record))),
        (CodeState::Revoked, Some(end)) if end.by == Actor::Daemon && end.why == RESTARTED => (
            format!("Void since {}, when the gateway started again: a code does not outlive a restart.", at(end.at_ms)),
            Some(again(record)),
        ),
        (CodeState::Revoked, Some(end)) => (
            format!("Revoked at {} by {}: {}.", at(end.at_ms), end.by, end.why.escape_default()),
            (!end.why.starts_with("replaced by ")).then(|| again(record)),
        ),
        (CodeState::Exhausted, Some(end)) => (
            format!(
                "Exhausted at {}: all {} attempts were made with another code.",
                at(end.at_ms),
                record.request.max_attempts
            ),
            Some(format!("If nobody mistyped, somebody guesses: see clawgate audit tail. {}", again(record))),
        ),
    };
    Explanation { id: record.id.clone(), state: record.state, sentence, next_step }
}

fn live(record: &CodeRecord, boot: Duration, at: impl Fn(i64) -> String) -> (String, Option<String>) {
    let left = span(record.left(boot));
    let sensor = record.request.hardware_id.as_deref();
    let sentence = match (record.claimed_ms, sensor) {
        (Some(claimed), Some(sensor)) => format!(
            "Live for another {left}: claimed at {} by the sensor {sensor}, {} of {} attempts made.",
            at(claimed),
            record.attempts,
            record.request.max_attempts
        ),
        (_, Some(sensor)) => format!("Live for another {left}, for the sensor {sensor}; nobody has tried it."),
        _ => format!("Live for another {left}, for the first sensor that it is entered at; nobody has tried it."),
    };
    (
        sentence,
        Some("Enter it at the sensor. It was shown once; if it is lost, make a new one: clawgate code new".to_owned()),
    )
}

fn expired(record: &CodeRecord, end: &Ending, at: impl Fn(i64) -> String) -> String {
    let tried = match record.attempts {
        0 => "never used".to_owned(),
        made => format!("{made} of {} attempts made", record.request.max_attempts),
    };
    let idle = record.request.idle.filter(|_| end.why == IDLE);
    let (life, idle_words) = match idle {
        Some(idle) => (idle, ": no sensor had claimed it"),
        None => (record.request.ttl, ""),
    };
    format!("Expired at {} ({} after {} made it){idle_words}, {tried}.", at(end.at_ms), span(life), record.creator)
}

/// The command for a new code of the same kind; one that expired gets more time.
fn again(record: &CodeRecord) -> String {
    let device = record.request.device.as_ref().map(|device| format!(" --device {device}")).unwrap_or_default();
    let sensor = record.request.hardware_id.as_ref().map(|sensor| format!(" --sensor {sensor}")).unwrap_or_default();
    let ttl = match record.state {
        CodeState::Expired if record.request.ttl < Duration::from_secs(300) => " --ttl 5m",
        _ => "",
    };
    format!("Make a new one:  clawgate code new{device}{sensor}{ttl}")
}

/// The time of day; with the date where it is another day than now.
fn time_of_day(ms: i64, now_ms: i64, zone: &TimeZone) -> String {
    let local = |ms: i64| Timestamp::from_millisecond(ms).unwrap_or_default().to_zoned(zone.clone());
    let (then, now) = (local(ms), local(now_ms));
    if then.date() == now.date() { then.strftime("%H:%M:%S").to_string() } else { then.strftime("%F %T").to_string() }
}

fn span(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ ..120 => format!("{seconds} s"),
        seconds @ ..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pairing::code::CodeRequest;
    use crate::token::{Limits, Stage};

    /// 2023-11-14 22:13:20 UTC.
    const NOW: i64 = 1_700_000_000_000;

    fn code() -> CodeRecord {
        CodeRecord {
            id: CodeId::new(Duration::from_millis(1), [0; 10]),
            state: CodeState::Active,
            request: CodeRequest {
                label: None,
                stage: Stage::Prod,
                hardware_id: Some("th-1".to_owned()),
                device: Some("pump-3".parse().unwrap()),
                scopes: vec![],
                limits: Limits::default(),
                ttl: Duration::from_secs(60),
                idle: None,
                max_attempts: 3,
            },
            creator: Actor::Uid { uid: 1001, name: None },
            made_boot_ms: 0,
            made_ms: NOW,
            attempts: 0,
            claimed_ms: None,
            ending: None,
        }
    }

    fn text(record: &CodeRecord) -> String {
        explain(record, Duration::from_secs(18), NOW + 60_000, &TimeZone::UTC).to_string()
    }

    #[test]
    fn an_expired_code_says_when_who_made_it_and_how_to_go_on() {
        let mut code = code();
        code.age(Duration::from_secs(60), NOW + 60_000);
        assert_eq!(
            text(&code),
            "Expired at 22:14:20 (60 s after uid 1001 made it), never used.\n  Make a new one:  clawgate code new --device pump-3 --sensor th-1 --ttl 5m"
        );
    }

    #[test]
    fn a_code_that_nobody_claimed_says_so() {
        let mut code = code();
        code.request.idle = Some(Duration::from_secs(20));
        code.age(Duration::from_secs(20), NOW + 20_000);
        let said = "Expired at 22:13:40 (20 s after uid 1001 made it): no sensor had claimed it, never used.";
        assert!(text(&code).starts_with(said), "{}", text(&code));
    }

    #[test]
    fn every_state_says_its_own_reason() {
        let mut claimed = code();
        claimed.claim("th-1", Stage::Prod, NOW).unwrap();
        claimed.count_attempt(NOW).unwrap();
        let end = |change: &dyn Fn(&mut CodeRecord)| {
            let mut code = claimed.clone();
            change(&mut code);
            text(&code)
        };
        let revoked =
            end(&|c| c.revoke(NOW, Actor::Uid { uid: 0, name: Some("root".to_owned()) }, "lost\u{1b}").unwrap());
        let void = end(&|c| c.revoke(NOW, Actor::Daemon, RESTARTED).unwrap());
        let used = end(&|c| c.used(&"pump-3".parse().unwrap(), Stage::Prod, NOW - 86_400_000).unwrap());
        let exhausted = end(&|c| {
            c.attempts = 3;
            c.attempt_failed(NOW);
        });
        for (text, words) in [
            (text(&code()), "Live for another 42 s, for the sensor th-1"),
            (text(&claimed), "claimed at 22:13:20 by the sensor th-1, 1 of 3 attempts made."),
            (revoked, "Revoked at 22:13:20 by root (uid 0): lost\\u{1b}."),
            (void, "Void since 22:13:20, when the gateway started again"),
            (used, "Used at 2023-11-13 22:13:20 by device pump-3; a code works once."),
            (exhausted, "all 3 attempts were made with another code"),
        ] {
            assert!(text.contains(words), "{text}");
        }
    }
}
