//! Writing, and finding what was changed, cut, or torn.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::audit::{Digest, Report, Trust, verify};

const SMALL: Limits = Limits { file_bytes: 1500, files: 3 };

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

    fn open_within(&self, limits: Limits) -> Audit {
        Audit::open_within(&self.dir(), &Secret::new([9; 32]), self.clock.clone(), limits).unwrap()
    }

    /// A log of `count` lines that was closed.
    fn filled(count: usize) -> Self {
        let fixture = Self::new();
        record(&fixture.open(), count);
        fixture
    }

    fn open(&self) -> Audit {
        self.open_within(LIMITS)
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
        audit.record(Event::done(Actor::Daemon, "test.it", format!("subject {number}"))).unwrap();
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
fn an_edited_line_is_found_even_with_its_hash_made_right() {
    let fixture = Fixture::filled(5);
    let mut lines = fixture.lines();
    lines[2] = lines[2].replace("subject 2", "subject X");
    fixture.rewrite(&lines);
    assert!(fixture.findings()[0].contains("its own hash"), "{:?}", fixture.findings());

    let (entry, _) = line::parse(Fixture::filled(5).lines()[2].as_bytes()).unwrap();
    let forged = Entry { subject: "subject X".to_owned(), ..entry };
    lines[2] = forged.to_line().0.trim_end().to_owned();
    fixture.rewrite(&lines);
    assert!(fixture.findings()[0].contains("does not follow"), "{:?}", fixture.findings());
}

#[test]
fn a_whole_chain_that_was_made_again_is_found_by_its_root() {
    let fixture = Fixture::filled(5);
    let mut prev = Digest::default();
    let forged: Vec<String> = fixture
        .lines()
        .iter()
        .map(|text| {
            let (entry, _) = line::parse(text.as_bytes()).unwrap();
            let (line, hash) = Entry { subject: "forged".to_owned(), prev, ..entry }.to_line();
            prev = hash;
            line.trim_end().to_owned()
        })
        .collect();
    fixture.rewrite(&forged);
    assert!(fixture.findings()[0].contains("signed checkpoint"), "{:?}", fixture.findings());
}

#[test]
fn deleted_reordered_and_cut_lines_are_found() {
    let whole = Fixture::filled(6).lines();
    let without = |at: usize| [&whole[..at], &whole[at + 1..]].concat();
    let mut swapped = whole.clone();
    swapped.swap(2, 3);
    let cases =
        [("deleted", without(3)), ("first", without(0)), ("swapped", swapped), ("cut", without(5)), ("all", vec![])];
    for (what, lines) in cases {
        let fixture = Fixture::filled(6);
        fixture.rewrite(&lines);
        assert_ne!(fixture.findings(), [""; 0], "{what}");
    }
}

#[test]
fn a_cut_log_with_an_older_checkpoint_is_found_by_an_anchor() {
    let fixture = Fixture::filled(3);
    let (lines, old) = (fixture.lines(), fs::read(fixture.dir().join("checkpoint.json")).unwrap());
    let audit = fixture.open();
    record(&audit, 3);
    let anchor = checkpoint(&audit);
    drop(audit);
    fixture.rewrite(&lines);
    fs::write(fixture.dir().join("checkpoint.json"), old).unwrap();
    assert_eq!(fixture.findings(), [""; 0], "without an anchor nothing can tell");
    let report = verify(&fixture.dir(), &Trust { anchor: Some(anchor), key: None }).unwrap();
    assert!(report.findings[0].what.contains("the anchor speaks for 6 lines"), "{report:?}");
}

#[test]
fn a_checkpoint_of_another_key_is_found() {
    let fixture = Fixture::filled(3);
    let key = checkpoint(&fixture.open()).key();
    assert!(verify(&fixture.dir(), &Trust { key: Some(key), anchor: None }).unwrap().is_whole());
    let other = Trust { key: Some(Digest([1; 32])), anchor: None };
    assert!(verify(&fixture.dir(), &other).unwrap().findings[0].what.contains("another key"));
}

#[test]
fn after_damage_the_log_goes_on_and_stays_damaged() {
    let fixture = Fixture::filled(6);
    let lines = fixture.lines();
    fixture.rewrite(&lines[..4]);
    let audit = fixture.open();
    record(&audit, 2);
    let last = audit.tail(3).unwrap();
    assert_eq!((last[0].action.as_str(), last[0].seq, last[2].seq), ("audit.damaged", 6, 8));
    assert!(!whole(&audit).is_whole());
}

#[test]
fn a_lost_or_forged_checkpoint_sets_the_old_log_aside_and_says_so() {
    for forge in [false, true] {
        let fixture = Fixture::filled(4);
        let file = fixture.dir().join("checkpoint.json");
        if forge {
            let text = fs::read_to_string(&file).unwrap();
            fs::write(&file, text.replace("\"size\":4", "\"size\":3")).unwrap();
        } else {
            fs::remove_file(&file).unwrap();
        }
        assert_ne!(fixture.findings(), [""; 0]);
        let audit = fixture.open();
        let first = audit.tail(1).unwrap().remove(0);
        assert_eq!((first.action.as_str(), first.seq), ("audit.damaged", 0));
        let kept = fixture.dir().join("damaged-1700000000000/audit-000000000000.jsonl");
        assert_eq!(fs::read_to_string(kept).unwrap().lines().count(), 4);
    }
}

#[test]
fn a_torn_last_line_is_noted_cut_and_said() {
    let fixture = Fixture::filled(4);
    let mut file = OpenOptions::new().append(true).open(fixture.file()).unwrap();
    file.write_all(b"{\"seq\":4,\"time\":\"20").unwrap();
    let report = verify(&fixture.dir(), &Trust::default()).unwrap();
    assert!(report.is_whole() && report.notes[0].contains("cut off"), "{report:?}");
    let audit = fixture.open();
    assert_eq!(audit.tail(1).unwrap()[0].action, "audit.recovered");
    let report = whole(&audit);
    assert!(report.is_whole() && report.notes.is_empty(), "{report:?}");
}

#[test]
fn a_line_that_a_crash_left_unsigned_is_taken_up_and_said() {
    let fixture = Fixture::filled(4);
    let old = fs::read(fixture.dir().join("checkpoint.json")).unwrap();
    record(&fixture.open(), 1);
    fs::write(fixture.dir().join("checkpoint.json"), old).unwrap();
    assert_eq!(verify(&fixture.dir(), &Trust::default()).unwrap().notes, ["the last 1 lines are not signed yet"]);
    let audit = fixture.open();
    assert!(audit.tail(1).unwrap()[0].reason.as_ref().unwrap().contains("lines 4 to 4"));
    assert_eq!(whole(&audit).signed, 6);
}

#[test]
fn the_log_turns_over_and_stays_whole_without_its_oldest_files() {
    let fixture = Fixture::new();
    for _ in 0..10 {
        record(&fixture.open_within(SMALL), 5);
    }
    let firsts = segment::list(&fixture.dir()).unwrap();
    assert_eq!(firsts.len(), 3);
    let report = verify(&fixture.dir(), &Trust::default()).unwrap();
    assert!(report.is_whole() && report.signed == 50 && report.lines == 50 - firsts[0], "{report:?}");

    fs::remove_file(segment::path(&fixture.dir(), firsts[1])).unwrap();
    assert!(fixture.findings()[0].contains("missing"), "{:?}", fixture.findings());
}

#[test]
fn the_export_is_the_lines_and_the_checkpoint() {
    let fixture = Fixture::new();
    let audit = fixture.open_within(SMALL);
    record(&audit, 8);
    let mut out = Vec::new();
    audit.export(&mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[..lines.len() - 1].iter().all(|line| line::parse(line.as_bytes()).is_some()));
    assert!(Checkpoint::from_text(&text).unwrap().is_genuine());
}

#[test]
fn a_reader_of_the_export_that_is_slow_or_gone_holds_nothing_up() {
    struct Slow<'a>(&'a Audit);
    impl Write for Slow<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            record(self.0, 1);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let fixture = Fixture::new();
    let audit = fixture.open_within(SMALL);
    record(&audit, 8);
    audit.export(&mut Slow(&audit)).unwrap();
    assert!(whole(&audit).is_whole());
}

#[test]
fn every_file_is_private() {
    let fixture = Fixture::filled(2);
    assert_eq!(fs::metadata(fixture.dir()).unwrap().permissions().mode() & 0o777, 0o700);
    for entry in fs::read_dir(fixture.dir()).unwrap() {
        assert_eq!(entry.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn who_watches_sees_each_new_checkpoint() {
    let fixture = Fixture::filled(3);
    let audit = fixture.open();
    let mut checkpoints = audit.checkpoints();
    assert_eq!(checkpoints.borrow_and_update().size(), 3);
    record(&audit, 2);
    assert!(checkpoints.has_changed().unwrap());
    let newest = checkpoints.borrow_and_update().clone();
    // As it is published, it serves as an anchor.
    let published = serde_json::to_string(&newest).unwrap();
    let anchor = Checkpoint::from_text(&published).unwrap();
    let trust = Trust { key: Some(newest.key()), anchor: Some(anchor) };
    assert!(newest.size() == 5 && verify(&fixture.dir(), &trust).unwrap().is_whole());
}
