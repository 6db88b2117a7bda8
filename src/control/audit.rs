//! The audit log over the socket. Verifying it needs no daemon: `clawgate audit verify` reads the files.

use std::io::{BufWriter, Write as _};

use axum::extract::State;
use axum::response::Response;
use axum::{Extension, Json};
use serde_json::json;
use tokio::runtime::Handle;

use super::exchange::{Query, number};
use super::failure::{Failure, blocking};
use super::role::Caller;
use super::stream::written;
use crate::audit::{Action, AuditError, Cursor, Entry, Event, Selection};
use crate::daemon::Gateway;

/// Most entries of one answer; `export` gives all.
const MAX_TAIL: u64 = 10_000;
/// Lines that are read at once for who follows.
const BATCH: usize = 64;

pub(super) async fn tail(State(gateway): State<Gateway>, query: Query) -> Result<Json<Vec<Entry>>, Failure> {
    let lines = number(&query, "lines", 20, MAX_TAIL)?;
    blocking(move || gateway.audit().tail(usize::try_from(lines).unwrap_or(usize::MAX))).await.map(Json)
}

pub(super) async fn export(
    State(gateway): State<Gateway>,
    Extension(caller): Extension<Caller>,
    query: Query,
) -> Result<Response, Failure> {
    let wanted = Selection { after: optional(&query, "after")?, since_ms: optional(&query, "since_ms")? };
    let follow = match query.get("follow").map(String::as_str) {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(Failure::usage("follow is true or false.", "")),
    };
    let details = json!({ "after": wanted.after, "since_ms": wanted.since_ms, "follow": follow });
    gateway.record(Event::done(caller.actor(), Action::AuditExport, "audit").with(details)).await;
    let (written, response) = written();
    let runtime = Handle::current();
    tokio::task::spawn_blocking(move || {
        let mut out = BufWriter::with_capacity(32 * 1024, written);
        let ended = gateway.audit().export(wanted, !follow, &mut out);
        let ended = ended.and_then(|cursor| if follow { go_on(&gateway, &runtime, cursor, &mut out) } else { Ok(()) });
        if let Err(error) = ended {
            tracing::info!(%error, "an export of the audit log ended early");
        }
    });
    Ok(response)
}

/// Writes what comes, until the reader or the daemon goes.
fn go_on(
    gateway: &Gateway,
    runtime: &Handle,
    mut cursor: Cursor,
    out: &mut BufWriter<super::stream::Written>,
) -> Result<(), AuditError> {
    let failed = |source| AuditError::Io { path: "audit".into(), action: "export the audit log", source };
    let mut checkpoints = gateway.audit().checkpoints();
    loop {
        checkpoints.mark_unchanged();
        loop {
            let lines = gateway.audit().read(&mut cursor, BATCH)?;
            if lines.is_empty() {
                break;
            }
            let write = |line: &Vec<u8>| out.write_all(line).and_then(|()| out.write_all(b"\n"));
            lines.iter().try_for_each(write).map_err(failed)?;
        }
        out.flush().map_err(failed)?;
        let more = runtime.block_on(async {
            tokio::select! {
                changed = gateway.unless_stopping(checkpoints.changed()) => changed.is_some_and(|changed| changed.is_ok()),
                () = out.get_ref().gone() => false,
            }
        });
        if !more {
            return Ok(());
        }
    }
}

/// A number behind the `?`, where one stands there.
fn optional<N: std::str::FromStr>(query: &Query, name: &str) -> Result<Option<N>, Failure> {
    let wrong = |_| Failure::usage(format!("{name} is a number."), "");
    query.get(name).map(|text| text.parse().map_err(wrong)).transpose()
}
