//! `completions` and `man`: made from the same definitions as `--help`.

use std::path::Path;

use clap::CommandFactory as _;

use super::args::Cli;
use super::exit::Exit;
use super::terminal::Terminal;
use crate::control::failure::Failure;

pub(super) fn completions(terminal: &Terminal, shell: clap_complete::Shell) -> Exit {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "clawgate", &mut text);
    if terminal.raw(&text) { Exit::Ok } else { Exit::Failed }
}

pub(super) fn pages(terminal: &Terminal, dir: Option<&Path>) -> Result<Exit, Failure> {
    if let Some(dir) = dir {
        clap_mangen::generate_to(Cli::command(), dir).map_err(|error| {
            Failure::usage(
                format!("{}: the pages cannot be written: {error}.", dir.display()),
                "Name a directory that exists.",
            )
        })?;
        return Ok(Exit::Ok);
    }
    let mut text = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut text).map_err(|error| Failure::internal(&error))?;
    Ok(if terminal.raw(&text) { Exit::Ok } else { Exit::Failed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_hold_together() {
        Cli::command().debug_assert();
    }
}
