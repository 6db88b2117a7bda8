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
}

pub(super) fn check(terminal: &Terminal, path: &Path) -> Exit {
    let refused = examine(path).err();
    let exit = if refused.is_none() { Exit::Ok } else { Exit::Config };
    if let (Some(error), false) = (&refused, terminal.is_json()) {
        terminal.progress(&clean(error));
        return exit;
    }
    let verdict = Verdict { ok: refused.is_none(), file: path.display().to_string(), error: refused };
    terminal.result(&verdict, |verdict| format!("{}: ok", clean(&verdict.file)));
    exit
}

/// What the daemon would say at its start, of the files and of the keys that they name.
fn examine(path: &Path) -> Result<(), String> {
    let config = config::load(path).map_err(|error| error.to_string())?;
    config::stages::examine(path, &config).map_err(|error| error.to_string())?;
    CommandKeys::of(&config.cloud).map(drop).map_err(|error| error.to_string())
}
