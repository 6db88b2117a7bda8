//! Metrics that are read from the parts at a scrape rather than counted as things happen.

use prometheus_client::metrics::counter::Counter;

use super::Gateway;
use crate::metrics::Device;
use crate::pairing::code::MOST_LIVE;

/// States the bounds that are fixed for this run.
pub(super) fn state_limits(gateway: &Gateway) {
    let metrics = gateway.metrics();
    let max_bytes = usize::try_from(gateway.0.spool.status().max_bytes).unwrap_or(usize::MAX);
    metrics.limit("spool_bytes", max_bytes);
    metrics.limit("codes_active", MOST_LIVE);
    metrics.limit("relay_connections", gateway.0.relay.max_connections());
}

/// Reads the parts. Reads the registry: call it where blocking is allowed.
pub(super) fn refresh(gateway: &Gateway) {
    spool(gateway);
    gateway.metrics().audit_missing.set(signed(gateway.audit().missing().map_or(0, |missing| missing.lines)));
    let tally = gateway.keeper().tally();
    let token = &gateway.metrics().token;
    token.valid.set(signed(tally.valid));
    token.quarantined.set(signed(tally.quarantined));
    token.revoked.set(signed(tally.revoked));
    token.held.set(signed(tally.held));
    token.deny_list_trouble.set(i64::from(gateway.deny_list_behind().is_some()));
    follow(&token.issued, tally.refreshes);
    follow(&token.failed, tally.failures);
}

fn spool(gateway: &Gateway) {
    let metrics = &gateway.metrics().spool;
    let status = gateway.0.spool.status();
    metrics.bytes.set(signed(status.lanes.iter().map(|lane| lane.bytes).sum()));
    metrics.memory_bytes.set(signed(status.memory_bytes));
    metrics.disk_bytes.set(signed(status.disk_bytes));
    metrics.dead_letters.set(signed(status.dead_letters));
    metrics.trouble.set(i64::from(status.trouble.is_some()));
    follow(&metrics.commits, status.commits);
    follow(&metrics.dropped, status.dropped);
    // Unpaired devices leave no row behind.
    metrics.waiting.clear();
    for device in gateway.store().devices().unwrap_or_default() {
        let lane = device.pairing().and_then(|pairing| status.lanes.iter().find(|lane| lane.pairing == pairing));
        let depth = lane.map_or(0, |lane| lane.depth);
        metrics.waiting.get_or_create(&Device::of(&device.id)).set(signed(depth));
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Moves a counter up to a total that is kept elsewhere.
fn follow(counter: &Counter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}
