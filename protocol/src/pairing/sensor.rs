//! The sensor's side of a pairing run.

use core::fmt;

use sha2::{Digest, Sha512};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::part::{Buffer, Part, fill, hash_without};
use super::schedule::{Channel, Confirm, RootKeys, Statics};
use super::{Ceremony, Failure, Profile, Prs, RUN_LIMIT_MS, Suite};
use crate::cpace::{self, Share};
use crate::id::Id;
use crate::kdf::{Hash, Transcript, tag};
use crate::keys::{PairingRecord, Role};
use crate::message::Kind;
use crate::message::pairing::{GatewayPart, M1, M2, M3, M4, M5, M6, SensorPart};
use crate::{PROTOCOL_VERSION, Random, Transport, dh, kem};

/// What a run is answered with.
#[derive(Debug, Clone, Copy)]
pub struct SensorOptions<'a> {
    /// Our id.
    pub device: Id,
    /// The ceremony the window is open for.
    pub ceremony: Ceremony,
    /// The kind of link the run goes over.
    pub transport: Transport,
    /// The highest suite we have.
    pub max_suite: Suite,
    /// The lowest suite policy allows.
    pub min_suite: Suite,
    /// The longest message we take; at least 256, at least 1259 for suite 2.
    pub max_message: u16,
    /// What we say of ourselves.
    pub profile: Profile<'a>,
}

/// What the caller does next.
#[derive(Debug)]
#[non_exhaustive]
pub enum SensorStep<'a> {
    /// Nothing until the next message or the time of [`Sensor::poll_timeout`].
    Wait,
    /// Put this message on the link.
    Send(&'a [u8]),
    /// Count one attempt at the code, then call [`Sensor::attempt_counted`]. Label: persisted
    /// ([`LabelBackoff`](super::LabelBackoff)), before the gateway's tag is verified. Issued: in memory
    /// ([`EnteredCode`](super::EnteredCode)), before our own tag goes out.
    CountAttempt,
    /// The gateway knew the code. Persist the record in the pending slot, then call [`Sensor::pending_stored`];
    /// apply `config` once that is done.
    StorePending {
        /// Our half of the pairing.
        record: &'a PairingRecord,
        /// Opaque settings from the gateway.
        config: &'a [u8],
    },
    /// The run is over without a pairing.
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
}

/// Where the run stands.
enum State {
    AwaitM3 {
        share_secret: Zeroizing<[u8; 32]>,
    },
    /// M4 is ready, not yet counted; in the label ceremony the gateway's tag is not yet looked at.
    Counting {
        secrets: Secrets,
        gateway_tag: Option<[u8; 32]>,
    },
    AwaitM5(Secrets),
    /// The record is with the caller.
    Storing(RootKeys),
    /// M6 was sent: the same M5 gets the same M6.
    Done,
    Over,
}

/// What the run knows between M3 and M5.
struct Secrets {
    confirm: Confirm,
    kem_secret: Option<kem::Secret>,
    m5_key: Zeroizing<[u8; 32]>,
}

impl Secrets {
    fn kem_secret(&self) -> &[u8] {
        self.kem_secret.as_ref().map_or(&[], |secret| secret.as_slice())
    }
}

/// One run, from M1 to M6. It stays after M6, to answer a repeated M5, until its time is up.
pub struct Sensor<'a> {
    options: SensorOptions<'a>,
    gateway: Id,
    suite: Suite,
    own_static: Zeroizing<[u8; 32]>,
    kem_random: Zeroizing<[u8; 32]>,
    sid: [[u8; 16]; 2],
    share: [u8; 32],
    started_ms: u64,
    transcript: Transcript,
    /// The peer's messages this run took: the same ones may come again.
    taken_m1: Hash,
    taken_m3: Option<Hash>,
    taken_m5: Option<Hash>,
    gateway_confirmed: bool,
    outbox: Buffer,
    part: Part,
    record: Option<PairingRecord>,
    state: State,
}

impl fmt::Debug for Sensor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sensor").field("ceremony", &self.options.ceremony).finish_non_exhaustive()
    }
}

impl<'a> Sensor<'a> {
    /// Takes M1 and starts a run; M2 is in [`Self::message`]. All randomness is drawn here. The caller has
    /// checked that the window is open and the back-off over.
    ///
    /// # Errors
    /// Why M1 is not answered; nothing is burnt. Answer with a `Refuse` if the window is open.
    pub fn accept(
        options: SensorOptions<'a>,
        prs: &Prs,
        own_static: &[u8; 32],
        m1: &[u8],
        now_ms: u64,
        random: &mut dyn Random,
    ) -> Result<Self, Failure> {
        let request = M1::decode(m1).map_err(|_| Failure::Malformed)?;
        if request.version != PROTOCOL_VERSION {
            return Err(Failure::Version);
        }
        if request.ceremony != options.ceremony {
            return Err(Failure::Ceremony);
        }
        let best = options.max_suite.min(Suite::BEST);
        let choice = Suite::range(options.min_suite, best).iter().rfind(|ours| request.suites.contains(ours));
        let suite = choice.copied().and_then(Suite::from_number).ok_or(Failure::Suite)?;

        let (mut share_secret, mut kem_random) = (Zeroizing::new([0; 32]), Zeroizing::new([0; 32]));
        let mut nonce = [0; 16];
        random.fill(&mut nonce);
        random.fill(&mut *share_secret);
        random.fill(&mut *kem_random);

        let taken_m1: Hash = Sha512::digest(m1).into();
        let channel = Channel {
            ceremony: options.ceremony,
            transport: options.transport,
            device: &options.device,
            gateway: &request.gateway,
            m1_hash: &taken_m1,
            sid: [&request.nonce, &nonce],
        };
        let share = cpace::share(&share_secret, &channel.generator(*prs)).map_err(|_| Failure::WeakPoint)?;
        let m2 = M2 {
            version: PROTOCOL_VERSION,
            suite: suite.number(),
            device: options.device,
            max_message: options.max_message,
            nonce,
            share,
        };
        let mut outbox = Buffer::new();
        fill(&mut outbox, |out| m2.encode(out))?;
        let mut transcript = Transcript::default();
        transcript.push(m1);
        transcript.push(&outbox);
        Ok(Self {
            options,
            gateway: request.gateway,
            suite,
            own_static: Zeroizing::new(*own_static),
            kem_random,
            sid: [request.nonce, nonce],
            share,
            started_ms: now_ms,
            transcript,
            taken_m1,
            taken_m3: None,
            taken_m5: None,
            gateway_confirmed: false,
            outbox,
            part: Part::default(),
            record: None,
            state: State::AwaitM3 { share_secret },
        })
    }

    /// The message last sent: M2 at the start. Empty while an attempt waits to be counted.
    #[must_use]
    pub fn message(&self) -> &[u8] {
        if matches!(self.state, State::Counting { .. }) { &[] } else { &self.outbox }
    }

    /// Takes a message: M3, M5, a repeated M1 or a refusal. Others are not for a sensor in a run and change
    /// nothing.
    pub fn handle(&mut self, message: &[u8], now_ms: u64) -> SensorStep<'_> {
        if matches!(self.state, State::Over) {
            return SensorStep::Wait;
        }
        let next = if now_ms >= self.deadline_ms() {
            Err(Failure::TimedOut)
        } else {
            match Kind::of(message) {
                Ok(Kind::M1) => self.handle_m1(message),
                Ok(Kind::M3) => self.handle_m3(message),
                Ok(Kind::M5) => self.handle_m5(message),
                // After M6 a refusal changes nothing: the key is stored and a session proves it.
                Ok(Kind::Refuse) if !matches!(self.state, State::Done) => Err(Failure::Refused),
                _ => Ok(Next::Wait),
            }
        };
        self.step(&next)
    }

    /// The attempt is counted: go on.
    pub fn attempt_counted(&mut self) -> SensorStep<'_> {
        let next = match core::mem::replace(&mut self.state, State::Over) {
            State::Counting { secrets, gateway_tag } => self.verify_counted(secrets, gateway_tag),
            other => {
                self.state = other;
                Ok(Next::Wait)
            }
        };
        self.step(&next)
    }

    /// The pending record is persisted: go on with M6.
    pub fn pending_stored(&mut self) -> SensorStep<'_> {
        let next = match core::mem::replace(&mut self.state, State::Over) {
            State::Storing(root) => self.make_m6(&root),
            other => {
                self.state = other;
                Ok(Next::Wait)
            }
        };
        self.step(&next)
    }

    /// Whether the gateway proved that it knows the code: the back-off may be cleared.
    #[must_use]
    pub const fn gateway_confirmed(&self) -> bool {
        self.gateway_confirmed
    }

    /// When [`Self::handle_timeout`] wants to be called; none once the run is over.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<u64> {
        match self.state {
            State::Over => None,
            _ => Some(self.deadline_ms()),
        }
    }

    /// Time has passed: may end the run. After M6 that is no failure.
    pub fn handle_timeout(&mut self, now_ms: u64) -> SensorStep<'_> {
        let next = match self.state {
            State::Done if now_ms >= self.deadline_ms() => {
                self.state = State::Over;
                Ok(Next::Wait)
            }
            State::Over => Ok(Next::Wait),
            _ if now_ms >= self.deadline_ms() => Err(Failure::TimedOut),
            _ => Ok(Next::Wait),
        };
        self.step(&next)
    }

    const fn deadline_ms(&self) -> u64 {
        self.started_ms.saturating_add(RUN_LIMIT_MS)
    }

    fn step(&mut self, next: &Result<Next, Failure>) -> SensorStep<'_> {
        match *next {
            Ok(Next::Wait) => SensorStep::Wait,
            Ok(Next::Send) => SensorStep::Send(&self.outbox),
            Ok(Next::Count) => SensorStep::CountAttempt,
            Ok(Next::Store) => match (&self.record, GatewayPart::decode(self.part.text())) {
                (Some(record), Ok(part)) => SensorStep::StorePending { record, config: part.config },
                _ => SensorStep::Wait,
            },
            Err(failure) => {
                self.state = State::Over;
                SensorStep::Failed { failure, refuse: failure.is_told() }
            }
        }
    }

    fn handle_m1(&self, message: &[u8]) -> Result<Next, Failure> {
        if Hash::from(Sha512::digest(message)) != self.taken_m1 {
            return Err(Failure::SecondMessage);
        }
        Ok(if matches!(self.state, State::AwaitM3 { .. }) { Next::Send } else { Next::Wait })
    }

    fn handle_m3(&mut self, message: &[u8]) -> Result<Next, Failure> {
        let hash: Hash = Sha512::digest(message).into();
        if let Some(taken) = self.taken_m3 {
            return match self.state {
                _ if taken != hash => Err(Failure::SecondMessage),
                State::AwaitM5(_) => Ok(Next::Send),
                _ => Ok(Next::Wait),
            };
        }
        let State::AwaitM3 { share_secret } = core::mem::replace(&mut self.state, State::Over) else {
            return Err(Failure::Malformed);
        };
        self.taken_m3 = Some(hash);
        let m3 = M3::decode(message).map_err(|_| Failure::Malformed)?;
        if m3.tag.is_some() != (self.options.ceremony == Ceremony::Label)
            || m3.ek.is_some() != (self.suite == Suite::Two)
        {
            return Err(Failure::Malformed);
        }
        let point = cpace::shared_point(&share_secret, &m3.share).map_err(|_| Failure::WeakPoint)?;
        let mut untagged = Buffer::new();
        fill(&mut untagged, |out| M3::without_tag(message, out)).map_err(|_| Failure::Malformed)?;
        let [gateway_nonce, own_nonce] = &self.sid;
        let isk = cpace::session_key(
            &[gateway_nonce, own_nonce],
            &point,
            Share { point: &self.share, ad: &self.outbox },
            Share { point: &m3.share, ad: &untagged },
        );
        let confirm = Confirm::new(&isk, &self.transcript.with(&untagged));
        self.transcript.push(message);
        let (ct, kem_secret) = match m3.ek {
            None => (None, None),
            Some(ek) => {
                kem::encapsulate(ek, &self.kem_random).ok_or(Failure::WeakPoint).map(|(c, s)| (Some(c), Some(s)))?
            }
        };
        let secrets = self.make_m4(confirm, ct.as_ref().map(<[u8; _]>::as_slice), kem_secret)?;
        self.state = State::Counting { secrets, gateway_tag: m3.tag };
        Ok(Next::Count)
    }

    fn make_m4(
        &mut self,
        confirm: Confirm,
        ct: Option<&[u8]>,
        kem_secret: Option<kem::Secret>,
    ) -> Result<Secrets, Failure> {
        let keys = confirm.message_keys(kem_secret.as_ref().map_or(&[], |secret| secret.as_slice()));
        let Profile { capabilities, firmware, certificate } = self.options.profile;
        let own = SensorPart { static_key: dh::public(&self.own_static), capabilities, firmware, certificate };
        let mut part = Part::new(|out| own.encode(out))?;
        let draft = M4 { tag: confirm.sensor_tag, ct, sealed: &[] };
        fill(&mut self.outbox, |out| draft.encode(out))?;
        part.seal(&keys.m4, &hash_without(&self.transcript, &self.outbox, M4::clear)?)?;
        fill(&mut self.outbox, |out| M4 { sealed: part.as_bytes(), ..draft }.encode(out))?;
        self.transcript.push(&self.outbox);
        Ok(Secrets { m5_key: Zeroizing::new(keys.m5), confirm, kem_secret })
    }

    fn verify_counted(&mut self, secrets: Secrets, gateway_tag: Option<[u8; 32]>) -> Result<Next, Failure> {
        if let Some(gateway_tag) = gateway_tag {
            self.check_tag(&gateway_tag, &secrets)?;
        }
        self.state = State::AwaitM5(secrets);
        Ok(Next::Send)
    }

    fn check_tag(&mut self, gateway_tag: &[u8; 32], secrets: &Secrets) -> Result<(), Failure> {
        if !bool::from(gateway_tag.ct_eq(&secrets.confirm.gateway_tag)) {
            return Err(Failure::WrongCode);
        }
        self.gateway_confirmed = true;
        Ok(())
    }

    fn handle_m5(&mut self, message: &[u8]) -> Result<Next, Failure> {
        let hash: Hash = Sha512::digest(message).into();
        if let Some(taken) = self.taken_m5 {
            return match self.state {
                _ if taken != hash => Err(Failure::SecondMessage),
                State::Done => Ok(Next::Send),
                _ => Ok(Next::Wait),
            };
        }
        let State::AwaitM5(secrets) = core::mem::replace(&mut self.state, State::Over) else {
            return Err(Failure::Malformed);
        };
        self.taken_m5 = Some(hash);
        let m5 = M5::decode(message).map_err(|_| Failure::Malformed)?;
        match (m5.tag, self.options.ceremony) {
            (Some(gateway_tag), Ceremony::Issued) => self.check_tag(&gateway_tag, &secrets)?,
            (None, Ceremony::Label) => (),
            _ => return Err(Failure::Malformed),
        }
        self.part = Part::received(m5.sealed)?;
        self.part.open(&secrets.m5_key, &hash_without(&self.transcript, message, M5::clear)?)?;
        let gateway_static = GatewayPart::decode(self.part.text()).map_err(|_| Failure::Malformed)?.static_key;

        let own_public = dh::public(&self.own_static);
        if bool::from(own_public.ct_eq(&gateway_static)) {
            return Err(Failure::OwnKey);
        }
        let shared = dh::shared(&self.own_static, &gateway_static).map_err(|_| Failure::WeakPoint)?;
        let statics = Statics { sensor: &own_public, gateway: &gateway_static, shared: &shared };
        let root = secrets.confirm.root(secrets.kem_secret(), &statics, &self.transcript.hash());
        let mac: [u8; 16] = tag(&root.m5_mac, &[&hash_without(&self.transcript, message, M5::without_mac)?]);
        if !bool::from(mac.ct_eq(&m5.mac)) {
            return Err(Failure::Unauthentic);
        }
        self.transcript.push(message);
        self.record = Some(PairingRecord {
            role: Role::Sensor,
            suite: self.suite,
            ceremony: self.options.ceremony,
            device: self.options.device,
            gateway: self.gateway,
            pairing_id: root.pairing_id,
            key_id: root.key_id,
            own_static: *self.own_static,
            peer_static: gateway_static,
            psk: root.psk,
            key_id_key: root.key_id_key,
            advertising_key: root.advertising_key,
        });
        self.state = State::Storing(root);
        Ok(Next::Store)
    }

    fn make_m6(&mut self, root: &RootKeys) -> Result<Next, Failure> {
        let mac = tag(&root.m6_mac, &[&self.transcript.hash()]);
        fill(&mut self.outbox, |out| M6 { mac }.encode(out))?;
        self.state = State::Done;
        Ok(Next::Send)
    }
}
