//! `config check`: says whether the daemon would take the configuration.

use std::path::Path;

use serde::Serialize;

use super::exit::Exit;
use super::terminal::{Terminal, clean};
use crate::config;
use crate::principal::command::CommandKeys;

#[derive(Serialize)]
struct Verdict {
    ok: bool,
    file: String,
    error: Option<String>,
    /// What could not be looked at from here.
    unseen: Vec<String>,
}

pub(super) fn check(terminal: &Terminal, path: &Path) -> Exit {
    let (unseen, error) = match examine(path) {
        Ok(unseen) => (unseen, None),
        Err(error) => (Vec::new(), Some(error)),
    };
    let exit = if error.is_none() { Exit::Ok } else { Exit::Config };
    if let (Some(error), false) = (&error, terminal.is_json()) {
        terminal.progress(&clean(error));
        return exit;
    }
    for note in &unseen {
        terminal.progress(&clean(note));
    }
    let verdict = Verdict { ok: error.is_none(), file: path.display().to_string(), error, unseen };
    terminal.result(&verdict, |verdict| format!("{}: ok", clean(&verdict.file)));
    exit
}

/// What the daemon would say at its start, of the files, and of the keys and secrets that they name; what of them could
/// not be seen from here.
fn examine(path: &Path) -> Result<Vec<String>, String> {
    let config = config::load(path).map_err(|error| error.to_string())?;
    config::stages::examine(path, &config).map_err(|error| error.to_string())?;
    let unseen = config::secrets::examine(path, &config).map_err(|error| error.to_string())?;
    CommandKeys::of(&config.cloud).map_err(|error| error.to_string())?;
    Ok(unseen)
}
