//! What a gateway could send that means no good: the image lives on in the memory it has, says nothing but Refuse, and
//! gives one guess a run.

use std::time::{Duration, Instant};

use clawgate_protocol::fragment::Header;
use clawgate_protocol::frame::uart;
use clawgate_protocol::pairing::{Ceremony, Gateway, GatewayStep, LabelBackoff};

use crate::gateway::{Dice, gateway, run};
use crate::line::{Line, M2, M4, REFUSE, framed};
use crate::unit::{Board, Unit};
use crate::{LABEL, SOON, WRONG};

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
    let m1 = gateway(Ceremony::Label, WRONG, dice).message().to_vec();
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

pub(crate) fn lives_through(board: &'static Board) {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut unit) = Unit::start(board, folder.path(), &["--label", LABEL]) else { return };
    let mut line = Line::open(folder.path());
    let mut dice = Dice(1);

    noise(&mut line, &mut dice);
    assert!(line.answers().is_empty(), "with the window closed it answers nothing");
    let m1 = gateway(Ceremony::Label, LABEL, &mut dice).message().to_vec();
    assert!(line.ask(&m1).is_empty(), "with the window closed it answers no M1");

    unit.open_window();
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

fn m3_to(gateway: &mut Gateway, m2: &[u8]) -> Vec<u8> {
    let mut step = gateway.handle(m2, 0);
    if matches!(step, GatewayStep::CountAttempt) {
        step = gateway.attempt_counted();
    }
    let GatewayStep::Send(m3) = step else { panic!("no M3") };
    m3.to_vec()
}

pub(crate) fn one_guess_a_run(board: &'static Board) {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut unit) = Unit::start(board, folder.path(), &["--label", LABEL]) else { return };
    let mut line = Line::open(folder.path());
    let mut dice = Dice(2);
    unit.open_window();

    // A wrong M3, then the right one on the same Ya: one guess, and the run is over.
    let mut right = gateway(Ceremony::Label, LABEL, &mut dice);
    let m2 = line.ask(right.message()).remove(0);
    assert_eq!(m2[0], M2);
    let m3 = m3_to(&mut right, &m2);
    let mut wrong = m3.clone();
    *wrong.last_mut().unwrap() ^= 1;
    let began = Instant::now();
    assert_eq!(line.ask(&wrong), [REFUSE]);
    assert!(line.ask(&m3).is_empty(), "a second M3 on one Ya was looked at");
    assert_eq!(unit.status()["label_attempts"], 1);
    assert_eq!(unit.count("paired with"), 0);

    // The next run has to wait, however often it is asked for; each refused one costs nothing.
    let m1 = gateway(Ceremony::Label, LABEL, &mut dice).message().to_vec();
    let mut backoff = LabelBackoff::restore(0, 0);
    backoff.count(0);
    let wait = Duration::from_millis(backoff.not_before_ms());
    // On a slow machine it is over before the unit is asked.
    assert!(line.ask(&m1) == [REFUSE] || began.elapsed() >= wait, "no wait after a wrong guess");
    for guess in 2..=7 {
        if guess > 2 {
            backoff.count(backoff.not_before_ms());
        }
        let got = loop {
            let (_, got, record) = run(&mut line, gateway(Ceremony::Label, WRONG, &mut dice));
            assert!(record.is_none() && began.elapsed() < 3 * SOON);
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
    line.settle();
    assert_eq!(unit.status()["label_attempts"], 7);
    assert!(line.ask(&m1).is_empty(), "the window came back by itself");
    unit.open_window();
    let (_, _, record) = run(&mut line, gateway(Ceremony::Label, LABEL, &mut dice));
    assert!(record.is_some());
    unit.until("paired with gw-x", 1);
}

/// A right M3 with another share, as the answer to a right M2: what is heard of it.
fn answer_to_share(line: &mut Line, dice: &mut Dice, share: impl FnOnce(&[u8]) -> [u8; 32]) -> Vec<Vec<u8>> {
    let mut gateway = gateway(Ceremony::Label, LABEL, dice);
    let m2 = line.ask(gateway.message()).remove(0);
    let mut m3 = m3_to(&mut gateway, &m2);
    // Type, map, key 1, the head of 32 bytes.
    m3[5..37].copy_from_slice(&share(&m2));
    line.ask(&m3)
}

pub(crate) fn no_oracle(board: &'static Board) {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut unit) = Unit::start(board, folder.path(), &["--label", LABEL]) else { return };
    let mut line = Line::open(folder.path());
    let mut dice = Dice(4);
    // Shares of low order would make K the same for every code; the sensor's own one would be its own tag come back.
    let mut one = [0; 32];
    one[0] = 1;
    let own = |m2: &[u8]| m2[m2.len() - 32..].try_into().unwrap();
    unit.open_window();
    assert_eq!(answer_to_share(&mut line, &mut dice, |_| [0; 32]), [REFUSE]);
    unit.open_window();
    assert_eq!(answer_to_share(&mut line, &mut dice, |_| one), [REFUSE]);
    unit.open_window();
    assert_eq!(answer_to_share(&mut line, &mut dice, own), [REFUSE]);

    // An entered code is worth three guesses, whatever their answers would have told.
    unit.tell(&format!("code {LABEL}"));
    unit.until("pairing window open for the entered code", 1);
    let closed = unit.count("pairing window closed");
    for _ in 0..3 {
        let (sent, got, record) = run(&mut line, gateway(Ceremony::Issued, WRONG, &mut dice));
        assert!(sent.len() == 2 && got.len() == 2 && record.is_none());
        assert_eq!((got[0][0], got[1][0]), (M2, M4), "{got:x?}");
        let mut m5 = [&[0x15, 0xa3, 1, 0x58, 32][..], &dice.bytes(32), &[2, 0x58, 54], &dice.bytes(54)].concat();
        m5.extend([&[3, 0x50][..], &dice.bytes(16)].concat());
        assert_eq!(line.ask(&m5), [REFUSE]);
        assert!(line.ask(&m5).is_empty(), "a second guess in the same run");
    }
    unit.until("pairing window closed", closed + 1);
    let m1 = gateway(Ceremony::Issued, LABEL, &mut dice).message().to_vec();
    assert!(line.ask(&m1).is_empty(), "the entered code is still good");
    assert_eq!((unit.count("paired with"), unit.count("ready")), (0, 1));
    assert_eq!(unit.status()["paired"], false);
}
