//! The life of codes on the disk.

use std::sync::{Arc, Barrier};
use std::thread;

use tempfile::TempDir;

use super::*;
use crate::secret::Secret;
use crate::store::{DeviceInfo, KeySlot, NewPairing, StoreOptions};
use crate::token::{Limits, Stage};

struct Fixture {
    temp: TempDir,
    clock: Clock,
    codes: Option<Codes>,
}

impl Fixture {
    fn new() -> Self {
        let clock = Clock::manual(Duration::from_secs(1_700_000_000));
        let mut fixture = Self { temp: tempfile::tempdir().unwrap(), clock, codes: None };
        fixture.restart();
        fixture
    }

    /// As after a kill: what was returned is on the disk, nothing else.
    fn restart(&mut self) {
        self.codes = None;
        let options = StoreOptions { dir: self.temp.path().join("state"), ..StoreOptions::default() };
        crate::testing::let_go();
        let store = Store::open(&options, self.clock.clone()).unwrap();
        let audit = Audit::open(&self.temp.path().join("audit"), &Secret::new([1; 32]), self.clock.clone()).unwrap();
        self.codes = Some(Codes::start(store, audit, self.clock.clone(), Stage::Prod).unwrap());
    }

    fn codes(&self) -> &Codes {
        self.codes.as_ref().unwrap()
    }

    fn make(&self, hardware_id: Option<&str>) -> (CodeRecord, Code) {
        self.codes().new_code(request(hardware_id), root()).unwrap()
    }

    fn state(&self, id: &CodeId) -> CodeState {
        self.codes().explain(id).unwrap().0.state
    }

    fn actions(&self) -> Vec<String> {
        self.codes().audit.tail(100).unwrap().into_iter().map(|entry| entry.action).collect()
    }
}

fn root() -> Actor {
    Actor::Uid { uid: 0, name: None }
}

fn pump() -> DeviceId {
    "pump-3".parse().unwrap()
}

fn request(hardware_id: Option<&str>) -> CodeRequest {
    CodeRequest {
        label: Some("north shed".to_owned()),
        stage: Stage::Prod,
        hardware_id: hardware_id.map(str::to_owned),
        device: None,
        scopes: vec![],
        limits: Limits::default(),
        ttl: Duration::from_secs(60),
        idle: None,
        max_attempts: 3,
    }
}

#[test]
fn a_code_is_used_once_and_each_step_is_audited() {
    let fixture = Fixture::new();
    let (record, code) = fixture.make(Some("th-1"));
    let claim = fixture.codes().claim("th-1").unwrap();
    assert!(claim.code == code);
    assert_eq!(fixture.codes().count_attempt(&record.id).unwrap(), 1);
    fixture.codes().used(&record.id, &pump()).unwrap();
    fixture.codes().used(&record.id, &pump()).unwrap();
    assert!(matches!(fixture.codes().claim("th-1"), Err(CodeError::NoneLive(_))));
    assert!(matches!(fixture.codes().count_attempt(&record.id), Err(CodeError::NotUsable(_))));
    assert_eq!(fixture.actions(), ["code.new", "code.claim", "code.attempt", "code.used"]);
    let report = crate::audit::verify(&fixture.temp.path().join("audit"), &crate::audit::Trust::default()).unwrap();
    assert!(report.is_whole(), "{report:?}");
}

#[test]
fn a_code_expires_to_the_millisecond_whatever_the_wall_clock_says() {
    let fixture = Fixture::new();
    let (record, _) = fixture.make(Some("th-1"));
    fixture.clock.set_wall(Duration::from_secs(4_000_000_000));
    fixture.clock.advance(Duration::from_millis(59_999));
    fixture.codes().claim("th-1").unwrap();
    fixture.codes().count_attempt(&record.id).unwrap();
    fixture.clock.set_wall(Duration::ZERO);
    fixture.clock.advance(Duration::from_millis(1));
    assert!(matches!(fixture.codes().count_attempt(&record.id), Err(CodeError::NotUsable(_))));
    assert!(matches!(fixture.codes().claim("th-1"), Err(CodeError::NoneLive(_))));
    assert_eq!(fixture.state(&record.id), CodeState::Expired);
    assert_eq!(fixture.actions().last().unwrap(), "code.expire");
}

#[test]
fn a_restart_voids_what_lived() {
    let mut fixture = Fixture::new();
    let (record, _) = fixture.make(Some("th-1"));
    fixture.restart();
    assert_eq!(fixture.state(&record.id), CodeState::Revoked);
    assert!(matches!(fixture.codes().claim("th-1"), Err(CodeError::NoneLive(_))));
    assert!(fixture.codes().explain(&record.id).unwrap().1.sentence.contains("restart"));
}

#[test]
fn a_crash_after_the_guess_does_not_give_the_attempt_back() {
    let mut fixture = Fixture::new();
    let (record, _) = fixture.make(Some("th-1"));
    fixture.codes().claim("th-1").unwrap();
    fixture.codes().count_attempt(&record.id).unwrap();
    fixture.restart();
    let listed = fixture.codes().list().unwrap();
    assert_eq!((listed[0].attempts, listed[0].state), (1, CodeState::Revoked));
    // The guess was right, and the sensor proves the key after the restart.
    fixture.codes().used(&record.id, &pump()).unwrap();
    assert_eq!(fixture.state(&record.id), CodeState::Used);
}

#[test]
fn parallel_runs_share_the_attempts() {
    let fixture = Fixture::new();
    let (record, _) = fixture.make(None);
    let start = Arc::new(Barrier::new(8));
    let runs: Vec<_> = (0..8)
        .map(|run| {
            let (codes, id, start) = (fixture.codes().clone(), record.id.clone(), start.clone());
            thread::spawn(move || {
                start.wait();
                let sensor = format!("th-{}", run % 2);
                let claimed = codes.claim(&sensor).is_ok();
                // A code that is exhausted can no longer be claimed: all claims come before the first attempt.
                start.wait();
                (claimed.then_some(sensor), codes.count_attempt(&id).is_ok())
            })
        })
        .collect();
    let (sensors, counted): (Vec<_>, Vec<_>) = runs.into_iter().map(|run| run.join().unwrap()).unzip();
    let sensors: std::collections::BTreeSet<_> = sensors.into_iter().flatten().collect();
    assert_eq!(sensors.len(), 1, "an open code is bound by its first claim: {sensors:?}");
    assert_eq!(counted.iter().filter(|counted| **counted).count(), 3, "{counted:?}");
}

#[test]
fn three_wrong_guesses_exhaust_a_code() {
    let fixture = Fixture::new();
    let (record, _) = fixture.make(Some("th-1"));
    for left in [2, 1, 0] {
        fixture.codes().claim("th-1").unwrap();
        fixture.codes().count_attempt(&record.id).unwrap();
        assert_eq!(fixture.codes().attempt_failed(&record.id).unwrap(), left);
    }
    assert_eq!(fixture.state(&record.id), CodeState::Exhausted);
    assert!(matches!(fixture.codes().claim("th-1"), Err(CodeError::NoneLive(_))));
    assert_eq!(fixture.actions().last().unwrap(), "code.exhaust");
}

#[test]
fn a_revoked_code_makes_no_pairing_even_when_the_guess_was_right() {
    let fixture = Fixture::new();
    let (record, _) = fixture.make(Some("th-1"));
    fixture.codes().claim("th-1").unwrap();
    fixture.codes().count_attempt(&record.id).unwrap();
    fixture.codes().revoke(&record.id, root(), "lost the paper").unwrap();
    assert!(matches!(fixture.codes().used(&record.id, &pump()), Err(CodeError::NotUsable(_))));
    let again = fixture.codes().revoke(&record.id, root(), "again").unwrap_err();
    assert!(again.to_string().contains("lost the paper"), "{again}");
}

#[test]
fn a_new_code_replaces_the_one_for_the_same_sensor_only() {
    let fixture = Fixture::new();
    let (first, _) = fixture.make(Some("th-1"));
    let (other, _) = fixture.make(Some("th-2"));
    let (open, _) = fixture.make(None);
    let (second, _) = fixture.make(Some("th-1"));
    assert_eq!(fixture.state(&first.id), CodeState::Revoked);
    assert_eq!(fixture.state(&other.id), CodeState::Active);
    assert_eq!(fixture.state(&open.id), CodeState::Active);
    assert_eq!(fixture.codes().claim("th-1").unwrap().record.id, second.id);
    assert_eq!(fixture.codes().claim("th-9").unwrap().record.id, open.id);
    assert!(matches!(fixture.codes().claim("th-8"), Err(CodeError::NoneLive(_))));
}

#[test]
fn live_codes_are_bounded_and_time_makes_room() {
    let fixture = Fixture::new();
    for number in 0..MOST_LIVE {
        fixture.make(Some(&format!("th-{number}")));
    }
    assert!(matches!(fixture.codes().new_code(request(Some("more")), root()), Err(CodeError::TooMany)));
    fixture.clock.advance(Duration::from_secs(60));
    fixture.make(Some("more"));
    assert_eq!(fixture.codes().expire().unwrap(), 1);
}

#[test]
fn a_life_out_of_range_is_refused() {
    let fixture = Fixture::new();
    for ttl in [Duration::from_millis(999), Duration::from_secs(86_401), Duration::MAX] {
        let asked = CodeRequest { ttl, ..request(None) };
        assert!(matches!(fixture.codes().new_code(asked, root()), Err(CodeError::Ttl(_))));
    }
    for max_attempts in [0, 11] {
        let asked = CodeRequest { max_attempts, ..request(None) };
        assert!(matches!(fixture.codes().new_code(asked, root()), Err(CodeError::Attempts(_))));
    }
}

#[test]
fn an_idle_time_is_within_the_life_and_frees_the_code_that_nobody_claimed() {
    let fixture = Fixture::new();
    for idle in [Duration::ZERO, Duration::from_secs(61)] {
        let asked = CodeRequest { idle: Some(idle), ..request(None) };
        assert!(matches!(fixture.codes().new_code(asked, root()), Err(CodeError::Idle { .. })));
    }
    let asked = CodeRequest { idle: Some(Duration::from_secs(20)), ..request(Some("th-1")) };
    let (record, _) = fixture.codes().new_code(asked, root()).unwrap();
    fixture.clock.advance(Duration::from_secs(20));
    assert!(matches!(fixture.codes().claim("th-1"), Err(CodeError::NoneLive(_))));
    assert_eq!(fixture.state(&record.id), CodeState::Expired);
    assert!(fixture.codes().store.code_secret(&record.id).unwrap().is_none());
    assert_eq!(fixture.actions(), ["code.new", "code.expire"]);
}

#[test]
fn a_code_of_another_stage_is_refused_when_made_and_when_claimed() {
    let fixture = Fixture::new();
    let dev = CodeRequest { stage: Stage::Dev, ..request(Some("th-1")) };
    let refused = fixture.codes().new_code(dev.clone(), root()).unwrap_err();
    assert!(refused.to_string().contains("of the stage dev, this gateway of prod"), "{refused}");
    // As after a restored state, or another stage in the configuration.
    let elsewhere = Codes { stage: Stage::Dev, ..fixture.codes().clone() };
    let (record, _) = elsewhere.new_code(dev, root()).unwrap();
    let refused = fixture.codes().claim("th-1").unwrap_err();
    assert!(refused.to_string().contains("it is of the stage dev, this gateway of prod"), "{refused}");
    assert_eq!(fixture.state(&record.id), CodeState::Revoked);
    assert_eq!(fixture.actions(), ["code.new", "code.void"]);
}

#[test]
fn limits_and_scopes_of_a_code_come_back_with_its_claim() {
    let fixture = Fixture::new();
    let limits = Limits::new(vec!["192.0.2.0/24".parse().unwrap()], std::num::NonZeroU32::new(5)).unwrap();
    let scopes = vec![crate::token::scope::Scope::CommandRead];
    let asked = CodeRequest { limits: limits.clone(), scopes: scopes.clone(), ..request(Some("th-1")) };
    fixture.codes().new_code(asked, root()).unwrap();
    let claimed = fixture.codes().claim("th-1").unwrap().record.request;
    assert_eq!((claimed.limits, claimed.scopes), (limits, scopes));
    let made = fixture.codes().audit.tail(100).unwrap().into_iter().find(|entry| entry.action == "code.new").unwrap();
    assert_eq!(made.details["limits"]["addresses"][0], "192.0.2.0/24");
}

#[test]
fn a_code_stands_in_no_file_in_clear_and_goes_when_it_dies() {
    let fixture = Fixture::new();
    let (record, code) = fixture.make(Some("th-1"));
    fixture.codes().claim("th-1").unwrap();
    let shown = code.to_string();
    for dir in ["state", "audit"] {
        for entry in std::fs::read_dir(fixture.temp.path().join(dir)).unwrap() {
            let content = std::fs::read(entry.unwrap().path()).unwrap();
            for text in [shown.clone(), shown.replace('-', "")] {
                assert!(!content.windows(text.len()).any(|window| window == text.as_bytes()));
            }
        }
    }
    assert!(fixture.codes().store.code_secret(&record.id).unwrap().is_some());
    fixture.codes().revoke(&record.id, root(), "done").unwrap();
    assert!(fixture.codes().store.code_secret(&record.id).unwrap().is_none());
}

#[test]
fn a_clock_that_was_turned_back_does_not_lose_the_new_code_among_the_old() {
    let fixture = Fixture::new();
    fixture.clock.set_wall(Duration::from_secs(4_000_000_000));
    for _ in 0..3 {
        fixture.make(Some("th-1"));
    }
    fixture.clock.set_wall(Duration::from_secs(1_000_000_000));
    let (record, _) = fixture.make(Some("th-1"));
    assert_eq!(fixture.codes().claim("th-1").unwrap().record.id, record.id);
}

#[test]
fn a_code_whose_claim_stands_in_no_line_is_void() {
    let fixture = Fixture::new();
    let (record, _) = fixture.make(Some("th-1"));
    let file = fixture.codes().audit.fill_disk();
    assert!(matches!(fixture.codes().claim("th-1"), Err(CodeError::Audit(_))));
    fixture.codes().audit.make_room(file);
    assert!(matches!(fixture.codes().claim("th-1"), Err(CodeError::NoneLive(_))));
    assert_eq!(fixture.state(&record.id), CodeState::Revoked);
}

#[test]
fn every_code_that_ends_while_the_log_cannot_be_written_is_counted_and_stops_no_start() {
    let mut fixture = Fixture::new();
    for number in 0..3 {
        fixture.make(Some(&format!("th-{number}")));
    }
    fixture.clock.advance(Duration::from_secs(60));
    let file = fixture.codes().audit.fill_disk();
    assert!(fixture.codes().expire().is_err());
    assert_eq!(fixture.codes().audit.missing().unwrap().lines, 3);
    fixture.codes().audit.make_room(file);
    fixture.make(Some("th-9"));
    // A start on a full disk.
    let codes = fixture.codes.take().unwrap();
    let _file = codes.audit.fill_disk();
    let codes = Codes::start(codes.store, codes.audit, fixture.clock.clone(), Stage::Prod).unwrap();
    assert_eq!(codes.audit.missing().unwrap().lines, 1);
}

#[test]
fn a_code_that_ends_by_one_attempt_too_many_has_its_line() {
    let fixture = Fixture::new();
    let (record, _) = fixture.make(Some("th-1"));
    fixture.codes().claim("th-1").unwrap();
    for _ in 0..3 {
        fixture.codes().count_attempt(&record.id).unwrap();
    }
    // None of the three was judged: their runs were cut off.
    assert!(fixture.codes().count_attempt(&record.id).is_err());
    assert_eq!(fixture.actions().last().unwrap(), "code.exhaust");
    assert!(fixture.codes().count_attempt(&record.id).is_err());
    assert_eq!(fixture.actions().iter().filter(|action| *action == "code.exhaust").count(), 1);
}

#[test]
fn of_codes_made_at_once_for_one_sensor_one_lives() {
    let fixture = Fixture::new();
    let start = Arc::new(Barrier::new(8));
    for sensor in [Some("th-1"), None] {
        let making: Vec<_> = (0..8)
            .map(|_| {
                let (codes, start) = (fixture.codes().clone(), Arc::clone(&start));
                thread::spawn(move || {
                    start.wait();
                    codes.new_code(request(sensor), root()).unwrap();
                })
            })
            .collect();
        for thread in making {
            thread.join().unwrap();
        }
    }
    let live: Vec<_> = fixture.codes().list().unwrap().into_iter().filter(|code| code.state.is_live()).collect();
    assert_eq!(live.len(), 2, "{live:?}");
}

/// A code under which a key was agreed that its sensor has not proven.
fn in_doubt(fixture: &Fixture, number: u8) -> CodeRecord {
    let sensor = format!("th-{number}");
    let (record, _) = fixture.make(Some(&sensor));
    fixture.codes().claim(&sensor).unwrap();
    fixture.codes().count_attempt(&record.id).unwrap();
    agree(fixture, number, &record);
    record
}

fn agree(fixture: &Fixture, number: u8, record: &CodeRecord) {
    let new = NewPairing {
        device: format!("pump-{number}").parse().unwrap(),
        hardware_id: format!("th-{number}"),
        info: DeviceInfo::default(),
        key: KeySlot { pairing: PairingId([number; 8]), record: Secret::new(vec![number; 254]) },
        code: Some(record.id.as_str().to_owned()),
    };
    fixture.codes().store.put_pending(&new).unwrap();
}

#[test]
fn who_revokes_a_code_ends_the_key_that_waits_under_it_also_where_the_code_is_over() {
    let mut fixture = Fixture::new();
    let proven = |fixture: &Fixture, number: u8, record: &CodeRecord| {
        let device = format!("pump-{number}").parse().unwrap();
        fixture.codes().proven(&device, PairingId([number; 8]), Some(&record.id))
    };
    let devices = |fixture: &Fixture| fixture.codes().store.devices().unwrap().len();
    let (live, expired, voided, kept) =
        (in_doubt(&fixture, 1), in_doubt(&fixture, 2), in_doubt(&fixture, 3), in_doubt(&fixture, 4));
    fixture.codes().revoke(&live.id, root(), "lost").unwrap();
    // The run went on meanwhile, and stores its key only now.
    agree(&fixture, 1, &live);
    assert!(matches!(proven(&fixture, 1, &live), Err(CodeError::NotUsable(_))));
    assert_eq!(devices(&fixture), 3);
    fixture.clock.advance(Duration::from_secs(60));
    fixture.codes().revoke(&expired.id, root(), "lost").unwrap();
    fixture.restart();
    fixture.codes().revoke(&voided.id, root(), "lost").unwrap();
    for (number, record) in [(2, &expired), (3, &voided)] {
        assert_eq!(fixture.state(&record.id), CodeState::Revoked);
        assert!(matches!(proven(&fixture, number, record), Err(CodeError::NotUsable(_))));
    }
    assert_eq!(devices(&fixture), 1);
    // What nobody revoked may be proven late, once, and cannot be revoked then.
    proven(&fixture, 4, &kept).unwrap();
    assert!(matches!(fixture.codes().revoke(&kept.id, root(), "late"), Err(CodeError::NotUsable(_))));
    assert_eq!((fixture.state(&kept.id), devices(&fixture)), (CodeState::Used, 1));
}

#[test]
fn a_name_that_cannot_be_given_is_said_when_the_code_is_made() {
    let fixture = Fixture::new();
    let paired = in_doubt(&fixture, 1);
    fixture.codes().proven(&"pump-1".parse().unwrap(), PairingId([1; 8]), Some(&paired.id)).unwrap();
    let ask = |sensor: &str, device: &str| {
        let wish = CodeRequest { device: Some(device.parse().unwrap()), ..request(Some(sensor)) };
        fixture.codes().new_code(wish, root()).map(drop).map_err(|error| error.to_string())
    };
    let refused = ask("th-2", "pump-1").unwrap_err();
    assert!(refused.contains("pump-1 is the name of another sensor (th-1)"), "{refused}");
    let refused = ask("th-1", "pump-9").unwrap_err();
    assert!(refused.contains("known as pump-1") && refused.contains("devices rename pump-1 pump-9"), "{refused}");
    assert_eq!((ask("th-1", "pump-1"), ask("th-2", "pump-2")), (Ok(()), Ok(())));
}
