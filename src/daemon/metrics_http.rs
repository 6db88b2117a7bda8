//! Prometheus text over HTTP; by default on loopback.

use std::time::Duration;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Gateway, gauges};

/// Scrapers at a time.
const MAX_CONNECTIONS: usize = 8;
/// Time for one scrape.
const SCRAPE_TIME: Duration = Duration::from_secs(10);

/// OpenMetrics text, and its media type.
pub(crate) async fn text(gateway: Gateway) -> ([(axum::http::HeaderName, &'static str); 1], String) {
    let text = tokio::task::spawn_blocking(move || {
        gauges::refresh(&gateway);
        gateway.metrics().text()
    });
    ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text.await.unwrap_or_default())
}

/// Serves `GET /metrics` until `stop`.
pub(super) async fn serve(listener: TcpListener, gateway: Gateway, stop: CancellationToken) {
    gateway.metrics().limit("metrics_connections", MAX_CONNECTIONS);
    let router = Router::new().route("/metrics", get(move || text(gateway.clone())));
    let mut scrapes = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        while scrapes.len() >= MAX_CONNECTIONS {
            scrapes.join_next().await;
        }
        let service = TowerToHyperService::new(router.clone());
        scrapes.spawn(async move {
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(5))
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            let _ = tokio::time::timeout(SCRAPE_TIME, served).await;
        });
    }
}
