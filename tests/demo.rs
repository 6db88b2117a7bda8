//! The demonstration as a process: it ends by itself with figures that hold, and leaves nothing behind however it
//! is ended.
#![cfg(feature = "demo")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends")]

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Everything here happens sooner, also on a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);

/// A running demonstration with its own place for temporary files.
struct Demo {
    child: Child,
    temp: tempfile::TempDir,
    lines: mpsc::Receiver<String>,
}

impl Demo {
    fn start(time: &str) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_clawgate"))
            .args(["demo", "--json", "--sensors", "2", "--for", time])
            .env("TMPDIR", temp.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, temp, lines }
    }

    /// Waits until it says something; or else, what it said.
    fn says(&self, words: &str) -> Result<(), String> {
        let deadline = Instant::now() + DEADLINE;
        let mut said = String::new();
        while let Ok(line) = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            if line.contains(words) {
                return Ok(());
            }
            said = said + &line + "\n";
        }
        Err(format!("it did not say {words:?}, but:\n{said}"))
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The processes that it started, by a word of their command line.
    fn processes(&self) -> HashMap<u32, String> {
        let id = self.child.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        children.split_whitespace().map(|id| (id.parse().unwrap(), command_line(id.parse().unwrap()))).collect()
    }

    /// Ends one of its processes by hand, unless its time is over already.
    fn kill_one(&self, word: &str) -> Result<(), String> {
        let processes = self.processes();
        let found = processes.iter().find(|(_, line)| line.contains(word));
        let (id, _) = found.ok_or_else(|| format!("no {word:?} among {processes:?}"))?;
        kill_process(Pid::from_raw(id.cast_signed()).unwrap(), Signal::KILL).map_err(|error| error.to_string())
    }

    /// Waits for its end: exit code, figures.
    fn end(mut self) -> (Option<i32>, Value) {
        let mut out = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        let status = self.child.wait().unwrap();
        let left: Vec<_> = fs::read_dir(self.temp.path()).unwrap().collect();
        assert!(left.is_empty(), "it left files behind: {left:?}");
        (status.code(), out.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default())
    }
}

fn command_line(id: u32) -> String {
    fs::read(format!("/proc/{id}/cmdline"))
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .unwrap_or_default()
}

/// Waits until all of them are gone.
fn all_gone(processes: &HashMap<u32, String>) {
    let deadline = Instant::now() + DEADLINE;
    let alive = |id: &u32| Path::new(&format!("/proc/{id}")).exists() && command_line(*id) == processes[id];
    while let Some(id) = processes.keys().find(|id| alive(id)) {
        assert!(Instant::now() < deadline, "still there: {}", processes[id]);
        thread::sleep(Duration::from_millis(20));
    }
}

/// Its time runs from the first pairing on: where a machine was too slow for what is to be seen, a longer one is tried.
fn in_time(times: [&str; 3], look: impl Fn(Demo) -> Result<(), String>) {
    let mut why = String::new();
    for time in times {
        match look(Demo::start(time)) {
            Ok(()) => return,
            Err(not_seen) => why = not_seen,
        }
    }
    panic!("{why}");
}

/// Whether it is so; else the figures.
fn seen(it: bool, figures: &Value) -> Result<(), String> {
    it.then_some(()).ok_or_else(|| figures.to_string())
}

#[test]
fn it_ends_by_itself_and_every_reading_arrived_once() {
    in_time(["12s", "30s", "60s"], |demo| {
        demo.says("demo-2: paired")?;
        let processes = demo.processes();
        if processes.len() != 4 {
            // Where the second pairing took longer than its time, it ends with it.
            return Err(format!("not two sensors, the daemon, the subscriber: {processes:?}"));
        }
        let (code, figures) = demo.end();
        // A pairing has ten seconds, too.
        seen(figures["paired"] == 2, &figures)?;
        assert_eq!(code, Some(0), "{figures}");
        let figure = |name: &str| figures[name].as_u64().unwrap_or_else(|| panic!("{name}: {figures}"));
        assert_eq!(figure("lost"), 0, "{figures}");
        assert_eq!((figure("acknowledged"), figure("received")), (figure("sent"), figure("sent")), "{figures}");
        all_gone(&processes);
        // A token lives 10 s: on a stalled machine one may end before it is renewed, and what was under way comes twice.
        seen(figure("sent") > 50 && figure("duplicates") == 0 && figure("tokens_refreshed") >= 2, &figures)
    });
}

#[test]
fn a_subscriber_that_is_killed_shows_in_the_figures() {
    in_time(["8s", "20s", "60s"], |demo| {
        demo.says("demo-2: paired")?;
        demo.kill_one("demo-subscriber")?;
        let (code, figures) = demo.end();
        assert_eq!(figures["acknowledged"], figures["sent"], "{figures}");
        seen(code == Some(8) && figures["lost"].as_u64() > Some(10), &figures)
    });
}

#[test]
fn a_daemon_that_is_killed_shows_in_the_figures() {
    in_time(["8s", "20s", "60s"], |demo| {
        demo.says("demo-2: paired")?;
        demo.kill_one(" run ")?;
        let (code, figures) = demo.end();
        let is_short = |name: &str| figures[name].as_u64().unwrap() + 10 < figures["sent"].as_u64().unwrap();
        seen(code == Some(8) && is_short("received") && is_short("acknowledged"), &figures)
    });
}

#[test]
fn no_process_stays_however_it_is_ended() {
    for (signal, figures_come) in [(Signal::INT, true), (Signal::TERM, true), (Signal::KILL, false)] {
        let demo = Demo::start("100s");
        demo.says("demo-1: paired").unwrap();
        let processes = demo.processes();
        demo.signal(signal);
        if figures_come {
            let (_, figures) = demo.end();
            assert_eq!(figures["lost"], 0, "{signal:?}: {figures}");
        } else {
            let mut demo = demo;
            demo.child.wait().unwrap();
        }
        all_gone(&processes);
    }
}
