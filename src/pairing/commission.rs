//! What has to happen after the keys stand, and of which pairing knows nothing: token, relay, cloud.

use std::future::Future;
use std::pin::Pin;

use crate::ids::DeviceId;
use crate::token::Approval;

/// A future behind a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Brings a freshly paired device into service. The daemon implements it over tokens and relay.
pub trait Commission: Send + Sync {
    /// Asks for the device's first token and attaches its relay; ends when the token is valid.
    /// The text is what it grants: `telemetry:write`. Also called when a device is paired again: the old
    /// attachment is replaced. Where the issuer asks for a person's approval, `tell` is called with it, and the token
    /// is waited for as long as the issuer does.
    fn token<'a>(
        &'a self,
        device: &'a DeviceId,
        tell: &'a (dyn Fn(Approval) + Send + Sync),
    ) -> BoxFuture<'a, Result<String, CommissionError>>;

    /// Ends when the cloud has confirmed a reading of the device's newest pairing.
    fn first_reading<'a>(&'a self, device: &'a DeviceId) -> BoxFuture<'a, Result<(), CommissionError>>;
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
