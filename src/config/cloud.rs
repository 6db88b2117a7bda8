//! The gateway itself at the broker, and who may command it there: `[cloud]`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Name;
use crate::principal::command::CommandName;

/// `[cloud]`: the gateway itself at the broker, beside its devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CloudConfig {
    /// Whether it says how it is: status, audit checkpoints, alarms.
    pub status: CloudStatus,
    /// Its status is said again after this time without a change; 10 s to 1 day.
    #[serde(deserialize_with = "super::values::status_every", serialize_with = "super::written::duration")]
    pub status_every: Duration,
    /// Whether signed commands are taken while the kernel does not call its clock synchronised.
    pub clock: CommandClock,
    /// Whether it subscribes to what the broker itself tells beside its alarms: mosquitto's plugin does.
    pub broker_alarms: bool,
    /// `[cloud.command_keys.NAME]`: who may command what. None by default: no command is taken.
    pub command_keys: BTreeMap<Name, CommandKeyConfig>,
}

/// How sure the time must be at which a command is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CommandClock {
    /// As any NTP client keeps it.
    #[default]
    Synchronised,
    /// As the machine has it: for sites whose time comes from elsewhere.
    Any,
}

/// `[cloud.command_keys.NAME]`: who commands as NAME (the claim `iss`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CommandKeyConfig {
    /// The ES256 public key or keys: PEM, JWK, or JWK set.
    pub public_key: PathBuf,
    /// What may be commanded with it.
    pub commands: Vec<CommandName>,
}

/// Whether the gateway speaks for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CloudStatus {
    /// With a broker elsewhere; an issuer that gives the gateway itself no token is no problem.
    #[default]
    Auto,
    /// Also in standalone mode; without a connection of its own the gateway is degraded.
    On,
    /// Not at all.
    Off,
}

impl Default for CloudConfig {
    fn default() -> Self {
        Self {
            status: CloudStatus::default(),
            status_every: Duration::from_secs(300),
            clock: CommandClock::default(),
            broker_alarms: false,
            command_keys: BTreeMap::new(),
        }
    }
}
