//! An export, and readers that follow.

use super::*;

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
fn a_forged_number_keeps_no_later_line_from_a_reader() {
    let fixture = Fixture::filled(3);
    let mut lines = fixture.lines();
    let (entry, _) = line::parse(lines[1].as_bytes()).unwrap();
    lines[1] = Entry { seq: u64::MAX, ..entry }.to_line().0.trim_end().to_owned();
    fixture.rewrite(&lines);
    assert!(!verify(&fixture.dir(), &Trust::default()).unwrap().is_whole());
    let audit = fixture.open();
    let mut cursor = Cursor::default();
    let first = audit.read(&mut cursor, 100).unwrap();
    assert!(first.len() >= 3 && first[1] == lines[1].as_bytes(), "it is passed on as it stands");
    record(&audit, 1);
    let next = audit.read(&mut cursor, 100).unwrap();
    assert_eq!(line::parse(&next[0]).unwrap().0.subject, audit.tail(1).unwrap()[0].subject);
}
