//! The gateway as a whole: status, live changes, metrics, the description of this API.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use super::api::{Status, WatchLine};
use super::exchange::Answer;
use super::failure::{Failure, blocking};
use super::live;
use super::stream::{Lines, ndjson};
use crate::daemon::{Gateway, view};

/// How often a watcher's picture is compared.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// The API in OpenAPI 3.1.
pub const OPENAPI: &str = include_str!("openapi.json");

pub(super) async fn status(State(gateway): State<Gateway>) -> Answer<Status> {
    snapshot(&gateway).await.map(Json)
}

pub(super) async fn metrics(State(gateway): State<Gateway>) -> impl IntoResponse {
    crate::daemon::metrics_text(gateway).await
}

pub(super) async fn openapi() -> Response {
    ([(CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

pub(super) async fn watch(State(gateway): State<Gateway>) -> Result<Response, Failure> {
    let first = snapshot(&gateway).await?;
    let (lines, response) = ndjson();
    tokio::spawn(follow(gateway, first, lines));
    Ok(response)
}

async fn follow(gateway: Gateway, mut before: Status, lines: Lines) {
    let mut ticks = tokio::time::interval(WATCH_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            ticked = gateway.unless_stopping(ticks.tick()) => if ticked.is_none() { return },
            () = lines.gone() => return,
        }
        let Ok(now) = snapshot(&gateway).await else { continue };
        let at = view::rfc3339(gateway.clock().wall_ms());
        for (part, what) in live::changes(&before, &now) {
            if lines.send(&WatchLine { at: at.clone(), part, what }).await.is_err() {
                return;
            }
        }
        before = now;
    }
}

async fn snapshot(gateway: &Gateway) -> Result<Status, Failure> {
    let gateway = gateway.clone();
    blocking(move || view::status(&gateway)).await
}
