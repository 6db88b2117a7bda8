//! Every codec: what is written reads back, what lies is refused, and an independent decoder agrees.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

mod bodies;

use std::collections::BTreeMap;

use clawgate_protocol::app::{self, Ack, Action, App, Command, Gap, GapReason, Hello, Reply, Status};
use clawgate_protocol::cbor::CborError;
use clawgate_protocol::discovery::{Ident, Window, decode_identify, decode_probe, encode_identify, encode_probe};
use clawgate_protocol::fragment::{Joiner, split};
use clawgate_protocol::frame::uart::{self, Decoder};
use clawgate_protocol::message::MessageError;
use clawgate_protocol::pairing::Ceremony;
use clawgate_protocol::senml::{self, Record, Value};
use proptest::prelude::*;
use serde_cbor::Value as Cbor;

fn apps() -> impl Strategy<Value = App<'static>> {
    prop_oneof![
        (any::<u64>(), any::<u64>(), 1..u64::MAX).prop_map(|(epoch, a, b)| {
            App::Ack(Ack { epoch, safe: a.min(b - 1), next: a.min(b - 1).saturating_add(b.max(1)).max(1) })
        }),
        (any::<u64>(), 1..=u64::MAX, any::<u64>(), any::<bool>()).prop_map(|(epoch, a, b, lost)| {
            let reason = if lost { GapReason::Lost } else { GapReason::Overflow };
            App::Gap(Gap { epoch, from: a, to: a.max(b), reason })
        }),
        any::<u64>().prop_map(|unix_ms| App::Time { unix_ms }),
        (any::<u32>(), any::<u16>(), 0..4_u64).prop_map(|(id, seconds, action)| {
            let action = match action {
                0 => Action::Identify { seconds },
                1 => Action::OpenWindow { seconds },
                2 => Action::Unpair,
                _ => Action::Unknown(u64::from(seconds) + 4),
            };
            App::Command(Command { id, action })
        }),
        (any::<u32>(), 0..3).prop_map(|(id, status)| {
            let status = [Status::Ok, Status::Refused, Status::Busy][usize::try_from(status).unwrap()];
            App::Reply(Reply { id, status })
        }),
        (any::<u64>(), 1..=u64::MAX, any::<u64>(), any::<bool>()).prop_map(|(epoch, lowest, uptime_ms, synced)| {
            App::Hello(Hello { epoch, lowest, uptime_ms, synced, firmware: "1.2.3-\u{e4}" })
        }),
        Just(App::Bye),
    ]
}

/// The map after the type byte, as the archived `serde_cbor` reads it.
fn foreign(message: &[u8]) -> BTreeMap<Cbor, Cbor> {
    match serde_cbor::from_slice(&message[1..]).expect("an independent decoder reads it") {
        Cbor::Map(map) => map,
        other => panic!("{other:?} is no map"),
    }
}

fn key(map: &BTreeMap<Cbor, Cbor>, key: i128) -> Cbor {
    map.get(&Cbor::Integer(key)).cloned().unwrap_or(Cbor::Null)
}

proptest! {
    #[test]
    fn a_frame_survives_the_line_however_it_is_cut(
        payload in proptest::collection::vec(prop_oneof![3 => any::<u8>(), 1 => Just(0)], 0..4096),
        address: u8, piece in 1_usize..600,
    ) {
        let mut line = vec![0; uart::max_encoded_len(payload.len())];
        let header = clawgate_protocol::fragment::Header::WHOLE;
        let len = uart::encode(address, header, &payload, &mut line).unwrap();
        prop_assert!(!line[1..len - 1].contains(&0) && line[0] == 0 && line[len - 1] == 0);
        let mut decoder = Decoder::<{ uart::MAX_ENCODED }>::new();
        let mut found = Vec::new();
        for mut input in line[..len].chunks(piece) {
            while let Some(frame) = decoder.decode(&mut input) {
                let frame = frame.unwrap();
                found.push((frame.address, frame.payload.to_vec()));
            }
        }
        prop_assert_eq!(found, [(address, payload)]);
    }

    #[test]
    fn a_frame_with_any_bit_flipped_is_never_taken(payload in proptest::collection::vec(any::<u8>(), 0..40), at: prop::sample::Index) {
        let mut line = [0; 64];
        let len = uart::encode(0, clawgate_protocol::fragment::Header::WHOLE, &payload, &mut line).unwrap();
        let bit = at.index((len - 2) * 8) + 8;
        line[bit / 8] ^= 1 << (bit % 8);
        let mut decoder = Decoder::<64>::new();
        let mut input = &line[..len];
        while let Some(frame) = decoder.decode(&mut input) {
            prop_assert!(frame.is_err());
        }
    }

    #[test]
    fn a_frame_after_noise_is_found(noise in proptest::collection::vec(any::<u8>(), 0..10_000)) {
        let mut line = noise;
        let mut frame = [0; 64];
        let len = uart::encode(0, clawgate_protocol::fragment::Header::WHOLE, b"here", &mut frame).unwrap();
        line.extend_from_slice(&frame[..len]);
        let mut decoder = Decoder::<{ uart::MAX_ENCODED }>::new();
        let mut input = &line[..];
        let mut last = None;
        while let Some(frame) = decoder.decode(&mut input) {
            last = Some(frame.map(|frame| frame.payload.to_vec()));
        }
        prop_assert_eq!(last, Some(Ok(b"here".to_vec())));
    }

    #[test]
    fn a_message_survives_any_mtu(message in proptest::collection::vec(any::<u8>(), 1..=4096), room in 1_usize..600) {
        let mut joiner = Joiner::<4096>::new();
        let mut joined = None;
        for (header, payload) in split(&message, room) {
            prop_assert!(joined.is_none() && payload.len() <= room);
            joined = joiner.join(header, payload).unwrap().map(<[u8]>::to_vec);
        }
        prop_assert_eq!(joined, Some(message));
    }

    #[test]
    fn a_message_with_a_lost_doubled_or_swapped_fragment_is_discarded(
        message in proptest::collection::vec(any::<u8>(), 60..=2000), at: prop::sample::Index, fault in 0..3,
    ) {
        let mut fragments: Vec<_> = split(&message, 19).collect();
        let at = at.index(fragments.len() - 1);
        match fault {
            0 => { fragments.remove(at); }
            1 => fragments.insert(at + 1, fragments[at]),
            _ => fragments.swap(at, at + 1),
        }
        let mut joiner = Joiner::<4096>::new();
        for (header, payload) in fragments {
            // A doubled first fragment only begins the same message again.
            if let Ok(Some(joined)) = joiner.join(header, payload) {
                prop_assert!(fault == 1 && at == 0 && joined == message);
            }
        }
    }

    #[test]
    fn what_a_session_carries_reads_back_and_is_never_longer_than_it_must(app in apps()) {
        let mut out = [0; 128];
        let len = app.encode(&mut out).unwrap();
        prop_assert_eq!(App::decode(&out[..len]), Ok(app));
        foreign(&out[..len]);
        for cut in 0..len {
            prop_assert!(App::decode(&out[..cut]).is_err(), "cut to {}", cut);
        }
        prop_assert!(App::decode(&out[..=len]).is_err(), "a byte follows");
    }

    #[test]
    fn readings_read_back(
        epoch: u64, first_seq in 1..u64::MAX / 2,
        packs in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..50), uptime_steps()), 1..40),
        uptimes: bool,
    ) {
        let mut out = [0; 4096];
        let (packs, steps): (Vec<_>, Vec<_>) = packs.into_iter().unzip();
        let times = steps.iter().scan(0_u64, |uptime_ms, step| {
            *uptime_ms += step;
            Some(*uptime_ms)
        });
        let items: Vec<_> =
            packs.iter().zip(times).map(|(pack, uptime_ms)| (&pack[..], uptimes.then_some(uptime_ms))).collect();
        let len = app::encode_readings(epoch, first_seq, items.iter().copied(), &mut out).unwrap();
        let Ok(App::Readings(readings)) = App::decode(&out[..len]) else { panic!("not readings") };
        prop_assert_eq!((readings.epoch, readings.len()), (epoch, packs.len()));
        for (reading, (at, (pack, uptime_ms))) in readings.iter().zip(items.iter().enumerate()) {
            prop_assert_eq!(reading.seq, first_seq + u64::try_from(at).unwrap());
            prop_assert_eq!((reading.pack, reading.uptime_ms), (*pack, *uptime_ms));
        }
        let mut again = [0; 4096];
        let again_len = App::Readings(readings).encode(&mut again).unwrap();
        prop_assert_eq!(&again[..again_len], &out[..len]);
        let map = foreign(&out[..len]);
        prop_assert_eq!(key(&map, 3), Cbor::Array(packs.into_iter().map(Cbor::Bytes).collect()));
        let steps = Cbor::Array(steps.into_iter().map(|step| Cbor::Integer(step.into())).collect());
        prop_assert_eq!(key(&map, 4), if uptimes { steps } else { Cbor::Null });
    }

    #[test]
    fn an_ident_reads_back(
        paired: bool, id in proptest::option::of("[a-z0-9_-]{1,32}"), rotating: Option<[u8; 8]>,
        name in proptest::option::of("[a-zA-Zäß ]{0,16}"), suites in proptest::collection::vec(any::<u8>(), 0..4),
        max_message: u16, window: Option<(bool, u16, u32)>,
    ) {
        let ident = Ident {
            version: 1, paired, id: id.as_ref().map(|id| id.parse().unwrap()), rotating, name: name.as_deref(),
            suites: &suites, max_message,
            window: window.map(|(label, seconds_left, id)| Window {
                ceremony: if label { Ceremony::Label } else { Ceremony::Issued }, seconds_left, id,
            }),
        };
        let mut out = [0; 160];
        let len = ident.encode(&mut out).unwrap();
        prop_assert_eq!(Ident::decode(&out[..len]), Ok(ident));
        let map = foreign(&out[..len]);
        prop_assert_eq!(key(&map, 3), id.map_or(Cbor::Null, Cbor::Text));
        prop_assert_eq!(key(&map, 7), Cbor::Integer(max_message.into()));
    }

    #[test]
    fn a_pack_reads_back(name in "[a-zA-Z0-9:./_-]{1,20}", value: f64, flag: bool, text in ".{0,20}", data: Vec<u8>) {
        prop_assume!(value.is_finite());
        let records = [
            Record { base_name: Some("urn:dev:mac:0024befffe804ff1:"), base_time: Some(senml::seconds(1_700_000_000_500)),
                base_version: Some(10), ..Record::number(&name, "Cel", value) },
            Record { name: Some("open"), value: Some(Value::Bool(flag)), ..Record::default() },
            Record { name: Some("state"), value: Some(Value::Text(&text)), ..Record::default() },
            Record { name: Some("blob"), value: Some(Value::Data(&data)), ..Record::default() },
        ];
        let mut out = [0; 8192];
        let len = senml::encode(&records, &mut out).unwrap();
        let read: Vec<_> = senml::Records::new(&out[..len]).unwrap().map(Result::unwrap).collect();
        prop_assert_eq!(&read[..], &records[..]);
        let Some(Value::Number(number)) = read[0].value else { panic!("no number") };
        prop_assert_eq!(number.as_f64().to_bits(), value.to_bits());
        let foreign: Vec<BTreeMap<i64, Cbor>> = serde_cbor::from_slice(&out[..len]).unwrap();
        prop_assert_eq!(&foreign[0][&-3], &Cbor::Float(1_700_000_000.5));
        prop_assert_eq!(&foreign[3][&8], &Cbor::Bytes(data));
    }

    #[test]
    fn no_bytes_break_the_frame_decoder(bytes: Vec<u8>) {
        bodies::frame(&bytes);
    }

    #[test]
    fn no_bytes_break_the_message_readers(bytes: Vec<u8>) {
        bodies::message(&bytes);
    }

    #[test]
    fn no_map_behind_a_known_type_byte_breaks_the_message_readers(
        kind in prop_oneof![Just(0x02_u8), 0x40_u8..0x48], map in cbor_maps(),
    ) {
        let mut message = vec![kind];
        message.extend(serde_cbor::to_vec(&map).unwrap());
        bodies::message(&message);
    }
}

/// Maps with small integer keys and values of every type, so that readers get past the first field.
fn cbor_maps() -> impl Strategy<Value = Cbor> {
    let leaf = prop_oneof![
        any::<u64>().prop_map(|number| Cbor::Integer(number.into())),
        (0..30_i128).prop_map(Cbor::Integer),
        any::<i64>().prop_map(|number| Cbor::Integer(number.into())),
        any::<bool>().prop_map(Cbor::Bool),
        "[a-z]{0,9}".prop_map(Cbor::Text),
        proptest::collection::vec(any::<u8>(), 0..12).prop_map(Cbor::Bytes),
        any::<f64>().prop_map(Cbor::Float),
    ];
    let item = leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Cbor::Array),
            proptest::collection::btree_map((0..5_i128).prop_map(Cbor::Integer), inner, 0..5).prop_map(Cbor::Map),
        ]
    });
    proptest::collection::btree_map((1..9_i128).prop_map(Cbor::Integer), item, 0..9).prop_map(Cbor::Map)
}

#[test]
fn the_checksum_is_the_published_one_and_the_layout_the_documented_one() {
    // CRC-32/ISO-HDLC of "123456789" is 0xcbf43926 (Rocksoft catalogue); here address and header are its
    // first two bytes.
    let mut line = [0; 32];
    let header = clawgate_protocol::fragment::Header::from_byte(b'2');
    let len = uart::encode(b'1', header, b"3456789", &mut line).unwrap();
    assert_eq!(line[..len], *b"\x00\x0e123456789\x26\x39\xf4\xcb\x00");
}

#[test]
fn megabytes_without_a_delimiter_take_no_memory_and_the_line_recovers() {
    let mut decoder = Decoder::<256>::new();
    for _ in 0..100_000 {
        let mut input = &[0xaa; 100][..];
        assert_eq!(decoder.decode(&mut input), None);
    }
    let mut line = [0; 32];
    let len = uart::encode(0, clawgate_protocol::fragment::Header::WHOLE, b"here", &mut line).unwrap();
    let mut input = &line[..len];
    assert_eq!(decoder.decode(&mut input), Some(Err(uart::FrameError::TooLong)));
    assert_eq!(decoder.decode(&mut input).unwrap().unwrap().payload, b"here");
}

#[test]
fn probes_and_identifies_read_back() {
    let mut out = [0; 16];
    let len = encode_probe(1, &mut out).unwrap();
    assert_eq!(out[..len], [0x01, 0xa1, 0x01, 0x01]);
    assert_eq!(decode_probe(&out[..len]), Ok(1));
    let len = encode_identify(10, &mut out).unwrap();
    assert_eq!(decode_identify(&out[..len]), Ok(10));
    assert_eq!(decode_probe(&out[..len]), Err(MessageError::UnknownType(0x03)));
}

#[test]
fn a_key_that_a_later_version_adds_is_read_over() {
    // Ack {1: 7, 2: 1, 3: 2, 4: [true]}
    let message = [0x41, 0xa4, 1, 7, 2, 1, 3, 2, 4, 0x81, 0xf5];
    assert_eq!(App::decode(&message), Ok(App::Ack(Ack { epoch: 7, safe: 1, next: 2 })));
}

/// Milliseconds from one reading to the next, in heads of every length.
fn uptime_steps() -> impl Strategy<Value = u64> {
    prop_oneof![0..30_u64, 0..1_000_u64, any::<u32>().prop_map(u64::from), 0..1_u64 << 57]
}

#[test]
fn uptimes_go_neither_back_nor_over_the_end_of_their_range() {
    let mut out = [0; 64];
    let items = [(&b"a"[..], Some(5)), (b"b", Some(4))];
    assert_eq!(app::encode_readings(7, 1, items.into_iter(), &mut out), Err(MessageError::BadField(4)));
    // Readings {1: 7, 2: 1, 3: [h'61', h'62'], 4: [2^64 - 1, ...]}
    let mut message = [
        0x40, 0xa4, 1, 7, 2, 1, 3, 0x82, 0x41, 0x61, 0x41, 0x62, 4, 0x82, 0x1b, 255, 255, 255, 255, 255, 255, 255, 255,
        0,
    ];
    let Ok(App::Readings(readings)) = App::decode(&message) else { panic!("not readings") };
    assert!(readings.iter().all(|reading| reading.uptime_ms == Some(u64::MAX)));
    assert_eq!(readings.iter().count(), 2);
    *message.last_mut().unwrap() = 1;
    assert_eq!(App::decode(&message), Err(MessageError::Cbor(CborError::OutOfRange)));
}

#[test]
fn a_count_that_lies_is_refused() {
    let huge = [0x40, 0xa3, 1, 7, 2, 1, 3, 0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x41, 0];
    assert!(App::decode(&huge).is_err());
    assert!(senml::Records::new(&[0x98, 200, 0xa0]).is_err());
}
