//! A gateway in standalone mode and its sensors, on a fake BlueZ.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use serde_json::Value as Json;
use tempfile::TempDir;

use crate::bluez::Bluez;
use crate::daemon::{Daemon, Sensor};

/// A gateway with a broker of its own, on free ports.
pub(crate) const CONFIG: &str = "mode = \"standalone\"
standalone.listen = \"127.0.0.1:0\"
issuer.listen = \"127.0.0.1:0\"
metrics.listen = \"127.0.0.1:0\"
log.level = \"debug\"";

/// Everything of one test. The fields end in this order.
pub(crate) struct Rig {
    pub(crate) daemon: Daemon,
    pub(crate) bluez: Bluez,
    folder: TempDir,
}

impl Rig {
    pub(crate) fn start() -> Self {
        Self::with(&["hci0"], "")
    }

    /// With these adapters, and these keys under `[ble]`.
    pub(crate) fn with(adapters: &[&str], ble: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bluez = Bluez::start(&folder.path().join("bluez"), adapters);
        let config = format!("{CONFIG}\n[ble]\nenabled = \"on\"\n{ble}\n");
        let home = folder.path().join("gateway");
        std::fs::create_dir(&home).unwrap();
        let environment = [("DBUS_SYSTEM_BUS_ADDRESS", bluez.address())];
        let daemon = Daemon::start_with(&home, &config, &environment);
        Self { daemon, bluez, folder }
    }

    /// Starts a sensor and puts it on the air.
    pub(crate) fn sensor(&self, number: u8, args: &[&str]) -> Unit {
        self.sensor_at("hci0", number, args)
    }

    pub(crate) fn sensor_at(&self, adapter: &str, number: u8, args: &[&str]) -> Unit {
        let named = ["--device", &format!("th-kit-{number:04x}"), "--name", "TH-Kit"];
        let folder = self.folder.path().join(format!("sensor{number}"));
        let sensor = Sensor::start_on_air(&folder, &[&named, args].concat());
        let address = format!("f0:c1:a9:00:00:{number:02x}");
        self.bluez.sensor(adapter, &address, &sensor.line());
        Unit { sensor, address }
    }

    pub(crate) fn scan(&self) -> Vec<Json> {
        self.daemon.json(&["scan", "--for", "1s"])
    }

    pub(crate) fn found(&self, unit: &Unit) -> Option<Json> {
        self.scan().into_iter().rev().find(|found| found["link"].as_str().unwrap().ends_with(&unit.address))
    }

    /// Waits until a scan shows it so, and gives what that scan says.
    pub(crate) fn finds(&self, unit: &Unit, state: &str) -> Json {
        let seen = RefCell::new(None);
        self.daemon.wait(&format!("it is heard, {state}"), |_| {
            *seen.borrow_mut() = self.found(unit).filter(|found| found["state"] == state);
            seen.borrow().is_some()
        });
        seen.into_inner().unwrap()
    }

    pub(crate) fn status(&self) -> Json {
        let done = self.daemon.cli(&["status", "--json"]);
        serde_json::from_slice(&done.stdout).unwrap_or_default()
    }

    /// Pairs by the label. A run takes ten seconds at most: one whose time was over on a stalled machine is tried again.
    pub(crate) fn pair(&self, unit: &mut Unit, name: &str) {
        for rest in (0..5).rev() {
            unit.tell("button");
            self.finds(unit, "pairable");
            let begun = Instant::now();
            let done = self.try_pair(unit, name);
            if done.status.success() {
                return;
            }
            let was_slow = begun.elapsed() >= Duration::from_secs(8);
            assert!(was_slow && rest > 0, "{}{}", String::from_utf8_lossy(&done.stderr), self.daemon.log());
        }
    }

    pub(crate) fn try_pair(&self, unit: &Unit, name: &str) -> std::process::Output {
        let mut pair = self.daemon.command(&["pair", &unit.address, "--name", name]);
        pair.env("OPENCLAW_PAIRING_CODE", &unit.label).output().unwrap()
    }

    /// Waits until so many readings more than now are safe.
    pub(crate) fn readings(&self, unit: &Unit, more: usize) {
        let before = unit.acknowledged().len();
        self.daemon.wait("readings are safe", |_| unit.acknowledged().len() >= before + more);
    }
}

/// A simulated sensor on the air.
pub(crate) struct Unit {
    sensor: Sensor,
    pub(crate) address: String,
}

impl std::ops::Deref for Unit {
    type Target = Sensor;

    fn deref(&self) -> &Sensor {
        &self.sensor
    }
}

impl std::ops::DerefMut for Unit {
    fn deref_mut(&mut self) -> &mut Sensor {
        &mut self.sensor
    }
}
