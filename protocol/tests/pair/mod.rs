//! Both ends of a pairing on a virtual line and a virtual clock.
//!
//! The line is a function: for every message it says what arrives and when. Either end can crash before any
//! of its steps; what it persisted stays.

#![allow(dead_code, reason = "every test file uses its own part of this")]
#![allow(unreachable_pub, reason = "a test binary has no outside")]
#![allow(clippy::needless_pass_by_value, reason = "a step is taken, that is its use")]
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::collections::VecDeque;

use clawgate_protocol::Random;
use clawgate_protocol::Transport;
use clawgate_protocol::keys::{PairingRecord, Slots};
use clawgate_protocol::pairing::{
    Ceremony, Failure, Gateway, GatewayOptions, GatewayStep, Profile, Prs, RUN_LIMIT_MS, Sensor, SensorOptions,
    SensorStep, Suite,
};

pub const CODE: Prs = *b"K7QF3M9";
pub const OTHER_CODE: Prs = *b"K7QF3M8";
pub const GATEWAY_STATIC: [u8; 32] = [0x11; 32];
pub const SENSOR_STATIC: [u8; 32] = [0x22; 32];
/// The one way, in milliseconds.
pub const DELAY_MS: u64 = 20;

/// A random source that repeats itself from its seed (splitmix64).
pub struct Seeded(pub u64);

impl Random for Seeded {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            *byte = (z ^ (z >> 31)).to_le_bytes()[0];
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Gateway,
    Sensor,
}

/// What arrives of a message: each copy with its delay.
pub type Arrivals = Vec<(u64, Vec<u8>)>;

/// A line that carries everything.
pub fn honest(_from: Side, message: &[u8]) -> Arrivals {
    vec![(DELAY_MS, message.to_vec())]
}

/// An end: its machine, what it persisted, what became of the run.
pub struct End<M> {
    pub machine: Option<M>,
    pub slots: Slots,
    pub attempts: u32,
    pub failure: Option<Failure>,
    pub refusals: u32,
    steps: u32,
}

impl<M> End<M> {
    fn new(old: Option<PairingRecord>) -> Self {
        Self { machine: None, slots: Slots::new(old, None), attempts: 0, failure: None, refusals: 0, steps: 0 }
    }
}

pub struct Pair {
    pub gateway_options: GatewayOptions<'static>,
    pub sensor_options: SensorOptions<'static>,
    pub gateway_code: Prs,
    pub sensor_code: Prs,
    pub gateway_static: [u8; 32],
    pub sensor_static: [u8; 32],
    pub gateway: End<Gateway>,
    pub sensor: End<Sensor<'static>>,
    pub paired: bool,
    pub profile: Option<(String, String, Option<Vec<u8>>)>,
    pub config: Option<Vec<u8>>,
    /// The side that loses power before its step with this number, counted from 0.
    pub crash: Option<(Side, u32)>,
    /// Every message as it was sent.
    pub sent: Vec<(Side, Vec<u8>)>,
    pub now_ms: u64,
    pub seed: u64,
    line: VecDeque<(u64, Side, Vec<u8>)>,
}

impl Pair {
    pub fn new(ceremony: Ceremony, suite: Suite) -> Self {
        let gateway_options = GatewayOptions {
            gateway: "shed".parse().unwrap(),
            device: None,
            ceremony,
            transport: Transport::Uart,
            max_suite: suite,
            min_suite: Suite::One,
            config: b"every=10s",
        };
        let sensor_options = SensorOptions {
            device: "th-kit-7f3a".parse().unwrap(),
            ceremony,
            transport: Transport::Uart,
            max_suite: suite,
            min_suite: Suite::One,
            max_message: 2048,
            profile: Profile { capabilities: "temperature:Cel,humidity:%RH", firmware: "1.4.2", certificate: None },
        };
        Self {
            gateway_options,
            sensor_options,
            gateway_code: CODE,
            sensor_code: CODE,
            gateway_static: GATEWAY_STATIC,
            sensor_static: SENSOR_STATIC,
            gateway: End::new(None),
            sensor: End::new(None),
            paired: false,
            profile: None,
            config: None,
            crash: None,
            sent: Vec::new(),
            now_ms: 0,
            seed: 1,
            line: VecDeque::new(),
        }
    }

    /// Runs from M1 until nothing happens any more.
    pub fn run(&mut self, mut line: impl FnMut(Side, &[u8]) -> Arrivals) {
        self.start(&mut line);
        let limit = self.now_ms + 3 * RUN_LIMIT_MS;
        while self.now_ms < limit {
            let timers = [
                self.gateway.machine.as_ref().and_then(Gateway::poll_timeout),
                self.sensor.machine.as_ref().and_then(Sensor::poll_timeout),
                self.line.iter().map(|(at, ..)| *at).min(),
            ];
            let Some(next) = timers.into_iter().flatten().min() else { break };
            self.now_ms = self.now_ms.max(next);
            self.deliver(&mut line);
            self.time_out(&mut line);
        }
    }

    fn start(&mut self, line: &mut impl FnMut(Side, &[u8]) -> Arrivals) {
        let mut random = Seeded(self.seed);
        let machine =
            Gateway::start(&self.gateway_options, &self.gateway_code, &self.gateway_static, self.now_ms, &mut random)
                .unwrap();
        let m1 = machine.message().to_vec();
        self.gateway.machine = Some(machine);
        if self.survives(Side::Gateway) {
            self.send(Side::Gateway, &m1, line);
        }
    }

    /// Puts a message on the line by hand.
    pub fn inject(&mut self, from: Side, message: &[u8]) {
        self.line.push_back((self.now_ms + DELAY_MS, from, message.to_vec()));
    }

    fn send(&mut self, from: Side, message: &[u8], line: &mut impl FnMut(Side, &[u8]) -> Arrivals) {
        self.sent.push((from, message.to_vec()));
        for (delay, copy) in line(from, message) {
            self.line.push_back((self.now_ms + delay, from, copy));
        }
    }

    fn deliver(&mut self, line: &mut impl FnMut(Side, &[u8]) -> Arrivals) {
        while let Some(at) = self.line.iter().position(|(at, ..)| *at <= self.now_ms) {
            let (_, from, message) = self.line.remove(at).unwrap();
            match from {
                Side::Gateway => self.sensor_takes(&message, line),
                Side::Sensor => self.gateway_takes(&message, line),
            }
        }
    }

    fn time_out(&mut self, line: &mut impl FnMut(Side, &[u8]) -> Arrivals) {
        if let Some(mut machine) = self.gateway.machine.take() {
            let step = own(machine.handle_timeout(self.now_ms));
            self.gateway.machine = Some(machine);
            self.gateway_steps(step, line);
        }
        if let Some(mut machine) = self.sensor.machine.take() {
            let step = own_sensor(machine.handle_timeout(self.now_ms));
            self.sensor.machine = Some(machine);
            self.sensor_steps(step, line);
        }
    }

    /// Counts a step of this side; false (and the machine is gone) if it crashes before it.
    fn survives(&mut self, side: Side) -> bool {
        let steps = match side {
            Side::Gateway => &mut self.gateway.steps,
            Side::Sensor => &mut self.sensor.steps,
        };
        let crashes = self.crash == Some((side, *steps));
        *steps += 1;
        if crashes {
            match side {
                Side::Gateway => self.gateway.machine = None,
                Side::Sensor => self.sensor.machine = None,
            }
        }
        !crashes
    }

    fn gateway_takes(&mut self, message: &[u8], line: &mut impl FnMut(Side, &[u8]) -> Arrivals) {
        if self.gateway.machine.is_none() || !self.survives(Side::Gateway) {
            return;
        }
        let step = self.gateway.machine.as_mut().map(|m| own(m.handle(message, self.now_ms)));
        self.gateway_steps(step.unwrap(), line);
    }

    fn gateway_steps(&mut self, mut step: Owned, line: &mut impl FnMut(Side, &[u8]) -> Arrivals) {
        loop {
            if matches!(step, Owned::Wait) || !self.survives(Side::Gateway) {
                return;
            }
            let counted = matches!(step, Owned::Count);
            match step {
                Owned::Wait => return,
                Owned::Send(message) => return self.send(Side::Gateway, &message, line),
                Owned::Count => self.gateway.attempts += 1,
                Owned::Store(record, profile, _) => {
                    self.gateway.slots.store_pending(*record);
                    self.profile = profile;
                }
                Owned::Paired(record) => {
                    assert!(self.gateway.slots.prove(&record.pairing_id));
                    self.paired = true;
                    return;
                }
                Owned::Failed(failure, refuse) => {
                    self.gateway.failure = Some(failure);
                    if refuse {
                        self.gateway.refusals += 1;
                        self.send(Side::Gateway, &clawgate_protocol::message::REFUSE, line);
                    }
                    return;
                }
            }
            if !self.survives(Side::Gateway) {
                return;
            }
            let machine = self.gateway.machine.as_mut().unwrap();
            step = own(if counted { machine.attempt_counted() } else { machine.pending_stored() });
        }
    }

    fn sensor_takes(&mut self, message: &[u8], line: &mut impl FnMut(Side, &[u8]) -> Arrivals) {
        if self.sensor.machine.is_none() {
            // Only the first M1 opens a run: a window takes one code entry.
            if message.first() != Some(&0x11) || self.sensor.steps > 0 || !self.survives(Side::Sensor) {
                return;
            }
            let mut random = Seeded(self.seed ^ 0xffff);
            match Sensor::accept(
                self.sensor_options,
                &self.sensor_code,
                &self.sensor_static,
                message,
                self.now_ms,
                &mut random,
            ) {
                Ok(machine) => {
                    let m2 = machine.message().to_vec();
                    self.sensor.machine = Some(machine);
                    self.sensor_steps(Owned::Send(m2), line);
                }
                Err(failure) => {
                    self.sensor.failure = Some(failure);
                    self.sensor.refusals += 1;
                    self.send(Side::Sensor, &clawgate_protocol::message::REFUSE, line);
                }
            }
            return;
        }
        if !self.survives(Side::Sensor) {
            return;
        }
        let step = self.sensor.machine.as_mut().map(|m| own_sensor(m.handle(message, self.now_ms)));
        self.sensor_steps(step.unwrap(), line);
    }

    fn sensor_steps(&mut self, mut step: Owned, line: &mut impl FnMut(Side, &[u8]) -> Arrivals) {
        loop {
            if matches!(step, Owned::Wait) || !self.survives(Side::Sensor) {
                return;
            }
            let counted = matches!(step, Owned::Count);
            match step {
                Owned::Wait | Owned::Paired(_) => return,
                Owned::Send(message) => return self.send(Side::Sensor, &message, line),
                Owned::Count => self.sensor.attempts += 1,
                Owned::Store(record, _, config) => {
                    self.sensor.slots.store_pending(*record);
                    self.config = config;
                }
                Owned::Failed(failure, refuse) => {
                    self.sensor.failure = Some(failure);
                    if refuse {
                        self.sensor.refusals += 1;
                        self.send(Side::Sensor, &clawgate_protocol::message::REFUSE, line);
                    }
                    return;
                }
            }
            if !self.survives(Side::Sensor) {
                return;
            }
            let machine = self.sensor.machine.as_mut().unwrap();
            step = own_sensor(if counted { machine.attempt_counted() } else { machine.pending_stored() });
        }
    }

    pub fn steps(&self, side: Side) -> u32 {
        match side {
            Side::Gateway => self.gateway.steps,
            Side::Sensor => self.sensor.steps,
        }
    }

    /// The messages a side sent, of one type.
    pub fn sent_of(&self, kind: u8) -> Vec<&[u8]> {
        self.sent.iter().filter(|(_, m)| m[0] == kind).map(|(_, m)| m.as_slice()).collect()
    }
}

type OwnedProfile = Option<(String, String, Option<Vec<u8>>)>;

/// A step without its borrow.
pub enum Owned {
    Wait,
    Send(Vec<u8>),
    Count,
    Store(Box<PairingRecord>, OwnedProfile, Option<Vec<u8>>),
    Paired(Box<PairingRecord>),
    Failed(Failure, bool),
}

pub fn own(step: GatewayStep<'_>) -> Owned {
    match step {
        GatewayStep::Send(message) => Owned::Send(message.to_vec()),
        GatewayStep::CountAttempt => Owned::Count,
        GatewayStep::StorePending { record, profile } => Owned::Store(
            Box::new(record.clone()),
            Some((
                profile.capabilities.to_owned(),
                profile.firmware.to_owned(),
                profile.certificate.map(<[u8]>::to_vec),
            )),
            None,
        ),
        GatewayStep::Paired(record) => Owned::Paired(Box::new(record.clone())),
        GatewayStep::Failed { failure, refuse } => Owned::Failed(failure, refuse),
        _ => Owned::Wait,
    }
}

pub fn own_sensor(step: SensorStep<'_>) -> Owned {
    match step {
        SensorStep::Send(message) => Owned::Send(message.to_vec()),
        SensorStep::CountAttempt => Owned::Count,
        SensorStep::StorePending { record, config } => {
            Owned::Store(Box::new(record.clone()), None, Some(config.to_vec()))
        }
        SensorStep::Failed { failure, refuse } => Owned::Failed(failure, refuse),
        _ => Owned::Wait,
    }
}
