//! Anchors: at which wall time a sensor's uptime was zero, for a sensor whose clock is not set.
//! One for each of its epochs, kept so that a reading is given the same time after a restart.

use std::time::Duration;

use rusqlite::OptionalExtension;

use super::error::failed;
use super::{Store, StoreError, ms};
use crate::ids::PairingId;

/// A sensor starts an epoch at each restart that lost its counter; older ones have no readings left.
const KEPT: u32 = 16;

/// Maps the uptime of one epoch to wall time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchor {
    /// Unix time at uptime zero; before 1970 for a clock that was wrong.
    pub zero_unix_ms: i64,
}

impl Store {
    /// The anchor of an epoch, if one was set.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn anchor(&self, pairing: PairingId, epoch: u64) -> Result<Option<Anchor>, StoreError> {
        self.db()
            .query_row(
                "SELECT zero_unix_ms FROM anchors WHERE pairing = ?1 AND epoch = ?2",
                (pairing.0, epoch.cast_signed()),
                |row| Ok(Anchor { zero_unix_ms: row.get(0)? }),
            )
            .optional()
            .map_err(failed("read a clock anchor"))
    }

    /// Sets the anchor of an epoch from what the sensor says now; the first one stays, and is returned.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) fn set_anchor(&self, pairing: PairingId, epoch: u64, uptime: Duration) -> Result<Anchor, StoreError> {
        let now = self.now_ms();
        {
            let error = failed("write a clock anchor");
            let mut db = self.db();
            let transaction = db.transaction().map_err(&error)?;
            transaction
                .execute(
                    "INSERT OR IGNORE INTO anchors (pairing, epoch, zero_unix_ms, made_ms) VALUES (?1, ?2, ?3, ?4)",
                    (pairing.0, epoch.cast_signed(), now.saturating_sub(ms(uptime)), now),
                )
                .map_err(&error)?;
            transaction
                .execute(
                    "DELETE FROM anchors WHERE pairing = ?1 AND epoch <> ?2 AND epoch NOT IN
                     (SELECT epoch FROM anchors WHERE pairing = ?1 ORDER BY made_ms DESC LIMIT ?3)",
                    (pairing.0, epoch.cast_signed(), KEPT),
                )
                .map_err(&error)?;
            transaction.commit().map_err(error)?;
        }
        let kept = self.anchor(pairing, epoch)?;
        Ok(kept.unwrap_or(Anchor { zero_unix_ms: now.saturating_sub(ms(uptime)) }))
    }
}
