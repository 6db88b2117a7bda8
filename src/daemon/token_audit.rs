//! What the audit log is told of tokens that nobody asked for by hand: a device that was paused, at once; every refresh,
//! by name, many in a line. A line for each would be five times the bytes, and one more fsync each.

use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::Gateway;
use crate::audit::{Action, Actor, Event, Outcome};
use crate::ids::DeviceId;
use crate::logging::Share;
use crate::token::keeper::{Became, Note};
use crate::token::local::{Deed, Handed};

/// How soon a device that is paused for its token stands in the log.
const LOOK: Duration = Duration::from_secs(5);
/// Refreshes of this time make one line.
const PERIOD: Duration = Duration::from_secs(60);
/// Refreshes that one line lists.
const MOST_LISTED: usize = 200;
/// Causes that one line lists; an issuer that is down gives all devices the same.
const MOST_CAUSES: usize = 10;
/// Characters of a cause.
const LONGEST_CAUSE: usize = 200;
/// Characters of a token's id.
const LONGEST_ID: usize = 64;

/// Writes until `stop`, and then what is left.
pub(super) async fn watch(gateway: Gateway, stop: CancellationToken) {
    let mut batch = Batch::default();
    let mut due = gateway.clock().boot() + PERIOD;
    loop {
        let stopped = stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_none();
        let (notes, unkept) = gateway.keeper().take_notes();
        batch.unlisted += unkept;
        let mut events: Vec<Event> = notes.into_iter().filter_map(|note| batch.take(note)).collect();
        let now = gateway.clock().boot();
        if let Some(issuer) = &gateway.0.keys.issuer {
            let (handed, unkept) = issuer.take_handed();
            batch.unlisted += unkept;
            events.extend(handed.into_iter().filter_map(|handed| batch.take_handed(handed, now)));
        }
        if stopped || now >= due {
            due = now + PERIOD;
            batch.of_clients = 0;
            events.extend(batch.issued());
            events.extend(batch.failed());
        }
        for event in events {
            gateway.record(event).await;
        }
        if stopped {
            return;
        }
    }
}

/// What is not in the log yet.
#[derive(Debug, Default)]
struct Batch {
    issued: Vec<Value>,
    failed: Vec<(String, Vec<Value>)>,
    /// Refreshes that nobody had room for until they were looked at.
    unlisted: u64,
    /// Tokens of clients that were listed in this period: one of them may ask as fast as it likes.
    of_clients: usize,
    /// Of lines about revocations that clients asked for.
    revocations: Share,
}

impl Batch {
    /// Takes one note; the line that must be written now, if one must.
    fn take(&mut self, Note { device, at, what }: Note) -> Option<Event> {
        let boot_ms = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
        match what {
            Became::Issued { jti, life } => {
                let jti: String = jti.chars().filter(char::is_ascii_graphic).take(LONGEST_ID).collect();
                let life_s = life.as_secs();
                self.issued.push(json!({ "device": device, "jti": jti, "life_s": life_s, "boot_ms": boot_ms }));
                if self.issued.len() >= MOST_LISTED { self.issued() } else { None }
            }
            Became::Failed(cause) => self.take_failure(&device, boot_ms, &cause),
            Became::Paused(reason) => {
                let event = Event::done(Actor::Daemon, Action::TokenQuarantine, device.as_str());
                Some(event.ended(Outcome::Failed).because(reason))
            }
            Became::RevocationTold(failures) => {
                let event = Event::done(Actor::Daemon, Action::TokenRevoke, device.as_str());
                let told = event.because("the issuer, which could not be told at first, has taken the revocation");
                Some(told.with(json!({ "failures": failures })))
            }
        }
    }

    /// Takes what the issuer here gave to a client of its endpoints, or took back; the line that must be written now.
    fn take_handed(&mut self, Handed { client, subject, at, what }: Handed, now: Duration) -> Option<Event> {
        match what {
            Deed::Issued { .. } if self.of_clients >= MOST_LISTED => {
                self.unlisted += 1;
                None
            }
            Deed::Issued { jti, life } => {
                self.of_clients += 1;
                let (boot_ms, life_s) = (u64::try_from(at.as_millis()).unwrap_or(u64::MAX), life.as_secs());
                self.issued.push(json!({ "client": client, "jti": jti, "life_s": life_s, "boot_ms": boot_ms }));
                if self.issued.len() >= MOST_LISTED { self.issued() } else { None }
            }
            Deed::Revoked => {
                let unsaid = self.revocations.charge(now)?;
                let event = Event::done(Actor::Daemon, Action::TokenRevoke, subject);
                let event = event.because("the client asked for it at the issuer's endpoint");
                Some(event.with(json!({ "client": client, "unsaid_before": unsaid })))
            }
        }
    }

    fn take_failure(&mut self, device: &DeviceId, boot_ms: u64, cause: &str) -> Option<Event> {
        let cause: String = cause.chars().take(LONGEST_CAUSE).collect();
        let one = json!({ "device": device, "boot_ms": boot_ms });
        let known = self.failed.iter_mut().find(|(known, _)| *known == cause);
        let full = known.is_none() && self.failed.len() >= MOST_CAUSES;
        let event = if full { self.failed() } else { None };
        match self.failed.iter_mut().find(|(known, _)| *known == cause) {
            Some((_, of)) => of.push(one),
            None => self.failed.push((cause, vec![one])),
        }
        let listed: usize = self.failed.iter().map(|(_, of)| of.len()).sum();
        if listed >= MOST_LISTED { self.failed() } else { event }
    }

    /// The line about the tokens that came; none where none did.
    fn issued(&mut self) -> Option<Event> {
        let (issued, unlisted) = (std::mem::take(&mut self.issued), std::mem::take(&mut self.unlisted));
        if issued.is_empty() && unlisted == 0 {
            return None;
        }
        let mut details = json!({ "issued": issued });
        if unlisted > 0 {
            details["unlisted"] = unlisted.into();
        }
        Some(Event::done(Actor::Daemon, Action::TokenRefresh, "tokens").with(details))
    }

    /// The line about the requests that failed; none where none did.
    fn failed(&mut self) -> Option<Event> {
        let failed = std::mem::take(&mut self.failed);
        let because = match failed.as_slice() {
            [] => return None,
            [(cause, _)] => cause.clone(),
            several => format!("{} causes", several.len()),
        };
        let failed: Vec<Value> = failed.into_iter().map(|(cause, of)| json!({ "cause": cause, "of": of })).collect();
        let event = Event::done(Actor::Daemon, Action::TokenRefresh, "tokens").ended(Outcome::Failed);
        Some(event.because(because).with(json!({ "failed": failed })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Audit;
    use crate::clock::Clock;
    use crate::secret::Secret;

    fn note(device: &str, what: Became) -> Note {
        Note { device: device.parse().unwrap(), at: Duration::from_millis(1234), what }
    }

    fn came(device: &str, jti: &str) -> Note {
        note(device, Became::Issued { jti: jti.to_owned(), life: Duration::from_secs(600) })
    }

    fn failed(device: &str, cause: &str) -> Note {
        note(device, Became::Failed(cause.to_owned()))
    }

    #[test]
    fn each_refresh_is_listed_and_failures_stand_below_their_cause() {
        let mut batch = Batch::default();
        for one in [came("a", "j1"), failed("b", "down"), came("a", "j2"), failed("c", "down"), failed("b", "full")] {
            assert!(batch.take(one).is_none());
        }
        let event = batch.issued().unwrap();
        let one = |jti| json!({ "device": "a", "jti": jti, "life_s": 600, "boot_ms": 1234 });
        assert_eq!((event.outcome, event.details), (Outcome::Ok, json!({ "issued": [one("j1"), one("j2")] })));
        let event = batch.failed().unwrap();
        let of = |device| json!({ "device": device, "boot_ms": 1234 });
        let wanted = json!([{ "cause": "down", "of": [of("b"), of("c")] }, { "cause": "full", "of": [of("b")] }]);
        assert_eq!((event.outcome, &event.details["failed"]), (Outcome::Failed, &wanted));
        assert!(batch.issued().is_none() && batch.failed().is_none(), "told once");
    }

    #[test]
    fn a_pause_is_told_at_once_and_what_was_not_listed_is_said() {
        let mut batch = Batch::default();
        let event = batch.take(note("b", Became::Paused("refused".to_owned()))).unwrap();
        assert_eq!((event.action, event.subject.as_str()), (Action::TokenQuarantine, "b"));
        let event = batch.take(note("b", Became::RevocationTold(2))).unwrap();
        assert_eq!((event.action, &event.details["failures"]), (Action::TokenRevoke, &json!(2)));
        batch.unlisted = 7;
        assert_eq!(batch.issued().unwrap().details, json!({ "issued": [], "unlisted": 7 }));
    }

    #[test]
    fn what_clients_of_the_issuer_get_is_listed_and_one_that_asks_without_end_fills_no_log() {
        let mut batch = Batch::default();
        let handed = |what| Handed { client: "dash".into(), subject: "dash".into(), at: Duration::from_secs(1), what };
        let issued = || handed(Deed::Issued { jti: "j".into(), life: Duration::from_secs(60) });
        assert!(batch.take_handed(issued(), Duration::ZERO).is_none());
        let one = json!({ "client": "dash", "jti": "j", "life_s": 60, "boot_ms": 1000 });
        assert_eq!(batch.issued().unwrap().details, json!({ "issued": [one] }));
        let lines: Vec<_> = (0..1000).filter_map(|_| batch.take_handed(issued(), Duration::ZERO)).collect();
        assert!(lines.is_empty(), "one of the period's share was taken before");
        let details = batch.issued().unwrap().details;
        assert_eq!((details["issued"].as_array().unwrap().len(), &details["unlisted"]), (MOST_LISTED - 1, &json!(801)));
        let revoked: Vec<_> =
            (0..1000).filter_map(|_| batch.take_handed(handed(Deed::Revoked), Duration::ZERO)).collect();
        assert_eq!((revoked.len(), revoked[0].subject.as_str()), (10, "dash"));
        let later = batch.take_handed(handed(Deed::Revoked), Duration::from_secs(60)).unwrap();
        assert_eq!(later.details, json!({ "client": "dash", "unsaid_before": 990 }));
    }

    #[test]
    fn a_full_line_is_written_at_once_and_the_longest_one_still_lists_all() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::open(dir.path(), &Secret::new([1; 32]), Clock::system()).unwrap();
        let (mut batch, device) = (Batch::default(), "d".repeat(32));
        // What an issuer says is escaped long before; here it is as bad as it can be.
        let cause = |number: usize| format!("{number}{}", "\u{1f600}".repeat(300));
        let mut listed = [0, 0];
        for number in 0..5 * MOST_LISTED {
            let notes = [came(&device, &"\u{e4}j".repeat(100)), failed(&device, &cause(number % 25))];
            for event in notes.into_iter().filter_map(|note| batch.take(note)) {
                audit.record(event).unwrap();
            }
        }
        for event in [batch.issued(), batch.failed()].into_iter().flatten() {
            audit.record(event).unwrap();
        }
        for entry in audit.tail(1000).unwrap() {
            let count = |list: &Value| list.as_array().map_or(0, Vec::len);
            listed[0] += count(&entry.details["issued"]);
            let failed = entry.details["failed"].as_array();
            listed[1] += failed.map_or(0, |causes| causes.iter().map(|cause| count(&cause["of"])).sum());
        }
        assert_eq!(listed, [5 * MOST_LISTED; 2]);
    }
}
