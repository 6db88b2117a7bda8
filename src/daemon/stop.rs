//! The orderly stop: from the sensors to the broker, each part with a bound of its own.

use std::time::Duration;

use super::Gateway;
use super::tasks::Tasks;
use crate::audit::{Action, Actor, Event};

/// Stops every part. What a part leaves behind after its time is on disk or still with its sensor.
pub(super) async fn stop(gateway: &Gateway, mut tasks: Tasks) {
    tracing::info!("clawgate stops");
    gateway.0.stopping.cancel();
    end(&mut tasks, &[("watchdog", 2), ("control", 4), ("keys", 5), ("principal", 8)]).await;
    // What the broker has not confirmed is safe from here on, so that the sensors hear of it before their links close.
    match tokio::time::timeout(Duration::from_secs(2), gateway.0.spool.commit()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the sensors keep what they sent last, and send it again"),
        Err(_) => tracing::warn!("the disk is slow: the sensors keep what they sent last, and send it again"),
    }
    end(&mut tasks, &[("links", 5), ("alarms", 2)]).await;
    // No reading comes any more: what is in flight gets its time to come back.
    gateway.0.relay.shutdown().await;
    gateway.keeper().shutdown().await;
    // The last commit: what is not confirmed is on disk when this returns.
    end(&mut tasks, &[("token_audit", 2), ("spool", 10), ("issuer", 6), ("broker", 6), ("metrics", 1)]).await;
    gateway.record(Event::done(Actor::Daemon, Action::DaemonStop, gateway.config().gateway.id.as_str())).await;
    tasks.abandon().await;
}

/// Ends these one after the other, each within so many seconds.
async fn end(tasks: &mut Tasks, names: &[(&'static str, u64)]) {
    for (name, seconds) in names {
        if !tasks.stop(name, Duration::from_secs(*seconds)).await {
            tracing::warn!(task = name, seconds, "did not end in time and is cut");
        }
    }
}
