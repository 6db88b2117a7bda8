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
    answer(listener, router, SCRAPE_TIME, stop).await;
}

/// Answers so many at a time; whoever comes besides waits for a place. A scrape that is under way is no reason to wait
/// when the daemon stops.
async fn answer(listener: TcpListener, router: Router, scrape_time: Duration, stop: CancellationToken) {
    let mut scrapes = JoinSet::new();
    loop {
        let place = async {
            while scrapes.len() >= MAX_CONNECTIONS {
                scrapes.join_next().await;
            }
            listener.accept().await
        };
        let Some(accepted) = stop.run_until_cancelled(place).await else { return };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let service = TowerToHyperService::new(router.clone());
        scrapes.spawn(async move {
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(5))
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            let _ = tokio::time::timeout(scrape_time, served).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpStream;
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn scrapers_that_are_stuck_do_not_delay_a_stop() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (begun, stop) = (Arc::new(Semaphore::new(0)), CancellationToken::new());
        let stuck = {
            let begun = Arc::clone(&begun);
            move || async move {
                begun.add_permits(1);
                std::future::pending::<()>().await;
            }
        };
        let router = Router::new().route("/metrics", get(stuck));
        let serving = tokio::spawn(answer(listener, router, Duration::from_secs(3600), stop.clone()));
        let mut scrapers = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            let mut scraper = TcpStream::connect(address).await.unwrap();
            scraper.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
            scrapers.push(scraper);
        }
        // On one thread: when the last one is stuck, there is nothing left to do but to wait for a place.
        let _all = begun.acquire_many(u32::try_from(MAX_CONNECTIONS).unwrap()).await.unwrap();
        stop.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(60), serving).await;
        ended.expect("it ends although every place is taken").unwrap();
    }
}
