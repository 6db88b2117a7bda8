//! The sensor's side in C, written from docs/protocol.md alone, against the real daemon: its own tests, both
//! ceremonies, a wrong code, readings through to a subscriber, a power cycle of each side, a factory reset.
#![cfg(feature = "standalone")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed test says where by panicking")]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/mqtt_client.rs"]
mod mqtt_client;
#[path = "support/serial_site.rs"]
mod serial_site;
mod support;

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use daemon::Daemon;
use serde_json::Value as Json;
use serial_site::{Site, wait_for_sensor};
use support::DEADLINE;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const LABEL: &str = "K7QF-3M9B";
const WRONG: &str = "0000-0000";

/// Where the SDK was built, with the host's C compiler, once a process.
fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let lock = File::create(folder.join("sdk-c.lock")).unwrap();
        lock.lock().unwrap();
        let out = folder.join("sdk-c");
        let built = Command::new(format!("{ROOT}/hardware/sdk-c/build")).arg(&out).output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        out
    })
}

#[test]
fn its_own_tests_pass_against_the_vectors_and_the_page() {
    let done = Command::new(built().join("tests")).env("CLAWGATE_ROOT", ROOT).output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
}

/// The C program on a pty of its own; ended when dropped.
struct Sensor {
    process: Child,
    stdin: ChildStdin,
    said: Arc<Mutex<Vec<String>>>,
}

impl Sensor {
    fn start(folder: &Path, args: &[&str]) -> Self {
        Self::start_program("clawgate-sensor", folder, args)
    }

    fn start_program(program: &str, folder: &Path, args: &[&str]) -> Self {
        let mut process = Command::new(built().join(program))
            .arg("--pty")
            .arg(folder.join("line"))
            .arg("--keys")
            .arg(folder.join("keys"))
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = process.stdin.take().unwrap();
        let said: Arc<Mutex<Vec<String>>> = Arc::default();
        let heard = Arc::clone(&said);
        let stdout = BufReader::new(process.stdout.take().unwrap());
        thread::spawn(move || stdout.lines().map_while(Result::ok).for_each(|line| heard.lock().unwrap().push(line)));
        let sensor = Self { process, stdin, said };
        sensor.until("start: ok", 1);
        sensor
    }

    fn tell(&mut self, order: &str) {
        writeln!(self.stdin, "{order}").unwrap();
    }

    fn count(&self, words: &str) -> usize {
        self.said.lock().unwrap().iter().filter(|line| line.starts_with(words)).count()
    }

    /// Waits until it said this so many times since its start.
    fn until(&self, words: &str, times: usize) {
        let end = Instant::now() + DEADLINE;
        while self.count(words) < times {
            assert!(Instant::now() < end, "{times} times {words:?} did not come: {:?}", self.said.lock().unwrap());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until it holds no reading any more: the gateway has said that all are safe.
    fn until_all_are_safe(&mut self) {
        let end = Instant::now() + DEADLINE;
        while self.said.lock().unwrap().last().is_none_or(|line| line != "held 0") {
            assert!(Instant::now() < end, "readings stay: {:?}", self.said.lock().unwrap().last());
            self.tell("held");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Sensor {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The exit code of `pair` with a label code.
fn pair_by_label(daemon: &Daemon, sensor: &mut Sensor, code: &str) -> Option<i32> {
    let opened = sensor.count("window-open");
    sensor.tell("button");
    sensor.until("window-open", opened + 1);
    let mut pair = daemon.command(&["pair", "line1", "--name", "c-1"]);
    let mut pair = pair.env("OPENCLAW_PAIRING_CODE", code).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    pair_ends(&mut pair, sensor)
}

/// Gives it a reading to confirm as soon as its session stands, and waits for the end of `pair`.
fn pair_ends(pair: &mut Child, sensor: &mut Sensor) -> Option<i32> {
    let (paired, failed) = (sensor.count("paired"), sensor.count("pairing-failed"));
    let end = Instant::now() + DEADLINE;
    while sensor.count("paired") == paired && sensor.count("pairing-failed") == failed {
        assert!(Instant::now() < end, "no pairing: {:?}", sensor.said.lock().unwrap());
        thread::sleep(Duration::from_millis(10));
    }
    if sensor.count("paired") > paired {
        sensor.tell("read 1");
    }
    pair.wait().unwrap().code()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_pairs_by_its_label_and_its_readings_arrive_over_power_cycles() {
    let site = Site::new();
    let mut sensor = Sensor::start(site.folder(), &["--label", LABEL]);
    let mut daemon = site.daemon();
    site.subscribe().await;
    wait_for_sensor(&daemon);

    assert_eq!(pair_by_label(&daemon, &mut sensor, WRONG), Some(4), "a wrong code is told as such");
    assert_eq!(pair_by_label(&daemon, &mut sensor, LABEL), Some(0), "{}", daemon.log());
    site.until_arrived(1..=1, 1).await;

    sensor.tell("read 1000");
    site.until_arrived(2..=1001, 1).await;
    sensor.until_all_are_safe();

    let sessions = sensor.count("session 0");
    sensor.tell("power-cycle");
    sensor.until("session 0", sessions + 1);
    sensor.tell("read 10");
    site.until_arrived(1002..=1011, 1).await;
    sensor.until_all_are_safe();

    daemon.kill();
    sensor.tell("read 10");
    daemon.resume();
    site.subscribe().await;
    sensor.until("session 0", sessions + 2);
    sensor.tell("read 10");
    sensor.until_all_are_safe();
    // What the relay published before the new subscription stood is not seen; what came after it is.
    site.until_arrived(1022..=1031, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_pairs_by_an_entered_code_and_again_after_a_factory_reset() {
    let site = Site::new();
    let mut sensor = Sensor::start(site.folder(), &[]);
    let daemon = site.daemon();
    site.subscribe().await;
    wait_for_sensor(&daemon);

    sensor.tell("code K7QF-3M9C");
    sensor.until("code: this is not a code", 1);
    for (round, first_value) in [(1, 1), (2, 12)] {
        let mut pair = daemon.command(&["pair", "line1", "--issue", "--name", "c-1", "--json"]);
        let mut pair = pair.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(pair.stdout.take().unwrap()).lines().map_while(Result::ok);
        let code: Json = serde_json::from_str(&lines.next().unwrap()).unwrap();
        sensor.tell(&format!("code {}", code["code"].as_str().unwrap()));
        assert_eq!(pair_ends(&mut pair, &mut sensor), Some(0), "round {round}: {}", daemon.log());
        sensor.tell("read 10");
        site.until_arrived(first_value..=first_value + 10, 1).await;
        sensor.until_all_are_safe();
        sensor.tell("reset");
        sensor.until("reset: ok", round);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_entry_pairs_nothing() {
    let site = Site::new();
    let mut sensor = Sensor::start(site.folder(), &[]);
    let daemon = site.daemon();
    wait_for_sensor(&daemon);
    let mut pair = daemon.command(&["pair", "line1", "--issue", "--name", "c-1", "--json"]);
    let mut pair = pair.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(pair.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.next().unwrap().contains("\"code\""));
    sensor.tell(&format!("code {WRONG}"));
    sensor.until("pairing-failed", 1);
    assert_eq!(sensor.count("paired"), 0);
    let _ = pair.kill();
    let _ = pair.wait();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_ml_kem_it_pairs_in_suite_2_by_both_ceremonies() {
    let site = Site::new();
    let mut sensor = Sensor::start_program("clawgate-sensor-suite2", site.folder(), &["--label", LABEL]);
    let daemon = site.daemon_with("[pairing]\nmin_suite = 2\n");
    site.subscribe().await;
    wait_for_sensor(&daemon);
    assert_eq!(pair_by_label(&daemon, &mut sensor, LABEL), Some(0), "{}", daemon.log());
    sensor.tell("read 10");
    site.until_arrived(1..=11, 1).await;
    sensor.tell("reset");
    sensor.until("reset: ok", 1);

    let mut pair = daemon.command(&["pair", "line1", "--issue", "--name", "c-1", "--json"]);
    let mut pair = pair.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(pair.stdout.take().unwrap()).lines().map_while(Result::ok);
    let code: Json = serde_json::from_str(&lines.next().unwrap()).unwrap();
    sensor.tell(&format!("code {}", code["code"].as_str().unwrap()));
    assert_eq!(pair_ends(&mut pair, &mut sensor), Some(0), "{}", daemon.log());
    sensor.tell("read 10");
    site.until_arrived(12..=22, 1).await;
}
