//! `config`: whether the daemon would take the configuration, what it has in force, and back to the files.

use std::fmt::Write as _;
use std::path::Path;

use clap::Subcommand;
use hyper::Method;
use serde::Serialize;
use serde_json::Value;

use super::args::ConfigFile;
use super::client::Client;
use super::exit::Exit;
use super::terminal::{Terminal, clean, table};
use crate::config;
use crate::control::api::{ConfigKey, Configuration, Unset, UnsetRequest};
use crate::control::failure::Failure;
use crate::daemon::check_subscribers;
use crate::principal::command::CommandKeys;

/// The verbs below `config`.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Check the configuration; exits 78 with file, line and key when it is refused
    Check(ConfigFile),
    /// What is in force: every key, its value, and where it comes from
    Show,
    /// Go back to the files where a command from the cloud changed a key
    #[command(after_help = "The files are never written, by commands neither: what a command changes lies over them \
                            until a command or this verb takes it away.")]
    Unset {
        /// The key, such as pairing.ttl
        #[arg(required_unless_present = "all")]
        key: Option<String>,
        /// Every key that a command changed
        #[arg(long, conflicts_with = "key")]
        all: bool,
    },
}

#[derive(Serialize)]
struct Verdict {
    ok: bool,
    file: String,
    error: Option<String>,
    /// What could not be looked at from here.
    unseen: Vec<String>,
    /// What is taken, and may not be meant so.
    warnings: Vec<String>,
}

pub(super) fn check(terminal: &Terminal, path: &Path) -> Exit {
    let (Noted { unseen, warnings }, error) = match examine(path) {
        Ok(noted) => (noted, None),
        Err(error) => (Noted::default(), Some(error)),
    };
    let exit = if error.is_none() { Exit::Ok } else { Exit::Config };
    if let (Some(error), false) = (&error, terminal.is_json()) {
        terminal.progress(&clean(error));
        return exit;
    }
    for note in &unseen {
        terminal.progress(&clean(note));
    }
    for warning in &warnings {
        terminal.progress(&format!("warning: {}", clean(warning)));
    }
    let verdict = Verdict { ok: error.is_none(), file: path.display().to_string(), error, unseen, warnings };
    terminal.result(&verdict, |verdict| format!("{}: ok", clean(&verdict.file)));
    exit
}

/// What is said of a configuration that is taken.
#[derive(Default)]
struct Noted {
    unseen: Vec<String>,
    warnings: Vec<String>,
}

/// What the daemon would say at its start, of the files, and of the keys, secrets and places that they name.
fn examine(path: &Path) -> Result<Noted, String> {
    let config = config::load(path).map_err(|error| error.to_string())?;
    config::stages::examine(path, &config).map_err(|error| error.to_string())?;
    let unseen = config::secrets::examine(path, &config).map_err(|error| error.to_string())?;
    CommandKeys::of(&config.cloud).map_err(|error| error.to_string())?;
    check_subscribers(&config).map_err(|error| error.to_string())?;
    Ok(Noted { unseen, warnings: config::warnings(&config) })
}

/// The verbs that the daemon answers.
pub(super) async fn config(terminal: &Terminal, client: &Client, verb: Verb) -> Result<Exit, Failure> {
    match verb {
        Verb::Check(file) => return Ok(check(terminal, &file.config)),
        Verb::Show => {
            let shown: Configuration = client.get("/v1/config").await?;
            terminal.result(&shown, list);
        }
        Verb::Unset { key, all } => {
            let done: Unset = client.send(Method::POST, "/v1/config/unset", &UnsetRequest { key, all }).await?;
            terminal.result(&done, |done| match done.unset.as_slice() {
                [] => "Nothing lay over the files.".to_owned(),
                keys => format!("Back to the files: {}.", keys.join(", ")),
            });
        }
    }
    Ok(Exit::Ok)
}

fn list(shown: &Configuration) -> String {
    let rows: Vec<_> = shown.keys.iter().map(|key| vec![key.key.clone(), value(&key.value), origin(key)]).collect();
    let listed = table(&["KEY", "VALUE", "FROM"], &rows);
    match &shown.refused {
        Some(why) => format!("{listed}\nThe files as they are now would be refused: {}", clean(why)),
        None => listed,
    }
}

/// As in a file; a dash where nothing is set.
fn value(value: &Value) -> String {
    if value.is_null() { "-".to_owned() } else { value.to_string() }
}

fn origin(key: &ConfigKey) -> String {
    let mut text = match (&key.by, &key.file) {
        (Some(by), _) => {
            let at = key.at.as_deref().unwrap_or_default();
            format!("{by} at {at}; without it {}", value(key.beneath.as_ref().unwrap_or(&Value::Null)))
        }
        (None, Some(file)) => file.clone(),
        (None, None) => key.from.clone(),
    };
    if let Some(waiting) = &key.waiting {
        let _ = write!(text, "; {} waits for a restart", value(waiting));
    }
    text
}
