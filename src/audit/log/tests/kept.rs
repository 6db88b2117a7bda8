//! What is kept, and in which order the rest goes.

use super::*;

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
        let keys = AuditKeys { current: &seed, next: None, is_known: false };
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
    let size = audit.0.writer().head.edge.size;
    record(&audit, 5);
    assert_eq!(fixture.firsts()[..before.len()], before);
    assert_eq!(audit.0.writer().head.edge.size, size + 5, "what did not go is not said to have gone");
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
