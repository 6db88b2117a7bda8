//! What is audited: who did what to what, with which outcome.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Action;
use crate::ids::DeviceId;

/// Who acts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum Actor {
    /// A person or program at the control socket, by its peer credentials.
    Uid {
        /// User id.
        uid: u32,
        /// Login name, where the system knows one.
        name: Option<String>,
    },
    /// A sensor.
    Device {
        /// Its name here.
        id: DeviceId,
    },
    /// This program by itself.
    Daemon,
    /// A command from the cloud.
    Cloud {
        /// The configured name of the key that signed it; none where nobody known did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<String>,
    },
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uid { uid, name: Some(name) } => write!(f, "{} (uid {uid})", name.escape_default()),
            Self::Uid { uid, name: None } => write!(f, "uid {uid}"),
            Self::Device { id } => write!(f, "device {id}"),
            Self::Daemon => f.write_str("the gateway"),
            Self::Cloud { key: Some(key) } => write!(f, "the cloud (key {})", key.escape_default()),
            Self::Cloud { key: None } => f.write_str("the cloud"),
        }
    }
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Done.
    Ok,
    /// Not allowed, or not possible as asked.
    Refused,
    /// Tried and failed.
    Failed,
}

/// One thing that happened. No field may hold a secret.
#[derive(Debug, Clone)]
pub struct Event {
    /// Who.
    pub actor: Actor,
    /// What.
    pub action: Action,
    /// To what: a device, a code, a token id.
    pub subject: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Why, in words.
    pub reason: Option<String>,
    /// What else a reader needs.
    pub details: Value,
}

impl Event {
    /// A thing that was done, with nothing more to say.
    #[must_use]
    pub fn done(actor: Actor, action: Action, subject: impl Into<String>) -> Self {
        Self { actor, action, subject: subject.into(), outcome: Outcome::Ok, reason: None, details: Value::Null }
    }

    /// The same with a reason.
    #[must_use]
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    /// The same with another outcome.
    #[must_use]
    pub fn ended(mut self, outcome: Outcome) -> Self {
        self.outcome = outcome;
        self
    }

    /// The same with details.
    #[must_use]
    pub fn with(mut self, details: Value) -> Self {
        self.details = details;
        self
    }
}
