//! Lines that could not be written.

use super::*;

impl Audit {
    /// The log's file is on a full disk from now on; gives back what it was.
    pub(crate) fn fill_disk(&self) -> fs::File {
        let no_room = OpenOptions::new().write(true).open("/dev/full").unwrap();
        std::mem::replace(&mut self.0.writer().file, no_room)
    }

    pub(crate) fn make_room(&self, file: fs::File) {
        self.0.writer().file = file;
    }
}

#[test]
fn the_first_line_that_can_be_written_again_says_how_many_are_missing() {
    let fixture = Fixture::new();
    let audit = fixture.open();
    record(&audit, 2);
    let file = audit.fill_disk();
    let event = || Event::done(Actor::Daemon, Action::AlarmRaise, "x");
    for lines in 1..=3 {
        let refused = audit.record(event()).unwrap_err().to_string();
        assert!(refused.contains("must be writable"), "{refused}");
        fixture.clock.advance(Duration::from_secs(1));
        assert_eq!(audit.missing().unwrap().lines, lines);
    }
    assert_eq!(audit.heal().unwrap().lines, 3, "there is still no room; nothing more is missing");
    audit.make_room(file);
    record(&audit, 1);
    assert_eq!(audit.missing(), None);
    let lines = audit.tail(10).unwrap();
    let actions: Vec<_> = lines.iter().map(|line| line.action.as_str()).collect();
    assert_eq!(actions, ["alarm.raise", "alarm.raise", "audit.missing", "alarm.raise"]);
    assert_eq!(lines[2].details, serde_json::json!({ "lines": 3, "since": "2023-11-14T22:13:20Z" }));
    assert!(whole(&audit).is_whole());
    assert_eq!(audit.heal(), None);
    assert_eq!(audit.tail(10).unwrap().len(), 4, "it is said once");
}

#[test]
fn it_is_said_without_another_event_too() {
    let fixture = Fixture::new();
    let audit = fixture.open();
    let file = audit.fill_disk();
    audit.record(Event::done(Actor::Daemon, Action::AlarmRaise, "x")).unwrap_err();
    audit.make_room(file);
    assert_eq!(audit.heal(), None);
    assert_eq!(audit.tail(1).unwrap()[0].action, "audit.missing");
}
