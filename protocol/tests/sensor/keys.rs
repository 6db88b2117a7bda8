//! How a sensor comes by its keys and how it loses them: window, ceremonies, guesses, storage, commands.

use clawgate_protocol::app::{Action, Status};
use clawgate_protocol::code::Code;
use clawgate_protocol::discovery;
use clawgate_protocol::pairing::{Ceremony, Failure, Prs, Suite};
use clawgate_protocol::sensor::{Event, StartError};

use crate::desk::Seeded;
use crate::table::{DELAY_MS, Table, start};

const WRONG: Prs = *b"0000000";

#[test]
fn both_suites_and_both_ceremonies_pair() {
    for suite in [Suite::One, Suite::Two] {
        let mut table = Table::new(2);
        let code = Code::random(&mut Seeded(5));
        table.sensor.enter_code(code.clone(), 0);
        table.desk.pair(Ceremony::Issued, code.prs(), suite, 0);
        table.run_for(300);
        assert!(table.sensor.is_paired() && table.sensor.window(table.now_ms).is_none());
        assert_eq!(table.desk.slots.current().map(|record| record.suite), Some(suite));
        let expected = Event::Paired {
            gateway: "shed".parse().unwrap(),
            config: heapless::Vec::from_slice(b"every=10s").unwrap(),
        };
        assert!(table.events.contains(&expected));
    }
}

#[test]
fn outside_of_a_window_m1_is_met_with_silence() {
    let mut table = Table::new(3);
    let prs = table.label.prs();
    table.pair(Ceremony::Label, prs);
    assert_eq!((table.sensor.is_paired(), table.desk.refused), (false, 0));
    let mut table = Table::connected(3);
    table.pair(Ceremony::Label, prs);
    assert_eq!(table.desk.refused, 0);
    assert!(table.desk.slots.pending().is_none());
}

#[test]
fn a_window_is_open_for_one_ceremony_and_five_minutes() {
    let mut table = Table::new(4);
    table.sensor.open_label_window(0).unwrap();
    let prs = table.label.prs();
    table.pair(Ceremony::Issued, prs);
    assert_eq!((table.sensor.is_paired(), table.desk.refused), (false, 1));

    for (at, opens) in [(299_900, true), (300_000, false)] {
        let mut table = Table::new(4);
        table.sensor.open_label_window(0).unwrap();
        table.now_ms = at - DELAY_MS;
        table.pair(Ceremony::Label, prs);
        // Open until the last moment; a run that outlives the window ends with it.
        assert_eq!(table.sensor.is_paired(), opens, "at {at} ms");
        assert_eq!(table.sensor.window(table.now_ms), None);
    }
}

#[test]
fn a_paired_sensor_shows_an_id_that_only_its_gateway_knows_again() {
    let mut table = Table::new(5);
    table.desk.probe();
    table.run_for(50);
    let (paired, id, rotating, window) = table.desk.ident.take().unwrap();
    assert_eq!((paired, id.as_deref(), rotating, window), (false, Some("th-kit-7f3a"), None, None));

    let mut table = Table::connected(5);
    table.desk.probe();
    table.run_for(50);
    let (paired, id, rotating, _) = table.desk.ident.take().unwrap();
    assert_eq!((paired, id), (true, None));
    let key = table.desk.slots.current().unwrap().advertising_key;
    assert!(discovery::matches(&key, &rotating.unwrap()));
    assert!(!discovery::matches(&[0; 32], &rotating.unwrap()));
    table.desk.probe();
    table.run_for(50);
    assert_ne!(table.desk.ident.take().unwrap().2, rotating, "it rotates");

    table.sensor.open_label_window(table.now_ms).unwrap();
    table.desk.probe();
    table.run_for(50);
    assert_eq!(table.desk.ident.take().unwrap().1.as_deref(), Some("th-kit-7f3a"));
}

#[test]
fn wrong_guesses_at_the_label_slow_down_even_over_a_reboot_and_a_button_clears_that() {
    let mut table = Table::new(6);
    table.sensor.open_label_window(0).unwrap();
    table.pair(Ceremony::Label, WRONG);
    assert!(!table.sensor.is_paired());
    assert!(table.events.contains(&Event::PairingFailed(Failure::WrongCode)));
    let right = table.label.prs();
    table.desk.refused = 0;
    table.pair(Ceremony::Label, right);
    assert_eq!((table.sensor.is_paired(), table.desk.refused), (false, 1), "within a second");
    for _ in 0..6 {
        table.run_for(20_000);
        table.pair(Ceremony::Label, WRONG);
    }
    table.power_cycle();
    // The delay after 7 attempts is 4 s; a command's or a first window does not clear it.
    table.sensor.open_label_window(table.now_ms).unwrap();
    table.pair(Ceremony::Label, right);
    assert!(table.sensor.is_paired(), "a physical act clears the waiting time");
}

#[test]
fn the_count_of_wrong_guesses_survives_a_power_cut() {
    let mut table = Table::connected(7);
    let right = table.label.prs();
    for id in 0..7 {
        table.run_for(20_000);
        table.desk.command(id, Action::OpenWindow { seconds: 60 });
        table.run_for(100);
        table.pair(Ceremony::Label, WRONG);
    }
    table.power_cycle();
    table.desk.connect(table.now_ms);
    table.run_for(100);
    table.desk.command(9, Action::OpenWindow { seconds: 60 });
    table.run_for(100);
    table.desk.refused = 0;
    table.pair(Ceremony::Label, right);
    assert_eq!(table.desk.refused, 1, "still waiting after the reboot");
    table.run_for(5_000);
    table.pair(Ceremony::Label, right);
    assert!(table.desk.slots.current().is_some() && table.desk.failure.is_none());
}

#[test]
fn an_entered_code_is_forgotten_after_three_unanswered_tags() {
    let mut table = Table::new(8);
    let code = Code::random(&mut Seeded(9));
    table.sensor.enter_code(code.clone(), 0);
    for attempt in 1..=3 {
        assert!(table.sensor.window(table.now_ms).is_some(), "before attempt {attempt}");
        table.pair(Ceremony::Issued, WRONG);
        table.run_for(11_000);
    }
    assert!(table.sensor.window(table.now_ms).is_none());
    table.pair(Ceremony::Issued, code.prs());
    assert!(!table.sensor.is_paired());
}

#[test]
fn a_window_has_an_id_of_its_own_each_time_a_code_is_entered() {
    let mut table = Table::new(10);
    let mut seen = Vec::new();
    for _ in 0..2 {
        table.sensor.enter_code(Code::random(&mut Seeded(9)), table.now_ms);
        table.desk.probe();
        table.run_for(50);
        let window = table.desk.ident.take().unwrap().3.unwrap();
        assert_eq!((window.ceremony, window.seconds_left), (Ceremony::Issued, 300));
        seen.push(window.id);
    }
    assert_ne!(seen[0], seen[1]);
}

#[test]
fn commands_are_answered_and_unpairing_erases_the_keys_after_the_answer() {
    let mut table = Table::connected(16);
    table.desk.command(1, Action::Identify { seconds: 500 });
    table.desk.command(2, Action::Unknown(77));
    table.desk.command(3, Action::OpenWindow { seconds: 10 });
    table.desk.command(5, Action::Identify { seconds: 1 });
    table.run_for(100);
    assert!(table.events.contains(&Event::Blink { seconds: 60 }), "bounded");
    assert!(!table.events.contains(&Event::Blink { seconds: 1 }), "too soon after the last one");
    assert!(table.sensor.window(table.now_ms).is_some());
    table.desk.command(4, Action::Unpair);
    table.run_for(100);
    let statuses: Vec<_> = table.desk.replies.iter().map(|reply| (reply.id, reply.status)).collect();
    let expected = [(1, Status::Ok), (2, Status::Refused), (3, Status::Ok), (5, Status::Busy), (4, Status::Ok)];
    assert_eq!(statuses, expected);
    assert!(!table.sensor.is_paired() && table.events.contains(&Event::Unpaired));
    table.power_cycle();
    assert!(!table.sensor.is_paired(), "erased in the flash too");
}

#[test]
fn blinking_is_not_to_be_had_without_end() {
    let mut table = Table::new(17);
    for _ in 0..5 {
        let mut message = [0; 16];
        let len = discovery::encode_identify(3, &mut message).unwrap();
        table.sensor.handle(&mut message[..len], table.now_ms);
        table.run_for(1_000);
    }
    assert_eq!(table.events, [Event::Blink { seconds: 3 }]);
}

#[test]
fn a_storage_that_fails_stops_the_pairing_and_the_old_key_stays() {
    // The first save counts the attempt, the second keeps the new key.
    for good_saves in [0, 1] {
        let mut table = Table::connected(18);
        let old = table.sensor.pairing_id();
        table.sensor.open_label_window(table.now_ms).unwrap();
        table.flash.borrow_mut().good_saves = Some(good_saves);
        let prs = table.label.prs();
        table.pair(Ceremony::Label, prs);
        assert_eq!(table.sensor.pairing_id(), old);
        assert!(table.events.contains(&Event::StorageFailed));
        assert_eq!(table.desk.slots.current().map(|record| record.pairing_id), old, "no M6 came");
        assert_eq!(table.desk.slots.pending().is_some(), good_saves == 1);
        table.flash.borrow_mut().good_saves = None;
        table.desk.connect(table.now_ms);
        table.run_for(5_000);
        table.read(1);
        table.run_for(100);
        assert_eq!(table.arrived().len(), 1, "the old key still works");
    }
}

#[test]
fn a_new_pairing_replaces_the_old_one_only_once_it_is_proven() {
    let mut table = Table::connected(19);
    let old = table.sensor.pairing_id();
    table.sensor.open_label_window(table.now_ms).unwrap();
    let prs = table.label.prs();
    table.pair(Ceremony::Label, prs);
    assert_eq!(table.sensor.pairing_id(), old, "not proven yet");
    assert_eq!(table.sensor.advertisement_life_ms(table.now_ms), 5_000, "a gateway that has one of them only finds it");
    table.desk.connect(table.now_ms);
    table.run_for(5_000);
    assert_ne!(table.sensor.pairing_id(), old);
    assert_eq!(table.sensor.advertisement_life_ms(table.now_ms), 600_000);
    let proven = table.sensor.pairing_id().unwrap();
    assert!(table.events.contains(&Event::KeyProven { pairing_id: proven }));
}

#[test]
fn a_damaged_state_is_refused_and_never_started_empty_over() {
    let table = Table::connected(20);
    table.flash.borrow_mut().state.as_mut().unwrap()[100] ^= 1;
    assert_eq!(start(&table.flash, &table.label, 1000, 1, 0).err(), Some(StartError::Damaged));
}

#[test]
fn a_reset_erases_everything_but_the_label() {
    let mut table = Table::connected(21);
    table.read(3);
    let epoch = table.sensor.epoch();
    table.sensor.reset().unwrap();
    assert!(!table.sensor.is_paired() && !table.sensor.is_connected());
    assert_eq!(table.sensor.held(), 0);
    assert_ne!(table.sensor.epoch(), epoch);
}
