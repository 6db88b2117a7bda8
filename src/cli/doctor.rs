//! `doctor`: what works here, what does not, and what to do; exit code 8 when something does not.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::client::Client;
use super::exit::Exit;
use super::terminal::{Terminal, clean};
use crate::config;
use crate::control::api::{Health, Status};
use crate::control::failure::Failure;
use crate::doctor::{self, Asked, Finding, Level};

/// A daemon that does not say how it is within this time is not well.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Serialize)]
struct Report {
    health: Health,
    findings: Vec<Finding>,
}

pub(super) async fn doctor(terminal: &Terminal, client: &Client, config_file: &Path) -> Result<Exit, Failure> {
    let asked = ask(client).await;
    let file = config_file.to_owned();
    let look = move || doctor::examine(config::load(&file), &file, &asked);
    let findings = tokio::task::spawn_blocking(look).await.map_err(|error| Failure::internal(&error))?;
    let well = findings.iter().all(|finding| finding.level != Level::Problem);
    let report = Report { health: if well { Health::Ok } else { Health::Degraded }, findings };
    terminal.result(&report, |report| words(terminal, report));
    Ok(if well { Exit::Ok } else { Exit::Degraded })
}

/// How the daemon is, by its own word; not started for the question.
async fn ask(client: &Client) -> Asked {
    doctor::daemon_pid()?;
    let answer = tokio::time::timeout(PATIENCE, client.get::<Status>("/v1/status")).await;
    Some(match answer {
        Ok(answer) => answer.map_err(|failure| failure.to_string()),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    })
}

fn words(terminal: &Terminal, report: &Report) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        let level = match finding.level {
            Level::Ok => terminal.good("ok     "),
            Level::Advice => "advice ".to_owned(),
            Level::Problem => terminal.bad("problem"),
        };
        let _ = writeln!(text, "{level}  {:<14}  {}", clean(&finding.part), clean(&finding.message));
        if !finding.next_step.is_empty() {
            let _ = writeln!(text, "{:25}{}", "", clean(&finding.next_step));
        }
    }
    text
}
