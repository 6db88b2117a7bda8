//! `backup`: moves a gateway to another board. Works on files alone, while the daemon is stopped.

use std::fmt::Display;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use super::exit::Exit;
use super::terminal::{Terminal, clean};
use crate::audit::Actor;
use crate::backup::{self, BackupError, Manifest, Unlock};
use crate::clock::Clock;
use crate::config::{self, Config, DEFAULT_PATH};
use crate::control::failure::Failure;
use crate::control::role::Caller;
use crate::secret::Secret;
use crate::secret_source::{SecretSource, Secrets};
use crate::store::{self, StoreError};

/// The verbs below `backup`.
#[derive(Debug, Subcommand)]
#[command(
    after_help = "Works on the files of a gateway that is stopped: systemctl stop clawgate.socket clawgate.service"
)]
pub(super) enum Verb {
    /// Write keys, pairings, waiting readings and the audit log to one sealed file
    #[command(after_help = BACKUP_HELP)]
    Create {
        /// The backup; must not exist
        file: PathBuf,
        /// Take this board out of service: it refuses to start from then on
        #[arg(long)]
        fence: bool,
        /// How it is sealed
        #[command(flatten)]
        seal: Seal,
    },
    /// Put a backup into the state directory of this board
    #[command(after_help = BACKUP_HELP)]
    Restore {
        /// The backup
        file: PathBuf,
        /// Also where sensors are paired with this board: its own state is set aside
        #[arg(long)]
        replace: bool,
        /// How it was sealed
        #[command(flatten)]
        seal: Seal,
    },
}

const BACKUP_HELP: &str = "The passphrase is asked for at the terminal, else read from standard input, or from where --passphrase \
    says: a file (\"/path\"), a systemd credential (\"credential:NAME\"), a variable (\"env:NAME\"), or the vault of the \
    configuration (\"vault:PATH#FIELD\"). Two boards must never \
    serve with the same backup: fence the old one (--fence), or destroy its state directory. Sensors notice nothing but \
    the interruption: every connection has fresh keys, and readings keep their names. The configuration in /etc/clawgate is \
    not in the backup.";

/// How a backup is sealed.
#[derive(Debug, Args)]
pub(super) struct Seal {
    /// A key file (32 bytes or 64 hexadecimal digits, mode 0600) instead of a passphrase
    #[arg(long, value_name = "FILE", conflicts_with = "passphrase")]
    key: Option<PathBuf>,
    /// Where the passphrase is, instead of asking for it
    #[arg(long, value_name = "PLACE")]
    passphrase: Option<SecretSource>,
    /// The configuration, which says where the state and the vault are
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
    config: PathBuf,
}

/// A stolen backup is tried offline: shorter ones would not stand that.
const LEAST_PASSPHRASE: usize = 12;

pub(super) fn backup(terminal: &Terminal, verb: &Verb) -> Result<Exit, Failure> {
    let (seal, file) = match verb {
        Verb::Create { seal, file, .. } | Verb::Restore { seal, file, .. } => (seal, file),
    };
    let config = config::load(&seal.config).map_err(|error| {
        Failure::new(Exit::Config, "config", error.to_string(), "Check it with: clawgate config check")
    })?;
    let unlock = unlock(seal, &config, matches!(verb, Verb::Create { .. }))?;
    let own = rustix::process::geteuid().as_raw();
    let actor: Actor = Caller::of(own, rustix::process::getegid().as_raw()).actor();
    let (done, said) = match verb {
        Verb::Create { fence, .. } => {
            let manifest = backup::create(&config, file, &unlock, *fence, actor).map_err(|error| refused(&error))?;
            let said = created(file, &manifest);
            (manifest, said)
        }
        Verb::Restore { replace, .. } => {
            let manifest = backup::restore(&config, file, &unlock, *replace, actor).map_err(|error| refused(&error))?;
            let said = restored(&config, &manifest);
            (manifest, said)
        }
    };
    terminal.result(&done, |_| said);
    Ok(Exit::Ok)
}

fn created(file: &Path, manifest: &Manifest) -> String {
    let fenced = if manifest.moved { "\nThis board does not serve any more." } else { "" };
    format!("{}: backup {} of {}.{fenced}", clean(&file.display().to_string()), manifest.id, clean(&manifest.gateway))
}

fn restored(config: &Config, manifest: &Manifest) -> String {
    let mut text =
        format!("Restored: backup {} of {}, made {}.", manifest.id, clean(&manifest.gateway), clean(&manifest.made));
    if manifest.gateway != config.gateway.id.as_str() {
        let (id, was) = (&config.gateway.id, &manifest.gateway);
        let differs =
            format!("\nThe configuration calls this gateway {id}: set gateway.id = {was:?}, or its topics change.");
        text.push_str(&differs);
    }
    if !manifest.moved {
        text += "\nThe old board was not fenced: make sure that it never serves again.";
    }
    text
}

fn refused(error: &BackupError) -> Failure {
    let next = match error {
        BackupError::Store(StoreError::Locked { .. }) => {
            "Stop the daemon: systemctl stop clawgate.socket clawgate.service"
        }
        BackupError::NotOpened => "Try the passphrase again, or another copy of the backup.",
        _ => "",
    };
    Failure::new(Exit::Failed, "backup", format!("{error}."), next)
}

/// The key file, or the passphrase: typed twice where it is new.
fn unlock(seal: &Seal, config: &Config, is_new: bool) -> Result<Unlock, Failure> {
    if let Some(path) = &seal.key {
        let key = store::read_key(path, &config.state_dir).map_err(|error| Failure::usage(error.to_string(), ""))?;
        return Ok(Unlock::Key(key));
    }
    let phrase = match &seal.passphrase {
        Some(source) => fetch(source, config)?,
        None => ask("Passphrase of the backup: ")?,
    };
    if is_new {
        if phrase.expose().chars().count() < LEAST_PASSPHRASE {
            let next = "Several words are easy to keep and hard to guess.";
            return Err(Failure::usage(format!("The passphrase needs {LEAST_PASSPHRASE} characters or more."), next));
        }
        let was_typed = seal.passphrase.is_none() && io::stdin().is_terminal();
        if was_typed && ask("The same again: ")? != phrase {
            return Err(Failure::usage("The two passphrases differ.", "Try it again."));
        }
    }
    Ok(Unlock::Passphrase(phrase))
}

/// The passphrase from its place; the end of a line does not belong to it, as when it is typed.
fn fetch(source: &SecretSource, config: &Config) -> Result<Secret<String>, Failure> {
    let refused = |error: &dyn Display| {
        let text = format!("The passphrase cannot be had: {error}.");
        Failure::new(Exit::Failed, "passphrase", text, "Nothing was read or written; or type it: without --passphrase.")
    };
    let bytes = Secrets::new(&config.vault, Clock::system()).read(source).map_err(|error| refused(&error))?;
    match std::str::from_utf8(bytes.expose()) {
        Ok(text) if !text.trim_end_matches(['\r', '\n']).is_empty() => {
            Ok(Secret::new(text.trim_end_matches(['\r', '\n']).to_owned()))
        }
        Ok(_) => Err(refused(&format_args!("{source} is empty"))),
        Err(_) => Err(refused(&format_args!("{source} is no text"))),
    }
}

/// A line from the terminal, not shown as it is typed; or from standard input.
fn ask(prompt: &str) -> Result<Secret<String>, Failure> {
    let input = io::stdin();
    let before = if input.is_terminal() { tcgetattr(&input).ok() } else { None };
    if let Some(shown) = &before {
        let _ = write!(io::stderr().lock(), "{prompt}");
        let mut hidden = shown.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        let _ = tcsetattr(&input, OptionalActions::Now, &hidden);
    }
    let mut text = String::new();
    let read = input.lock().read_line(&mut text);
    if let Some(shown) = &before {
        let _ = tcsetattr(&input, OptionalActions::Now, shown);
        let _ = writeln!(io::stderr().lock());
    }
    let phrase = Secret::new(text.trim_end_matches(['\r', '\n']).to_owned());
    zeroize::Zeroize::zeroize(&mut text);
    match read {
        Ok(_) if !phrase.expose().is_empty() => Ok(phrase),
        _ => Err(Failure::usage(
            "No passphrase was given.",
            "Type it, give it on standard input, or use --passphrase PLACE or --key FILE.",
        )),
    }
}
