//! Lines that could not be written: how many, since when and why, until the log itself says so in a line.

use std::sync::{MutexGuard, PoisonError};

use serde_json::json;

use super::{Audit, AuditError, Inner};
use crate::audit::{Action, Actor, Event, Outcome};

/// What the log lacks now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// So many events are in no line.
    pub lines: u64,
    /// When the first of them was, wall time in milliseconds since 1970.
    pub since_ms: i64,
    /// What the system said at the last one.
    pub why: String,
}

impl Missing {
    /// The line that says so.
    pub(super) fn event(&self) -> Event {
        let since = jiff::Timestamp::from_millisecond(self.since_ms).map(|time| time.to_string()).unwrap_or_default();
        let details = json!({ "lines": self.lines, "since": since });
        Event::done(Actor::Daemon, Action::AuditMissing, "audit")
            .ended(Outcome::Failed)
            .because(&self.why)
            .with(details)
    }
}

impl Audit {
    /// What could not be written, and is not told in the log yet.
    #[must_use]
    pub(crate) fn missing(&self) -> Option<Missing> {
        self.0.missing().clone()
    }

    /// Tries to tell in the log what is missing in it, where something is; what still is.
    #[must_use]
    pub(crate) fn heal(&self) -> Option<Missing> {
        self.missing()?;
        let inner = &*self.0;
        let mut writer = inner.writer();
        if let Err(source) = writer.tell_missing(inner) {
            let error = AuditError::unwritten(&writer.path, source);
            inner.miss(0, &error);
        }
        drop(writer);
        self.missing()
    }
}

impl Inner {
    pub(super) fn missing(&self) -> MutexGuard<'_, Option<Missing>> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `lines` more are missing.
    pub(super) fn miss(&self, lines: u64, error: &AuditError) {
        let mut missing = self.missing();
        let first = || Missing { lines: 0, since_ms: self.clock.wall_ms(), why: String::new() };
        let missing = missing.get_or_insert_with(first);
        missing.lines = missing.lines.saturating_add(lines);
        missing.why = error.to_string();
    }
}
