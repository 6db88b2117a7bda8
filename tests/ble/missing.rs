//! No bus, no BlueZ, no adapter, no rights: the gateway runs on and says what is missing.

use crate::bluez::Bluez;
use crate::daemon::Daemon;
use crate::rig::{CONFIG, Rig};

/// The gateway with this configuration under `[ble]` and this bus; what it says of BLE once it says this.
fn says(ble: &str, bus: &str, words: &str) -> (String, String) {
    let folder = tempfile::tempdir().unwrap();
    let config = format!("{CONFIG}\n[ble]\n{ble}\n");
    let daemon = Daemon::start_with(folder.path(), &config, &[("DBUS_SYSTEM_BUS_ADDRESS", bus.to_owned())]);
    let status = || -> serde_json::Value {
        serde_json::from_slice(&daemon.cli(&["status", "--json"]).stdout).unwrap_or_default()
    };
    daemon.wait(words, |_| status()["radios"].to_string().contains(words));
    let (health, text) = (status()["health"].to_string(), String::from_utf8(daemon.cli(&["status"]).stdout).unwrap());
    assert!(text.contains(words), "{text}");
    (health, daemon.log())
}

#[test]
fn without_a_bus_the_gateway_runs_on_and_is_degraded_only_if_ble_is_asked_for() {
    let nowhere = "unix:path=/nonexistent/bus";
    let (health, log) = says("enabled = \"on\"", nowhere, "there is no system D-Bus");
    assert_eq!(health, "\"degraded\"");
    assert_eq!(log.matches("there is no system D-Bus").count(), 1, "said once");
    let (health, _) = says("", nowhere, "there is no system D-Bus");
    assert_eq!(health, "\"ok\"");
}

#[test]
fn without_bluetoothd_or_an_adapter_it_says_how_to_get_them() {
    let folder = tempfile::tempdir().unwrap();
    let bluez = Bluez::start(folder.path(), &[]);
    let (health, _) = says("enabled = \"on\"", &bluez.address(), "no adapter: plug one in");
    assert_eq!(health, "\"degraded\"");
    bluez.stop_service();
    let (_, log) = says("enabled = \"on\"", &bluez.address(), "systemctl start bluetooth");
    assert!(log.contains("bluetoothd does not run"));
}

#[test]
fn without_the_rights_or_with_a_blocked_adapter_it_names_the_group_and_the_switch() {
    let rig = Rig::start();
    for (error, text, words) in [
        ("org.freedesktop.DBus.Error.AccessDenied", "Rejected send message", "group bluetooth"),
        ("org.bluez.Error.Failed", "Blocked through rfkill", "rfkill unblock bluetooth"),
    ] {
        for member in ["StartDiscovery", "SetDiscoveryFilter", "Set", "GetManagedObjects"] {
            rig.bluez.world().refuse.insert(member.to_owned(), (error.to_owned(), text.to_owned()));
        }
        rig.bluez.remove_adapter("hci0");
        rig.bluez.add_adapter("hci0");
        rig.daemon.wait(words, |_| {
            let status = rig.status();
            status["health"] == "degraded" && status["radios"].to_string().contains(words)
        });
        rig.bluez.world().refuse.clear();
        rig.daemon.wait("all is well again", |_| rig.status()["health"] == "ok");
    }
}
