//! What has to happen after the keys stand, and of which pairing knows nothing: token, relay, cloud.

use std::future::Future;
use std::pin::Pin;

use std::time::Duration;

use crate::ids::DeviceId;
use crate::token::Approval;

/// A future behind a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Whose yes a freshly paired device waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wait {
    /// A person's, at the issuer.
    Approval(Approval),
    /// The backend's, or an admin's here. It is waited for so long; after that the device stays as it is.
    Decision {
        /// So long.
        within: Duration,
    },
}

/// Brings a freshly paired device into service. The daemon implements it over tokens and relay.
pub trait Commission: Send + Sync {
    /// Asks for the device's first token and attaches its relay; ends when the token is valid.
    /// The text is what it grants: `telemetry:write`. Also called when a device is paired again: the old
    /// attachment is replaced. Where somebody has to say yes first, `tell` is called with
    /// that, and the token is waited for as long as they may take.
    fn token<'a>(
        &'a self,
        device: &'a DeviceId,
        tell: &'a (dyn Fn(Wait) + Send + Sync),
    ) -> BoxFuture<'a, Result<String, CommissionError>>;

    /// Ends when the cloud has confirmed a reading of the device's newest pairing. `arrives` ends when the gateway took
    /// one in, and never where none comes.
    fn first_reading<'a>(
        &'a self,
        device: &'a DeviceId,
        arrives: BoxFuture<'a, ()>,
    ) -> BoxFuture<'a, Result<(), CommissionError>>;
}

/// Why a device is paired but not in service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CommissionError {
    /// What and why.
    pub message: String,
    /// What to do.
    pub next_step: String,
}
