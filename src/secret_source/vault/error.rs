//! What a vault's refusals mean, and what a person does about each.

use std::time::Duration;

/// Longest wait that a server may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// Why the vault gave no secret. None of these holds one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VaultError {
    /// The address or the CA.
    #[error("{0}")]
    Setup(String),
    /// No answer: network, TLS or time-out.
    #[error("the vault at {url} did not answer: {reason}; check the network, vault.url and vault.ca")]
    Unreachable {
        /// The vault.
        url: String,
        /// What the transport said.
        reason: String,
    },
    /// It is sealed, or in standby, or not made yet.
    #[error(
        "the vault at {url} answered {status}: {words}; it is sealed or on standby: unseal it, or wait for the active one"
    )]
    Sealed {
        /// The vault.
        url: String,
        /// HTTP status.
        status: u16,
        /// Its words.
        words: String,
    },
    /// It asked for patience, or failed on its side.
    #[error("the vault at {url} answered {status}: {words}; ask again later")]
    Busy {
        /// The vault.
        url: String,
        /// HTTP status.
        status: u16,
        /// Its words.
        words: String,
        /// Its Retry-After.
        retry_after: Option<Duration>,
    },
    /// The role and its secret id were not taken.
    #[error(
        "the vault at {url} refused the login ({status}: {words}): make a new secret id for the role, and check vault.role_id"
    )]
    Login {
        /// The vault.
        url: String,
        /// HTTP status.
        status: u16,
        /// Its words.
        words: String,
    },
    /// The token may not read it.
    #[error(
        "the vault at {url} refused to read {path} ({words}): the token needs a policy with read on it, and may have expired"
    )]
    Forbidden {
        /// The vault.
        url: String,
        /// What was asked for.
        path: String,
        /// Its words.
        words: String,
    },
    /// There is no such secret.
    #[error(
        "the vault at {url} has no secret at {path}, or its newest version was deleted: check the path and vault.mount (a KV engine of version 2)"
    )]
    NotFound {
        /// The vault.
        url: String,
        /// What was asked for.
        path: String,
    },
    /// The secret has no such field, or it is no text.
    #[error("the secret {path} has no field {field:?} that is a text: check its name")]
    NoField {
        /// What was asked for.
        path: String,
        /// The field.
        field: String,
    },
    /// No answer of a vault.
    #[error("the vault at {url} gave no usable answer: {reason}")]
    Answer {
        /// The vault.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl VaultError {
    /// Whether asking again may help.
    #[must_use]
    pub(crate) fn heals(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Sealed { .. } | Self::Busy { .. } | Self::Answer { .. })
    }

    /// Not to be asked again before.
    #[must_use]
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after, .. } => retry_after.map(|wait| wait.min(LONGEST_WAIT)),
            _ => None,
        }
    }
}
