//! A gateway in standalone mode and its sensors, on a fake BlueZ.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use serde_json::Value as Json;
use tempfile::TempDir;

use crate::bluez::Bluez;
use crate::daemon::Daemon;

const CLAWGATE: &str = env!("CARGO_BIN_EXE_clawgate");

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
        let unit = Unit::start(&self.folder.path().join(format!("sensor{number}")), number, args);
        self.bluez.sensor(adapter, &unit.address, &unit.socket());
        unit
    }

    pub(crate) fn scan(&self) -> Vec<Json> {
        self.daemon.json(&["scan", "--for", "1s"])
    }

    pub(crate) fn found(&self, unit: &Unit) -> Option<Json> {
        self.scan().into_iter().rev().find(|found| found["link"].as_str().unwrap().ends_with(&unit.address))
    }

    pub(crate) fn status(&self) -> Json {
        let done = self.daemon.cli(&["status", "--json"]);
        serde_json::from_slice(&done.stdout).unwrap_or_default()
    }

    /// Pairs by the label.
    pub(crate) fn pair(&self, unit: &mut Unit, name: &str) {
        unit.tell("button");
        self.daemon
            .wait("the open window is heard", |_| self.found(unit).is_some_and(|found| found["state"] == "pairable"));
        let done = self.try_pair(unit, name);
        assert!(done.status.success(), "{}{}", String::from_utf8_lossy(&done.stderr), self.daemon.log());
    }

    pub(crate) fn try_pair(&self, unit: &Unit, name: &str) -> std::process::Output {
        let mut pair = self.daemon.command(&["pair", &unit.address, "--name", name]);
        pair.env("OPENCLAW_PAIRING_CODE", &unit.label).output().unwrap()
    }

    /// Waits until so many readings more than now are safe.
    pub(crate) fn readings(&self, unit: &Unit, more: usize) {
        let before = unit.acknowledged();
        self.daemon.wait("readings are safe", |_| unit.acknowledged() >= before + more);
    }
}

/// A simulated sensor; killed when dropped.
pub(crate) struct Unit {
    process: Child,
    stdin: ChildStdin,
    folder: PathBuf,
    pub(crate) address: String,
    pub(crate) label: String,
}

impl Unit {
    fn start(folder: &Path, number: u8, args: &[&str]) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let path = |name: &str| folder.join(name).display().to_string();
        let mut process = Command::new(CLAWGATE)
            .args(["simulator", "--label", "random", "--ble-socket", &path("air"), "--keys", &path("keys")])
            .args(["--device", &format!("th-kit-{number:04x}"), "--name", "TH-Kit", "--log", &path("journal")])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = process.stdin.take().unwrap();
        let mut label = String::new();
        let mut said = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        for line in said.by_ref() {
            if let Some(code) = line.strip_prefix("label ") {
                code.clone_into(&mut label);
            }
            if line.starts_with("line ") {
                break;
            }
        }
        std::thread::spawn(move || said.for_each(drop));
        let address = format!("f0:c1:a9:00:00:{number:02x}");
        Self { process, stdin, folder: folder.to_owned(), address, label }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join("air")
    }

    pub(crate) fn tell(&mut self, command: &str) {
        writeln!(self.stdin, "{command}").unwrap();
    }

    /// Notes of its journal, such as `session open`.
    pub(crate) fn notes(&self, text: &str) -> usize {
        self.journal().iter().filter(|entry| entry["text"].as_str().is_some_and(|note| note.starts_with(text))).count()
    }

    /// How many readings it was told are safe, over all epochs.
    pub(crate) fn acknowledged(&self) -> usize {
        let mut safe = std::collections::BTreeMap::<String, u64>::new();
        for entry in self.journal() {
            if entry["event"] == "ack" {
                let up_to = safe.entry(entry["epoch"].as_str().unwrap().to_owned()).or_default();
                *up_to = entry["safe"].as_u64().unwrap().max(*up_to);
            }
        }
        usize::try_from(safe.values().sum::<u64>()).unwrap()
    }

    /// The names of the readings that it made.
    pub(crate) fn made(&self) -> BTreeSet<String> {
        let journal = self.journal();
        let readings = journal.iter().filter(|entry| entry["event"] == "reading");
        readings.filter_map(|entry| entry["id"].as_str().map(str::to_owned)).collect()
    }

    fn journal(&self) -> Vec<Json> {
        let text = std::fs::read_to_string(self.folder.join("journal")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
