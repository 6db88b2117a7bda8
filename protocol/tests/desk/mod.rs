//! A gateway for tests of a sensor: every machine of the gateway's end and the least that is needed around
//! them. What it keeps in memory it loses with [`Desk::restart`], but for keys and safe readings.

#![allow(dead_code, reason = "each test uses its own part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

use std::collections::VecDeque;

use clawgate_protocol::app::{Ack, Action, App, Command, Gap, Reply};
use clawgate_protocol::discovery::{self, Ident};
use clawgate_protocol::keys::Slots;
use clawgate_protocol::message::{Kind, REFUSE};
use clawgate_protocol::pairing::{Ceremony, Failure, Gateway, GatewayOptions, GatewayStep, Prs, Suite};
use clawgate_protocol::{Random, Transport, session};

/// A random source that repeats itself from its seed (xorshift64*).
#[derive(Debug, Clone)]
pub(crate) struct Seeded(pub(crate) u64);

impl Seeded {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

impl Random for Seeded {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            [*byte, ..] = self.next().to_be_bytes();
        }
    }
}

/// A reading as it arrived: epoch, number, pack, uptime.
pub(crate) type Received = (u64, u64, Vec<u8>, Option<u64>);

/// What an `Ident` showed: paired, id, rotating id, window.
pub(crate) type Seen = (bool, Option<String>, Option<[u8; 8]>, Option<discovery::Window>);

pub(crate) struct Desk {
    random: Seeded,
    pub(crate) slots: Slots,
    run: Option<Gateway>,
    session: session::Gateway,
    /// When a Handshake1 without an answer is sent again.
    connect_at_ms: Option<u64>,
    connect_next: bool,
    pub(crate) out: VecDeque<Vec<u8>>,
    pub(crate) ident: Option<Seen>,
    pub(crate) failure: Option<Failure>,
    pub(crate) refused: u32,
    pub(crate) received: Vec<Received>,
    pub(crate) gaps: Vec<Gap>,
    pub(crate) replies: Vec<Reply>,
    pub(crate) hellos: u32,
    /// Everything that arrived counts as safe at once.
    pub(crate) safe_at_once: bool,
    epoch: u64,
    safe: u64,
    next: u64,
    /// What to tell a sensor as the time, if anything.
    pub(crate) unix_ms: Option<u64>,
}

impl Desk {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            random: Seeded(seed | 1),
            slots: Slots::default(),
            run: None,
            session: session::Gateway::default(),
            connect_at_ms: None,
            connect_next: false,
            out: VecDeque::new(),
            ident: None,
            failure: None,
            refused: 0,
            received: Vec::new(),
            gaps: Vec::new(),
            replies: Vec::new(),
            hellos: 0,
            safe_at_once: true,
            epoch: 0,
            safe: 0,
            next: 1,
            unix_ms: None,
        }
    }

    /// Kill -9: keys and safe readings stay.
    pub(crate) fn restart(&mut self) {
        self.run = None;
        self.session = session::Gateway::default();
        self.out.clear();
        let safe = self.safe;
        let epoch = self.epoch;
        self.received.retain(|(of, seq, ..)| *of != epoch || *seq <= safe);
        self.gaps.retain(|gap| gap.epoch != epoch || gap.to <= safe);
        self.next = safe + 1;
    }

    pub(crate) fn probe(&mut self) {
        let mut out = [0; 16];
        let len = discovery::encode_probe(1, &mut out).unwrap();
        self.out.push_back(out[..len].to_vec());
    }

    pub(crate) fn pair(&mut self, ceremony: Ceremony, prs: Prs, suite: Suite, now_ms: u64) {
        let options = GatewayOptions {
            gateway: "shed".parse().unwrap(),
            device: None,
            ceremony,
            transport: Transport::Uart,
            max_suite: suite,
            min_suite: Suite::One,
            config: b"every=10s",
        };
        let run = Gateway::start(&options, &prs, &[0x11; 32], now_ms, &mut self.random).unwrap();
        self.out.push_back(run.message().to_vec());
        self.failure = None;
        self.run = Some(run);
    }

    pub(crate) fn connect(&mut self, now_ms: u64) {
        // With two keys it cannot know which one the sensor has: it tries them in turn.
        let keys: Vec<_> = self.slots.candidates().cloned().collect();
        let Some(record) = keys.get(usize::from(self.connect_next) % keys.len().max(1)) else { return };
        self.connect_next = !self.connect_next;
        let handshake1 = self.session.connect(record, Transport::Uart, &mut self.random).unwrap();
        self.out.push_back(handshake1.to_vec());
        self.connect_at_ms = Some(now_ms + 2_100);
    }

    pub(crate) fn command(&mut self, id: u32, action: Action) {
        self.seal(&App::Command(Command { id, action }));
    }

    pub(crate) fn bye(&mut self) {
        self.seal(&App::Bye);
    }

    /// Marks everything that arrived as safe.
    pub(crate) fn make_safe(&mut self) {
        self.safe = self.next - 1;
        self.ack();
    }

    pub(crate) fn poll_timeout(&self) -> Option<u64> {
        let run = self.run.as_ref().and_then(Gateway::poll_timeout);
        run.into_iter().chain(self.connect_at_ms).min()
    }

    pub(crate) fn handle_timeout(&mut self, now_ms: u64) {
        if let Some(mut run) = self.run.take() {
            if run.poll_timeout().is_some_and(|at| now_ms >= at) {
                let step = run.handle_timeout(now_ms);
                let step = self.take(&step);
                self.follow(&mut run, step);
            }
            self.run = Some(run);
        }
        if self.connect_at_ms.is_some_and(|at| now_ms >= at) {
            self.connect(now_ms);
        }
    }

    pub(crate) fn handle(&mut self, message: &[u8], now_ms: u64) {
        match Kind::of(message).expect("a sensor sends messages") {
            Kind::Ident => {
                let ident = Ident::decode(message).unwrap();
                let id = ident.id.map(|id| id.as_str().to_owned());
                self.ident = Some((ident.paired, id, ident.rotating, ident.window));
            }
            Kind::M2 | Kind::M4 | Kind::M6 | Kind::Refuse => {
                self.refused += u32::from(message == REFUSE);
                if let Some(mut run) = self.run.take() {
                    let step = run.handle(message, now_ms);
                    let step = self.take(&step);
                    self.follow(&mut run, step);
                    self.run = Some(run);
                }
            }
            Kind::Handshake2 => {
                if self.session.handle_handshake2(message, now_ms).is_ok() {
                    self.connect_at_ms = None;
                    match self.unix_ms {
                        Some(unix_ms) => self.seal(&App::Time { unix_ms }),
                        // Something must be the first record; an epoch of 0 acknowledges nothing.
                        None => self.seal(&App::Ack(Ack { epoch: 0, safe: 0, next: 1 })),
                    }
                }
            }
            Kind::Record => self.handle_record(message),
            other => panic!("a sensor sent {other:?}"),
        }
    }

    /// Does what a step asks for at once; true if the machine must be told that it is done, and which.
    fn take(&mut self, step: &GatewayStep<'_>) -> Option<bool> {
        match step {
            GatewayStep::Send(message) => self.out.push_back(message.to_vec()),
            GatewayStep::CountAttempt => return Some(true),
            GatewayStep::StorePending { record, .. } => {
                self.slots.store_pending((*record).clone());
                return Some(false);
            }
            GatewayStep::Paired(record) => assert!(self.slots.prove(&record.pairing_id)),
            GatewayStep::Failed { failure, refuse } => {
                self.failure = Some(*failure);
                if *refuse {
                    self.out.push_back(REFUSE.to_vec());
                }
            }
            _ => (),
        }
        None
    }

    fn follow(&mut self, run: &mut Gateway, mut counted: Option<bool>) {
        while let Some(attempt) = counted {
            let step = if attempt { run.attempt_counted() } else { run.pending_stored() };
            counted = self.take(&step);
        }
    }

    fn handle_record(&mut self, message: &[u8]) {
        let mut message = message.to_vec();
        let Ok(opened) = self.session.open(&mut message) else { return };
        if opened.first {
            let _ = self.slots.prove(&opened.pairing_id);
        }
        match App::decode(opened.plaintext).unwrap() {
            App::Hello(hello) => {
                self.hellos += 1;
                if hello.epoch != self.epoch {
                    (self.epoch, self.safe, self.next) = (hello.epoch, hello.lowest - 1, hello.lowest);
                }
                self.ack();
            }
            App::Readings(readings) => {
                for reading in readings.iter() {
                    if readings.epoch == self.epoch && reading.seq == self.next {
                        self.received.push((readings.epoch, reading.seq, reading.pack.to_vec(), reading.uptime_ms));
                        self.next += 1;
                    }
                }
                self.progress();
            }
            App::Gap(gap) => {
                if gap.epoch == self.epoch && gap.from <= self.next && self.next <= gap.to {
                    self.gaps.push(Gap { from: self.next, ..gap });
                    self.next = gap.to + 1;
                }
                self.progress();
            }
            App::Reply(reply) => self.replies.push(reply),
            other => panic!("a sensor sent {other:?}"),
        }
    }

    fn progress(&mut self) {
        if self.safe_at_once {
            self.safe = self.next - 1;
        }
        self.ack();
    }

    fn ack(&mut self) {
        self.seal(&App::Ack(Ack { epoch: self.epoch, safe: self.safe, next: self.next }));
    }

    /// Says anything in the session.
    pub(crate) fn seal(&mut self, app: &App<'_>) {
        let (mut plain, mut out) = ([0; 256], [0; 300]);
        let len = app.encode(&mut plain).unwrap();
        if let Ok(len) = self.session.seal(&plain[..len], &mut out) {
            self.out.push_back(out[..len].to_vec());
        }
    }
}
