//! Changes of the key that signs.

use super::*;

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
