//! `pair`: the code comes by prompt, standard input or environment; the stages are shown as they end.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::time::Duration;

use clap::Args;
use clawgate_protocol::code::{Code, CodeError};
use hyper::Method;

use super::args::{Limits, whole_seconds};
use super::client::Client;
use super::exit::Exit;
use super::terminal::{Terminal, clean, span};
use crate::control::api::{PairLine, PairRequest};
use crate::control::failure::Failure;

/// The variable that a script may put the code into.
const CODE_VARIABLE: &str = "OPENCLAW_PAIRING_CODE";
/// How often a typo is asked about again at a terminal.
const PROMPTS: usize = 3;

/// `pair`.
#[derive(Debug, Args)]
#[command(after_help = "The code is asked for at the terminal, else read from standard input or from the variable \
                        OPENCLAW_PAIRING_CODE. It is never an argument: arguments can be seen by every user.")]
pub(super) struct PairArgs {
    /// The sensor, as `scan` names it; or a device that is paired again
    target: String,
    /// The name it gets: 1 to 32 of a-z, 0-9, '_', '-'
    #[arg(long)]
    name: Option<String>,
    /// Make a code here, to be entered at the sensor
    #[arg(long)]
    issue: bool,
    /// Life of the code that is made
    #[arg(long, value_name = "DURATION", value_parser = whole_seconds, requires = "issue")]
    ttl: Option<Duration>,
    /// What its token grants (telemetry:write, command:read); may be given again
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// What its token is limited to
    #[command(flatten)]
    limits: Limits,
}

pub(super) async fn pair(terminal: &Terminal, client: &Client, args: PairArgs) -> Result<Exit, Failure> {
    let code = if args.issue { None } else { Some(read_code(terminal)?.to_string()) };
    let request = PairRequest {
        target: args.target,
        name: args.name,
        code,
        ttl_s: args.ttl.map(|ttl| ttl.as_secs()),
        scopes: args.scopes,
        addresses: args.limits.addresses,
        per_second: args.limits.per_second,
    };
    let mut lines = client.stream(Method::POST, "/v1/pair", Some(&request)).await?;
    while let Some(line) = lines.next_as::<PairLine>().await? {
        if terminal.is_json() {
            terminal.result(&line, |_| String::new());
        } else {
            show(terminal, &line);
        }
        // These two are the last ones; the daemon keeps the answer open until we go.
        match line {
            PairLine::Failed { exit_code, .. } => return Ok(Exit::of(exit_code)),
            PairLine::Paired { .. } => return Ok(Exit::Ok),
            PairLine::Code { .. } | PairLine::Stage { .. } | PairLine::Approval { .. } | PairLine::Decision { .. } => {}
        }
    }
    Ok(Exit::Failed)
}

fn show(terminal: &Terminal, line: &PairLine) {
    match line {
        PairLine::Code { code, qr, ttl_s, .. } => {
            terminal.progress(&super::code::picture(code, qr));
            terminal.progress(&format!("Enter this code at the sensor within {}.", span(*ttl_s)));
        }
        PairLine::Stage { stage, elapsed_ms, detail } => {
            let detail = detail.as_deref().map(|d| format!("{} ", clean(d))).unwrap_or_default();
            let ok = terminal.good("ok");
            terminal.progress(&format!(
                "  {:<13} {detail}{ok}  {}",
                clean(&stage.replace('_', " ")),
                took(*elapsed_ms)
            ));
        }
        PairLine::Approval { url, complete_url, code, left_s } => {
            let qr = complete_url.as_ref().unwrap_or(url);
            terminal.progress(&super::code::picture(&clean(code), qr));
            let within = span(*left_s);
            terminal.progress(&format!("Approve the device at {} with this code within {within}.", clean(url)));
        }
        PairLine::Decision { device, within_s } => terminal.progress(&format!(
            "{0} is paired and waits for the backend's yes, here for {1}. An admin may say it: clawgate devices approve {0}",
            clean(device),
            span(*within_s)
        )),
        PairLine::Failed { stage, message, next_step, .. } => {
            let failed = terminal.bad("FAILED");
            terminal.progress(&format!("  {:<13} {failed}", clean(&stage.replace('_', " "))));
            terminal.progress(&clean(message));
            if !next_step.is_empty() {
                terminal.progress(&format!("  {}", clean(next_step)));
            }
        }
        PairLine::Paired { device, fingerprint, confirmed_after_ms } => terminal.line(&format!(
            "{} is paired. Fingerprint {}; the cloud confirmed the first reading after {confirmed_after_ms} ms.",
            clean(device),
            clean(fingerprint)
        )),
    }
}

/// A time as people read it: `12 ms`, `0.4 s`.
fn took(ms: u64) -> String {
    if ms < 100 { format!("{} ms", ms.max(1)) } else { format!("{}.{} s", ms / 1000, ms % 1000 / 100) }
}

/// The code on the label, checked for typos before the sensor hears of it.
fn read_code(terminal: &Terminal) -> Result<Code, Failure> {
    if let Ok(text) = std::env::var(CODE_VARIABLE) {
        return parse(&text).map_err(|error| typo(error, &format!("Correct the variable {CODE_VARIABLE}.")));
    }
    if !io::stdin().is_terminal() {
        return parse(&read_line()?).map_err(|error| typo(error, "Correct the code on standard input."));
    }
    let mut left = PROMPTS;
    loop {
        let _ = write!(io::stderr().lock(), "Code on the sensor's label: ");
        let text = read_line()?;
        left -= 1;
        match parse(&text) {
            Ok(code) => return Ok(code),
            Err(error) if left > 0 => {
                terminal.progress(&format!("{} No attempt was used.", sentence(error)));
            }
            Err(error) => return Err(typo(error, "Read the label again; 0/O and 1/I/L are taken as the same.")),
        }
    }
}

fn read_line() -> Result<String, Failure> {
    let mut text = String::new();
    let read = io::stdin().lock().read_line(&mut text);
    if matches!(read, Ok(n) if n > 0) {
        return Ok(text);
    }
    Err(Failure::usage(
        "No code was given.",
        format!("Type it at the prompt, or give it on standard input or in {CODE_VARIABLE}; or make one with --issue."),
    ))
}

/// A code as typed, or as a scanner reads it from the QR.
fn parse(text: &str) -> Result<Code, CodeError> {
    let text = text.trim();
    if text.starts_with("CLAWGATE:") { Code::parse_qr(text).map(|(_, code)| code) } else { Code::parse(text) }
}

fn typo(error: CodeError, next_step: &str) -> Failure {
    Failure::new(Exit::WrongCode, "code_mistyped", format!("{} No attempt was used.", sentence(error)), next_step)
}

fn sentence(error: CodeError) -> String {
    let text = error.to_string();
    let mut letters = text.chars();
    let first = letters.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", letters.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_says_how_long_it_took() {
        assert_eq!([0, 99, 100, 12_345].map(took), ["1 ms", "99 ms", "0.1 s", "12.3 s"]);
    }

    #[test]
    fn a_typo_is_named_and_costs_nothing() {
        let failure = typo(parse("K7QF-3M9").unwrap_err(), "Look again.");
        assert_eq!(failure.exit_code, 4);
        assert_eq!(failure.message, "A pairing code has 8 symbols, this has 7. No attempt was used.");
    }
}
