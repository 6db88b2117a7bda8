//! A gateway that sends the same bytes in each run, so that what a sensor's image does with them can be counted:
//! `gateway LINE CODE SUITE` pairs by the label's code in this suite, opens a session and acknowledges readings until it
//! is ended. Suite 2 needs the feature of that name.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a measurement that fails says where")]
#![allow(clippy::print_stdout, reason = "it tells the script how far it is")]

use std::fs::File;
use std::io::{Read as _, Write as _};

use clawgate_protocol::app::{Ack, App};
use clawgate_protocol::code::Code;
use clawgate_protocol::fragment::Header;
use clawgate_protocol::frame::uart::{self, Decoder};
use clawgate_protocol::keys::PairingRecord;
use clawgate_protocol::pairing::{Ceremony, Gateway, GatewayOptions, GatewayStep, Suite};
use clawgate_protocol::{Random, Transport, session};

/// Numbers that are the same in each run.
struct Dice(u64);

impl Random for Dice {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (self.0 >> 56).to_le_bytes()[0];
        }
    }
}

/// The line; a read waits for bytes.
struct Line {
    port: File,
    decoder: Box<Decoder<{ uart::MAX_ENCODED }>>,
    heard: Vec<u8>,
}

impl Line {
    fn send(&mut self, message: &[u8]) {
        let mut frame = vec![0; uart::max_encoded_len(message.len())];
        let len = uart::encode(uart::ADDRESS, Header::WHOLE, message, &mut frame).unwrap();
        self.port.write_all(&frame[..len]).unwrap();
    }

    /// The next message of the sensor.
    fn hear(&mut self) -> Vec<u8> {
        loop {
            let mut input = self.heard.as_slice();
            let message = self.decoder.decode(&mut input).and_then(Result::ok).map(|frame| frame.payload.to_vec());
            self.heard = input.to_vec();
            match message {
                Some(message) => return message,
                None if self.heard.is_empty() => {
                    let mut bytes = [0; 1024];
                    let len = self.port.read(&mut bytes).unwrap();
                    assert!(len > 0, "the line is gone");
                    self.heard.extend_from_slice(&bytes[..len]);
                }
                None => (),
            }
        }
    }
}

fn pair(line: &mut Line, code: &Code, suite: Suite, dice: &mut Dice) -> PairingRecord {
    let options = GatewayOptions {
        gateway: "gw-1".parse().unwrap(),
        device: None,
        ceremony: Ceremony::Label,
        transport: Transport::Uart,
        max_suite: suite,
        min_suite: suite,
        config: &[],
    };
    let mut own_static = [0; 32];
    dice.fill(&mut own_static);
    let mut gateway = Gateway::start(&options, &code.prs(), &own_static, 0, dice).unwrap();
    line.send(gateway.message());
    loop {
        let answer = line.hear();
        let mut step = gateway.handle(&answer, 0);
        loop {
            step = match step {
                GatewayStep::CountAttempt => gateway.attempt_counted(),
                GatewayStep::StorePending { .. } => gateway.pending_stored(),
                GatewayStep::Send(message) => break line.send(message),
                GatewayStep::Paired(record) => return record.clone(),
                GatewayStep::Failed { failure, .. } => panic!("{failure}"),
                _ => break,
            }
        }
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut argument = || arguments.next().expect("gateway LINE CODE SUITE");
    let (path, code) = (argument(), Code::parse(&argument()).unwrap());
    let suite = Suite::from_number(argument().parse().unwrap()).unwrap();
    let port = File::options().read(true).write(true).open(path).unwrap();
    let mut line = Line { port, decoder: Box::default(), heard: Vec::new() };
    let mut dice = Dice(1);
    let record = pair(&mut line, &code, suite, &mut dice);
    assert_eq!(record.suite, suite, "it is not what is measured");
    println!("paired in suite {}", suite.number());

    let mut session = session::Gateway::default();
    let handshake1 = session.connect(&record, Transport::Uart, &mut dice).unwrap().to_vec();
    line.send(&handshake1);
    let mut plain = [0; 128];
    let mut sealed = [0; 160];
    while session.handle_handshake2(&line.hear(), 0).is_err() {}
    let len = App::Time { unix_ms: 1_700_000_000_000 }.encode(&mut plain).unwrap();
    let len = session.seal(&plain[..len], &mut sealed).unwrap();
    line.send(&sealed[..len]);
    loop {
        let mut message = line.hear();
        let Ok(opened) = session.open(&mut message) else { continue };
        let ack = match App::decode(opened.plaintext) {
            Ok(App::Hello(hello)) => Ack { epoch: hello.epoch, safe: hello.lowest - 1, next: hello.lowest },
            Ok(App::Readings(readings)) => {
                let last = readings.iter().last().map_or(readings.first_seq, |reading| reading.seq);
                Ack { epoch: readings.epoch, safe: last, next: last + 1 }
            }
            _ => continue,
        };
        let len = App::Ack(ack).encode(&mut plain).unwrap();
        let len = session.seal(&plain[..len], &mut sealed).unwrap();
        line.send(&sealed[..len]);
    }
}
