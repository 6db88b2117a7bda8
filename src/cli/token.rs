//! `token`: state of the devices' access tokens; never a token itself.

use clap::Subcommand;
use hyper::Method;

use super::args::Why;
use super::client::Client;
use super::exit::Exit;
use super::terminal::{Terminal, span, table};
use super::{order, path};
use crate::control::api::{Token, WhyRequest};
use crate::control::failure::Failure;

/// The verbs below `token`.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// List them; never the tokens themselves
    Ls,
    /// Get a new one now
    Rotate {
        /// The device
        device: String,
    },
    /// End a device's token now and give it no other; the device is cut off
    Revoke {
        /// The device
        device: String,
        /// Why it is done
        #[command(flatten)]
        why: Why,
    },
}

pub(super) async fn token(terminal: &Terminal, client: &Client, verb: Verb) -> Result<Exit, Failure> {
    match verb {
        Verb::Ls => {
            let tokens: Vec<Token> = client.get("/v1/tokens").await?;
            terminal.result(&tokens, |tokens| list(tokens));
        }
        Verb::Rotate { device } => {
            order(terminal, client, Method::POST, &path("/v1/tokens", &device, "/rotate")?, &()).await?;
        }
        Verb::Revoke { device, why } => {
            let path = path("/v1/tokens", &device, "/revoke")?;
            order(terminal, client, Method::POST, &path, &WhyRequest::from(why)).await?;
        }
    }
    Ok(Exit::Ok)
}

/// Who may use it, in words.
pub(super) fn holder(token: &Token) -> String {
    match &token.bound_to {
        Some(thumbprint) => format!("certificate {thumbprint}"),
        None if token.jti.is_some() => "anybody (bearer)".to_owned(),
        None => "-".to_owned(),
    }
}

/// Why there is none, and what comes next.
pub(super) fn reason(token: &Token) -> String {
    let reason = token.reason.as_deref().unwrap_or_default();
    if token.next_step.is_empty() { reason.to_owned() } else { format!("{reason}. {}", token.next_step) }
}

fn list(tokens: &[Token]) -> String {
    if tokens.is_empty() {
        return "No device is paired, so there is no token.".to_owned();
    }
    let row = |token: &Token| {
        vec![
            token.device.clone(),
            token.state.clone(),
            token.expires_in_s.map_or_else(|| "-".to_owned(), span),
            token.scope.clone(),
            token.limits.clone(),
            token.bound_to.as_ref().map_or_else(|| holder(token), |print| format!("certificate {print:.8}...")),
            token.refreshed_at.clone().map_or_else(|| "-".to_owned(), |at| format!("{at} ({}x)", token.refreshed)),
            token.refresh_in_s.map_or_else(|| "-".to_owned(), span),
            reason(token),
        ]
    };
    let rows: Vec<_> = tokens.iter().map(row).collect();
    table(&["DEVICE", "STATE", "LEFT", "SCOPE", "LIMITS", "HOLDER", "REFRESHED", "NEXT", "REASON"], &rows)
}
