//! The examples of the wire in docs/protocol.md are what the code writes.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::fmt::Write as _;

use clawgate_protocol::Random;
use clawgate_protocol::app::{Ack, Action, App, Command, Gap, GapReason, Hello, Reply, Status, encode_readings};
use clawgate_protocol::code::Code;
use clawgate_protocol::discovery::{Ident, Window, encode_identify, encode_probe, rotating_id};
use clawgate_protocol::fragment::{Header, split};
use clawgate_protocol::frame::uart;
use clawgate_protocol::pairing::Ceremony;
use clawgate_protocol::senml::{self, Record};

const PAGE: &str = include_str!("../../docs/protocol.md");

struct Symbols;

impl Random for Symbols {
    /// K7QF3M9 as values of the alphabet.
    fn fill(&mut self, bytes: &mut [u8]) {
        bytes.copy_from_slice(&[19, 7, 23, 15, 3, 20, 9]);
    }
}

#[test]
fn the_page_shows_what_the_code_writes() {
    let mut missing = String::new();
    for (name, text) in examples() {
        let line = format!("{name:<12}{text}");
        if !PAGE.lines().any(|found| found == line) {
            writeln!(missing, "{line}").unwrap();
        }
    }
    assert!(missing.is_empty(), "docs/protocol.md lacks these lines:\n{missing}");
}

fn examples() -> Vec<(&'static str, String)> {
    let mut out = [0; 512];
    let mut examples = Vec::new();
    let mut add = |name, bytes: &[u8]| examples.push((name, hex(bytes)));

    let len = encode_probe(1, &mut out).unwrap();
    add("Probe", &out[..len]);
    let mut frame = [0; 32];
    let framed = uart::encode(0, Header::WHOLE, &out[..len], &mut frame).unwrap();
    add("its frame", &frame[..framed]);
    let header = Header::from_byte(b'2');
    let framed = uart::encode(b'1', header, b"3456789", &mut frame).unwrap();
    add("check frame", &frame[..framed]);

    let message: Vec<u8> = (0..45).collect();
    for (name, (header, payload)) in ["fragment 1", "fragment 2", "fragment 3"].into_iter().zip(split(&message, 19)) {
        add(name, &[&[header.byte()], payload].concat());
    }

    let unpaired = Ident {
        version: 1,
        paired: false,
        id: Some("th-kit-7f3a".parse().unwrap()),
        rotating: None,
        name: Some("TH-Kit"),
        suites: &[1, 2],
        max_message: 2048,
        window: Some(Window { ceremony: Ceremony::Label, seconds_left: 252, id: 0xdead_beef }),
    };
    let len = unpaired.encode(&mut out).unwrap();
    add("Ident", &out[..len]);
    let id = rotating_id(&[7; 32], [1, 2, 3]);
    let paired = Ident { paired: true, id: None, rotating: Some(id), name: None, window: None, ..unpaired };
    let len = paired.encode(&mut out).unwrap();
    add("paired", &out[..len]);
    let len = encode_identify(10, &mut out).unwrap();
    add("Identify", &out[..len]);
    add("rotating id", &id);

    let mut pack = [0; 64];
    let record = Record { base_time: Some(senml::seconds(1_700_000_000_500)), ..Record::number("t", "Cel", 21.5) };
    let with_time = senml::encode(&[record], &mut pack).unwrap();
    add("pack", &pack[..with_time]);
    let epoch = 0x1122_3344_5566_7788;
    let len = encode_readings(epoch, 42, [(&pack[..with_time], None)].into_iter(), &mut out).unwrap();
    add("Readings", &out[..len]);
    let mut bare = [[0; 12]; 2];
    for (pack, value) in bare.iter_mut().zip([22.0, 23.0]) {
        assert_eq!(senml::encode(&[Record::number("t", "Cel", value)], pack), Ok(pack.len()));
    }
    let items = [(&bare[0][..], Some(65_000)), (&bare[1][..], Some(65_250))];
    let len = encode_readings(epoch, 43, items.into_iter(), &mut out).unwrap();
    add("with uptime", &out[..len]);
    for (name, app) in [
        ("Ack", App::Ack(Ack { epoch, safe: 41, next: 43 })),
        ("first Ack", App::Ack(Ack { epoch: 0, safe: 0, next: 1 })),
        ("Gap", App::Gap(Gap { epoch, from: 42, to: 99, reason: GapReason::Overflow })),
        ("Time", App::Time { unix_ms: 1_700_000_000_500 }),
        ("Command", App::Command(Command { id: 7, action: Action::Identify { seconds: 10 } })),
        ("Reply", App::Reply(Reply { id: 7, status: Status::Ok })),
        ("Hello", App::Hello(Hello { epoch, lowest: 42, uptime_ms: 65_000, synced: false, firmware: "1.4.2" })),
        ("Bye", App::Bye),
    ] {
        let len = app.encode(&mut out).unwrap();
        add(name, &out[..len]);
    }
    let code = Code::random(&mut Symbols);
    examples.push(("code", code.to_string()));
    examples.push(("QR", code.qr(Some("th-kit-7f3a")).to_string()));
    examples
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
