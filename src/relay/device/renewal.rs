//! A fresh token on a live connection: shown there where the broker takes it, else on the next one. And a token that ends
//! before another came: the connection is left in order before the broker cuts it.

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::serving::Serving;
use super::{End, Task};
use crate::token::{AccessToken, TokenState};

/// The exchange with the broker, while it runs.
pub(super) struct Reauthentication {
    /// What it is shown.
    pub(super) token: Arc<AccessToken>,
    answer: Pin<Box<dyn Future<Output = Result<(), String>> + Send>>,
}

impl Task {
    /// Another token, or none any more; an end if the connection cannot go on with it.
    pub(super) fn token_changed(&mut self, it: &mut Serving) -> Option<End> {
        let state = self.tokens.borrow_and_update().clone();
        match state {
            TokenState::Valid(token) if token.jti() == it.token.jti() => None,
            // One exchange at a time, and none on a connection that is being left.
            TokenState::Valid(_) if it.reauthentication.is_some() || it.draining.is_some() => None,
            TokenState::Valid(token) => {
                if let Some(end) = self.out_of_scope(&token) {
                    return Some(end);
                }
                if let Some(answer) = it.connection.reauthentication(token.bearer().to_owned()) {
                    it.reauthentication = Some(Reauthentication { token, answer: Box::pin(answer) });
                } else {
                    self.drain(it, End::Renew);
                }
                None
            }
            // It ends by itself, in order.
            _ if matches!(it.draining, Some((End::Stopped, _))) => None,
            // The old one is good to its end.
            TokenState::Waiting { .. } => None,
            TokenState::Quarantined { .. } | TokenState::Held { .. } | TokenState::Revoked { .. } => {
                Some(End::Withdrawn)
            }
        }
    }

    /// The broker has answered; an end if the connection cannot go on.
    pub(super) fn reauthenticated(&mut self, it: &mut Serving, result: Result<(), String>) -> Option<End> {
        let running = it.reauthentication.take()?;
        match result {
            Ok(()) => {
                it.token = running.token;
                self.cell.count(|figures| figures.reauths += 1);
                self.shared.metrics.reauths.inc();
                // Yet another may have come meanwhile.
                self.token_changed(it)
            }
            Err(error) => {
                tracing::info!(device = %self.device, error, "re-authentication failed: connecting anew");
                if it.draining.is_none() {
                    self.drain(it, End::Renew);
                }
                None
            }
        }
    }

    /// For how long something may still be sent under a token. What is in flight at its end is lost with the connection
    /// that the broker then cuts, or refused, and comes twice or too late: so there is time for it to come back.
    pub(super) fn usable(&self, token: &AccessToken) -> Duration {
        let margin = (token.life() / 8).min(self.shared.options.drain);
        token.left(&self.shared.clock).saturating_sub(margin)
    }

    /// No other token came in time, or the broker has not said that it takes it.
    pub(super) fn leave_before_expiry(&mut self, it: &mut Serving) {
        let left_ms = it.token.left(&self.shared.clock).as_millis();
        tracing::info!(device = %self.device, left_ms, "the token ends and the broker has no other: nothing more is sent under it");
        self.presence(it, "offline");
        self.drain(it, End::Withdrawn);
    }
}

/// The answer, when one is awaited.
pub(super) async fn reauthenticated(running: &mut Option<Reauthentication>) -> Result<(), String> {
    match running {
        Some(running) => running.answer.as_mut().await,
        None => pending().await,
    }
}
