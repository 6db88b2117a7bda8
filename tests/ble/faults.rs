//! The air, the sensor and BlueZ at their worst: the gateway heals, loses nothing, and says what it did.

use crate::bluez::device::{Cut, Weather};
use crate::rig::Rig;

#[test]
fn a_disconnect_after_each_step_heals_and_loses_nothing() {
    let rig = Rig::start();
    let mut unit = rig.sensor(1, &["--every", "50ms"]);
    rig.pair(&mut unit, "pump-1");
    let steps = [Cut::Connect, Cut::Resolved, Cut::Subscribe, Cut::Write(1), Cut::Write(2), Cut::Write(3)];
    for step in steps.into_iter().chain([Cut::Notify(1), Cut::Notify(2), Cut::Notify(3), Cut::Notify(9)]) {
        rig.bluez.at(&unit.address, |device| device.cut = Some(step));
        rig.bluez.cut(&unit.address);
        rig.daemon.wait(&format!("{step:?} was reached"), |_| rig.bluez.at(&unit.address, |d| d.cut.is_none()));
        rig.readings(&unit, 3);
    }
    everything_made_is_confirmed(&rig, &mut unit);
}

#[test]
fn a_pairing_that_is_cut_at_any_step_leaves_nothing_half_and_succeeds_when_tried_again() {
    let rig = Rig::start();
    let mut unit = rig.sensor(1, &["--every", "500ms"]);
    // Few values a message, so that the cuts reach from the first message to the session that proves the key.
    rig.bluez.at(&unit.address, |device| device.mtu = 517);
    let mut is_paired = false;
    let steps = (1..9).map(Cut::Write).chain((1..9).map(Cut::Notify));
    for (number, step) in steps.enumerate() {
        unit.tell("button");
        rig.daemon.wait("the window is open", |_| rig.found(&unit).is_some_and(|f| f["state"] == "pairable"));
        rig.bluez.at(&unit.address, |device| device.cut_from_here(step));
        // Whether this succeeds depends on the step; that the next one does, does not.
        let done = rig.try_pair(&unit, "pump-1");
        rig.bluez.at(&unit.address, |device| device.cut = None);
        if is_paired || done.status.success() {
            // The old key or the new one: some session opens without anybody's help.
            rig.readings(&unit, 1);
        }
        rig.pair(&mut unit, "pump-1");
        rig.readings(&unit, 1);
        is_paired = number % 3 != 0;
        if !is_paired {
            unit.tell("reset");
        }
    }
}

#[test]
fn lost_repeated_and_reordered_notifications_cost_time_and_no_reading() {
    let rig = Rig::start();
    let mut unit = rig.sensor(1, &["--every", "50ms"]);
    // A reading has two or three values at this MTU, and a record of many of them has more than seven.
    rig.bluez.at(&unit.address, |device| device.mtu = 100);
    rig.pair(&mut unit, "pump-1");
    for weather in [Weather::Lose(7), Weather::Repeat(7), Weather::Swap(7)] {
        rig.bluez.at(&unit.address, |device| device.weather = weather);
        rig.readings(&unit, 30);
    }
    rig.bluez.at(&unit.address, |device| device.weather = Weather::Fair);
    everything_made_is_confirmed(&rig, &mut unit);
}

#[test]
fn any_mtu_carries_a_pairing_and_readings() {
    let rig = Rig::start();
    for (number, mtu) in [(1, 23), (2, 24), (3, 185), (4, 247), (5, 517)] {
        let mut unit = rig.sensor(number, &["--every", "50ms"]);
        rig.bluez.at(&unit.address, |device| device.mtu = mtu);
        rig.bluez.world().longest = (0, 0);
        rig.pair(&mut unit, &format!("mtu-{mtu}"));
        rig.readings(&unit, 5);
        let longest = rig.bluez.world().longest;
        assert!(longest.0 <= usize::from(mtu) - 3 && longest.1 <= usize::from(mtu) - 3, "{mtu}: {longest:?}");
        // The longest message of a pairing has 1200 bytes: a larger MTU is used.
        assert_eq!(longest.0, (usize::from(mtu) - 3).min(512), "{mtu}");
        unit.tell("silence");
    }
}

#[test]
fn a_thousand_advertisers_are_a_bounded_list_and_ours_is_still_found_and_paired() {
    let rig = Rig::start();
    let mut unit = rig.sensor(1, &["--every", "50ms"]);
    rig.pair(&mut unit, "pump-1");
    for number in 0..1000_u32 {
        let [_, a, b, c] = number.to_be_bytes();
        // Half of them pretend to be paired, and so may be ours.
        let data = if number % 2 == 0 { vec![0x10] } else { vec![0x11, a, b, c, 1, 2, 3, 4, 5] };
        rig.bluez.stranger("hci0", &format!("c0:00:00:{a:02x}:{b:02x}:{c:02x}"), "stranger", &data);
    }
    rig.daemon.wait("the list is full", |_| rig.status()["radios"][0]["heard"].as_u64() >= Some(200));
    let heard = rig.status()["radios"][0]["heard"].as_u64().unwrap();
    assert!(heard <= 256, "{heard}");
    rig.readings(&unit, 10);
    rig.bluez.cut(&unit.address);
    rig.readings(&unit, 10);
    let mut late = rig.sensor(2, &["--every", "50ms"]);
    rig.pair(&mut late, "pump-2");
    assert!(rig.scan().len() <= 256, "{}", rig.scan().len());
}

#[test]
fn a_name_from_the_air_moves_no_cursor_and_forges_no_line() {
    let rig = Rig::start();
    let names =
        ["\u{1b}[2J\u{1b}[1;31mowned", "\u{1b}]0;title\u{7}", "a\rb\nc", "\u{202e}evil\u{2066}", "\u{9b}2J", "x\u{0}"];
    for (number, name) in names.iter().enumerate() {
        // D-Bus carries no NUL and no invalid UTF-8; BlueZ replaces both before.
        let name = name.replace('\0', "\u{fffd}");
        rig.bluez.stranger("hci0", &format!("c0:00:00:00:00:{number:02x}"), &name, &[0x10]);
    }
    rig.bluez.stranger("hci0", "c0:00:00:00:00:ff", "invalid data", &[0xff, 0xfe, 0x80, 0x1b]);
    rig.daemon.wait("they are heard", |_| rig.scan().len() >= names.len());
    for found in rig.scan() {
        let name = found["name"].as_str().unwrap_or_default();
        let moves = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        assert!(!name.contains(moves), "{name:?} came in as it was");
    }
    let scan = rig.daemon.cli(&["scan", "--for", "1s"]).stdout;
    let status = rig.daemon.cli(&["status"]).stdout;
    let log = rig.daemon.log();
    for shown in [String::from_utf8(scan).unwrap(), String::from_utf8(status).unwrap(), log] {
        let bad = |c: char| (c.is_control() && c != '\n') || ('\u{202a}'..='\u{202e}').contains(&c) || c == '\u{2066}';
        assert!(!shown.contains(bad), "{:?}", shown.chars().filter(|c| bad(*c)).collect::<Vec<_>>());
        assert!(!shown.lines().any(|line| line.starts_with('c') && line.len() == 1), "a name made a line");
    }
    assert!(rig.scan().iter().all(|found| !found["link"].as_str().unwrap().ends_with("ff")), "not of this protocol");
}

#[test]
fn bluetoothd_restarts_and_the_adapter_goes_and_comes_back() {
    let rig = Rig::start();
    let mut unit = rig.sensor(1, &["--every", "50ms"]);
    rig.pair(&mut unit, "pump-1");
    rig.bluez.stop_service();
    rig.daemon.wait("it is said, and how to get it back", |_| {
        let status = rig.status();
        let why = status["radios"][0]["explanation"].as_str().unwrap_or_default().to_owned();
        let forgotten = status["radios"][0]["heard"] == 0;
        status["health"] == "degraded" && why.contains("systemctl start bluetooth") && forgotten
    });
    rig.bluez.start_service();
    rig.readings(&unit, 5);
    rig.bluez.remove_adapter("hci0");
    rig.daemon
        .wait("the adapter is missed", |_| rig.status()["radios"].to_string().contains("no adapter: plug one in"));
    assert_eq!(rig.status()["health"], "degraded");
    rig.bluez.add_adapter("hci0");
    rig.readings(&unit, 5);
    rig.daemon.wait("all is well", |_| rig.status()["health"] == "ok");
    everything_made_is_confirmed(&rig, &mut unit);
}

#[test]
fn every_call_may_be_refused_and_all_is_well_again_when_it_is_not() {
    let rig = Rig::start();
    let mut unit = rig.sensor(1, &["--every", "50ms"]);
    rig.pair(&mut unit, "pump-1");
    for member in CALLS {
        let refusal = ("org.bluez.Error.Failed".to_owned(), "Operation \u{1b}[2J failed".to_owned());
        rig.bluez.world().refuse.insert((*member).to_owned(), refusal);
        let before = rig.bluez.calls(member);
        provoke(&rig, &unit.address);
        rig.daemon.wait(&format!("{member} was refused"), |_| rig.bluez.calls(member) > before || is_seldom(member));
        rig.bluez.world().refuse.clear();
        rig.readings(&unit, 3);
    }
    everything_made_is_confirmed(&rig, &mut unit);
    assert!(!rig.daemon.log().contains('\u{1b}'));
}

#[test]
fn every_call_may_hang_and_all_is_well_again_when_it_does_not() {
    let rig = Rig::start();
    let mut unit = rig.sensor(1, &["--every", "50ms"]);
    rig.pair(&mut unit, "pump-1");
    for (member, words) in [
        ("Connect", "it did not answer the connect within 25 s"),
        ("Introspect", "services: BlueZ does not answer"),
        ("StartNotify", "subscribe: BlueZ does not answer"),
        ("WriteValue", "the sensor takes no bytes"),
        ("StartDiscovery", "BlueZ does not answer; if it stays so"),
    ] {
        let before = rig.bluez.calls(member);
        rig.bluez.world().hang.push(member.to_owned());
        provoke(&rig, &unit.address);
        rig.daemon.wait(&format!("{member} hangs"), |_| rig.bluez.calls(member) > before);
        // The gateway answers meanwhile.
        assert!(rig.status()["radios"].is_array());
        // It is given up after a time of our own, whatever the library's is.
        rig.daemon.wait(&format!("{member} is given up"), |daemon| daemon.log().contains(words));
        rig.bluez.world().hang.clear();
        rig.readings(&unit, 3);
    }
}

const CALLS: &[&str] = &[
    "Connect",
    "Disconnect",
    "GetAll",
    "Get",
    "Introspect",
    "StartNotify",
    "StopNotify",
    "WriteValue",
    "SetDiscoveryFilter",
    "StartDiscovery",
    "StopDiscovery",
    "GetManagedObjects",
    "RemoveDevice",
];

/// Called only higher on the ladder.
fn is_seldom(member: &str) -> bool {
    matches!(member, "RemoveDevice" | "Disconnect")
}

/// Has the gateway go through everything once more.
fn provoke(rig: &Rig, address: &str) {
    rig.bluez.cut(address);
}

/// The sensor falls silent; then the cloud has confirmed each reading that it made, once.
fn everything_made_is_confirmed(rig: &Rig, unit: &mut crate::rig::Unit) {
    unit.tell("silence");
    rig.daemon.wait("it makes no more", |_| unit.notes("silent") > 0);
    rig.daemon.wait("every reading is confirmed", |_| {
        let made = unit.made();
        made > 0 && unit.acknowledged().len() == made && rig.status()["devices"][0]["waiting"] == 0
    });
    let confirmed = &rig.status()["devices"][0]["relay"]["confirmed"];
    assert_eq!(confirmed.as_u64(), Some(unit.made() as u64), "what was acknowledged was published, and once");
}
