//! Ports that come, go, are held by others, or carry nothing but noise: none of them stops another.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use clawgate::link::uart::{PortOptions, UartOptions};
use clawgate::link::{FoundState, LineCondition, PortCondition};
use clawgate_protocol::sensor::Event;
use tokio::io::AsyncWriteExt as _;
use tokio_serial::{SerialPort as _, SerialStream};

use crate::gateway::{Gateway, Place};
use crate::unit::{Unit, label};
use crate::until;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_another_process_holds_is_named_and_taken_when_it_is_free() {
    let place = Place::new();
    let port = place.port("usb-sensor");
    let unit = Unit::plug_in(&port, "th-0001");
    let mut holder = Command::new("flock")
        .args(["--exclusive", unit.slave().to_str().unwrap(), "sh", "-c", "echo held; exec cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0; 5];
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut said).unwrap();
    let gateway = Gateway::start(&place, &[&port]);
    until("the holder is named", || {
        matches!(
            gateway.links.ports().first().map(|port| port.condition.clone()),
            Some(PortCondition::Busy { pid: Some(_), process: Some(_) })
        )
    })
    .await;
    holder.kill().unwrap();
    holder.wait().unwrap();
    gateway.meets_a_sensor().await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_do_not_share_a_port() {
    let (place, second_place) = (Place::new(), Place::new());
    let port = place.port("usb-sensor");
    let _unit = Unit::plug_in(&port, "th-0001");
    let first = Gateway::start(&place, &[&port]);
    first.meets_a_sensor().await;
    let second = Gateway::start(&second_place, &[&port]);
    until("the second is told", || {
        matches!(second.links.ports().first().map(|p| p.condition.clone()), Some(PortCondition::Busy { .. }))
    })
    .await;
    first.stop().await;
    second.meets_a_sensor().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_is_absent_is_taken_when_it_comes() {
    let place = Place::new();
    let port = place.port("usb-sensor");
    let gateway = Gateway::start(&place, &[&port]);
    until("it is absent", || gateway.links.ports().first().is_some_and(|port| port.condition == PortCondition::Absent))
        .await;
    let unit = Unit::plug_in(&port, "th-0001");
    gateway.meets_a_sensor().await;
    let found = gateway.links.scan(Duration::from_millis(100)).await;
    assert_eq!((found[0].id.as_str(), &found[0].state), ("line0", &FoundState::Closed));
    assert!(!found[0].name.contains('\u{1b}') && found[0].link.ends_with("by-id/usb-sensor"), "{found:?}");
    drop(unit);
    until("it is gone", || gateway.links.ports()[0].condition == PortCondition::Absent).await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_of_noise_is_named_and_the_other_port_pairs() {
    let place = Place::new();
    let (noisy, port) = (place.port("usb-a"), place.port("usb-b"));
    let (mut wire, keep) = SerialStream::pair().unwrap();
    std::os::unix::fs::symlink(keep.name().unwrap(), &noisy).unwrap();
    let hiss = tokio::spawn(async move {
        let mut byte = 1_u8;
        loop {
            let burst: Vec<u8> = (0..500)
                .map(|_| {
                    byte = byte.wrapping_mul(157).wrapping_add(91);
                    byte
                })
                .collect();
            wire.write_all(&burst).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let unit = Unit::plug_in(&port, "th-0001");
    let gateway = Gateway::start(&place, &[&noisy, &port]);
    until("the noise is named", || {
        gateway.links.ports().first().is_some_and(|port| port.line == LineCondition::WrongBaudRate)
    })
    .await;
    unit.press_button().await;
    unit.measure(1);
    until("the other answers", || gateway.links.ports()[1].frames_in > 0).await;
    gateway.pair_label("line1", "pump-3", &label()).await.assert_paired();
    let failure = gateway.pair_label("line0", "pump-4", &label()).await.failure();
    assert!(failure.message.contains("baud"), "{failure}");
    hiss.abort();
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_takes_up_new_ports_and_gives_up_others() {
    let place = Place::new();
    let (first, second) = (place.port("usb-a"), place.port("usb-b"));
    let (one, _two) = (Unit::plug_in(&first, "th-0001"), Unit::plug_in(&second, "th-0002"));
    let gateway = Gateway::start(&place, &[&first]);
    gateway.meets_a_sensor().await;
    one.press_button().await;
    one.measure(1);
    gateway.pair_label("line0", "pump-3", &label()).await.assert_paired();
    let option = |name: &str, path: &Path| PortOptions { name: name.to_owned(), path: path.to_owned(), baud: 115_200 };
    let glob = option("more", &first.with_file_name("usb-*"));
    let opened = || one.look(|seen| seen.events.iter().filter(|event| **event == Event::SessionOpened).count());
    let (at_first, begun) = (opened(), tokio::time::Instant::now());
    gateway.links.reload(UartOptions { ports: vec![option("line0", &first), glob.clone()] });
    let names = || gateway.links.ports().into_iter().map(|port| port.alias).collect::<Vec<_>>();
    until("both are open", || {
        // Never silent: a sensor that falls silent is looked after with a new session anyway.
        if one.look(|seen| seen.held == 0) {
            one.measure(1);
        }
        names() == ["line0", "more"] && gateway.links.ports().iter().all(|port| port.condition == PortCondition::Open)
    })
    .await;
    let before = gateway.cloud.readings().len();
    one.measure(1);
    until("the session goes on", || gateway.cloud.readings().len() > before).await;
    // On a slow machine the sensor may be silent for so long that it is looked after.
    let looked_after = begun.elapsed().as_secs() / 3;
    assert!((opened() - at_first) as u64 <= looked_after, "a port that stays was disturbed");
    gateway.links.reload(UartOptions { ports: vec![glob] });
    until("both are of the glob", || names() == ["more", "more.2"]).await;
    gateway.links.reload(UartOptions { ports: vec![option("line1", &second)] });
    until("one is left", || names() == ["line1"]).await;
    gateway.stop().await;
}
