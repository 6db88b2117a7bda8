//! What a gateway could send that means no good: the image lives on in the memory it has, says nothing but Refuse, and
//! gives one guess a run. The gateway here is the protocol's own machine where it must get far, and bytes elsewhere.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use clawgate_protocol::app::App;
use clawgate_protocol::code::Code;
use clawgate_protocol::fragment::Header;
use clawgate_protocol::frame::uart::{self, Decoder};
use clawgate_protocol::keys::{PairingRecord, Slots};
use clawgate_protocol::pairing::{Ceremony, Gateway, GatewayOptions, GatewayStep, LabelBackoff, Suite};
use clawgate_protocol::{Random, Transport, session};

use crate::unit::{BIG, Board, SMALL, Unit};
use crate::{LABEL, SOON, WRONG};

const PROBE: &[u8] = &[0x01, 0xa1, 0x01, 0x01];
const REFUSE: &[u8] = &[0x1f, 0xa0];
const IDENT: u8 = 0x02;
const M2: u8 = 0x12;
const HANDSHAKE2: u8 = 0x22;

/// The far end of the unit's line.
struct Line {
    port: File,
    decoder: Decoder<5000>,
    heard: Vec<u8>,
}

impl Line {
    fn open(folder: &Path) -> Self {
        use std::os::unix::fs::OpenOptionsExt as _;
        // O_NONBLOCK | O_NOCTTY of Linux.
        let port = File::options().read(true).write(true).custom_flags(0o4000 | 0o400).open(folder.join("line"));
        Self { port: port.unwrap(), decoder: Decoder::new(), heard: Vec::new() }
    }

    /// Writes all of it, however slowly the unit takes it; what comes meanwhile is kept.
    fn write(&mut self, mut bytes: &[u8]) {
        let end = Instant::now() + SOON;
        while !bytes.is_empty() {
            assert!(Instant::now() < end, "the unit takes nothing more");
            match self.port.write(&bytes[..bytes.len().min(512)]) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.listen(),
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn send(&mut self, message: &[u8]) {
        self.write(&framed(message));
    }

    fn listen(&mut self) {
        let mut bytes = [0; 4096];
        match self.port.read(&mut bytes) {
            Ok(count) => self.heard.extend_from_slice(&bytes[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(1)),
            Err(error) => panic!("{error}"),
        }
    }

    /// Every message that the unit sent up to its answer to a Probe, without that Ident.
    fn answers(&mut self) -> Vec<Vec<u8>> {
        let mut answers = Vec::new();
        self.write(&[0]);
        self.send(PROBE);
        let end = Instant::now() + SOON;
        loop {
            let heard = std::mem::take(&mut self.heard);
            let mut input = heard.as_slice();
            while let Some(frame) = self.decoder.decode(&mut input) {
                let message = frame.expect("the unit sends whole frames").payload.to_vec();
                if message[0] == IDENT {
                    return answers;
                }
                answers.push(message);
            }
            assert!(Instant::now() < end, "it answers no Probe any more");
            self.listen();
        }
    }

    /// Sends a message; what comes back.
    fn ask(&mut self, message: &[u8]) -> Vec<Vec<u8>> {
        self.send(message);
        self.answers()
    }
}

fn framed(message: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; uart::max_encoded_len(message.len())];
    let len = uart::encode(uart::ADDRESS, Header::WHOLE, message, &mut frame).unwrap();
    frame.truncate(len);
    frame
}

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

impl Dice {
    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.fill(&mut bytes);
        bytes
    }
}

/// A gateway that was told this code, and what it sent.
fn gateway(code: &str, dice: &mut Dice) -> Gateway {
    let options = GatewayOptions {
        gateway: "gw-x".parse().unwrap(),
        device: None,
        ceremony: Ceremony::Label,
        transport: Transport::Uart,
        max_suite: Suite::Two,
        min_suite: Suite::One,
        config: &[],
    };
    let own_static = dice.bytes(32).try_into().unwrap();
    Gateway::start(&options, &Code::parse(code).unwrap().prs(), &own_static, 0, dice).unwrap()
}

/// Runs a gateway as far as it comes; what it sent, what it got, and its half of the pairing if there is one.
fn run(line: &mut Line, mut gateway: Gateway) -> (Vec<Vec<u8>>, Vec<Vec<u8>>, Option<PairingRecord>) {
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

fn open_window(unit: &mut Unit) {
    let opened = unit.count("pairing window open");
    unit.tell("button");
    unit.until("pairing window open", opened + 1);
}

/// Bytes without sense, a stretch without a delimiter, frames of every type and length, and each damage of a right one.
fn noise(line: &mut Line, dice: &mut Dice) {
    for _ in 0..20 {
        let bytes = dice.bytes(1000);
        line.write(&bytes);
    }
    line.write(&vec![0x55; 50_000]);
    assert!(line.answers().is_empty(), "noise got an answer");
    for kind in 0..=u8::MAX {
        let len = 1 + usize::from(dice.bytes(1)[0]);
        let mut message = dice.bytes(len);
        message[0] = kind;
        line.send(&message);
    }
    let m1 = gateway(WRONG, dice).message().to_vec();
    // Cut short or with a wrong bit, in a frame that is whole: M1 reaches the machine.
    for len in 1..m1.len() {
        line.send(&m1[..len]);
    }
    // (but for the bit that makes it a Probe, which gets its answer)
    for bit in (0..16 * 8).filter(|bit| *bit != 4) {
        let mut damaged = m1.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        line.send(&damaged);
    }
    // And the frame itself.
    let frame = framed(&m1);
    for len in 0..frame.len() {
        line.write(&frame[..len]);
    }
    for bit in (0..frame.len() * 8).step_by(3) {
        let mut damaged = frame.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        line.write(&damaged);
    }
    line.write(&[0]);
    // Pieces that never end, that skip, that come twice.
    for byte in 0..=u8::MAX {
        let mut frame = [0; 300];
        let len = uart::encode(uart::ADDRESS, Header::from_byte(byte), &m1, &mut frame).unwrap();
        line.write(&frame[..len]);
    }
}

fn lives_through(board: &'static Board) {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut unit) = Unit::start(board, folder.path(), &["--label", LABEL]) else { return };
    let mut line = Line::open(folder.path());
    let mut dice = Dice(1);

    noise(&mut line, &mut dice);
    assert!(line.answers().is_empty(), "with the window closed it answers nothing");
    let m1 = gateway(LABEL, &mut dice).message().to_vec();
    assert!(line.ask(&m1).is_empty(), "with the window closed it answers no M1");

    open_window(&mut unit);
    noise(&mut line, &mut dice);
    let answers = line.answers();
    assert!(answers.iter().all(|answer| answer == REFUSE || answer[0] == M2), "{answers:x?}");
    assert_eq!(unit.status()["label_attempts"], 0, "what was no guess cost one");

    // The same again takes no more memory: there is none to take, and the stack goes no deeper, but for an interrupt
    // that may come where it is deepest.
    let deepest = unit.status()["stack"].as_u64().unwrap();
    noise(&mut line, &mut dice);
    line.answers();
    let stack = unit.status()["stack"].as_u64().unwrap();
    assert!(stack <= deepest + 256, "from {deepest} to {stack} bytes of stack");
    assert_eq!(unit.count("ready"), 1, "it started anew: something made it fault");
    unit.stack_was_enough();
}

#[test]
fn the_image_with_suite_2_lives_through_anything_on_its_line() {
    lives_through(&BIG);
}

#[test]
fn the_image_on_a_cortex_m0_lives_through_anything_on_its_line() {
    lives_through(&SMALL);
}

#[test]
fn a_wrong_gateway_gets_one_guess_a_run_and_then_waits_longer_and_longer() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut unit) = Unit::start(&SMALL, folder.path(), &["--label", LABEL]) else { return };
    let mut line = Line::open(folder.path());
    let mut dice = Dice(2);
    open_window(&mut unit);

    // A wrong M3, then the right one on the same Ya: one guess, and the run is over.
    let mut right = gateway(LABEL, &mut dice);
    let m2 = line.ask(right.message()).remove(0);
    assert_eq!(m2[0], M2);
    let mut step = right.handle(&m2, 0);
    if matches!(step, GatewayStep::CountAttempt) {
        step = right.attempt_counted();
    }
    let GatewayStep::Send(m3) = step else { panic!("no M3") };
    let mut wrong = m3.to_vec();
    *wrong.last_mut().unwrap() ^= 1;
    let began = Instant::now();
    assert_eq!(line.ask(&wrong), [REFUSE]);
    assert!(line.ask(m3).is_empty(), "a second M3 on one Ya was looked at");
    assert_eq!(unit.status()["label_attempts"], 1);
    assert_eq!(unit.count("paired with"), 0);

    // The next run has to wait, however often it is asked for; each refused one costs nothing.
    let m1 = gateway(LABEL, &mut dice).message().to_vec();
    assert_eq!(line.ask(&m1), [REFUSE], "no wait after a wrong guess");
    let mut backoff = LabelBackoff::restore(0, 0);
    for guess in 2..=7 {
        backoff.count(backoff.not_before_ms());
        let got = loop {
            let (_, got, record) = run(&mut line, gateway(WRONG, &mut dice));
            assert!(record.is_none() && began.elapsed() < SOON);
            if got != [REFUSE] {
                break got;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        assert!(got.len() == 2 && got[0][0] == M2 && got[1] == REFUSE, "{got:x?}");
        let earliest = Duration::from_millis(backoff.not_before_ms());
        assert!(began.elapsed() >= earliest, "guess {guess} after {:?}, not {earliest:?}", began.elapsed());
    }
    assert_eq!(unit.status()["label_attempts"], 7);
    // The count outlives the power; the person at the button clears the wait.
    unit.power_cycle();
    assert_eq!(unit.status()["label_attempts"], 7);
    assert!(line.ask(&m1).is_empty(), "the window came back by itself");
    open_window(&mut unit);
    let (_, _, record) = run(&mut line, gateway(LABEL, &mut dice));
    assert!(record.is_some());
    unit.until("paired with gw-x", 1);
}

#[test]
fn what_was_heard_once_is_worth_nothing_later() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut unit) = Unit::start(&BIG, folder.path(), &["--label", LABEL]) else { return };
    let mut line = Line::open(folder.path());
    let mut dice = Dice(3);
    open_window(&mut unit);
    let (sent, got, record) = run(&mut line, gateway(LABEL, &mut dice));
    unit.until("paired with gw-x", 1);
    let record = record.unwrap();
    assert_eq!((sent.len(), got.len()), (3, 3));
    // 1184 bytes of encapsulation key: it was suite 2.
    assert!(sent[1].len() > 1184 && record.suite == Suite::Two);

    // The whole run again, as it was heard: M2 has another share, so M3 proves nothing.
    open_window(&mut unit);
    assert_eq!(line.ask(&sent[0])[0][0], M2);
    assert_eq!(line.ask(&sent[1]), [REFUSE]);
    assert!(line.ask(&sent[2]).is_empty());
    // Our own words back at it.
    for message in got.iter().chain(&sent) {
        line.ask(message);
    }
    assert_eq!(unit.count("paired with"), 1);

    // A session's beginning: the same again gets the same again, and once it is live no more.
    let mut gateway = session::Gateway::default();
    let slots = Slots::new(Some(record), None);
    let current = slots.current().unwrap();
    let handshake1 = gateway.connect(current, Transport::Uart, &mut dice).unwrap().to_vec();
    let handshake2 = line.ask(&handshake1);
    assert_eq!(handshake2[0][0], HANDSHAKE2);
    gateway.handle_handshake2(&handshake2[0], 0).unwrap();
    let (mut time, mut first) = ([0; 32], [0; 64]);
    let len = App::Time { unix_ms: 1_700_000_000_000 }.encode(&mut time).unwrap();
    let len = gateway.seal(&time[..len], &mut first).unwrap();
    for len in 1..len {
        line.send(&first[..len]);
    }
    for bit in 0..len * 8 {
        let mut damaged = first;
        damaged[bit / 8] ^= 1 << (bit % 8);
        line.send(&damaged[..len]);
    }
    assert_eq!(unit.count("session open"), 0, "a damaged record opened the session");
    line.ask(&first[..len]);
    unit.until("session open", 1);
    assert!(line.ask(&handshake1).is_empty(), "a handshake was taken twice");
    line.ask(&first[..len]);
    assert_eq!((unit.count("session open"), unit.count("clock set"), unit.count("ready")), (1, 1, 1));
    unit.stack_was_enough();
}
