//! Pairing between honest ends: both ceremonies, both suites, and what both ends hold afterwards.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod pair;

use clawgate_protocol::pairing::{Ceremony, Failure, Gateway, RUN_LIMIT_MS, Sensor, Suite};
use pair::{Pair, honest};
use proptest::prelude::*;

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

#[test]
fn any_set_of_first_copies_may_be_lost() {
    for ceremony in CEREMONIES {
        for lost in 0_u8..64 {
            let mut seen = [0_u32; 6];
            let mut pair = Pair::new(ceremony, Suite::One);
            pair.run(|from, message| {
                let n = usize::from(message[0] - 0x11);
                seen[n] += 1;
                if lost >> n & 1 == 1 && seen[n] == 1 { Vec::new() } else { honest(from, message) }
            });
            assert!(pair.paired, "{ceremony:?} lost {lost:06b}: {:?} {:?}", pair.gateway.failure, pair.sensor.failure);
            assert_eq!((pair.gateway.attempts, pair.sensor.attempts), (1, 1), "{ceremony:?} lost {lost:06b}");
        }
    }
}

#[test]
fn a_retransmission_repeats_identical_bytes() {
    let mut seen = Vec::new();
    let mut pair = Pair::new(Ceremony::Issued, Suite::One);
    pair.run(|from, message| {
        let first = !seen.contains(&message[0]);
        seen.push(message[0]);
        if first { Vec::new() } else { honest(from, message) }
    });
    assert!(pair.paired);
    for kind in 0x11..=0x16 {
        let copies = pair.sent_of(kind);
        assert!(copies.windows(2).all(|w| w[0] == w[1]), "type {kind:#x}");
    }
    assert!(pair.sent.len() > 6);
}

#[test]
fn a_silent_peer_ends_the_run_after_ten_seconds_and_burns_nothing() {
    let mut pair = Pair::new(Ceremony::Issued, Suite::One);
    pair.run(|_, _| Vec::new());
    assert_eq!(pair.gateway.failure, Some(Failure::TimedOut));
    assert_eq!(pair.now_ms, RUN_LIMIT_MS);
    assert_eq!((pair.gateway.attempts, pair.gateway.refusals), (0, 0));
    assert_eq!(pair.sent_of(0x11).len(), 10, "M1 once a second, and not beyond the limit");
}

#[test]
fn a_lost_m6_leaves_both_ends_with_the_new_key_pending() {
    let mut pair = Pair::new(Ceremony::Label, Suite::One);
    pair.run(|from, message| if message[0] == 0x16 { Vec::new() } else { honest(from, message) });
    assert!(!pair.paired);
    assert_eq!(pair.gateway.failure, Some(Failure::TimedOut));
    assert_eq!(pair.sensor.failure, None);
    assert_eq!(pair.gateway.slots.pending().unwrap().psk, pair.sensor.slots.pending().unwrap().psk);
}

#[test]
fn a_certificate_as_long_as_allowed_passes_and_a_longer_one_is_our_own_failure() {
    let (fits, too_long): (&[u8], &[u8]) = (&[7; 500], &[7; 640]);
    let mut pair = Pair::new(Ceremony::Issued, Suite::Two);
    pair.sensor_options.profile.certificate = Some(fits);
    pair.run(honest);
    assert_eq!(pair.profile.unwrap().2.as_deref(), Some(fits));

    let mut pair = Pair::new(Ceremony::Issued, Suite::Two);
    pair.sensor_options.profile.certificate = Some(too_long);
    pair.run(honest);
    assert_eq!(pair.sensor.failure, Some(Failure::Unencodable));
    assert_eq!(pair.gateway.failure, Some(Failure::Refused));
}

#[test]
fn a_run_takes_a_bounded_piece_of_memory() {
    let (gateway, sensor) = (size_of::<Gateway>(), size_of::<Sensor<'_>>());
    assert!(gateway <= 6 * 1024 && sensor <= 4 * 1024, "gateway {gateway}, sensor {sensor} bytes");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 150 } else { 2000 }))]

    /// Loss, duplication and delays that overtake retransmissions.
    #[test]
    fn a_bad_line_ends_in_one_key_or_in_a_reason(
        label in any::<bool>(),
        fates in proptest::collection::vec(proptest::collection::vec(0_u64..2_500, 0..3), 40),
    ) {
        let ceremony = if label { Ceremony::Label } else { Ceremony::Issued };
        let mut pair = Pair::new(ceremony, Suite::One);
        let mut next = 0;
        pair.run(|_, message| {
            let fate = &fates[next % fates.len()];
            next += 1;
            fate.iter().map(|delay| (*delay, message.to_vec())).collect()
        });
        prop_assert!(pair.gateway.attempts <= 1 && pair.sensor.attempts <= 1);
        if pair.paired {
            prop_assert_eq!(pair.gateway.slots.current().unwrap().psk, pair.sensor.slots.pending().unwrap().psk);
        } else {
            prop_assert_eq!(pair.gateway.failure, Some(Failure::TimedOut), "an honest line, however bad");
        }
        if let Some(stored) = pair.sensor.slots.pending() {
            let ours = pair.gateway.slots.candidates().next().unwrap();
            prop_assert_eq!(ours.psk, stored.psk, "the gateway had it on disk before the sensor did");
        }
    }
}
