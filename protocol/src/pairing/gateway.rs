//! The gateway's side of a pairing run.

use core::fmt;

use heapless::Vec;
use sha2::{Digest, Sha512};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::part::{Buffer, Part, fill, hash_without};
use super::schedule::{Channel, Confirm, MessageKeys, RootKeys, Statics};
use super::{Ceremony, Failure, Profile, Prs, RETRANSMIT_MS, RUN_LIMIT_MS, Suite};
use crate::cpace::{self, Share};
use crate::id::Id;
use crate::kdf::{Hash, Transcript, tag};
use crate::keys::{PairingRecord, Role};
use crate::message::Kind;
use crate::message::pairing::{GatewayPart, M1, M2, M3, M4, M5, M6, SensorPart};
use crate::{MIN_MESSAGE, PROTOCOL_VERSION, Random, Transport, dh, kem};

/// The longest config in bytes.
pub(super) const CONFIG_MAX: usize = 64;

/// What a run is started with.
#[derive(Debug, Clone, Copy)]
pub struct GatewayOptions<'a> {
    /// Our id.
    pub gateway: Id,
    /// The device that was picked; another that answers ends the run and burns nothing.
    pub device: Option<Id>,
    /// Whose code it is.
    pub ceremony: Ceremony,
    /// The kind of link the run goes over.
    pub transport: Transport,
    /// The highest suite to offer.
    pub max_suite: Suite,
    /// The lowest suite policy allows.
    pub min_suite: Suite,
    /// Opaque settings for the sensor, applied after M5's MAC held; at most 64 bytes.
    pub config: &'a [u8],
}

/// What the caller does next.
#[derive(Debug)]
#[non_exhaustive]
pub enum GatewayStep<'a> {
    /// Nothing until the next message or the time of [`Gateway::poll_timeout`].
    Wait,
    /// Put this message on the link.
    Send(&'a [u8]),
    /// Count one attempt at the code, then call [`Gateway::attempt_counted`]. Issued: on disk, before the
    /// sensor's tag is verified. Label: in memory ([`EnteredCode`](super::EnteredCode)), before our own tag
    /// goes out.
    CountAttempt,
    /// The sensor knew the code. Persist the record in the pending slot, then call [`Gateway::pending_stored`].
    StorePending {
        /// Our half of the pairing.
        record: &'a PairingRecord,
        /// What the sensor says of itself.
        profile: Profile<'a>,
    },
    /// The sensor confirmed: make the pending record the current one.
    Paired(&'a PairingRecord),
    /// The run is over without M6. If the pending record was stored it stays: the first valid record of a
    /// session under it proves it.
    Failed {
        /// Why, for our own log.
        failure: Failure,
        /// Whether to tell the peer with a `Refuse`.
        refuse: bool,
    },
}

/// What a handler decided, before the caller's view of it is borrowed.
enum Next {
    Wait,
    Send,
    Count,
    Store,
    Paired,
}

/// Where the run stands.
#[expect(clippy::large_enum_variant, reason = "there is no allocator to box with, and one of it a run")]
enum State {
    AwaitM2 {
        share_secret: Zeroizing<[u8; 32]>,
        kem_seed: Zeroizing<[u8; 64]>,
    },
    /// Label: M3 is ready, our tag in it not yet counted.
    CountBeforeM3(Secrets),
    AwaitM4(Secrets),
    /// Issued: M4 is in the inbox, not yet looked at.
    CountBeforeTag(Secrets),
    /// The record is with the caller.
    Storing {
        confirm: Confirm,
        keys: MessageKeys,
        root: RootKeys,
    },
    AwaitM6 {
        mac_key: Zeroizing<Hash>,
    },
    Over,
}

/// What the run knows between M3 and M4.
struct Secrets {
    confirm: Confirm,
    suite: Suite,
    device: Id,
    kem_seed: Zeroizing<[u8; 64]>,
}

/// One run, from M1 to M6.
pub struct Gateway {
    id: Id,
    picked: Option<Id>,
    ceremony: Ceremony,
    transport: Transport,
    suites: [Suite; 2],
    config: Vec<u8, CONFIG_MAX>,
    prs: Zeroizing<Prs>,
    own_static: Zeroizing<[u8; 32]>,
    nonce: [u8; 16],
    started_ms: u64,
    now_ms: u64,
    send_again_ms: u64,
    transcript: Transcript,
    m1_hash: Hash,
    /// The peer's messages this run took: the same ones may come again.
    taken_m2: Option<Hash>,
    taken_m4: Option<Hash>,
    outbox: Buffer,
    inbox: Buffer,
    part: Part,
    peer_max_message: usize,
    record: Option<PairingRecord>,
    state: State,
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway").field("ceremony", &self.ceremony).finish_non_exhaustive()
    }
}

impl Gateway {
    /// Starts a run. Send [`Self::message`] first. All randomness is drawn here.
    ///
    /// # Errors
    /// [`Failure::Unencodable`] if `config` is longer than 64 bytes, [`Failure::Suite`] if policy leaves no
    /// suite that this build has.
    pub fn start(
        options: &GatewayOptions<'_>,
        prs: &Prs,
        own_static: &[u8; 32],
        now_ms: u64,
        random: &mut dyn Random,
    ) -> Result<Self, Failure> {
        let best = options.max_suite.min(Suite::BEST);
        let offered = Suite::range(options.min_suite, best);
        if offered.is_empty() {
            return Err(Failure::Suite);
        }
        let (mut share_secret, mut kem_seed) = (Zeroizing::new([0; 32]), Zeroizing::new([0; 64]));
        let mut nonce = [0; 16];
        random.fill(&mut nonce);
        random.fill(&mut *share_secret);
        random.fill(&mut *kem_seed);

        let mut outbox = Buffer::new();
        let m1 = M1 {
            version: PROTOCOL_VERSION,
            suites: offered,
            gateway: options.gateway,
            ceremony: options.ceremony,
            nonce,
        };
        fill(&mut outbox, |out| m1.encode(out))?;
        let mut transcript = Transcript::default();
        transcript.push(&outbox);
        Ok(Self {
            id: options.gateway,
            picked: options.device,
            ceremony: options.ceremony,
            transport: options.transport,
            suites: [options.min_suite, best],
            config: Vec::from_slice(options.config).map_err(|_| Failure::Unencodable)?,
            prs: Zeroizing::new(*prs),
            own_static: Zeroizing::new(*own_static),
            nonce,
            started_ms: now_ms,
            now_ms,
            send_again_ms: now_ms.saturating_add(RETRANSMIT_MS),
            transcript,
            m1_hash: Sha512::digest(&outbox).into(),
            taken_m2: None,
            taken_m4: None,
            outbox,
            inbox: Buffer::new(),
            part: Part::default(),
            peer_max_message: MIN_MESSAGE,
            record: None,
            state: State::AwaitM2 { share_secret, kem_seed },
        })
    }

    /// The message last sent: M1 at the start. Empty while an attempt waits to be counted.
    #[must_use]
    pub fn message(&self) -> &[u8] {
        if matches!(self.state, State::CountBeforeM3(_)) { &[] } else { &self.outbox }
    }

    /// Takes a message: M2, M4, M6 or a refusal. Others are not for a gateway in a run and change nothing.
    pub fn handle(&mut self, message: &[u8], now_ms: u64) -> GatewayStep<'_> {
        self.now_ms = now_ms;
        if matches!(self.state, State::Over) {
            return GatewayStep::Wait;
        }
        let next = if now_ms >= self.deadline_ms() {
            Err(Failure::TimedOut)
        } else {
            match Kind::of(message) {
                Ok(Kind::M2) => self.handle_m2(message),
                Ok(Kind::M4) => self.handle_m4(message),
                Ok(Kind::M6) => self.handle_m6(message),
                Ok(Kind::Refuse) => Err(Failure::Refused),
                _ => Ok(Next::Wait),
            }
        };
        self.step(&next)
    }

    /// The attempt is counted: go on.
    pub fn attempt_counted(&mut self) -> GatewayStep<'_> {
        let next = match core::mem::replace(&mut self.state, State::Over) {
            State::CountBeforeM3(secrets) => {
                self.state = State::AwaitM4(secrets);
                Ok(Next::Send)
            }
            State::CountBeforeTag(secrets) => self.verify_m4(&secrets),
            other => {
                self.state = other;
                Ok(Next::Wait)
            }
        };
        self.step(&next)
    }

    /// The pending record is on disk: go on with M5.
    pub fn pending_stored(&mut self) -> GatewayStep<'_> {
        let next = match core::mem::replace(&mut self.state, State::Over) {
            State::Storing { confirm, keys, root } => self.make_m5(&confirm, &keys, &root),
            other => {
                self.state = other;
                Ok(Next::Wait)
            }
        };
        self.step(&next)
    }

    /// When [`Self::handle_timeout`] wants to be called; none once the run is over.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        match self.state {
            State::Over => None,
            _ if self.awaits_peer() => Some(self.send_again_ms.min(self.deadline_ms())),
            _ => Some(self.deadline_ms()),
        }
    }

    /// Time has passed: sends again or ends the run.
    pub fn handle_timeout(&mut self, now_ms: u64) -> GatewayStep<'_> {
        self.now_ms = now_ms;
        let next = match self.state {
            State::Over => Ok(Next::Wait),
            _ if now_ms >= self.deadline_ms() => Err(Failure::TimedOut),
            _ if self.awaits_peer() && now_ms >= self.send_again_ms => Ok(Next::Send),
            _ => Ok(Next::Wait),
        };
        self.step(&next)
    }

    const fn awaits_peer(&self) -> bool {
        matches!(self.state, State::AwaitM2 { .. } | State::AwaitM4(_) | State::AwaitM6 { .. })
    }

    const fn deadline_ms(&self) -> u64 {
        self.started_ms.saturating_add(RUN_LIMIT_MS)
    }

    fn step(&mut self, next: &Result<Next, Failure>) -> GatewayStep<'_> {
        match *next {
            Ok(Next::Wait) => GatewayStep::Wait,
            Ok(Next::Send) => {
                self.send_again_ms = self.now_ms.saturating_add(RETRANSMIT_MS);
                GatewayStep::Send(&self.outbox)
            }
            Ok(Next::Count) => GatewayStep::CountAttempt,
            Ok(Next::Store) => match (&self.record, SensorPart::decode(self.part.text())) {
                (Some(record), Ok(part)) => GatewayStep::StorePending { record, profile: part.profile() },
                _ => GatewayStep::Wait,
            },
            Ok(Next::Paired) => self.record.as_ref().map_or(GatewayStep::Wait, GatewayStep::Paired),
            Err(failure) => {
                self.state = State::Over;
                GatewayStep::Failed { failure, refuse: failure.is_told() }
            }
        }
    }

    fn handle_m2(&mut self, message: &[u8]) -> Result<Next, Failure> {
        let hash: Hash = Sha512::digest(message).into();
        if let Some(taken) = self.taken_m2 {
            return if taken == hash { Ok(Next::Wait) } else { Err(Failure::SecondMessage) };
        }
        let m2 = M2::decode(message).map_err(|_| Failure::Malformed)?;
        let State::AwaitM2 { share_secret, kem_seed } = core::mem::replace(&mut self.state, State::Over) else {
            return Err(Failure::SecondMessage);
        };
        self.taken_m2 = Some(hash);
        let suite = self.check_choice(&m2)?;
        self.peer_max_message = usize::from(m2.max_message);

        let channel = Channel {
            ceremony: self.ceremony,
            transport: self.transport,
            device: &m2.device,
            gateway: &self.id,
            m1_hash: &self.m1_hash,
            sid: [&self.nonce, &m2.nonce],
        };
        let generator = channel.generator(*self.prs);
        let share = cpace::share(&share_secret, &generator).map_err(|_| Failure::WeakPoint)?;
        let point = cpace::shared_point(&share_secret, &m2.share).map_err(|_| Failure::WeakPoint)?;
        let ek = match suite {
            Suite::One => None,
            Suite::Two => Some(kem::encapsulation_key(&kem_seed).ok_or(Failure::Suite)?),
        };
        let untagged = M3 { share, ek: ek.as_ref().map(<[u8; _]>::as_slice), tag: None };
        fill(&mut self.outbox, |out| untagged.encode(out))?;
        let isk = cpace::session_key(
            &channel.sid,
            &point,
            Share { point: &m2.share, ad: message },
            Share { point: &share, ad: &self.outbox },
        );
        self.transcript.push(message);
        let confirm = Confirm::new(&isk, &self.transcript.with(&self.outbox));
        let secrets = Secrets { confirm, suite, device: m2.device, kem_seed };
        if self.ceremony == Ceremony::Label {
            let tagged = M3 { tag: Some(secrets.confirm.gateway_tag), ..untagged };
            fill(&mut self.outbox, |out| tagged.encode(out))?;
        }
        self.check_fits()?;
        self.transcript.push(&self.outbox);
        Ok(if self.ceremony == Ceremony::Label {
            self.state = State::CountBeforeM3(secrets);
            Next::Count
        } else {
            self.state = State::AwaitM4(secrets);
            Next::Send
        })
    }

    fn check_choice(&self, m2: &M2) -> Result<Suite, Failure> {
        if m2.version != PROTOCOL_VERSION {
            return Err(Failure::Version);
        }
        let [lowest, best] = self.suites;
        let suite = Suite::from_number(m2.suite).ok_or(Failure::Suite)?;
        if suite < lowest || suite > best {
            return Err(Failure::Suite);
        }
        if self.picked.is_some_and(|picked| picked != m2.device) {
            return Err(Failure::WrongDevice);
        }
        if usize::from(m2.max_message) < MIN_MESSAGE {
            return Err(Failure::Malformed);
        }
        Ok(suite)
    }

    /// Whether the sensor can take what is in the outbox.
    fn check_fits(&self) -> Result<(), Failure> {
        if self.outbox.len() > self.peer_max_message { Err(Failure::PeerTooSmall) } else { Ok(()) }
    }

    fn handle_m4(&mut self, message: &[u8]) -> Result<Next, Failure> {
        let hash: Hash = Sha512::digest(message).into();
        if let Some(taken) = self.taken_m4 {
            return if taken == hash { Ok(Next::Wait) } else { Err(Failure::SecondMessage) };
        }
        let State::AwaitM4(secrets) = core::mem::replace(&mut self.state, State::Over) else {
            return Err(Failure::Malformed);
        };
        // Read before anything is counted: a malformed message burns nothing.
        let m4 = M4::decode(message).map_err(|_| Failure::Malformed)?;
        if m4.ct.is_some() != (secrets.suite == Suite::Two) {
            return Err(Failure::Malformed);
        }
        self.taken_m4 = Some(hash);
        self.inbox = Buffer::from_slice(message).map_err(|_| Failure::Malformed)?;
        if self.ceremony == Ceremony::Issued {
            self.state = State::CountBeforeTag(secrets);
            return Ok(Next::Count);
        }
        self.verify_m4(&secrets)
    }

    fn verify_m4(&mut self, secrets: &Secrets) -> Result<Next, Failure> {
        let m4 = M4::decode(&self.inbox).map_err(|_| Failure::Malformed)?;
        if !bool::from(m4.tag.ct_eq(&secrets.confirm.sensor_tag)) {
            return Err(Failure::WrongCode);
        }
        let kem_secret = match m4.ct {
            None => None,
            Some(ct) => Some(kem::decapsulate(&secrets.kem_seed, ct).ok_or(Failure::Malformed)?),
        };
        let kem_secret = kem_secret.as_ref().map_or(&[][..], |secret| secret.as_slice());
        let keys = secrets.confirm.message_keys(kem_secret);
        self.part = Part::received(m4.sealed)?;
        self.part.open(&keys.m4, &hash_without(&self.transcript, &self.inbox, M4::clear)?)?;
        let sensor_static = SensorPart::decode(self.part.text()).map_err(|_| Failure::Malformed)?.static_key;

        let own_public = dh::public(&self.own_static);
        if bool::from(own_public.ct_eq(&sensor_static)) {
            return Err(Failure::OwnKey);
        }
        let shared = dh::shared(&self.own_static, &sensor_static).map_err(|_| Failure::WeakPoint)?;
        self.transcript.push(&self.inbox);
        let statics = Statics { sensor: &sensor_static, gateway: &own_public, shared: &shared };
        let root = secrets.confirm.root(kem_secret, &statics, &self.transcript.hash());
        self.record = Some(PairingRecord {
            role: Role::Gateway,
            suite: secrets.suite,
            ceremony: self.ceremony,
            device: secrets.device,
            gateway: self.id,
            pairing_id: root.pairing_id,
            key_id: root.key_id,
            own_static: *self.own_static,
            peer_static: sensor_static,
            psk: root.psk,
            key_id_key: root.key_id_key,
            advertising_key: root.advertising_key,
        });
        self.state = State::Storing { confirm: secrets.confirm.clone(), keys, root };
        Ok(Next::Store)
    }

    fn make_m5(&mut self, confirm: &Confirm, keys: &MessageKeys, root: &RootKeys) -> Result<Next, Failure> {
        let own = GatewayPart { static_key: dh::public(&self.own_static), config: &self.config };
        let mut part = Part::new(|out| own.encode(out))?;
        let tag_b = (self.ceremony == Ceremony::Issued).then_some(confirm.gateway_tag);
        // Encoded with what is not yet known, to hash what already is; then again with the rest.
        fill(&mut self.outbox, |out| M5 { tag: tag_b, sealed: &[], mac: [0; 16] }.encode(out))?;
        part.seal(&keys.m5, &hash_without(&self.transcript, &self.outbox, M5::clear)?)?;
        fill(&mut self.outbox, |out| M5 { tag: tag_b, sealed: part.as_bytes(), mac: [0; 16] }.encode(out))?;
        let mac = tag(&root.m5_mac, &[&hash_without(&self.transcript, &self.outbox, M5::without_mac)?]);
        fill(&mut self.outbox, |out| M5 { tag: tag_b, sealed: part.as_bytes(), mac }.encode(out))?;
        self.check_fits()?;
        self.transcript.push(&self.outbox);
        self.state = State::AwaitM6 { mac_key: Zeroizing::new(root.m6_mac) };
        Ok(Next::Send)
    }

    fn handle_m6(&mut self, message: &[u8]) -> Result<Next, Failure> {
        let State::AwaitM6 { mac_key } = &self.state else { return Err(Failure::Malformed) };
        let m6 = M6::decode(message).map_err(|_| Failure::Malformed)?;
        let expected: [u8; 16] = tag(mac_key, &[&self.transcript.hash()]);
        if !bool::from(expected.ct_eq(&m6.mac)) {
            return Err(Failure::Unauthentic);
        }
        self.state = State::Over;
        Ok(Next::Paired)
    }
}
