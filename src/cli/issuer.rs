//! `issuer`: the local issuer alone, for a lab or a site whose broker is elsewhere, and what its clients need.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::{Args, Subcommand};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use super::exit::Exit;
use super::terminal::Terminal;
use crate::blocking::blocking;
use crate::clock::Clock;
use crate::config::LogLevel;
use crate::control::failure::Failure;
use crate::logging;
use crate::standalone::issuer_server::{
    IssuerListener, IssuerServer, KeyCare, ServerOptions, SiteFile, SiteFileError, change,
};
use crate::token::key::SigningKey;
use crate::token::local::{DenyList, KeyFile, KeyFileError, LocalIssuer, PublicFile, RingError, RingState};
use crate::token::oauth::{OauthIssuer, OauthOptions};

/// The verbs below `issuer`.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Issue tokens to the gateways and subscribers of a site, until stopped; SIGHUP reads the clients again
    Serve {
        /// Where it listens, its key, its clients
        #[arg(long, value_name = "FILE", default_value = "/etc/clawgate/issuer.toml")]
        config: PathBuf,
    },
    /// Make a new signing key for issuer serve: published first, then it signs; the old one is published until its last
    /// token has expired
    Rotate {
        /// Sign with it at once, and make every token under an older key worthless
        #[arg(long)]
        now: bool,
        /// The file that issuer serve runs by
        #[arg(long, value_name = "FILE", default_value = "/etc/clawgate/issuer.toml")]
        config: PathBuf,
    },
    /// Print the public key of a client's key file; makes the file when there is none
    Key {
        /// The private key, PEM, mode 0600
        file: PathBuf,
    },
    /// Get a subscriber's token and print it
    Token(TokenArgs),
}

/// `issuer token`.
#[derive(Debug, Args)]
pub(super) struct TokenArgs {
    /// The issuer
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7480")]
    url: String,
    /// The subscriber's name there
    #[arg(long, value_name = "NAME")]
    client: String,
    /// Its private key
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The broker it is for
    #[arg(long, value_name = "NAME", default_value = "claw")]
    audience: String,
    /// The only CA that the issuer's certificate may come from
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

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

/// How often the keys are looked after.
const LOOK: Duration = Duration::from_secs(1);
/// How long a running issuer is given to make a new key.
const MAKING: Duration = Duration::from_secs(10);

#[derive(Serialize)]
struct NewKey {
    id: String,
    signs_in_s: u64,
    next_step: &'static str,
}

/// `issuer serve`: until it is told to stop; SIGHUP reads the clients again, SIGUSR1 and SIGUSR2 make a new key.
pub(super) async fn serve(terminal: &Terminal, path: &Path) -> Result<Exit, Failure> {
    let _log = logging::start(LogLevel::Info);
    let signals = |kind| signal(kind).map_err(|error| Failure::internal(&error));
    let (mut hangup, mut terminate, mut interrupt) =
        (signals(SignalKind::hangup())?, signals(SignalKind::terminate())?, signals(SignalKind::interrupt())?);
    // Before the key file is taken: whoever sees that it is in use sends these.
    let (mut rotate, mut replace) = (signals(SignalKind::user_defined1())?, signals(SignalKind::user_defined2())?);
    let site = SiteFile::load(path).map_err(|error| misconfigured(&error))?;
    let failed = |error: &dyn std::fmt::Display| Failure::new(Exit::Config, "issuer", error.to_string(), "");
    let ring = KeyFile::open(&site.key, site.jwks.map(PublicFile::new)).map_err(|error| failed(&error))?;
    if let Err(problem) = ring.lives_up_to(site.life) {
        warn!(error = %problem, "tokens are issued, and the key cannot be changed");
    }
    let deny = DenyList::open(&site.denylist).map_err(|error| failed(&error))?;
    let listener = IssuerListener::bind(site.listen).await.map_err(|error| failed(&error))?;
    let url = site.url.unwrap_or_else(|| format!("http://{}", listener.addr()));
    let issuer = LocalIssuer::with_ring(&url, ring, deny, Clock::system()).of_stage(site.stage);
    let care = Arc::new(Mutex::new(KeyCare::new(issuer.clone(), site.schedule, Clock::system())));
    // Published before anybody gets a token.
    tend(&care, KeyCare::look).await;
    let options = ServerOptions { audience: site.audience, life: site.life, url: Some(url.clone()) };
    let server = IssuerServer::start(listener, issuer, site.clients, options);
    let serving = Serving { listen: server.addr().to_string(), issuer: url };
    terminal.result(&serving, |serving| format!("issuer {} listens on {}", serving.issuer, serving.listen));

    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            _ = look.tick() => tend(&care, KeyCare::look).await,
            _ = rotate.recv() => tend(&care, |care| care.change(false)).await,
            _ = replace.recv() => tend(&care, |care| care.change(true)).await,
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

/// Does something with the keys, off the async thread: it waits for the disk.
async fn tend(care: &Arc<Mutex<KeyCare>>, what: fn(&mut KeyCare)) {
    let care = Arc::clone(care);
    blocking(move || what(&mut care.lock().unwrap_or_else(PoisonError::into_inner))).await;
}

/// `issuer rotate`: a new key. The issuer that runs on the file makes it; where none does, it is made here.
pub(super) fn rotate(terminal: &Terminal, path: &Path, at_once: bool) -> Result<Exit, Failure> {
    let site = SiteFile::load(path).map_err(|error| misconfigured(&error))?;
    let failed = |error: &dyn std::fmt::Display| Failure::new(Exit::Failed, "key", error.to_string(), "");
    let now = || Clock::system().wall().as_secs();
    let state = match KeyFile::open(&site.key, site.jwks.map(PublicFile::new)) {
        Ok(ring) => {
            ring.lives_up_to(site.life).map_err(|error| failed(&error))?;
            let deny = DenyList::open(&site.denylist).map_err(|error| failed(&error))?;
            let issuer = LocalIssuer::with_ring("", ring, deny, Clock::system());
            change(&issuer, site.schedule.lead, at_once).map_err(|error| failed(&error))?
        }
        Err(KeyFileError::InUse { pid: Some(pid), .. }) => asked_of(pid, &site.key, at_once, now)?,
        Err(error) => return Err(failed(&error)),
    };
    let (id, starts) = state.next.unwrap_or((state.signing, now()));
    let next_step = if at_once {
        "Tokens under an older key are worthless; a broker that follows neither /jwks nor the file jwks needs the new key \
         set now."
    } else {
        "A broker that follows neither /jwks nor the file jwks needs the new key set by then."
    };
    let made = NewKey { id, signs_in_s: starts.saturating_sub(now()), next_step };
    terminal.result(&made, |made| format!("key {} signs in {} s\n{}", made.id, made.signs_in_s, made.next_step));
    Ok(Exit::Ok)
}

/// Has the issuer that runs make a new key, and waits until it is in the file.
fn asked_of(pid: i32, file: &Path, at_once: bool, now: impl Fn() -> u64) -> Result<RingState, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::new(Exit::Failed, "key", error.to_string(), "");
    let look = || KeyFile::look(file).map(|ring| ring.state(now())).map_err(|error| failed(&error));
    let before = look()?;
    if let Some((_, starts)) = before.next.as_ref().filter(|_| !at_once) {
        return Err(failed(&RingError::UnderWay { left_s: starts.saturating_sub(now()) }));
    }
    let signal = if at_once { Signal::USR2 } else { Signal::USR1 };
    let asked = Pid::from_raw(pid).map(|pid| kill_process(pid, signal));
    if let Some(Err(error)) = asked {
        return Err(failed(&format_args!("process {pid} runs the issuer and cannot be told: {error}")));
    }
    let known =
        |id: &String| *id == before.signing || before.next.iter().chain(&before.retired).any(|(known, _)| known == id);
    let end = Clock::system().boot().saturating_add(MAKING);
    loop {
        let after = look()?;
        if !known(&after.signing) || after.next.as_ref().is_some_and(|(id, _)| !known(id)) {
            return Ok(after);
        }
        if Clock::system().boot() >= end {
            let text = format!("The issuer (process {pid}) has made no new key.");
            return Err(Failure::new(Exit::Failed, "key", text, "Its log says why."));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
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
pub(super) async fn token(terminal: &Terminal, asked: &TokenArgs) -> Result<Exit, Failure> {
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
