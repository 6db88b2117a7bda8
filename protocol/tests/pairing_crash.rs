//! Power cuts during a pairing: at either end, before every step. Afterwards both ends meet in a session
//! under the old key or under the new one, never under half of one, and they agree for good.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod pair;

use clawgate_protocol::Transport;
use clawgate_protocol::keys::Slots;
use clawgate_protocol::pairing::{Ceremony, Suite};
use clawgate_protocol::session::{Gateway, PENDING_HOLD_MS, Sensor};
use pair::{Pair, Seeded, Side, honest};

const CEREMONIES: [Ceremony; 2] = [Ceremony::Issued, Ceremony::Label];

/// Which key a session came up under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Met {
    Nowhere,
    OldKey,
    NewKey,
}

/// After a restart of both: the gateway tries its keys, newest first; the first records prove the key.
fn meet(gateway: &mut Slots, sensor: &mut Slots, old: Option<[u8; 8]>) -> Met {
    let mut random = Seeded(1234);
    let (mut ours, mut theirs) = (Gateway::default(), Sensor::default());
    let mut now_ms = 0;
    let candidates: Vec<_> = gateway.candidates().cloned().collect();
    for record in candidates {
        now_ms += PENDING_HOLD_MS;
        let first = ours.connect(&record, Transport::Uart, &mut random).unwrap().to_vec();
        let Ok(second) = theirs.handle_handshake1(&first, sensor, Transport::Uart, now_ms, &mut random) else {
            continue;
        };
        ours.handle_handshake2(second, now_ms).unwrap();
        let mut buffer = [0; 64];
        let length = ours.seal(b"time", &mut buffer).unwrap();
        let opened = theirs.open(&mut buffer[..length]).unwrap();
        assert!(opened.first);
        let changed = sensor.prove(&opened.pairing_id);
        let length = theirs.seal(b"hello", &mut buffer).unwrap();
        let opened = ours.open(&mut buffer[..length]).unwrap();
        assert!(opened.first);
        let _ = gateway.prove(&opened.pairing_id);
        assert_eq!(gateway.current().unwrap().psk, sensor.current().unwrap().psk, "one key, proven on both sides");
        assert!(!changed || sensor.pending().is_none());
        return if Some(record.pairing_id) == old { Met::OldKey } else { Met::NewKey };
    }
    Met::Nowhere
}

/// Pairs anew over an old pairing, with a crash; gives where both ends meet afterwards.
fn crash_at(ceremony: Ceremony, old: &Pair, side: Side, step: u32) -> (Met, bool, bool) {
    let mut pair = Pair::new(ceremony, Suite::One);
    pair.seed = 2;
    pair.gateway.slots = Slots::new(old.gateway.slots.current().cloned(), None);
    pair.sensor.slots = Slots::new(old.sensor.slots.pending().cloned(), None);
    pair.crash = Some((side, step));
    pair.run(honest);
    let crashed = pair.steps(side) > step;
    let paired = pair.paired;
    let met = meet(
        &mut pair.gateway.slots,
        &mut pair.sensor.slots,
        old.gateway.slots.current().map(|record| record.pairing_id),
    );
    (met, paired, crashed)
}

#[test]
fn a_crash_before_any_step_leaves_the_old_key_or_the_new_one() {
    for ceremony in CEREMONIES {
        let mut old = Pair::new(Ceremony::Issued, Suite::One);
        old.run(honest);
        for side in [Side::Gateway, Side::Sensor] {
            let (mut met_old, mut met_new) = (0, 0);
            for step in 0.. {
                let (met, paired, crashed) = crash_at(ceremony, &old, side, step);
                match met {
                    Met::OldKey => met_old += 1,
                    Met::NewKey => met_new += 1,
                    Met::Nowhere => panic!("{ceremony:?} {side:?} step {step}: locked out"),
                }
                assert!(!paired || met == Met::NewKey, "what the gateway calls paired, is");
                if !crashed {
                    assert_eq!(met, Met::NewKey);
                    break;
                }
            }
            assert!(met_old > 3 && met_new > 1, "{ceremony:?} {side:?}: {met_old} old, {met_new} new");
        }
    }
}

#[test]
fn a_crash_in_a_first_pairing_leaves_nothing_or_the_new_key() {
    let nothing = Pair::new(Ceremony::Issued, Suite::One);
    for ceremony in CEREMONIES {
        for side in [Side::Gateway, Side::Sensor] {
            for step in 0.. {
                let (met, paired, crashed) = crash_at(ceremony, &nothing, side, step);
                assert!(met != Met::OldKey);
                assert!(!paired || met == Met::NewKey);
                if !crashed {
                    break;
                }
            }
        }
    }
}

#[test]
fn an_attempt_is_counted_before_a_crash_can_undo_it() {
    // The holder crashes at each step: whenever it had the tag in its hands and looked at it, it was counted.
    for (ceremony, holder, tag_message) in
        [(Ceremony::Issued, Side::Gateway, 0x14), (Ceremony::Label, Side::Sensor, 0x13)]
    {
        for step in 0.. {
            let mut pair = Pair::new(ceremony, Suite::One);
            pair.crash = Some((holder, step));
            pair.run(honest);
            let (attempts, answered) = match holder {
                Side::Gateway => (pair.gateway.attempts, !pair.sent_of(0x15).is_empty()),
                Side::Sensor => (pair.sensor.attempts, !pair.sent_of(0x14).is_empty()),
            };
            assert!(!answered || attempts == 1, "{ceremony:?} step {step}: verified without being counted");
            assert!(attempts <= 1);
            if pair.steps(holder) <= step {
                assert!(!pair.sent_of(tag_message).is_empty());
                break;
            }
        }
    }
}

#[test]
fn lost_last_messages_heal_in_the_first_session() {
    for ceremony in CEREMONIES {
        for lost in [0x14, 0x15, 0x16] {
            let mut old = Pair::new(Ceremony::Issued, Suite::One);
            old.run(honest);
            let mut pair = Pair::new(ceremony, Suite::One);
            pair.seed = 2;
            pair.gateway.slots = Slots::new(old.gateway.slots.current().cloned(), None);
            pair.sensor.slots = Slots::new(old.sensor.slots.pending().cloned(), None);
            pair.run(|from, message| if message[0] == lost { Vec::new() } else { honest(from, message) });
            let before = old.gateway.slots.current().map(|record| record.pairing_id);
            let met = meet(&mut pair.gateway.slots, &mut pair.sensor.slots, before);
            assert_eq!(met, if lost == 0x16 { Met::NewKey } else { Met::OldKey }, "{ceremony:?} {lost:#x}");
        }
    }
}
