//! The orderly stop: from the sensors to the broker, each part with a bound of its own.

use std::time::Duration;

use super::Gateway;
use super::tasks::Tasks;
use crate::audit::{Action, Actor, Event};

/// Stops every part. What a part leaves behind after its time is on disk or still with its sensor.
pub(super) async fn stop(gateway: &Gateway, mut tasks: Tasks) {
    tracing::info!("clawgate stops");
    gateway.0.stopping.cancel();
    let first = [("watchdog", 2), ("control", 4), ("keys", 5), ("principal", 8), ("links", 5), ("alarms", 2)];
    for (name, seconds) in first {
        if !tasks.stop(name, Duration::from_secs(seconds)).await {
            tracing::warn!(task = name, seconds, "did not end in time and is cut");
        }
    }
    // No reading comes any more: what is in flight gets its time to come back.
    gateway.0.relay.shutdown().await;
    gateway.keeper().shutdown().await;
    // The last commit: what is not confirmed is on disk when this returns.
    for (name, seconds) in [("token_audit", 2), ("spool", 10), ("issuer", 6), ("broker", 6), ("metrics", 1)] {
        if !tasks.stop(name, Duration::from_secs(seconds)).await {
            tracing::warn!(task = name, seconds, "did not end in time and is cut");
        }
    }
    gateway.record(Event::done(Actor::Daemon, Action::DaemonStop, gateway.config().gateway.id.as_str())).await;
    tasks.abandon().await;
}
