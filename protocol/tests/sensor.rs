//! The whole sensor against a gateway of the same machines, on a virtual line and a virtual clock.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

mod desk;

use std::cell::RefCell;
use std::rc::Rc;

use clawgate_protocol::app::{Ack, Action, App, Status};
use clawgate_protocol::code::Code;
use clawgate_protocol::pairing::{Ceremony, Failure, Profile, Prs, Suite};
use clawgate_protocol::senml::{self, Record, Value};
use clawgate_protocol::sensor::{Buffers, Event, Options, STATE_LEN, Sensor, StartError, Storage, StorageFailed};
use clawgate_protocol::{Random, Transport, discovery};
use desk::{Desk, Seeded};

const WRONG: Prs = *b"0000000";
/// The one way of the line.
const DELAY_MS: u64 = 5;

/// What survives the sensor's power cuts.
#[derive(Debug, Default)]
struct Flash {
    state: Option<[u8; STATE_LEN]>,
    /// How many saves still succeed, if it is breaking.
    good_saves: Option<u32>,
}

struct Platform {
    flash: Rc<RefCell<Flash>>,
    random: Seeded,
}

impl Random for Platform {
    fn fill(&mut self, bytes: &mut [u8]) {
        self.random.fill(bytes);
    }
}

impl Storage for Platform {
    fn save(&mut self, state: &[u8; STATE_LEN]) -> Result<(), StorageFailed> {
        let mut flash = self.flash.borrow_mut();
        match &mut flash.good_saves {
            Some(0) => return Err(StorageFailed),
            Some(left) => *left -= 1,
            None => (),
        }
        flash.state = Some(*state);
        Ok(())
    }
}

/// The table with both ends and the line between them.
struct Table {
    desk: Desk,
    sensor: Sensor<'static, Platform>,
    flash: Rc<RefCell<Flash>>,
    label: Code,
    memory: usize,
    /// Time since the sensor's start, and the wall for both.
    now_ms: u64,
    seed: Seeded,
    /// In flight: when it arrives, whether to the sensor, what.
    line: Vec<(u64, bool, Vec<u8>)>,
    /// Of 256 messages, how many get lost, doubled or late.
    faults: u64,
    events: Vec<Event>,
    made: Vec<(u64, u64)>,
}

impl Table {
    fn new(seed: u64) -> Self {
        Self::with_memory(seed, 1 << 16)
    }

    fn with_memory(seed: u64, memory: usize) -> Self {
        let flash = Rc::new(RefCell::new(Flash::default()));
        let label = Code::random(&mut Seeded(77));
        let sensor = start(&flash, &label, memory, seed, 0).unwrap();
        Self {
            desk: Desk::new(seed),
            sensor,
            flash,
            label,
            memory,
            now_ms: 0,
            seed: Seeded(seed | 1),
            line: Vec::new(),
            faults: 0,
            events: Vec::new(),
            made: Vec::new(),
        }
    }

    /// A table with a pairing and a session.
    fn connected(seed: u64) -> Self {
        Self::with_memory(seed, 1 << 16).connect()
    }

    fn connect(mut self) -> Self {
        self.sensor.open_label_window(self.now_ms).unwrap();
        let prs = self.label.prs();
        self.pair(Ceremony::Label, prs);
        assert!(self.sensor.is_paired());
        self.desk.connect(self.now_ms);
        self.run_for(1_000);
        assert!(self.sensor.is_connected());
        self
    }

    fn pair(&mut self, ceremony: Ceremony, prs: Prs) {
        self.desk.pair(ceremony, prs, Suite::One, self.now_ms);
        self.run_for(200);
    }

    /// Power off and on.
    fn power_cycle(&mut self) {
        let seed = self.seed.next();
        self.sensor = start(&self.flash, &self.label, self.memory, seed, self.now_ms).unwrap();
        self.line.clear();
    }

    fn read(&mut self, count: u64) {
        for at in 0..count {
            let value = f64::from(u32::try_from(at).unwrap());
            let pushed = self.sensor.push(&mut [Record::number("t", "Cel", value)], self.now_ms).unwrap();
            self.made.push((pushed.epoch, pushed.seq));
        }
    }

    fn run_for(&mut self, ms: u64) {
        let end = self.now_ms + ms;
        loop {
            self.exchange();
            let timers =
                [self.sensor.poll_timeout(), self.desk.poll_timeout(), self.line.iter().map(|(at, ..)| *at).min()];
            let next = timers.into_iter().flatten().min().unwrap_or(u64::MAX).max(self.now_ms);
            if next > end {
                self.now_ms = end;
                self.sensor.handle_timeout(end);
                self.exchange();
                return;
            }
            self.now_ms = next;
        }
    }

    fn exchange(&mut self) {
        let now_ms = self.now_ms;
        self.line.sort_by_key(|(at, ..)| *at);
        while self.line.first().is_some_and(|(at, ..)| *at <= now_ms) {
            let (_, to_sensor, mut message) = self.line.remove(0);
            if to_sensor { self.sensor.handle(&mut message, now_ms) } else { self.desk.handle(&message, now_ms) }
        }
        self.sensor.handle_timeout(now_ms);
        self.desk.handle_timeout(now_ms);
        let mut out = [0; 2048];
        while let Some(len) = self.sensor.poll_transmit(&mut out, now_ms) {
            self.send(false, &out[..len]);
        }
        while let Some(message) = self.desk.out.pop_front() {
            self.send(true, &message);
        }
        while let Some(event) = self.sensor.poll_event() {
            self.events.push(event);
        }
    }

    fn send(&mut self, to_sensor: bool, message: &[u8]) {
        let copies = match self.seed.next() % 256 {
            n if n >= self.faults => vec![DELAY_MS],
            n => match n % 3 {
                0 => vec![],
                1 => vec![DELAY_MS, DELAY_MS + 30],
                _ => vec![DELAY_MS + 40],
            },
        };
        self.line.extend(copies.into_iter().map(|delay| (self.now_ms + delay, to_sensor, message.to_vec())));
    }

    /// The numbers of the current epoch that arrived, in the order of arrival.
    fn arrived(&self) -> Vec<u64> {
        let epoch = self.sensor.epoch();
        self.desk.received.iter().filter(|(of, ..)| *of == epoch).map(|(_, seq, ..)| *seq).collect()
    }
}

fn start(
    flash: &Rc<RefCell<Flash>>,
    label: &Code,
    memory: usize,
    seed: u64,
    now_ms: u64,
) -> Result<Sensor<'static, Platform>, StartError> {
    let stored = flash.borrow().state;
    let options = Options {
        device: "th-kit-7f3a".parse().unwrap(),
        name: "TH-Kit",
        profile: Profile { capabilities: "t:Cel", firmware: "1.4.2", certificate: None },
        label: Some(label.clone()),
        max_suite: Suite::Two,
        transport: Transport::Uart,
        max_message: 2048,
    };
    let platform = Platform { flash: Rc::clone(flash), random: Seeded(seed ^ 0x5555 | 1) };
    // Leaked: a test's few kilobytes, for a sensor without a lifetime.
    let buffers = Buffers { readings: vec![0; memory].leak(), record: vec![0; 1024].leak() };
    Sensor::new(options, stored.as_ref().map(<[u8; STATE_LEN]>::as_slice), platform, buffers, now_ms)
}

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
