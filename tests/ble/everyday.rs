//! What a technician does, and several sensors and adapters at once.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use serde_json::Value as Json;

use crate::rig::Rig;

#[test]
fn a_sensor_is_found_paired_by_its_label_and_its_readings_arrive() {
    let rig = Rig::start();
    let mut unit = rig.sensor(1, &["--every", "50ms"]);
    let found = rig.finds(&unit, "closed");
    assert_eq!((found["rssi_dbm"].as_i64(), found["name"].as_str()), (Some(-61), Some("TH-Kit")));
    rig.pair(&mut unit, "pump-1");
    rig.readings(&unit, 20);
    rig.daemon.wait("all is well, on one link", |_| {
        let (status, hci0, one) = (rig.status(), "hci0".into(), 1.into());
        status["health"] == "ok" && (&status["radios"][0]["id"], &status["radios"][0]["links"]) == (&hci0, &one)
    });
    assert_eq!(rig.bluez.world().rude_connects, 0, "scanning pauses for a connect");
    // Paired, it is known by its rotating id alone, and only to us.
    rig.bluez.cut(&unit.address);
    rig.daemon.wait("it is known again", |_| rig.found(&unit).is_some_and(|found| found["device"] == "pump-1"));
    rig.readings(&unit, 5);
}

#[test]
fn an_issued_code_is_entered_at_the_sensor_and_a_wrong_label_is_refused() {
    let rig = Rig::start();
    let mut unit = rig.sensor(1, &["--every", "50ms"]);
    unit.tell("button");
    // Its short id is what a technician types.
    let short = rig.finds(&unit, "pairable")["id"].as_str().unwrap().to_owned();
    assert_eq!(short.len(), 4);
    let wrong = rig.daemon.command(&["pair", &short]).env("OPENCLAW_PAIRING_CODE", "0000-0000").output().unwrap();
    assert_eq!(wrong.status.code(), Some(4), "{}{}", String::from_utf8_lossy(&wrong.stderr), rig.daemon.log());

    let mut pair = rig.daemon.command(&["pair", &unit.address, "--issue", "--ttl", "5m", "--name", "pump-1", "--json"]);
    let mut pairing = pair.stdout(Stdio::piped()).spawn().unwrap();
    let mut last = Json::Null;
    for line in BufReader::new(pairing.stdout.take().unwrap()).lines() {
        last = serde_json::from_str(&line.unwrap()).unwrap();
        if last["event"] == "code" {
            unit.tell(&format!("code {}", last["code"].as_str().unwrap()));
        }
    }
    assert!(pairing.wait().unwrap().success(), "{last} {}", rig.daemon.log());
    assert_eq!(last["event"], "paired");
    rig.readings(&unit, 5);

    // A code that is for no sensor yet: whoever shows that one was entered is connected to, unasked.
    let mut other = rig.sensor(2, &["--every", "50ms"]);
    let made = rig.daemon.json(&["code", "new", "--ttl", "5m"]);
    other.tell(&format!("code {}", made[0]["code"].as_str().unwrap()));
    rig.readings(&other, 5);
}

#[test]
fn two_adapters_serve_their_own_sensors_and_the_loss_of_one_is_not_the_others() {
    let rig = Rig::with(&["hci0", "hci1"], "");
    let mut first = rig.sensor_at("hci0", 1, &["--every", "50ms"]);
    let mut second = rig.sensor_at("hci1", 2, &["--every", "50ms"]);
    rig.pair(&mut first, "first");
    rig.pair(&mut second, "second");
    rig.bluez.remove_adapter("hci0");
    rig.daemon.wait("the loss is said", |_| {
        let status = rig.status();
        let lost = status["radios"][0]["explanation"].as_str().unwrap_or_default().to_owned();
        status["health"] == "degraded" && lost.contains("plug one in")
    });
    rig.readings(&second, 5);
}

#[test]
fn more_sensors_than_links_take_turns() {
    // Two links: one for sessions, one kept for pairing.
    let rig = Rig::with(&["hci0"], "links = 2");
    let mut units: Vec<_> = (1..=3).map(|number| rig.sensor(number, &["--every", "200ms"])).collect();
    for (number, unit) in units.iter_mut().enumerate() {
        rig.pair(unit, &format!("pump-{number}"));
    }
    let before: Vec<_> = units.iter().map(|unit| unit.notes("session open")).collect();
    rig.daemon.wait_long("each had its turn", |_| {
        units.iter().zip(&before).all(|(unit, before)| unit.notes("session open") > *before)
    });
    assert!(rig.bluez.world().most_connected <= 2);
}

#[test]
fn a_daemon_that_is_stopped_says_goodbye_and_leaves_no_link_and_no_discovery_behind() {
    let mut rig = Rig::start();
    let mut units: Vec<_> = (1..=2).map(|number| rig.sensor(number, &["--every", "50ms"])).collect();
    for (number, unit) in units.iter_mut().enumerate() {
        rig.pair(unit, &format!("pump-{number}"));
    }
    for unit in &units {
        rig.readings(unit, 3);
    }
    rig.daemon.wait("it listens", |_| rig.bluez.world().deeds.last() == Some(&"listen"));
    let before = rig.bluez.calls("Disconnect");
    assert!(rig.daemon.stop());
    for unit in &units {
        assert!(!rig.bluez.at(&unit.address, |device| device.connected), "{} is still linked", unit.address);
    }
    assert_eq!(rig.bluez.calls("Disconnect") - before, 2, "each link was let go, once");
    assert_eq!(rig.bluez.world().deeds.last(), Some(&"rest"), "and discovery ended");
    rig.daemon.resume();
    for unit in &units {
        rig.readings(unit, 3);
    }
}

#[test]
fn a_link_that_is_half_made_is_let_go_when_the_daemon_stops() {
    let mut rig = Rig::start();
    let mut unit = rig.sensor(1, &["--every", "50ms"]);
    rig.pair(&mut unit, "pump-1");
    rig.bluez.world().hang.push("Connect".to_owned());
    let connects = rig.bluez.calls("Connect");
    rig.bluez.cut(&unit.address);
    rig.daemon.wait("it connects", |_| rig.bluez.calls("Connect") > connects);
    let before = rig.bluez.calls("Disconnect");
    assert!(rig.daemon.stop());
    assert!(rig.bluez.calls("Disconnect") > before, "BlueZ would go on with it");
}
