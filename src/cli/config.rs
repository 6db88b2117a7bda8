//! `config check`: says whether the daemon would take the configuration.

use std::path::Path;

use serde::Serialize;

use super::exit::Exit;
use super::terminal::{Terminal, clean};
use crate::config;

#[derive(Serialize)]
struct Verdict {
    ok: bool,
    file: String,
    error: Option<String>,
}

pub(super) fn check(terminal: &Terminal, path: &Path) -> Exit {
    let examined = config::load(path).and_then(|config| config::stages::examine(path, &config));
    let refused = examined.err().map(|error| error.to_string());
    let exit = if refused.is_none() { Exit::Ok } else { Exit::Config };
    if let (Some(error), false) = (&refused, terminal.is_json()) {
        terminal.progress(&clean(error));
        return exit;
    }
    let verdict = Verdict { ok: refused.is_none(), file: path.display().to_string(), error: refused };
    terminal.result(&verdict, |verdict| format!("{}: ok", clean(&verdict.file)));
    exit
}
