//! What somebody on the line heard is worth nothing later, and a stranger does not disturb a session.

use clawgate_protocol::app::{Action, App, Command, Reply, Status};
use clawgate_protocol::keys::Slots;
use clawgate_protocol::pairing::{Ceremony, Suite};
use clawgate_protocol::{Transport, session};

use crate::LABEL;
use crate::gateway::{Dice, gateway, run};
use crate::line::{HANDSHAKE2, Line, M2, RECORD, REFUSE};
use crate::unit::{Board, Unit};

pub(crate) fn is_worth_nothing(board: &'static Board) {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut unit) = Unit::start(board, folder.path(), &["--label", LABEL]) else { return };
    let mut line = Line::open(folder.path());
    let mut dice = Dice(3);
    unit.open_window();
    let (sent, got, record) = run(&mut line, gateway(Ceremony::Label, LABEL, &mut dice));
    unit.until("paired with gw-x", 1);
    let record = record.unwrap();
    assert_eq!((sent.len(), got.len()), (3, 3));
    assert_eq!(record.suite, board.suite);
    // In suite 2 with an encapsulation key of 1184 bytes.
    assert_eq!(sent[1].len() > 1184, board.suite == Suite::Two);

    // The whole run again, as it was heard: M2 has another share, so M3 proves nothing.
    unit.open_window();
    assert_eq!(line.ask(&sent[0])[0][0], M2);
    assert_eq!(line.ask(&sent[1]), [REFUSE]);
    assert!(line.ask(&sent[2]).is_empty());
    // Our own words back at it.
    for message in got.iter().chain(&sent) {
        line.ask(message);
    }
    assert_eq!(unit.count("paired with"), 1);

    // The window is closed from here on.
    unit.power_cycle();
    line.settle();
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
    assert_eq!((unit.count("session open"), unit.count("clock set"), unit.count("ready")), (1, 1, 2));

    // A stranger makes noise; the session goes on.
    for kind in 0..=u8::MAX {
        let len = 1 + usize::from(dice.bytes(1)[0]);
        let mut message = dice.bytes(len);
        message[0] = kind;
        line.send(&message);
    }
    for len in 1..120 {
        let mut handshake = dice.bytes(len);
        handshake[0] = 0x21;
        line.send(&handshake);
    }
    line.send(&sent[0]);
    let strange = line.answers();
    assert!(strange.iter().all(|answer| answer[0] == RECORD), "a stranger got an answer: {strange:x?}");
    let (mut plain, mut record) = ([0; 32], [0; 64]);
    let command = App::Command(Command { id: 7, action: Action::Identify { seconds: 3 } });
    let len = command.encode(&mut plain).unwrap();
    let len = gateway.seal(&plain[..len], &mut record).unwrap();
    let answers = line.ask(&record[..len]);
    let replied = answers.into_iter().any(|mut answer| {
        let opened = gateway.open(&mut answer).ok().map(|opened| opened.plaintext.to_vec());
        opened.is_some_and(|text| App::decode(&text) == Ok(App::Reply(Reply { id: 7, status: Status::Ok })))
    });
    assert!(replied, "the session is gone");
    unit.until("blink for 3 s", 1);
    assert_eq!((unit.count("session open"), unit.count("ready")), (1, 2));
    unit.stack_was_enough();
}
