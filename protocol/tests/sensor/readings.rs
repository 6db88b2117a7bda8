//! What becomes of readings: on a good line and a bad one, over restarts of either end, with a clock and without.

use clawgate_protocol::app::{Ack, App};
use clawgate_protocol::pairing::Ceremony;
use clawgate_protocol::senml::{self, Record, Value};
use clawgate_protocol::sensor::Event;

use crate::table::{DELAY_MS, Table};

#[test]
fn readings_arrive_in_order_and_are_forgotten_only_when_they_are_safe() {
    let mut table = Table::connected(1);
    table.desk.safe_at_once = false;
    table.read(100);
    table.run_for(1_000);
    assert_eq!(table.arrived(), (1..=100).collect::<Vec<_>>());
    assert_eq!(table.sensor.held(), 100, "received is not safe");
    table.desk.make_safe();
    table.run_for(100);
    assert_eq!(table.sensor.held(), 0);
    assert!(table.events.contains(&Event::Safe { epoch: table.sensor.epoch(), seq: 100 }));
}

#[test]
fn nothing_is_lost_doubled_or_out_of_order_on_a_bad_line() {
    for seed in 0..12 {
        let mut table = Table::connected(100 + seed);
        table.faults = 60;
        table.desk.safe_at_once = seed % 2 == 0;
        for round in 0..30 {
            table.read(7);
            table.run_for(700);
            if round % 5 == 4 {
                table.desk.make_safe();
            }
        }
        table.faults = 0;
        table.run_for(40_000);
        table.desk.make_safe();
        table.run_for(40_000);
        assert_eq!(table.arrived(), (1..=210).collect::<Vec<_>>(), "seed {seed}");
        table.desk.make_safe();
        table.run_for(1_000);
        assert_eq!(table.sensor.held(), 0, "seed {seed}");
    }
}

#[test]
fn a_lost_record_is_sent_again_at_once_and_not_after_a_time_out() {
    let mut table = Table::connected(27);
    table.read(3);
    table.exchange();
    table.line.retain(|(_, to_sensor, _)| *to_sensor);
    for _ in 0..3 {
        table.read(1);
        table.run_for(20);
    }
    table.run_for(200);
    assert_eq!(table.arrived(), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn an_acknowledgement_of_another_epoch_or_of_what_was_never_made_forgets_nothing() {
    let mut table = Table::connected(28);
    table.desk.safe_at_once = false;
    table.read(10);
    table.run_for(100);
    let epoch = table.sensor.epoch();
    for (epoch, safe) in [(epoch ^ 1, 5), (epoch, 11), (epoch, u64::MAX - 1)] {
        table.desk.seal(&App::Ack(Ack { epoch, safe, next: safe + 1 }));
        table.run_for(100);
    }
    assert_eq!(table.sensor.held(), 10);
}

#[test]
fn a_gateway_that_is_killed_gets_what_was_not_safe_again() {
    let mut table = Table::connected(11);
    table.desk.safe_at_once = false;
    table.read(50);
    table.run_for(500);
    table.desk.make_safe();
    table.read(50);
    table.run_for(500);
    assert_eq!(table.arrived().len(), 100);
    table.desk.restart();
    assert_eq!(table.arrived().len(), 50, "the rest was in its memory only");
    table.desk.connect(table.now_ms);
    table.run_for(1_000);
    assert_eq!(table.arrived(), (1..=100).collect::<Vec<_>>());
}

#[test]
fn a_sensor_that_runs_out_of_memory_drops_the_oldest_and_says_so() {
    let mut table = Table::with_memory(12, 600).connect();
    table.desk.restart();
    table.read(100);
    table.run_for(10_000);
    table.desk.connect(table.now_ms);
    table.run_for(5_000);
    let mut accounted = table.arrived();
    assert!(!table.desk.gaps.is_empty() && accounted.contains(&100));
    accounted.extend(table.desk.gaps.iter().flat_map(|gap| gap.from..=gap.to));
    accounted.sort_unstable();
    assert_eq!(accounted, (1..=100).collect::<Vec<_>>(), "each reading arrived or is named as lost, once");
}

#[test]
fn what_was_dropped_before_the_first_session_is_named_too() {
    let mut table = Table::with_memory(26, 600);
    table.sensor.open_label_window(0).unwrap();
    let prs = table.label.prs();
    table.pair(Ceremony::Label, prs);
    table.read(100);
    table.desk.connect(table.now_ms);
    table.run_for(5_000);
    let lost: Vec<_> = table.desk.gaps.iter().map(|gap| (gap.from, gap.to)).collect();
    let (from, to) = lost[0];
    assert_eq!((lost.len(), from), (1, 1));
    assert_eq!(table.arrived(), (to + 1..=100).collect::<Vec<_>>());
}

#[test]
fn a_power_cycle_keeps_the_keys_and_begins_a_new_epoch() {
    let mut table = Table::connected(13);
    table.read(5);
    table.run_for(100);
    let before = table.sensor.epoch();
    table.power_cycle();
    assert!(table.sensor.is_paired() && table.sensor.epoch() != before);
    table.read(5);
    table.desk.connect(table.now_ms);
    table.run_for(1_000);
    assert_eq!(table.arrived(), [1, 2, 3, 4, 5]);
    assert_eq!(table.desk.received.len(), 10);
}

#[test]
fn readings_carry_uptime_until_the_clock_is_set_and_their_own_time_after() {
    let mut table = Table::connected(14);
    table.read(1);
    table.run_for(100);
    table.desk.unix_ms = Some(1_700_000_000_000);
    table.desk.connect(table.now_ms);
    table.run_for(1_000);
    assert!(table.events.contains(&Event::TimeSet));
    table.read(1);
    table.run_for(100);
    let [(.., first, Some(_)), (.., second, None)] = &table.desk.received[..] else { panic!("not one of each") };
    let time = |pack: &[u8]| senml::Records::new(pack).unwrap().next().unwrap().unwrap().base_time;
    assert_eq!(time(first), None);
    let seconds = time(second).unwrap().as_f64();
    assert!((1_700_000_000.0..1_700_000_010.0).contains(&seconds), "{seconds}");
}

#[test]
fn an_uptime_that_goes_back_does_not_hold_up_readings() {
    let mut table = Table::connected(15);
    for ago_ms in [0, 5, 0, 0, 10] {
        table.sensor.push(&mut [Record::number("t", "Cel", 1.0)], table.now_ms - ago_ms).unwrap();
    }
    table.run_for(1_000);
    assert_eq!(table.arrived(), [1, 2, 3, 4, 5]);
}

#[test]
fn mixed_readings_with_and_without_time_all_arrive() {
    let mut table = Table::connected(15);
    table.desk.restart();
    table.read(10);
    table.desk.unix_ms = Some(1_700_000_000_000);
    table.desk.connect(table.now_ms);
    // The clock is set before the first of these leaves.
    table.run_for(DELAY_MS * 3 + 1);
    table.read(10);
    table.run_for(1_000);
    assert_eq!(table.arrived(), (1..=20).collect::<Vec<_>>());
}

#[test]
fn a_gateway_that_ends_the_session_is_left_alone_until_it_connects_again() {
    let mut table = Table::connected(22);
    table.desk.bye();
    table.run_for(100);
    assert!(!table.sensor.is_connected());
    table.read(3);
    table.run_for(60_000);
    assert_eq!(table.arrived(), []);
    table.desk.connect(table.now_ms);
    table.run_for(1_000);
    assert_eq!(table.arrived(), [1, 2, 3]);
}

#[test]
fn a_gateway_that_never_answers_does_not_get_a_storm() {
    let mut table = Table::connected(23);
    table.faults = 0;
    table.desk.restart();
    table.read(500);
    let before = table.line.len();
    let mut sent = 0;
    let end = table.now_ms + 120_000;
    while table.now_ms < end {
        table.exchange();
        sent += table.line.iter().filter(|(_, to_sensor, _)| !to_sensor).count();
        table.line.clear();
        table.now_ms += 100;
    }
    assert!(sent - before < 60, "{sent} records in two minutes");
}

#[test]
fn a_reading_that_no_record_can_hold_is_refused_at_once() {
    let mut table = Table::new(24);
    let text = "x".repeat(2_000);
    let records = &mut [Record { name: Some("t"), value: Some(Value::Text(&text)), ..Record::default() }];
    assert!(table.sensor.push(records, 0).is_err());
    assert!(table.sensor.push(&mut [], 0).is_err());
    assert_eq!(table.sensor.held(), 0);
}
