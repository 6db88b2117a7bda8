//! Data is expected and missing: the ladder is climbed, step by step, and what was done is said.

use crate::bluez::device::Weather;
use crate::rig::Rig;

#[test]
fn an_adapter_that_hears_nothing_more_is_told_to_listen_anew_and_then_switched_off_and_on() {
    let rig = Rig::start();
    let mut unit = rig.sensor(1, &["--every", "50ms"]);
    rig.pair(&mut unit, "pump-1");
    rig.readings(&unit, 5);
    rig.daemon.wait("it listens again", |_| rig.bluez.world().deeds.last() == Some(&"listen"));
    rig.bluez.world().deeds.clear();
    rig.bluez.wedge("hci0");
    let last = || rig.status()["radios"][0]["last_recovery"].as_str().unwrap_or_default().to_owned();
    // A minute for each rung: longer than any sensor is silent by design.
    rig.daemon.wait_long("discovery is restarted", |_| last() == "ble hci0: discovery restarted");
    rig.daemon.wait("at the adapter too", |_| rig.bluez.world().deeds.ends_with(&["rest", "listen"]));
    rig.daemon.wait_long("the adapter is power-cycled", |_| last() == "ble hci0: adapter power-cycled");
    rig.readings(&unit, 5);
    let deeds = rig.bluez.world().deeds.clone();
    let off = deeds.iter().position(|deed| *deed == "off").expect("it was switched off");
    assert_eq!(deeds[..off], ["rest", "listen", "rest", "listen"], "listening anew was tried twice before");
    assert_eq!(deeds[off..off + 3], ["off", "on", "listen"], "and on again");
    assert_eq!(deeds.iter().filter(|deed| **deed == "off").count(), 1);
    assert_eq!(rig.status()["radios"][0]["recoveries"], 3);
    let log = rig.daemon.log();
    for (step, times) in [("discovery restarted", 2), ("adapter power-cycled", 1)] {
        let said = log.lines().filter(|line| line.contains("expected data is missing") && line.contains(step));
        assert_eq!(said.count(), times, "{step}: {log}");
    }
}

#[test]
fn a_deaf_link_is_subscribed_anew_then_made_anew_and_a_stale_device_is_removed() {
    let rig = Rig::start();
    let mut unit = rig.sensor(1, &["--every", "50ms"]);
    rig.pair(&mut unit, "pump-1");
    rig.readings(&unit, 5);
    let (subscribed, connects) = (rig.bluez.calls("StartNotify"), rig.bluez.calls("Connect"));
    rig.bluez.at(&unit.address, |device| device.weather = Weather::Deaf);
    rig.daemon.wait("notifications are subscribed anew", |_| rig.bluez.calls("StartNotify") > subscribed);
    assert_eq!(rig.bluez.calls("Connect"), connects, "first on the link that there is");
    rig.daemon.wait("the link is made anew", |daemon| daemon.log().contains("link made anew"));
    rig.daemon.wait("by ending the one there was", |daemon| {
        daemon.log().lines().any(|line| line.contains("disconnected") && line.contains("the device is gone"))
    });
    rig.daemon.wait("and connecting", |_| rig.bluez.calls("Connect") > connects);
    rig.bluez.at(&unit.address, |device| device.weather = Weather::Fair);
    rig.readings(&unit, 5);
    // What BlueZ cached is no longer true.
    rig.bluez.at(&unit.address, |device| device.service_is_gone = true);
    rig.bluez.cut(&unit.address);
    rig.daemon.wait("the device is removed from BlueZ", |_| rig.bluez.calls("RemoveDevice") > 0);
    let said = rig.status()["radios"][0]["last_recovery"].as_str().unwrap_or_default().to_owned();
    assert!(said.contains("removed from BlueZ") && said.contains(&unit.address), "{said}");
    rig.bluez.at(&unit.address, |device| device.service_is_gone = false);
    rig.readings(&unit, 5);
}

#[test]
fn an_idle_sensor_is_left_alone() {
    let rig = Rig::start();
    let mut unit = rig.sensor(1, &["--every", "50ms"]);
    rig.pair(&mut unit, "pump-1");
    rig.readings(&unit, 5);
    unit.tell("silence");
    let (connects, opened) = (rig.bluez.calls("Connect"), unit.notes("session open"));
    // The session asks after the silent sensor and is answered, ever more seldom: at the second time it was silent for
    // longer than any answer may be missing.
    rig.daemon.wait("the sensor was asked after", |_| unit.notes("session open") > opened + 1);
    assert_eq!(rig.bluez.calls("Connect"), connects);
    assert_eq!(rig.status()["radios"][0]["recoveries"], 0);
}
