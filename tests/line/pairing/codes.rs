//! A code's life as the line sees it: wrong, expired, revoked, used up, of the other ceremony.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use clawgate::audit::Actor;
use clawgate::pairing::code::CodeState;
use clawgate::pairing::{Cause, Ceremony, PairEvent, Stage};
use clawgate_protocol::message::Kind;
use clawgate_protocol::sensor::Event;

use super::{LABEL_WAIT, bench, wrong};
use crate::gateway::{Gateway, Outcome, Place};
use crate::unit::{Unit, label};
use crate::until;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_code_that_was_made_for_later_pairs_by_itself() {
    let (_place, unit, gateway) = bench().await;
    let code = gateway.make_code(Duration::from_secs(600));
    unit.enter(&code);
    unit.measure(2);
    until("readings at the cloud", || gateway.cloud.readings().len() == 2).await;
    assert!(gateway.is_paired("pump-3"));
    assert_eq!(gateway.code_state(), (CodeState::Used, 1));
    gateway.stop().await;
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
    gateway.make_code(Duration::from_secs(600));
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
    let issued = Ceremony::Issued { ttl: Duration::from_secs(600) };
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
    let code = gateway.make_code(Duration::from_secs(600));
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
    let code = gateway.make_code(Duration::from_secs(600));
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
async fn attempt_and_key_are_on_the_disk_before_the_sensor_hears_of_them() {
    let (_place, unit, gateway) = bench().await;
    let code = gateway.make_code(Duration::from_secs(600));
    let (codes, store) = (gateway.codes.clone(), gateway.store.clone());
    let seen = Arc::new(Mutex::new(Vec::<(Kind, u8, bool)>::new()));
    let tap = Arc::clone(&seen);
    unit.bend(move |_, message| {
        let attempts = || codes.list().unwrap()[0].attempts;
        let has_key = || store.devices().unwrap().iter().any(|device| device.pending.is_some());
        // The sensor's tag, before the gateway has it; the gateway's own, when it has verified that.
        if let Ok(kind @ (Kind::M4 | Kind::M5 | Kind::Refuse)) = Kind::of(&message) {
            let mut seen = tap.lock().unwrap();
            // What is slow to come is asked for again: the first of its kind counts.
            if seen.last().is_none_or(|(before, ..)| *before != kind) {
                seen.push((kind, attempts(), has_key()));
            }
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
    let issued = Ceremony::Issued { ttl: Duration::from_secs(600) };
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
