//! The control API: HTTP/JSON over a unix socket. The command line is a client of it, and so may scripts be.
//!
//! Who asks is what the kernel says ([`role`]); each route has the least role it needs ([`routes`]). Everything a
//! client can make large or slow is bounded here: connections in all and a user, header time, body size, answer time.

pub mod api;
mod audit;
mod broken_off;
mod calls;
mod codes;
mod configuration;
mod dead_letters;
mod devices;
mod ending;
mod exchange;
pub mod failure;
mod keys;
mod links;
mod live;
mod once;
mod permitted;
mod reads;
mod refusals;
pub mod role;
pub mod routes;
pub mod socket;
pub mod stream;
pub mod system;
mod tokens;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Extension;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cli::exit::Exit;
use crate::daemon::Gateway;
use crate::logging::Burst;
use crate::metrics::{Metrics, Reason};
use calls::Calls;
pub(crate) use codes::mint;
pub(crate) use exchange::Name;
use failure::Failure;
use reads::Reads;
use role::Caller;
use socket::ControlSocket;

/// Connections at a time, of all users.
const MAX_CONNECTIONS: usize = 32;
/// Connections at a time of one user, so that one cannot lock out another.
const MAX_CONNECTIONS_OF_A_USER: usize = 12;
/// Bytes of a request's body.
pub(crate) const MAX_BODY_BYTES: usize = 64 * 1024;
/// Time for a request's headers.
const HEADER_TIME: Duration = Duration::from_secs(5);
/// Time for a request's body and its answer's beginning.
pub(crate) const ANSWER_TIME: Duration = Duration::from_secs(30);
/// Time that answers under way get when the daemon stops.
const STOP_TIME: Duration = Duration::from_secs(2);

/// Serves the socket until `stop`; then lets answers under way end, within a bound.
pub(crate) async fn serve(socket: ControlSocket, gateway: Gateway, stop: CancellationToken) {
    let metrics = gateway.metrics().clone();
    metrics.limit("control_connections", MAX_CONNECTIONS);
    metrics.limit("control_connections_of_a_user", MAX_CONNECTIONS_OF_A_USER);
    metrics.limit("control_body_bytes", MAX_BODY_BYTES);
    let (calls, reads) = (Arc::new(Calls::default()), Arc::new(Reads::default()));
    let tasks = TaskTracker::new();
    let router = routes::router(&gateway, &calls, &reads, &tasks);
    let mut hours = tokio::time::interval(reads::PERIOD);
    hours.reset();
    let seats = Seats { metrics, taken: Arc::default() };
    let mut refused = Burst::default();
    loop {
        let accepted = tokio::select! {
            accepted = socket.listener.accept() => accepted,
            _ = hours.tick() => {
                note(&gateway, &reads).await;
                continue;
            }
            () = stop.cancelled() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, mostly: it passes; do not spin meanwhile.
                tracing::warn!(%error, "a control connection was not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(peer) = stream.peer_cred() else { continue };
        let Some(seat) = seats.take(peer.uid()) else {
            let now = gateway.clock().boot();
            if let Some(unsaid) = refused.hit(now) {
                tracing::warn!(uid = peer.uid(), unsaid, "too many control connections; one was closed");
            }
            if let Some(event) = calls.event(&Caller::of(peer.uid(), peer.gid()), "connect", &too_many(), now) {
                let gateway = gateway.clone();
                tasks.spawn(async move { gateway.record(event).await });
            }
            continue;
        };
        let caller = Caller::of(peer.uid(), peer.gid());
        tasks.spawn(connection(stream, router.clone(), caller, seat, stop.clone()));
    }
    tasks.close();
    if tokio::time::timeout(STOP_TIME, tasks.wait()).await.is_err() {
        tracing::debug!("control connections were cut");
    }
    note(&gateway, &reads).await;
}

fn too_many() -> Failure {
    Failure::new(
        Exit::Failed,
        "too_many_connections",
        "Too many control connections at a time; this one was closed.",
        "",
    )
}

/// Writes down who has looked at what.
async fn note(gateway: &Gateway, reads: &Reads) {
    for event in reads.events() {
        gateway.record(event).await;
    }
}

/// One connection, one request. The seat is given back when both it and what it began have ended.
async fn connection(stream: UnixStream, router: Router, caller: Caller, seat: Seat, stop: CancellationToken) {
    let router = router.layer(Extension(caller)).layer(Extension(Arc::new(seat)));
    let service = TowerToHyperService::new(router);
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .keep_alive(false)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = std::pin::pin!(served);
    let result = tokio::select! {
        result = served.as_mut() => result,
        () = stop.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a control connection ended early");
    }
}

/// Who is connected, by uid.
#[derive(Clone)]
struct Seats {
    metrics: Metrics,
    taken: Arc<Mutex<HashMap<u32, usize>>>,
}

/// One connection's place; given back when dropped.
struct Seat {
    seats: Seats,
    uid: u32,
}

impl Seats {
    fn take(&self, uid: u32) -> Option<Seat> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = taken.values().sum();
        let own = taken.entry(uid).or_default();
        if all >= MAX_CONNECTIONS || *own >= MAX_CONNECTIONS_OF_A_USER {
            self.metrics.control.refused.get_or_create(&Reason { reason: "too_many_connections" }).inc();
            return None;
        }
        *own += 1;
        self.metrics.control.connections.inc();
        Some(Seat { seats: self.clone(), uid })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = taken.get_mut(&self.uid) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.uid);
            }
        }
        self.seats.metrics.control.connections.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_cannot_take_every_connection() {
        let seats = Seats { metrics: Metrics::new(), taken: Arc::default() };
        let mut held: Vec<_> = (0..MAX_CONNECTIONS_OF_A_USER).map(|_| seats.take(1).unwrap()).collect();
        assert!(seats.take(1).is_none());
        assert!(seats.take(2).is_some());
        held.pop();
        assert!(seats.take(1).is_some());
    }
}
