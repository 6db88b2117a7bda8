//! Pairing over a real line: who is paired, who is not and why. [`codes`]: how a code lives and dies; [`wire`]: what
//! stands in the wire.

mod codes;
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
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
    pub(crate) fn make_code(&self, ttl: Duration) -> Code {
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
    pub(crate) async fn sees_windows(&self, unit: &Unit, count: usize) {
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

    pub(crate) fn code_state(&self) -> (CodeState, u8) {
        let newest = self.codes.list().unwrap().remove(0);
        (newest.state, newest.attempts)
    }

    pub(crate) fn is_paired(&self, device: &str) -> bool {
        self.store.device(&device.parse().unwrap()).unwrap().is_some_and(|device| device.current.is_some())
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
    let issued = Ceremony::Issued { ttl: Duration::from_secs(600) };
    let mut events = gateway.pairing.pair(Gateway::request("th-0001", Some("pump-3"), issued));
    let Some(PairEvent::Code { code, .. }) = events.recv().await else { panic!("no code") };
    unit.enter(&code);
    unit.measure(1);
    Outcome::of(events).await.assert_paired();
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
async fn a_second_pairing_at_one_port_is_told_to_wait() {
    let (_place, unit, gateway) = bench().await;
    // The sensor is deaf, so that the first pairing waits for it.
    unit.bend(|way, message| if way == Way::ToSensor { vec![] } else { vec![message] });
    let label = label();
    let mut was_told = false;
    for _ in 0..10 {
        let pair = || gateway.pair_label("line0", "pump-3", &label);
        let (one, other) = tokio::join!(pair(), pair());
        let (one, other) = (one.failure(), other.failure());
        // Whichever came first. On a stalled machine the second may come only when the first has given up.
        let (first, second) = if one.cause == Cause::Occupied { (other, one) } else { (one, other) };
        assert_eq!(first.cause, Cause::NoAnswer);
        if second.cause != Cause::NoAnswer {
            assert_eq!((second.cause, second.exit_code), (Cause::Occupied, 2));
            was_told = true;
            break;
        }
    }
    assert!(was_told, "no second pairing was told to wait");
    gateway.stop().await;
}
