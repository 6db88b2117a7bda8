//! A session that is renewed while readings flow: the gateway's front half runs by a clock of the test's own.

use std::time::{Duration, Instant};

use clawgate::clock::Clock;
use clawgate_protocol::code::Code;
use clawgate_protocol::pairing::Suite;

use crate::gateway::{Gateway, Place};
use crate::unit::{BIG, Unit};
use crate::{LABEL, SOON};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_renewed_after_a_day_under_traffic() {
    let clock = Clock::manual(Duration::from_secs(1_700_000_000));
    let place = Place::new();
    let port = place.port("usb-sensor");
    let folder = tempfile::tempdir().unwrap();
    let line = port.display().to_string();
    let Some(mut unit) = Unit::start(&BIG, folder.path(), &["--label", LABEL, "--line", &line]) else { return };
    let gateway = Gateway::start_at(&place, &[&port], Suite::One, &clock);
    gateway.meets_a_sensor().await;
    unit.tell("button");
    unit.until("pairing window open", 1);
    unit.tell("read 1");
    gateway.pair_label("line0", "pump-3", &Code::parse(LABEL).unwrap()).await.assert_paired();
    unit.until("session open", 1);
    unit.until_all_are_safe();

    clock.advance(Duration::from_hours(24));
    let mut made = 1;
    // Never silent: a sensor that falls silent is looked after with a new session anyway.
    let end = Instant::now() + SOON;
    while unit.count("session open") < 2 {
        assert!(Instant::now() < end, "not renewed: {}", unit.status());
        unit.tell("read 5");
        made += 5;
        unit.until_all_are_safe();
    }
    unit.tell("read 50");
    made += 50;
    unit.until_all_are_safe();
    let status = unit.status();
    assert_eq!(status["made"], made);
    crate::until("every reading at the cloud", || gateway.cloud.readings().len() == made).await;
    assert_eq!(gateway.cloud.look(<[_]>::len), made, "a reading went out twice");
    assert_eq!(unit.count("session open"), 2, "it was renewed more than once");
    assert_eq!(unit.count("ready"), 1);
    gateway.stop().await;
}
