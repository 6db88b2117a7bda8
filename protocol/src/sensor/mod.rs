//! A whole sensor as one machine: discovery, pairing window, pairing, key slots, sessions, telemetry.
//!
//! Firmware and simulator give it messages ([`Sensor::handle`]), readings ([`Sensor::push`]), what people do
//! at it ([`Sensor::open_label_window`], [`Sensor::enter_code`], [`Sensor::reset`]) and the time; it gives
//! messages ([`Sensor::poll_transmit`]), events ([`Sensor::poll_event`]) and the time it wants to be called
//! at ([`Sensor::poll_timeout`]). Frames and fragments are the caller's, with [`crate::frame`] and
//! [`crate::fragment`].
//!
//! The loop of a firmware: handle what arrived, `handle_timeout`, then `poll_transmit` until it has nothing,
//! then `poll_event` until it has nothing, then sleep until a byte comes or `poll_timeout` is due.

mod error;
mod event;
mod queue;
mod shown;
mod state;
mod telemetry;
mod window;

use heapless::{Deque, Vec};

pub use error::{PushError, StartError, WindowError};
pub use event::{Event, Pushed};
pub use state::{STATE_LEN, Storage, StorageFailed};

use crate::app::{Action, App, Command, Hello, Reply, Status};
use crate::code::Code;
use crate::discovery;
use crate::id::Id;
use crate::message::{Kind, REFUSE};
use crate::pairing::{self, Ceremony, Profile, Suite};
use crate::senml::{self, Record};
use crate::session;
use crate::{Random, Transport};

use shown::Turns;
use state::{DamagedState, State};
use telemetry::Telemetry;
use window::Window;

/// The longest pack of one reading.
pub const MAX_PACK: usize = 1024;

/// The shortest time between two `Identify`, be it from outside of a session or as a command in one.
const IDENTIFY_EVERY_MS: u64 = 10_000;
/// The longest blink.
const MAX_BLINK_S: u16 = 60;
/// What the head of a `Readings` and of one reading in it take, at most.
const READINGS_HEAD: usize = 44;

/// What does not change while the sensor runs.
#[derive(Debug, Clone)]
pub struct Options<'a> {
    /// Its hardware id, unique for ever.
    pub device: Id,
    /// Its name for people, at most 32 bytes.
    pub name: &'a str,
    /// What it tells a gateway that knew the code.
    pub profile: Profile<'a>,
    /// The code on its label, random per unit, if it has one.
    pub label: Option<Code>,
    /// The highest suite it does.
    pub max_suite: Suite,
    /// The link it stands on.
    pub transport: Transport,
    /// The longest message it takes, at least [`crate::MIN_MESSAGE`].
    pub max_message: u16,
}

/// Memory for the machine.
#[derive(Debug)]
pub struct Buffers<'a> {
    /// Holds readings until they are safe. Its size is how long the sensor can be alone.
    pub readings: &'a mut [u8],
    /// A record before it is sealed. Its length bounds the records that are sent; at most
    /// [`crate::MAX_MESSAGE`] less [`session::RECORD_OVERHEAD`] of it are used.
    pub record: &'a mut [u8],
}

/// What the sensor owes the gateway, apart from readings.
#[derive(Debug, Default)]
struct Due {
    ident: bool,
    answer: Option<Answer>,
    handshake2: Option<Vec<u8, { session::HANDSHAKE2_LEN }>>,
    replies: Deque<Reply, 4>,
    /// Erase the keys once the replies are out.
    unpair: bool,
}

/// What a pairing message is answered with.
#[derive(Debug, Clone, Copy)]
enum Answer {
    /// The run's own message.
    Message,
    /// The uniform refusal.
    Refuse,
}

/// The sensor. `P` is its random source and its storage; `EVENTS` is how many events wait at most until they are
/// asked for: 6 are enough for who asks after each message.
pub struct Sensor<'a, P, const EVENTS: usize = 16> {
    options: Options<'a>,
    platform: P,
    state: State,
    window: Window,
    run: Option<pairing::Sensor<'a>>,
    session: session::Sensor,
    telemetry: Telemetry<'a>,
    record: &'a mut [u8],
    /// Wall time less uptime, once the gateway told the time.
    clock_offset_ms: Option<u64>,
    identify_after_ms: u64,
    show_pending: Turns,
    due: Due,
    events: Deque<Event, EVENTS>,
}

impl<'a, P: Random + Storage, const EVENTS: usize> Sensor<'a, P, EVENTS> {
    /// A sensor that just started. `stored` is the block that was saved last, or none at the very first start
    /// and after a factory reset; a new epoch begins. On a wire, a paired one has its Ident to send: a gateway that
    /// still takes a session for live learns that it is not.
    ///
    /// # Errors
    /// [`StartError::Damaged`]: never start empty over it, let a person reset the sensor.
    /// [`StartError::Storage`]: the first state could not be kept.
    pub fn new(
        options: Options<'a>,
        stored: Option<&[u8]>,
        mut platform: P,
        buffers: Buffers<'a>,
        now_ms: u64,
    ) -> Result<Self, StartError> {
        let state = if let Some(bytes) = stored {
            State::from_bytes(bytes).map_err(|DamagedState| StartError::Damaged)?
        } else {
            let state = State::fresh(&mut platform);
            platform.save(&state.to_bytes()).map_err(|StorageFailed| StartError::Storage)?;
            state
        };
        let epoch = new_epoch(&mut platform);
        let is_paired = state.slots.candidates().next().is_some();
        let due = Due { ident: is_paired && options.transport == Transport::Uart, ..Due::default() };
        let Buffers { readings, record } = buffers;
        let most = crate::MAX_MESSAGE.saturating_sub(session::RECORD_OVERHEAD).min(record.len());
        Ok(Self {
            window: Window::restore(state.attempts, now_ms),
            options,
            platform,
            state,
            run: None,
            session: session::Sensor::default(),
            telemetry: Telemetry::new(readings, epoch),
            record: record.get_mut(..most).unwrap_or_default(),
            clock_offset_ms: None,
            identify_after_ms: 0,
            show_pending: Turns::default(),
            due,
            events: Deque::new(),
        })
    }

    /// Takes one message from the link. What is not understood, or not meant for now, changes nothing.
    /// Records are opened in place.
    pub fn handle(&mut self, message: &mut [u8], now_ms: u64) {
        self.handle_timeout(now_ms);
        let Ok(kind) = Kind::of(message) else { return };
        match kind {
            Kind::Probe => self.due.ident |= discovery::decode_probe(message).is_ok(),
            Kind::Identify => {
                if let Ok(seconds) = discovery::decode_identify(message) {
                    let _ = self.blink(seconds, now_ms);
                }
            }
            Kind::M1 | Kind::M3 | Kind::M5 | Kind::Refuse => self.handle_pairing(kind, message, now_ms),
            Kind::Handshake1 => {
                let (slots, transport) = (&self.state.slots, self.options.transport);
                let answer = self.session.handle_handshake1(message, slots, transport, now_ms, &mut self.platform);
                if let Ok(handshake2) = answer {
                    self.due.handshake2 = Vec::from_slice(handshake2).ok();
                }
            }
            Kind::Record => self.handle_record(message, now_ms),
            // The gateway's own answers: an echo, or another sensor on the line.
            Kind::Ident | Kind::M2 | Kind::M4 | Kind::M6 | Kind::Handshake2 => (),
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now_ms: u64) {
        self.time_pairing(now_ms);
        self.telemetry.handle_timeout(now_ms);
    }

    /// When [`Self::handle_timeout`] wants to be called, at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        let run = self.run.as_ref().and_then(pairing::Sensor::poll_timeout);
        [run, self.window.closes_at(), self.telemetry.poll_timeout()].into_iter().flatten().min()
    }

    /// Writes the next message for the link into `out` and returns its length. `out` must have
    /// [`session::RECORD_OVERHEAD`] bytes more than [`Buffers::record`], and room for M4 (1,400 bytes with
    /// suite 2, 320 without).
    pub fn poll_transmit(&mut self, out: &mut [u8], now_ms: u64) -> Option<usize> {
        if core::mem::take(&mut self.due.ident) {
            return self.encode_ident(out, now_ms);
        }
        match self.due.answer.take() {
            Some(Answer::Refuse) => return copy(&REFUSE, out),
            Some(Answer::Message) => return copy(self.run.as_ref()?.message(), out),
            None => (),
        }
        if let Some(handshake2) = self.due.handshake2.take() {
            return copy(&handshake2, out);
        }
        self.transmit_record(out, now_ms)
    }

    /// The next event, until there is none.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Takes a reading: one pack of `records`, of which the first gets the capture time as its base time if
    /// the clock is set; otherwise the uptime goes with it.
    ///
    /// # Errors
    /// [`PushError`]: the reading was not taken.
    pub fn push(&mut self, records: &mut [Record<'_>], now_ms: u64) -> Result<Pushed, PushError> {
        let unix_ms = self.unix_ms(now_ms);
        if let Some(first) = records.first_mut() {
            first.base_time = unix_ms.map(senml::seconds);
        }
        // Encoded where records are made, so that no other memory is needed; between two calls nothing stands there.
        let most = self.record.len().saturating_sub(READINGS_HEAD).min(MAX_PACK);
        let room = self.record.get_mut(..most).unwrap_or_default();
        let len = senml::encode(records, room).map_err(|_| PushError::TooLarge)?;
        let pack = room.get(..len).ok_or(PushError::TooLarge)?;
        let uptime_ms = if unix_ms.is_some() { None } else { Some(now_ms) };
        let (seq, dropped) = self.telemetry.push(pack, uptime_ms).ok_or(PushError::TooLarge)?;
        Ok(Pushed { epoch: self.telemetry.epoch(), seq, dropped })
    }

    /// Milliseconds since 1970 UTC, once the gateway told the time.
    #[must_use]
    pub fn unix_ms(&self, now_ms: u64) -> Option<u64> {
        self.clock_offset_ms.map(|offset| offset.wrapping_add(now_ms))
    }

    /// The run of numbers since this start or the last reset.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.telemetry.epoch()
    }

    /// How many readings are held because they are not yet safe.
    #[must_use]
    pub const fn held(&self) -> usize {
        self.telemetry.held()
    }

    /// Whether it holds the keys of a pairing.
    #[must_use]
    pub fn is_paired(&self) -> bool {
        self.state.slots.candidates().next().is_some()
    }

    /// Whether a session is live.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.session.is_live()
    }

    /// The id of the pairing under which readings go: the current one, else the pending one.
    #[must_use]
    pub fn pairing_id(&self) -> Option<[u8; 8]> {
        let slots = &self.state.slots;
        slots.current().or(slots.pending()).map(|record| record.pairing_id)
    }

    /// The ceremony of the open pairing window, and how many seconds it stays open.
    #[must_use]
    pub fn window(&self, now_ms: u64) -> Option<(Ceremony, u16)> {
        self.window.shown(now_ms).map(|window| (window.ceremony, window.seconds_left))
    }

    /// The wrong guesses at the label's code that are counted, also over a power cut.
    #[must_use]
    pub const fn label_attempts(&self) -> u32 {
        self.state.attempts
    }

    /// Factory reset, a physical act: every key goes at once, and every held reading. A new epoch begins.
    ///
    /// # Errors
    /// [`StorageFailed`]: nothing was erased.
    pub fn reset(&mut self) -> Result<(), StorageFailed> {
        let fresh = State::fresh(&mut self.platform);
        self.platform.save(&fresh.to_bytes())?;
        self.state = fresh;
        self.window = Window::default();
        self.session.clear();
        self.telemetry.restart(new_epoch(&mut self.platform));
        self.run = None;
        self.due = Due::default();
        Ok(())
    }

    fn handle_record(&mut self, message: &mut [u8], now_ms: u64) {
        let Ok(opened) = self.session.open(message) else { return };
        let app = App::decode(opened.plaintext);
        let (first, pairing_id) = (opened.first, opened.pairing_id);
        // The plaintext borrows the message, not us: handled at the end, once the session is in order.
        if first {
            if self.state.slots.prove(&pairing_id) {
                match self.platform.save(&self.state.to_bytes()) {
                    Ok(()) => self.event(Event::KeyProven { pairing_id }),
                    Err(StorageFailed) => self.event(Event::StorageFailed),
                }
            }
            self.telemetry.open();
            self.event(Event::SessionOpened);
        }
        match app {
            Ok(App::Ack(ack)) => {
                if let Some(seq) = self.telemetry.handle_ack(ack, now_ms) {
                    self.event(Event::Safe { epoch: ack.epoch, seq });
                }
            }
            Ok(App::Time { unix_ms }) => {
                self.clock_offset_ms = Some(unix_ms.wrapping_sub(now_ms));
                self.event(Event::TimeSet);
            }
            Ok(App::Command(command)) => self.handle_command(command, now_ms),
            Ok(App::Bye) => {
                self.session.clear();
                self.telemetry.close();
                self.event(Event::SessionClosed);
            }
            _ => (),
        }
    }

    fn handle_command(&mut self, command: Command, now_ms: u64) {
        let status = match command.action {
            Action::Identify { seconds } if self.blink(seconds, now_ms) => Status::Ok,
            Action::Identify { .. } => Status::Busy,
            Action::OpenWindow { seconds } => match self.open_label(seconds, now_ms) {
                Ok(()) => Status::Ok,
                Err(WindowError::NoLabel) => Status::Refused,
            },
            Action::Unpair => {
                self.due.unpair = true;
                Status::Ok
            }
            Action::Unknown(_) => Status::Refused,
        };
        // A gateway that sends more commands than it takes replies for loses replies, no more.
        let _ = self.due.replies.push_back(Reply { id: command.id, status });
    }

    /// Blinks, unless the last time is too near; whether it does.
    fn blink(&mut self, seconds: u16, now_ms: u64) -> bool {
        if now_ms < self.identify_after_ms {
            return false;
        }
        self.identify_after_ms = now_ms.saturating_add(IDENTIFY_EVERY_MS);
        self.event(Event::Blink { seconds: seconds.min(MAX_BLINK_S) });
        true
    }

    fn transmit_record(&mut self, out: &mut [u8], now_ms: u64) -> Option<usize> {
        if !self.session.is_live() {
            return None;
        }
        let len = if let Some(reply) = self.due.replies.pop_front() {
            App::Reply(reply).encode(self.record).ok()?
        } else if core::mem::take(&mut self.due.unpair) {
            self.unpair();
            return None;
        } else {
            let (synced, firmware) = (self.clock_offset_ms.is_some(), self.options.profile.firmware);
            let hello = |epoch, lowest| Hello { epoch, lowest, uptime_ms: now_ms, synced, firmware };
            self.telemetry.poll(now_ms, self.record, hello).ok()??
        };
        self.session.seal(self.record.get(..len)?, out).ok()
    }

    fn unpair(&mut self) {
        match self.reset() {
            Ok(()) => self.event(Event::Unpaired),
            Err(StorageFailed) => self.event(Event::StorageFailed),
        }
    }

    fn event(&mut self, event: Event) {
        // Bounded: a caller that does not ask loses the newest, never the machine's state.
        let _ = self.events.push_back(event);
    }
}

fn new_epoch(random: &mut dyn Random) -> u64 {
    let mut bytes = [0; 8];
    random.fill(&mut bytes);
    // 0 names no epoch: it stands for "no readings yet" in the gateway's first acknowledgement.
    u64::from_be_bytes(bytes).max(1)
}

fn copy(message: &[u8], out: &mut [u8]) -> Option<usize> {
    out.get_mut(..message.len())?.copy_from_slice(message);
    Some(message.len()).filter(|len| *len > 0)
}
