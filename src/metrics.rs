//! What the gateway counts, as Prometheus text. Cheap to clone: every part holds one.
//!
//! Names are stable: a dashboard depends on them. Every bound of the design is visible as a
//! `_limit` gauge beside the gauge that it bounds. A device id is the only label that grows,
//! and the registry bounds it.

use std::fmt::Write as _;
use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// The label of a count that belongs to one device.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Device {
    /// Device id.
    pub device: String,
}

impl Device {
    /// Label of one device.
    pub(crate) fn of(device: &impl ToString) -> Self {
        Self { device: device.to_string() }
    }
}

/// The label of a count that belongs to one link.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Link {
    /// The port's name in the configuration.
    pub link: String,
}

/// The label of a count by its reason; only fixed texts.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    /// A fixed text.
    pub reason: &'static str,
}

/// The label of a count by the kind of what happened; only fixed texts.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Kind {
    /// A fixed text.
    pub kind: &'static str,
}

/// The label of something that ends.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Expiring {
    /// Where it is named: a key of the configuration, or a kind of key.
    pub what: String,
}

/// A bound of the design and what it bounds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Bound {
    /// A fixed text.
    pub what: &'static str,
}

/// All metrics of one gateway.
#[derive(Clone)]
pub struct Metrics {
    /// Frames and messages of serial lines.
    pub link: LinkMetrics,
    /// Pairing runs and codes.
    pub pairing: PairingMetrics,
    /// Sessions with sensors.
    pub session: SessionMetrics,
    /// What waits for the broker.
    pub spool: SpoolMetrics,
    /// MQTT connections.
    pub relay: RelayMetrics,
    /// Access tokens.
    pub token: TokenMetrics,
    /// The control socket.
    pub control: ControlMetrics,
    /// Alarms that were said, by kind.
    pub alarms: Family<Kind, Counter>,
    /// Lines that the audit log lacks and does not say so yet.
    pub audit_missing: Gauge,
    /// Bounds of queues, tables and connections, by what they bound.
    pub limits: Family<Bound, Gauge>,
    /// Seconds until certificates and keys end, by where they are named.
    pub expires: Family<Expiring, Gauge>,
    registry: Arc<Registry>,
}

/// Frames and messages of serial lines.
#[derive(Clone, Default)]
pub struct LinkMetrics {
    /// Ports that are open.
    pub ports_open: Gauge,
    /// Valid frames received, by link.
    pub frames: Family<Link, Counter>,
    /// Frames that failed CRC, length or form, by link.
    pub bad_frames: Family<Link, Counter>,
    /// Messages that did not parse or came in the wrong state, by link.
    pub bad_messages: Family<Link, Counter>,
    /// Bytes received, by link.
    pub received_bytes: Family<Link, Counter>,
    /// Steps taken because expected data was missing on the air, by what was done.
    pub recoveries: Family<Reason, Counter>,
}

/// Pairing runs and codes.
#[derive(Clone, Default)]
pub struct PairingMetrics {
    /// Runs begun.
    pub started: Counter,
    /// Runs that ended in a confirmed pairing.
    pub succeeded: Counter,
    /// Runs that failed, by reason.
    pub failed: Family<Reason, Counter>,
    /// Attempts counted against a code.
    pub attempts: Counter,
    /// Codes alive now.
    pub codes_active: Gauge,
}

/// Sessions with sensors.
#[derive(Clone, Default)]
pub struct SessionMetrics {
    /// Sessions alive now.
    pub active: Gauge,
    /// Handshakes that ended in a session.
    pub handshakes: Counter,
    /// Handshakes that failed, by reason.
    pub handshakes_failed: Family<Reason, Counter>,
    /// Readings accepted, by device.
    pub readings: Family<Device, Counter>,
    /// Readings received again and not taken, by device.
    pub repeated: Family<Device, Counter>,
    /// Records that failed authentication or were replayed, by device.
    pub bad_records: Family<Device, Counter>,
}

/// What waits for the broker.
#[derive(Clone, Default)]
pub struct SpoolMetrics {
    /// Readings waiting, by device.
    pub waiting: Family<Device, Gauge>,
    /// Bytes waiting, memory and disk.
    pub bytes: Gauge,
    /// Bytes on disk.
    pub disk_bytes: Gauge,
    /// Bytes in memory.
    pub memory_bytes: Gauge,
    /// Commits to disk.
    pub commits: Counter,
    /// 1 while nothing can be committed.
    pub trouble: Gauge,
    /// Readings dropped at the byte cap.
    pub dropped: Counter,
    /// Readings that a broker refused for good, kept aside.
    pub dead_letters: Gauge,
}

/// MQTT connections.
#[derive(Clone)]
pub struct RelayMetrics {
    /// Connections up now.
    pub connections: Gauge,
    /// Connects tried.
    pub connects: Counter,
    /// Connections that failed or ended, by reason.
    pub disconnects: Family<Reason, Counter>,
    /// Messages published, by device.
    pub published: Family<Device, Counter>,
    /// Messages confirmed by the broker, by device.
    pub confirmed: Family<Device, Counter>,
    /// Times that a token's rate was used up.
    pub held: Counter,
    /// Confirmed with "no matching subscribers".
    pub unheard: Counter,
    /// Messages that the broker refused, by reason.
    pub refused: Family<Reason, Counter>,
    /// Re-authentications on a live connection.
    pub reauths: Counter,
    /// Seconds from PUBLISH to PUBACK.
    pub confirm_seconds: Histogram,
}

/// Access tokens.
#[derive(Clone, Default)]
pub struct TokenMetrics {
    /// Devices with a valid token.
    pub valid: Gauge,
    /// Tokens issued.
    pub issued: Counter,
    /// Requests for a token that failed.
    pub failed: Counter,
    /// Devices in quarantine.
    pub quarantined: Gauge,
    /// Devices whose token is revoked.
    pub revoked: Gauge,
    /// Devices that get no token until somebody decides.
    pub held: Gauge,
    /// 1 while what was revoked is not on the disk, or not where the broker reads it.
    pub deny_list_trouble: Gauge,
}

/// The control socket.
#[derive(Clone, Default)]
pub struct ControlMetrics {
    /// Connections open now.
    pub connections: Gauge,
    /// Requests answered.
    pub requests: Counter,
    /// Requests refused, by reason.
    pub refused: Family<Reason, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// PUBACK times from 0.25 ms to 8 s.
fn confirm_buckets() -> Histogram {
    Histogram::new([0.000_25, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0, 8.0])
}

impl Metrics {
    /// All counts at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("clawgate");
        let limits = Family::default();
        registry.register("limit", "Bounds, by what they bound", limits.clone());
        let alarms = Family::default();
        registry.register("alarms", "Alarms that were said, by kind", alarms.clone());
        let audit_missing = Gauge::default();
        registry.register("audit_missing", "Lines that could not be written to the audit log", audit_missing.clone());
        let expires = Family::default();
        let help = "Until certificates and keys end, by where they are named";
        registry.register_with_unit("expires", help, Unit::Seconds, expires.clone());
        Self {
            link: LinkMetrics::register(&mut registry),
            pairing: PairingMetrics::register(&mut registry),
            session: SessionMetrics::register(&mut registry),
            spool: SpoolMetrics::register(&mut registry),
            relay: RelayMetrics::register(&mut registry),
            token: TokenMetrics::register(&mut registry),
            control: ControlMetrics::register(&mut registry),
            alarms,
            audit_missing,
            limits,
            expires,
            registry: Arc::new(registry),
        }
    }

    /// States a bound, so that it can be compared with what it bounds.
    pub(crate) fn limit(&self, what: &'static str, value: usize) {
        self.limits.get_or_create(&Bound { what }).set(i64::try_from(value).unwrap_or(i64::MAX));
    }

    /// OpenMetrics text of everything.
    #[must_use]
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            // Writing to a String cannot fail; were it to, a scraper must see that it did.
            let _ = writeln!(text, "# encoding failed");
        }
        text
    }
}

impl LinkMetrics {
    fn register(to: &mut Registry) -> Self {
        let it = Self::default();
        let to = to.sub_registry_with_prefix("link");
        to.register("ports_open", "Ports that are open", it.ports_open.clone());
        to.register("frames", "Valid frames received", it.frames.clone());
        to.register("bad_frames", "Frames that failed CRC, length or form", it.bad_frames.clone());
        to.register("bad_messages", "Messages that did not parse, or came too often", it.bad_messages.clone());
        to.register_with_unit("received", "Bytes received", Unit::Bytes, it.received_bytes.clone());
        to.register("recoveries", "Steps taken because data was missing on the air", it.recoveries.clone());
        it
    }
}

impl PairingMetrics {
    fn register(to: &mut Registry) -> Self {
        let it = Self::default();
        let to = to.sub_registry_with_prefix("pairing");
        to.register("started", "Runs begun", it.started.clone());
        to.register("succeeded", "Runs that ended in a pairing", it.succeeded.clone());
        to.register("failed", "Runs that failed", it.failed.clone());
        to.register("attempts", "Attempts counted against a code", it.attempts.clone());
        to.register("codes_active", "Codes alive now", it.codes_active.clone());
        it
    }
}

impl SessionMetrics {
    fn register(to: &mut Registry) -> Self {
        let it = Self::default();
        let to = to.sub_registry_with_prefix("session");
        to.register("active", "Sessions alive now", it.active.clone());
        to.register("handshakes", "Handshakes that ended in a session", it.handshakes.clone());
        to.register("handshakes_failed", "Handshakes that failed", it.handshakes_failed.clone());
        to.register("readings", "Readings accepted", it.readings.clone());
        to.register("repeated", "Readings received again and not taken", it.repeated.clone());
        to.register("bad_records", "Records that failed authentication or were replayed", it.bad_records.clone());
        it
    }
}

impl SpoolMetrics {
    fn register(to: &mut Registry) -> Self {
        let it = Self::default();
        let to = to.sub_registry_with_prefix("spool");
        to.register("waiting", "Readings waiting for the broker", it.waiting.clone());
        to.register_with_unit("size", "Bytes waiting, memory and disk", Unit::Bytes, it.bytes.clone());
        to.register_with_unit("disk", "Bytes on disk", Unit::Bytes, it.disk_bytes.clone());
        to.register_with_unit("memory", "Bytes in memory", Unit::Bytes, it.memory_bytes.clone());
        to.register("commits", "Commits to disk", it.commits.clone());
        to.register("trouble", "1 while nothing can be committed", it.trouble.clone());
        to.register("dropped", "Readings dropped at the byte cap", it.dropped.clone());
        to.register("dead_letters", "Readings that a broker refused for good, kept aside", it.dead_letters.clone());
        it
    }
}

impl RelayMetrics {
    fn register(to: &mut Registry) -> Self {
        let it = Self {
            connections: Gauge::default(),
            connects: Counter::default(),
            disconnects: Family::default(),
            published: Family::default(),
            confirmed: Family::default(),
            held: Counter::default(),
            unheard: Counter::default(),
            refused: Family::default(),
            reauths: Counter::default(),
            confirm_seconds: confirm_buckets(),
        };
        let to = to.sub_registry_with_prefix("relay");
        to.register("connections", "Connections up now", it.connections.clone());
        to.register("connects", "Connects tried", it.connects.clone());
        to.register("disconnects", "Connections that failed or ended", it.disconnects.clone());
        to.register("published", "Messages published", it.published.clone());
        to.register("confirmed", "Messages confirmed by the broker", it.confirmed.clone());
        to.register(
            "held",
            "Times that the rate of a device's token was used up, and its readings waited",
            it.held.clone(),
        );
        to.register("unheard", "Confirmed with no matching subscribers", it.unheard.clone());
        to.register("refused", "Messages that the broker refused", it.refused.clone());
        to.register("reauths", "Re-authentications on a live connection", it.reauths.clone());
        to.register_with_unit("confirm", "PUBLISH to PUBACK", Unit::Seconds, it.confirm_seconds.clone());
        it
    }
}

impl TokenMetrics {
    fn register(to: &mut Registry) -> Self {
        let it = Self::default();
        let to = to.sub_registry_with_prefix("token");
        to.register("valid", "Devices with a valid token", it.valid.clone());
        to.register("issued", "Tokens issued", it.issued.clone());
        to.register("failed", "Requests for a token that failed", it.failed.clone());
        to.register("quarantined", "Devices in quarantine", it.quarantined.clone());
        to.register("revoked", "Devices whose token is revoked", it.revoked.clone());
        to.register("held", "Devices that get no token until somebody decides", it.held.clone());
        to.register(
            "deny_list_trouble",
            "1 while what was revoked is not on the disk, or not where the broker reads it",
            it.deny_list_trouble.clone(),
        );
        it
    }
}

impl ControlMetrics {
    fn register(to: &mut Registry) -> Self {
        let it = Self::default();
        let to = to.sub_registry_with_prefix("control");
        to.register("connections", "Connections open now", it.connections.clone());
        to.register("requests", "Requests answered", it.requests.clone());
        to.register("refused", "Requests refused", it.refused.clone());
        it
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_and_a_bound_appear_in_the_text() {
        let metrics = Metrics::new();
        metrics.clone().session.readings.get_or_create(&Device::of(&"pump-3")).inc();
        metrics.limit("devices", 64);
        let text = metrics.text();
        assert!(text.contains("clawgate_session_readings_total{device=\"pump-3\"} 1"), "{text}");
        assert!(text.contains("clawgate_limit{what=\"devices\"} 64"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }
}
