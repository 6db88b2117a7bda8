//! The command line as a person types it. What is not here does not exist; what is here was seen working.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::audit::Digest;
use crate::clock::Clock;
use crate::config::{DEFAULT_PATH, parse_duration};
use crate::control::api::WhyRequest;
use crate::secret_source::SecretSource;

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
    Pair(Pair),
    /// Forget a device: its keys, its token, its topics
    Unpair {
        /// The device
        device: String,
    },
    /// The paired devices
    #[command(subcommand)]
    Devices(Devices),
    /// Pairing codes made here
    #[command(subcommand)]
    Code(Code),
    /// The devices' access tokens
    #[command(subcommand)]
    Token(Token),
    /// Readings that the broker refused for good
    #[command(subcommand)]
    DeadLetters(DeadLetters),
    /// The gateway's own keys
    #[command(subcommand)]
    Key(Key),
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
    Audit(Audit),
    /// The configuration
    #[command(subcommand)]
    Config(Config),
    /// Move a gateway to another board
    #[command(subcommand)]
    Backup(Backup),
    /// Make this gateway's key, and register it at the issuer (issuer.kind = "oauth")
    #[command(after_help = "With an initial access token in OPENCLAW_ENROLL_TOKEN, or on standard input with \
                            --token-stdin, the gateway registers itself (RFC 7591); without one its public key is \
                            shown, to be registered by hand. Run again, nothing is registered twice.")]
    Enroll(Enroll),
    /// The local issuer alone, and what its clients need
    #[command(subcommand)]
    Issuer(Issuer),
    /// Show it all on this machine: the daemon, simulated sensors, a subscriber; no cloud, no root
    #[cfg(feature = "demo")]
    Demo(Demo),
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

/// `demo`.
#[cfg(feature = "demo")]
#[derive(Debug, Args)]
pub(super) struct Demo {
    /// End by itself so long after the first pairing, and count what arrived
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    pub(super) time: Option<Duration>,
    /// So many sensors
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=32))]
    pub(super) sensors: u8,
}

/// `enroll`.
#[derive(Debug, Args)]
pub(super) struct Enroll {
    /// Where the configuration is
    #[command(flatten)]
    pub(super) file: ConfigFile,
    /// Read the initial access token from standard input
    #[arg(long)]
    pub(super) token_stdin: bool,
}

/// `pair`.
#[derive(Debug, Args)]
#[command(after_help = "The code is asked for at the terminal, else read from standard input or from the variable \
                        OPENCLAW_PAIRING_CODE. It is never an argument: arguments can be seen by every user.")]
pub(super) struct Pair {
    /// The sensor, as `scan` names it; or a device that is paired again
    pub(super) target: String,
    /// The name it gets: 1 to 32 of a-z, 0-9, '_', '-'
    #[arg(long)]
    pub(super) name: Option<String>,
    /// Make a code here, to be entered at the sensor
    #[arg(long)]
    pub(super) issue: bool,
    /// Life of the code that is made
    #[arg(long, value_name = "DURATION", value_parser = duration, requires = "issue")]
    pub(super) ttl: Option<Duration>,
    /// What its token grants (telemetry:write, command:read); may be given again
    #[arg(long = "scope", value_name = "SCOPE")]
    pub(super) scopes: Vec<String>,
    /// What its token is limited to
    #[command(flatten)]
    pub(super) limits: Limits,
}

/// `devices`.
#[derive(Debug, Subcommand)]
pub(super) enum Devices {
    /// List them
    Ls,
    /// Show one
    Show {
        /// The device
        device: String,
    },
    /// Let one into service that waits for the backend's yes
    Approve {
        /// The device
        device: String,
        /// Why it is done
        #[command(flatten)]
        why: Why,
    },
    /// Say no to one that waits for the backend's yes: it is unpaired
    Reject {
        /// The device
        device: String,
        /// Why it is done
        #[command(flatten)]
        why: Why,
    },
    /// Give one another name: its topics and its token change with it
    Rename {
        /// The device
        device: String,
        /// The new name
        name: String,
    },
}

/// `code`.
#[derive(Debug, Subcommand)]
pub(super) enum Code {
    /// Make a code, to be entered at a sensor; shown once
    New(NewCode),
    /// Show one: what it grants, who made it, what became of it; never the code itself
    Show {
        /// Its id, ocpc_...
        id: String,
    },
    /// List them; never the codes themselves
    Ls,
    /// End one now
    Revoke {
        /// Its id, ocpc_...
        id: String,
        /// Why it is done
        #[command(flatten)]
        why: Why,
    },
    /// Say what became of one, and how to go on
    Explain {
        /// Its id, ocpc_...
        id: String,
    },
}

/// `code new`.
#[derive(Debug, Args)]
pub(super) struct NewCode {
    /// One code for one key: asked again with it, the same id comes, and no other code is made
    #[arg(long, value_name = "KEY", env = "OPENCLAW_IDEMPOTENCY_KEY")]
    pub(super) idempotency_key: Option<String>,
    /// The name that the sensor gets
    #[arg(long, value_name = "NAME", env = "OPENCLAW_DEVICE")]
    pub(super) device: Option<String>,
    /// The one sensor it is for, by its own id; without it the first to claim it
    #[arg(long, value_name = "SENSOR", env = "OPENCLAW_SENSOR")]
    pub(super) sensor: Option<String>,
    /// Where the device will serve: dev, staging or prod; must be this gateway's stage
    #[arg(long, value_name = "STAGE", env = "OPENCLAW_STAGE")]
    pub(super) stage: Option<String>,
    /// What it is for
    #[arg(long, value_name = "TEXT", env = "OPENCLAW_LABEL")]
    pub(super) label: Option<String>,
    /// Its life
    #[arg(long, value_name = "DURATION", value_parser = duration, env = "OPENCLAW_TTL")]
    pub(super) ttl: Option<Duration>,
    /// Void when no sensor has claimed it within this time
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(super) idle: Option<Duration>,
    /// What the device's token grants (telemetry:write, command:read), if wanted with the service before it
    /// (claw/telemetry:write); may be given again
    #[arg(long = "scope", value_name = "SCOPE", env = "OPENCLAW_SCOPES", value_delimiter = ',')]
    pub(super) scopes: Vec<String>,
    /// What the device's token is limited to
    #[command(flatten)]
    pub(super) limits: Limits,
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
    #[arg(long = "allow-address", value_name = "CIDR")]
    pub(super) addresses: Vec<String>,
    /// Publishes a second that the device's token allows
    #[arg(long = "rate", value_name = "N")]
    pub(super) per_second: Option<u32>,
}

/// `token`.
#[derive(Debug, Subcommand)]
pub(super) enum Token {
    /// List them; never the tokens themselves
    Ls,
    /// Get a new one now
    Rotate {
        /// The device
        device: String,
    },
    /// End a device's token now and give it no other; the device is cut off
    Revoke {
        /// The device
        device: String,
        /// Why it is done
        #[command(flatten)]
        why: Why,
    },
}

/// `key`.
#[derive(Debug, Subcommand)]
pub(super) enum Key {
    /// List them: how old they are, when they are changed, how they are kept; never the keys themselves
    Ls,
    /// Make a new one in place of an old one, without an interruption
    Rotate {
        /// What it is for, as `key ls` says
        #[arg(value_name = "KIND")]
        kind: String,
        /// Whose, for the kind `device`
        device: Option<String>,
        /// Somebody else may know the old one: it goes at once, with all that hangs on it
        #[arg(long)]
        now: bool,
    },
}

/// `dead-letters`.
#[derive(Debug, Subcommand)]
pub(super) enum DeadLetters {
    /// List them, the newest first
    Ls {
        /// Only those of this device
        device: Option<String>,
        /// So many
        #[arg(long, short = 'n', default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=10_000))]
        lines: u16,
    },
    /// Send a device's to the broker again, after the cause was mended
    Replay {
        /// The device
        device: String,
    },
    /// Forget a device's for good
    Drop {
        /// The device
        device: String,
        /// Why it is done
        #[command(flatten)]
        why: Why,
    },
}

/// `audit`.
#[derive(Debug, Subcommand)]
pub(super) enum Audit {
    /// Check the log on disk; works without the daemon
    Verify {
        /// The state directory, or a copy of it
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

/// `backup`.
#[derive(Debug, Subcommand)]
#[command(
    after_help = "Works on the files of a gateway that is stopped: systemctl stop clawgate.socket clawgate.service"
)]
pub(super) enum Backup {
    /// Write keys, pairings, waiting readings and the audit log to one sealed file
    #[command(after_help = BACKUP_HELP)]
    Create {
        /// The backup; must not exist
        file: PathBuf,
        /// Take this board out of service: it refuses to start from then on
        #[arg(long)]
        fence: bool,
        /// How it is sealed
        #[command(flatten)]
        seal: Seal,
    },
    /// Put a backup into the state directory of this board
    #[command(after_help = BACKUP_HELP)]
    Restore {
        /// The backup
        file: PathBuf,
        /// Also where sensors are paired with this board: its own state is set aside
        #[arg(long)]
        replace: bool,
        /// How it was sealed
        #[command(flatten)]
        seal: Seal,
    },
}

const BACKUP_HELP: &str = "The passphrase is asked for at the terminal, else read from standard input, or from where --passphrase \
    says: a file (\"/path\"), a systemd credential (\"credential:NAME\"), a variable (\"env:NAME\"), or the vault of the \
    configuration (\"vault:PATH#FIELD\"). Two boards must never \
    serve with the same backup: fence the old one (--fence), or destroy its state directory. Sensors notice nothing but \
    the interruption: every connection has fresh keys, and readings keep their names. The configuration in /etc/clawgate is \
    not in the backup.";

/// How a backup is sealed.
#[derive(Debug, Args)]
pub(super) struct Seal {
    /// A key file (32 bytes or 64 hexadecimal digits, mode 0600) instead of a passphrase
    #[arg(long, value_name = "FILE", conflicts_with = "passphrase")]
    pub(super) key: Option<PathBuf>,
    /// Where the passphrase is, instead of asking for it
    #[arg(long, value_name = "PLACE")]
    pub(super) passphrase: Option<SecretSource>,
    /// The configuration, which says where the state and the vault are
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
    pub(super) config: PathBuf,
}

/// `issuer`.
#[derive(Debug, Subcommand)]
pub(super) enum Issuer {
    /// Issue tokens to the gateways and subscribers of a site, until stopped; SIGHUP reads the clients again
    Serve {
        /// Where it listens, its key, its clients
        #[arg(long, value_name = "FILE", default_value = "/etc/clawgate/issuer.toml")]
        config: PathBuf,
    },
    /// Make a new signing key for issuer serve: published first, then it signs; the old one is published until its last
    /// token has expired
    Rotate {
        /// Sign with it at once, and make every token under an older key worthless
        #[arg(long)]
        now: bool,
        /// The file that issuer serve runs by
        #[arg(long, value_name = "FILE", default_value = "/etc/clawgate/issuer.toml")]
        config: PathBuf,
    },
    /// Print the public key of a client's key file; makes the file when there is none
    Key {
        /// The private key, PEM, mode 0600
        file: PathBuf,
    },
    /// Get a subscriber's token and print it
    Token(OwnToken),
}

/// `issuer token`.
#[derive(Debug, Args)]
pub(super) struct OwnToken {
    /// The issuer
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7480")]
    pub(super) url: String,
    /// The subscriber's name there
    #[arg(long, value_name = "NAME")]
    pub(super) client: String,
    /// Its private key
    #[arg(long, value_name = "FILE")]
    pub(super) key: PathBuf,
    /// The broker it is for
    #[arg(long, value_name = "NAME", default_value = "claw")]
    pub(super) audience: String,
    /// The only CA that the issuer's certificate may come from
    #[arg(long, value_name = "FILE")]
    pub(super) ca: Option<PathBuf>,
}

/// `config`.
#[derive(Debug, Subcommand)]
pub(super) enum Config {
    /// Check the configuration; exits 78 with file, line and key when it is refused
    Check(ConfigFile),
    /// What is in force: every key, its value, and where it comes from
    Show,
    /// Go back to the files where a command from the cloud changed a key
    #[command(after_help = "The files are never written, by commands neither: what a command changes lies over them \
                            until a command or this verb takes it away.")]
    Unset {
        /// The key, such as pairing.ttl
        #[arg(required_unless_present = "all")]
        key: Option<String>,
        /// Every key that a command changed
        #[arg(long, conflicts_with = "key")]
        all: bool,
    },
}

/// Where the daemon's socket is, unless said otherwise.
fn default_socket() -> PathBuf {
    std::env::var_os("CLAWGATE_SOCKET").map_or_else(|| DEFAULT_SOCKET.into(), PathBuf::from)
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

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).filter(|d| !d.is_zero()).ok_or_else(|| "a number and ms, s, m, h or d, such as 30s".to_owned())
}
