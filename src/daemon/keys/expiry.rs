//! What ends soon: certificates that the configuration names, and keys with a schedule that a person must change. Said 30
//! and 7 days before, and at the end, once each; what was said is kept, so that a restart does not say it again.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::Kind;
use crate::alarm::{Alarm, AlarmKind};
use crate::blocking::blocking;
use crate::config::Config;
use crate::control::api::Key;
use crate::daemon::Gateway;
use crate::daemon::issuer::families::{self, Term};
use crate::doctor::not_after;
use crate::ids::DeviceId;
use crate::metrics::Expiring;
use crate::store::StoreError;

/// Name of the sealed record of what was said.
const TOLD: &str = "expiry-told";
/// Said so long before, and at the end: in seconds, the longest first.
const STEPS: [u64; 3] = [30 * DAY, 7 * DAY, 0];
/// From this on it stands in `clawgate status`.
const CLOSE: u64 = 7 * DAY;
const DAY: u64 = 86_400;

/// Something that ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::daemon) struct Ending {
    /// Where it is named: a key of the configuration, or a kind of key.
    pub(in crate::daemon) subject: String,
    /// What it is, in words.
    what: String,
    /// Seconds since 1970.
    at: u64,
    /// Since when that end is known; what is renewed all the time is never close to its end before it is at it.
    since: u64,
    /// What a person does.
    next_step: String,
}

impl Ending {
    /// Whether it ends within `step` seconds, and was further away once.
    fn reached(&self, step: u64, now: u64) -> bool {
        self.at <= now.saturating_add(step) && self.at.saturating_sub(self.since) > step
    }

    /// What there is to say now.
    fn words(&self, now: u64) -> String {
        match self.at.checked_sub(now) {
            Some(left) if left >= DAY => format!("{} ends in {} days", self.what, left / DAY),
            Some(left) => format!("{} ends in {} hours", self.what, left / 3600),
            None => format!("{} has ended", self.what),
        }
    }

    /// For `clawgate status`, where it is close.
    pub(in crate::daemon) fn problem(&self, now: u64) -> Option<String> {
        self.reached(CLOSE, now).then(|| format!("{}. {}", self.words(now), self.next_step))
    }
}

/// By subject: which end was spoken of, and how many of the steps.
type Told = BTreeMap<String, (u64, usize)>;

/// What is to be said now and was not said of this end.
fn due(told: &mut Told, endings: &[Ending], now: u64) -> Vec<Alarm> {
    // What is gone or was renewed begins anew.
    told.retain(|subject, (at, _)| endings.iter().any(|ending| ending.subject == *subject && ending.at == *at));
    let mut alarms = Vec::new();
    for ending in endings {
        let steps = STEPS.iter().filter(|step| ending.reached(**step, now)).count();
        let said = told.get(&ending.subject).map_or(0, |(_, said)| *said);
        if steps > said {
            told.insert(ending.subject.clone(), (ending.at, steps));
            alarms.push(Alarm {
                kind: AlarmKind::Expiry,
                subject: ending.subject.clone(),
                words: ending.words(now),
                next_step: ending.next_step.clone(),
            });
        }
    }
    alarms
}

/// Looks at everything, raises what is due, and keeps what was said. What ends, for `clawgate status`.
pub(super) async fn look(gateway: &Gateway) -> Vec<Ending> {
    let now = gateway.clock().wall().as_secs();
    let (store, config) = (gateway.store().clone(), gateway.config());
    let mut endings = scheduled(&gateway.keys().await.unwrap_or_default(), store.owns_master_key(), now);
    let looked = blocking(move || {
        endings.extend(certificates(&config));
        endings.extend(families::terms(&store)?.into_iter().map(approval));
        let kept = store.secret(TOLD)?;
        let mut told: Told = kept.and_then(|kept| serde_json::from_slice(kept.expose()).ok()).unwrap_or_default();
        let before = told.clone();
        let alarms = due(&mut told, &endings, now);
        if told != before {
            store.put_secret(TOLD, &serde_json::to_vec(&told).unwrap_or_default())?;
        }
        Ok::<_, StoreError>((endings, alarms))
    })
    .await;
    let (endings, alarms) = match looked {
        Ok(looked) => looked,
        Err(error) => {
            tracing::warn!(%error, "what ends soon cannot be looked at now");
            return Vec::new();
        }
    };
    let gauges = &gateway.metrics().expires;
    gauges.clear();
    for ending in &endings {
        let left = i64::try_from(ending.at).unwrap_or(i64::MAX).saturating_sub(i64::try_from(now).unwrap_or(0));
        gauges.get_or_create(&Expiring { what: ending.subject.clone() }).set(left);
    }
    for alarm in alarms {
        gateway.alarms().raise(alarm);
    }
    endings
}

/// How the certificates in files are, for `clawgate doctor`: the key that names one, what there is to say, what to do, and
/// how many seconds are left. Those that are good for long are not said.
pub(crate) fn ending_certificates(config: &Config, now: u64) -> Vec<(String, String, String, u64)> {
    let close = certificates(config).into_iter().filter(|ending| ending.at <= now.saturating_add(STEPS[0]));
    let told =
        |ending: Ending| (ending.subject.clone(), ending.words(now), ending.next_step, ending.at.saturating_sub(now));
    close.map(told).collect()
}

/// Certificates in files; one that cannot be read is another part's matter.
fn certificates(config: &Config) -> Vec<Ending> {
    let at_broker = "Get the new one from whoever runs the broker, and restart clawgate.";
    let named = [
        ("broker.ca", &config.broker.ca, "the CA of the broker", at_broker),
        ("broker.client_cert", &config.broker.client_cert, "the client certificate", "Renew it, and restart clawgate."),
        (
            "issuer.ca",
            &config.issuer.ca,
            "the CA of the issuer",
            "Get the new one from whoever runs it, and restart clawgate.",
        ),
        (
            "vault.ca",
            &config.vault.ca,
            "the CA of the vault",
            "Get the new one from whoever runs it, and restart clawgate.",
        ),
    ];
    let ending = |(key, path, what, next): (&str, &Option<std::path::PathBuf>, &str, &str)| {
        let path = path.as_ref()?;
        Some(Ending {
            subject: key.to_owned(),
            what: format!("{what} in {}", path.display()),
            at: first_end(path)?.as_secs(),
            since: 0,
            next_step: next.to_owned(),
        })
    };
    named.into_iter().filter_map(ending).collect()
}

/// The end of the certificate in the file that ends first.
fn first_end(path: &Path) -> Option<Duration> {
    let all = CertificateDer::pem_file_iter(path).ok()?;
    all.filter_map(|certificate| not_after(&certificate.ok()?)).min()
}

/// The refresh token of a device: where it ends, a person approves the device again.
fn approval((device, term): (DeviceId, Term)) -> Ending {
    Ending {
        subject: format!("refresh token {device}"),
        what: format!("the approval of {device} at the issuer"),
        at: term.ends,
        since: term.since,
        next_step: format!("When it has ended, clawgate token rotate {device} shows where to approve it again."),
    }
}

/// Keys with a schedule that a person must change: a master key that the gateway does not write.
fn scheduled(keys: &[Key], is_ours: bool, now: u64) -> Vec<Ending> {
    let by_hand = |key: &&Key| key.kind == Kind::Master.as_str() && !is_ours;
    let ending = |key: &Key| {
        Some(Ending {
            subject: format!("key {}", key.kind),
            what: format!("by schedule, the time of the {} key", key.kind),
            at: now.saturating_add(key.rotates_in_s?),
            since: 0,
            next_step: "Put a new one beside it: \"master\" in keys.md.".to_owned(),
        })
    };
    keys.iter().filter(by_hand).filter_map(ending).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ending(at: u64) -> Ending {
        let next_step = "Renew it.".to_owned();
        Ending { subject: "broker.ca".to_owned(), what: "the CA".to_owned(), at, since: 0, next_step }
    }

    #[test]
    fn an_end_is_said_30_and_7_days_before_and_when_it_has_come_once_each_over_restarts() {
        let (at, mut told) = (1000 * DAY, Told::new());
        let mut said = Vec::new();
        for day in 900..1010 {
            for _ in 0..3 {
                said.extend(due(&mut told, &[ending(at)], day * DAY).into_iter().map(|alarm| (day, alarm.words)));
                // A restart.
                told = serde_json::from_slice(&serde_json::to_vec(&told).unwrap()).unwrap();
            }
        }
        let words = |days: &str| format!("the CA {days}");
        assert_eq!(
            said,
            [(970, words("ends in 30 days")), (993, words("ends in 7 days")), (1000, words("ends in 0 hours"))]
        );
    }

    #[test]
    fn what_was_renewed_is_said_anew_and_a_late_start_says_only_the_last_step() {
        let mut told = Told::new();
        assert_eq!(due(&mut told, &[ending(10 * DAY)], 9 * DAY).len(), 1);
        assert!(due(&mut told, &[ending(100 * DAY)], 9 * DAY).is_empty());
        assert!(told.is_empty());
        assert_eq!(due(&mut told, &[ending(100 * DAY)], 80 * DAY).len(), 1);
        let late = due(&mut Told::new(), &[ending(10 * DAY)], 12 * DAY);
        assert_eq!((late.len(), late[0].words.as_str()), (1, "the CA has ended"));
    }

    #[test]
    fn it_stands_in_the_status_only_when_it_is_close() {
        assert_eq!(ending(100 * DAY).problem(90 * DAY), None);
        assert_eq!(ending(100 * DAY).problem(94 * DAY).unwrap(), "the CA ends in 6 days. Renew it.");
    }

    #[test]
    fn a_refresh_token_that_is_renewed_all_the_time_is_said_only_when_it_ended() {
        let term = |since: u64, ends: u64| approval(("pump-3".parse().unwrap(), Term { since, ends }));
        let said = |ending: &Ending, now: u64| due(&mut Told::new(), std::slice::from_ref(ending), now).len();
        // Good for five days from each refresh on.
        let renewed = term(100 * DAY, 105 * DAY);
        assert_eq!((said(&renewed, 104 * DAY), renewed.problem(104 * DAY)), (0, None));
        assert_eq!(said(&renewed, 105 * DAY), 1);
        // Good for forty days, whatever is refreshed.
        let fixed = term(100 * DAY, 140 * DAY);
        assert_eq!((said(&fixed, 109 * DAY), said(&fixed, 111 * DAY)), (0, 1));
        assert!(fixed.problem(134 * DAY).unwrap().contains("the approval of pump-3"));
    }

    #[test]
    fn of_a_file_with_several_certificates_the_one_that_ends_first_counts() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let pem = |year| {
            let mut params = rcgen::CertificateParams::new(vec!["x".to_owned()]).unwrap();
            params.not_after = rcgen::date_time_ymd(year, 2, 3);
            params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
        };
        std::fs::write(file.path(), pem(2051) + &pem(2031)).unwrap();
        // 2031-02-03, as date(1) gives it.
        assert_eq!(first_end(file.path()), Some(Duration::from_secs(1_927_843_200)));
        std::fs::write(file.path(), "nothing").unwrap();
        assert_eq!(first_end(file.path()), None);
    }
}
