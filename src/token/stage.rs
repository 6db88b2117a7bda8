//! Where a device serves: on a desk, on trial, in earnest. A gateway is of one stage, and each stage has an issuer, a
//! key and an audience of its own, so that what was granted in one is worth nothing in another.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One of the three stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// On somebody's desk.
    Dev,
    /// On trial.
    Staging,
    /// In earnest.
    #[default]
    Prod,
}

/// None of the three.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no stage: dev, staging or prod")]
pub struct UnknownStage(String);

impl Stage {
    /// As configuration, codes and tokens write it.
    #[must_use]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Staging => "staging",
            Self::Prod => "prod",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Stage {
    type Err = UnknownStage;

    fn from_str(text: &str) -> Result<Self, UnknownStage> {
        match text {
            "dev" => Ok(Self::Dev),
            "staging" => Ok(Self::Staging),
            "prod" => Ok(Self::Prod),
            _ => Err(UnknownStage(text.chars().take(64).collect())),
        }
    }
}
