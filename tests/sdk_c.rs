//! The sensor's side in C, written from docs/protocol.md alone, against the real daemon: its own tests, both
//! ceremonies, a wrong code, readings through to a subscriber, a power cycle of each side, a factory reset.
#![cfg(feature = "standalone")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed test says where by panicking")]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/mqtt_client.rs"]
mod mqtt_client;
mod support;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use clawgate::clock::Clock;
use clawgate::token::key::SigningKey;
use clawgate::token::oauth::{OauthIssuer, OauthOptions};
use daemon::Daemon;
use mqtt_client::{By, Connect, MqttClient};
use serde_json::Value as Json;
use support::{DEADLINE, free_port};
use tempfile::TempDir;

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
        let mut process = Command::new(built().join("clawgate-sensor"))
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

/// A daemon in standalone mode, for one sensor and one subscriber.
struct Site {
    folder: TempDir,
    broker: SocketAddr,
    issuer: String,
    /// How often each value came: every reading has one of its own.
    arrived: Arc<Mutex<BTreeMap<u64, usize>>>,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = SigningKey::load_or_create(&folder.path().join("dash.pem")).unwrap();
        std::fs::write(folder.path().join("dash.pub.pem"), key.public_pem().unwrap()).unwrap();
        let broker = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let issuer = format!("127.0.0.1:{}", free_port());
        Self { folder, broker, issuer, arrived: Arc::default() }
    }

    fn daemon(&self) -> Daemon {
        let folder = self.folder.path();
        let config = format!(
            "mode = \"standalone\"\n[gateway]\nid = \"gw-1\"\n[metrics]\nlisten = \"off\"\n[spool]\ncommit_ms = 50\n\
             [uart.ports.line1]\npath = \"{}\"\n[issuer]\nlisten = {:?}\n[standalone]\nlisten = \"{}\"\n\
             [standalone.subscribers.dash]\npublic_key = \"{}\"\ntopics = [\"claw/v1/default/gw-1/#\"]\n",
            folder.join("line").display(),
            self.issuer,
            self.broker,
            folder.join("dash.pub.pem").display(),
        );
        Daemon::start(folder, &config)
    }

    /// Counts what arrives, until this daemon ends.
    async fn subscribe(&self) {
        let key = SigningKey::load(&self.folder.path().join("dash.pem")).unwrap();
        let url = format!("http://{}", self.issuer);
        let options = OauthOptions { url, client_id: "dash".to_owned(), key, ca: None };
        let token = OauthIssuer::new(options, Clock::system()).unwrap().own_token("claw").await.unwrap();
        let connect = Connect {
            addr: self.broker,
            tls: None,
            client_id: "dash",
            token: token.bearer(),
            by: By::Password,
            will: None,
            keeps_session: false,
        };
        let mut client = MqttClient::connect(connect).await.unwrap();
        client.subscribe("claw/v1/default/gw-1/c-1/up/telemetry").await;
        let arrived = Arc::clone(&self.arrived);
        tokio::spawn(async move {
            while client.is_connected() {
                let Some(message) = client.try_next(Duration::from_millis(200)).await else { continue };
                let pack: Json = serde_json::from_slice(&message.payload).unwrap();
                assert_eq!(pack[0]["u"], "Cel");
                let value = pack[0]["v"].as_f64().map(|value| format!("{value}").parse().unwrap()).unwrap();
                *arrived.lock().unwrap().entry(value).or_default() += 1;
            }
        });
    }

    /// Waits until the readings with these values are there, each once.
    async fn until_arrived(&self, values: std::ops::RangeInclusive<u64>) {
        support::until(&format!("{values:?} arrive"), || {
            let arrived = self.arrived.lock().unwrap();
            values.clone().all(|value| arrived.contains_key(&value))
        })
        .await;
        let arrived = self.arrived.lock().unwrap();
        for value in values {
            assert_eq!(arrived[&value], 1, "the reading {value} came so many times");
        }
    }
}

fn wait_for_sensor(daemon: &Daemon) {
    daemon.wait("the sensor is seen", |daemon| {
        String::from_utf8_lossy(&daemon.cli(&["scan", "--for", "1s", "--json"]).stdout).contains("line1")
    });
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
    let mut sensor = Sensor::start(site.folder.path(), &["--label", LABEL]);
    let mut daemon = site.daemon();
    site.subscribe().await;
    wait_for_sensor(&daemon);

    assert_eq!(pair_by_label(&daemon, &mut sensor, WRONG), Some(4), "a wrong code is told as such");
    assert_eq!(pair_by_label(&daemon, &mut sensor, LABEL), Some(0), "{}", daemon.log());
    site.until_arrived(1..=1).await;

    sensor.tell("read 1000");
    site.until_arrived(2..=1001).await;
    sensor.until_all_are_safe();

    let sessions = sensor.count("session 0");
    sensor.tell("power-cycle");
    sensor.until("session 0", sessions + 1);
    sensor.tell("read 10");
    site.until_arrived(1002..=1011).await;
    sensor.until_all_are_safe();

    daemon.kill();
    sensor.tell("read 10");
    daemon.resume();
    site.subscribe().await;
    sensor.until("session 0", sessions + 2);
    sensor.tell("read 10");
    sensor.until_all_are_safe();
    // What the relay published before the new subscription stood is not seen; what came after it is.
    site.until_arrived(1022..=1031).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_pairs_by_an_entered_code_and_again_after_a_factory_reset() {
    let site = Site::new();
    let mut sensor = Sensor::start(site.folder.path(), &[]);
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
        site.until_arrived(first_value..=first_value + 10).await;
        sensor.until_all_are_safe();
        sensor.tell("reset");
        sensor.until("reset: ok", round);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_entry_pairs_nothing() {
    let site = Site::new();
    let mut sensor = Sensor::start(site.folder.path(), &[]);
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
