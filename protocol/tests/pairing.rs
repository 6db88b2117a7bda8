//! Pairing between honest ends: both ceremonies, both suites, and what both ends hold afterwards.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod pair;

use clawgate_protocol::pairing::{Ceremony, Suite};
use pair::{Pair, honest};

const CEREMONIES: [Ceremony; 2] = [Ceremony::Issued, Ceremony::Label];
const SUITES: [Suite; 2] = [Suite::One, Suite::Two];

fn each(mut test: impl FnMut(Ceremony, Suite)) {
    for ceremony in CEREMONIES {
        for suite in SUITES {
            test(ceremony, suite);
        }
    }
}

#[test]
fn both_ends_end_with_one_key() {
    each(|ceremony, suite| {
        let mut pair = Pair::new(ceremony, suite);
        pair.run(honest);
        assert!(pair.paired, "{ceremony:?} {suite:?}: {:?} {:?}", pair.gateway.failure, pair.sensor.failure);
        let (ours, theirs) = (pair.gateway.slots.current().unwrap(), pair.sensor.slots.pending().unwrap());
        assert_eq!(ours.psk, theirs.psk);
        assert_eq!(
            (ours.pairing_id, ours.key_id, ours.key_id_key, ours.advertising_key),
            (theirs.pairing_id, theirs.key_id, theirs.key_id_key, theirs.advertising_key)
        );
        assert_eq!((ours.suite, ours.ceremony), (suite, ceremony));
        assert_eq!((theirs.device, theirs.gateway), (ours.device, ours.gateway));
        assert_eq!((pair.gateway.attempts, pair.sensor.attempts), (1, 1));
        assert_eq!(pair.config.as_deref(), Some(b"every=10s".as_slice()));
        let (capabilities, firmware, certificate) = pair.profile.clone().unwrap();
        assert_eq!(
            (capabilities.as_str(), firmware.as_str(), certificate),
            ("temperature:Cel,humidity:%RH", "1.4.2", None)
        );
    });
}

#[test]
fn a_pairing_takes_six_messages_and_at_most_450_bytes_in_suite_1() {
    for ceremony in CEREMONIES {
        let mut pair = Pair::new(ceremony, Suite::One);
        pair.run(honest);
        let kinds: Vec<u8> = pair.sent.iter().map(|(_, m)| m[0]).collect();
        assert_eq!(kinds, [0x11, 0x12, 0x13, 0x14, 0x15, 0x16]);
        let total: usize = pair.sent.iter().map(|(_, m)| m.len()).sum();
        assert!(total <= 450, "{ceremony:?}: {total} bytes");
        assert!(pair.sent.iter().all(|(_, m)| m.len() <= 256), "every receiver takes 256 bytes");
    }
}

#[test]
fn no_two_runs_share_a_key() {
    let runs: Vec<_> = (0..4)
        .map(|seed| {
            let mut pair = Pair::new(Ceremony::Label, Suite::One);
            pair.seed = seed;
            pair.run(honest);
            let record = pair.gateway.slots.current().unwrap();
            (record.psk, record.pairing_id, record.key_id, record.advertising_key)
        })
        .collect();
    for (n, one) in runs.iter().enumerate() {
        for other in &runs[n + 1..] {
            assert!(one.0 != other.0 && one.1 != other.1 && one.2 != other.2 && one.3 != other.3);
        }
    }
}
