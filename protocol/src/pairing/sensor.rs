//! The sensor's side of a pairing run.

use super::{Ceremony, Failure, Profile, Prs, Suite};
use crate::id::Id;
use crate::keys::PairingRecord;
use crate::{Random, Transport};

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
    /// The longest message we take; at least 256.
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

/// One run, from M1 to M6. It stays after M6, to answer a repeated M5, until its time is up.
pub struct Sensor<'a> {
    options: SensorOptions<'a>,
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
        let _ = (options, prs, own_static, m1, now_ms, random);
        Err(Failure::Unencodable)
    }

    /// The message last sent: M2 at the start.
    #[must_use]
    pub fn message(&self) -> &[u8] {
        let _ = self.options;
        &[]
    }

    /// Takes a message: M3, M5, a repeated M1 or a refusal.
    pub fn handle(&mut self, message: &[u8], now_ms: u64) -> SensorStep<'_> {
        let _ = (message, now_ms);
        SensorStep::Wait
    }

    /// The attempt is counted: go on.
    pub fn attempt_counted(&mut self) -> SensorStep<'_> {
        SensorStep::Wait
    }

    /// The pending record is persisted: go on with M6.
    pub fn pending_stored(&mut self) -> SensorStep<'_> {
        SensorStep::Wait
    }

    /// Whether the gateway proved that it knows the code.
    #[must_use]
    pub fn gateway_confirmed(&self) -> bool {
        false
    }

    /// When [`Self::handle_timeout`] wants to be called; none once the run is over.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        None
    }

    /// Time has passed: may end the run.
    pub fn handle_timeout(&mut self, now_ms: u64) -> SensorStep<'_> {
        let _ = now_ms;
        SensorStep::Wait
    }
}
