//! The keys of an issuer that runs alone: changed by command and on schedule, kept and published.

use std::time::Duration;

use tracing::{error, info};

use crate::clock::{Clock, is_synchronised};
use crate::token::local::{LocalIssuer, RingError, RingState};

/// After a change that failed.
const AGAIN: Duration = Duration::from_secs(3600);
/// A key that was made further in the future than this was made by a wrong clock.
const AHEAD_S: u64 = 3600;

/// When keys change.
#[derive(Debug, Clone, Copy, Default)]
pub struct KeySchedule {
    /// How old a key gets; for ever without.
    pub every: Option<Duration>,
    /// How long a new key is published before it signs.
    pub lead: Duration,
}

/// Looks after an issuer's keys. Its calls wait for the disk.
#[derive(Debug)]
pub struct KeyCare {
    issuer: LocalIssuer,
    schedule: KeySchedule,
    clock: Clock,
    /// Which key signed at the last look.
    signing: String,
    not_before: Duration,
    /// What was last said of keys that cannot be kept or published.
    behind: Option<String>,
}

impl KeyCare {
    /// For this issuer.
    #[must_use]
    pub(crate) fn new(issuer: LocalIssuer, schedule: KeySchedule, clock: Clock) -> Self {
        let signing = issuer.ring().state(issuer.now()).signing;
        Self { issuer, schedule, clock, signing, not_before: Duration::ZERO, behind: None }
    }

    /// Finishes what time has brought, and begins what is due.
    pub(crate) fn look(&mut self) {
        let now = self.issuer.now();
        let behind = self.issuer.ring().tend(now).err().map(|problem| problem.to_string());
        if behind != self.behind {
            if let Some(problem) = &behind {
                error!(problem, "the keys work on; what is kept or published of them is older");
            } else {
                info!("the keys are kept and published again");
            }
            self.behind = behind;
        }
        let state = self.issuer.ring().state(now);
        if state.signing != self.signing {
            info!(key = state.signing, before = self.signing, "a new key signs");
            self.signing.clone_from(&state.signing);
        }
        if self.clock.boot() >= self.not_before && self.schedule.is_due(&state, now) {
            self.not_before = self.clock.boot().saturating_add(AGAIN);
            self.change(false);
        }
    }

    /// A new key; the only one from now on where `at_once`.
    pub(crate) fn change(&mut self, at_once: bool) {
        match change(&self.issuer, self.schedule.lead, at_once) {
            Ok(state) => info!(signing = state.signing, next = ?state.next, at_once, "a new key was made"),
            Err(problem) => error!(error = %problem, "the key was not changed"),
        }
    }
}

/// Makes a new key, published `lead` before it signs, or at once in place of all others.
///
/// # Errors
/// [`RingError`]; nothing was changed then.
pub(crate) fn change(issuer: &LocalIssuer, lead: Duration, at_once: bool) -> Result<RingState, RingError> {
    if at_once { issuer.replace_keys() } else { issuer.ring().rotate(issuer.now(), lead) }
}

impl KeySchedule {
    fn is_due(self, state: &RingState, now: u64) -> bool {
        let Some(every) = self.every.filter(|_| state.next.is_none()) else { return false };
        let is_old = now.saturating_sub(state.made) >= every.as_secs();
        is_old || (state.made > now.saturating_add(AHEAD_S) && is_synchronised())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::key::SigningKey;
    use crate::token::local::DenyList;

    #[test]
    fn a_key_changes_once_it_is_old_however_long_nobody_looked() {
        let clock = Clock::manual(Duration::from_secs(100 * 86_400));
        let issuer =
            LocalIssuer::new("urn:test", SigningKey::generate().unwrap(), DenyList::in_memory(), clock.clone());
        let schedule = KeySchedule { every: Some(Duration::from_secs(30 * 86_400)), lead: Duration::from_secs(60) };
        let mut care = KeyCare::new(issuer.clone(), schedule, clock.clone());
        care.look();
        // A key of the year 1970 is old: it is changed, once.
        let first = issuer.jwks().keys[0].clone();
        assert_eq!(issuer.jwks().keys.len(), 2);
        for _ in 0..5 {
            clock.advance(Duration::from_secs(100));
            care.look();
        }
        assert_ne!(issuer.jwks().keys[0], first);
        clock.advance(Duration::from_secs(29 * 86_400));
        care.look();
        assert_eq!(issuer.jwks().keys.len(), 1);
        clock.advance(Duration::from_secs(100 * 86_400));
        care.look();
        assert_eq!(issuer.jwks().keys.len(), 2);
    }
}
