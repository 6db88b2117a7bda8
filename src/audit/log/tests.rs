//! The log as it is written; its tests by area.

mod agree;
mod damage;
mod kept;
mod keys;
mod missing;
mod reading;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::audit::{Digest, Report, Trust, line, segment, verify};

/// Files of three lines.
const SMALL: Retention = Retention { max_bytes: 16 * 1520, max_age: None };
const DAY: Duration = Duration::from_secs(86_400);

struct Fixture {
    temp: TempDir,
    clock: Clock,
}

impl Fixture {
    fn new() -> Self {
        Self { temp: tempfile::tempdir().unwrap(), clock: Clock::manual(Duration::from_secs(1_700_000_000)) }
    }

    fn dir(&self) -> PathBuf {
        self.temp.path().join("audit")
    }

    fn open_within(&self, retention: Retention) -> Audit {
        self.open_as(9, None, retention)
    }

    fn open_as(&self, key: u8, next: Option<u8>, retention: Retention) -> Audit {
        let (current, next) = (Secret::new([key; 32]), next.map(|key| Secret::new([key; 32])));
        let keys = AuditKeys { current: &current, next: next.as_ref(), is_known: false };
        Audit::open_trusting(&self.dir(), &keys, retention, self.clock.clone(), || true).unwrap()
    }

    /// A log of `count` lines that was closed.
    fn filled(count: usize) -> Self {
        let fixture = Self::new();
        record(&fixture.open(), count);
        fixture
    }

    fn open(&self) -> Audit {
        self.open_within(Retention::default())
    }

    fn firsts(&self) -> Vec<u64> {
        segment::list(&self.dir()).unwrap()
    }

    fn file(&self) -> PathBuf {
        segment::path(&self.dir(), *segment::list(&self.dir()).unwrap().last().unwrap())
    }

    fn lines(&self) -> Vec<String> {
        fs::read_to_string(self.file()).unwrap().lines().map(str::to_owned).collect()
    }

    fn rewrite(&self, lines: &[String]) {
        fs::write(self.file(), lines.join("\n") + "\n").unwrap();
    }

    fn findings(&self) -> Vec<String> {
        let report = verify(&self.dir(), &Trust::default()).unwrap();
        report.findings.into_iter().map(|finding| finding.what).collect()
    }
}

fn checkpoint(audit: &Audit) -> Checkpoint {
    audit.checkpoints().borrow().clone()
}

/// The log of `audit` under its own key.
fn whole(audit: &Audit) -> Report {
    verify(&audit.0.dir, &Trust { key: Some(checkpoint(audit).key()), anchor: None }).unwrap()
}

fn record(audit: &Audit, count: usize) {
    for number in 0..count {
        audit.record(Event::done(Actor::Daemon, Action::AlarmRaise, format!("subject {number}"))).unwrap();
    }
}

#[test]
fn a_log_as_it_was_written_is_whole() {
    let fixture = Fixture::filled(9);
    record(&fixture.open(), 3);
    let report = verify(&fixture.dir(), &Trust::default()).unwrap();
    assert!(report.is_whole(), "{report:?}");
    assert_eq!((report.lines, report.signed, report.notes.len()), (12, 12, 0));
}

#[test]
fn every_file_is_private() {
    let fixture = Fixture::filled(2);
    assert_eq!(fs::metadata(fixture.dir()).unwrap().permissions().mode() & 0o777, 0o700);
    for entry in fs::read_dir(fixture.dir()).unwrap() {
        assert_eq!(entry.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}
