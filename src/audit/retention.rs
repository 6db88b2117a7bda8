//! How much of the log is kept. It goes by whole files, the oldest first, each only after a signed checkpoint that
//! covers it; a line says what went.

use std::time::Duration;

/// Files that the log is divided into: what is kept may be short of the bound by one of them.
const PARTS: u32 = 16;
/// Largest file.
const FILE_BYTES: u64 = 4 << 20;

/// `[audit]`: what is kept of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// At most so many bytes of lines.
    pub max_bytes: u64,
    /// Nothing older than this; by size alone where there is none. Older lines go only while the clock is known to be
    /// right: one that jumped ahead by years must not empty the log.
    pub max_age: Option<Duration>,
}

impl Default for Retention {
    fn default() -> Self {
        Self { max_bytes: 64 << 20, max_age: None }
    }
}

impl Retention {
    /// A file is closed at this size.
    pub(super) fn file_bytes(&self) -> u64 {
        (self.max_bytes / u64::from(PARTS)).min(FILE_BYTES)
    }

    /// Bytes of closed files, beyond which the oldest goes.
    pub(super) fn closed_bytes(&self) -> u64 {
        self.max_bytes.saturating_sub(self.file_bytes())
    }

    /// A file is closed when its first line is as old as this: what is too old can then go as a whole file.
    pub(super) fn file_age_ms(&self) -> Option<i64> {
        self.max_age.map(|age| ms(age / PARTS))
    }

    /// Lines before this wall time are too old.
    pub(super) fn too_old_ms(&self, now_ms: i64) -> Option<i64> {
        self.max_age.map(|age| now_ms.saturating_sub(ms(age)))
    }
}

fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
