//! Sessions: handshakes and records, each way to disturb them, and an independent Noise as the peer.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod pair;

use clawgate_protocol::keys::{PairingRecord, Slots};
use clawgate_protocol::pairing::{Ceremony, Suite};
use clawgate_protocol::session::{
    Gateway, HANDSHAKE1_LEN, HANDSHAKE2_LEN, PENDING_HOLD_MS, SESSION_LIMIT_MS, Sensor, SessionError,
};
use clawgate_protocol::{Random, Transport};
use pair::{Pair, Seeded, honest};

/// Both halves of one pairing.
fn paired(seed: u64) -> (PairingRecord, PairingRecord) {
    let mut pair = Pair::new(Ceremony::Label, Suite::One);
    pair.seed = seed;
    pair.run(honest);
    (pair.gateway.slots.current().unwrap().clone(), pair.sensor.slots.pending().unwrap().clone())
}

/// Both ends of a session, and the random source of each.
struct Ends {
    gateway: Gateway,
    sensor: Sensor,
    record: PairingRecord,
    slots: Slots,
    random: Seeded,
    now_ms: u64,
}

impl Ends {
    fn new() -> Self {
        let (record, theirs) = paired(1);
        Self {
            gateway: Gateway::default(),
            sensor: Sensor::default(),
            record,
            slots: Slots::new(Some(theirs), None),
            random: Seeded(99),
            now_ms: 0,
        }
    }

    fn handshake1(&mut self) -> Vec<u8> {
        self.gateway.connect(&self.record, Transport::Uart, &mut self.random).unwrap().to_vec()
    }

    fn answer(&mut self, handshake1: &[u8]) -> Result<Vec<u8>, SessionError> {
        self.sensor
            .handle_handshake1(handshake1, &self.slots, Transport::Uart, self.now_ms, &mut self.random)
            .map(<[u8]>::to_vec)
    }

    fn handshake(&mut self) {
        let first = self.handshake1();
        let second = self.answer(&first).unwrap();
        self.gateway.handle_handshake2(&second, self.now_ms).unwrap();
    }

    /// A live session: handshake and the gateway's first record.
    fn connected() -> Self {
        let mut ends = Self::new();
        ends.handshake();
        let mut first = ends.gateway_says(b"time");
        assert!(ends.sensor.open(&mut first).unwrap().first);
        ends
    }

    fn gateway_says(&mut self, text: &[u8]) -> Vec<u8> {
        let mut out = [0; 128];
        let length = self.gateway.seal(text, &mut out).unwrap();
        out[..length].to_vec()
    }

    fn sensor_says(&mut self, text: &[u8]) -> Vec<u8> {
        let mut out = [0; 128];
        let length = self.sensor.seal(text, &mut out).unwrap();
        out[..length].to_vec()
    }
}

#[test]
fn a_session_carries_records_both_ways() {
    let mut ends = Ends::connected();
    for n in 0..200_u8 {
        let mut up = ends.sensor_says(&[n; 20]);
        let opened = ends.gateway.open(&mut up).unwrap();
        assert_eq!((opened.plaintext, opened.first), ([n; 20].as_slice(), n == 0));
        assert_eq!(opened.pairing_id, ends.record.pairing_id);
        let mut down = ends.gateway_says(&[n; 3]);
        assert_eq!(ends.sensor.open(&mut down).unwrap().plaintext, [n; 3]);
    }
}

#[test]
fn the_sensor_is_silent_until_the_gateway_spoke() {
    let mut ends = Ends::new();
    ends.handshake();
    assert!(!ends.sensor.is_live());
    assert_eq!(ends.sensor.seal(b"reading", &mut [0; 64]), Err(SessionError::UnknownSession));
}

#[test]
fn a_lost_answer_is_given_again_identically() {
    let mut ends = Ends::new();
    let first = ends.handshake1();
    let second = ends.answer(&first).unwrap();
    assert_eq!(ends.answer(&first).unwrap(), second);
    assert_eq!(ends.gateway.handshake1(), Some(first.as_slice()));
    ends.gateway.handle_handshake2(&second, 0).unwrap();
    assert_eq!(ends.gateway.handshake1(), None);
}

#[test]
fn a_replayed_handshake_evicts_nobody() {
    let mut ends = Ends::new();
    let recorded = ends.handshake1();
    let second = ends.answer(&recorded).unwrap();
    ends.gateway.handle_handshake2(&second, 0).unwrap();
    let mut first_record = ends.gateway_says(b"time");
    ends.sensor.open(&mut first_record).unwrap();

    ends.now_ms = PENDING_HOLD_MS * 10;
    assert_eq!(ends.answer(&recorded), Err(SessionError::Replayed));
    let mut up = ends.sensor_says(b"reading");
    assert!(ends.gateway.open(&mut up).is_ok());
    let mut down = ends.gateway_says(b"ack");
    assert!(ends.sensor.open(&mut down).is_ok());
}

#[test]
fn a_handshake_replayed_after_a_reboot_leads_nowhere() {
    let mut ends = Ends::connected();
    let recorded = ends.handshake1();
    let answer = ends.answer(&recorded).unwrap();
    ends.gateway.handle_handshake2(&answer, 0).unwrap();
    let mut recorded_record = ends.gateway_says(b"open the window");
    ends.sensor = Sensor::default(); // a reboot: what it remembered is gone
    let other_answer = ends.answer(&recorded).unwrap();
    assert_ne!(other_answer[2..34], answer[2..34], "the sensor's ephemeral is fresh");
    assert_eq!(ends.sensor.open(&mut recorded_record).err(), Some(SessionError::Unauthentic));
    assert!(!ends.sensor.is_live());
    // And the real gateway gets through two seconds later.
    let first = ends.handshake1();
    assert_eq!(ends.answer(&first), Err(SessionError::Busy));
    ends.now_ms = PENDING_HOLD_MS;
    let second = ends.answer(&first).unwrap();
    ends.gateway.handle_handshake2(&second, ends.now_ms).unwrap();
    let mut down = ends.gateway_says(b"time");
    assert!(ends.sensor.open(&mut down).unwrap().first);
}

#[test]
fn a_pending_handshake_is_not_displaced_for_two_seconds() {
    let mut ends = Ends::connected();
    let held = ends.handshake1();
    let answer = ends.answer(&held).unwrap();
    let mut other = Gateway::default();
    let rival = other.connect(&ends.record, Transport::Uart, &mut Seeded(5)).unwrap().to_vec();
    ends.now_ms = PENDING_HOLD_MS - 1;
    assert_eq!(ends.answer(&rival), Err(SessionError::Busy));
    ends.gateway.handle_handshake2(&answer, ends.now_ms).unwrap();
    ends.now_ms = PENDING_HOLD_MS;
    assert!(ends.answer(&rival).is_ok());
}

#[test]
fn the_old_session_lives_until_the_first_gateway_record_of_the_new_one() {
    let mut ends = Ends::connected();
    let mut old_down = ends.gateway_says(b"old");
    ends.handshake();
    let mut old_up = ends.sensor_says(b"reading in the old session");
    assert!(ends.gateway.open(&mut old_up).is_ok(), "what was on its way still opens");
    let mut new_down = ends.gateway_says(b"new");
    let mut new_copy = new_down.clone();
    assert!(ends.sensor.open(&mut new_down).unwrap().first);
    assert_eq!(ends.sensor.open(&mut old_down).err(), Some(SessionError::UnknownSession));
    assert_eq!(ends.sensor.open(&mut new_copy).err(), Some(SessionError::Replayed));
    let mut late_up = ends.sensor_says(b"reading in the new session");
    assert!(ends.gateway.open(&mut late_up).unwrap().first);
}

#[test]
fn rekeying_under_traffic_loses_no_record() {
    let mut ends = Ends::connected();
    let mut received = 0;
    for round in 0..20_u8 {
        let on_their_way: Vec<_> = (0..5).map(|n| ends.sensor_says(&[round, n])).collect();
        ends.handshake();
        for mut record in on_their_way {
            ends.gateway.open(&mut record).unwrap();
            received += 1;
        }
        let mut first = ends.gateway_says(b"ack");
        ends.sensor.open(&mut first).unwrap();
    }
    assert_eq!(received, 100);
}

#[test]
fn no_two_sessions_share_a_key_or_a_neighbouring_index() {
    let mut ends = Ends::connected();
    let mut seen = Vec::new();
    for _ in 0..300 {
        ends.handshake();
        let mut down = ends.gateway_says(b"the same text");
        seen.push(down.clone());
        ends.sensor.open(&mut down).unwrap();
    }
    for (n, one) in seen.iter().enumerate() {
        assert!(seen[n + 1..].iter().all(|other| other[6..] != one[6..]), "same key and counter");
    }
    assert!(seen.windows(2).all(|w| w[0][1] != w[1][1]), "an index differs from the one before");
}

#[test]
fn a_restored_backup_reuses_no_nonce() {
    // The gateway's machine was copied with its random source, both copies go on from there.
    let mut ends = Ends::connected();
    let mut records = Vec::new();
    for now_ms in [PENDING_HOLD_MS, 2 * PENDING_HOLD_MS] {
        let mut restored = Gateway::default();
        let first = restored.connect(&ends.record, Transport::Uart, &mut Seeded(5)).unwrap().to_vec();
        ends.now_ms = now_ms;
        ends.sensor = Sensor::default(); // or it would know the repeated handshake again
        let second = ends.answer(&first).unwrap();
        restored.handle_handshake2(&second, now_ms).unwrap();
        let mut out = [0; 64];
        let length = restored.seal(b"the same text", &mut out).unwrap();
        records.push(out[..length].to_vec());
    }
    assert_eq!(records[0][..6], records[1][..6], "same index, same counter");
    assert_ne!(records[0][6..], records[1][6..], "another key: the sensor's ephemeral was fresh");
}

#[test]
fn a_handshake_for_the_index_of_the_live_session_is_not_taken() {
    /// Draws the index 0x55 each time, and an ephemeral of its own.
    struct SameIndex(u8);
    impl Random for SameIndex {
        fn fill(&mut self, bytes: &mut [u8]) {
            bytes.fill(if bytes.len() == 1 { 0x55 } else { self.0 });
        }
    }
    let mut ends = Ends::new();
    let first = ends.gateway.connect(&ends.record, Transport::Uart, &mut SameIndex(6)).unwrap().to_vec();
    let second = ends.answer(&first).unwrap();
    ends.gateway.handle_handshake2(&second, 0).unwrap();
    let mut down = ends.gateway_says(b"time");
    ends.sensor.open(&mut down).unwrap();
    // A gateway that still holds the session draws another index by itself; one that restarted may not.
    let renewed = ends.gateway.connect(&ends.record, Transport::Uart, &mut SameIndex(6)).unwrap()[1];
    assert_eq!((first[1], renewed), (0x55, 0x56));
    let restarted = Gateway::default().connect(&ends.record, Transport::Uart, &mut SameIndex(7)).unwrap().to_vec();
    ends.now_ms = PENDING_HOLD_MS;
    assert_eq!(ends.answer(&restarted), Err(SessionError::IndexInUse));
    let mut up = ends.sensor_says(b"reading");
    assert!(ends.gateway.open(&mut up).is_ok());
}

#[test]
fn a_false_key_id_tag_is_refused_before_any_diffie_hellman() {
    let mut ends = Ends::new();
    let good = ends.handshake1();
    for at in 1..10 {
        let mut bad = good.clone();
        bad[at] ^= 1;
        // `UnknownKey` comes out before the Noise part is looked at, even where that is garbage too.
        bad[HANDSHAKE1_LEN - 1] ^= 1;
        assert_eq!(ends.answer(&bad), Err(SessionError::UnknownKey), "byte {at}");
    }
    assert!(ends.answer(&good).is_ok());
}

#[test]
fn any_flipped_bit_in_a_handshake_or_record_is_refused() {
    let mut ends = Ends::new();
    let first = ends.handshake1();
    for bit in 0..first.len() * 8 {
        let mut bad = first.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(ends.answer(&bad).is_err(), "handshake 1, bit {bit}");
    }
    let second = ends.answer(&first).unwrap();
    for bit in 0..second.len() * 8 {
        let mut bad = second.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        // Bit 255 of a point is ignored by X25519, but the transcript has it.
        assert!(ends.gateway.handle_handshake2(&bad, 0).is_err(), "handshake 2, bit {bit}");
    }
    ends.gateway.handle_handshake2(&second, 0).unwrap();
    let record = ends.gateway_says(b"a command");
    for bit in 0..record.len() * 8 {
        let mut bad = record.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(ends.sensor.open(&mut bad).is_err(), "record, bit {bit}");
    }
    let mut good = record;
    assert!(ends.sensor.open(&mut good).is_ok(), "and none of it harmed the honest one");
}

#[test]
fn any_truncation_is_refused() {
    let mut ends = Ends::new();
    let first = ends.handshake1();
    for length in 0..first.len() {
        assert!(ends.answer(&first[..length]).is_err());
    }
    let second = ends.answer(&first).unwrap();
    for length in 0..second.len() {
        assert!(ends.gateway.handle_handshake2(&second[..length], 0).is_err());
    }
    ends.gateway.handle_handshake2(&second, 0).unwrap();
    let record = ends.gateway_says(b"a command");
    for length in 0..record.len() {
        assert!(ends.sensor.open(&mut record[..length].to_vec()).is_err());
    }
    assert_eq!((first.len(), second.len()), (HANDSHAKE1_LEN, HANDSHAKE2_LEN));
}

#[test]
fn our_own_messages_reflected_are_refused() {
    let mut ends = Ends::connected();
    let mut own = ends.gateway_says(b"command");
    assert_eq!(ends.gateway.open(&mut own).err(), Some(SessionError::Unauthentic));
    let mut own = [ends.sensor_says(b"reading"), ends.sensor_says(b"reading")];
    assert_eq!(ends.sensor.open(&mut own[1]).err(), Some(SessionError::Unauthentic));
    let first = ends.handshake1();
    assert_eq!(ends.gateway.handle_handshake2(&first, 0), Err(SessionError::Malformed));
}

#[test]
fn replayed_and_too_old_records_are_refused_and_reordered_ones_taken() {
    let mut ends = Ends::connected();
    let records: Vec<_> = (0..100_u8).map(|n| ends.sensor_says(&[n])).collect();
    for n in [99, 40, 98, 36] {
        assert!(ends.gateway.open(&mut records[n].clone()).is_ok(), "{n}");
        assert_eq!(ends.gateway.open(&mut records[n].clone()).err(), Some(SessionError::Replayed));
    }
    assert_eq!(ends.gateway.open(&mut records[35].clone()).err(), Some(SessionError::Replayed), "65 behind");
}

#[test]
fn a_session_over_another_transport_or_with_another_pairing_does_not_come_up() {
    let mut ends = Ends::new();
    let relayed = ends.gateway.connect(&ends.record, Transport::Ble, &mut ends.random).unwrap().to_vec();
    assert_eq!(ends.answer(&relayed), Err(SessionError::Unauthentic));
    let (stranger, _) = paired(2);
    let strange = ends.gateway.connect(&stranger, Transport::Uart, &mut ends.random).unwrap().to_vec();
    assert_eq!(ends.answer(&strange), Err(SessionError::UnknownKey));
}

#[test]
fn the_pending_key_is_proven_by_the_first_record_on_both_sides() {
    let (old_gateway, old_sensor) = paired(1);
    let (new_gateway, new_sensor) = paired(2);
    let mut ends = Ends::new();
    ends.slots = Slots::new(Some(old_sensor), Some(new_sensor));
    let mut own = Slots::new(Some(old_gateway), Some(new_gateway));

    // The old key still works while the new one is pending.
    ends.record = own.current().unwrap().clone();
    ends.handshake();
    let mut down = ends.gateway_says(b"x");
    let proven = ends.sensor.open(&mut down).unwrap().pairing_id;
    assert!(!ends.slots.prove(&proven));

    ends.now_ms = PENDING_HOLD_MS;
    ends.record = own.pending().unwrap().clone();
    ends.handshake();
    let mut down = ends.gateway_says(b"x");
    let proven = ends.sensor.open(&mut down).unwrap().pairing_id;
    assert!(ends.slots.prove(&proven));
    let mut up = ends.sensor_says(b"y");
    let opened = ends.gateway.open(&mut up).unwrap();
    assert!(opened.first && own.prove(&opened.pairing_id));
    assert_eq!(own.current().unwrap().psk, ends.slots.current().unwrap().psk);

    // The old key is gone at the sensor.
    let (old, _) = paired(1);
    let stale = ends.gateway.connect(&old, Transport::Uart, &mut ends.random).unwrap().to_vec();
    assert_eq!(ends.answer(&stale), Err(SessionError::UnknownKey));
}

#[test]
fn a_session_wants_to_be_renewed_after_a_day() {
    let ends = Ends::connected();
    assert!(!ends.gateway.wants_rekey(SESSION_LIMIT_MS - 1));
    assert!(ends.gateway.wants_rekey(SESSION_LIMIT_MS));
    assert!(Gateway::default().wants_rekey(0));
}

mod against_snow {
    //! `snow` is another implementation of Noise: each of our roles against it.

    use super::*;
    use sha2::Sha512;

    const PATTERN: &str = "Noise_KKpsk0_25519_ChaChaPoly_SHA512";

    fn prologue(record: &PairingRecord, transport: &str, index: u8) -> Vec<u8> {
        let lv = |bytes: &[u8]| [&[u8::try_from(bytes.len()).unwrap()], bytes].concat();
        let (sensor, gateway) = (format!("sensor{}", record.device), format!("gateway{}", record.gateway));
        [
            b"claw-session".as_slice(),
            &[1],
            sensor.as_bytes(),
            gateway.as_bytes(),
            transport.as_bytes(),
            &record.key_id,
            &[index],
        ]
        .iter()
        .flat_map(|value| lv(value))
        .collect()
    }

    fn builder<'a>(record: &'a PairingRecord, prologue: &'a [u8]) -> snow::Builder<'a> {
        snow::Builder::new(PATTERN.parse().unwrap())
            .local_private_key(&record.own_static)
            .unwrap()
            .remote_public_key(&record.peer_static)
            .unwrap()
            .psk(0, &record.psk)
            .unwrap()
            .prologue(prologue)
            .unwrap()
    }

    #[test]
    fn our_gateway_talks_to_it() {
        let mut ends = Ends::new();
        let first = ends.handshake1();
        let theirs = ends.slots.current().unwrap().clone();
        let prologue = prologue(&theirs, "uart", first[1]);
        let mut peer = builder(&theirs, &prologue).build_responder().unwrap();
        assert_eq!(peer.read_message(&first[10..], &mut [0; 64]).unwrap(), 0);
        let mut second = vec![0x22, first[1]];
        let mut noise = [0; 64];
        let length = peer.write_message(&[], &mut noise).unwrap();
        second.extend_from_slice(&noise[..length]);
        ends.gateway.handle_handshake2(&second, 0).unwrap();
        assert!(peer.is_handshake_finished());
    }

    #[test]
    fn our_sensor_talks_to_it() {
        use hmac::{Hmac, KeyInit, Mac};
        let mut ends = Ends::new();
        let index = 77;
        let ours = ends.record.clone();
        let prologue = prologue(&ours, "uart", index);
        let mut peer = builder(&ours, &prologue).build_initiator().unwrap();
        let mut noise = [0; 48];
        assert_eq!(peer.write_message(&[], &mut noise).unwrap(), 48);
        let mut mac = Hmac::<Sha512>::new_from_slice(&ours.key_id_key).unwrap();
        mac.update(&noise[..32]);
        mac.update(&[index]);
        let tag = mac.finalize().into_bytes();
        let first = [&[0x21, index], &tag[..8], &noise].concat();
        let second = ends.answer(&first).unwrap();
        assert_eq!(second[..2], [0x22, index]);
        assert_eq!(peer.read_message(&second[2..], &mut [0; 64]).unwrap(), 0);
        assert!(peer.is_handshake_finished());
    }
}
