//! `audit`: verify reads the files alone; tail and export ask the daemon.

use std::fmt::{Display, Write as _};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use hyper::Method;

use super::client::Client;
use super::exit::Exit;
use super::terminal::{Terminal, clean};
use crate::audit::{self, Checkpoint, Digest, Entry, Outcome, Report, Trust};
use crate::clock::Clock;
use crate::config::parse_duration;
use crate::control::failure::Failure;

/// The verbs below `audit`.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Check the log on disk; works without the daemon
    Verify {
        /// The state directory, its folder audit, or a copy of either
        #[arg(long, value_name = "DIR", default_value = "/var/lib/clawgate")]
        state_dir: PathBuf,
        /// The public key that must have signed it, 64 hexadecimal digits; `audit verify` prints it
        #[arg(long, value_name = "HEX")]
        key: Option<Digest>,
        /// A checkpoint or an export of this log that was kept elsewhere; shows also a log that was cut with its
        /// checkpoint
        #[arg(long, value_name = "FILE")]
        anchor: Option<PathBuf>,
    },
    /// Show the last entries
    Tail {
        /// So many
        #[arg(long, short = 'n', default_value_t = 20)]
        lines: usize,
    },
    /// Write the log to standard output, a JSON object a line, and its signed checkpoint last
    Export {
        /// Only lines after the one with this number (`seq`): go on where the last export ended
        #[arg(long, value_name = "N")]
        after: Option<u64>,
        /// Only lines from this time on: 2026-03-01T00:00:00Z, or a time back from now such as 2h
        #[arg(long, value_name = "TIME", value_parser = since)]
        since: Option<i64>,
        /// Go on with each new line until interrupted; no checkpoint ends it
        #[arg(long)]
        follow: bool,
    },
}

pub(super) fn verify(
    terminal: &Terminal,
    state_dir: &Path,
    key: Option<Digest>,
    anchor: Option<&Path>,
) -> Result<Exit, Failure> {
    let unreadable = |dir: &Path, error: &dyn Display| {
        let text = format!("{}: cannot be read: {error}.", dir.display());
        Failure::new(Exit::Failed, "unreadable", text, "Run it as root or as the user of clawgate.")
    };
    let Some(dir) = folder(state_dir).map_err(|error| unreadable(state_dir, &error))? else {
        let text = format!("{}: there is no audit log here.", state_dir.display());
        return Err(Failure::not_found(
            text,
            "Name the state directory, its folder audit, or a copy, with --state-dir.",
        ));
    };
    let anchor = anchor.map(read_anchor).transpose()?;
    let report = audit::verify(&dir, &Trust { key, anchor }).map_err(|error| unreadable(&dir, &error))?;
    terminal.result(&report, |report| words(terminal, report));
    Ok(if report.is_whole() { Exit::Ok } else { Exit::Failed })
}

/// The log's folder: that of a state directory, or itself, for an auditor has a copy of it alone.
fn folder(named: &Path) -> io::Result<Option<PathBuf>> {
    let inside = named.join("audit");
    if inside.try_exists()? {
        return Ok(Some(inside));
    }
    if !named.try_exists()? {
        return Ok(None);
    }
    let is_of_a_log = |name: &str| name == "checkpoint.json" || name.starts_with("audit-");
    let is_log = fs::read_dir(named)?.flatten().any(|file| file.file_name().to_str().is_some_and(is_of_a_log));
    Ok(is_log.then(|| named.to_owned()))
}

/// A checkpoint that was kept elsewhere.
fn read_anchor(path: &Path) -> Result<Checkpoint, Failure> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string());
    let anchor = text.and_then(|text| Checkpoint::from_text(&text).ok_or("it ends with no checkpoint".to_owned()));
    anchor.map_err(|why| {
        let next = "Name a copy of audit/checkpoint.json, or of what clawgate audit export wrote.";
        Failure::usage(format!("{}: {why}.", path.display()), next)
    })
}

fn words(terminal: &Terminal, report: &Report) -> String {
    let mut text = String::new();
    let verdict = if report.is_whole() { terminal.good("whole") } else { terminal.bad("NOT WHOLE") };
    let _ = writeln!(text, "{verdict}: {} entries, {} of them signed", report.lines, report.signed);
    for (name, digest) in [("root", report.root), ("key", report.key)] {
        if let Some(digest) = digest {
            let _ = writeln!(text, "{name:<5} {digest}");
        }
    }
    for finding in &report.findings {
        let line = finding.line.map(|line| format!(":{line}")).unwrap_or_default();
        let _ = writeln!(text, "{}{line}: {}", clean(&finding.file.display().to_string()), clean(&finding.what));
    }
    for note in &report.notes {
        let _ = writeln!(text, "note: {}", clean(note));
    }
    text
}

pub(super) async fn audit(terminal: &Terminal, client: &Client, verb: Verb) -> Result<Exit, Failure> {
    match verb {
        Verb::Tail { lines } => {
            let entries: Vec<Entry> = client.get(&format!("/v1/audit?lines={lines}")).await?;
            terminal.result(&entries, |entries| entries.iter().map(line).collect());
        }
        Verb::Export { after, since, follow } => {
            let mut path = format!("/v1/audit/export?follow={follow}");
            for (name, value) in [("after", after.map(|n| n.to_string())), ("since_ms", since.map(|n| n.to_string()))] {
                if let Some(value) = value {
                    let _ = write!(path, "&{name}={value}");
                }
            }
            let mut lines = client.stream(Method::GET, &path, None::<&()>).await?;
            let mut expected = after.map(|after| after.saturating_add(1)).filter(|_| since.is_none());
            while let Some(mut line) = lines.next().await? {
                if let Some(expected) = expected.take() {
                    missed(terminal, expected, &line);
                }
                line.push(b'\n');
                if !terminal.raw(&line) {
                    return Ok(Exit::Failed);
                }
            }
        }
        // Needs no daemon and was done before.
        Verb::Verify { .. } => {}
    }
    Ok(Exit::Ok)
}

/// Says so where the log no longer has what the reader has not seen yet.
fn missed(terminal: &Terminal, expected: u64, line: &[u8]) {
    let first = serde_json::from_slice::<Entry>(line).map_or(expected, |entry| entry.seq);
    if first > expected {
        let last = first - 1;
        terminal
            .progress(&format!("Lines {expected} to {last} are no longer kept here: see [audit] in clawgate.toml."));
    }
}

fn line(entry: &Entry) -> String {
    let outcome = match entry.outcome {
        Outcome::Ok => "ok",
        Outcome::Refused => "refused",
        Outcome::Failed => "FAILED",
    };
    let reason = entry.reason.as_deref().map(|reason| format!(": {}", clean(reason))).unwrap_or_default();
    format!(
        "{}  {} {} by {} {outcome}{reason}\n",
        clean(&entry.time),
        clean(&entry.action),
        clean(&entry.subject),
        clean(&entry.actor.to_string())
    )
}

/// A time or a duration back from now, in milliseconds since 1970.
fn since(text: &str) -> Result<i64, String> {
    if let Some(back) = parse_duration(text) {
        let then = Clock::system().wall().saturating_sub(back);
        return Ok(i64::try_from(then.as_millis()).unwrap_or(i64::MAX));
    }
    let time = text.parse::<jiff::Timestamp>().map(jiff::Timestamp::as_millisecond);
    time.map_err(|_| "a time such as 2026-03-01T00:00:00Z, or a time back from now such as 2h".to_owned())
}
