//! What clients of the endpoints were given, and had taken back, for the audit log. Nobody waits for whoever reads it.

use std::time::Duration;

/// Notes that wait to be read; more than any site's clients ask for between two looks.
const MOST: usize = 1000;

/// What a client was given or had taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Handed {
    /// Who asked, by its own key.
    pub(crate) client: String,
    /// Whom the token stands for.
    pub(crate) subject: String,
    /// When, on the boot clock.
    pub(crate) at: Duration,
    /// What.
    pub(crate) what: Deed,
}

/// Given or taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Deed {
    /// A token.
    Issued {
        /// Its own id.
        jti: String,
        /// From its making to its expiry.
        life: Duration,
    },
    /// Every token of the subject until now.
    Revoked,
}

/// The notes since the last look. Clones share it.
pub(super) type Ledger = crate::token::journal::Journal<Handed, MOST>;
