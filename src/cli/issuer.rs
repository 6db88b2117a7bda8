//! `issuer`: the local issuer alone, for a lab or a site whose broker is elsewhere, and what its clients need.

use std::path::Path;

use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};

use super::exit::Exit;
use super::terminal::Terminal;
use crate::clock::Clock;
use crate::config::LogLevel;
use crate::control::failure::Failure;
use crate::logging;
use crate::standalone::issuer_server::{IssuerListener, IssuerServer, ServerOptions, SiteFile, SiteFileError};
use crate::token::key::SigningKey;
use crate::token::local::{DenyList, LocalIssuer};
use crate::token::oauth::{OauthIssuer, OauthOptions};

#[derive(Serialize)]
struct Serving {
    listen: String,
    issuer: String,
}

#[derive(Serialize)]
struct Key {
    key: String,
    public_pem: String,
}

#[derive(Serialize)]
struct OwnToken {
    access_token: String,
    expires_in: u64,
}

/// `issuer serve`: until it is told to stop; SIGHUP reads the clients again.
pub(super) async fn serve(terminal: &Terminal, path: &Path) -> Result<Exit, Failure> {
    let _log = logging::start(LogLevel::Info);
    let site = SiteFile::load(path).map_err(|error| misconfigured(&error))?;
    let failed = |error: &dyn std::fmt::Display| Failure::new(Exit::Config, "issuer", error.to_string(), "");
    let key = SigningKey::load_or_create(&site.key).map_err(|error| failed(&error))?;
    let deny = DenyList::open(&site.denylist).map_err(|error| failed(&error))?;
    let listener = IssuerListener::bind(site.listen).await.map_err(|error| failed(&error))?;
    let url = site.url.unwrap_or_else(|| format!("http://{}", listener.addr()));
    let issuer = LocalIssuer::new(&url, key, deny, Clock::system()).of_stage(site.stage);
    let options = ServerOptions { audience: site.audience, life: site.life, url: Some(url.clone()) };
    let server = IssuerServer::start(listener, issuer, site.clients, options);
    let serving = Serving { listen: server.addr().to_string(), issuer: url };
    terminal.result(&serving, |serving| format!("issuer {} listens on {}", serving.issuer, serving.listen));

    let signals = |kind| signal(kind).map_err(|error| Failure::internal(&error));
    let (mut hangup, mut terminate, mut interrupt) =
        (signals(SignalKind::hangup())?, signals(SignalKind::terminate())?, signals(SignalKind::interrupt())?);
    loop {
        tokio::select! {
            _ = hangup.recv() => match SiteFile::load(path) {
                Ok(again) => {
                    server.replace_clients(again.clients);
                    info!("clients read again");
                }
                Err(problem) => error!(error = %problem, "the old clients stay"),
            },
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    server.stop().await;
    Ok(Exit::Ok)
}

/// `issuer key`: a client's private key in a file, its public half on standard output.
pub(super) fn key(terminal: &Terminal, path: &Path) -> Result<Exit, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::new(Exit::Failed, "key", error.to_string(), "");
    let key = SigningKey::load_or_create(path).map_err(|error| failed(&error))?;
    let public_pem = key.public_pem().map_err(|error| failed(&error))?;
    terminal.result(&Key { key: path.display().to_string(), public_pem }, |key| key.public_pem.clone());
    Ok(Exit::Ok)
}

/// `issuer token`: a subscriber's own token on standard output.
pub(super) async fn token(terminal: &Terminal, asked: &super::args::OwnToken) -> Result<Exit, Failure> {
    let cloud = |error: &dyn std::fmt::Display| Failure::new(Exit::Cloud, "no_token", error.to_string(), "");
    let key = SigningKey::load(&asked.key).map_err(|error| Failure::usage(error.to_string(), ""))?;
    let options = OauthOptions {
        url: asked.url.clone(),
        client_id: asked.client.clone(),
        key,
        ca: asked.ca.clone(),
        certificate: None,
    };
    let issuer = OauthIssuer::new(options, Clock::system()).map_err(|error| Failure::usage(error.to_string(), ""))?;
    let token = issuer.own_token(&asked.audience).await.map_err(|error| cloud(&error))?;
    let token = OwnToken { access_token: token.bearer().to_owned(), expires_in: token.life().as_secs() };
    terminal.result(&token, |token| token.access_token.clone());
    Ok(Exit::Ok)
}

fn misconfigured(error: &SiteFileError) -> Failure {
    Failure::new(Exit::Config, "config", error.to_string(), "")
}
