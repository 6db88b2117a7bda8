//! The broker inside this process: crate `mqtt5`, bounded, on loopback, with our tokens in front of everything.

mod admission;
mod cut;
mod pace;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mqtt5::broker::config::{BrokerConfig, StorageBackend, StorageConfig, TlsConfig};
use mqtt5::broker::{BrokerShutdownHandle, MqttBroker};
use tokio::sync::broadcast;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tokio_util::task::TaskTracker;
use tracing::{error, info};

use crate::token::Limits;
use crate::token::verify::Verifier;
use admission::Admission;

/// Largest packet taken; a reading has some hundred bytes, a whole message from a sensor 4 KiB.
const MAX_PACKET: usize = 256 * 1024;
/// Messages on their way to one client, before they count as queued.
const CHANNEL: usize = 1024;
/// Messages queued for one client that is slow or away for a moment; the oldest goes first.
const MAX_QUEUED: usize = 20_000;
/// The same in bytes.
const MAX_QUEUED_BYTES: usize = 16 * 1024 * 1024;
/// How long the queue of a client that went away is kept.
const SESSION_KEPT: Duration = Duration::from_secs(3600);
/// Retained messages: one state a device.
const MAX_RETAINED: usize = 10_000;
/// Filters of one client.
const MAX_SUBSCRIPTIONS: usize = 64;
/// QoS 1 publishes of one client that are not confirmed yet.
const RECEIVE_MAXIMUM: u16 = 1024;
/// How long the broker may take to close its connections.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Why the broker did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BrokerError {
    /// Without TLS the tokens would be readable on the network.
    #[error("the embedded broker listens without TLS, so only on this machine: {0} is not a loopback address")]
    NotLoopback(SocketAddr),
    /// The address is taken, or a certificate cannot be read.
    #[error("the embedded broker cannot listen on {listen}: {reason}; free the port or change standalone.listen")]
    Listen {
        /// Where it should have listened.
        listen: SocketAddr,
        /// What was said.
        reason: String,
    },
}

/// Where and how the broker listens.
#[derive(Debug, Clone)]
pub struct BrokerOptions {
    /// Address; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Certificate and key; without them only loopback is taken.
    pub tls: Option<TlsFiles>,
    /// Connections at a time.
    pub max_clients: usize,
}

/// A server certificate in files.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// Certificate chain, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
}

/// A good token came from an address that it does not allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffList {
    /// Whose token it is.
    pub device: String,
    /// What the client called itself; anything.
    pub client_id: String,
    /// Where it came from.
    pub address: IpAddr,
    /// What the token allows.
    pub limits: Limits,
}

/// The running broker.
pub struct Broker {
    addr: SocketAddr,
    admission: Arc<Admission>,
    shutdown: BrokerShutdownHandle,
    stop: CancellationToken,
    ended: CancellationToken,
    tasks: TaskTracker,
}

impl Broker {
    /// Starts a broker that admits who has a good token, and lets it do what the token says.
    ///
    /// # Errors
    /// [`BrokerError`] when it cannot listen there.
    pub async fn start(options: BrokerOptions, verifier: Verifier) -> Result<Self, BrokerError> {
        let listen = options.listen;
        if options.tls.is_none() && !listen.ip().is_loopback() {
            return Err(BrokerError::NotLoopback(listen));
        }
        let failed = |reason: String| BrokerError::Listen { listen, reason };
        let admission = Arc::new(Admission::new(verifier, options.max_clients));
        let config = bounded_config(&options, Arc::clone(&admission));
        let broker = MqttBroker::with_config(config).await.map_err(|error| failed(error.to_string()))?;
        // The provider that the configuration made admits everybody: ours takes its place before anyone connects.
        let mut broker = broker.with_auth_provider(Arc::<Admission>::clone(&admission));
        let addr = broker.local_addr().or_else(|| broker.tls_local_addr());
        let addr = addr.ok_or_else(|| failed("no listener came up".to_owned()))?;
        let (shutdown, router, mut ready) = (broker.shutdown_handle(), broker.router(), broker.ready_receiver());

        let (tasks, stop, ended) = (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
        let cutting = cut::cut_off(Arc::clone(&admission), router);
        let stopping = stop.clone();
        tasks.spawn(async move { stopping.run_until_cancelled(cutting).await });
        let end = ended.clone().drop_guard();
        tasks.spawn(async move {
            let _end = end;
            if let Err(problem) = broker.run().await {
                error!(error = %problem, "embedded broker ended");
            }
        });
        tasks.close();
        ready.wait_for(|ready| *ready).await.map_err(|_| failed("it ended while starting".to_owned()))?;
        info!(%addr, tls = options.tls.is_some(), "embedded broker listens");
        Ok(Self { addr, admission, shutdown, stop, ended, tasks })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Every use of a good token from an address that it does not allow, from now on; a slow listener loses the oldest.
    #[must_use]
    pub fn off_list(&self) -> broadcast::Receiver<OffList> {
        self.admission.off_list()
    }

    /// Resolves when the broker has ended, for whatever reason.
    pub(crate) fn ended(&self) -> WaitForCancellationFuture<'_> {
        self.ended.cancelled()
    }

    /// Closes all connections and ends.
    pub async fn stop(self) {
        self.stop.cancel();
        self.shutdown.shutdown();
        if tokio::time::timeout(STOP_LIMIT, self.tasks.wait()).await.is_err() {
            error!("embedded broker did not close its connections in time");
        }
    }
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Broker({})", self.addr)
    }
}

/// Every default of the crate that is unbounded, public or on disk is set otherwise here.
fn bounded_config(options: &BrokerOptions, admission: Arc<Admission>) -> BrokerConfig {
    let mut config = BrokerConfig {
        bind_addresses: Vec::new(),
        max_clients: options.max_clients,
        session_expiry_interval: SESSION_KEPT,
        max_packet_size: MAX_PACKET,
        topic_alias_maximum: 16,
        max_subscriptions_per_client: MAX_SUBSCRIPTIONS,
        max_retained_messages: MAX_RETAINED,
        max_retained_message_size: MAX_PACKET,
        client_channel_capacity: CHANNEL,
        server_receive_maximum: Some(RECEIVE_MAXIMUM),
        sys_topics_enabled: false,
        storage_config: StorageConfig {
            backend: StorageBackend::Memory,
            cleanup_interval: Duration::from_secs(600),
            max_queued_messages_per_client: MAX_QUEUED,
            max_queued_bytes_per_client: MAX_QUEUED_BYTES,
            ..StorageConfig::default()
        },
        event_handler: Some(admission),
        ..BrokerConfig::default()
    };
    match &options.tls {
        None => config.bind_addresses = vec![options.listen],
        Some(files) => {
            let tls = TlsConfig::new(files.certificate.clone(), files.key.clone());
            config.tls_config = Some(tls.with_bind_addresses(vec![options.listen]));
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::token::key::SigningKey;
    use crate::token::local::{DenyList, LocalIssuer};

    fn verifier() -> Verifier {
        let issuer =
            LocalIssuer::new("urn:test", SigningKey::generate().unwrap(), DenyList::in_memory(), Clock::system());
        issuer.verifier("claw").unwrap()
    }

    fn options(listen: &str) -> BrokerOptions {
        BrokerOptions { listen: listen.parse().unwrap(), tls: None, max_clients: 8 }
    }

    #[tokio::test]
    async fn without_tls_only_loopback_is_taken() {
        let refused = Broker::start(options("0.0.0.0:0"), verifier()).await;
        assert!(matches!(refused, Err(BrokerError::NotLoopback(_))));
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_named() {
        let first = Broker::start(options("127.0.0.1:0"), verifier()).await.unwrap();
        let taken = Broker::start(options(&first.addr().to_string()), verifier()).await.unwrap_err();
        assert!(taken.to_string().contains(&first.addr().to_string()), "{taken}");
        first.stop().await;
    }

    #[tokio::test]
    async fn it_ends_when_told_and_leaves_nothing_on_disk() {
        // An address of its own: what listens there can be nobody else's.
        let broker = Broker::start(options("127.0.84.1:0"), verifier()).await.unwrap();
        let addr = broker.addr();
        broker.stop().await;
        crate::testing::let_go();
        assert!(tokio::net::TcpStream::connect(addr).await.is_err());
        assert!(!std::path::Path::new("mqtt_storage").exists());
    }
}
