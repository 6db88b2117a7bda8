//! What the gateway keeps of itself and says of itself: `[audit]`, `[alarms]`, `[keys]`, `[metrics]`, `[log]`.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::loopback;
use crate::audit::Retention;

/// `[alarms]`: from when on something is an alarm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AlarmsConfig {
    /// So many wrong codes within `window`; 1 to 1000.
    #[serde(deserialize_with = "super::values::alarm_number")]
    pub failed_attempts: u16,
    /// The sliding time in which wrong codes are counted; 1 s to 1 day.
    #[serde(deserialize_with = "super::values::code_life", serialize_with = "super::written::duration")]
    pub window: Duration,
    /// So many times a device's own baseline of readings a second; 2 to 1000.
    #[serde(deserialize_with = "super::values::rate_factor")]
    pub rate_factor: u16,
    /// How long a device's baseline is learnt before it is judged by it; 10 s to 1 day.
    #[serde(deserialize_with = "super::values::rate_learning", serialize_with = "super::written::duration")]
    pub rate_learning: Duration,
}

/// `[audit]`: how much of the audit log is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuditConfig {
    /// Lines kept on disk, in bytes; beyond it the oldest go.
    #[serde(deserialize_with = "super::values::spool_bytes", serialize_with = "super::written::size")]
    pub max_bytes: u64,
    /// Age of the oldest line that is kept, or `"off"`: by size alone.
    #[serde(deserialize_with = "super::values::audit_age", serialize_with = "super::written::duration_or_off")]
    pub max_age: Option<Duration>,
}

/// `[metrics]`: Prometheus text over HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsConfig {
    /// Address and port, or `"off"`.
    #[serde(deserialize_with = "super::values::listen_or_off", serialize_with = "super::written::listen_or_off")]
    pub listen: Option<SocketAddr>,
}

/// `[log]`: what is said.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// The least important level that is written.
    pub level: LogLevel,
}

/// Levels of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// An operator must act.
    Error,
    /// Heals itself.
    Warn,
    /// Life-cycle.
    #[default]
    Info,
    /// Per exchange.
    Debug,
    /// Per frame.
    Trace,
}

/// `[keys]`: when keys are changed without being asked; docs/keys.md says what each change means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeysConfig {
    /// The key that signs access tokens, where the issuer is in this process.
    #[serde(deserialize_with = "super::values::schedule", serialize_with = "super::written::duration_or_off")]
    pub issuer: Option<Duration>,
    /// How long the issuer's new key is published before it signs; up to 1 day.
    #[serde(deserialize_with = "super::values::lead", serialize_with = "super::written::duration")]
    pub issuer_lead: Duration,
    /// The key that signs the audit log.
    #[serde(deserialize_with = "super::values::schedule", serialize_with = "super::written::duration_or_off")]
    pub audit: Option<Duration>,
    /// The gateway's static key; pairings keep the one that they were made with.
    #[serde(deserialize_with = "super::values::schedule", serialize_with = "super::written::duration_or_off")]
    pub gateway: Option<Duration>,
    /// The master key, where it is the key file of our own.
    #[serde(deserialize_with = "super::values::schedule", serialize_with = "super::written::duration_or_off")]
    pub master: Option<Duration>,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self { max_bytes: Retention::default().max_bytes, max_age: None }
    }
}

impl AuditConfig {
    /// What the log is told of it.
    #[must_use]
    pub(crate) fn retention(&self) -> Retention {
        Retention { max_bytes: self.max_bytes, max_age: self.max_age }
    }
}

impl Default for AlarmsConfig {
    fn default() -> Self {
        let rate_learning = Duration::from_secs(600);
        Self { failed_attempts: 5, window: Duration::from_secs(600), rate_factor: 10, rate_learning }
    }
}

impl Default for KeysConfig {
    fn default() -> Self {
        Self {
            issuer: None,
            issuer_lead: Duration::from_secs(600),
            audit: None,
            gateway: Some(Duration::from_secs(365 * 86_400)),
            master: None,
        }
    }
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self { listen: Some(loopback(9464)) }
    }
}
