//! Sessions over a real line: readings arrive once and in order whatever happens to the wire or to either end.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clawgate::clock::Clock;
use clawgate::spool::{Capture, Kind as Entry};
use clawgate_protocol::message::Kind;
use clawgate_protocol::pairing::Suite;
use clawgate_protocol::sensor::Event;

use crate::gateway::{Gateway, Place};
use crate::unit::{Unit, Way, label};
use crate::until;

/// One paired sensor with one reading at the cloud.
async fn paired() -> (Place, Unit, Gateway) {
    paired_at(Clock::system()).await
}

async fn paired_at(clock: Clock) -> (Place, Unit, Gateway) {
    let place = Place::new();
    let port = place.port("usb-sensor");
    let unit = Unit::plug_in(&port, "th-0001");
    let gateway = Gateway::start_at(&place, &[&port], Suite::One, &clock);
    gateway.meets_a_sensor().await;
    unit.press_button().await;
    unit.measure(1);
    gateway.pair_label("line0", "pump-3", &label()).await.assert_paired();
    (place, unit, gateway)
}

/// Everything that was made is at the cloud, in order and confirmed, so that a restart repeats nothing; the sensor holds
/// nothing any more.
async fn all_arrived(unit: &Unit, gateway: &Gateway) {
    let made = unit.made().await;
    until("every reading at the cloud", || gateway.cloud.readings() == made).await;
    until("every reading acknowledged", || unit.look(|seen| seen.held == 0)).await;
    until("all is confirmed", || gateway.cloud.has_confirmed_all()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readings_arrive_once_and_in_order() {
    let (_place, unit, gateway) = paired().await;
    for _ in 0..20 {
        unit.measure(50);
    }
    all_arrived(&unit, &gateway).await;
    let raw: Vec<u64> = gateway.cloud.look(|taken| taken.iter().map(|out| out.id.seq).collect());
    assert_eq!(raw, (1..=1001).collect::<Vec<_>>());
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lossy_line_loses_nothing_and_a_doubling_one_doubles_nothing() {
    let (_place, unit, gateway) = paired().await;
    let mut count = 0_u32;
    unit.bend(move |_, message| {
        count += 1;
        match count % 7 {
            0 => vec![],
            1 | 2 => vec![message.clone(), message],
            _ => vec![message],
        }
    });
    for _ in 0..20 {
        unit.measure(50);
    }
    all_arrived(&unit, &gateway).await;
    assert_eq!(gateway.cloud.look(<[_]>::len), 1001, "a reading went out twice");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_gateway_goes_on_where_it_was() {
    let (place, unit, gateway) = paired().await;
    let port = place.port("usb-sensor");
    unit.measure(100);
    all_arrived(&unit, &gateway).await;
    let pairing = gateway.pairing_of("pump-3");
    gateway.stop().await;
    unit.measure(100);
    let gateway = Gateway::start(&place, &[&port]);
    until("the rest arrives", || gateway.cloud.readings().len() == 100).await;
    assert_eq!(gateway.pairing_of("pump-3"), pairing);
    until("acknowledged", || unit.look(|seen| seen.held == 0)).await;
    let first = gateway.cloud.look(|taken| taken.iter().map(|out| out.id.seq).min());
    assert_eq!(first, Some(102), "a reading that was safe before came again");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_stops_tells_the_sensor_what_is_safe_before_it_goes() {
    let (place, unit, gateway) = paired().await;
    let port = place.port("usb-sensor");
    all_arrived(&unit, &gateway).await;
    gateway.stop().await;
    let gateway = Gateway::start_without_cloud(&place, &[&port]);
    unit.measure(20);
    until("they are here", || gateway.cloud.waiting() == 20).await;
    assert_eq!(unit.look(|seen| seen.held), 20, "neither confirmed nor on disk");
    gateway.stop().await;
    until("the sensor need not keep them", || unit.look(|seen| seen.held == 0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sensor_that_loses_power_is_back_within_seconds() {
    let (_place, unit, gateway) = paired().await;
    unit.measure(10);
    all_arrived(&unit, &gateway).await;
    unit.power_cycle();
    unit.measure(10);
    until("the readings of its new life", || gateway.cloud.readings().len() == 21).await;
    let epochs: std::collections::BTreeSet<u64> =
        gateway.cloud.readings().into_iter().map(|(epoch, _)| epoch).collect();
    assert_eq!(epochs.len(), 2, "a new reading was taken for an old one");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sensor_that_starts_while_the_disk_is_full_is_relayed_all_the_same() {
    let place = Place::new();
    let state = place.state();
    std::fs::create_dir_all(&state).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"]).arg(&state).status();
    if !mounted.is_ok_and(|status| status.success()) {
        return eprintln!("not run: mounting a small file system needs root");
    }
    let port = place.port("usb-sensor");
    let unit = Unit::plug_in(&port, "th-0001");
    let gateway = Gateway::start(&place, &[&port]);
    gateway.meets_a_sensor().await;
    unit.press_button().await;
    unit.measure(1);
    gateway.pair_label("line0", "pump-3", &label()).await.assert_paired();
    let ballast = state.join("ballast");
    assert!(std::fs::write(&ballast, vec![0; 16 << 20]).is_err(), "the disk is full now");
    unit.power_cycle();
    unit.measure(10);
    until("the readings of its new life", || gateway.cloud.readings().len() == 11).await;
    until("every reading acknowledged", || unit.look(|seen| seen.held == 0)).await;
    std::fs::remove_file(&ballast).unwrap();
    gateway.stop().await;
    assert!(Command::new("umount").arg("-l").arg(&state).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sensor_that_starts_again_is_back_before_its_silence_is_noticed() {
    // Silence is noticed after three seconds at the earliest; on a busy machine a single try may be slow.
    let (_place, unit, gateway) = paired().await;
    unit.measure(1);
    all_arrived(&unit, &gateway).await;
    let mut fastest = Duration::MAX;
    for lives in 2..8 {
        let begun = tokio::time::Instant::now();
        unit.power_cycle();
        unit.measure(1);
        until("the readings of its new life", || {
            let epochs: std::collections::BTreeSet<_> =
                gateway.cloud.readings().into_iter().map(|(epoch, _)| epoch).collect();
            epochs.len() >= lives
        })
        .await;
        fastest = fastest.min(begun.elapsed());
        if fastest < Duration::from_secs(2) {
            break;
        }
    }
    assert!(fastest < Duration::from_secs(2), "it came back only after {fastest:?}");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ident_that_anybody_can_send_starts_no_storm_of_handshakes() {
    let (_place, unit, gateway) = paired().await;
    let begun = Arc::new(AtomicUsize::new(0));
    let by_the_gateway = Arc::clone(&begun);
    let ident: Arc<std::sync::Mutex<Option<Vec<u8>>>> = Arc::default();
    // The Ident of its restart is sent again with every record that follows.
    unit.bend(move |_, message| {
        let mut ident = ident.lock().unwrap();
        match Kind::of(&message) {
            Ok(Kind::Handshake1) => drop(by_the_gateway.fetch_add(1, Ordering::Relaxed)),
            Ok(Kind::Ident) => *ident = Some(message.clone()),
            Ok(Kind::Record) => return ident.iter().cloned().chain([message]).collect(),
            _ => {}
        }
        vec![message]
    });
    let started = tokio::time::Instant::now();
    unit.power_cycle();
    for count in 2..60 {
        unit.measure(1);
        until("the reading", || gateway.cloud.readings().len() == count).await;
    }
    let (count, seconds) = (begun.load(Ordering::Relaxed), started.elapsed().as_secs());
    // Each reading is a chance to begin one; on a slow machine the gateway also looks after a sensor that is late.
    assert!(count as u64 <= 3 + seconds, "{count} handshakes within {seconds} s for one restart");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sensor_that_is_unplugged_and_plugged_into_another_port_goes_on() {
    let (place, unit, gateway) = paired().await;
    let (flash, old) = (unit.flash(), unit.slave().to_owned());
    unit.measure(2000);
    // Made while there is the old one: the kernel gives the name of a line that is gone to the next.
    let line = Unit::line();
    drop(unit);
    let unit = Unit::plug_into(line, &place.port("usb-sensor"), "th-0001", flash);
    assert_ne!(unit.slave(), old);
    unit.measure(5);
    until("its readings", || {
        let here = gateway.cloud.readings();
        unit.look(|seen| seen.made.len() == 5 && seen.made.iter().all(|name| here.contains(name)))
    })
    .await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replayed_handshakes_and_records_change_nothing() {
    let (_place, unit, gateway) = paired().await;
    let mut heard: Vec<(Way, Vec<u8>)> = Vec::new();
    let begun = Arc::new(AtomicUsize::new(1));
    let by_the_gateway = Arc::clone(&begun);
    unit.bend(move |way, message| {
        by_the_gateway.fetch_add(usize::from(Kind::of(&message) == Ok(Kind::Handshake1)), Ordering::Relaxed);
        let is_session = matches!(Kind::of(&message), Ok(Kind::Handshake1 | Kind::Handshake2 | Kind::Record));
        let mut out: Vec<Vec<u8>> = heard.iter().filter(|(old, _)| *old == way).map(|(_, old)| old.clone()).collect();
        if is_session && heard.len() < 20 {
            heard.push((way, message.clone()));
        }
        out.push(message);
        out
    });
    for _ in 0..10 {
        unit.measure(10);
    }
    all_arrived(&unit, &gateway).await;
    assert_eq!(gateway.cloud.look(<[_]>::len), 101);
    let opened = unit.look(|seen| seen.events.iter().filter(|event| **event == Event::SessionOpened).count());
    // On a busy machine the gateway itself may look after the sensor with a new one.
    assert!(opened <= begun.load(Ordering::Relaxed), "a replay opened a session");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_renewed_after_a_day_under_traffic() {
    let clock = Clock::manual(Duration::from_secs(1_700_000_000));
    let (_place, unit, gateway) = paired_at(clock.clone()).await;
    let sessions = || unit.look(|seen| seen.events.iter().filter(|event| **event == Event::SessionOpened).count());
    all_arrived(&unit, &gateway).await;
    let (before, begun) = (sessions(), tokio::time::Instant::now());
    clock.advance(Duration::from_hours(24));
    // Never silent: a sensor that falls silent is looked after with a new session anyway.
    let mut measured = 1;
    until("a second session", || {
        // The ones before were made and are safe: the sensor's memory never overflows.
        if unit.look(|seen| seen.made.len() == measured && seen.held == 0) {
            unit.measure(5);
            measured += 5;
        }
        sessions() > before
    })
    .await;
    unit.measure(50);
    measured += 50;
    until("every reading is made", || unit.look(|seen| seen.made.len() == measured)).await;
    all_arrived(&unit, &gateway).await;
    assert_eq!(gateway.cloud.look(<[_]>::len), measured, "a reading went out twice");
    // On a slow machine the sensor may be silent for so long that it is looked after.
    let looked_after = begun.elapsed().as_secs() / 3;
    assert!((sessions() - before) as u64 <= 1 + looked_after, "it was renewed more than once");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sensor_without_a_clock_gets_the_same_times_after_a_restart() {
    let (place, unit, gateway) = paired().await;
    let port = place.port("usb-sensor");
    let is_mapped = gateway.cloud.look(|taken| taken.iter().all(|out| out.captured == Capture::Mapped));
    if !is_mapped {
        // This machine's clock is synchronised, so the sensor was told the time.
        return gateway.stop().await;
    }
    let pairing = gateway.pairing_of("pump-3");
    let epoch = gateway.cloud.readings()[0].0;
    all_arrived(&unit, &gateway).await;
    let anchor = gateway.store.anchor(pairing, epoch).unwrap();
    assert!(anchor.is_some());
    gateway.stop().await;
    unit.measure(1);
    let gateway = Gateway::start(&place, &[&port]);
    until("the next reading", || gateway.cloud.readings().len() == 1).await;
    assert_eq!(gateway.store.anchor(pairing, epoch).unwrap(), anchor);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readings_that_a_sensor_had_to_drop_are_reported_as_a_gap() {
    let (place, unit, gateway) = paired().await;
    all_arrived(&unit, &gateway).await;
    gateway.stop().await;
    // More than its memory holds, while nobody listens.
    unit.measure(20_000);
    let gateway = Gateway::start(&place, &[&place.port("usb-sensor")]);
    until("what it still has", || unit.look(|seen| seen.made.len() == 20_001 && seen.held == 0)).await;
    until("the rest at the cloud", || gateway.cloud.readings().last().is_some_and(|(_, seq)| *seq == 20_001)).await;
    let (gaps, missing) = gateway.cloud.look(|taken| {
        let gaps = taken.iter().filter_map(|out| match out.kind {
            Entry::Gap { to } => Some(to - out.id.seq + 1),
            Entry::Telemetry => None,
        });
        let readings = taken.iter().filter(|out| out.kind == Entry::Telemetry).count() as u64;
        (gaps.sum::<u64>(), 20_000 - readings)
    });
    assert!(gaps > 0);
    assert_eq!(gaps, missing, "what is missing is not what was reported missing");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unpaired_sensor_forgets_its_key() {
    let (_place, unit, gateway) = paired().await;
    let known = gateway.store.device(&"pump-3".parse().unwrap()).unwrap().unwrap();
    let begun = tokio::time::Instant::now();
    let is_confirmed = gateway.links.unpair(&known).await;
    // It waits for three seconds: on a stalled machine the answer may come later.
    assert!(is_confirmed || begun.elapsed() >= Duration::from_secs(3), "the sensor did not confirm");
    gateway.store.remove_device(&known).unwrap();
    until("the key is gone", || unit.look(|seen| !seen.paired)).await;
    assert!(!gateway.links.unpair(&known).await);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_dies_before_the_confirmation_finds_old_key_or_new() {
    for lost in [Kind::M5, Kind::M6] {
        let (place, unit, gateway) = paired().await;
        let before = gateway.pairing_of("pump-3");
        unit.bend(move |_, message| if Kind::of(&message) == Ok(lost) { vec![] } else { vec![message] });
        let request = Gateway::request("pump-3", None, clawgate::pairing::Ceremony::Label(label()));
        let _events = gateway.pairing.pair(request);
        let device = "pump-3".parse().unwrap();
        until("the new key is pending", || gateway.store.device(&device).unwrap().unwrap().pending.is_some()).await;
        gateway.stop().await;
        unit.bend(|_, message| vec![message]);
        unit.measure(1);
        let gateway = Gateway::start(&place, &[&place.port("usb-sensor")]);
        // A device with a pending key: its relay follows whichever key is proven.
        until("a session under either key", || unit.look(|seen| seen.connected)).await;
        until("the reading arrives", || !gateway.cloud.readings().is_empty()).await;
        let after = gateway.pairing_of("pump-3");
        assert!(lost == Kind::M6 || after == before, "a key that the sensor never took is current");
        gateway.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn identify_makes_the_sensor_blink() {
    let (_place, unit, gateway) = paired().await;
    gateway.links.identify("pump-3", Duration::from_secs(7)).await.unwrap();
    until("it blinks", || unit.look(|seen| seen.events.contains(&Event::Blink { seconds: 7 }))).await;
    assert!(gateway.links.identify("nobody", Duration::from_secs(1)).await.is_err());
    gateway.stop().await;
}
