//! What the audit log is told of tokens that nobody asked for by hand: a device that was paused at once, refreshes
//! summed up, one line an hour. A line for each refresh would be most of the log, and push the rest out of it.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::Gateway;
use crate::audit::{Action, Actor, Event, Outcome};
use crate::ids::DeviceId;
use crate::token::keeper::TokenStatus;

/// How soon a device that is paused for its token stands in the log.
const LOOK: Duration = Duration::from_secs(5);
/// Refreshes of this time make one line.
const PERIOD: Duration = Duration::from_secs(3600);
/// Devices with failed requests that a line names.
const MOST_NAMED: usize = 16;

/// Writes until `stop`, and then what is left.
pub(super) async fn watch(gateway: Gateway, stop: CancellationToken) {
    let mut account = Account::default();
    let mut due = gateway.clock().boot() + PERIOD;
    loop {
        let stopped = stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_none();
        for (device, reason) in account.take(gateway.keeper().list()) {
            let event = Event::done(Actor::Daemon, Action::TokenQuarantine, device.as_str());
            gateway.record(event.ended(Outcome::Failed).because(reason)).await;
        }
        let now = gateway.clock().boot();
        if stopped || now >= due {
            due = now + PERIOD;
            if let Some(event) = account.sum_up(gateway.config().gateway.id.as_str()) {
                gateway.record(event).await;
            }
        }
        if stopped {
            return;
        }
    }
}

/// What happened since the last line.
#[derive(Debug, Default)]
struct Account {
    seen: HashMap<DeviceId, Seen>,
    refreshed: u64,
    failed: u64,
    devices: HashMap<DeviceId, u64>,
}

/// A device's token as it was seen last.
#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    refreshes: u64,
    failures: u64,
    quarantined: bool,
}

impl Account {
    /// Takes the tokens as they are now; the devices that were paused since, and why.
    fn take(&mut self, tokens: Vec<TokenStatus>) -> Vec<(DeviceId, String)> {
        let mut paused = Vec::new();
        let mut seen = HashMap::with_capacity(tokens.len());
        for token in tokens {
            let old = self.seen.get(&token.device).copied().unwrap_or_default();
            // A device that came back under its old name counts from nothing again.
            let since = |now: u64, old: u64| if now >= old { now - old } else { now };
            self.refreshed += since(token.refreshes, old.refreshes);
            let failed = since(token.failures, old.failures);
            if failed > 0 {
                self.failed += failed;
                *self.devices.entry(token.device.clone()).or_default() += failed;
            }
            let quarantined = token.state == "quarantined";
            if quarantined && !old.quarantined {
                paused.push((token.device.clone(), token.reason.unwrap_or_default()));
            }
            seen.insert(token.device, Seen { refreshes: token.refreshes, failures: token.failures, quarantined });
        }
        self.seen = seen;
        paused
    }

    /// One line about everything since the last one; none where nothing happened.
    fn sum_up(&mut self, gateway: &str) -> Option<Event> {
        let (refreshed, failed) = (std::mem::take(&mut self.refreshed), std::mem::take(&mut self.failed));
        let mut worst: Vec<_> = std::mem::take(&mut self.devices).into_iter().collect();
        if refreshed == 0 && failed == 0 {
            return None;
        }
        worst.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        worst.truncate(MOST_NAMED);
        let failing: serde_json::Map<_, _> =
            worst.into_iter().map(|(id, count)| (id.to_string(), count.into())).collect();
        let details = json!({
            "issued": refreshed, "failed": failed, "devices": self.seen.len(), "failed_most": failing,
        });
        Some(Event::done(Actor::Daemon, Action::TokenRefresh, gateway).with(details))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(device: &str, state: &str, refreshes: u64, failures: u64) -> TokenStatus {
        TokenStatus {
            device: device.parse().unwrap(),
            state: state.to_owned(),
            reason: Some("refused".to_owned()),
            jti: None,
            scope: None,
            limits: None,
            expires_in_s: None,
            refreshed_at: None,
            next_request_in_s: None,
            refreshes,
            failures,
            limited_refusals: 0,
        }
    }

    #[test]
    fn refreshes_are_summed_up_and_a_pause_is_told_once() {
        let mut account = Account::default();
        assert!(account.take(vec![token("a", "valid", 1, 0), token("b", "valid", 1, 0)]).is_empty());
        let paused = account.take(vec![token("a", "valid", 5, 0), token("b", "quarantined", 1, 2)]);
        assert_eq!(paused, [("b".parse().unwrap(), "refused".to_owned())]);
        assert!(account.take(vec![token("a", "valid", 5, 0), token("b", "quarantined", 1, 2)]).is_empty());
        let event = account.sum_up("gateway").unwrap();
        assert_eq!(event.details, json!({ "issued": 6, "failed": 2, "devices": 2, "failed_most": { "b": 2 } }));
        assert!(account.sum_up("gateway").is_none());
        // Removed and paired again.
        account.take(vec![token("b", "valid", 1, 0)]);
        account.take(vec![token("a", "valid", 2, 0), token("b", "valid", 1, 0)]);
        assert_eq!(account.sum_up("gateway").unwrap().details["issued"], 2);
    }
}
