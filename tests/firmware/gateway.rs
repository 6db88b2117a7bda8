//! A gateway that means no good, or is only seen to by us: the protocol's own machine, with bytes that can be changed.

use clawgate_protocol::code::Code;
use clawgate_protocol::keys::PairingRecord;
use clawgate_protocol::pairing::{Ceremony, Gateway, GatewayOptions, GatewayStep, Suite};
use clawgate_protocol::{Random, Transport};

use crate::line::Line;

/// Numbers that are the same in each run.
pub(crate) struct Dice(pub(crate) u64);

impl Random for Dice {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (self.0 >> 56).to_le_bytes()[0];
        }
    }
}

impl Dice {
    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.fill(&mut bytes);
        bytes
    }
}

/// A gateway that was told this code, and what it sent.
pub(crate) fn gateway(ceremony: Ceremony, code: &str, dice: &mut Dice) -> Gateway {
    let options = GatewayOptions {
        gateway: "gw-x".parse().unwrap(),
        device: None,
        ceremony,
        transport: Transport::Uart,
        max_suite: Suite::Two,
        min_suite: Suite::One,
        config: &[],
    };
    let own_static = dice.bytes(32).try_into().unwrap();
    Gateway::start(&options, &Code::parse(code).unwrap().prs(), &own_static, 0, dice).unwrap()
}

/// Runs a gateway as far as it comes; what it sent, what it got, and its half of the pairing if there is one.
pub(crate) fn run(line: &mut Line, mut gateway: Gateway) -> (Vec<Vec<u8>>, Vec<Vec<u8>>, Option<PairingRecord>) {
    let (mut sent, mut got, mut record) = (Vec::new(), Vec::new(), None);
    let mut next = Some(gateway.message().to_vec());
    while let Some(message) = next.take() {
        let answers = line.ask(&message);
        sent.push(message);
        for answer in answers {
            let mut step = gateway.handle(&answer, 0);
            loop {
                step = match step {
                    GatewayStep::CountAttempt => gateway.attempt_counted(),
                    GatewayStep::StorePending { record: half, .. } => {
                        record = Some(half.clone());
                        gateway.pending_stored()
                    }
                    GatewayStep::Send(message) => {
                        next = Some(message.to_vec());
                        break;
                    }
                    _ => break,
                }
            }
            got.push(answer);
        }
    }
    (sent, got, record)
}
