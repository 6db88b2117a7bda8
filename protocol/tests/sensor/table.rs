//! A sensor and a gateway of the same machines at one table: a line between them that can be bad, a clock that jumps
//! from one timer to the next, a flash that outlives the power.

use std::cell::RefCell;
use std::rc::Rc;

use clawgate_protocol::code::Code;
use clawgate_protocol::pairing::{Ceremony, Profile, Prs, Suite};
use clawgate_protocol::senml::Record;
use clawgate_protocol::sensor::{Buffers, Event, Options, STATE_LEN, Sensor, StartError, Storage, StorageFailed};
use clawgate_protocol::{Random, Transport};

use crate::desk::{Desk, Seeded};

/// The one way of the line.
pub(crate) const DELAY_MS: u64 = 5;

/// What survives the sensor's power cuts.
#[derive(Debug, Default)]
pub(crate) struct Flash {
    pub(crate) state: Option<[u8; STATE_LEN]>,
    /// How many saves still succeed, if it is breaking.
    pub(crate) good_saves: Option<u32>,
}

pub(crate) struct Platform {
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
pub(crate) struct Table {
    pub(crate) desk: Desk,
    pub(crate) sensor: Sensor<'static, Platform>,
    pub(crate) flash: Rc<RefCell<Flash>>,
    pub(crate) label: Code,
    memory: usize,
    /// Time since the sensor's start, and the wall for both.
    pub(crate) now_ms: u64,
    seed: Seeded,
    /// In flight: when it arrives, whether to the sensor, what.
    pub(crate) line: Vec<(u64, bool, Vec<u8>)>,
    /// Of 256 messages, how many get lost, doubled or late.
    pub(crate) faults: u64,
    pub(crate) events: Vec<Event>,
    made: Vec<(u64, u64)>,
}

impl Table {
    pub(crate) fn new(seed: u64) -> Self {
        Self::with_memory(seed, 1 << 16)
    }

    pub(crate) fn with_memory(seed: u64, memory: usize) -> Self {
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
    pub(crate) fn connected(seed: u64) -> Self {
        Self::with_memory(seed, 1 << 16).connect()
    }

    pub(crate) fn connect(mut self) -> Self {
        self.sensor.open_label_window(self.now_ms).unwrap();
        let prs = self.label.prs();
        self.pair(Ceremony::Label, prs);
        assert!(self.sensor.is_paired());
        self.desk.connect(self.now_ms);
        self.run_for(1_000);
        assert!(self.sensor.is_connected());
        self
    }

    pub(crate) fn pair(&mut self, ceremony: Ceremony, prs: Prs) {
        self.desk.pair(ceremony, prs, Suite::One, self.now_ms);
        self.run_for(200);
    }

    /// Power off and on.
    pub(crate) fn power_cycle(&mut self) {
        let seed = self.seed.next();
        self.sensor = start(&self.flash, &self.label, self.memory, seed, self.now_ms).unwrap();
        self.line.clear();
    }

    pub(crate) fn read(&mut self, count: u64) {
        for at in 0..count {
            let value = f64::from(u32::try_from(at).unwrap());
            let pushed = self.sensor.push(&mut [Record::number("t", "Cel", value)], self.now_ms).unwrap();
            self.made.push((pushed.epoch, pushed.seq));
        }
    }

    pub(crate) fn run_for(&mut self, ms: u64) {
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

    pub(crate) fn exchange(&mut self) {
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
    pub(crate) fn arrived(&self) -> Vec<u64> {
        let epoch = self.sensor.epoch();
        self.desk.received.iter().filter(|(of, ..)| *of == epoch).map(|(_, seq, ..)| *seq).collect()
    }
}

/// The sensor with what its flash holds.
pub(crate) fn start(
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
