//! The audit log in the hands of a log collector: rsyslog with the blocks of docs/audit.md as they stand there.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use clawgate::audit::{Action, Actor, Audit, AuditKeys, Event, Outcome, Retention};
use clawgate::clock::Clock;
use clawgate::secret::Secret;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::site::{end, until};

/// A log, and what rsyslog makes of it.
struct Bench {
    dir: tempfile::TempDir,
    audit: Audit,
}

/// What stands in docs/audit.md after this remark, between its fences.
fn block(remark: &str) -> String {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/audit.md")).unwrap();
    let (_, rest) = page.split_once(&format!("<!-- {remark} -->\n```\n")).expect(remark);
    rest.split_once("\n```").unwrap().0.to_owned()
}

impl Bench {
    /// Into a file, or to a collector at this port.
    fn new(collector: Option<u16>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let keys = AuditKeys { current: &Secret::new([1; 32]), next: None, is_known: false };
        // Files of 16 KiB, so that it comes to several.
        let retention = Retention { max_bytes: 16 * (16 << 10), max_age: None };
        let audit = Audit::open_with(&dir.path().join("audit"), &keys, retention, Clock::system()).unwrap();
        let own = |name: &str| dir.path().join(name).display().to_string();
        let mut config = block("A test runs this block.")
            .replace("/var/lib/clawgate/audit/", &own("audit/"))
            .replace("/var/log/clawgate-audit.jsonl", &own("out.jsonl"));
        assert_eq!(config.matches(&own("")).count(), 2, "the page names other files now");
        if let Some(port) = collector {
            let forward = block("A test runs this in place of the line with omfile.");
            let here = forward.replace("siem.example.org", "127.0.0.1").replace("5170", &port.to_string());
            assert!(here.contains(&format!("\"127.0.0.1\" port=\"{port}\"")), "{here}");
            let line = config.lines().find(|line| line.contains("omfile")).unwrap().to_owned();
            config = config.replace(&line, &here);
        }
        fs::create_dir(dir.path().join("work")).unwrap();
        let work = format!("global(workDirectory={:?})\n", own("work"));
        fs::write(dir.path().join("rsyslog.conf"), work + &config + "\n").unwrap();
        Self { dir, audit }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn start(&self) -> Collector {
        let log = File::options().create(true).append(true).open(self.path("rsyslog.log")).unwrap();
        let mut command = Command::new("/usr/sbin/rsyslogd");
        command.arg("-n").arg("-f").arg(self.path("rsyslog.conf")).arg("-i").arg(self.path("pid"));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Collector(command.spawn().expect("rsyslogd; tests/run installs what this test needs"))
    }

    /// Writes `count` lines, the first of them `long`.
    fn record(&self, count: usize, long: usize) {
        for number in 0..count {
            let actor = Actor::Uid { uid: 1000, name: Some("kim".to_owned()) };
            let event = Event::done(actor, Action::CodeRevoke, format!("ocpc_{number} \u{e4}\n\""));
            let event = event.ended(if number % 2 == 0 { Outcome::Ok } else { Outcome::Refused });
            let filling = "x".repeat(if number == 0 { long } else { 20 });
            self.audit.record(event.because("mislaid").with(json!({ "filling": filling }))).unwrap();
        }
    }

    /// What has come, by its number, and how many lines it was.
    fn come(&self) -> (BTreeMap<u64, Value>, usize) {
        let text = fs::read_to_string(self.path("out.jsonl")).unwrap_or_default();
        let whole = text.lines().take(text.matches('\n').count());
        let lines: Vec<Value> = whole.map(|line| serde_json::from_str(line).expect("a line that is no JSON")).collect();
        let count = lines.len();
        (lines.into_iter().map(|line| (line["event.sequence"].as_u64().unwrap(), line)).collect(), count)
    }

    /// Waits until every line that was written is there; how many came twice.
    fn all_come(&self) -> usize {
        let written = self.audit.checkpoints().borrow().size();
        until("every line comes", || {
            let (come, count) = self.come();
            (come.len() as u64 == written).then(|| count - come.len())
        })
    }
}

struct Collector(Child);

impl Collector {
    fn end(mut self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn rsyslog_takes_each_line_once_over_its_restarts_and_the_chain_can_be_verified_at_its_end() {
    let bench = Bench::new(None);
    bench.record(20, 30_000);
    let collector = bench.start();
    assert_eq!(bench.all_come(), 0);
    // New files while it reads, and while it does not.
    bench.record(60, 20);
    assert_eq!(bench.all_come(), 0);
    collector.end(Signal::TERM);
    bench.record(60, 30_000);
    let collector = bench.start();
    assert_eq!(bench.all_come(), 0, "after an orderly restart a line came twice");
    collector.end(Signal::KILL);
    bench.record(20, 20);
    let _collector = bench.start();
    bench.all_come();
    assert!(fs::read_dir(bench.path("audit")).unwrap().count() > 4);

    let (come, _) = bench.come();
    let entries = bench.audit.tail(1000).unwrap();
    assert_eq!(entries.len(), come.len());
    for (entry, line) in entries.iter().zip(come.values()) {
        let outcome = if entry.outcome == Outcome::Ok { "success" } else { "failure" };
        let wanted = json!({
            "@timestamp": entry.time, "event.sequence": entry.seq, "event.action": entry.action,
            "event.outcome": outcome, "event.reason": "mislaid", "user.id": "1000", "user.name": "kim",
            "clawgate.actor": "uid", "clawgate.subject": entry.subject,
        });
        for (field, value) in wanted.as_object().unwrap() {
            assert_eq!(line[field], *value, "{field} of {line}");
        }
    }
    // The lines as they came, and a checkpoint: an export.
    let export = bench.path("export");
    let checkpoint = serde_json::to_string(&*bench.audit.checkpoints().borrow()).unwrap();
    let lines = come.values().map(|line| line["event.original"].as_str().unwrap()).chain([checkpoint.as_str()]);
    fs::write(&export, lines.collect::<Vec<_>>().join("\n") + "\n").unwrap();
    let verified = verify(&export);
    assert!(verified.starts_with("whole"), "{verified}");
}

#[test]
fn rsyslog_sends_each_line_once_and_in_order_to_a_collector() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let bench = Bench::new(Some(listener.local_addr().unwrap().port()));
    bench.record(20, 30_000);
    let _collector = bench.start();
    listener.set_nonblocking(true).unwrap();
    let stream: TcpStream = until("it connects", || listener.accept().ok()).0;
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
    let mut lines = BufReader::new(stream).lines();
    let mut come = |numbers: std::ops::Range<u64>| {
        for number in numbers {
            let line: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).expect("a line that is no JSON");
            assert_eq!((&line["event.sequence"], &line["event.action"]), (&json!(number), &json!("code.revoke")));
            assert!(line["event.original"].as_str().unwrap().starts_with(&format!("{{\"seq\":{number},")), "{line}");
        }
    };
    come(0..20);
    // New files while it reads.
    bench.record(60, 20);
    come(20..80);
}

fn verify(export: &Path) -> String {
    let verifier = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/audit-verifier/verify.py");
    end(Command::new("/usr/bin/python3").args(["-B", verifier]).arg(export)).out
}
