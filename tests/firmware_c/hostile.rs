//! What a gateway could send that means no good: the unit lives on, says nothing but Refuse, gives one guess a run.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use clawgate_protocol::fragment::Header;
use clawgate_protocol::frame::uart::{self, Decoder};

use crate::serial_site::{Site, wait_for_sensor};
use crate::unit::{BIG, Board, ONE_UART, SMALL, Unit};
use crate::{LABEL, pair_by_label};

const PROBE: &[u8] = &[0x01, 0xa1, 0x01, 0x01];
const REFUSE: &[u8] = &[0x1f, 0xa0];

/// The far end of the unit's line.
struct Line {
    port: File,
    decoder: Decoder<5000>,
    heard: Vec<u8>,
}

impl Line {
    fn open(path: &Path) -> Self {
        use std::os::unix::fs::OpenOptionsExt as _;
        // O_NONBLOCK | O_NOCTTY of Linux.
        let port = File::options().read(true).write(true).custom_flags(0o4000 | 0o400).open(path).unwrap();
        Self { port, decoder: Decoder::new(), heard: Vec::new() }
    }

    /// Writes all of it, however slowly the unit takes it; what comes meanwhile is kept.
    fn write(&mut self, mut bytes: &[u8]) {
        let end = Instant::now() + Duration::from_secs(60);
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
        self.send_as(Header::WHOLE, message);
    }

    fn send_as(&mut self, header: Header, message: &[u8]) {
        let mut frame = vec![0; uart::max_encoded_len(message.len())];
        let size = uart::encode(uart::ADDRESS, header, message, &mut frame).unwrap();
        self.write(&frame[..size]);
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
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let heard = std::mem::take(&mut self.heard);
            let mut input = heard.as_slice();
            while let Some(frame) = self.decoder.decode(&mut input) {
                let message = frame.expect("the unit sends whole frames").payload.to_vec();
                if message[0] == 0x02 {
                    return answers;
                }
                answers.push(message);
            }
            assert!(Instant::now() < end, "it answers no Probe any more");
            self.listen();
        }
    }
}

/// Numbers that are the same in each run.
struct Dice(u64);

impl Dice {
    fn byte(&mut self) -> u8 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 56).to_le_bytes()[0]
    }

    fn below(&mut self, end: usize) -> usize {
        (usize::from(self.byte()) << 8 | usize::from(self.byte())) % end
    }

    fn bytes(&mut self, size: usize) -> Vec<u8> {
        (0..size).map(|_| self.byte()).collect()
    }
}

/// M1 for the label, as in the protocol's worked example, with a nonce of its own.
fn m1(nonce: u8) -> Vec<u8> {
    let mut message = vec![0x11, 0xa5, 1, 1, 2, 0x41, 1, 3, 0x64, b's', b'h', b'e', b'd', 4, 2, 5, 0x50];
    message.extend([nonce; 16]);
    message
}

fn m3(dice: &mut Dice) -> Vec<u8> {
    let mut message = vec![0x13, 0xa2, 1, 0x58, 32];
    message.extend(dice.bytes(32));
    message.extend([3, 0x58, 32]);
    message.extend(dice.bytes(32));
    message
}

fn noise(line: &mut Line, dice: &mut Dice) {
    for _ in 0..20 {
        let bytes = dice.bytes(1000);
        line.write(&bytes);
    }
    line.write(&vec![0x55; 20_000]);
    assert!(line.answers().is_empty(), "noise got an answer");
    // Whole frames of every type and of any length, with nothing in them that means something.
    for kind in 0..=u8::MAX {
        let size = dice.below(300);
        let mut message = dice.bytes(1 + size);
        message[0] = kind;
        line.send(&message);
    }
    // Pieces that never end, that skip, that come twice.
    for _ in 0..300 {
        let (header, size) = (Header::from_byte(dice.byte()), 1 + dice.below(250));
        let piece = dice.bytes(size);
        line.send_as(header, &piece);
    }
}

fn lives_through(board: &'static Board) {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut unit) = Unit::start(board, folder.path(), &["--label", LABEL]) else { return };
    let mut line = Line::open(&folder.path().join("line"));
    let mut dice = Dice(1);

    noise(&mut line, &mut dice);
    assert!(line.answers().is_empty(), "with the window closed it answers nothing");
    line.send(&m1(1));
    assert!(line.answers().is_empty(), "with the window closed it answers no M1");

    unit.tell("button");
    unit.until("pairing window open", 1);
    noise(&mut line, &mut dice);
    assert!(line.answers().iter().all(|answer| answer == REFUSE), "in a window it says Refuse at most");

    // One guess a run, and the next one has to wait.
    unit.tell("button");
    unit.until("pairing window open", 2);
    line.send(&m1(2));
    let answers = line.answers();
    assert!(answers.len() == 1 && answers[0][0] == 0x12, "{answers:?}");
    let (first, second) = (m3(&mut dice), m3(&mut dice));
    line.send(&first);
    line.send(&second);
    line.send(&first);
    line.send(&m1(3));
    assert_eq!(line.answers(), [REFUSE, REFUSE], "one guess, then a wait");
    assert_eq!(unit.status()["label_attempts"], 1);
    unit.until("pairing failed: the codes differ", 1);
    // A share of low order, and its own one, gain nothing.
    for (opened, reflects) in [(3, false), (4, true)] {
        unit.tell("button");
        unit.until("pairing window open", opened);
        line.send(&m1(4));
        let m2 = line.answers().remove(0);
        let mut message = m3(&mut dice);
        let share = if reflects { m2[m2.len() - 32..].to_vec() } else { vec![0; 32] };
        message[5..37].copy_from_slice(&share);
        line.send(&message);
        assert_eq!(line.answers(), [REFUSE]);
    }
    assert_eq!(unit.count("ready"), 1, "it started anew: something made it fault");
    assert_eq!(unit.status()["paired"], false);
    unit.stack_was_enough();
}

#[test]
fn a_big_board_lives_through_a_hostile_gateway() {
    lives_through(&BIG);
}

#[test]
fn eight_kib_live_through_a_hostile_gateway() {
    lives_through(&SMALL);
}

#[test]
fn a_cortex_m0_lives_through_a_hostile_gateway() {
    lives_through(&ONE_UART);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_all_that_it_pairs_and_a_stranger_cannot_disturb_its_session() {
    let site = Site::new();
    let Some(mut unit) = Unit::start(&SMALL, site.folder(), &["--label", LABEL]) else { return };
    let mut dice = Dice(2);
    {
        let mut line = Line::open(&site.folder().join("line"));
        noise(&mut line, &mut dice);
        line.answers();
    }
    let mut daemon = site.daemon();
    site.subscribe().await;
    wait_for_sensor(&daemon);
    assert_eq!(pair_by_label(&daemon, &mut unit, LABEL), Some(0), "{}", daemon.log());
    site.until_arrived(1..=1, 1).await;
    unit.until_all_are_safe();
    daemon.kill();
    {
        let mut line = Line::open(&site.folder().join("line"));
        noise(&mut line, &mut dice);
        for size in 1..120 {
            let mut handshake = dice.bytes(size);
            handshake[0] = 0x21;
            line.send(&handshake);
        }
        line.send(&m1(1));
        assert!(line.answers().is_empty(), "a stranger got an answer from a paired unit");
    }
    unit.tell("read 3");
    daemon.resume();
    site.subscribe().await;
    unit.until_all_are_safe();
    assert_eq!(unit.count("ready"), 1);
    unit.stack_was_enough();
}
