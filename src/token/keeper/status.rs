//! What can be told about a device's token without showing it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::journal::{Became, Journal, Note};
use crate::clock::Clock;
use crate::ids::DeviceId;
use crate::token::{AccessToken, TokenState};

/// One line of `clawgate token ls`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenStatus {
    /// Whose token.
    pub device: DeviceId,
    /// `waiting`, `valid`, `quarantined`, `held` or `revoked`.
    pub state: String,
    /// Why it is not valid, or why the last refresh failed.
    pub reason: Option<String>,
    /// The token's own id.
    pub jti: Option<String>,
    /// Its scopes.
    pub scope: Option<String>,
    /// What it is limited to, in words.
    #[serde(default)]
    pub limits: Option<String>,
    /// Whose certificate must be shown with it (`x5t#S256`); none where whoever has it may use it.
    #[serde(default)]
    pub bound_to: Option<String>,
    /// Seconds until it expires.
    pub expires_in_s: Option<u64>,
    /// When it was received, seconds since 1970.
    pub refreshed_at: Option<u64>,
    /// Seconds until the next request for one.
    pub next_request_in_s: Option<u64>,
    /// Tokens received since the start.
    pub refreshes: u64,
    /// Requests that failed since the start.
    pub failures: u64,
    /// Times since the start that the broker refused (0x87) a token that may be used from some addresses only.
    pub limited_refusals: u64,
}

/// Sums over all devices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokenTally {
    /// Devices with a good token.
    pub valid: u64,
    /// Devices without one that will get one.
    pub waiting: u64,
    /// Devices that wait for an operator.
    pub quarantined: u64,
    /// Devices that nobody has decided about.
    pub held: u64,
    /// Devices that were cut off.
    pub revoked: u64,
    /// Tokens received since the start.
    pub refreshes: u64,
    /// Requests that failed since the start.
    pub failures: u64,
}

impl FromIterator<TokenStatus> for TokenTally {
    fn from_iter<T: IntoIterator<Item = TokenStatus>>(all: T) -> Self {
        let mut tally = Self::default();
        for one in all {
            match one.state.as_str() {
                "valid" => tally.valid += 1,
                "quarantined" => tally.quarantined += 1,
                "revoked" => tally.revoked += 1,
                "held" => tally.held += 1,
                _ => tally.waiting += 1,
            }
            tally.refreshes += one.refreshes;
            tally.failures += one.failures;
        }
        tally
    }
}

/// The facts a device's task leaves for whoever asks.
#[derive(Debug, Clone)]
pub(super) struct SharedStatus(Arc<Mutex<Facts>>);

#[derive(Debug)]
struct Facts {
    device: DeviceId,
    state: &'static str,
    reason: Option<String>,
    token: Option<Arc<AccessToken>>,
    refreshed_at: Option<Duration>,
    next_request: Option<Duration>,
    refreshes: u64,
    failures: u64,
    limited_refusals: u64,
    journal: Journal,
}

impl SharedStatus {
    pub(super) fn new(device: DeviceId, journal: Journal) -> Self {
        Self(Arc::new(Mutex::new(Facts {
            device,
            state: "waiting",
            reason: None,
            token: None,
            refreshed_at: None,
            next_request: None,
            refreshes: 0,
            failures: 0,
            limited_refusals: 0,
            journal,
        })))
    }

    /// The state changed.
    pub(super) fn state(&self, state: &TokenState) {
        self.with(|facts| {
            (facts.state, facts.token, facts.reason) = match state {
                TokenState::Waiting { last_error, approval, .. } => {
                    ("waiting", None, approval.as_ref().map(ToString::to_string).or_else(|| last_error.clone()))
                }
                TokenState::Valid(token) => ("valid", Some(Arc::clone(token)), None),
                TokenState::Quarantined { reason } => ("quarantined", None, Some(reason.clone())),
                TokenState::Held { reason } => ("held", None, Some(reason.clone())),
                TokenState::Revoked { reason } => ("revoked", None, Some(reason.clone())),
            };
        });
    }

    /// A token came.
    pub(super) fn received(&self, token: &AccessToken, clock: &Clock) {
        self.note(clock, Became::Issued { jti: token.jti().to_owned(), life: token.life() });
        self.with(|facts| {
            facts.refreshed_at = Some(clock.wall());
            facts.refreshes += 1;
        });
    }

    /// For the audit log.
    pub(super) fn note(&self, clock: &Clock, what: Became) {
        self.with(|facts| facts.journal.note(Note { device: facts.device.clone(), at: clock.boot(), what }));
    }

    /// A request failed.
    pub(super) fn failed(&self, reason: &str) {
        self.with(|facts| {
            facts.reason = Some(reason.to_owned());
            facts.failures += 1;
        });
    }

    /// The broker refused a token that may be used from some addresses only.
    pub(super) fn limited_refusal(&self) {
        self.with(|facts| facts.limited_refusals += 1);
    }

    /// The next request is due at this boot time.
    pub(super) fn next_request(&self, at: Option<Duration>) {
        self.with(|facts| facts.next_request = at);
    }

    pub(super) fn report(&self, clock: &Clock) -> TokenStatus {
        self.with(|facts| {
            let token = facts.token.as_ref();
            TokenStatus {
                device: facts.device.clone(),
                state: facts.state.to_owned(),
                reason: facts.reason.clone(),
                jti: token.map(|token| token.jti().to_owned()),
                scope: token.map(|token| token.claims().scope.clone()),
                limits: token.map(|token| token.claims().limits().in_words()),
                bound_to: token.and_then(|token| token.claims().certificate()).map(|print| print.as_str().to_owned()),
                expires_in_s: token.map(|token| token.left(clock).as_secs()),
                refreshed_at: facts.refreshed_at.map(|at| at.as_secs()),
                next_request_in_s: facts.next_request.map(|at| at.saturating_sub(clock.boot()).as_secs()),
                refreshes: facts.refreshes,
                failures: facts.failures,
                limited_refusals: facts.limited_refusals,
            }
        })
    }

    fn with<T>(&self, look: impl FnOnce(&mut Facts) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
