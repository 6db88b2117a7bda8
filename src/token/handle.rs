//! The seam between a device's token and its MQTT connection.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::{AccessToken, Approval};

/// Refusals waiting for the keeper; more say nothing new.
const WISHES: usize = 4;

/// Where a device's token stands.
#[derive(Debug, Clone)]
pub enum TokenState {
    /// None yet, or the last one expired before another came.
    Waiting {
        /// Since when, on the boot clock.
        since: Duration,
        /// Why the last request failed.
        last_error: Option<String>,
        /// What a person must do first.
        approval: Option<Approval>,
    },
    /// Connect with this one; on a live connection re-authenticate with it.
    Valid(Arc<AccessToken>),
    /// Paused until an operator acts. The device's queue is kept.
    Quarantined {
        /// For the operator.
        reason: String,
    },
    /// Not served until somebody decides: no token is asked for. The device's queue is kept.
    Held {
        /// For the operator.
        reason: String,
    },
    /// Revoked or removed: disconnect, and do not come back.
    Revoked {
        /// For the operator.
        reason: String,
    },
}

/// The relay's end: the token of one device as it changes.
#[derive(Debug, Clone)]
pub struct TokenHandle {
    state: watch::Receiver<TokenState>,
    wishes: mpsc::Sender<TokenWish>,
}

impl TokenHandle {
    /// The state now and every change of it.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<TokenState> {
        self.state.clone()
    }

    /// The broker answered 0x87 to a connection or a publish under the token `jti`.
    ///
    /// The first time brings a new token, the second pauses the device with an alarm. A refusal of a token that has
    /// been replaced meanwhile changes nothing.
    pub(crate) fn refused(&self, jti: &str) {
        // A full queue already holds a refusal.
        let _ = self.wishes.try_send(TokenWish::Refused { jti: jti.to_owned() });
    }
}

/// What the relay asks of the keeper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenWish {
    /// The broker refused the token with this id.
    Refused {
        /// Its `jti`.
        jti: String,
    },
}

/// The keeper's end of a [`TokenHandle`].
#[derive(Debug)]
pub struct TokenFeed {
    /// What the relay sees.
    pub state: watch::Sender<TokenState>,
    /// What the relay asks.
    pub wishes: mpsc::Receiver<TokenWish>,
}

impl TokenFeed {
    /// Both ends of a device's token.
    #[must_use]
    pub fn new(state: TokenState) -> (Self, TokenHandle) {
        let (state_tx, state_rx) = watch::channel(state);
        let (wishes_tx, wishes_rx) = mpsc::channel(WISHES);
        (Self { state: state_tx, wishes: wishes_rx }, TokenHandle { state: state_rx, wishes: wishes_tx })
    }
}
