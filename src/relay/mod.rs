//! Readings to the broker: one MQTT connection a device, under that device's own token.
//!
//! A device's task takes from its lane of the [spool](crate::spool), publishes at QoS 1, and confirms to the
//! spool what a PUBACK says is taken (0x00, and 0x10 "nobody listens"). Everything else stays in the spool:
//!
//! | the broker says | what happens |
//! |---|---|
//! | nothing, connection lost | wait (doubling, capped, jittered), connect, publish again in order |
//! | 0x87, or refuses the CONNECT | the token's keeper is told; no connect before another token comes |
//! | 0x97 quota, 0x89 busy | let what is in flight come back, wait, connect |
//! | 0x90, 0x95, 0x99 | to the dead letters, with the reason; the queue goes on |
//!
//! A fresh token replaces the old one by re-authentication on the live connection, or, where the broker knows
//! none, after what is in flight came back. A topic that the token does not allow is never sent.
//!
//! Brokers and clouds differ in what they speak; [`Profile`] says how. Under MQTT 3.1.1 the reasons of the table do not
//! exist: a refusal is a connection that ends, and the queue stays.

mod backoff;
mod device;
mod message;
mod mqtt;
mod profile;
mod rate;
mod senml;
mod status;
mod tls;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;

pub(crate) use backoff::Backoff;
pub(crate) use message::{Message, Will};
pub(crate) use mqtt::{Answer, Connection, Failure, Inbox, Received, Target};
pub(crate) use profile::percent;
pub use profile::{Profile, ProfileError};
pub use status::{RelayState, RelayStatus};
pub use tls::{ClientKey, TlsFiles};

use crate::clock::Clock;
use crate::config::{BrokerProfile, Payload, Reauth};
use crate::ids::{DeviceId, PairingId};
use crate::metrics::RelayMetrics;
use crate::spool::Lane;
use crate::token::{TokenHandle, TokenState};
use device::Task;
use message::Composer;
use status::Cell;

/// How the relay reaches its broker.
#[derive(Debug, Clone)]
pub struct RelayOptions {
    /// The broker's host name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// What kind of broker it is.
    pub profile: Profile,
    /// TLS; without it the connection is in clear.
    pub tls: Option<TlsFiles>,
    /// Tenant in every topic.
    pub tenant: String,
    /// This gateway's id in every topic.
    pub gateway: String,
    /// How a fresh token reaches a live connection.
    pub reauth: Reauth,
    /// How a reading is written.
    pub payload: Payload,
    /// Publishes of a connection without a PUBACK.
    pub in_flight: u16,
    /// Connections at once; further devices wait for their turn.
    pub max_connections: usize,
    /// A connection with nothing to send is given up after this time.
    pub idle: Duration,
    /// MQTT keep-alive.
    pub keep_alive: Duration,
    /// For a connect with all handshakes.
    pub connect_timeout: Duration,
    /// A PUBACK that takes longer means that the connection is dead.
    pub ack_timeout: Duration,
    /// First wait before a reconnect, and the cap of the later ones.
    pub backoff: (Duration, Duration),
    /// How long a drain waits for what is in flight.
    pub drain: Duration,
}

impl RelayOptions {
    /// Options for a broker, with the usual times and bounds.
    #[must_use]
    pub fn new(host: String, port: u16, tenant: String, gateway: String) -> Self {
        Self {
            host,
            port,
            profile: Profile::of(BrokerProfile::default()),
            tls: None,
            tenant,
            gateway,
            reauth: Reauth::default(),
            payload: Payload::default(),
            in_flight: 100,
            max_connections: 2000,
            idle: Duration::from_secs(15 * 60),
            keep_alive: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            ack_timeout: Duration::from_secs(30),
            backoff: (Duration::from_millis(500), Duration::from_secs(60)),
            drain: Duration::from_secs(5),
        }
    }
}

/// Why the relay cannot work with its options.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RelayError {
    /// A file named in the options cannot be read.
    #[error("{}: {source}; check the path under [broker] and who may read it", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It does not hold what it should.
    #[error("{} holds no {what} in PEM form", .path.display())]
    NoPem {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// It does, and TLS cannot work with it.
    #[error("{} is no use for TLS: {source}", .path.display())]
    Tls {
        /// The file.
        path: PathBuf,
        /// What TLS said.
        #[source]
        source: rustls::Error,
    },
    /// The profile's key cannot be used.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// An id that cannot stand in a topic.
    #[error("tenant {tenant:?} and gateway {gateway:?} do not make a topic: use a-z, 0-9, '_' and '-'")]
    Names {
        /// The tenant.
        tenant: String,
        /// The gateway.
        gateway: String,
    },
}

/// One device, as the relay must know it.
#[derive(Debug, Clone)]
pub struct RelayDevice {
    /// Its id.
    pub id: DeviceId,
    /// Its pairing.
    pub pairing: PairingId,
    /// Units and capabilities: stands in its retained presence.
    pub description: serde_json::Value,
}

/// What all devices' tasks share.
pub(crate) struct Shared {
    options: RelayOptions,
    tls: Option<Arc<rustls::ClientConfig>>,
    clock: Clock,
    metrics: RelayMetrics,
    /// Room for connections.
    room: Semaphore,
    /// Somebody waits for room: idle connections give theirs up.
    crowded: Notify,
    /// How many wait for it.
    queued: AtomicUsize,
}

/// Somebody waits for room, while this lives.
struct InQueue<'a>(&'a Shared);

impl Drop for InQueue<'_> {
    fn drop(&mut self) {
        self.0.queued.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    /// Says to who has a connection that somebody waits for one.
    fn queue_up(&self) -> InQueue<'_> {
        self.queued.fetch_add(1, Ordering::Relaxed);
        self.crowded.notify_waiters();
        InQueue(self)
    }

    /// Whether somebody waits for room.
    fn is_crowded(&self) -> bool {
        self.queued.load(Ordering::Relaxed) > 0
    }

    /// The method by which a device's next connection shows its token, unless it goes as password.
    fn method(&self, password_only: bool) -> Option<&'static str> {
        let known = match self.options.reauth {
            Reauth::Always => true,
            Reauth::Auto => !password_only,
            Reauth::Never => false,
        };
        self.options.profile.method().filter(|_| known)
    }
}

struct Attached {
    cell: Arc<Cell>,
    stop: CancellationToken,
    /// Cancelled when its task has ended, however it did.
    ended: CancellationToken,
}

impl Attached {
    /// It was detached, and may still wait for what is in flight.
    fn is_leaving(&self) -> bool {
        self.stop.is_cancelled()
    }
}

/// The connections of all devices.
pub struct Relay {
    shared: Arc<Shared>,
    devices: Mutex<HashMap<DeviceId, Attached>>,
}

impl Relay {
    /// A relay without devices.
    ///
    /// # Errors
    /// [`RelayError`] when certificates or keys cannot be used, or the names make no topic.
    pub fn new(mut options: RelayOptions, clock: Clock, metrics: RelayMetrics) -> Result<Self, RelayError> {
        if !crate::ids::is_valid_id(&options.tenant) || !crate::ids::is_valid_id(&options.gateway) {
            return Err(RelayError::Names { tenant: options.tenant, gateway: options.gateway });
        }
        options.profile.load()?;
        let alpn = options.profile.alpn();
        let tls = options.tls.as_ref().map(|files| files.load(alpn)).transpose()?;
        let shared = Shared {
            tls,
            room: Semaphore::new(options.max_connections.max(1)),
            options,
            clock,
            metrics,
            crowded: Notify::new(),
            queued: AtomicUsize::new(0),
        };
        Ok(Self { shared: Arc::new(shared), devices: Mutex::default() })
    }

    /// Relays a device from now on. One that is attached already keeps its connection; one that is being detached gets
    /// another when that has ended: two at once would take from one lane, and each take back what the other sent.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[expect(clippy::needless_pass_by_value, reason = "the relay's end of the lane is handed over")]
    pub fn attach(&self, device: RelayDevice, lane: Lane, token: TokenHandle) {
        let mut devices = self.lock();
        let before = match devices.get(&device.id) {
            Some(attached) if !attached.is_leaving() && !attached.ended.is_cancelled() => return,
            attached => attached.map(|attached| attached.ended.clone()),
        };
        let options = &self.shared.options;
        let site = (options.tenant.as_str(), options.gateway.as_str());
        let composer = Composer::new(site, &device.id, options.payload, options.profile.clone(), device.description);
        let cell = Arc::new(Cell::new(device.id.clone(), self.shared.clock.clone(), &self.shared.metrics));
        // Until its task begins: it lacks no token that it has.
        cell.enter(match *token.watch().borrow() {
            TokenState::Valid(_) => RelayState::Connecting,
            TokenState::Waiting { .. } => RelayState::WaitingForToken,
            TokenState::Quarantined { .. } | TokenState::Held { .. } | TokenState::Revoked { .. } => RelayState::Paused,
        });
        let stop = CancellationToken::new();
        let Some(task) = Task::new(
            Arc::clone(&self.shared),
            device.id.clone(),
            composer,
            lane.serve(&device.id),
            token,
            Arc::clone(&cell),
            stop.clone(),
        ) else {
            return;
        };
        let ended = CancellationToken::new();
        let told = ended.clone().drop_guard();
        tokio::spawn(async move {
            let _told = told;
            if let Some(before) = before {
                before.cancelled().await;
            }
            task.run().await;
        });
        devices.insert(device.id, Attached { cell, stop, ended });
    }

    /// Ends a device's connection: what is in flight may come back first, for at most [`RelayOptions::drain`].
    pub async fn detach(&self, device: &DeviceId) {
        let ended = {
            let devices = self.lock();
            let Some(attached) = devices.get(device) else { return };
            attached.stop.cancel();
            attached.ended.clone()
        };
        ended.cancelled().await;
        // Not one that was attached meanwhile.
        self.lock().retain(|id, attached| id != device || !attached.ended.is_cancelled());
    }

    /// The bound on connections at once.
    #[must_use]
    pub(crate) fn max_connections(&self) -> usize {
        self.shared.options.max_connections
    }

    /// Detaches every device, all at once.
    pub async fn shutdown(&self) {
        let all: Vec<CancellationToken> = {
            let devices = self.lock();
            devices.values().for_each(|attached| attached.stop.cancel());
            devices.values().map(|attached| attached.ended.clone()).collect()
        };
        for ended in all {
            ended.cancelled().await;
        }
        self.lock().retain(|_, attached| !attached.ended.is_cancelled());
    }

    /// Every attached device, by id.
    #[must_use]
    pub fn status(&self) -> Vec<RelayStatus> {
        let devices = self.lock();
        let there = devices.values().filter(|attached| !attached.is_leaving());
        let mut all: Vec<RelayStatus> = there.map(|attached| attached.cell.status()).collect();
        all.sort_by(|a, b| a.device.cmp(&b.device));
        all
    }

    /// The connection of one device; `None` if it is not attached.
    #[must_use]
    pub fn device_status(&self, device: &DeviceId) -> Option<RelayStatus> {
        self.there(device, |attached| attached.cell.status())
    }

    /// How many messages of a device the broker has confirmed, as it grows; `None` if it is not attached.
    #[must_use]
    pub(crate) fn confirmed(&self, device: &DeviceId) -> Option<watch::Receiver<u64>> {
        self.there(device, |attached| attached.cell.confirmed.subscribe())
    }

    fn there<T>(&self, device: &DeviceId, look: impl FnOnce(&Attached) -> T) -> Option<T> {
        self.lock().get(device).filter(|attached| !attached.is_leaving()).map(look)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<DeviceId, Attached>> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay").field("host", &self.shared.options.host).finish_non_exhaustive()
    }
}
