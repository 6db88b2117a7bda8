//! Opens and wires every part, in the order in which they need each other.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::commission::Service;
use super::disk::{self, Disk};
use super::issuer::IssuingError;
use super::options::{alarm_policy, ble_options, keeper_options, pairing_policy, relay_options, uart_options};
use super::tasks::Tasks;
use super::{
    Gateway, Parts, alarm_watch, gauges, issuer, keys, metrics_http, overlay, principal, token_audit, watchdog,
};
use crate::alarm::Alarms;
use crate::audit::AuditError;
use crate::clock::Clock;
use crate::config::{BrokerUrl, Config, StageError};
use crate::control;
use crate::control::socket::{ControlSocket, SocketError};
use crate::link::{LinkParts, Links};
use crate::logging::Log;
use crate::metrics::Metrics;
use crate::pairing::Pairing;
use crate::pairing::code_book::CodeError;
use crate::principal::Principal;
use crate::principal::command::{CommandKeyError, CommandKeys};
use crate::relay::{ClientKey, Relay, RelayError};
use crate::secret_source::{Secrets, SourceError};
use crate::spool::SpoolError;
#[cfg(feature = "standalone")]
use crate::standalone::BrokerError;
use crate::store::{Keyed, StoreError};
use crate::token::TokenHandle;
use crate::token::keeper::TokenKeeper;
use crate::token::key::KeyError;
use crate::token::local::LocalIssuer;

/// How long a store of secrets is asked at the start.
const SECRET_TIME: Duration = Duration::from_secs(30);

/// Why the daemon does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The state directory or its database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The stage, which shares something with another.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// The control socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The issuer of tokens.
    #[error(transparent)]
    Issuing(#[from] IssuingError),
    /// The key that the broker inside checks tokens with.
    #[error("the issuer's key: {0}")]
    Key(#[from] KeyError),
    /// The spool's database.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The relay's certificates.
    #[error(transparent)]
    Relay(#[from] RelayError),
    /// The audit log.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The codes of the run before cannot be voided.
    #[error(transparent)]
    Codes(#[from] CodeError),
    /// Who may send commands.
    #[error(transparent)]
    CommandKey(#[from] CommandKeyError),
    /// The broker inside this process.
    #[cfg(feature = "standalone")]
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// A secret that the configuration names.
    #[error("broker.client_key: {0}")]
    Secret(SourceError),
    /// There is no broker, neither elsewhere nor here.
    #[error("there is no broker: write broker.url, or mode = \"standalone\"")]
    NoBroker,
    /// A name that the protocol does not take.
    #[error("gateway.id {0:?} does not fit the protocol: use 1 to 32 of a-z, 0-9, '_' and '-'")]
    GatewayId(String),
    /// A part panicked while it was opened.
    #[error("a part could not be opened: {0}")]
    Opening(#[from] tokio::task::JoinError),
}

/// Starts everything. On an error the caller ends the tasks that run already.
pub(super) async fn start(
    mut config: Config,
    config_path: &Path,
    log: Log,
    started: Duration,
    passed: Option<UnixListener>,
    tasks: &mut Tasks,
) -> Result<Gateway, StartError> {
    let clock = Clock::system();
    let metrics = Metrics::new();
    let disk = disk::open(&config, &clock).await?;
    overlay::lay(&mut config, &disk.store)?;
    log.set_level(config.log.level);
    let Disk { store, spool, audit, codes } = disk.clone();
    let running = spool.clone();
    tasks.spawn("spool", |stop| async move {
        if let Err(error) = running.run(stop).await {
            tracing::error!(%error, "the spool ended; what was not committed is still with the sensors");
        }
    });
    let alarms = Alarms::new(audit.clone(), metrics.clone(), clock.clone());
    alarms.set_policy(alarm_policy(&config));
    let key = broker_key(&config, &clock).await?;
    let issuing = issuer::start(&config, &store, &clock, key.as_ref(), &alarms, tasks).await?;
    let broker = broker(&config, issuing.local.as_ref(), &alarms, tasks).await?;
    let keeper = TokenKeeper::new(issuing.issuer, keeper_options(&config), clock.clone());
    let options = relay_options(&config, &broker, key);
    let relay = Arc::new(Relay::new(options.clone(), clock.clone(), metrics.relay.clone())?);
    let command_keys = CommandKeys::of(&config.cloud)?;
    let own = principal::open(&config, options, &keeper, &clock)?;
    let service = Service::new(&disk, keeper.clone(), Arc::clone(&relay), &config);
    let left_over = store.remove_refresh_tokens_of_nobody()?;
    if left_over > 0 {
        tracing::warn!(count = left_over, "refresh tokens of names that no device has any more are forgotten");
    }
    // With their keys: one that was altered is refused here, not when its sensor is met.
    for Keyed { device, .. } in store.devices_with_keys()? {
        if let Err(error) = service.attach(&device) {
            tracing::error!(device = %device.id, %error, "a device is not in service");
        }
    }
    let parts = link_parts(&config, disk, service.clone(), &metrics, &alarms, &clock)?;
    let stop_links = CancellationToken::new();
    let links = Links::start(uart_options(&config), ble_options(&config), parts, stop_links.clone());
    let pairing = Pairing::new(links.clone());
    let gateway = Gateway(Arc::new(Parts {
        config: ArcSwap::from_pointee(config),
        config_path: config_path.to_owned(),
        config_refused: Mutex::default(),
        restart_needed: Mutex::default(),
        overlay_turn: tokio::sync::Mutex::default(),
        log,
        stopping: CancellationToken::new(),
        clock,
        started,
        metrics,
        metrics_address: Mutex::new(Ok(None)),
        store,
        spool,
        audit,
        alarms,
        codes,
        broker,
        issuer_url: issuing.url,
        terms: issuing.terms,
        keys: keys::Keys {
            issuer: issuing.local,
            client: issuing.client,
            endings: Mutex::default(),
            behind: Mutex::default(),
            deny_behind: issuing.deny_behind,
        },
        keeper,
        relay,
        service,
        links,
        pairing,
        principal: own.as_ref().map(|(principal, _)| principal.clone()),
        command_keys: ArcSwap::from_pointee(command_keys),
    }));
    gauges::state_limits(&gateway);
    let links = gateway.links().clone();
    tasks.spawn("links", |stop| async move {
        stop.cancelled().await;
        stop_links.cancel();
        links.stopped().await;
    });
    serve(&gateway, passed, own, tasks).await?;
    Ok(gateway)
}

/// Starts what works on every part: who is answered, and what is looked after.
async fn serve(
    gateway: &Gateway,
    passed: Option<UnixListener>,
    own: Option<(Principal, TokenHandle)>,
    tasks: &mut Tasks,
) -> Result<(), StartError> {
    let config = gateway.config();
    let socket = ControlSocket::open(passed, &config.control.socket)?;
    tasks.spawn("control", |stop| control::serve(socket, gateway.clone(), stop));
    tasks.spawn("alarms", |stop| alarm_watch::watch(gateway.clone(), stop));
    tasks.spawn("token_audit", |stop| token_audit::watch(gateway.clone(), stop));
    tasks.spawn("keys", |stop| keys::tend(gateway.clone(), stop));
    if let Some((own, token)) = own {
        tasks.spawn("principal", |stop| principal::run(gateway.clone(), own, token, stop));
    }
    tasks.spawn("watchdog", |stop| watchdog::watch(gateway.clone(), stop));
    if let Some(address) = config.metrics.listen {
        serve_metrics(gateway, address, tasks).await;
    }
    Ok(())
}

/// The key of the client certificate, where the configuration has one. Without it there is no way to the broker: what the
/// store of secrets cannot give now is asked for again for a while, and then the start has failed.
async fn broker_key(config: &Config, clock: &Clock) -> Result<Option<ClientKey>, StartError> {
    let source = match &config.broker.client_key {
        None => return Ok(None),
        Some(source) => source.clone(),
    };
    let secrets = Secrets::new(&config.vault, clock.clone());
    let from = source.to_string();
    let until = clock.boot() + SECRET_TIME;
    loop {
        let (secrets, source) = (secrets.clone(), source.clone());
        match tokio::task::spawn_blocking(move || secrets.read(&source)).await? {
            Ok(pem) => return Ok(Some(ClientKey { pem, from })),
            Err(error) if error.heals() && clock.boot() < until => {
                tracing::warn!(%error, "the key of the client certificate is asked for again");
                let wait = error.retry_after().unwrap_or_default().clamp(Duration::from_secs(3), SECRET_TIME);
                tokio::time::sleep(wait).await;
            }
            Err(error) => return Err(StartError::Secret(error)),
        }
    }
}

/// Metrics that nobody can read do not keep readings from flowing: a refused address is said in `status`.
async fn serve_metrics(gateway: &Gateway, address: std::net::SocketAddr, tasks: &mut Tasks) {
    let bound = match TcpListener::bind(address).await {
        Ok(listener) => {
            let bound = listener.local_addr().map(Some).map_err(|error| error.to_string());
            tasks.spawn("metrics", |stop| metrics_http::serve(listener, gateway.clone(), stop));
            bound
        }
        Err(error) => {
            tracing::error!(%address, %error, "metrics are not served; set metrics.listen, or \"off\"");
            Err(format!("{address}: {error}; set metrics.listen, or \"off\""))
        }
    };
    *gateway.0.metrics_address.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = bound;
}

/// The broker that readings go to, started first where it is our own.
async fn broker(
    config: &Config,
    issuer: Option<&LocalIssuer>,
    alarms: &Alarms,
    tasks: &mut Tasks,
) -> Result<BrokerUrl, StartError> {
    match (&config.broker.url, issuer) {
        (Some(url), _) => Ok(url.clone()),
        #[cfg(feature = "standalone")]
        (None, Some(issuer)) => {
            let address = super::standalone::broker(config, issuer, alarms, tasks).await?;
            Ok(BrokerUrl { host: address.ip().to_string(), port: address.port(), tls: false })
        }
        // The configuration's check refuses this before.
        (None, _) => {
            #[cfg(not(feature = "standalone"))]
            let _ = (alarms, tasks);
            Err(StartError::NoBroker)
        }
    }
}

fn link_parts(
    config: &Config,
    disk: Disk,
    service: Service,
    metrics: &Metrics,
    alarms: &Alarms,
    clock: &Clock,
) -> Result<LinkParts, StartError> {
    let id = config.gateway.id.as_str();
    Ok(LinkParts {
        gateway: id.parse().map_err(|_| StartError::GatewayId(id.to_owned()))?,
        policy: pairing_policy(config),
        store: disk.store,
        spool: disk.spool,
        codes: disk.codes,
        audit: disk.audit,
        commission: Arc::new(service),
        metrics: metrics.clone(),
        clock: clock.clone(),
        alarms: alarms.clone(),
        stage: config.gateway.stage,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret_source::{SecretSource, VaultConfig};

    #[tokio::test(start_paused = true)]
    async fn a_vault_that_stays_away_ends_the_start_after_half_a_minute_with_its_words() {
        let dir = tempfile::tempdir().unwrap();
        let token = dir.path().join("token");
        std::fs::write(&token, "t").unwrap();
        std::fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let mut config = Config::default();
        // Nobody answers there.
        let url = Some("http://127.0.0.1:1".to_owned());
        config.vault = VaultConfig { url, token: Some(SecretSource::File(token)), ..VaultConfig::default() };
        config.broker.client_key = Some("vault:sites/roof#client_key".parse().unwrap());
        let clock = Clock::manual(Duration::ZERO);
        let asking = broker_key(&config, &clock);
        let time_goes_on = async {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                clock.advance(Duration::from_secs(1));
                assert!(clock.boot() < SECRET_TIME * 2, "it asks without end");
            }
        };
        let error = tokio::select! {
            ended = asking => ended.err().map(|error| error.to_string()).unwrap_or_default(),
            () = time_goes_on => String::new(),
        };
        assert!(
            (SECRET_TIME..SECRET_TIME + Duration::from_secs(5)).contains(&clock.boot()),
            "after {:?}",
            clock.boot()
        );
        assert!(error.starts_with("broker.client_key: the vault at http://127.0.0.1:1"), "{error}");
    }
}
