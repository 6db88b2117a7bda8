//! The command line as a person types it: the verbs, and what several of them take. What only one takes stands with it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

#[cfg(feature = "demo")]
use super::demo::DemoArgs;
use super::enroll::EnrollArgs;
use super::pair::PairArgs;
use super::{audit, backup, code, config, dead_letters, devices, issuer, key, token};
use crate::config::{DEFAULT_PATH, parse_duration};
use crate::control::api::WhyRequest;

/// Where the package puts the daemon's socket.
const DEFAULT_SOCKET: &str = "/run/clawgate/control.sock";

/// The OpenClaw pairing agent: pairs sensors by a short code and relays their readings, each under its own token.
#[derive(Debug, Parser)]
#[command(name = "clawgate", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 wrong code, 5 time-out, \
                        6 radio or port, 7 cloud or token, 8 degraded, 78 config.")]
pub(super) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(super) command: Command,
    /// Options of every verb.
    #[command(flatten)]
    pub(super) common: Common,
}

/// Options of every verb.
#[derive(Debug, Args)]
pub(super) struct Common {
    /// The daemon's control socket
    #[arg(long, global = true, value_name = "PATH", env = "OPENCLAW_SOCKET", default_value_os_t = default_socket())]
    pub(super) socket: PathBuf,
    /// Results as JSON on standard output
    #[arg(long, global = true, env = "OPENCLAW_JSON", value_parser = clap::builder::BoolishValueParser::new())]
    pub(super) json: bool,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the daemon in the foreground (systemd does)
    Run(ConfigFile),
    /// List the sensors in reach
    Scan {
        /// Look for so long, and list each sensor as it comes
        #[arg(long = "for", value_name = "DURATION", value_parser = duration, default_value = "2s")]
        time: Duration,
    },
    /// Make a sensor blink, to see which one it is
    Identify {
        /// The sensor, as `scan` names it
        target: String,
    },
    /// Pair a sensor by the code on its label, or by one made here and entered there
    Pair(PairArgs),
    /// Forget a device: its keys, its token, its topics
    Unpair {
        /// The device
        device: String,
    },
    /// The paired devices
    #[command(subcommand)]
    Devices(devices::Verb),
    /// Pairing codes made here
    #[command(subcommand)]
    Code(code::Verb),
    /// The devices' access tokens
    #[command(subcommand)]
    Token(token::Verb),
    /// Readings that the broker refused for good
    #[command(subcommand)]
    DeadLetters(dead_letters::Verb),
    /// The gateway's own keys
    #[command(subcommand)]
    Key(key::Verb),
    /// How the gateway is; exits 8 when something is not well
    Status,
    /// Follow what happens, until interrupted
    Watch,
    /// What works on this machine, what does not, and what to do; exits 8 when something does not
    #[command(
        after_help = "Works with the daemon stopped, and starts nothing. As root it sees more: who holds a port, \
                            where the master key is."
    )]
    Doctor(ConfigFile),
    /// The audit log
    #[command(subcommand)]
    Audit(audit::Verb),
    /// The configuration
    #[command(subcommand)]
    Config(config::Verb),
    /// Move a gateway to another board
    #[command(subcommand)]
    Backup(backup::Verb),
    /// Make this gateway's key, and register it at the issuer (issuer.kind = "oauth")
    #[command(after_help = "With an initial access token in OPENCLAW_ENROLL_TOKEN, or on standard input with \
                            --token-stdin, the gateway registers itself (RFC 7591); without one its public key is \
                            shown, to be registered by hand. Run again, nothing is registered twice.")]
    Enroll(EnrollArgs),
    /// The local issuer alone, and what its clients need
    #[command(subcommand)]
    Issuer(issuer::Verb),
    /// Show it all on this machine: the daemon, simulated sensors, a subscriber; no cloud, no root
    #[cfg(feature = "demo")]
    Demo(DemoArgs),
    /// A process of the demonstration
    #[cfg(feature = "demo")]
    #[command(hide = true)]
    DemoSubscriber(crate::demo::subscriber::SubscriberOptions),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write all of them
    Man {
        /// Write a page for each verb into this directory
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

/// Where the configuration is.
#[derive(Debug, Args)]
pub(super) struct ConfigFile {
    /// The main file; conf.d/*.toml beside it is merged in
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
    pub(super) config: PathBuf,
}

/// Why something is done.
#[derive(Debug, Args)]
pub(super) struct Why {
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT", default_value = "", env = "OPENCLAW_WHY")]
    pub(super) why: String,
}

impl From<Why> for WhyRequest {
    fn from(Why { why }: Why) -> Self {
        Self { why }
    }
}

/// What a device's token is limited to; the broker keeps it.
#[derive(Debug, Args)]
pub(super) struct Limits {
    /// From where the device's token may be used (192.0.2.0/24, 2001:db8::/32); may be given again
    #[arg(long = "allow-address", value_name = "CIDR", env = "OPENCLAW_ALLOW_ADDRESSES", value_delimiter = ',')]
    pub(super) addresses: Vec<String>,
    /// Publishes a second that the device's token allows
    #[arg(long = "rate", value_name = "N", env = "OPENCLAW_RATE")]
    pub(super) per_second: Option<u32>,
}

/// Where the daemon's socket is, unless said otherwise.
fn default_socket() -> PathBuf {
    std::env::var_os("CLAWGATE_SOCKET").map_or_else(|| DEFAULT_SOCKET.into(), PathBuf::from)
}

/// The life of a code and the like: the gateway counts them in seconds.
pub(super) fn whole_seconds(text: &str) -> Result<Duration, String> {
    let whole = |d: &Duration| !d.is_zero() && d.subsec_nanos() == 0;
    parse_duration(text)
        .filter(whole)
        .ok_or_else(|| "whole seconds, as a number and s, m, h or d, such as 30s or 10m".to_owned())
}

/// A duration that is not zero.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).filter(|d| !d.is_zero()).ok_or_else(|| "a number and ms, s, m, h or d, such as 30s".to_owned())
}
