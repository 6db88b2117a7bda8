//! The session with one paired sensor: handshake, records, readings into the spool, acknowledgements out.
//!
//! [`Session`] does no I/O on the link: messages go in by [`Session::handle`], come out by
//! [`Session::outbox`], and time passes by [`Session::deadline`] and [`Session::handle_timeout`]. Whoever
//! owns the link drives it.

mod cadence;
mod first;
mod intake;
mod keys;
mod pulse;

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use clawgate_protocol::Transport;
use clawgate_protocol::app::{Ack, Action, App, Command, Status};
use clawgate_protocol::discovery::matches;
use clawgate_protocol::message::Kind;
use clawgate_protocol::session::{Gateway as Noise, RECORD_OVERHEAD};

use crate::blocking::blocking;
use crate::clock::{self, Clock};
use crate::ids::{DeviceId, PairingId};
use crate::metrics::{self, Metrics};
use crate::pairing::code_book::{CodeError, Codes};
use crate::spool::Spool;
use crate::store::{Keyed, Store, StoreError};

pub(crate) use first::{Arrived, FirstReadings};
use intake::Intake;
use keys::Keys;
pub(crate) use keys::record;
use pulse::Pulse;

/// An unanswered Handshake1 is sent again after this time.
const RETRY: Duration = Duration::from_secs(1);

/// So often under one key, the first time included. With [`RETRY`] longer than a sensor holds a handshake
/// that a gateway before us began.
const TRIES: u8 = 4;

/// A sensor that did not say hello after this time missed our first record; it is sent again.
const HELLO_WITHIN: Duration = Duration::from_secs(1);

/// So often, before a new handshake.
const GREETINGS: u8 = 3;

/// What stands before a record's ciphertext: type, index, counter. The tag of 16 is behind it.
const RECORD_HEADER: usize = RECORD_OVERHEAD - 16;

/// What a session works with.
#[derive(Clone)]
pub(crate) struct SessionParts {
    pub(crate) store: Store,
    pub(crate) spool: Spool,
    pub(crate) metrics: Metrics,
    pub(crate) clock: Clock,
    pub(crate) firsts: FirstReadings,
    pub(crate) codes: Codes,
}

/// Why a session is over; the link may go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum SessionEnd {
    /// Neither key was answered.
    #[error("the sensor did not answer the handshake; it is looked for again")]
    NoAnswer,
    /// The sensor said goodbye.
    #[error("the sensor ended the session")]
    Bye,
    /// Our own state refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The code that the key was agreed with stands against it.
    #[error("the key that the sensor proved is not used: {0}")]
    Code(#[from] CodeError),
    /// A key in the store cannot be used.
    #[error("the keys of {0} cannot be used: pair it again")]
    Keys(DeviceId),
}

/// What the owner of the link learns of a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Happened {
    /// Nothing of interest.
    Nothing,
    /// The session is live from now on.
    Live,
    /// A pending key was proven, and is current now. The code that it was made with is used.
    Proven {
        /// The code, if it was one of ours.
        code: Option<String>,
    },
    /// The sensor answered a command.
    Reply {
        /// The id that [`Session::command`] gave.
        id: u32,
        /// Done or not.
        status: Status,
    },
}

/// The session with one sensor.
pub(crate) struct Session {
    device: DeviceId,
    transport: Transport,
    parts: SessionParts,
    keys: Keys,
    noise: Noise,
    handshake: Option<Handshake>,
    intake: Intake,
    hello_due: Option<Instant>,
    greetings: u8,
    pulse: Pulse,
    live_announced: bool,
    next_command: u32,
    outbox: Vec<Vec<u8>>,
    label: metrics::Device,
}

/// A handshake that is not answered yet.
struct Handshake {
    tries: u8,
    again: Instant,
}

impl Session {
    /// Starts a session with a device: the first message is in the outbox. `shown` is the pairing whose
    /// rotating id the sensor showed; its key is tried first.
    ///
    /// # Errors
    /// [`SessionEnd::Keys`].
    pub(crate) fn start(
        known: &Keyed,
        shown: Option<PairingId>,
        transport: Transport,
        parts: SessionParts,
    ) -> Result<Self, SessionEnd> {
        let device = known.device.id.clone();
        let keys = Keys::of(known, shown).ok_or_else(|| SessionEnd::Keys(device.clone()))?;
        let label = metrics::Device::of(&device);
        let intake = Intake::new(&label, &parts);
        let mut session = Self {
            device,
            transport,
            keys,
            noise: Noise::default(),
            handshake: None,
            intake,
            hello_due: None,
            greetings: 0,
            pulse: Pulse::new(Instant::now()),
            live_announced: false,
            next_command: 1,
            outbox: Vec::new(),
            label,
            parts,
        };
        session.shake_hands()?;
        Ok(session)
    }

    /// Whose session it is.
    pub(crate) fn device(&self) -> &DeviceId {
        &self.device
    }

    /// The pairing whose key it is under.
    pub(crate) fn pairing(&self) -> PairingId {
        PairingId(self.keys.first().pairing_id)
    }

    /// Messages to send, in order; each once.
    pub(crate) fn outbox(&mut self) -> impl Iterator<Item = Vec<u8>> + use<> {
        std::mem::take(&mut self.outbox).into_iter()
    }

    /// Begins a new handshake; a live session goes on until it is answered. For a sensor that restarted.
    ///
    /// # Errors
    /// [`SessionEnd::Keys`].
    pub(crate) fn renew(&mut self) -> Result<(), SessionEnd> {
        if self.handshake.is_some() { Ok(()) } else { self.shake_hands() }
    }

    /// Whether a rotating id was made under this session's key.
    pub(crate) fn is_shown_by(&self, rotating: [u8; 8]) -> bool {
        matches(&self.keys.first().advertising_key, &rotating)
    }

    /// Takes a message of the session: Handshake2 or a record. Others are not for it.
    ///
    /// # Errors
    /// Why the session is over.
    pub(crate) async fn handle(&mut self, message: Vec<u8>) -> Result<Happened, SessionEnd> {
        match Kind::of(&message) {
            Ok(Kind::Handshake2) => Ok(self.handshake2(&message)),
            Ok(Kind::Record) => self.record(message).await,
            _ => Ok(Happened::Nothing),
        }
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub(crate) fn deadline(&self) -> Instant {
        let times = [self.handshake.as_ref().map(|h| h.again), self.hello_due, self.intake.ack_due()];
        times.into_iter().flatten().fold(self.pulse.missed_at(), Instant::min)
    }

    /// Time has passed.
    ///
    /// # Errors
    /// Why the session is over.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Result<(), SessionEnd> {
        if self.handshake.as_ref().is_some_and(|handshake| now >= handshake.again) {
            self.retry(now)?;
        }
        if self.hello_due.is_some_and(|due| now >= due) {
            self.hello_due = None;
            if self.greetings < GREETINGS { self.greet() } else { self.renew()? }
        }
        if now >= self.pulse.missed_at() {
            self.pulse.look_after(now);
            self.renew()?;
        }
        if self.intake.ack_due().is_some_and(|due| now >= due) {
            self.acknowledge(now);
        }
        Ok(())
    }

    /// Ends when more readings became safe; then an acknowledgement is due at [`Self::deadline`].
    pub(crate) async fn progressed(&mut self) {
        self.intake.progressed().await;
    }

    /// Sends a command; its reply comes with the id that is returned. None while no session is live.
    pub(crate) fn command(&mut self, action: Action) -> Option<u32> {
        let id = self.next_command;
        self.next_command = self.next_command.wrapping_add(1);
        self.send(&App::Command(Command { id, action })).then_some(id)
    }

    /// Says goodbye, and before that what is safe by now: the sensor need not keep it until the next session.
    pub(crate) fn bye(&mut self) {
        self.acknowledge(Instant::now());
        self.send(&App::Bye);
    }

    fn shake_hands(&mut self) -> Result<(), SessionEnd> {
        let unusable = || SessionEnd::Keys(self.device.clone());
        let message = self.noise.connect(self.keys.first(), self.transport, &mut crate::pairing::OsRandom);
        self.outbox.push(message.map_err(|_| unusable())?.to_vec());
        self.handshake = Some(Handshake { tries: 1, again: Instant::now() + RETRY });
        Ok(())
    }

    fn retry(&mut self, now: Instant) -> Result<(), SessionEnd> {
        let Some(handshake) = &mut self.handshake else { return Ok(()) };
        if handshake.tries < TRIES {
            handshake.tries += 1;
            handshake.again = now + RETRY;
            self.outbox.extend(self.noise.handshake1().map(<[u8]>::to_vec));
            return Ok(());
        }
        self.parts.metrics.session.handshakes_failed.get_or_create(&metrics::Reason { reason: "no answer" }).inc();
        if self.keys.try_other() { self.shake_hands() } else { Err(SessionEnd::NoAnswer) }
    }

    fn handshake2(&mut self, message: &[u8]) -> Happened {
        let now_ms = self.parts.clock.boot_ms();
        if let Err(error) = self.noise.handle_handshake2(message, now_ms) {
            tracing::debug!(device = %self.device, error = %error, "a handshake answer was dropped");
            return Happened::Nothing;
        }
        self.handshake = None;
        self.parts.metrics.session.handshakes.inc();
        self.greetings = 0;
        self.greet();
        if std::mem::replace(&mut self.live_announced, true) { Happened::Nothing } else { Happened::Live }
    }

    async fn record(&mut self, mut message: Vec<u8>) -> Result<Happened, SessionEnd> {
        let (length, first, pairing) = match self.noise.open(&mut message) {
            Ok(opened) => (opened.plaintext.len(), opened.first, PairingId(opened.pairing_id)),
            Err(error) => {
                self.parts.metrics.session.bad_records.get_or_create(&self.label).inc();
                tracing::debug!(device = %self.device, error = %error, "a record was dropped");
                return Ok(Happened::Nothing);
            }
        };
        self.pulse.beat(Instant::now());
        let mut happened = Happened::Nothing;
        if first {
            happened = self.prove(pairing).await?;
            self.intake.serve(pairing);
        }
        // Opened in place: readings share this memory on their way.
        let plaintext = Bytes::from(message).slice(RECORD_HEADER..RECORD_HEADER + length);
        match App::decode(&plaintext) {
            Ok(App::Hello(hello)) => {
                self.hello_due = None;
                self.intake.hello(&hello).await;
                self.acknowledge(Instant::now());
            }
            Ok(App::Readings(readings)) => self.intake.readings(&readings, &plaintext),
            Ok(App::Gap(gap)) => self.intake.gap(gap),
            Ok(App::Reply(reply)) => happened = Happened::Reply { id: reply.id, status: reply.status },
            Ok(App::Bye) => return Err(SessionEnd::Bye),
            Ok(_) => {}
            Err(error) => {
                self.parts.metrics.session.bad_records.get_or_create(&self.label).inc();
                tracing::debug!(device = %self.device, error = %error, "a record could not be read");
            }
        }
        if self.noise.wants_rekey(self.parts.clock.boot_ms()) {
            self.renew()?;
        }
        Ok(happened)
    }

    /// The sensor's first record under a key: if the key was pending, it is current from now on.
    async fn prove(&mut self, pairing: PairingId) -> Result<Happened, SessionEnd> {
        let Some(proof) = self.keys.prove(pairing) else { return Ok(Happened::Nothing) };
        let (codes, device) = (self.parts.codes.clone(), self.device.clone());
        let code = proof.code.as_deref().and_then(|id| id.parse().ok());
        blocking(move || codes.proven(&device, pairing, code.as_ref())).await?;
        Ok(Happened::Proven { code: proof.code })
    }

    fn acknowledge(&mut self, now: Instant) {
        if let Some(ack) = self.intake.take_ack(now) {
            self.send(&App::Ack(ack));
        }
    }

    /// The sensor changes over to a new session at our first record, so one goes out at once.
    fn greet(&mut self) {
        self.greetings += 1;
        self.hello_due = Some(Instant::now() + HELLO_WITHIN);
        if !self.offer_time() {
            // Epoch 0 is nobody's: it tells the sensor nothing.
            self.send(&App::Ack(self.intake.position().unwrap_or(Ack { epoch: 0, safe: 0, next: 1 })));
        }
    }

    fn offer_time(&mut self) -> bool {
        if !clock::is_synchronised() {
            return false;
        }
        let unix_ms = u64::try_from(self.parts.clock.wall().as_millis()).unwrap_or(0);
        self.send(&App::Time { unix_ms })
    }

    fn send(&mut self, message: &App<'_>) -> bool {
        let mut plaintext = [0; 128];
        let mut record = vec![0; plaintext.len() + RECORD_OVERHEAD];
        let sealed = message
            .encode(&mut plaintext)
            .map_err(|error| error.to_string())
            .and_then(|length| self.noise.seal(&plaintext[..length], &mut record).map_err(|error| error.to_string()));
        match sealed {
            Ok(length) => {
                record.truncate(length);
                self.outbox.push(record);
                true
            }
            Err(error) => {
                tracing::debug!(device = %self.device, error, "a record was not sent");
                false
            }
        }
    }
}
