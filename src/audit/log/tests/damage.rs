//! What was changed, cut, or torn is found, and the log goes on.

use super::*;

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
    assert!(audit.damage().is_some());
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
    assert_eq!((audit.tail(1).unwrap()[0].action.as_str(), audit.damage()), ("audit.recovered", None));
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
fn a_file_whose_number_is_written_otherwise_stops_neither_the_check_nor_the_log() {
    let fixture = Fixture::filled(2);
    for name in ["audit-7.jsonl", "audit-+00000000009.jsonl", "audit-99999999999999999999.jsonl"] {
        fs::write(fixture.dir().join(name), "not ours").unwrap();
    }
    assert_eq!(fixture.findings(), [""; 0]);
    let audit = fixture.open();
    record(&audit, 1);
    assert_eq!(audit.damage(), None);
}

#[test]
fn lines_that_were_not_signed_over_several_files_are_taken_up_and_no_number_is_given_twice() {
    let fixture = Fixture::new();
    let audit = fixture.open_within(SMALL);
    record(&audit, 4);
    let file = fixture.dir().join("checkpoint.json");
    let old = fs::read(&file).unwrap();
    record(&audit, 9);
    let next = audit.key();
    audit.rotate_key(&Secret::new([8; 32]), Actor::Daemon).unwrap();
    record(&audit, 9);
    drop(audit);
    // Each line is safe without its checkpoint: one that could not be written is an older one.
    fs::write(&file, old).unwrap();
    let audit = fixture.open_as(9, Some(8), SMALL);
    assert_eq!(audit.damage(), None);
    let last = audit.tail(1).unwrap().remove(0);
    assert_eq!((last.action.as_str(), last.seq), ("audit.recovered", 23));
    assert!(last.reason.unwrap().contains("lines 4 to 22"));
    let report = verify(&fixture.dir(), &Trust { key: Some(next), anchor: None }).unwrap();
    assert!(report.is_whole() && report.lines == 24, "{report:?}");
}

#[test]
fn a_gateway_starts_where_its_checkpoint_cannot_be_renewed() {
    let fixture = Fixture::filled(4);
    let mut file = OpenOptions::new().append(true).open(fixture.file()).unwrap();
    file.write_all(b"torn").unwrap();
    // As on a full disk: the file beside it cannot be made.
    let aside = fixture.dir().join("checkpoint.json.new");
    fs::create_dir(&aside).unwrap();
    let audit = fixture.open();
    assert!(verify(&fixture.dir(), &Trust::default()).unwrap().is_whole());
    fs::remove_dir(&aside).unwrap();
    record(&audit, 1);
    assert_eq!(whole(&audit).signed, 6);
}

#[test]
fn a_file_that_was_put_in_or_has_anothers_name_is_found() {
    let fixture = Fixture::new();
    let audit = fixture.open_within(SMALL);
    record(&audit, 9);
    assert_eq!(fixture.firsts(), [0, 4, 8]);
    assert_eq!(fixture.findings(), [""; 0]);
    // Between two that follow each other, as if it had been dropped.
    let put_in = segment::path(&fixture.dir(), 2);
    fs::copy(segment::path(&fixture.dir(), 4), &put_in).unwrap();
    assert_ne!(fixture.findings(), [""; 0]);
    fs::remove_file(&put_in).unwrap();
    assert_eq!(fixture.findings(), [""; 0]);
    // The order stays; whoever looks for line 4 by the names looks elsewhere.
    fs::rename(segment::path(&fixture.dir(), 4), segment::path(&fixture.dir(), 5)).unwrap();
    assert!(fixture.findings()[0].contains("the file's name says 5"), "{:?}", fixture.findings());
}
