//! A fresh token on a live connection: shown there where the broker takes it, else on the next one.

use std::future::pending;
use std::pin::Pin;

use super::serving::Serving;
use super::{End, Task};
use crate::token::TokenState;

/// The exchange with the broker, while it runs.
pub(super) type Reauthentication = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

impl Task {
    /// Another token, or none any more; an end if the connection cannot go on with it.
    pub(super) fn token_changed(&mut self, it: &mut Serving) -> Option<End> {
        let state = self.tokens.borrow_and_update().clone();
        match state {
            TokenState::Valid(token) if token.jti() == it.token.jti() => None,
            TokenState::Valid(token) => {
                if let Some(end) = self.out_of_scope(&token) {
                    return Some(end);
                }
                if let Some(running) = it.connection.reauthentication(token.bearer().to_owned()) {
                    it.reauthentication = Some(Box::pin(running));
                    it.token = token;
                } else {
                    self.drain(it, End::Renew);
                }
                None
            }
            // The broker decides when the old one is over.
            TokenState::Waiting { .. } => None,
            TokenState::Quarantined { .. } | TokenState::Held { .. } | TokenState::Revoked { .. } => {
                Some(End::Withdrawn)
            }
        }
    }

    /// The broker has answered.
    pub(super) fn reauthenticated(&self, it: &mut Serving, result: Result<(), String>) {
        it.reauthentication = None;
        match result {
            Ok(()) => {
                self.cell.count(|figures| figures.reauths += 1);
                self.shared.metrics.reauths.inc();
            }
            Err(error) => {
                tracing::info!(device = %self.device, error, "re-authentication failed: connecting anew");
                self.drain(it, End::Renew);
            }
        }
    }
}

/// The answer, when one is awaited.
pub(super) async fn reauthenticated(running: &mut Option<Reauthentication>) -> Result<(), String> {
    match running {
        Some(running) => running.await,
        None => pending().await,
    }
}
