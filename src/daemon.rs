//! The daemon: opens every part, wires them, and ends them in order. The only place that knows all of them.
//!
//! Start: configuration, state, spool, issuer and tokens, broker (standalone), relay, links, control socket.
//! Stop is the other way round, so that nothing is asked of a part that has ended: [`stop`].

mod act;
mod alarm_watch;
pub(crate) mod audit_key;
mod commands;
mod commission;
mod configured;
mod decide;
mod disk;
mod gauges;
mod harden;
mod issuer;
mod keys;
mod metrics_http;
mod options;
mod overlay;
mod principal;
mod reload;
#[cfg(feature = "standalone")]
mod standalone;
mod start;
mod stop;
mod tasks;
mod token_audit;
mod turns;
pub(crate) mod view;
mod watchdog;

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub(crate) use decide::Verdict;
pub(crate) use issuer::check_subscribers;
pub use issuer::{IssuingError, NoClient};
pub(crate) use keys::{Kind as KeyKind, ending_certificates};
pub(crate) use metrics_http::text as metrics_text;
pub use start::StartError;

use crate::alarm::{Alarm, AlarmKind, Alarms};
use crate::audit::{Action, Actor, Audit, Event, Missing};
use crate::cli::exit::Exit;
use crate::clock::Clock;
use crate::config::{self, BrokerUrl, Config, StageError};
use crate::control::socket;
use crate::link::Links;
use crate::logging::{self, Log};
use crate::metrics::Metrics;
use crate::notify;
use crate::pairing::Pairing;
use crate::pairing::code_book::Codes;
use crate::principal::Principal;
use crate::principal::command::CommandKeys;
use crate::relay::Relay;
use crate::spool::Spool;
use crate::store::{Store, StoreError};
use crate::token::keeper::TokenKeeper;
use commission::Service;
use issuer::Terms;
use tasks::Tasks;

/// What the alarm is about that lines of the audit log could not be written.
const AUDIT_LINES: &str = "audit lines";

/// The running gateway as its control API sees it. Cheap to clone.
#[derive(Clone)]
pub struct Gateway(Arc<Parts>);

/// Everything that runs.
struct Parts {
    config: ArcSwap<Config>,
    config_path: PathBuf,
    /// Why the last reload was refused.
    config_refused: Mutex<Option<String>>,
    /// Keys that are another in the files, and wait for a restart.
    restart_needed: Mutex<Vec<&'static str>>,
    /// One change of what lies over the files at a time.
    overlay_turn: tokio::sync::Mutex<()>,
    log: Log,
    /// Cancelled first of all when the daemon stops.
    stopping: CancellationToken,
    clock: Clock,
    /// On the boot clock.
    started: Duration,
    metrics: Metrics,
    metrics_address: Mutex<Result<Option<std::net::SocketAddr>, String>>,
    store: Store,
    spool: Spool,
    audit: Audit,
    alarms: Alarms,
    codes: Codes,
    broker: BrokerUrl,
    issuer_url: String,
    terms: Option<watch::Sender<Terms>>,
    keys: keys::Keys,
    keeper: TokenKeeper,
    relay: Arc<Relay>,
    service: Service,
    links: Links,
    pairing: Pairing,
    /// The gateway itself at the broker, where it speaks.
    principal: Option<Principal>,
    /// Who may command it.
    command_keys: ArcSwap<CommandKeys>,
}

impl Gateway {
    /// The configuration now.
    #[must_use]
    pub(crate) fn config(&self) -> Arc<Config> {
        self.0.config.load_full()
    }

    /// The time.
    #[must_use]
    pub(crate) fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// Counts.
    #[must_use]
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Devices, keys and codes.
    #[must_use]
    pub(crate) fn store(&self) -> &Store {
        &self.0.store
    }

    /// Access tokens.
    #[must_use]
    pub(crate) fn keeper(&self) -> &TokenKeeper {
        &self.0.keeper
    }

    /// Serial lines and the sensors behind them.
    #[must_use]
    pub(crate) fn links(&self) -> &Links {
        &self.0.links
    }

    /// Pairs sensors.
    #[must_use]
    pub(crate) fn pairing(&self) -> &Pairing {
        &self.0.pairing
    }

    /// The audit log.
    #[must_use]
    pub(crate) fn audit(&self) -> &Audit {
        &self.0.audit
    }

    /// What a person should look at.
    #[must_use]
    pub(crate) fn alarms(&self) -> &Alarms {
        &self.0.alarms
    }

    /// Pairing codes.
    #[must_use]
    pub(crate) fn codes(&self) -> &Codes {
        &self.0.codes
    }

    /// Writes an audit event, and says so where it cannot be written.
    pub(crate) async fn record(&self, event: Event) {
        if !self.0.audit.note(event).await {
            self.tell_missing(self.0.audit.missing().as_ref());
        }
    }

    /// Says which lines the audit log lacks, or that it is whole again.
    fn tell_missing(&self, missing: Option<&Missing>) {
        match missing {
            Some(missing) => self.alarms().raise(Alarm {
                kind: AlarmKind::Audit,
                subject: AUDIT_LINES.to_owned(),
                words: format!("{} lines of the audit log could not be written: {}", missing.lines, missing.why),
                next_step:
                    "Make room on the disk, or mend it; clawgate tries again by itself. The journal has what happened \
                            meanwhile."
                        .to_owned(),
            }),
            None => self.alarms().clear(AlarmKind::Audit, AUDIT_LINES),
        }
    }

    /// Says that the audit log was not as it was left.
    fn tell_damage(&self) {
        let Some(damage) = self.0.audit.damage() else { return };
        self.alarms().raise(Alarm {
            kind: AlarmKind::Audit,
            subject: "audit".to_owned(),
            words: format!("the audit log was not whole at the start: {damage}"),
            next_step: "See clawgate audit verify --anchor FILE, with a checkpoint that was kept elsewhere.".to_owned(),
        });
    }

    /// Whether the stop has begun.
    pub(crate) fn is_stopping(&self) -> bool {
        self.0.stopping.is_cancelled()
    }

    /// What `work` yields, or nothing once the stop has begun.
    pub(crate) async fn unless_stopping<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.0.stopping.run_until_cancelled(work).await
    }

    fn restart_needed(&self) -> Vec<&'static str> {
        self.0.restart_needed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn config_refused(&self) -> Option<String> {
        self.0.config_refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// `clawgate run`: the daemon in the foreground, until it is told to stop.
#[must_use]
pub(crate) fn run(config_path: &Path) -> Exit {
    let started = Clock::system().boot();
    // First of all, while this process has one thread.
    let passed = socket::passed();
    let config = match config::load(config_path) {
        Ok(config) => config,
        Err(error) => {
            let _log = logging::start(config::LogLevel::Info);
            tracing::error!(%error, "the configuration is refused; check it with: clawgate config check");
            return Exit::Config;
        }
    };
    let log = logging::start(config.log.level);
    for words in config::warnings(&config) {
        tracing::warn!(%words, "the configuration is taken, and may not be meant so");
    }
    harden::apply();
    let passed = match passed {
        Ok(passed) => passed,
        Err(error) => {
            tracing::error!(%error, "clawgate does not start");
            return Exit::Failed;
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(Box::pin(serve(config, config_path, log, started, passed))),
        Err(error) => {
            tracing::error!(%error, "the runtime cannot start");
            Exit::Failed
        }
    }
}

/// Runs from the first part's start to the last one's end.
async fn serve(config: Config, config_path: &Path, log: Log, started: Duration, passed: Option<UnixListener>) -> Exit {
    // Before anything can be asked of this process: a signal that comes during the start is kept, not fatal.
    let signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!(%error, "signals cannot be received");
            return Exit::Failed;
        }
    };
    let mut tasks = Tasks::default();
    let gateway = match start::start(config, config_path, log, started, passed, &mut tasks).await {
        Ok(gateway) => gateway,
        Err(error) => {
            tracing::error!(%error, "clawgate does not start");
            tasks.abandon().await;
            // Nothing gets better by starting again: systemd does not.
            let is_final = matches!(
                error,
                StartError::Store(StoreError::Fenced { .. }) | StartError::Stage(StageError::Shared { .. })
            );
            return if is_final { Exit::Config } else { Exit::Failed };
        }
    };
    let startup_ms = gateway.clock().boot().saturating_sub(started).as_millis();
    tracing::info!(gateway = %gateway.config().gateway.id, startup_ms, "clawgate is ready");
    notify::ready(&view::one_line(&gateway));
    let details = serde_json::json!({
        "version": env!("CARGO_PKG_VERSION"), "pid": std::process::id(),
        "config_changed": reload::changed_meanwhile(&gateway).await,
    });
    gateway
        .record(Event::done(Actor::Daemon, Action::DaemonStart, gateway.config().gateway.id.as_str()).with(details))
        .await;
    reload::keep_config(&gateway).await;
    gateway.tell_damage();
    let exit = until_told(&gateway, &mut tasks, signals).await;
    notify::stopping();
    stop::stop(&gateway, tasks).await;
    tracing::info!("clawgate has stopped");
    exit
}

/// What the operator and the service manager send.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

/// Waits for a signal, reloading on SIGHUP; or for an essential task that ends by itself.
async fn until_told(gateway: &Gateway, tasks: &mut Tasks, mut signals: Signals) -> Exit {
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return Exit::Ok,
            _ = signals.interrupt.recv() => return Exit::Ok,
            Some(()) = signals.hangup.recv() => {
                notify::reloading();
                let _ = reload::reload(gateway).await;
                notify::ready(&view::one_line(gateway));
            }
            ended = tasks.ended() => {
                tracing::error!(task = ended.name, how = %ended.how, "an essential task ended; clawgate stops in order");
                return Exit::Failed;
            }
        }
    }
}
