//! The local issuer's endpoints over HTTP: a small OAuth 2.0 server for one site.
//!
//! `POST /token` (client_credentials, RFC 7523 client assertions), `POST /revoke` (RFC 7009), `GET /jwks`,
//! `GET /denylist` and RFC 8414 metadata. It serves plain HTTP, so only this machine: what it hands out is a bearer
//! token. Bodies, connections and their lives are bounded.

mod assertion;
mod bounded;
mod clients;
mod endpoints;
mod keys;
mod reply;
mod site_file;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info};

pub use clients::{Client, ClientError, Clients, Rights};
pub(crate) use keys::change;
pub use keys::{KeyCare, KeySchedule};
pub use site_file::{SiteFile, SiteFileError};

use crate::token::local::LocalIssuer;
use assertion::Replays;
use bounded::Bounded;

/// How long open connections may take to end.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// Without TLS the tokens would be readable on the network.
    #[error(
        "the issuer serves plain HTTP, so only this machine: {0} is not a loopback address; put a TLS proxy before it"
    )]
    NotLoopback(SocketAddr),
    /// The address is taken.
    #[error("the issuer cannot listen on {listen}: {source}; free the port or choose another")]
    Listen {
        /// Where it should have listened.
        listen: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
}

/// What the server hands out.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// The broker that tokens are for.
    pub audience: String,
    /// Life of a token that does not ask for a shorter one.
    pub life: Duration,
    /// URL under which clients reach it; `http://ADDRESS` when none is given.
    pub url: Option<String>,
}

/// A bound socket: its address is known before anything is served, because the issuer's name may depend on it.
#[derive(Debug)]
pub struct IssuerListener {
    listener: TcpListener,
    addr: SocketAddr,
}

impl IssuerListener {
    /// Binds; port 0 takes a free one.
    ///
    /// # Errors
    /// [`ServerError`] when the address is taken or not this machine's own.
    pub async fn bind(listen: SocketAddr) -> Result<Self, ServerError> {
        if !listen.ip().is_loopback() {
            return Err(ServerError::NotLoopback(listen));
        }
        let failed = |source| ServerError::Listen { listen, source };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, addr })
    }

    /// Where it is bound.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

/// The running server.
#[derive(Debug)]
pub struct IssuerServer {
    addr: SocketAddr,
    site: Arc<Site>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// What every request works with.
#[derive(Debug)]
struct Site {
    issuer: LocalIssuer,
    clients: ArcSwap<Clients>,
    audience: String,
    /// Replaced by a reload.
    life: ArcSwap<Duration>,
    url: String,
    replays: Replays,
}

impl Site {
    fn life(&self) -> Duration {
        **self.life.load()
    }
}

impl IssuerServer {
    /// Serves `issuer` to `clients`.
    #[must_use]
    pub fn start(listener: IssuerListener, issuer: LocalIssuer, clients: Clients, options: ServerOptions) -> Self {
        let IssuerListener { listener, addr } = listener;
        let url = options.url.unwrap_or_else(|| format!("http://{addr}"));
        let site = Arc::new(Site {
            issuer,
            clients: ArcSwap::from_pointee(clients),
            audience: options.audience,
            life: ArcSwap::from_pointee(options.life),
            url,
            replays: Replays::default(),
        });
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let routes = endpoints::routes(Arc::clone(&site));
        let stopping = stop.clone();
        tasks.spawn(async move {
            let serving =
                axum::serve(Bounded::new(listener), routes).with_graceful_shutdown(stopping.cancelled_owned());
            if let Err(problem) = serving.await {
                error!(error = %problem, "issuer endpoints ended");
            }
        });
        tasks.close();
        info!(%addr, issuer = site.issuer.name(), "issuer listens");
        Self { addr, site, stop, tasks }
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Other clients from now on; tokens that were issued stay good.
    pub fn replace_clients(&self, clients: Clients) {
        self.site.clients.store(Arc::new(clients));
    }

    /// Another life of tokens from now on.
    pub(crate) fn set_life(&self, life: Duration) {
        self.site.life.store(Arc::new(life));
    }

    /// Ends the open requests and stops.
    pub async fn stop(self) {
        self.stop.cancel();
        if tokio::time::timeout(STOP_LIMIT, self.tasks.wait()).await.is_err() {
            error!("issuer endpoints did not end in time");
        }
    }
}
