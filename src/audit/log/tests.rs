//! Writing, and finding what was changed, cut, or torn.

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
        let keys = AuditKeys { current: &current, next: next.as_ref() };
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
fn the_log_stays_within_its_bytes_and_whole_without_its_oldest_files() {
    let fixture = Fixture::new();
    for _ in 0..40 {
        record(&fixture.open_within(SMALL), 5);
    }
    let firsts = fixture.firsts();
    assert!(firsts[0] > 0 && firsts.len() > 8, "{firsts:?}");
    let bytes: u64 =
        firsts.iter().map(|first| fs::metadata(segment::path(&fixture.dir(), *first)).unwrap().len()).sum();
    assert!(bytes <= SMALL.max_bytes, "{bytes} bytes are kept");
    let audit = fixture.open_within(SMALL);
    let report = whole(&audit);
    assert!(report.is_whole() && report.lines == report.signed - firsts[0], "{report:?}");

    // A line says what went, and the numbers leave nothing out.
    let drops: Vec<Entry> =
        audit.tail(1000).unwrap().into_iter().filter(|entry| entry.action == "audit.drop").collect();
    let last = &drops.last().unwrap().details;
    assert_eq!((last["to"].as_u64().unwrap() + 1, last["until"].is_string()), (firsts[0], true), "{last}");
    for pair in drops.windows(2) {
        assert_eq!(pair[0].details["to"].as_u64().unwrap() + 1, pair[1].details["from"].as_u64().unwrap());
    }
    assert_eq!(last["lines"], last["to"].as_u64().unwrap() + 1 - last["from"].as_u64().unwrap());

    fs::remove_file(segment::path(&fixture.dir(), firsts[1])).unwrap();
    assert!(fixture.findings()[0].contains("missing"), "{:?}", fixture.findings());
}

#[test]
fn what_is_too_old_goes_only_while_the_clock_is_right() {
    let monthly = Retention { max_bytes: 1 << 20, max_age: Some(DAY * 32) };
    for is_right in [true, false] {
        let fixture = Fixture::new();
        let (seed, trusted): (_, fn() -> bool) = (Secret::new([9; 32]), if is_right { || true } else { || false });
        let keys = AuditKeys { current: &seed, next: None };
        let audit = Audit::open_trusting(&fixture.dir(), &keys, monthly, fixture.clock.clone(), trusted).unwrap();
        for _ in 0..50 {
            record(&audit, 1);
            fixture.clock.advance(DAY);
        }
        let oldest = audit.tail(1000).unwrap().remove(0);
        let age = fixture.clock.wall().as_millis() / 86_400_000
            - u128::try_from(oldest.wall_ms().unwrap()).unwrap() / 86_400_000;
        // Files of two days each go as a whole.
        if is_right {
            assert!((32..=36).contains(&age), "{age} days");
        } else {
            assert_eq!((age, oldest.seq), (50, 0));
        }
        assert!(whole(&audit).is_whole());
    }
}

#[test]
fn nothing_goes_before_a_signed_checkpoint_covers_it() {
    let fixture = Fixture::new();
    let audit = fixture.open_within(SMALL);
    record(&audit, 60);
    // The checkpoint cannot be replaced: a folder stands in its way.
    let aside = fixture.dir().join("checkpoint.json.new");
    fs::create_dir(&aside).unwrap();
    let before = fixture.firsts();
    audit.set_retention(Retention { max_bytes: 16 * 1000, max_age: None });
    record(&audit, 1);
    assert_eq!(fixture.firsts()[..before.len()], before);
    fs::remove_dir(&aside).unwrap();
    record(&audit, 1);
    assert!(fixture.firsts()[0] > 0);
    assert!(whole(&audit).is_whole());
}

#[test]
fn an_anchor_vouches_for_where_the_kept_lines_begin() {
    let fixture = Fixture::new();
    let audit = fixture.open_within(SMALL);
    let mut anchors = Vec::new();
    for _ in 0..40 {
        record(&audit, 1);
        anchors.push(checkpoint(&audit));
    }
    assert_eq!(fixture.firsts()[0], 0);
    record(&audit, 35);
    let first = fixture.firsts()[0];
    assert!((1..39).contains(&first), "{first}");
    let at = |size: u64| anchors.iter().find(|anchor| anchor.size() == size).unwrap().clone();
    let held = |anchor: Checkpoint| verify(&fixture.dir(), &Trust { key: None, anchor: Some(anchor) }).unwrap();
    for size in [first, first + 1, 40] {
        assert!(held(at(size)).is_whole() && held(at(size)).notes.is_empty(), "{size}");
    }
    assert!(held(at(first - 1)).notes[0].contains("no longer kept"));
    // Of another log of this gateway, as long as what is gone.
    let other = Fixture::new();
    let audit = other.open_within(SMALL);
    record(&audit, usize::try_from(first).unwrap() - 1);
    audit.record(Event::done(Actor::Daemon, Action::AlarmRaise, "something else")).unwrap();
    assert_eq!(checkpoint(&audit).size(), first);
    assert!(!held(checkpoint(&audit)).is_whole());
}

#[test]
fn the_export_is_the_lines_and_the_checkpoint() {
    let fixture = Fixture::new();
    let audit = fixture.open_within(SMALL);
    record(&audit, 8);
    let mut out = Vec::new();
    audit.export(Selection::default(), true, &mut out).unwrap();
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
    audit.export(Selection::default(), true, &mut Slow(&audit)).unwrap();
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

#[test]
fn a_reader_goes_on_where_it_was_over_files_that_come_and_go() {
    let fixture = Fixture::new();
    let audit = fixture.open_within(SMALL);
    record(&audit, 10);
    let mut out = Vec::new();
    let mut cursor = audit.export(Selection { after: Some(6), since_ms: None }, false, &mut out).unwrap();
    let numbers =
        |lines: &[Vec<u8>]| -> Vec<u64> { lines.iter().map(|line| line::parse(line).unwrap().0.seq).collect() };
    let lines: Vec<Vec<u8>> =
        out.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect();
    assert_eq!(numbers(&lines), [7, 8, 9]);
    assert!(audit.read(&mut cursor, 100).unwrap().is_empty());
    let mut seen = 10;
    for _ in 0..30 {
        record(&audit, 7);
        while let Some(last) = numbers(&audit.read(&mut cursor, 3).unwrap()).last() {
            assert!(*last < checkpoint(&audit).size() && *last < seen + 3, "{last} after {seen}");
            seen = last + 1;
        }
        assert_eq!(seen, checkpoint(&audit).size());
    }
    // One that was away too long sees from the numbers what it missed, and goes on with what is kept.
    let first = fixture.firsts()[0];
    assert_eq!(numbers(&audit.read(&mut Cursor::default(), 2).unwrap()), [first, first + 1]);
}

#[test]
fn an_export_since_a_time_begins_there() {
    let fixture = Fixture::new();
    let audit = fixture.open();
    record(&audit, 3);
    fixture.clock.advance(DAY);
    let since_ms = fixture.clock.wall_ms();
    record(&audit, 2);
    let mut out = Vec::new();
    audit.export(Selection { after: None, since_ms: Some(since_ms) }, false, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(text.lines().count() == 2 && text.starts_with("{\"seq\":3,"), "{text}");
}

#[test]
fn an_old_key_leads_to_the_new_one_over_a_change_also_when_its_line_is_gone() {
    let fixture = Fixture::new();
    let audit = fixture.open_within(SMALL);
    record(&audit, 3);
    let (first, anchor) = (audit.key(), checkpoint(&audit));
    audit.rotate_key(&Secret::new([8; 32]), Actor::Daemon).unwrap();
    let second = audit.key();
    assert!(first != second && checkpoint(&audit).key() == second);
    let entry = audit.tail(1).unwrap().remove(0);
    assert_eq!((entry.action.as_str(), entry.subject), ("audit.key", second.to_string()));
    for trust in [
        Trust { key: Some(first), anchor: Some(anchor) },
        Trust { key: Some(second), anchor: Some(checkpoint(&audit)) },
    ] {
        let report = verify(&fixture.dir(), &trust).unwrap();
        assert!(report.is_whole(), "{report:?}");
    }
    let stranger = Trust { key: Some(Digest([1; 32])), anchor: None };
    assert!(!verify(&fixture.dir(), &stranger).unwrap().is_whole());
    drop(audit);

    let audit = fixture.open_as(8, None, SMALL);
    while fixture.firsts()[0] == 0 {
        record(&audit, 5);
    }
    let report = verify(&fixture.dir(), &Trust { key: Some(first), anchor: None }).unwrap();
    assert!(report.is_whole(), "{report:?}");
    fs::remove_file(fixture.dir().join("keys.jsonl")).unwrap();
    assert!(!verify(&fixture.dir(), &Trust { key: Some(first), anchor: None }).unwrap().is_whole());
}

#[test]
fn a_change_of_key_that_the_old_key_did_not_sign_is_found() {
    let fixture = Fixture::filled(4);
    let audit = fixture.open();
    let first = audit.key();
    audit.rotate_key(&Secret::new([8; 32]), Actor::Daemon).unwrap();
    let mut lines = fixture.lines();
    // Another key is put in, and everything is signed again by it: only the old key's signature is missing.
    let thief = SigningKey::from_bytes(&[66; 32]);
    let public = Digest(thief.verifying_key().to_bytes());
    let (entry, _) = line::parse(lines[4].as_bytes()).unwrap();
    let text = entry.to_line().0.replace(&audit.key().to_string(), &public.to_string());
    let forged: Entry = serde_json::from_str(&text).unwrap();
    let (line, _) = Entry { ..forged }.to_line();
    line.trim_end().clone_into(&mut lines[4]);
    fixture.rewrite(&lines);
    let mut head = crate::audit::checkpoint::State::default();
    for line in &lines {
        head.push(line::parse(line.as_bytes()).unwrap().1);
    }
    let base = crate::audit::checkpoint::State::default();
    Checkpoint::sign(&thief, head, base, 0).write(&fixture.dir()).unwrap();
    for key in [Some(first), None] {
        let report = verify(&fixture.dir(), &Trust { key, anchor: None }).unwrap();
        assert!(report.findings[0].what.contains("not signed by the key before it"), "{report:?}");
    }
}

#[test]
fn a_checkpoint_of_a_key_that_was_replaced_is_found() {
    let fixture = Fixture::filled(4);
    let audit = fixture.open();
    audit.rotate_key(&Secret::new([8; 32]), Actor::Daemon).unwrap();
    record(&audit, 2);
    let body = checkpoint(&audit).body;
    let old = SigningKey::from_bytes(&[9; 32]);
    Checkpoint::sign(&old, body.head, body.base, 0).write(&fixture.dir()).unwrap();
    assert!(fixture.findings()[0].contains("the key in use was"), "{:?}", fixture.findings());
}

#[test]
fn a_crash_at_any_step_of_a_change_of_keys_leaves_a_log_that_goes_on() {
    let fixture = Fixture::filled(4);
    let file = fixture.dir().join("checkpoint.json");
    let old = fs::read(&file).unwrap();
    // Before the line, after the line and before the checkpoint, after both.
    let audit = fixture.open_as(9, Some(8), Retention::default());
    let first = audit.key();
    drop(audit);
    fixture.open().rotate_key(&Secret::new([8; 32]), Actor::Daemon).unwrap();
    let new = fs::read(&file).unwrap();
    for content in [old, new] {
        fs::write(&file, content).unwrap();
        let audit = fixture.open_as(9, Some(8), Retention::default());
        assert_ne!(audit.key(), first);
        record(&audit, 1);
        let report = verify(&fixture.dir(), &Trust { key: Some(first), anchor: None }).unwrap();
        assert!(report.is_whole(), "{report:?}");
        // As it was for the next round.
        fixture.rewrite(&fixture.lines()[..5]);
    }
}
