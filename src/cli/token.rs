//! `token`: state of the devices' access tokens; never a token itself.

use hyper::Method;

use super::args::Token as Verb;
use super::client::Client;
use super::exit::Exit;
use super::path;
use super::terminal::{Terminal, clean, span, table};
use crate::control::api::{Done, Token, WhyRequest};
use crate::control::failure::Failure;

pub(super) async fn token(terminal: &Terminal, client: &Client, verb: Verb) -> Result<Exit, Failure> {
    match verb {
        Verb::Ls => {
            let tokens: Vec<Token> = client.get("/v1/tokens").await?;
            terminal.result(&tokens, |tokens| list(tokens));
        }
        Verb::Rotate { device } => {
            let done: Done = client.send(Method::POST, &path("/v1/tokens", &device, "/rotate")?, &()).await?;
            terminal.result(&done, |done| clean(&done.done));
        }
        Verb::Revoke { device, why } => {
            let path = path("/v1/tokens", &device, "/revoke")?;
            let done: Done = client.send(Method::POST, &path, &WhyRequest { why }).await?;
            terminal.result(&done, |done| clean(&done.done));
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
            token.reason.clone().unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = tokens.iter().map(row).collect();
    table(&["DEVICE", "STATE", "LEFT", "SCOPE", "LIMITS", "HOLDER", "REFRESHED", "NEXT", "REASON"], &rows)
}
