//! What a pairing and a reading cost on BLE: ATT packets and bytes, counted by the protocol's own machines and
//! fragments. Nothing is timed, so that the figures are the same on every machine.

use std::io::Write as _;
use std::process::ExitCode;

use clawgate_protocol::app::{Ack, App, encode_readings};
use clawgate_protocol::ble::room;
use clawgate_protocol::fragment::split;
use clawgate_protocol::message::MessageError;
use clawgate_protocol::pairing::{
    Ceremony, Failure, Gateway, GatewayOptions, GatewayStep, Profile, Sensor, SensorOptions, SensorStep, Suite,
};
use clawgate_protocol::session::RECORD_OVERHEAD;
use clawgate_protocol::{MAX_MESSAGE, Random, Transport};

/// The smallest; what the data length extension carries in one packet less L2CAP, as Apple's stack has it; in one
/// packet; the largest.
const MTUS: [u16; 4] = [23, 185, 247, 517];

/// ATT's opcode and handle before each value.
const ATT_HEADER: usize = 3;

/// The answer to a write with response: of the last value of each message of the gateway.
const WRITE_RESPONSE: usize = 1;

/// A reading: one SenML pack.
const READING: usize = 100;

/// Readings that share a record when the sensor has some in stock.
const SHARED: usize = 10;

/// Who sends a message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    Gateway,
    Sensor,
}

/// Packets and bytes of ATT.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Cost {
    packets: usize,
    bytes: usize,
}

impl Cost {
    fn of(messages: &[(From, usize)], mtu: u16) -> Self {
        let mut cost = Self::default();
        for (from, length) in messages {
            for (_, piece) in split(&vec![0; *length], room(mtu)) {
                cost.packets += 1;
                cost.bytes += ATT_HEADER + 1 + piece.len();
            }
            if *from == From::Gateway {
                cost.packets += 1;
                cost.bytes += WRITE_RESPONSE;
            }
        }
        cost
    }
}

/// Not random: the lengths do not depend on it.
struct Counting(u8);

impl Random for Counting {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.0 = self.0.wrapping_add(1);
            *byte = self.0;
        }
    }
}

/// M1 to M6 of a pairing by the label, between the protocol's machines.
fn pairing(suite: Suite) -> Result<Vec<(From, usize)>, Failure> {
    let options = GatewayOptions {
        gateway: "gateway".parse().map_err(|_| Failure::Malformed)?,
        device: None,
        ceremony: Ceremony::Label,
        transport: Transport::Ble,
        max_suite: suite,
        min_suite: suite,
        config: b"",
    };
    let code = *b"K7QF3M9";
    let mut gateway = Gateway::start(&options, &code, &[0x11; 32], 0, &mut Counting(0))?;
    let m1 = gateway.message().to_vec();
    let options = SensorOptions {
        device: "th-kit-7f3a".parse().map_err(|_| Failure::Malformed)?,
        ceremony: Ceremony::Label,
        transport: Transport::Ble,
        max_suite: suite,
        min_suite: suite,
        max_message: 4096,
        profile: Profile { capabilities: "temperature:Cel,humidity:%RH", firmware: "1.0.0", certificate: None },
    };
    let mut sensor = Sensor::accept(options, &code, &[0x22; 32], &m1, 0, &mut Counting(0x80))?;
    let m2 = sensor.message().to_vec();
    let m3 = match gateway.handle(&m2, 0) {
        GatewayStep::CountAttempt => sent(&gateway.attempt_counted())?,
        step => sent(&step)?,
    };
    let m4 = match sensor.handle(&m3, 0) {
        SensorStep::CountAttempt => answered(&sensor.attempt_counted())?,
        step => answered(&step)?,
    };
    let _ = gateway.handle(&m4, 0);
    let m5 = sent(&gateway.pending_stored())?;
    let _ = sensor.handle(&m5, 0);
    let m6 = answered(&sensor.pending_stored())?;
    let ends = [From::Gateway, From::Sensor].into_iter().cycle();
    Ok(ends.zip([m1, m2, m3, m4, m5, m6].iter().map(Vec::len)).collect())
}

fn sent(step: &GatewayStep<'_>) -> Result<Vec<u8>, Failure> {
    if let GatewayStep::Send(message) = step { Ok(message.to_vec()) } else { Err(Failure::Malformed) }
}

fn answered(step: &SensorStep<'_>) -> Result<Vec<u8>, Failure> {
    if let SensorStep::Send(message) = step { Ok(message.to_vec()) } else { Err(Failure::Malformed) }
}

/// So many readings in one record, and the acknowledgement of them.
fn readings(count: usize) -> Result<Vec<(From, usize)>, MessageError> {
    let (epoch, seq) = (u64::MAX, 100_000);
    let pack = [0_u8; READING];
    let mut plaintext = [0; MAX_MESSAGE];
    let packs = vec![(&pack[..], None); count];
    let record = encode_readings(epoch, seq, packs.into_iter(), &mut plaintext)?;
    let ack = App::Ack(Ack { epoch, safe: seq, next: seq + 1 }).encode(&mut plaintext)?;
    Ok(vec![(From::Sensor, record + RECORD_OVERHEAD), (From::Gateway, ack + RECORD_OVERHEAD)])
}

/// The table of the README.
fn table() -> Result<String, String> {
    let failed = |error: Failure| format!("the machines did not pair: {error:?}");
    let encoded = |error: MessageError| error.to_string();
    let rows = [
        ("pairing, suite 1", pairing(Suite::One).map_err(failed)?, 1),
        ("pairing, suite 2", pairing(Suite::Two).map_err(failed)?, 1),
        ("a reading of 100 bytes alone, and its acknowledgement", readings(1).map_err(encoded)?, 1),
        ("one of 10 that share a record", readings(SHARED).map_err(encoded)?, SHARED),
    ];
    let mut text =
        String::from("| ATT packets / bytes | MTU 23 | MTU 185 | MTU 247 | MTU 517 |\n|---|---:|---:|---:|---:|\n");
    for (name, messages, share) in rows {
        text.push_str("| ");
        text.push_str(name);
        for mtu in MTUS {
            let cost = Cost::of(&messages, mtu);
            let cell = if share == 1 {
                format!(" | {} / {}", cost.packets, cost.bytes)
            } else {
                let tenths = |value: usize| format!("{}.{}", value / share, value % share * 10 / share);
                format!(" | {} / {}", tenths(cost.packets), tenths(cost.bytes))
            };
            text.push_str(&cell);
        }
        text.push_str(" |\n");
    }
    Ok(text)
}

fn main() -> ExitCode {
    match table() {
        Ok(text) => {
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "ble: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_shows_what_is_counted() {
        let counted = super::table().unwrap();
        assert!(include_str!("../../README.md").contains(&counted), "benches/README.md should show:\n{counted}");
    }
}
