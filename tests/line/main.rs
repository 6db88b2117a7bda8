//! A sensor on a serial line and the gateway's front half: links, pairing, sessions, spool. The line is a
//! pseudo terminal, the sensor is the protocol crate's machine, the cloud is a consumer of the spool.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed test says where by panicking")]

mod gateway;
mod pairing;
mod ports;
mod session;
mod unit;

use std::time::Duration;

/// What must come, comes within this time, also on a busy machine.
const SOON: Duration = Duration::from_secs(120);

/// Waits for a condition, not for a time.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(SOON, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}: not within {SOON:?}");
}
