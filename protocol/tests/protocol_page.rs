//! The worked example of `docs/protocol.md`, worked again: by the machines of this crate, and by a stranger who
//! has only the page and other people's crates. Every hex block of the page is compared, in order.

#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

mod pair;

use std::fmt::Write as _;

use chacha20poly1305::ChaCha20Poly1305;
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use clawgate_protocol::keys::{PairingRecord, Slots};
use clawgate_protocol::pairing::{
    Ceremony, Gateway, GatewayOptions, GatewayStep, Profile, Sensor, SensorOptions, SensorStep, Suite,
};
use clawgate_protocol::{Random, Transport, cpace, session};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use pair::{CODE, GATEWAY_STATIC, SENSOR_STATIC};
use sha2::{Digest, Sha512};

/// 00 01 02 ... from some byte on.
struct Counting(u8);

impl Random for Counting {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            *byte = self.0;
            self.0 = self.0.wrapping_add(1);
        }
    }
}

fn counting<const N: usize>(from: u8) -> [u8; N] {
    let mut bytes = [0; N];
    Counting(from).fill(&mut bytes);
    bytes
}

type Values = Vec<(String, Vec<u8>)>;

const CAPABILITIES: &str = "temperature:Cel";
const FIRMWARE: &str = "1.0.0";
const CONFIG: &[u8] = b"";

/// M1 to M6 and both records, from the machines.
fn machines(ceremony: Ceremony) -> ([Vec<u8>; 6], PairingRecord, PairingRecord) {
    let options = GatewayOptions {
        gateway: "shed".parse().unwrap(),
        device: None,
        ceremony,
        transport: Transport::Uart,
        max_suite: Suite::One,
        min_suite: Suite::One,
        config: CONFIG,
    };
    let mut gateway = Gateway::start(&options, &CODE, &GATEWAY_STATIC, 0, &mut Counting(0)).unwrap();
    let m1 = gateway.message().to_vec();
    let options = SensorOptions {
        device: "th-kit".parse().unwrap(),
        ceremony,
        transport: Transport::Uart,
        max_suite: Suite::One,
        min_suite: Suite::One,
        max_message: 256,
        profile: Profile { capabilities: CAPABILITIES, firmware: FIRMWARE, certificate: None },
    };
    let mut sensor = Sensor::accept(options, &CODE, &SENSOR_STATIC, &m1, 0, &mut Counting(0x80)).unwrap();
    let m2 = sensor.message().to_vec();

    let mut send = |message: &[u8]| match gateway.handle(message, 0) {
        GatewayStep::Send(next) => next.to_vec(),
        GatewayStep::CountAttempt => match gateway.attempt_counted() {
            GatewayStep::Send(next) => next.to_vec(),
            step => panic!("{step:?}"),
        },
        step => panic!("{step:?}"),
    };
    let m3 = send(&m2);
    assert!(matches!(sensor.handle(&m3, 0), SensorStep::CountAttempt));
    let SensorStep::Send(m4) = sensor.attempt_counted() else { panic!("no M4") };
    let m4 = m4.to_vec();
    if ceremony == Ceremony::Issued {
        assert!(matches!(gateway.handle(&m4, 0), GatewayStep::CountAttempt));
        assert!(matches!(gateway.attempt_counted(), GatewayStep::StorePending { .. }));
    } else {
        assert!(matches!(gateway.handle(&m4, 0), GatewayStep::StorePending { .. }));
    }
    let GatewayStep::Send(m5) = gateway.pending_stored() else { panic!("no M5") };
    let m5 = m5.to_vec();
    let SensorStep::StorePending { record, .. } = sensor.handle(&m5, 0) else { panic!("not stored") };
    let theirs = record.clone();
    let SensorStep::Send(m6) = sensor.pending_stored() else { panic!("no M6") };
    let m6 = m6.to_vec();
    let GatewayStep::Paired(ours) = gateway.handle(&m6, 0) else { panic!("not paired") };
    ([m1, m2, m3, m4, m5, m6], ours.clone(), theirs)
}

// The stranger: only the page, and crates that are not ours (and CPace's generator, which the draft's vectors
// check).

fn lv(parts: &[&[u8]]) -> Vec<u8> {
    let value = parts.concat();
    let mut length = value.len();
    let mut out = Vec::new();
    loop {
        let byte = u8::try_from(length & 0x7f).unwrap();
        length >>= 7;
        out.push(if length == 0 { byte } else { byte | 0x80 });
        if length == 0 {
            return [out, value].concat();
        }
    }
}

/// Hash(A, B, ...)
fn hash(messages: &[&[u8]]) -> Vec<u8> {
    Sha512::digest(messages.iter().flat_map(|m| lv(&[m])).collect::<Vec<_>>()).to_vec()
}

fn expand(key: &[u8], info: &[u8], length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    Hkdf::<Sha512>::from_prk(key).unwrap().expand(info, &mut out).unwrap();
    out
}

fn extract(salt: &[u8], input: &[u8]) -> Vec<u8> {
    Hkdf::<Sha512>::extract(Some(salt), input).0.to_vec()
}

fn mac(key: &[u8], text: &[u8], length: usize) -> Vec<u8> {
    let mut mac = Hmac::<Sha512>::new_from_slice(key).unwrap();
    mac.update(text);
    mac.finalize().into_bytes()[..length].to_vec()
}

fn aead(key: &[u8], counter: u64, aad: &[u8], text: &[u8]) -> Vec<u8> {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    let mut out = text.to_vec();
    let cipher = ChaCha20Poly1305::new_from_slice(key).unwrap();
    let tag = cipher.encrypt_inout_detached(&nonce.into(), aad, out.as_mut_slice().into()).unwrap();
    [out, tag.to_vec()].concat()
}

/// CBOR, only as much as the messages need.
fn bstr(bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).unwrap();
    let head = if length < 24 { vec![0x40 | length] } else { vec![0x58, length] };
    [head, bytes.to_vec()].concat()
}

fn tstr(text: &str) -> Vec<u8> {
    [&[0x60 | u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
}

fn map(kind: Option<u8>, entries: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut out: Vec<u8> = kind.into_iter().collect();
    out.push(0xa0 | u8::try_from(entries.len()).unwrap());
    for (key, value) in entries {
        out.push(*key);
        out.extend_from_slice(value);
    }
    out
}

fn x25519(secret: [u8; 32], point: [u8; 32]) -> [u8; 32] {
    x25519_dalek::x25519(secret, point)
}

/// The page's sections Pairing and Keys for this example; the values in the page's order.
#[allow(clippy::too_many_lines, reason = "one value after the other, as the page has them")]
fn stranger(ceremony: Ceremony) -> (Values, [Vec<u8>; 6]) {
    let label = ceremony == Ceremony::Label;
    let (nonce_g, nonce_s) = (counting::<16>(0), counting::<16>(0x80));
    let (scalar_g, scalar_s) = (counting::<32>(0x10), counting::<32>(0x90));
    let base = x25519_dalek::X25519_BASEPOINT_BYTES;
    let (static_g, static_s) = (x25519(GATEWAY_STATIC, base), x25519(SENSOR_STATIC, base));
    let mut values = Values::new();
    let mut note = |name: &str, bytes: &[u8]| values.push((name.to_owned(), bytes.to_vec()));

    let m1 = map(
        Some(0x11),
        &[(1, vec![1]), (2, bstr(&[1])), (3, tstr("shed")), (4, vec![if label { 2 } else { 1 }]), (5, bstr(&nonce_g))],
    );
    note("M1", &m1);
    let sid = [nonce_g, nonce_s].concat();
    let ci = [
        lv(&[b"claw-pair"]),
        lv(&[&[1]]),
        lv(&[if label { b"label" } else { b"issued" }]),
        lv(&[b"sensor", b"th-kit"]),
        lv(&[b"gateway", b"shed"]),
        lv(&[b"uart"]),
        lv(&[&Sha512::digest(&m1)]),
    ]
    .concat();
    note("CI", &ci);
    let generator = cpace::generator(&CODE, &[&ci], &[&sid]);
    note("g", &generator);
    let (share_s, share_g) = (x25519(scalar_s, generator), x25519(scalar_g, generator));
    let m2 = map(
        Some(0x12),
        &[
            (1, vec![1]),
            (2, vec![1]),
            (3, tstr("th-kit")),
            (4, vec![0x19, 1, 0]),
            (5, bstr(&nonce_s)),
            (6, bstr(&share_s)),
        ],
    );
    note("M2", &m2);
    let untagged = map(Some(0x13), &[(1, bstr(&share_g))]);
    let k = x25519(scalar_g, share_s);
    note("K", &k);
    let isk = Sha512::digest(
        [
            lv(&[b"CPace255_ISK"]),
            lv(&[&sid]),
            lv(&[&k]),
            lv(&[&share_s]),
            lv(&[&m2]),
            lv(&[&share_g]),
            lv(&[&untagged]),
        ]
        .concat(),
    );
    note("ISK", &isk);
    let t3 = hash(&[&m1, &m2, &untagged]);
    note("T3", &t3);
    let prk = extract(&t3, &isk);
    note("PRK", &prk);
    let tag_s = mac(&expand(&prk, b"sensor tag", 64), &t3, 32);
    let tag_g = mac(&expand(&prk, b"gateway tag", 64), &t3, 32);
    note("Tb", &tag_g);
    let m3 = if label { map(Some(0x13), &[(1, bstr(&share_g)), (3, bstr(&tag_g))]) } else { untagged };
    note("M3", &m3);
    note("Ta", &tag_s);

    let seal = extract(&expand(&prk, b"seal", 64), &lv(&[]));
    let (k4, k5) = (expand(&seal, b"m4", 32), expand(&seal, b"m5", 32));
    note("k4", &k4);
    let text = map(None, &[(1, bstr(&static_s)), (2, tstr(CAPABILITIES)), (3, tstr(FIRMWARE))]);
    note("text of M4's part", &text);
    let clear = map(Some(0x14), &[(1, bstr(&tag_s))]);
    let part = aead(&k4, 0, &hash(&[&m1, &m2, &m3, &clear]), &text);
    let m4 = map(Some(0x14), &[(1, bstr(&tag_s)), (3, bstr(&part))]);
    note("M4", &m4);

    let shared = x25519(SENSOR_STATIC, static_g);
    note("dh", &shared);
    let link = expand(&prk, b"link", 64);
    let input = [lv(&[&link]), lv(&[]), lv(&[&shared])].concat();
    let info = [lv(&[&hash(&[&m1, &m2, &m3, &m4])]), lv(&[&static_s]), lv(&[&static_g])].concat();
    let root = expand(&extract(&[], &input), &info, 64);
    note("root", &root);
    let tag_field = || if label { Vec::new() } else { vec![(1, bstr(&tag_g))] };
    note("k5", &k5);
    let text = map(None, &[(1, bstr(&static_g)), (2, bstr(CONFIG))]);
    note("text of M5's part", &text);
    let part = aead(&k5, 0, &hash(&[&m1, &m2, &m3, &m4, &map(Some(0x15), &tag_field())]), &text);
    let mut entries = tag_field();
    entries.push((2, bstr(&part)));
    let unmacked = map(Some(0x15), &entries);
    let m5_mac = mac(&expand(&root, b"m5 mac", 64), &hash(&[&m1, &m2, &m3, &m4, &unmacked]), 16);
    entries.push((3, bstr(&m5_mac)));
    let m5 = map(Some(0x15), &entries);
    note("M5", &m5);
    let m6_mac = mac(&expand(&root, b"m6 mac", 64), &hash(&[&m1, &m2, &m3, &m4, &m5]), 16);
    let m6 = map(Some(0x16), &[(1, bstr(&m6_mac))]);
    note("M6", &m6);
    note("psk", &expand(&root, b"noise psk", 32));
    note("key-id key", &expand(&root, b"key-id key", 32));
    note("key id", &expand(&root, b"key id", 8));
    note("pairing id", &expand(&root, b"pairing id", 8));
    note("advertising key", &expand(&root, b"advertising key", 32));
    (values, [m1, m2, m3, m4, m5, m6])
}

fn value<'a>(values: &'a Values, name: &str) -> &'a [u8] {
    &values.iter().find(|(n, _)| n == name).unwrap().1
}

/// The session after it, from `snow` and from our machines, and the first record.
fn first_session(values: &Values, ours: &PairingRecord, theirs: &PairingRecord) -> Values {
    let index = 0x60;
    let key_id = value(values, "key id");
    let prologue = [
        lv(&[b"claw-session"]),
        lv(&[&[1]]),
        lv(&[b"sensor", b"th-kit"]),
        lv(&[b"gateway", b"shed"]),
        lv(&[b"uart"]),
        lv(&[key_id]),
        lv(&[&[index]]),
    ]
    .concat();
    let base = x25519_dalek::X25519_BASEPOINT_BYTES;
    let psk: [u8; 32] = value(values, "psk").try_into().unwrap();
    let build = |own: [u8; 32], peer: [u8; 32], ephemeral: [u8; 32], first: bool| {
        let public = x25519(peer, base);
        let builder = snow::Builder::new("Noise_KKpsk0_25519_ChaChaPoly_SHA512".parse().unwrap())
            .local_private_key(&own)
            .unwrap()
            .remote_public_key(&public)
            .unwrap()
            .psk(0, &psk)
            .unwrap()
            .prologue(&prologue)
            .unwrap()
            .fixed_ephemeral_key_for_testing_only(&ephemeral);
        if first { builder.build_initiator().unwrap() } else { builder.build_responder().unwrap() }
    };
    let mut noise_g = build(GATEWAY_STATIC, SENSOR_STATIC, counting(0x40), true);
    let mut noise_s = build(SENSOR_STATIC, GATEWAY_STATIC, counting(0xc0), false);
    let (mut first, mut second) = ([0; 48], [0; 48]);
    assert_eq!(noise_g.write_message(&[], &mut first).unwrap(), 48);
    noise_s.read_message(&first, &mut []).unwrap();
    assert_eq!(noise_s.write_message(&[], &mut second).unwrap(), 48);
    let tag = mac(value(values, "key-id key"), &[&first[..32], &[index]].concat(), 8);
    let handshake1 = [&[0x21, index], tag.as_slice(), &first].concat();
    let handshake2 = [&[0x22, index], second.as_slice()].concat();

    let mut gateway = session::Gateway::default();
    let made = gateway.connect(ours, Transport::Uart, &mut Counting(0x40)).unwrap();
    assert_eq!(made, handshake1);
    let mut sensor = session::Sensor::default();
    let slots = Slots::new(None, Some(theirs.clone()));
    let answer = sensor.handle_handshake1(&handshake1, &slots, Transport::Uart, 0, &mut Counting(0xc0)).unwrap();
    assert_eq!(answer, handshake2);
    gateway.handle_handshake2(&handshake2, 0).unwrap();
    let text = b"\x43\xa1\x01\x1b\x00\x00\x01\x9a\xa0\x00\x00\x00";
    let mut record = [0; 64];
    let length = gateway.seal(text, &mut record).unwrap();
    let record = record[..length].to_vec();
    assert!(sensor.open(&mut record.clone()).unwrap().first);
    vec![
        ("prologue".to_owned(), prologue),
        ("Handshake1".to_owned(), handshake1),
        ("Handshake2".to_owned(), handshake2),
        ("text of the first record".to_owned(), text.to_vec()),
        ("Record".to_owned(), record),
    ]
}

/// The hex blocks of the page: `# name` and bytes.
fn page() -> Values {
    let text = include_str!("../../docs/protocol.md");
    let mut values = Values::new();
    for block in text.split("```hex\n").skip(1) {
        for line in block.split("```").next().unwrap().lines() {
            if let Some(name) = line.strip_prefix("# ") {
                values.push((name.to_owned(), Vec::new()));
            } else {
                let bytes = &mut values.last_mut().unwrap().1;
                bytes.extend(line.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()));
            }
        }
    }
    values
}

fn as_block(values: &Values) -> String {
    let mut out = String::from("```hex\n");
    for (name, bytes) in values {
        writeln!(out, "# {name}").unwrap();
        for line in bytes.chunks(32) {
            let hex: Vec<_> = line.iter().map(|byte| format!("{byte:02x}")).collect();
            writeln!(out, "{}", hex.join(" ")).unwrap();
        }
    }
    out + "```\n"
}

#[test]
fn the_page_and_the_machines_give_the_same_bytes() {
    let (label, label_messages) = stranger(Ceremony::Label);
    let (machine_messages, ours, theirs) = machines(Ceremony::Label);
    assert_eq!(machine_messages, label_messages);
    for record in [&ours, &theirs] {
        assert_eq!(record.psk, value(&label, "psk"));
        assert_eq!(record.key_id_key, value(&label, "key-id key"));
        assert_eq!(record.key_id, value(&label, "key id"));
        assert_eq!(record.pairing_id, value(&label, "pairing id"));
        assert_eq!(record.advertising_key, value(&label, "advertising key"));
    }
    let session = first_session(&label, &ours, &theirs);

    let (issued, issued_messages) = stranger(Ceremony::Issued);
    assert_eq!(machines(Ceremony::Issued).0, issued_messages);
    let brief = ["M1", "g", "M2", "M3", "M4", "M5", "M6", "psk"];
    let issued: Values = issued.into_iter().filter(|(name, _)| brief.contains(&name.as_str())).collect();

    let all: Values = [label.clone(), session.clone(), issued.clone()].concat();
    let blocks = [as_block(&label), as_block(&session), as_block(&issued)].join("\n");
    assert!(page() == all, "the page's hex blocks should be:\n{blocks}");
}
