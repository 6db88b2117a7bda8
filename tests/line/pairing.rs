//! Pairing over a real line: both ceremonies, every way a code fails, and what an attacker on the wire gets.

use clawgate::pairing::{Cause, Stage};

use crate::gateway::{Gateway, Place};
use crate::unit::{Unit, label};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sensor_is_paired_by_the_code_on_its_label() {
    let place = Place::new();
    let port = place.port("usb-sensor");
    let unit = Unit::plug_in(&port, "th-0001");
    let gateway = Gateway::start(&place, &[&port]);
    gateway.meets_a_sensor().await;
    unit.press_button();
    unit.measure(3);
    gateway.pair_label("line0", "pump-3", &label()).await.assert_paired();
    assert_eq!(gateway.cloud.readings(), unit.look(|seen| seen.made.clone()));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_button_nothing_begins() {
    let place = Place::new();
    let port = place.port("usb-sensor");
    let _unit = Unit::plug_in(&port, "th-0001");
    let gateway = Gateway::start(&place, &[&port]);
    gateway.meets_a_sensor().await;
    let failure = gateway.pair_label("line0", "pump-3", &label()).await.failure();
    assert_eq!((failure.stage, failure.cause, failure.exit_code), (Stage::Connect, Cause::WindowClosed, 5));
}
