//! Pairing over a real line: both ceremonies, every way a code fails, and what an attacker on the wire gets.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clawgate::audit::Actor;
use clawgate::pairing::code::{CodeRequest, CodeState};
use clawgate::pairing::{Cause, Ceremony, PairEvent, Stage};
use clawgate::token::{self, Limits};
use clawgate_protocol::code::Code;
use clawgate_protocol::message::Kind;
use clawgate_protocol::pairing::Suite;
use clawgate_protocol::sensor::Event;

use crate::gateway::{Gateway, Outcome, Place};
use crate::unit::{Unit, Way, label, text_of};
use crate::{SOON, until};

/// After a first wrong guess a label's sensor takes the next one so much later.
const LABEL_WAIT: Duration = Duration::from_secs(1);

fn wrong() -> Code {
    Code::parse(&text_of([1, 2, 3, 4, 5, 6, 7])).unwrap()
}

/// One sensor on one line.
async fn bench() -> (Place, Unit, Gateway) {
    let place = Place::new();
    let port = place.port("usb-sensor");
    let unit = Unit::plug_in(&port, "th-0001");
    let gateway = Gateway::start(&place, &[&port]);
    gateway.meets_a_sensor().await;
    (place, unit, gateway)
}

impl Gateway {
    fn make_code(&self, ttl: Duration) -> Code {
        let request = CodeRequest {
            label: None,
            stage: token::Stage::Prod,
            hardware_id: None,
            device: Some("pump-3".parse().unwrap()),
            scopes: vec![],
            limits: Limits::default(),
            ttl,
            idle: None,
            max_attempts: 3,
        };
        self.codes.new_code(request, Actor::Daemon).unwrap().1
    }

    /// Waits until an unpaired sensor has answered so many probes, each time with the window that it has open.
    async fn sees_windows(&self, unit: &Unit, count: usize) {
        let shown = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&shown);
        unit.bend(move |_, message| {
            counted.fetch_add(usize::from(Kind::of(&message) == Ok(Kind::Ident)), Ordering::Relaxed);
            vec![message]
        });
        let seen = tokio::time::timeout(SOON, async {
            while shown.load(Ordering::Relaxed) < count {
                self.links.scan(Duration::from_millis(100)).await;
            }
        });
        assert!(seen.await.is_ok(), "the gateway saw {} windows", shown.load(Ordering::Relaxed));
    }

    fn code_state(&self) -> (CodeState, u8) {
        let newest = self.codes.list().unwrap().remove(0);
        (newest.state, newest.attempts)
    }

    fn is_paired(&self, device: &str) -> bool {
        self.store.device(&device.parse().unwrap()).unwrap().is_some_and(|device| device.current.is_some())
    }
}

/// Stands in the wire and drops the first `count` messages of a kind.
fn drops(kind: Kind, mut count: u32) -> impl FnMut(Way, Vec<u8>) -> Vec<Vec<u8>> + Send + 'static {
    move |_, message| {
        if Kind::of(&message) == Ok(kind) && count > 0 {
            count -= 1;
            return vec![];
        }
        vec![message]
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sensor_is_paired_by_the_code_on_its_label() {
    let (_place, unit, gateway) = bench().await;
    unit.press_button().await;
    unit.measure(3);
    gateway.pair_label("line0", "pump-3", &label()).await.assert_paired();
    let made = unit.made().await;
    until("all three readings at the cloud", || gateway.cloud.readings() == made).await;
    let device = gateway.store.device(&"pump-3".parse().unwrap()).unwrap().unwrap();
    assert_eq!(
        (device.hardware_id.as_str(), device.info.capabilities),
        ("th-0001", vec!["temperature:Cel".to_owned()])
    );
    assert!(!device.info.sensor_name.contains('\u{1b}') && !device.info.firmware.contains('\u{1b}'));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_code_of_the_gateway_is_entered_at_the_sensor() {
    let (_place, unit, gateway) = bench().await;
    let issued = Ceremony::Issued { ttl: Duration::from_secs(60) };
    let mut events = gateway.pairing.pair(Gateway::request("th-0001", Some("pump-3"), issued));
    let Some(PairEvent::Code { code, .. }) = events.recv().await else { panic!("no code") };
    unit.enter(&code);
    unit.measure(1);
    Outcome::of(events).await.assert_paired();
    assert_eq!(gateway.code_state(), (CodeState::Used, 1));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_code_that_was_made_for_later_pairs_by_itself() {
    let (_place, unit, gateway) = bench().await;
    let code = gateway.make_code(Duration::from_secs(60));
    unit.enter(&code);
    unit.measure(2);
    until("readings at the cloud", || gateway.cloud.readings().len() == 2).await;
    assert!(gateway.is_paired("pump-3"));
    assert_eq!(gateway.code_state(), (CodeState::Used, 1));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_button_nothing_begins() {
    let (_place, _unit, gateway) = bench().await;
    let failure = gateway.pair_label("line0", "pump-3", &label()).await.failure();
    assert_eq!((failure.stage, failure.cause, failure.exit_code), (Stage::Connect, Cause::WindowClosed, 5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_label_code_says_when_to_try_again_and_the_right_one_pairs_then() {
    let (_place, unit, gateway) = bench().await;
    unit.press_button().await;
    unit.stop_clock();
    let failure = gateway.pair_label("line0", "pump-3", &wrong()).await.failure();
    assert_eq!((failure.stage, failure.cause, failure.exit_code), (Stage::Confirm, Cause::WrongCode, 4));
    assert_eq!(failure.message, "The code does not match. The sensor takes the next try in 1 s.");
    let failure = gateway.pair_label("line0", "pump-3", &label()).await.failure();
    assert_eq!((failure.stage, failure.cause), (Stage::KeyExchange, Cause::Refused));
    unit.pass(LABEL_WAIT);
    unit.measure(1);
    gateway.pair_label("line0", "pump-3", &label()).await.assert_paired();
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_entries_use_an_issued_code_up() {
    let (_place, unit, gateway) = bench().await;
    gateway.make_code(Duration::from_secs(60));
    for attempt in 1..=3 {
        unit.enter(&wrong());
        until("the attempt is counted", || gateway.code_state().1 == attempt).await;
        until("the sensor was refused", || {
            unit.look(|seen| seen.events.iter().filter(|e| matches!(e, Event::PairingFailed(_))).count())
                == usize::from(attempt)
        })
        .await;
    }
    until("the code is exhausted", || gateway.code_state() == (CodeState::Exhausted, 3)).await;
    assert!(!gateway.is_paired("pump-3") && unit.look(|seen| !seen.paired));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_code_begins_nothing() {
    let (_place, unit, gateway) = bench().await;
    let issued = Ceremony::Issued { ttl: Duration::from_secs(1) };
    let mut events = gateway.pairing.pair(Gateway::request("line0", Some("pump-3"), issued));
    let Some(PairEvent::Code { code, .. }) = events.recv().await else { panic!("no code") };
    let failure = Outcome::of(events).await.failure();
    assert_eq!((failure.cause, failure.exit_code), (Cause::CodeNotEntered, 5));
    unit.enter(&code);
    gateway.sees_windows(&unit, 3).await;
    assert_eq!(gateway.code_state(), (CodeState::Expired, 0));
    assert!(unit.look(|seen| seen.events.iter().all(|event| !matches!(event, Event::PairingFailed(_)))));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_code_that_is_revoked_meanwhile_says_by_whom() {
    let (_place, _unit, gateway) = bench().await;
    let issued = Ceremony::Issued { ttl: Duration::from_secs(60) };
    let mut events = gateway.pairing.pair(Gateway::request("line0", Some("pump-3"), issued));
    let Some(PairEvent::Code { id, .. }) = events.recv().await else { panic!("no code") };
    gateway.codes.revoke(&id.parse().unwrap(), Actor::Daemon, "lost").unwrap();
    let failure = Outcome::of(events).await.failure();
    assert_eq!((failure.cause, failure.exit_code), (Cause::CodeDead, 4));
    assert!(failure.message.contains("lost"), "{failure}");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_used_code_pairs_nobody_else() {
    let place = Place::new();
    let (first_port, second_port) = (place.port("usb-a"), place.port("usb-b"));
    let first = Unit::plug_in(&first_port, "th-0001");
    let second = Unit::plug_in(&second_port, "th-0002");
    let gateway = Gateway::start(&place, &[&first_port, &second_port]);
    let code = gateway.make_code(Duration::from_secs(60));
    first.enter(&code);
    until("the first is paired", || gateway.is_paired("pump-3")).await;
    second.enter(&code);
    gateway.sees_windows(&second, 3).await;
    assert!(second.look(|seen| !seen.paired));
    assert_eq!(gateway.store.devices().unwrap().len(), 1);
    // Nor the one it is bound to, when that was reset: it shows its window in each answer to a probe.
    let used = || gateway.audit.tail(100).unwrap().iter().any(|entry| entry.action == "code.used");
    until("the code is used", used).await;
    let before = gateway.pairing_of("pump-3");
    first.factory_reset();
    first.enter(&code);
    gateway.sees_windows(&first, 3).await;
    assert!(first.look(|seen| !seen.paired), "a used code paired again");
    assert_eq!(gateway.pairing_of("pump-3"), before);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_code_of_one_ceremony_is_nothing_in_the_other() {
    let (_place, unit, gateway) = bench().await;
    let code = gateway.make_code(Duration::from_secs(60));
    unit.press_button().await;
    let failure = gateway.pair_label("line0", "pump-3", &code).await.failure();
    assert_eq!(failure.cause, Cause::WrongCode);
    // The label's code, entered at the sensor: the gateway's own code is what it is tried against.
    unit.enter(&label());
    until("an attempt", || gateway.code_state() == (CodeState::Claimed, 1)).await;
    assert!(!gateway.is_paired("pump-3"));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_answers_burn_nothing() {
    let (_place, unit, gateway) = bench().await;
    let code = gateway.make_code(Duration::from_secs(60));
    unit.bend(|_, mut message| {
        if matches!(Kind::of(&message), Ok(Kind::M2 | Kind::M4)) {
            message.truncate(message.len() / 2);
        }
        vec![message]
    });
    unit.enter(&code);
    until("a run ended", || unit.look(|seen| seen.events.iter().any(|e| matches!(e, Event::PairingFailed(_))))).await;
    assert_eq!(gateway.code_state().1, 0);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_share_costs_one_attempt_and_both_ends_fail() {
    let (_place, unit, gateway) = bench().await;
    let code = gateway.make_code(Duration::from_secs(60));
    unit.bend(|_, mut message| {
        if Kind::of(&message) == Ok(Kind::M3) {
            let last = message.len() - 1;
            message[last] ^= 1;
        }
        vec![message]
    });
    unit.enter(&code);
    until("the attempt is counted", || gateway.code_state() == (CodeState::Claimed, 1)).await;
    until("both failed", || unit.look(|seen| seen.events.iter().any(|e| matches!(e, Event::PairingFailed(_))))).await;
    assert!(!gateway.is_paired("pump-3") && unit.look(|seen| !seen.paired));
    // What was entered is spent for this window; entered again over an honest wire it still pairs.
    unit.bend(|_, message| vec![message]);
    unit.enter(&code);
    until("paired", || gateway.is_paired("pump-3")).await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_transcript_played_again_pairs_nobody() {
    let (_place, unit, gateway) = bench().await;
    let heard = Arc::new(Mutex::new(Vec::<Vec<u8>>::new()));
    let tap = Arc::clone(&heard);
    unit.bend(move |way, message| {
        if way == Way::ToGateway && matches!(Kind::of(&message), Ok(Kind::M2 | Kind::M4 | Kind::M6)) {
            tap.lock().unwrap().push(message.clone());
        }
        vec![message]
    });
    let code = gateway.make_code(Duration::from_secs(60));
    unit.enter(&code);
    until("paired", || gateway.is_paired("pump-3")).await;
    let before = gateway.pairing_of("pump-3");
    unit.factory_reset();
    let old = heard.lock().unwrap().clone();
    unit.bend(move |_, message| {
        let kind = Kind::of(&message);
        let again = old.iter().find(|old| Kind::of(old) == kind).cloned();
        vec![again.unwrap_or(message)]
    });
    let request = CodeRequest {
        label: None,
        stage: token::Stage::Prod,
        hardware_id: None,
        device: Some("pump-3".parse().unwrap()),
        scopes: vec![],
        limits: Limits::default(),
        ttl: Duration::from_secs(60),
        idle: None,
        max_attempts: 3,
    };
    let (_, code) = gateway.codes.new_code(request, Actor::Daemon).unwrap();
    unit.enter(&code);
    until("the run failed", || unit.look(|seen| seen.events.iter().any(|e| matches!(e, Event::PairingFailed(_)))))
        .await;
    assert_eq!(gateway.pairing_of("pump-3"), before);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_message_of_each_kind_does_not_stop_a_pairing() {
    for kind in [Kind::M1, Kind::M2, Kind::M3, Kind::M4, Kind::M5, Kind::M6] {
        let (_place, unit, gateway) = bench().await;
        unit.bend(drops(kind, 1));
        unit.press_button().await;
        unit.measure(1);
        gateway.pair_label("line0", "pump-3", &label()).await.assert_paired();
        gateway.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sensor_whose_confirmation_never_arrives_proves_the_key_in_a_session() {
    let (_place, unit, gateway) = bench().await;
    unit.bend(drops(Kind::M6, u32::MAX));
    unit.press_button().await;
    unit.measure(1);
    gateway.pair_label("line0", "pump-3", &label()).await.assert_paired();
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paired_sensor_is_paired_again_without_its_button() {
    let (_place, unit, gateway) = bench().await;
    unit.press_button().await;
    unit.measure(1);
    gateway.pair_label("line0", "pump-3", &label()).await.assert_paired();
    let before = gateway.pairing_of("pump-3");
    until("the button's window is closed", || unit.look(|seen| seen.events.contains(&Event::WindowClosed))).await;
    // A wrong code leaves the old key in use.
    let failure = gateway.pair_label("pump-3", "pump-3", &wrong()).await.failure();
    assert_eq!(failure.cause, Cause::WrongCode);
    unit.measure(1);
    until("the old key goes on", || gateway.cloud.readings().len() == 2).await;
    assert_eq!(gateway.pairing_of("pump-3"), before);
    unit.pass(LABEL_WAIT);
    let label = label();
    let measure_under_the_new_key = async {
        until("the new key is in use", || gateway.pairing_of("pump-3") != before).await;
        unit.measure(1);
    };
    let (outcome, ()) = tokio::join!(gateway.pair_label("pump-3", "pump-3", &label), measure_under_the_new_key);
    outcome.assert_paired();
    until("everything came", || gateway.cloud.readings().len() == 3).await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sensor_that_only_pretends_to_be_another_changes_nothing() {
    let place = Place::new();
    let (port, other) = (place.port("usb-a"), place.port("usb-b"));
    let unit = Unit::plug_in(&port, "th-0001");
    let gateway = Gateway::start(&place, &[&port, &other]);
    gateway.meets_a_sensor().await;
    unit.press_button().await;
    unit.measure(1);
    gateway.pair_label("line0", "pump-3", &label()).await.assert_paired();
    let before = gateway.pairing_of("pump-3");
    let liar = Unit::plug_in(&other, "th-0001");
    until("the second shows itself", || gateway.links.ports()[1].frames_in > 0).await;
    liar.press_button().await;
    let failure = gateway.pair_label("line1", "pump-3", &wrong()).await.failure();
    assert_eq!(failure.cause, Cause::WrongCode);
    unit.measure(1);
    until("the true one goes on", || gateway.cloud.readings().len() == 2).await;
    assert_eq!(gateway.pairing_of("pump-3"), before);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_is_taken_is_said_before_an_attempt_is_used() {
    let place = Place::new();
    let (port, other) = (place.port("usb-a"), place.port("usb-b"));
    let (unit, second) = (Unit::plug_in(&port, "th-0001"), Unit::plug_in(&other, "th-0002"));
    let gateway = Gateway::start(&place, &[&port, &other]);
    gateway.meets_a_sensor().await;
    unit.press_button().await;
    unit.measure(1);
    gateway.pair_label("line0", "pump-3", &label()).await.assert_paired();
    second.press_button().await;
    let failure = gateway.pair_label("line1", "pump-3", &label()).await.failure();
    assert_eq!((failure.stage, failure.cause), (Stage::Connect, Cause::NameTaken));
    assert!(second.look(|seen| seen.events.iter().all(|event| !matches!(event, Event::PairingFailed(_)))));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_weak_a_suite_is_refused_by_policy() {
    let place = Place::new();
    let port = place.port("usb-sensor");
    let unit = Unit::plug_in(&port, "th-0001");
    let gateway = Gateway::start_with(&place, &[&port], Suite::Two);
    gateway.meets_a_sensor().await;
    unit.press_button().await;
    let failure = gateway.pair_label("line0", "pump-3", &label()).await.failure();
    assert_eq!((failure.cause, failure.exit_code), (Cause::Unsupported, 6));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_there_is_not_found() {
    let (_place, unit, gateway) = bench().await;
    let failure = gateway.pair_label("7f3a", "pump-3", &label()).await.failure();
    assert_eq!((failure.cause, failure.exit_code), (Cause::NotFound, 3));
    drop(unit);
    until("the port is closed", || !gateway.links.ports()[0].condition.to_string().contains("open")).await;
    let failure = gateway.pair_label("line0", "pump-3", &label()).await.failure();
    assert_eq!((failure.cause, failure.exit_code), (Cause::Port, 6));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_pairing_is_audited() {
    let (_place, unit, gateway) = bench().await;
    unit.press_button().await;
    gateway.pair_label("line0", "pump-3", &wrong()).await.failure();
    unit.pass(LABEL_WAIT);
    unit.measure(1);
    gateway.pair_label("line0", "pump-3", &label()).await.assert_paired();
    let entries = format!("{:?}", gateway.audit.tail(10).unwrap());
    assert_eq!(entries.matches("device.pair").count(), 2, "{entries}");
    assert!(!entries.contains(&label().to_string()) && !entries.contains(&wrong().to_string()));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempt_and_key_are_on_the_disk_before_the_sensor_hears_of_them() {
    let (_place, unit, gateway) = bench().await;
    let code = gateway.make_code(Duration::from_secs(60));
    let (codes, store) = (gateway.codes.clone(), gateway.store.clone());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let tap = Arc::clone(&seen);
    unit.bend(move |_, message| {
        let attempts = || codes.list().unwrap()[0].attempts;
        let has_key = || store.devices().unwrap().iter().any(|device| device.pending.is_some());
        // The sensor's tag, before the gateway has it; the gateway's own, when it has verified that.
        if let Ok(kind @ (Kind::M4 | Kind::M5 | Kind::Refuse)) = Kind::of(&message) {
            tap.lock().unwrap().push((kind, attempts(), has_key()));
        }
        vec![message]
    });
    unit.enter(&wrong());
    until("the first is refused", || seen.lock().unwrap().len() == 2).await;
    unit.enter(&code);
    until("paired", || gateway.is_paired("pump-3")).await;
    let expected = [(Kind::M4, 0, false), (Kind::Refuse, 1, false), (Kind::M4, 1, false), (Kind::M5, 2, true)];
    assert_eq!(*seen.lock().unwrap(), expected);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_code_that_is_revoked_during_its_run_pairs_nobody() {
    let (_place, unit, gateway) = bench().await;
    let issued = Ceremony::Issued { ttl: Duration::from_secs(60) };
    let mut events = gateway.pairing.pair(Gateway::request("line0", Some("pump-3"), issued));
    let Some(PairEvent::Code { id, code, .. }) = events.recv().await else { panic!("no code") };
    let codes = gateway.codes.clone();
    unit.bend(move |_, message| {
        if Kind::of(&message) == Ok(Kind::M6) {
            // A second M6 finds it revoked already.
            let _ = codes.revoke(&id.parse().unwrap(), Actor::Daemon, "lost");
        }
        vec![message]
    });
    unit.enter(&code);
    let failure = Outcome::of(events).await.failure();
    assert_eq!(failure.cause, Cause::CodeDead, "{failure}");
    assert!(!gateway.is_paired("pump-3"));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_pairing_at_one_port_is_told_to_wait() {
    let (_place, unit, gateway) = bench().await;
    // The sensor is deaf, so that the first pairing waits for it.
    unit.bend(|way, message| if way == Way::ToSensor { vec![] } else { vec![message] });
    let first = gateway.pairing.pair(Gateway::request("line0", None, Ceremony::Label(label())));
    let failure = gateway.pair_label("line0", "pump-3", &label()).await.failure();
    assert_eq!((failure.cause, failure.exit_code), (Cause::Occupied, 2));
    assert_eq!(Outcome::of(first).await.failure().cause, Cause::NoAnswer);
    gateway.stop().await;
}
