//! `clawgate doctor`: what works on this machine, what does not, and what a person does about it.
//!
//! The probes ([`probe`], [`broker`]) look at the machine and judge nothing; the judgements ([`judge`]) are plain
//! functions over what was seen. Works with the daemon stopped, starts nothing, writes to no port.

mod broker;
mod certificate;
mod judge;
mod probe;

use std::path::Path;

use serde::Serialize;

use crate::clock::Clock;
use crate::config::{self, Config, ConfigError, IssuerKind, Mode, places, secrets};
use crate::control::api::Status;

pub(crate) use certificate::not_after;
pub(crate) use probe::daemon_pid;

/// How one thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// As it should be.
    Ok,
    /// Works, and could be better; or is not there and may be missed.
    Advice,
    /// Does not work.
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What it is about: `clock`, `broker`, `port line1`, ...
    pub(crate) part: String,
    /// How it is.
    pub(crate) level: Level,
    /// What was seen.
    pub(crate) message: String,
    /// What a person does now; empty where nothing is to be done.
    pub(crate) next_step: String,
}

impl Finding {
    fn ok(part: impl Into<String>, message: impl Into<String>) -> Self {
        Self { part: part.into(), level: Level::Ok, message: message.into(), next_step: String::new() }
    }

    fn advice(part: impl Into<String>, message: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self { part: part.into(), level: Level::Advice, message: message.into(), next_step: next_step.into() }
    }

    fn problem(part: impl Into<String>, message: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self { part: part.into(), level: Level::Problem, message: message.into(), next_step: next_step.into() }
    }
}

/// What the daemon said, asked before: absent where none runs, a reason where it does not answer.
pub(crate) type Asked = Option<Result<Status, String>>;

/// Looks at everything. `config` as it was loaded, or why it was refused.
pub(crate) fn examine(config: Result<Config, ConfigError>, config_file: &Path, asked: &Asked) -> Vec<Finding> {
    let mut findings = vec![judge::configuration(config_file, config.as_ref().err())];
    // What does not hang on the configuration is looked at by its defaults.
    let config = config.unwrap_or_default();
    let clock = Clock::system();
    findings.extend(judge::daemon(asked, probe::has_systemd()));
    findings.push(judge::clock(&probe::clock(&clock)));
    findings.extend(judge::bluetooth(&probe::bluetooth()));
    findings.push(judge::users(&probe::users()));
    let modem_manager = probe::runs("ModemManager");
    findings.extend(probe::ports(&config).iter().map(|port| judge::port(port, asked, modem_manager)));
    if config.uart.ports.is_empty() {
        findings.push(judge::no_ports());
    }
    if let (Mode::Relay, Some(url)) = (config.mode, &config.broker.url) {
        findings.push(judge::broker(url, &broker::reach(&config, url), clock.wall()));
    }
    if let (IssuerKind::Oauth, Some(url)) = (config.issuer.kind, &config.issuer.url) {
        findings.push(judge::issuer(url, &broker::ask_issuer(&config, url)));
    }
    findings.extend(config::warnings(&config).into_iter().map(|words| Finding::advice("config", words, "")));
    findings.extend(places::look(&config).iter().filter_map(judge::place));
    findings.extend(secrets::look(&config, true).iter().map(judge::secret));
    for (key, words, next, left_s) in crate::daemon::ending_certificates(&config, clock.wall().as_secs()) {
        let level = if left_s == 0 { Finding::problem } else { Finding::advice };
        findings.push(level(key, words, next));
    }
    findings.push(judge::spool(asked, config.spool.max_bytes));
    findings.push(judge::disk(&config.state_dir, probe::disk(&config.state_dir), config.spool.max_bytes));
    findings.push(judge::master_key(&probe::master_key(&config)));
    findings
}
