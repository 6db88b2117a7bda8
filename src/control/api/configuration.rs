//! The configuration in force.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The answer of `GET /v1/config`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// Every key, by name.
    pub keys: Vec<ConfigKey>,
    /// Why the files as they are now would be refused; what is in force stays so.
    pub refused: Option<String>,
}

/// A key of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigKey {
    /// Dotted.
    pub key: String,
    /// As the files write it; `null` where it is not set. A secret stands nowhere, only its place.
    pub value: Value,
    /// `default`, `file`, `command`, or `unknown` where the files cannot be read.
    pub from: String,
    /// The file that says it, also where a command lies over it.
    pub file: Option<String>,
    /// Who laid it over the files, by which command.
    pub by: Option<String>,
    /// When, RFC 3339.
    pub at: Option<String>,
    /// What it would be without that.
    pub beneath: Option<Value>,
    /// What the files say now, where that is not in force yet: it waits for a reload or a restart.
    pub waiting: Option<Value>,
}

/// `POST /v1/config/unset`: one key, or all.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnsetRequest {
    /// The key.
    #[serde(default)]
    pub key: Option<String>,
    /// Every key that a command changed.
    #[serde(default)]
    pub all: bool,
}

/// What lay over the files and does no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unset {
    /// The keys; none where nothing lay there.
    pub unset: Vec<String>,
}
