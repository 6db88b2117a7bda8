//! Whether somebody else had to say yes to a pairing, and did.

use rusqlite::OptionalExtension as _;
use serde::{Deserialize, Serialize};

use super::error::failed;
use super::{DeviceInfo, Store, StoreError};
use crate::audit::Actor;
use crate::ids::{DeviceId, PairingId};

/// The backend's word on a pairing. Until it is yes the device is paired and its readings are kept, but it gets no token.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Decision {
    /// Nobody had to be asked.
    #[default]
    NotNeeded,
    /// Nobody has decided yet.
    Waiting {
        /// Since when, wall time in milliseconds since 1970.
        since_ms: i64,
    },
    /// Yes. A no is no state: the device is unpaired.
    Approved {
        /// When, wall time in milliseconds since 1970.
        at_ms: i64,
        /// Who said so.
        by: Actor,
        /// Why, in words.
        why: String,
    },
}

impl Decision {
    /// Whether nobody had to be asked.
    #[must_use]
    pub(crate) fn is_not_needed(&self) -> bool {
        *self == Self::NotNeeded
    }
}

impl Store {
    /// Keeps the decision on one pairing of a device; on another pairing than was decided about it says nothing.
    ///
    /// # Errors
    /// [`StoreError::UnknownDevice`] where that pairing is gone, [`StoreError::Database`].
    pub(crate) fn decide(&self, id: &DeviceId, pairing: PairingId, decision: &Decision) -> Result<(), StoreError> {
        let error = failed("keep a decision");
        let unknown = || StoreError::UnknownDevice(id.to_string());
        let mut db = self.db();
        let transaction = db.transaction().map_err(&error)?;
        let (info, current, pending_info, pending) = transaction
            .query_row(
                "SELECT info, current_pairing, pending_info, pending_pairing FROM devices WHERE id = ?1",
                [id.as_str()],
                |row| {
                    let (info, current): (String, Option<[u8; 8]>) = (row.get(0)?, row.get(1)?);
                    let (pending_info, pending): (Option<String>, Option<[u8; 8]>) = (row.get(2)?, row.get(3)?);
                    Ok((info, current, pending_info, pending))
                },
            )
            .optional()
            .map_err(&error)?
            .ok_or_else(unknown)?;
        let decided = |info: &str| {
            let altered = |_| StoreError::Unsealable(format!("description of device {:?}", id.as_str()));
            let info: DeviceInfo = serde_json::from_str(info).map_err(altered)?;
            Ok::<_, StoreError>(serde_json::json!(DeviceInfo { decision: decision.clone(), ..info }).to_string())
        };
        // A key that is not proven yet has its description twice: its own, and that of the device that has no other.
        let is_current = current == Some(pairing.0);
        let is_pending = current.is_none() && pending == Some(pairing.0);
        if !is_current && !is_pending {
            return Err(unknown());
        }
        let info = decided(&info)?;
        let pending_info = match pending_info.filter(|_| is_pending) {
            Some(pending_info) => Some(decided(&pending_info)?),
            None => None,
        };
        transaction
            .execute(
                "UPDATE devices SET info = ?2, pending_info = COALESCE(?3, pending_info) WHERE id = ?1",
                (id.as_str(), info, pending_info),
            )
            .map_err(&error)?;
        transaction.commit().map_err(error)
    }
}
