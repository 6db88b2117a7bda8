//! The seam to whoever issues tokens, and what its failures mean for the device.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::scope::{Scope, Topics};
use super::{AccessToken, Limits, Stage, TokenError};
use crate::ids::DeviceId;

/// What an issuer's call resolves to; boxed, so that the daemon picks the issuer at run time.
pub type TokenFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, IssuerError>> + Send + 'a>>;

/// Issues and revokes the tokens of devices.
pub trait Issuer: Send + Sync {
    /// A new token for the device. The caller asks once at a time for a device.
    fn issue<'a>(&'a self, request: &'a TokenRequest) -> TokenFuture<'a, AccessToken>;

    /// Makes every token of the device worthless that was issued until now; `current` is the one in use.
    fn revoke<'a>(
        &'a self,
        request: &'a TokenRequest,
        current: Option<&'a AccessToken>,
        why: &'a str,
    ) -> TokenFuture<'a, ()>;
}

/// What is asked for. The topics follow from it: [`TokenRequest::topics`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRequest {
    /// Tenant of the site.
    pub tenant: String,
    /// Id of the gateway.
    pub gateway: String,
    /// Whom the token stands for.
    pub device: DeviceId,
    /// What the device may do.
    pub scope: Vec<Scope>,
    /// How long the token shall live; an issuer may shorten it.
    pub life: Duration,
    /// The broker it is for.
    pub audience: String,
    /// From where it may be used, and how often.
    pub limits: Limits,
    /// The stage it is good in.
    pub stage: Stage,
}

impl TokenRequest {
    /// The topics that belong to it.
    #[must_use]
    pub(crate) fn topics(&self) -> Topics {
        Topics::of_device(&self.tenant, &self.gateway, &self.device, &self.scope)
    }
}

/// A person has to approve the device at the issuer before it gets a token (RFC 8628, section 3.3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Where the person goes.
    pub url: String,
    /// The same with the code in it, for a QR; not every issuer has one.
    pub complete_url: Option<String>,
    /// What the person compares or types there.
    pub code: String,
    /// Seconds until the issuer forgets the request.
    pub left_s: u64,
}

impl std::fmt::Display for Approval {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "approve the device at {} with code {} within {} s", self.url, self.code, self.left_s)
    }
}

/// What to do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// It heals by itself: ask again, not before the given time where the issuer named one.
    Retry(Option<Duration>),
    /// Asking again cannot help: pause this device until an operator acts.
    Quarantine,
}

/// Why no token came.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IssuerError {
    /// The endpoint did not answer: network, TLS or time-out.
    #[error("{endpoint} did not answer: {reason}; check the network and issuer.url")]
    Unreachable {
        /// The endpoint that was asked.
        endpoint: String,
        /// What the transport said.
        reason: String,
    },
    /// The endpoint asked for patience (429) or failed on its side (5xx).
    #[error("{endpoint} answered {status}: {words}; asking again later")]
    Busy {
        /// The endpoint that was asked.
        endpoint: String,
        /// HTTP status.
        status: u16,
        /// The server's words, escaped and capped.
        words: String,
        /// Its Retry-After.
        retry_after: Option<Duration>,
    },
    /// The endpoint refused the request (RFC 6749, section 5.2).
    #[error("{endpoint} answered {status} {code}: {words}; check the gateway's registration there")]
    Refused {
        /// The endpoint that was asked.
        endpoint: String,
        /// HTTP status.
        status: u16,
        /// OAuth error code, escaped and capped.
        code: String,
        /// The server's words, escaped and capped.
        words: String,
    },
    /// The answer was too large, or no token answer.
    #[error("{endpoint} gave no usable answer: {reason}")]
    Answer {
        /// The endpoint that was asked.
        endpoint: String,
        /// What was wrong with it.
        reason: String,
    },
    /// What came is no token.
    #[error("{endpoint} sent a bad token: {source}")]
    Token {
        /// The endpoint that was asked.
        endpoint: String,
        /// What is wrong with it.
        source: TokenError,
    },
    /// What came is a token, but not the one that was asked for.
    #[error("the issuer gave another token than asked for: {claim} is {got:?}, asked was {asked:?}; it is not used")]
    Mismatch {
        /// The claim that differs.
        claim: &'static str,
        /// What was asked for.
        asked: String,
        /// What came, escaped and capped.
        got: String,
    },
    /// It waits for a person.
    #[error("{approval}")]
    Approval {
        /// What that person needs.
        approval: Approval,
        /// Not to be asked again before.
        poll: Duration,
    },
    /// A person said no, or nobody came.
    #[error("the device was not approved at {endpoint}: {reason}; ask again: clawgate token rotate DEVICE")]
    NotApproved {
        /// The endpoint that was asked.
        endpoint: String,
        /// What it said.
        reason: String,
    },
    /// The issuer no longer honours what a person approved once.
    #[error("the approval of the device ended at {endpoint}: {words}; approve it again: clawgate token rotate DEVICE")]
    ApprovalEnded {
        /// The endpoint that was asked.
        endpoint: String,
        /// What it said, escaped and capped.
        words: String,
    },
    /// It takes back no token of this kind (RFC 7009, section 2.2.1), or none at all.
    #[error("{endpoint} cannot revoke tokens: cut off here; the last one is good elsewhere until it expires")]
    CannotRevoke {
        /// The endpoint that was asked.
        endpoint: String,
    },
    /// This machine's clock and the issuer's differ too much for it to believe what we sign.
    #[error("{endpoint} answered {status} {code}: {words}; {}", clocks(*seconds))]
    ClockOff {
        /// The endpoint that was asked.
        endpoint: String,
        /// HTTP status.
        status: u16,
        /// OAuth error code, escaped and capped.
        code: String,
        /// The server's words, escaped and capped.
        words: String,
        /// Issuer's time minus ours.
        seconds: i64,
    },
    /// What this gateway proves itself with cannot be had, and what to do.
    #[error("{0}")]
    Secret(String),
    /// The issuer here could not do its work.
    #[error("the local issuer failed: {0}")]
    Local(String),
}

/// What a person reads of two clocks of which nobody here knows which one is right. `seconds`: issuer's time minus ours.
pub(super) fn clocks(seconds: i64) -> String {
    let (off, is) = (seconds.unsigned_abs(), if seconds < 0 { "ahead of" } else { "behind" });
    format!(
        "the clock here is {off} s {is} the issuer's: set the time where it is wrong (here: timedatectl), then it goes on \
         alone"
    )
}

/// Refusals of the gateway or of the way it asks (RFC 6749, section 5.2), whatever device it asks for.
const OF_THE_GATEWAY: [&str; 4] =
    ["invalid_client", "unauthorized_client", "unsupported_grant_type", "invalid_request"];

impl IssuerError {
    /// Whether asking again leads to the same answer.
    pub(super) fn is_final(&self) -> bool {
        self.remedy() == Remedy::Quarantine
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Busy { retry_after, .. } => Remedy::Retry(*retry_after),
            // The gateway itself is not known there: no device's fault, and it heals once the gateway is registered.
            Self::Refused { code, .. } if OF_THE_GATEWAY.contains(&code.as_str()) => Remedy::Retry(None),
            Self::Approval { poll, .. } => Remedy::Retry(Some(*poll)),
            Self::Refused { .. }
            | Self::Mismatch { .. }
            | Self::NotApproved { .. }
            | Self::ApprovalEnded { .. }
            | Self::CannotRevoke { .. } => Remedy::Quarantine,
            Self::Unreachable { .. }
            | Self::Answer { .. }
            | Self::Token { .. }
            | Self::ClockOff { .. }
            | Self::Secret(_)
            | Self::Local(_) => Remedy::Retry(None),
        }
    }
}
