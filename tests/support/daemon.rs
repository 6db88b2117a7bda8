//! The daemon and its sensors as processes of their own.
#![allow(dead_code, reason = "each test file uses its part of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value as Json;

const CLAWGATE: &str = env!("CARGO_BIN_EXE_clawgate");
/// Nothing in these tests takes longer on a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);

/// A path as TOML takes it.
pub(crate) fn quoted(path: &Path) -> String {
    serde_json::to_string(&path.display().to_string()).unwrap()
}

/// `clawgate run` in a folder of its own; killed when dropped.
pub(crate) struct Daemon {
    folder: PathBuf,
    environment: Vec<(String, String)>,
    process: Option<Child>,
}

impl Daemon {
    /// Starts it with this configuration; where its state and its socket are is added.
    pub(crate) fn start(folder: &Path, config: &str) -> Self {
        Self::start_with(folder, config, &[])
    }

    /// The same in this environment.
    pub(crate) fn start_with(folder: &Path, config: &str, environment: &[(&str, String)]) -> Self {
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let mut daemon = Self { folder: folder.to_owned(), environment, process: None };
        let own = format!(
            "state_dir = {}\n{config}\n[control]\nsocket = {}\n",
            quoted(&folder.join("state")),
            quoted(&daemon.socket())
        );
        std::fs::write(daemon.config(), own).unwrap();
        daemon.resume();
        daemon
    }

    fn config(&self) -> PathBuf {
        self.folder.join("clawgate.toml")
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("control.sock")
    }

    /// What it logged so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Starts it again, after [`kill`](Self::kill) or [`stop`](Self::stop).
    pub(crate) fn resume(&mut self) {
        assert!(self.process.is_none(), "it runs already");
        let log = File::options().create(true).append(true).open(self.folder.join("log")).unwrap();
        let mut run = Command::new(CLAWGATE);
        run.args(["run", "--config"]).arg(self.config()).stdin(Stdio::null());
        run.envs(self.environment.iter().map(|(name, value)| (name, value)));
        self.process = Some(run.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
        self.wait("it answers", |daemon| UnixStream::connect(daemon.socket()).is_ok());
    }

    /// Changes this in its file and has it read that again (`SIGHUP`).
    pub(crate) fn reload(&self, from: &str, to: &str) {
        let before = std::fs::read_to_string(self.config()).unwrap();
        assert!(before.contains(from), "{before}");
        std::fs::write(self.config(), before.replace(from, to)).unwrap();
        self.signal("-HUP");
    }

    fn signal(&self, signal: &str) {
        let pid = self.process.as_ref().expect("it runs").id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Stops it from running without closing anything (`SIGSTOP`).
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Its memory that no file stands behind, in KiB; not what the system gave it in huge pages, which says nothing of
    /// what it asked for.
    pub(crate) fn anonymous_kib(&self) -> u64 {
        let pid = self.process.as_ref().expect("it runs").id();
        let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let value = |name: &str| -> u64 {
            let line = rollup.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().trim_end_matches(" kB").parse().unwrap()
        };
        value("Anonymous:").saturating_sub(value("AnonHugePages:"))
    }

    /// Asks it to end, as systemd does; whether it ended in order.
    pub(crate) fn stop(&mut self) -> bool {
        let mut process = self.process.take().expect("it runs");
        assert!(Command::new("kill").arg(process.id().to_string()).status().unwrap().success());
        process.wait().unwrap().success()
    }

    /// Waits for a condition.
    pub(crate) fn wait(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        self.wait_for(DEADLINE, what, condition);
    }

    /// Waits for what takes minutes by design.
    pub(crate) fn wait_long(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        self.wait_for(DEADLINE * 3, what, condition);
    }

    fn wait_for(&self, time: Duration, what: &str, condition: impl Fn(&Self) -> bool) {
        let end = Instant::now() + time;
        while !condition(self) {
            assert!(Instant::now() < end, "not within {time:?}: {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A verb of the command line against this daemon.
    pub(crate) fn cli(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// The lines of JSON that a verb prints; it must succeed.
    pub(crate) fn json(&self, args: &[&str]) -> Vec<Json> {
        let done = self.command(args).arg("--json").output().unwrap();
        let shown = String::from_utf8_lossy(&done.stdout);
        assert!(done.status.success(), "{args:?}: {shown}{}", String::from_utf8_lossy(&done.stderr));
        shown.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// What its control socket answers at this path.
    pub(crate) fn get(&self, path: &str) -> String {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// A verb of the command line against this daemon, not yet started.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(CLAWGATE);
        command.args(args).arg("--socket").arg(self.socket()).stdin(Stdio::null());
        command
    }

    /// Pairs the sensor on a port by its label.
    pub(crate) fn pair(&self, port: &str, sensor: &mut Sensor, name: &str) {
        let done = self.tries_to_pair(port, sensor, name);
        assert!(done.status.success(), "{}{}", String::from_utf8_lossy(&done.stderr), self.log());
    }

    /// What comes of it when a person tries to. A sensor is given seconds to answer, and on a slow machine it may need
    /// more: then the person tries again.
    pub(crate) fn tries_to_pair(&self, port: &str, sensor: &mut Sensor, name: &str) -> Output {
        let end = Instant::now() + DEADLINE;
        loop {
            let done = self.pairing(port, sensor, name).wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&done.stderr);
            let is_slow = ["No sensor answers there", "The sensor stopped answering"].iter().any(|w| said.contains(w));
            if done.status.success() || !is_slow || Instant::now() >= end {
                return done;
            }
        }
    }

    /// Begins to; what it says is the caller's to read.
    pub(crate) fn pairing(&self, port: &str, sensor: &mut Sensor, name: &str) -> Child {
        // The port is found open a moment after the start.
        self.wait("the sensor is seen", |daemon| {
            String::from_utf8_lossy(&daemon.cli(&["scan", "--for", "1s", "--json"]).stdout)
                .contains(&format!("{port:?}"))
        });
        let windows = sensor.windows();
        sensor.tell("button");
        self.wait("the window is open", |_| sensor.windows() > windows);
        let mut pair = self.command(&["pair", port, "--name", name]);
        pair.env("OPENCLAW_PAIRING_CODE", &sensor.label).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A simulated sensor; killed when dropped.
pub(crate) struct Sensor {
    process: Child,
    stdin: ChildStdin,
    folder: PathBuf,
    /// The code on its label.
    pub(crate) label: String,
}

impl Sensor {
    /// Starts one on a pty, in a folder of its own.
    pub(crate) fn start(folder: &Path, args: &[&str]) -> Self {
        Self::start_on("--pty", folder, args)
    }

    /// Starts one that speaks BLE, over a socket instead of the air.
    pub(crate) fn start_on_air(folder: &Path, args: &[&str]) -> Self {
        Self::start_on("--ble-socket", folder, args)
    }

    fn start_on(way: &str, folder: &Path, args: &[&str]) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let path = |name: &str| folder.join(name).display().to_string();
        let mut process = Command::new(CLAWGATE)
            .args(["simulator", "--label", "random", way, &path("line"), "--keys", &path("keys")])
            .args(["--log", &path("journal")])
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
        // It goes on talking; somebody has to listen.
        std::thread::spawn(move || said.for_each(drop));
        Self { process, stdin, folder: folder.to_owned(), label }
    }

    /// The device node, or the socket, it speaks on.
    pub(crate) fn line(&self) -> PathBuf {
        self.folder.join("line")
    }

    /// A command at the unit.
    pub(crate) fn tell(&mut self, command: &str) {
        writeln!(self.stdin, "{command}").unwrap();
    }

    /// The names of the readings that it was told are safe.
    pub(crate) fn acknowledged(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        let mut safe: BTreeMap<String, u64> = BTreeMap::new();
        let entries = self.journal();
        for entry in &entries {
            if entry["event"] == "ack" {
                let up_to = safe.entry(entry["epoch"].as_str().unwrap().to_owned()).or_default();
                *up_to = entry["safe"].as_u64().unwrap().max(*up_to);
            }
        }
        for entry in &entries {
            let Some(name) = entry["id"].as_str().filter(|_| entry["event"] == "reading") else { continue };
            let mut parts = name.split('.').skip(1);
            let (epoch, seq) = (parts.next().unwrap(), parts.next().unwrap().parse::<u64>().unwrap());
            if safe.get(epoch).is_some_and(|up_to| seq <= *up_to) {
                names.insert(name.to_owned());
            }
        }
        names
    }

    /// How many readings it has made.
    pub(crate) fn made(&self) -> usize {
        self.journal().iter().filter(|entry| entry["event"] == "reading").count()
    }

    /// How often it started: power cycles and one.
    pub(crate) fn starts(&self) -> usize {
        self.journal().iter().filter(|entry| entry["event"] == "start").count()
    }

    /// How often a window of its was opened.
    fn windows(&self) -> usize {
        self.notes("pairing window open")
    }

    /// How many notes of its journal begin so, such as `session open`.
    pub(crate) fn notes(&self, text: &str) -> usize {
        self.journal().iter().filter(|entry| entry["text"].as_str().is_some_and(|note| note.starts_with(text))).count()
    }

    fn journal(&self) -> Vec<Json> {
        let text = std::fs::read_to_string(self.folder.join("journal")).unwrap_or_default();
        // The last line may still be on its way into the file.
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

impl Drop for Sensor {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
