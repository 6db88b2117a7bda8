//! The gateway's side of a pairing run.

use super::{Ceremony, Failure, Profile, Prs, Suite};
use crate::id::Id;
use crate::keys::PairingRecord;
use crate::{Random, Transport};

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

/// One run, from M1 to M6.
pub struct Gateway {}

impl Gateway {
    /// Starts a run. Send [`Self::message`] first. All randomness is drawn here.
    ///
    /// # Errors
    /// [`Failure::Unencodable`] if `config` is longer than 64 bytes, [`Failure::Suite`] if no suite is left.
    pub fn start(
        options: &GatewayOptions<'_>,
        prs: &Prs,
        own_static: &[u8; 32],
        now_ms: u64,
        random: &mut dyn Random,
    ) -> Result<Self, Failure> {
        let _ = (options, prs, own_static, now_ms, random);
        Err(Failure::Unencodable)
    }

    /// The message last sent: M1 at the start.
    #[must_use]
    pub fn message(&self) -> &[u8] {
        &[]
    }

    /// Takes a message: M2, M4, M6 or a refusal.
    pub fn handle(&mut self, message: &[u8], now_ms: u64) -> GatewayStep<'_> {
        let _ = (message, now_ms);
        GatewayStep::Wait
    }

    /// The attempt is counted: go on.
    pub fn attempt_counted(&mut self) -> GatewayStep<'_> {
        GatewayStep::Wait
    }

    /// The pending record is on disk: go on with M5.
    pub fn pending_stored(&mut self) -> GatewayStep<'_> {
        GatewayStep::Wait
    }

    /// When [`Self::handle_timeout`] wants to be called; none once the run is over.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        None
    }

    /// Time has passed: sends again or ends the run.
    pub fn handle_timeout(&mut self, now_ms: u64) -> GatewayStep<'_> {
        let _ = now_ms;
        GatewayStep::Wait
    }
}
