//! Approvals by a person that are under way (RFC 8628): one a device, forgotten with this process.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::ids::DeviceId;
use crate::secret::Secret;
use crate::token::{Approval, IssuerError};

/// What `slow_down` adds (RFC 8628, section 3.5).
const SLOWER: Duration = Duration::from_secs(5);
/// No server is asked less often than this while a person waits.
const LONGEST_POLL: Duration = Duration::from_secs(60);

/// An approval that was asked for.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) device_code: Secret<String>,
    pub(super) url: String,
    pub(super) complete_url: Option<String>,
    pub(super) user_code: String,
    pub(super) poll: Duration,
    /// On the boot clock.
    pub(super) until: Duration,
}

impl Asked {
    /// For whoever waits.
    pub(super) fn into_wait(self, clock: &Clock) -> IssuerError {
        let left_s = self.until.saturating_sub(clock.boot()).as_secs();
        let approval = Approval { url: self.url, complete_url: self.complete_url, code: self.user_code, left_s };
        IssuerError::Approval { approval, poll: self.poll }
    }
}

/// The approvals under way.
#[derive(Debug, Default)]
pub(super) struct Approvals(Mutex<HashMap<DeviceId, Asked>>);

impl Approvals {
    pub(super) fn of(&self, device: &DeviceId) -> Option<Asked> {
        self.all().get(device).cloned()
    }

    pub(super) fn keep(&self, device: &DeviceId, asked: Asked) {
        self.all().insert(device.clone(), asked);
    }

    pub(super) fn forget(&self, device: &DeviceId) {
        self.all().remove(device);
    }

    /// The server wants to be asked less often.
    pub(super) fn slower(&self, device: &DeviceId, asked: &Asked) -> Asked {
        let slower = Asked { poll: asked.poll.saturating_add(SLOWER).min(LONGEST_POLL), ..asked.clone() };
        self.keep(device, slower.clone());
        slower
    }

    fn all(&self) -> MutexGuard<'_, HashMap<DeviceId, Asked>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
