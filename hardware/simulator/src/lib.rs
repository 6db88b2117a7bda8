//! A simulated sensor: a separate program that speaks the clawgate protocol over any tty, or over BLE through
//! a radio of somebody else's, and knows nothing of the gateway's code. It sends real readings of the machine it runs on, rows of a CSV file, or as many
//! readings as the line takes.
//!
//! [`main_with`] is the whole program, so that another binary can start itself as a sensor.

mod air;
mod command;
mod journal;
mod line;
mod options;
mod readings;
mod run;
mod store;
mod tty;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

use options::Options;

/// Runs the simulator with these arguments, the program's name first, until it is told to quit.
///
/// Exit codes: 0 told to quit, 1 anything else, 2 usage, 6 the port.
pub fn main_with(args: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> ExitCode {
    let options = match Options::try_parse_from(args) {
        Ok(options) => options,
        Err(error) => {
            // Help goes to stdout, a usage error to stderr; nobody is left to tell if that fails.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    match run::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "clawgate-simulator: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// One line on stdout, at once. Whoever does not read it misses it.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}
