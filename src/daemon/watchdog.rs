//! Tells systemd of progress, and only of real progress: the parts answered within half its patience.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Gateway, view};
use crate::notify;

/// How often the status line is renewed where systemd asks for no watchdog.
const STATUS_EVERY: Duration = Duration::from_secs(10);

/// Feeds the watchdog until `stop`.
pub(super) async fn watch(gateway: Gateway, stop: CancellationToken) {
    let every = notify::watchdog_period().map_or(STATUS_EVERY, |period| period / 3).min(STATUS_EVERY);
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let probe = gateway.clone();
        // Ends codes whose time is over, and so goes through the locks and the database that pairings go through: a stuck one
        // starves the watchdog.
        let answered = tokio::task::spawn_blocking(move || {
            let live_codes = probe.codes().expire();
            if let Ok(live) = &live_codes {
                probe.metrics().pairing.codes_active.set(i64::try_from(*live).unwrap_or(i64::MAX));
            }
            (live_codes.is_ok(), view::one_line(&probe))
        });
        match tokio::time::timeout(every, answered).await {
            Ok(Ok((true, line))) => {
                notify::watchdog();
                notify::status(&line);
            }
            Ok(Ok((false, _))) => tracing::warn!("the state does not answer; the watchdog is not fed"),
            Ok(Err(error)) => tracing::warn!(%error, "a part failed to answer; the watchdog is not fed"),
            Err(_) => tracing::warn!("the parts do not answer in time; the watchdog is not fed"),
        }
    }
}
