//! Bodies for the machines: both ends, and a script of what an attacker does to each message between them.

use std::collections::VecDeque;

use clawgate_protocol::keys::{PairingRecord, Role, Slots};
use clawgate_protocol::pairing::{
    self, Ceremony, GatewayOptions, GatewayStep, Profile, SensorOptions, SensorStep, Suite,
};
use clawgate_protocol::senml::Record;
use clawgate_protocol::sensor::{Buffers, Options, STATE_LEN, Sensor, Storage, StorageFailed};
use clawgate_protocol::{Random, Transport, session};

/// The fuzzer's bytes, one decision after the other; all zeros at the end.
struct Script<'s>(&'s [u8]);

impl Script<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    /// What arrives of a message: itself, a changed one, two, none, or something else.
    fn attack(&mut self, message: &[u8], seen: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut changed = message.to_vec();
        match self.byte() % 8 {
            1 => {
                let at = (usize::from(self.byte()) << 8 | usize::from(self.byte())) % changed.len().max(1);
                if let Some(byte) = changed.get_mut(at) {
                    *byte ^= 1 << (self.byte() % 8);
                }
                vec![changed]
            }
            2 => {
                changed.truncate(usize::from(self.byte()));
                vec![changed]
            }
            3 => vec![changed.clone(), changed],
            4 => vec![],
            5 => {
                let len = usize::from(self.byte() % 64);
                vec![(0..len).map(|_| self.byte()).collect(), changed]
            }
            6 => seen.get(usize::from(self.byte()) % seen.len().max(1)).cloned().into_iter().chain([changed]).collect(),
            _ => vec![changed],
        }
    }
}

/// Random bytes that are the same in every run.
struct Repeating(u64);

impl Random for Repeating {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            [*byte, ..] = self.0.to_be_bytes();
        }
    }
}

/// A run in which every message passes an attacker who does not know the code. Whatever it does: no end gets
/// a pairing that differs from the other's, and with different codes none gets one at all. True if both have one.
pub(crate) fn pairing(bytes: &[u8]) -> bool {
    let mut script = Script(bytes);
    let choice = script.byte();
    let ceremony = if choice & 1 == 0 { Ceremony::Label } else { Ceremony::Issued };
    let max_suite = if choice & 6 == 6 { Suite::Two } else { Suite::One };
    let same_code = choice & 8 == 0;
    let gateway_options = GatewayOptions {
        gateway: "shed".parse().expect("an id"),
        device: None,
        ceremony,
        transport: Transport::Uart,
        max_suite,
        min_suite: Suite::One,
        config: b"config",
    };
    let sensor_options = SensorOptions {
        device: "th-kit".parse().expect("an id"),
        ceremony,
        transport: Transport::Uart,
        max_suite,
        min_suite: Suite::One,
        max_message: 4096,
        profile: Profile { capabilities: "t:Cel", firmware: "1", certificate: None },
    };
    let (code, other) = (*b"K7QF3M9", if same_code { *b"K7QF3M9" } else { *b"K7QF3M8" });
    let mut gateway = pairing::Gateway::start(&gateway_options, &code, &[0x11; 32], 0, &mut Repeating(1))
        .expect("the options are good");
    let mut sensor: Option<pairing::Sensor<'_>> = None;
    let mut pairings: [Option<PairingRecord>; 2] = [None, None];
    let mut seen = vec![gateway.message().to_vec()];
    let mut to_sensor: VecDeque<Vec<u8>> = script.attack(gateway.message(), &[]).into();
    let mut to_gateway: VecDeque<Vec<u8>> = VecDeque::new();
    let mut now_ms = 0;
    for _ in 0..40 {
        now_ms += u64::from(script.byte());
        if let Some(message) = to_sensor.pop_front() {
            if let Some(machine) = &mut sensor {
                let mut step = machine.handle(&message, now_ms);
                loop {
                    step = match step {
                        SensorStep::Send(message) => {
                            to_gateway.extend(script.attack(message, &seen));
                            seen.push(message.to_vec());
                            break;
                        }
                        SensorStep::CountAttempt => machine.attempt_counted(),
                        SensorStep::StorePending { record, .. } => {
                            pairings[1] = Some(record.clone());
                            machine.pending_stored()
                        }
                        _ => break,
                    };
                }
            } else if let Ok(machine) =
                pairing::Sensor::accept(sensor_options, &other, &[0x22; 32], &message, now_ms, &mut Repeating(2))
            {
                to_gateway.extend(script.attack(machine.message(), &seen));
                seen.push(machine.message().to_vec());
                sensor = Some(machine);
            }
        }
        let mut step = match to_gateway.pop_front() {
            Some(message) => gateway.handle(&message, now_ms),
            None if to_sensor.is_empty() => {
                let Some(at) = gateway.poll_timeout() else { break };
                now_ms = now_ms.max(at);
                gateway.handle_timeout(now_ms)
            }
            None => continue,
        };
        loop {
            step = match step {
                GatewayStep::Send(message) => {
                    to_sensor.extend(script.attack(message, &seen));
                    seen.push(message.to_vec());
                    break;
                }
                GatewayStep::CountAttempt => gateway.attempt_counted(),
                GatewayStep::StorePending { record, .. } => {
                    pairings[0] = Some(record.clone());
                    gateway.pending_stored()
                }
                _ => break,
            };
        }
    }
    let [at_gateway, at_sensor] = pairings;
    assert!(same_code || at_gateway.is_none(), "the sensor's tag was forged");
    let Some(at_sensor) = at_sensor else { return false };
    let at_gateway = at_gateway.expect("the gateway stores first");
    assert!(at_gateway.pairing_id == at_sensor.pairing_id && at_gateway.psk == at_sensor.psk);
    true
}

/// Both halves of a pairing that was never made.
fn halves() -> [PairingRecord; 2] {
    let public = |secret: [u8; 32]| x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from(secret)).to_bytes();
    let half = |role, own: u8, peer: u8| PairingRecord {
        role,
        suite: Suite::One,
        ceremony: Ceremony::Label,
        device: "th-kit".parse().expect("an id"),
        gateway: "shed".parse().expect("an id"),
        pairing_id: [1; 8],
        key_id: [2; 8],
        own_static: [own; 32],
        peer_static: public([peer; 32]),
        psk: [5; 32],
        key_id_key: [6; 32],
        advertising_key: [7; 32],
    };
    [half(Role::Gateway, 0x11, 0x22), half(Role::Sensor, 0x22, 0x11)]
}

/// Sessions whose every message passes an attacker. What either end opens was sealed by the other, once. Returns how
/// many were opened.
pub(crate) fn session(bytes: &[u8]) -> usize {
    let mut script = Script(bytes);
    let [at_gateway, at_sensor] = halves();
    let slots = Slots::new(Some(at_sensor), None);
    let (mut gateway, mut sensor) = (session::Gateway::default(), session::Sensor::default());
    let (mut random, mut now_ms) = (Repeating(3), 0);
    let mut seen: Vec<Vec<u8>> = Vec::new();
    let mut unopened: [Vec<[u8; 2]>; 2] = [Vec::new(), Vec::new()];
    let (mut number, mut opened_records) = (0_u16, 0);
    while !script.is_over() {
        let mut out = [0; 64];
        now_ms += u64::from(script.byte()) * 20;
        let action = script.byte();
        match action % 3 {
            0 => {
                let handshake1 = gateway.connect(&at_gateway, Transport::Uart, &mut random).expect("the keys are good");
                let handshake1 = handshake1.to_vec();
                let mut answers = Vec::new();
                for message in script.attack(&handshake1, &seen) {
                    let answer = sensor.handle_handshake1(&message, &slots, Transport::Uart, now_ms, &mut random);
                    answers.extend(answer.ok().map(<[u8]>::to_vec));
                }
                seen.push(handshake1);
                for answer in answers {
                    for message in script.attack(&answer, &seen) {
                        let _ = gateway.handle_handshake2(&message, now_ms);
                    }
                    seen.push(answer);
                }
            }
            end => {
                let from_gateway = end == 1;
                number += 1;
                let plaintext = number.to_be_bytes();
                let sealed =
                    if from_gateway { gateway.seal(&plaintext, &mut out) } else { sensor.seal(&plaintext, &mut out) };
                let Ok(len) = sealed else { continue };
                let direction = usize::from(from_gateway);
                unopened[direction].push(plaintext);
                for mut message in script.attack(&out[..len], &seen) {
                    let opened = if from_gateway { sensor.open(&mut message) } else { gateway.open(&mut message) };
                    if let Ok(opened) = opened {
                        let at = unopened[direction].iter().position(|sent| sent == opened.plaintext);
                        unopened[direction].remove(at.expect("forged, or opened twice"));
                        opened_records += 1;
                    }
                }
                seen.push(out[..len].to_vec());
            }
        }
    }
    opened_records
}

struct Unit(Repeating);

impl Random for Unit {
    fn fill(&mut self, bytes: &mut [u8]) {
        self.0.fill(bytes);
    }
}

impl Storage for Unit {
    fn save(&mut self, _: &[u8; STATE_LEN]) -> Result<(), StorageFailed> {
        // Now and then it fails.
        let mut byte = [0];
        self.0.fill(&mut byte);
        if byte[0] < 32 { Err(StorageFailed) } else { Ok(()) }
    }
}

/// The whole sensor: any messages, readings, acts and times; whatever it sends is a message.
pub(crate) fn sensor(bytes: &[u8]) {
    let mut script = Script(bytes);
    let (mut readings, mut record) = ([0; 700], [0; 512]);
    let options = Options {
        device: "th-kit".parse().expect("an id"),
        name: "TH-Kit",
        profile: Profile { capabilities: "t:Cel", firmware: "1", certificate: None },
        label: Some(clawgate_protocol::code::Code::random(&mut Repeating(9))),
        max_suite: Suite::One,
        transport: Transport::Uart,
        max_message: 1024,
    };
    let buffers = Buffers { readings: &mut readings, record: &mut record };
    let Ok(mut sensor) = Sensor::<_, 16>::new(options, None, Unit(Repeating(4)), buffers, 0) else { return };
    let (mut now_ms, mut out) = (0_u64, [0; 1500]);
    while !script.is_over() {
        now_ms = now_ms.saturating_add(u64::from(script.byte()).pow(3));
        match script.byte() % 8 {
            0 => {
                let _ = sensor.open_label_window(now_ms);
            }
            1 => sensor.enter_code(clawgate_protocol::code::Code::random(&mut Repeating(now_ms)), now_ms),
            2 => {
                let value = f64::from(script.byte());
                let _ = sensor.push(&mut [Record::number("t", "Cel", value)], now_ms);
            }
            3 if script.byte() == 0 => {
                let _ = sensor.reset();
            }
            _ => {
                let len = usize::from(script.byte());
                let mut message: Vec<u8> = (0..len).map(|_| script.byte()).collect();
                sensor.handle(&mut message, now_ms);
            }
        }
        sensor.handle_timeout(now_ms);
        while let Some(len) = sensor.poll_transmit(&mut out, now_ms) {
            clawgate_protocol::message::Kind::of(&out[..len]).expect("a sensor sends messages");
        }
        while sensor.poll_event().is_some() {}
        assert!(sensor.poll_timeout().is_none_or(|at| at > now_ms), "it would be called for ever");
    }
}
