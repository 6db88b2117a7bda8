//! The main loop: bytes from the line to the sensor and back, readings, the console.

use core::fmt;

use clawgate_protocol::fragment::{Header, Joiner};
use clawgate_protocol::frame::uart::{self, Decoder};
use clawgate_protocol::message::Kind;
use clawgate_protocol::pairing::{Profile, Suite};
use clawgate_protocol::senml::Record;
use clawgate_protocol::sensor::{self, Buffers, Event, Sensor, StartError, Storage, StorageFailed};
use clawgate_protocol::{Random, Transport};
use zeroize::Zeroizing;

use crate::console::{Command, Console, Typed};
use crate::factory::{FACTORY_LEN, Factory};
use crate::flash::{Found, Pages, TwoPages};
use crate::random::Generator;
use crate::status::{Status, Told, Work};

pub use clawgate_protocol::frame::uart::max_encoded_len;
pub use clawgate_protocol::sensor::STATE_LEN;

/// How many bytes of the line are looked at in one turn.
const BITE: usize = 32;
/// Events that wait: they are asked for after each turn.
const EVENTS: usize = 6;
/// What the unit measures.
const CAPABILITIES: &str = "temperature:Cel";
const FIRMWARE: &str = concat!("firmware-rust-", env!("CARGO_PKG_VERSION"));

/// What a board does for the unit. Nothing here waits, but for the console.
pub trait Board {
    /// Nanoseconds since the power came.
    fn now_ns(&mut self) -> u64;

    /// A byte that the line brought.
    fn read_line(&mut self) -> Option<u8>;

    /// Gives a byte to the line; false if there is no room yet.
    fn write_line(&mut self, byte: u8) -> bool;

    /// A byte that a person typed.
    fn read_console(&mut self) -> Option<u8>;

    /// Shows a byte to a person; waits for room.
    fn write_console(&mut self, byte: u8);

    /// Shows which unit this is, for so long.
    fn blink(&mut self, seconds: u16);

    /// The most bytes of stack that were in use since the power came.
    fn stack_peak(&self) -> usize;

    /// Sleeps until an interrupt: a byte, or the clock within a few milliseconds.
    fn rest(&mut self);
}

/// What the maker of the unit put into it.
#[derive(Debug)]
pub struct Made<'m> {
    /// Its factory page.
    pub factory: &'m [u8; FACTORY_LEN],
    /// What its true random source gave at the start; nothing if there is none.
    pub seed: &'m [u8],
    /// The highest suite it does.
    pub max_suite: Suite,
}

/// What lies below the sensor: its random generator and its flash.
struct Ground<P> {
    generator: Generator,
    store: TwoPages<P>,
}

impl<P> Random for Ground<P> {
    fn fill(&mut self, bytes: &mut [u8]) {
        self.generator.fill(bytes);
    }
}

impl<P: Pages> Storage for Ground<P> {
    fn save(&mut self, state: &[u8; STATE_LEN]) -> Result<(), StorageFailed> {
        self.store.save(state)
    }
}

/// Lines for a person.
struct Say<'b, B>(&'b mut B);

impl<B: Board> fmt::Write for Say<'_, B> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| self.0.write_console(byte));
        Ok(())
    }
}

fn say<B: Board>(board: &mut B, text: impl fmt::Display) {
    // The console takes everything: there is nobody to tell if it did not.
    let _ = fmt::write(&mut Say(board), format_args!("{text}\n"));
}

/// Runs the unit for ever. `MESSAGE` is the longest message it takes or sends, at least 256; `FRAME` is
/// [`max_encoded_len`] of that.
pub fn run<B: Board, P: Pages, const MESSAGE: usize, const FRAME: usize>(
    mut board: B,
    pages: P,
    made: &Made<'_>,
    buffers: Buffers<'_>,
) -> ! {
    const { assert!(MESSAGE >= clawgate_protocol::MIN_MESSAGE && FRAME == max_encoded_len(MESSAGE)) };
    // Used where it was made: a move would need its place twice.
    let mut started = start::<_, _, MESSAGE>(&mut board, pages, made, buffers);
    let sensor = match &mut started {
        Ok(sensor) => sensor,
        Err(StartError::Damaged) => refuse(&mut board, "the stored keys are of another version: update the firmware"),
        Err(_) => refuse(&mut board, "the keys could not be written to flash: the unit is defective"),
    };
    say(&mut board, "ready");
    let mut unit = Unit::<_, _, MESSAGE, FRAME> {
        board,
        sensor,
        console: Console::default(),
        decoder: Decoder::new(),
        joiner: Joiner::new(),
        message: [0; MESSAGE],
        frame: [0; FRAME],
        waiting: 0..0,
        every_ms: 0,
        next_reading_ms: 0,
        to_make: 0,
        made: 0,
        work: Work::default(),
    };
    loop {
        unit.turn();
    }
}

/// Finds out who the unit is and what it remembers; one that must not work stays in here.
#[inline(never)]
fn start<'a, B: Board, P: Pages, const MESSAGE: usize>(
    board: &mut B,
    pages: P,
    made: &Made<'_>,
    buffers: Buffers<'a>,
) -> Result<Sensor<'a, Ground<P>, EVENTS>, StartError> {
    let Some(factory) = Factory::parse(made.factory) else {
        refuse(board, "no id in the factory page: this unit was never programmed")
    };
    let Some(generator) = Generator::new(made.seed, made.factory) else {
        refuse(board, "no random source: pairing is refused")
    };
    let mut block = Zeroizing::new([0; STATE_LEN]);
    let Ok((store, found)) = TwoPages::open(pages, &mut block) else {
        refuse(board, "the flash does not answer: the unit is defective")
    };
    if found == Found::Damaged {
        wait_for_reset(board);
    }
    let options = sensor::Options {
        device: factory.device,
        name: "Rust firmware",
        profile: Profile { capabilities: CAPABILITIES, firmware: FIRMWARE, certificate: None },
        label: factory.label,
        max_suite: factory.max_suite.map_or(made.max_suite, |suite| suite.min(made.max_suite)),
        transport: Transport::Uart,
        max_message: u16::try_from(MESSAGE).unwrap_or(u16::MAX),
    };
    let stored = (found == Found::Block).then_some(block.as_slice());
    Sensor::new(options, stored, Ground { generator, store }, buffers, board.now_ns() / 1_000_000)
}

/// A unit that must not work says why, whenever it is asked.
fn refuse<B: Board>(board: &mut B, why: &str) -> ! {
    say(board, why);
    let mut console = Console::default();
    loop {
        match board.read_console().and_then(|byte| console.push(byte)) {
            Some(_) => say(board, why),
            None => board.rest(),
        }
    }
}

fn wait_for_reset<B: Board>(board: &mut B) {
    const WHY: &str = "the stored keys are damaged: reset the unit and pair it again";
    say(board, WHY);
    let mut console = Console::default();
    loop {
        match board.read_console().and_then(|byte| console.push(byte)) {
            Some(Typed::Command(Command::Reset)) => break,
            Some(_) => say(board, WHY),
            None => board.rest(),
        }
    }
    say(board, "reset: all keys erased");
}

struct Unit<'u, 'a, B, P, const MESSAGE: usize, const FRAME: usize> {
    board: B,
    sensor: &'u mut Sensor<'a, Ground<P>, EVENTS>,
    console: Console,
    decoder: Decoder<FRAME>,
    joiner: Joiner<MESSAGE>,
    /// A message on its way in or out.
    message: [u8; MESSAGE],
    /// A frame on its way out, and what of it the line did not take yet.
    frame: [u8; FRAME],
    waiting: core::ops::Range<usize>,
    every_ms: u32,
    next_reading_ms: u64,
    /// Readings that were asked for and not taken yet.
    to_make: u32,
    made: u32,
    work: Work,
}

impl<B: Board, P: Pages, const MESSAGE: usize, const FRAME: usize> Unit<'_, '_, B, P, MESSAGE, FRAME> {
    /// One turn: everything that is due.
    fn turn(&mut self) {
        let mut idle = !self.listen();
        let now_ms = self.now_ms();
        self.sensor.handle_timeout(now_ms);
        idle &= !self.take_readings();
        idle &= !self.speak();
        while let Some(event) = self.sensor.poll_event() {
            self.tell(&event);
        }
        if let Some(typed) = self.board.read_console().and_then(|byte| self.console.push(byte)) {
            self.obey(typed);
            idle = false;
        }
        if idle && self.waiting.is_empty() {
            self.board.rest();
        }
    }

    fn now_ms(&mut self) -> u64 {
        self.board.now_ns() / 1_000_000
    }

    /// Takes what the line brought; false if that was nothing.
    fn listen(&mut self) -> bool {
        let mut taken = [0; BITE];
        let mut len = 0;
        for room in &mut taken {
            let Some(byte) = self.board.read_line() else { break };
            *room = byte;
            len = usize::saturating_add(len, 1);
            // One frame a turn: it is answered before the next one is looked at.
            if byte == uart::DELIMITER {
                break;
            }
        }
        let mut input = taken.get(..len).unwrap_or_default();
        while let Some(frame) = self.decoder.decode(&mut input) {
            let Ok(frame) = frame else { continue };
            if frame.address != uart::ADDRESS {
                continue;
            }
            let Ok(Some(joined)) = self.joiner.join(frame.header, frame.payload) else { continue };
            let Some(message) = self.message.get_mut(..joined.len()) else { continue };
            message.copy_from_slice(joined);
            let began = self.board.now_ns();
            let kind = Kind::of(message);
            self.sensor.handle(message, began / 1_000_000);
            let spent = self.board.now_ns().saturating_sub(began);
            match kind {
                Ok(Kind::M1) => self.work.pairing_ns = spent,
                Ok(Kind::M3 | Kind::M5) => self.work.pairing_ns = self.work.pairing_ns.saturating_add(spent),
                Ok(Kind::Handshake1) => self.work.session_ns = spent,
                _ => (),
            }
        }
        len > 0
    }

    /// Takes the readings that are due, one a turn; false if none was.
    fn take_readings(&mut self) -> bool {
        let now_ms = self.now_ms();
        let by_clock = self.every_ms > 0 && now_ms >= self.next_reading_ms;
        if by_clock {
            self.next_reading_ms = now_ms.saturating_add(self.every_ms.into());
        } else if self.to_make > 0 && self.sensor.is_paired() {
            self.to_make = self.to_make.saturating_sub(1);
        } else {
            return false;
        }
        self.made = self.made.saturating_add(1);
        let began = self.board.now_ns();
        // A thermometer would be read here; a count shows which reading arrived.
        let pushed = self.sensor.push(&mut [Record::number("temperature", "Cel", self.made.into())], now_ms);
        self.work.reading_ns = self.board.now_ns().saturating_sub(began);
        match pushed {
            Ok(pushed) if pushed.dropped.is_some() => say(&mut self.board, "a reading was dropped: memory is full"),
            Ok(_) => (),
            Err(error) => say(&mut self.board, error),
        }
        true
    }

    /// Frames the next message once the line has the last one, and hands on bytes; false if there are none.
    fn speak(&mut self) -> bool {
        if self.waiting.is_empty() {
            let began = self.board.now_ns();
            let Some(len) = self.sensor.poll_transmit(&mut self.message, began / 1_000_000) else { return false };
            let message = self.message.get(..len).unwrap_or_default();
            let framed = uart::encode(uart::ADDRESS, Header::WHOLE, message, &mut self.frame);
            self.waiting = 0..framed.unwrap_or(0);
            let spent = self.board.now_ns().saturating_sub(began);
            match Kind::of(message) {
                Ok(Kind::M2 | Kind::M4 | Kind::M6) => {
                    self.work.pairing_ns = self.work.pairing_ns.saturating_add(spent);
                }
                Ok(Kind::Record) => self.work.reading_ns = self.work.reading_ns.saturating_add(spent),
                _ => (),
            }
        }
        while let Some(byte) = self.frame.get(self.waiting.start).filter(|_| !self.waiting.is_empty()) {
            if !self.board.write_line(*byte) {
                break;
            }
            self.waiting.start = self.waiting.start.saturating_add(1);
        }
        true
    }

    fn tell(&mut self, event: &Event) {
        match event {
            // One a record: too many for a person.
            Event::Safe { .. } => return,
            Event::Blink { seconds } => self.board.blink(*seconds),
            _ => (),
        }
        say(&mut self.board, Told(event));
    }

    fn obey(&mut self, typed: Typed) {
        let now_ms = self.now_ms();
        match typed {
            Typed::Command(Command::Button) => {
                if let Err(error) = self.sensor.open_label_window(now_ms) {
                    say(&mut self.board, error);
                }
            }
            Typed::Command(Command::Code(code)) => self.sensor.enter_code(code, now_ms),
            Typed::Command(Command::Reset) => match self.sensor.reset() {
                Ok(()) => say(&mut self.board, "reset: all keys erased"),
                Err(error) => say(&mut self.board, error),
            },
            Typed::Command(Command::Read(count)) => self.to_make = self.to_make.saturating_add(count),
            Typed::Command(Command::Every(ms)) => {
                self.every_ms = ms;
                self.next_reading_ms = now_ms;
            }
            Typed::Command(Command::Status) => {
                let status = Status {
                    paired: self.sensor.is_paired(),
                    connected: self.sensor.is_connected(),
                    window: self.sensor.window(now_ms).map(|(ceremony, _)| ceremony),
                    held: self.sensor.held(),
                    made: self.made,
                    epoch: self.sensor.epoch(),
                    clock_set: self.sensor.unix_ms(now_ms).is_some(),
                    label_attempts: self.sensor.label_attempts(),
                    stack: self.board.stack_peak(),
                    work: self.work,
                };
                say(&mut self.board, status);
            }
            Typed::BadCode => say(&mut self.board, "this is not a code: look at it again"),
            Typed::Unknown => say(&mut self.board, "use code CODE, button, reset, status, read N or every MS"),
        }
    }
}
