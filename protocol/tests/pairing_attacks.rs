//! Pairing under attack: whoever stands on the line gets one guess a run and nothing else.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod pair;

use clawgate_protocol::keys::PairingRecord;
use clawgate_protocol::message::pairing::{M1, M2, M3, M4};
use clawgate_protocol::pairing::{Ceremony, Failure, Gateway, Sensor, Suite};
use clawgate_protocol::{MIN_MESSAGE, Transport};
use pair::{Arrivals, DELAY_MS, OTHER_CODE, Owned, Pair, Seeded, Side, honest, own, own_sensor};
use proptest::prelude::*;

const CEREMONIES: [Ceremony; 2] = [Ceremony::Issued, Ceremony::Label];

fn arrives(message: Vec<u8>) -> Arrivals {
    vec![(DELAY_MS, message)]
}

/// The messages of an honest run.
fn transcript(ceremony: Ceremony, suite: Suite, seed: u64) -> Vec<(Side, Vec<u8>)> {
    let mut pair = Pair::new(ceremony, suite);
    pair.seed = seed;
    pair.run(honest);
    assert!(pair.paired);
    pair.sent
}

/// Runs with one change to every copy of one type of message; checks that no key came of it.
fn tampered(ceremony: Ceremony, suite: Suite, kind: u8, mut change: impl FnMut(&mut Vec<u8>)) -> Pair {
    let mut pair = Pair::new(ceremony, suite);
    pair.run(|_, message| {
        let mut copy = message.to_vec();
        if copy[0] == kind {
            change(&mut copy);
        }
        arrives(copy)
    });
    assert!(!pair.paired);
    assert!(pair.gateway.attempts <= 1 && pair.sensor.attempts <= 1);
    // The gateway stores after M4, the sensor after M5: a change before leaves nothing.
    assert_eq!(pair.gateway.slots.pending().is_some(), kind > 0x14, "type {kind:#x}");
    assert_eq!(pair.sensor.slots.pending().is_some(), kind > 0x15, "type {kind:#x}");
    pair
}

#[test]
fn a_wrong_code_spends_one_attempt_at_each_end_and_fails_both() {
    for ceremony in CEREMONIES {
        for suite in [Suite::One, Suite::Two] {
            let mut pair = Pair::new(ceremony, suite);
            pair.sensor_code = OTHER_CODE;
            pair.run(honest);
            assert_eq!((pair.gateway.attempts, pair.sensor.attempts), (1, 1));
            let holder = if ceremony == Ceremony::Issued { &pair.gateway.failure } else { &pair.sensor.failure };
            assert_eq!(*holder, Some(Failure::WrongCode));
            let other = if ceremony == Ceremony::Issued { pair.sensor.failure } else { pair.gateway.failure };
            assert_eq!(other, Some(Failure::Refused), "the peer learns no reason");
            assert!(pair.gateway.slots.pending().is_none() && pair.sensor.slots.pending().is_none());
        }
    }
}

#[test]
fn the_holder_of_the_code_shows_no_tag_to_a_wrong_guess() {
    // Issued: an attacker in the sensor's place. Label: in the gateway's place.
    let mut pair = Pair::new(Ceremony::Issued, Suite::One);
    pair.sensor_code = OTHER_CODE;
    pair.run(honest);
    assert!(pair.sent_of(0x15).is_empty(), "Tb would let the guess be tested offline");
    assert!(pair.sent_of(0x13).iter().all(|m| M3::decode(m).unwrap().tag.is_none()));

    let mut pair = Pair::new(Ceremony::Label, Suite::One);
    pair.gateway_code = OTHER_CODE;
    pair.run(honest);
    assert!(pair.sent_of(0x14).is_empty(), "Ta would let the guess be tested offline");
}

#[test]
fn a_man_in_the_middle_with_a_wrong_guess_gets_no_key_from_either_end() {
    for ceremony in CEREMONIES {
        // He runs a sensor of his own towards the gateway and a gateway of his own towards the sensor.
        let mut towards_gateway = Pair::new(ceremony, Suite::One);
        towards_gateway.sensor_code = OTHER_CODE;
        towards_gateway.sensor_static = [0x66; 32];
        towards_gateway.run(honest);
        let mut towards_sensor = Pair::new(ceremony, Suite::One);
        towards_sensor.gateway_code = OTHER_CODE;
        towards_sensor.gateway_static = [0x66; 32];
        towards_sensor.run(honest);
        assert_eq!(towards_gateway.gateway.attempts, 1);
        assert_eq!(towards_sensor.sensor.attempts, 1);
        assert!(!towards_gateway.paired && !towards_sensor.paired);
        assert!(towards_gateway.gateway.slots.pending().is_none());
        assert!(towards_sensor.sensor.slots.pending().is_none());
    }
}

#[test]
fn a_second_m3_in_one_run_ends_it() {
    for ceremony in CEREMONIES {
        let mut pair = Pair::new(ceremony, Suite::One);
        let other = transcript(ceremony, Suite::One, 7).remove(2).1;
        pair.run(|_, message| {
            let mut arrivals = arrives(message.to_vec());
            if message[0] == 0x13 {
                arrivals.push((DELAY_MS, other.clone()));
            }
            arrivals
        });
        assert_eq!(pair.sensor.failure, Some(Failure::SecondMessage));
        assert_eq!(pair.sensor.attempts, 1, "one guess a run");
        assert!(pair.sensor.slots.pending().is_none());
    }
}

#[test]
fn a_second_m2_or_another_m1_ends_the_run() {
    let other = transcript(Ceremony::Issued, Suite::One, 7);
    for (kind, copy) in [(0x12, &other[1].1), (0x11, &other[0].1)] {
        let mut pair = Pair::new(Ceremony::Issued, Suite::One);
        pair.run(|_, message| {
            let mut arrivals = arrives(message.to_vec());
            if message[0] == kind {
                arrivals.push((DELAY_MS, copy.clone()));
            }
            arrivals
        });
        let failed = if kind == 0x12 { pair.gateway.failure } else { pair.sensor.failure };
        assert_eq!(failed, Some(Failure::SecondMessage), "type {kind:#x}");
        assert!(!pair.paired);
    }
}

#[test]
fn one_flipped_bit_at_any_position_ends_the_run() {
    for ceremony in CEREMONIES {
        for (n, (_, message)) in transcript(ceremony, Suite::One, 1).iter().enumerate() {
            for at in 0..message.len() {
                tampered(ceremony, Suite::One, message[0], |copy| copy[at] ^= 1 << ((at + n) % 8));
            }
        }
    }
}

#[test]
fn one_flipped_bit_in_the_kem_or_elsewhere_in_suite_2_ends_the_run() {
    for (_, message) in transcript(Ceremony::Issued, Suite::Two, 1) {
        for at in (0..message.len()).step_by(17) {
            tampered(Ceremony::Issued, Suite::Two, message[0], |copy| copy[at] ^= 1 << (at % 8));
        }
    }
}

#[test]
fn every_truncation_ends_the_run_and_burns_nothing_at_its_receiver() {
    for ceremony in CEREMONIES {
        for (from, message) in transcript(ceremony, Suite::One, 1) {
            for length in 0..message.len() {
                let pair = tampered(ceremony, Suite::One, message[0], |copy| copy.truncate(length));
                let receiver = if from == Side::Gateway { pair.sensor.attempts } else { pair.gateway.attempts };
                let counted_before = match (ceremony, message[0]) {
                    (Ceremony::Issued, 0x15) | (_, 0x16) | (Ceremony::Label, 0x14 | 0x15) => 1,
                    _ => 0,
                };
                assert_eq!(receiver, counted_before, "{ceremony:?} {:#x} cut to {length}", message[0]);
            }
        }
    }
}

#[test]
fn an_appended_byte_ends_the_run() {
    for ceremony in CEREMONIES {
        for kind in 0x11..=0x16 {
            tampered(ceremony, Suite::One, kind, |copy| copy.push(0));
        }
    }
}

#[test]
fn a_recorded_run_played_again_pairs_nobody() {
    for ceremony in CEREMONIES {
        let old = transcript(ceremony, Suite::One, 1);
        let replay = |side: Side, message: &[u8]| -> Arrivals {
            // Whatever this side sends, the peer's old answer to it comes back.
            let answer = old.iter().position(|(s, m)| *s == side && m[0] == message[0]).map(|n| n + 1);
            answer.and_then(|n| old.get(n)).map_or_else(Vec::new, |(_, m)| arrives(m.clone()))
        };
        // Towards the gateway: its messages never reach the real sensor.
        let mut random = Seeded(2);
        let mut pair = Pair::new(ceremony, Suite::One);
        let mut gateway =
            Gateway::start(&pair.gateway_options, &pair.gateway_code, &pair.gateway_static, 0, &mut random).unwrap();
        let mut message = gateway.message().to_vec();
        let failure = loop {
            let answer = replay(Side::Gateway, &message).pop().unwrap().1;
            match settle(&mut gateway, &answer) {
                Owned::Send(next) => message = next,
                Owned::Failed(failure, _) => break failure,
                _ => panic!("a replayed sensor was believed"),
            }
        };
        assert_eq!(failure, Failure::WrongCode);
        // Towards the sensor.
        pair.seed = 3;
        let mut sensor =
            Sensor::accept(pair.sensor_options, &pair.sensor_code, &pair.sensor_static, &old[0].1, 0, &mut Seeded(9))
                .unwrap();
        let mut last = settle_sensor(&mut sensor, &old[2].1);
        if ceremony == Ceremony::Issued {
            assert!(matches!(last, Owned::Send(_)), "the sensor confirms first");
            last = settle_sensor(&mut sensor, &old[4].1);
        }
        assert!(matches!(last, Owned::Failed(Failure::WrongCode, true)));
    }
}

/// Handles a message and counts; stops at what to send or how it ended.
fn settle(gateway: &mut Gateway, message: &[u8]) -> Owned {
    let step = own(gateway.handle(message, 1));
    if matches!(step, Owned::Count) { own(gateway.attempt_counted()) } else { step }
}

fn settle_sensor(sensor: &mut Sensor<'_>, message: &[u8]) -> Owned {
    let step = own_sensor(sensor.handle(message, 1));
    if matches!(step, Owned::Count) { own_sensor(sensor.attempt_counted()) } else { step }
}

#[test]
fn an_echoing_line_harms_nothing() {
    for ceremony in CEREMONIES {
        let mut pair = Pair::new(ceremony, Suite::One);
        let mut echoes = Vec::new();
        pair.run(|from, message| {
            echoes.push((from, message.to_vec()));
            honest(from, message)
        });
        assert!(pair.paired);
        // Every message back to its own sender, in every state.
        let mut gateway =
            Gateway::start(&pair.gateway_options, &pair.gateway_code, &pair.gateway_static, 0, &mut Seeded(1)).unwrap();
        let own_m1 = gateway.message().to_vec();
        assert!(matches!(own(gateway.handle(&own_m1, 1)), Owned::Wait));
    }
}

#[test]
fn our_own_tag_reflected_is_refused() {
    // Label: the gateway shows Tb first; an attacker hands it back as Ta.
    let mut tag = None;
    let mut pair = Pair::new(Ceremony::Label, Suite::One);
    pair.run(|_, message| {
        if message[0] == 0x13 {
            tag = M3::decode(message).unwrap().tag;
        }
        if message[0] != 0x14 {
            return arrives(message.to_vec());
        }
        let mut out = [0; 512];
        let length = M4 { tag: tag.unwrap(), ..M4::decode(message).unwrap() }.encode(&mut out).unwrap();
        arrives(out[..length].to_vec())
    });
    assert_eq!(pair.gateway.failure, Some(Failure::WrongCode));
}

#[test]
fn points_of_small_order_end_the_run_before_anything_is_counted() {
    let text = include_str!("vectors/cpace-x25519-sha512.json");
    let points: serde_json::Value = serde_json::from_str(text).unwrap();
    for name in ["Y0", "Y1", "Y2", "Y3", "Y4", "Y5", "Y7"] {
        let hex = points["X25519_points"][format!("Invalid {name}")].as_str().unwrap();
        let point: Vec<u8> = (0..64).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
        let share: [u8; 32] = point.try_into().unwrap();
        let mut out = [0; 2048];
        for ceremony in CEREMONIES {
            let pair = tampered(ceremony, Suite::One, 0x12, |copy| {
                let length = M2 { share, ..M2::decode(copy).unwrap() }.encode(&mut out).unwrap();
                *copy = out[..length].to_vec();
            });
            assert_eq!((pair.gateway.failure, pair.gateway.attempts), (Some(Failure::WeakPoint), 0), "{name}");
            let pair = tampered(ceremony, Suite::One, 0x13, |copy| {
                let length = M3 { share, ..M3::decode(copy).unwrap() }.encode(&mut out).unwrap();
                *copy = out[..length].to_vec();
            });
            assert_eq!((pair.sensor.failure, pair.sensor.attempts), (Some(Failure::WeakPoint), 0), "{name}");
        }
    }
}

#[test]
fn a_downgrade_of_the_suite_fails_and_is_not_retried() {
    for ceremony in CEREMONIES {
        let strip = |copy: &mut Vec<u8>| {
            let mut out = [0; 128];
            let length = M1 { suites: &[1], ..M1::decode(copy).unwrap() }.encode(&mut out).unwrap();
            *copy = out[..length].to_vec();
        };
        let pair = tampered(ceremony, Suite::Two, 0x11, strip);
        let noticed = if ceremony == Ceremony::Issued { pair.gateway.failure } else { pair.sensor.failure };
        assert_eq!(noticed, Some(Failure::WrongCode), "the tags cover M1");
        assert_eq!(pair.sent_of(0x11).len(), 1);
        let choose_one = |copy: &mut Vec<u8>| {
            let mut out = [0; 128];
            let length = M2 { suite: 1, ..M2::decode(copy).unwrap() }.encode(&mut out).unwrap();
            *copy = out[..length].to_vec();
        };
        tampered(ceremony, Suite::Two, 0x12, choose_one);
    }
}

#[test]
fn policy_refuses_a_suite_below_the_lowest_at_either_end() {
    let mut pair = Pair::new(Ceremony::Issued, Suite::Two);
    pair.sensor_options.max_suite = Suite::One;
    pair.gateway_options.min_suite = Suite::Two;
    pair.run(honest);
    assert_eq!((pair.sensor.failure, pair.gateway.failure), (Some(Failure::Suite), Some(Failure::Refused)));

    // A sensor (or who plays it) that answers with suite 1 all the same.
    let mut gateway =
        Gateway::start(&pair.gateway_options, &pair.gateway_code, &pair.gateway_static, 0, &mut Seeded(1)).unwrap();
    let m2 = transcript(Ceremony::Issued, Suite::One, 1).remove(1).1;
    assert!(matches!(own(gateway.handle(&m2, 1)), Owned::Failed(Failure::Suite, true)));
}

#[test]
fn another_version_is_refused_without_a_guess() {
    let with_version = |kind: u8, copy: &mut Vec<u8>| {
        let mut out = [0; 128];
        let length = match kind {
            0x11 => M1 { version: 2, ..M1::decode(copy).unwrap() }.encode(&mut out).unwrap(),
            _ => M2 { version: 2, ..M2::decode(copy).unwrap() }.encode(&mut out).unwrap(),
        };
        *copy = out[..length].to_vec();
    };
    let pair = tampered(Ceremony::Issued, Suite::One, 0x11, |copy| with_version(0x11, copy));
    assert_eq!((pair.sensor.failure, pair.sensor.attempts), (Some(Failure::Version), 0));
    let pair = tampered(Ceremony::Issued, Suite::One, 0x12, |copy| with_version(0x12, copy));
    assert_eq!((pair.gateway.failure, pair.gateway.attempts), (Some(Failure::Version), 0));
}

#[test]
fn a_code_of_one_ceremony_is_worth_nothing_in_the_other() {
    for ceremony in CEREMONIES {
        let other = if ceremony == Ceremony::Issued { Ceremony::Label } else { Ceremony::Issued };
        let mut pair = Pair::new(ceremony, Suite::One);
        pair.sensor_options.ceremony = other;
        pair.run(honest);
        assert_eq!((pair.sensor.failure, pair.sensor.attempts), (Some(Failure::Ceremony), 0));

        // And if somebody rewrites M1 for the sensor, the channel identifiers differ.
        let mut pair = Pair::new(ceremony, Suite::One);
        pair.sensor_options.ceremony = other;
        pair.run(|_, message| {
            let mut copy = message.to_vec();
            if copy[0] == 0x11 {
                let mut out = [0; 128];
                let length = M1 { ceremony: other, ..M1::decode(&copy).unwrap() }.encode(&mut out).unwrap();
                copy = out[..length].to_vec();
            }
            arrives(copy)
        });
        assert!(!pair.paired && pair.gateway.slots.pending().is_none());
    }
}

#[test]
fn a_run_relayed_over_another_transport_fails() {
    for ceremony in CEREMONIES {
        let mut pair = Pair::new(ceremony, Suite::One);
        pair.sensor_options.transport = Transport::Ble;
        pair.run(honest);
        let noticed = if ceremony == Ceremony::Issued { pair.gateway.failure } else { pair.sensor.failure };
        assert_eq!(noticed, Some(Failure::WrongCode));
    }
}

#[test]
fn a_run_relayed_to_another_device_burns_nothing_or_fails() {
    let mut pair = Pair::new(Ceremony::Issued, Suite::One);
    pair.gateway_options.device = Some("pump-3".parse().unwrap());
    pair.run(honest);
    assert_eq!((pair.gateway.failure, pair.gateway.attempts), (Some(Failure::WrongDevice), 0));

    let pair = tampered(Ceremony::Issued, Suite::One, 0x12, |copy| {
        let mut out = [0; 128];
        let device = "pump-3".parse().unwrap();
        let length = M2 { device, ..M2::decode(copy).unwrap() }.encode(&mut out).unwrap();
        *copy = out[..length].to_vec();
    });
    assert_eq!(pair.gateway.failure, Some(Failure::WrongCode), "the id is part of the channel identifier");
}

#[test]
fn a_peer_with_our_own_static_key_is_refused() {
    let mut pair = Pair::new(Ceremony::Issued, Suite::One);
    pair.sensor_static = pair.gateway_static;
    pair.run(honest);
    assert_eq!(pair.gateway.failure, Some(Failure::OwnKey));
    assert!(pair.gateway.slots.pending().is_none());
}

#[test]
fn a_sensor_too_small_for_the_suite_is_told_before_a_guess_is_spent() {
    for ceremony in CEREMONIES {
        let mut pair = Pair::new(ceremony, Suite::Two);
        pair.sensor_options.max_message = u16::try_from(MIN_MESSAGE).unwrap();
        pair.run(honest);
        assert_eq!((pair.gateway.failure, pair.gateway.attempts), (Some(Failure::PeerTooSmall), 0));
    }
}

#[test]
fn a_forged_refusal_ends_a_run_but_not_a_stored_key() {
    let refuse_after = |kind: u8| {
        let mut pair = Pair::new(Ceremony::Issued, Suite::One);
        pair.run(|_, message| if message[0] == kind { arrives(vec![0x1f, 0xa0]) } else { arrives(message.to_vec()) });
        pair
    };
    for kind in 0x12..=0x16 {
        let pair = refuse_after(kind);
        assert!(!pair.paired, "type {kind:#x}");
    }
    let pair = refuse_after(0x16);
    assert_eq!(pair.gateway.slots.pending().unwrap().psk, pair.sensor.slots.pending().unwrap().psk);
}

#[test]
fn secrets_do_not_print() {
    let mut pair = Pair::new(Ceremony::Label, Suite::One);
    pair.run(honest);
    let record: &PairingRecord = pair.gateway.slots.current().unwrap();
    let text = format!("{record:?} {:?} {:?}", pair.gateway.machine, pair.sensor.machine);
    for secret in [&record.psk, &record.own_static, &record.key_id_key, &record.advertising_key] {
        assert!(!text.contains(&format!("{:?}", &secret[..4]).replace(['[', ']'], "")), "{text}");
    }
    assert!(!text.contains("K7QF"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 300 } else { 5000 }))]

    /// Garbage in any state: no panic, no key, and the run still ends.
    #[test]
    fn garbage_is_never_a_pairing(
        label in any::<bool>(),
        step in 0x11_u8..0x17,
        keep in 0_usize..80,
        garbage in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let ceremony = if label { Ceremony::Label } else { Ceremony::Issued };
        let mut pair = Pair::new(ceremony, Suite::One);
        pair.run(|_, message| {
            if message[0] != step {
                return arrives(message.to_vec());
            }
            let mut copy = message[..keep.min(message.len() - 1)].to_vec();
            copy.extend_from_slice(&garbage);
            if copy == message { Vec::new() } else { arrives(copy) }
        });
        prop_assert!(!pair.paired);
    }
}
