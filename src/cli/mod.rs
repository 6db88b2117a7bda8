//! The command line: a client of the control socket, and the start of the daemon.
//!
//! Results go to standard output, progress to standard error, and every end has an exit code ([`exit`]).

mod args;
mod audit;
mod backup;
pub mod client;
mod client_key;
mod code;
mod config;
mod dead_letters;
#[cfg(feature = "demo")]
mod demo;
mod devices;
mod doctor;
mod enroll;
pub mod exit;
mod issuer;
mod key;
mod manual;
mod pair;
mod scan;
mod status;
pub mod terminal;
mod token;
mod watch;

use std::process::ExitCode;

use clap::Parser as _;
use hyper::Method;
use serde::Serialize;

use crate::control::api::Done;
use crate::control::failure::Failure;
use crate::daemon;
use args::{Cli, Command};
use client::Client;
use exit::Exit;
use terminal::{Terminal, clean};

/// A verb that is not for people: a simulated sensor.
#[cfg(feature = "demo")]
pub const SIMULATOR: &str = "simulator";

/// Runs one command; the whole of `main`.
#[must_use]
pub fn main() -> ExitCode {
    #[cfg(feature = "demo")]
    crate::demo::end_with_parent();
    #[cfg(feature = "demo")]
    if std::env::args_os().nth(1).is_some_and(|verb| verb == SIMULATOR) {
        // The sensors of the demo: this binary as another program, with a command line of its own.
        return clawgate_simulator::main_with(std::env::args_os().skip(1));
    }
    run().into()
}

fn run() -> Exit {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let wrong = error.use_stderr();
            if wrong && asks_for_json() {
                return ended(&Terminal::new(true), Err(mistyped(&error)));
            }
            let _ = error.print();
            return if wrong { Exit::Usage } else { Exit::Ok };
        }
    };
    let terminal = Terminal::new(cli.common.json);
    match cli.command {
        Command::Run(file) => daemon::run(&file.config),
        Command::Audit(audit::Verb::Verify { state_dir, key, anchor }) => {
            ended(&terminal, audit::verify(&terminal, &state_dir, key, anchor.as_deref()))
        }
        Command::Config(config::Verb::Check(file)) => config::check(&terminal, &file.config),
        Command::Backup(verb) => ended(&terminal, backup::backup(&terminal, &verb)),
        Command::Completions { shell } => manual::completions(&terminal, shell),
        Command::Man { dir } => ended(&terminal, manual::pages(&terminal, dir.as_deref())),
        Command::Enroll(asked) => ended(&terminal, enroll::enroll(&terminal, &asked)),
        Command::Issuer(issuer::Verb::Key { file }) => ended(&terminal, issuer::key(&terminal, &file)),
        Command::Issuer(issuer::Verb::Rotate { now, config }) => {
            ended(&terminal, issuer::rotate(&terminal, &config, now))
        }
        command => {
            let client = Client::new(&cli.common.socket);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let result = match runtime {
                Ok(runtime) => runtime.block_on(ask(&terminal, &client, command)),
                Err(error) => Err(Failure::internal(&error)),
            };
            ended(&terminal, result)
        }
    }
}

/// Whether a command line that could not be read asks for JSON.
fn asks_for_json() -> bool {
    let is_true = |text: String| matches!(text.to_lowercase().as_str(), "y" | "yes" | "t" | "true" | "on" | "1");
    std::env::args_os().any(|argument| argument == "--json") || std::env::var("OPENCLAW_JSON").is_ok_and(is_true)
}

/// What is wrong with a command line, without the help that a person gets.
fn mistyped(error: &clap::Error) -> Failure {
    let text = error.render().to_string();
    let said = text.split("\n\nUsage:").next().unwrap_or_default();
    let said = said.strip_prefix("error: ").unwrap_or(said).split("\n\nFor more").next().unwrap_or_default();
    Failure::usage(said.split_whitespace().collect::<Vec<_>>().join(" "), "See clawgate help VERB.")
}

/// The verbs that the daemon answers.
async fn ask(terminal: &Terminal, client: &Client, command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Scan { time } => scan::scan(terminal, client, time).await,
        Command::Identify { target } => scan::identify(terminal, client, target).await,
        Command::Pair(pair) => pair::pair(terminal, client, pair).await,
        Command::Unpair { device } => devices::unpair(terminal, client, &device).await,
        Command::Devices(verb) => devices::devices(terminal, client, verb).await,
        Command::Code(verb) => code::code(terminal, client, verb).await,
        Command::Token(verb) => token::token(terminal, client, verb).await,
        Command::DeadLetters(verb) => dead_letters::dead_letters(terminal, client, verb).await,
        Command::Key(verb) => key::key(terminal, client, verb).await,
        Command::Config(verb) => config::config(terminal, client, verb).await,
        Command::Status => status::status(terminal, client).await,
        Command::Watch => watch::watch(terminal, client).await,
        Command::Doctor(file) => doctor::doctor(terminal, client, &file.config).await,
        Command::Issuer(issuer::Verb::Serve { config }) => issuer::serve(terminal, &config).await,
        Command::Issuer(issuer::Verb::Token(asked)) => issuer::token(terminal, &asked).await,
        #[cfg(feature = "demo")]
        Command::Demo(asked) => demo::demo(terminal, &asked).await,
        #[cfg(feature = "demo")]
        Command::DemoSubscriber(options) => demo::subscriber(options).await,
        Command::Audit(verb) => audit::audit(terminal, client, verb).await,
        // The others need no daemon and were done before.
        Command::Run(_)
        | Command::Backup(_)
        | Command::Enroll(_)
        | Command::Issuer(issuer::Verb::Key { .. } | issuer::Verb::Rotate { .. })
        | Command::Completions { .. }
        | Command::Man { .. } => Ok(Exit::Ok),
    }
}

/// Has the daemon do something, and says what was done.
async fn order(
    terminal: &Terminal,
    client: &Client,
    method: Method,
    path: &str,
    body: &impl Serialize,
) -> Result<(), Failure> {
    let done: Done = client.send(method, path, body).await?;
    terminal.result(&done, |done| clean(&done.done));
    Ok(())
}

/// Says a refusal: words on standard error, or the failure as JSON on standard output.
fn ended(terminal: &Terminal, result: Result<Exit, Failure>) -> Exit {
    match result {
        Ok(exit) => exit,
        Err(failure) => {
            if terminal.is_json() {
                terminal.result(&failure, |_| String::new());
            }
            terminal.progress(&terminal.bad(&clean(&failure.message)));
            if !failure.next_step.is_empty() {
                terminal.progress(&format!("  {}", clean(&failure.next_step)));
            }
            Exit::of(failure.exit_code)
        }
    }
}

/// A path of the control API with one part that a person typed.
fn path(before: &str, part: &str, after: &str) -> Result<String, Failure> {
    Ok(format!("{before}/{}{after}", name(part)?))
}

/// What a person typed as a name, if it can be one.
fn name(text: &str) -> Result<&str, Failure> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if text.is_empty() || text.len() > 64 || !text.chars().all(plain) {
        return Err(Failure::usage(format!("{text:?} is not a name: it has letters, digits, '_' and '-'."), ""));
    }
    Ok(text)
}
