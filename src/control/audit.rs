//! The audit log over the socket. Verifying it needs no daemon: `clawgate audit verify` reads the files.

use std::io::BufWriter;

use axum::extract::State;
use axum::response::Response;
use axum::{Extension, Json};

use super::failure::Failure;
use super::role::Caller;
use super::routes::{Query, number};
use super::stream::written;
use super::system::blocking;
use crate::audit::{Entry, Event};
use crate::daemon::Gateway;

/// Most entries of one answer; `export` gives all.
const MAX_TAIL: u64 = 10_000;

pub(super) async fn tail(State(gateway): State<Gateway>, query: Query) -> Result<Json<Vec<Entry>>, Failure> {
    let lines = number(&query, "lines", 20, MAX_TAIL)?;
    blocking(move || gateway.audit().tail(usize::try_from(lines).unwrap_or(usize::MAX))).await.map(Json)
}

pub(super) async fn export(State(gateway): State<Gateway>, Extension(caller): Extension<Caller>) -> Response {
    gateway.record(Event::done(caller.actor(), "audit.export", "audit")).await;
    let (written, response) = written();
    tokio::task::spawn_blocking(move || {
        let mut out = BufWriter::with_capacity(32 * 1024, written);
        if let Err(error) = gateway.audit().export(&mut out) {
            tracing::info!(%error, "an export of the audit log ended early");
        }
    });
    response
}
