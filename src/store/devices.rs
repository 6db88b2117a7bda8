//! The registry of devices and their key slots.
//!
//! What is known of a device is read without its keys; they are opened only for who speaks with it ([`Keyed`]).
//!
//! A device has a current key and at most one pending key. A pending key replaces only a pending key; it
//! becomes current when the sensor has proven that it holds it, and only then is the old one dropped.

mod device;

use rusqlite::{Connection, OptionalExtension};

pub use device::{Device, DeviceInfo, KeySlot, Keyed, NewPairing, Pending, Seen};

use super::error::failed;
use super::{Store, StoreError};
use crate::ids::{DeviceId, PairingId};
use device::{COLUMNS, Row, SEALED_COLUMNS, Sealed, place, with_keys};

impl Store {
    /// All devices, by name; no key is opened.
    ///
    /// # Errors
    /// [`StoreError::Unsealable`] when a row was altered, [`StoreError::Database`].
    pub fn devices(&self) -> Result<Vec<Device>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM devices ORDER BY id");
        self.rows(&sql, Row::read)?.into_iter().map(Row::into_device).collect()
    }

    /// All devices, by name, with their keys.
    ///
    /// # Errors
    /// [`StoreError::Unsealable`] when a key or a row was altered, [`StoreError::Database`].
    pub fn devices_with_keys(&self) -> Result<Vec<Keyed>, StoreError> {
        let under = self.sealer();
        let sql = format!("SELECT {COLUMNS}, {SEALED_COLUMNS} FROM devices ORDER BY id");
        self.rows(&sql, Sealed::read)?.into_iter().map(|sealed| sealed.open(&under)).collect()
    }

    /// The device of that name; no key is opened.
    ///
    /// # Errors
    /// As [`Self::devices`].
    pub fn device(&self, id: &DeviceId) -> Result<Option<Device>, StoreError> {
        self.find("id = ?1", id.as_str())
    }

    /// The device of that name, with its keys.
    ///
    /// # Errors
    /// As [`Self::devices_with_keys`].
    pub(crate) fn device_with_keys(&self, id: &DeviceId) -> Result<Option<Keyed>, StoreError> {
        let under = self.sealer();
        let sealed = self.db().query_row(&with_keys("id = ?1"), [id.as_str()], Sealed::read).optional();
        sealed.map_err(failed("read a device"))?.map(|sealed| sealed.open(&under)).transpose()
    }

    /// The device that a sensor is paired as.
    ///
    /// # Errors
    /// As [`Self::devices`].
    pub(crate) fn device_by_hardware(&self, hardware_id: &str) -> Result<Option<Device>, StoreError> {
        self.find("hardware_id = ?1", hardware_id)
    }

    /// Keeps the key of a pairing as pending, in place of an earlier pending one; the current key stays.
    ///
    /// # Errors
    /// [`StoreError::NameTaken`] and [`StoreError::SensorTaken`] when name and sensor do not belong together,
    /// [`StoreError::Database`], [`StoreError::Random`].
    pub fn put_pending(&self, new: &NewPairing) -> Result<(), StoreError> {
        let error = failed("keep a pending key");
        let under = self.sealer();
        let sealed = under.seal(place(&new.device, "pending"), new.key.record.expose())?;
        let info = to_json(&new.info);
        let now = self.now_ms();
        let mut db = self.db();
        let transaction = db.transaction().map_err(&error)?;
        check_names(&transaction, &new.device, &new.hardware_id)?;
        transaction
            .execute(
                "INSERT INTO devices (id, hardware_id, info, created_ms) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (id) DO UPDATE SET info = excluded.info WHERE current_pairing IS NULL",
                (new.device.as_str(), &new.hardware_id, &info, now),
            )
            .map_err(&error)?;
        transaction
            .execute(
                "UPDATE devices SET pending_pairing = ?2, pending_sealed = ?3, pending_info = ?4, pending_code = ?5,
                 pending_ms = ?6 WHERE id = ?1",
                (new.device.as_str(), new.key.pairing.0, sealed, &info, &new.code, now),
            )
            .map_err(&error)?;
        transaction.commit().map_err(error)
    }

    /// The sensor has proven the pending key: it becomes current and the old one is dropped. A key that is
    /// current already stays so, and nothing changes.
    ///
    /// # Errors
    /// [`StoreError::NotPending`], [`StoreError::Unsealable`], [`StoreError::Database`].
    pub fn confirm_pending(&self, device: &DeviceId, pairing: PairingId) -> Result<(), StoreError> {
        let error = failed("confirm a key");
        let under = self.sealer();
        let not_pending = || StoreError::NotPending { device: device.clone(), pairing };
        let mut db = self.db();
        let transaction = db.transaction().map_err(&error)?;
        let slots = transaction
            .query_row(
                "SELECT current_pairing, pending_pairing, pending_sealed FROM devices WHERE id = ?1",
                [device.as_str()],
                |row| {
                    let (current, pending): (Option<[u8; 8]>, Option<[u8; 8]>) = (row.get(0)?, row.get(1)?);
                    Ok((current, pending, row.get::<_, Option<Vec<u8>>>(2)?))
                },
            )
            .optional()
            .map_err(&error)?;
        let sealed = match slots {
            Some((_, Some(pending), Some(sealed))) if pending == pairing.0 => sealed,
            Some((Some(current), ..)) if current == pairing.0 => return Ok(()),
            _ => return Err(not_pending()),
        };
        // Sealed again, because a slot is part of what a sealed key is bound to.
        let record = under.open(place(device, "pending"), &sealed)?;
        let sealed = under.seal(place(device, "current"), record.expose())?;
        transaction
            .execute(
                "UPDATE devices SET current_pairing = pending_pairing, current_sealed = ?2, confirmed_ms = ?3,
                 info = COALESCE(pending_info, info), revoked_why = NULL, pending_pairing = NULL,
                 pending_sealed = NULL, pending_info = NULL, pending_code = NULL, pending_ms = NULL WHERE id = ?1",
                (device.as_str(), sealed, self.now_ms()),
            )
            .map_err(&error)?;
        transaction.commit().map_err(error)
    }

    /// Gives a pending key up; a device that has no other key goes with it.
    ///
    /// # Errors
    /// [`StoreError::NotPending`], [`StoreError::Database`].
    pub(crate) fn drop_pending(&self, device: &DeviceId, pairing: PairingId) -> Result<(), StoreError> {
        let error = failed("drop a pending key");
        let mut db = self.db();
        let transaction = db.transaction().map_err(&error)?;
        let changed = transaction
            .execute(
                "UPDATE devices SET pending_pairing = NULL, pending_sealed = NULL, pending_info = NULL,
                 pending_code = NULL, pending_ms = NULL WHERE id = ?1 AND pending_pairing = ?2",
                (device.as_str(), pairing.0),
            )
            .map_err(&error)?;
        if changed == 0 {
            return Err(StoreError::NotPending { device: device.clone(), pairing });
        }
        transaction
            .execute("DELETE FROM devices WHERE id = ?1 AND current_pairing IS NULL", [device.as_str()])
            .map_err(&error)?;
        transaction.commit().map_err(error)
    }

    /// Gives a device another name; its keys go along.
    ///
    /// # Errors
    /// [`StoreError::UnknownDevice`], [`StoreError::NameTaken`], [`StoreError::Database`].
    pub(crate) fn rename_device(&self, from: &DeviceId, to: &DeviceId) -> Result<(), StoreError> {
        let error = failed("rename a device");
        let under = self.sealer();
        let mut db = self.db();
        // One transaction: a key that became pending in between would be lost.
        let transaction = db.transaction().map_err(&error)?;
        let known = transaction
            .query_row(&with_keys("id = ?1"), [from.as_str()], Sealed::read)
            .optional()
            .map_err(&error)?
            .ok_or_else(|| StoreError::UnknownDevice(from.to_string()))?
            .open(&under)?;
        let taken = transaction
            .query_row("SELECT hardware_id FROM devices WHERE id = ?1", [to.as_str()], |row| row.get(0))
            .optional()
            .map_err(&error)?;
        if let Some(hardware_id) = taken {
            return Err(StoreError::NameTaken { device: to.clone(), hardware_id });
        }
        let seal = |pairing: Option<PairingId>, name: &str| {
            let key = known.keys.iter().find(|key| Some(key.pairing) == pairing);
            key.map(|key| under.seal(place(to, name), key.record.expose())).transpose()
        };
        let current = seal(known.device.current, "current")?;
        let pending = seal(known.device.pending.as_ref().map(|pending| pending.pairing), "pending")?;
        transaction
            .execute(
                "UPDATE devices SET id = ?2, current_sealed = ?3, pending_sealed = ?4 WHERE id = ?1",
                (from.as_str(), to.as_str(), current, pending),
            )
            .map_err(&error)?;
        transaction.commit().map_err(error)
    }

    /// Forgets the pairings that are `known` of a device, with their keys and clock anchors, and the device with them.
    /// One that was made since stays, and the device with it.
    ///
    /// # Errors
    /// [`StoreError::UnknownDevice`], [`StoreError::Database`].
    pub fn remove_device(&self, known: &Device) -> Result<(), StoreError> {
        let error = failed("remove a device");
        let id = known.id.as_str();
        let mut db = self.db();
        let transaction = db.transaction().map_err(&error)?;
        let is_there = "SELECT 1 FROM devices WHERE id = ?1";
        if transaction.query_row(is_there, [id], |_| Ok(())).optional().map_err(&error)?.is_none() {
            return Err(StoreError::UnknownDevice(known.id.to_string()));
        }
        for pairing in known.pairings() {
            transaction.execute("DELETE FROM anchors WHERE pairing = ?1", [pairing.0]).map_err(&error)?;
            for sql in [
                "UPDATE devices SET current_pairing = NULL, current_sealed = NULL WHERE id = ?1 AND current_pairing = ?2",
                "UPDATE devices SET pending_pairing = NULL, pending_sealed = NULL, pending_info = NULL,
                 pending_code = NULL, pending_ms = NULL WHERE id = ?1 AND pending_pairing = ?2",
            ] {
                transaction.execute(sql, (id, pairing.0)).map_err(&error)?;
            }
        }
        let without = "DELETE FROM devices WHERE id = ?1 AND current_pairing IS NULL AND pending_pairing IS NULL";
        transaction.execute(without, [id]).map_err(&error)?;
        transaction.commit().map_err(error)
    }

    /// Notes that a device shall get no token any more. Pairing it again lifts that.
    ///
    /// # Errors
    /// [`StoreError::UnknownDevice`], [`StoreError::Database`].
    pub(crate) fn revoke_device(&self, id: &DeviceId, why: &str) -> Result<(), StoreError> {
        let changed = self
            .db()
            .execute("UPDATE devices SET revoked_why = ?2 WHERE id = ?1", (id.as_str(), why))
            .map_err(failed("revoke a device"))?;
        if changed == 0 { Err(StoreError::UnknownDevice(id.to_string())) } else { Ok(()) }
    }

    /// Notes where a device was heard just now. For the start of a session, not for each reading.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) fn device_seen(&self, id: &DeviceId, link: &str) -> Result<(), StoreError> {
        self.db()
            .execute(
                "UPDATE devices SET seen_ms = ?2, seen_link = ?3 WHERE id = ?1",
                (id.as_str(), self.now_ms(), link),
            )
            .map(drop)
            .map_err(failed("note where a device was heard"))
    }

    fn find(&self, condition: &str, value: &str) -> Result<Option<Device>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM devices WHERE {condition}");
        let row = self.db().query_row(&sql, [value], Row::read).optional();
        row.map_err(failed("read a device"))?.map(Row::into_device).transpose()
    }

    fn rows<T>(
        &self,
        sql: &str,
        read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        let error = failed("read the devices");
        let db = self.db();
        let mut query = db.prepare_cached(sql).map_err(&error)?;
        let rows = query.query_map([], read).map_err(&error)?;
        rows.collect::<Result<_, _>>().map_err(error)
    }
}

/// A name stands for one sensor, and a sensor has one name.
fn check_names(db: &Connection, device: &DeviceId, hardware_id: &str) -> Result<(), StoreError> {
    let text = |sql: &str, value: &str| {
        db.query_row(sql, [value], |row| row.get::<_, String>(0)).optional().map_err(failed("read a device"))
    };
    if let Some(other) = text("SELECT hardware_id FROM devices WHERE id = ?1", device.as_str())?
        && other != hardware_id
    {
        return Err(StoreError::NameTaken { device: device.clone(), hardware_id: other });
    }
    if let Some(other) = text("SELECT id FROM devices WHERE hardware_id = ?1", hardware_id)?
        && other != device.as_str()
        && let Ok(device) = other.parse()
    {
        return Err(StoreError::SensorTaken { device, hardware_id: hardware_id.to_owned() });
    }
    Ok(())
}

fn to_json(info: &DeviceInfo) -> String {
    serde_json::json!(info).to_string()
}
