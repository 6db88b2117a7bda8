//! A new master key: everything that is sealed is sealed again under it, in one transaction.
//!
//! A key file of our own is changed in three steps: the new key is written beside it (`master.key.new`), the database
//! changes over, the new file takes the old one's place. Which key opens the database its key check says, so a crash
//! between any two steps is put right at the next start. A key that an operator keeps (a file that the configuration
//! names, a systemd credential) is changed over at the start that finds the new one beside it.

use rusqlite::{Connection, OptionalExtension as _, Transaction};

use super::error::failed;
use super::master_key::{self, MasterKey, Origin};
use super::seal::{Place, Sealer};
use super::{KEY_CHECK, KEY_CHECK_PLACE, Store, StoreError};
use crate::secret::Secret;

/// When the master key was made, in the table `meta`.
const MADE: &str = "master-key-made-ms";
/// Ids of the master keys before, a line each: none of them is taken again.
const BEFORE: &str = "master-keys-before";

/// A column of sealed values: its table, and the column that names the row; one place in a row each.
struct Column {
    table: &'static str,
    row: &'static str,
    sealed: &'static str,
    place: &'static str,
}

/// Every column of sealed values; a test compares them with the schema.
const COLUMNS: &[Column] = &[
    Column { table: "secrets", row: "name", sealed: "sealed", place: "secret" },
    Column { table: "devices", row: "id", sealed: "current_sealed", place: "current" },
    Column { table: "devices", row: "id", sealed: "pending_sealed", place: "pending" },
    Column { table: "codes", row: "id", sealed: "sealed", place: "code" },
];

/// The master key as it may be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MasterKeyInfo {
    /// Names it.
    pub id: String,
    /// When it was made, in milliseconds since 1970; the first start, where it was never changed.
    pub made_ms: Option<i64>,
    /// Where it is, in words.
    pub place: String,
}

/// What the start did to the master key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    /// It is as it was.
    Unchanged,
    /// Everything was sealed again under the operator's new key.
    Changed,
}

impl Store {
    /// Makes a new master key in place of the key file of our own.
    ///
    /// # Errors
    /// [`StoreError::KeyKept`] where an operator keeps the key; [`StoreError::Unsealable`] when something sealed was
    /// altered, `File`, `Database` and `Random`. Then the old key is in use.
    pub fn rotate_master_key(&self) -> Result<MasterKeyInfo, StoreError> {
        let origin = self.0.origin.clone();
        if origin != Origin::Own {
            return Err(StoreError::KeyKept { place: origin.words(self.dir()) });
        }
        let fresh = master_key::write_new(self.dir())?;
        self.reseal(&fresh)?;
        // From here on the new key opens the state: a start that finds both files puts them right.
        master_key::put_in_place(self.dir())?;
        if let Err(error) = self.fold_journal() {
            tracing::debug!(%error, "what was sealed under the old key leaves the journal later");
        }
        self.master_key()
    }

    /// Whether the key file is our own, so that we may change it.
    pub(crate) fn owns_master_key(&self) -> bool {
        self.0.origin == Origin::Own
    }

    /// The master key in use.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn master_key(&self) -> Result<MasterKeyInfo, StoreError> {
        let id = self.sealer().id();
        let made_ms = read_meta(&self.db(), MADE)?.and_then(|text| text.parse().ok());
        Ok(MasterKeyInfo { id, made_ms, place: self.0.origin.words(self.dir()) })
    }

    /// The master key itself, for a backup.
    pub(crate) fn master_key_itself(&self) -> Secret<[u8; 32]> {
        self.sealer().key()
    }

    /// Seals everything again under `fresh`: all of it, or nothing.
    fn reseal(&self, fresh: &Secret<[u8; 32]>) -> Result<(), StoreError> {
        let fresh = Sealer::new(fresh.clone());
        // Whoever works with sealed values holds this: none is read under one key and opened under the other.
        let mut sealer = self.0.sealer.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        reseal(&mut self.db(), &sealer, &fresh, self.now_ms())?;
        *sealer = fresh;
        Ok(())
    }
}

/// Notes when the master key was made where that is not known: at the first start, which made the oldest secret too. Not
/// later: secrets are sealed anew when other keys change, and the master key would never grow old.
pub(super) fn note_made(db: &Connection, now_ms: i64) -> Result<(), StoreError> {
    if read_meta(db, MADE)?.is_some() {
        return Ok(());
    }
    let oldest: Option<i64> = db
        .query_row("SELECT min(made_ms) FROM secrets", [], |row| row.get(0))
        .map_err(failed("read when the state was made"))?;
    let made = oldest.unwrap_or(now_ms).to_string().into_bytes();
    let noted = db.execute("INSERT INTO meta (name, value) VALUES (?1, ?2)", (MADE, made));
    noted.map(drop).map_err(failed("note when the master key was made"))
}

/// Finds out which of the keys opens the database, and finishes or begins a change where there are two.
pub(super) fn settle(
    db: &mut Connection,
    key: MasterKey,
    successor: Option<MasterKey>,
    dir: &std::path::Path,
    now_ms: i64,
) -> Result<Option<(Sealer, Settled)>, StoreError> {
    let sealer = Sealer::new(key.bytes);
    let opens = |sealer: &Sealer, db: &Connection| -> Result<bool, StoreError> {
        let check: Option<Vec<u8>> = db
            .query_row("SELECT value FROM meta WHERE name = ?1", [KEY_CHECK_PLACE.row], |row| row.get(0))
            .optional()
            .map_err(failed("read the key check"))?;
        Ok(check.is_some_and(|check| sealer.open(KEY_CHECK_PLACE, &check).is_ok()))
    };
    let is_own = key.origin == Origin::Own;
    let is_current = opens(&sealer, db)?;
    match successor {
        None if is_current => {
            if is_own {
                master_key::remove_new(dir)?;
            }
            Ok(Some((sealer, Settled::Unchanged)))
        }
        None => Ok(None),
        Some(next) => {
            let next = Sealer::new(next.bytes);
            match (is_current, is_own) {
                // The crash came before the database changed over.
                (true, true) => {
                    master_key::remove_new(dir)?;
                    Ok(Some((sealer, Settled::Unchanged)))
                }
                (true, false) if next.id() == sealer.id() => Ok(Some((sealer, Settled::Unchanged))),
                (true, false) => {
                    let before = read_meta(db, BEFORE)?.unwrap_or_default();
                    if before.lines().any(|id| id == next.id()) {
                        tracing::warn!(
                            "the new master key that was given was in use before, and is not taken: remove it"
                        );
                        return Ok(Some((sealer, Settled::Unchanged)));
                    }
                    reseal(db, &sealer, &next, now_ms)?;
                    Ok(Some((next, Settled::Changed)))
                }
                (false, _) if opens(&next, db)? => {
                    if is_own {
                        // The crash came after it.
                        master_key::put_in_place(dir)?;
                    } else {
                        tracing::info!("the new master key is in use; put it in the place of the one before (keys.md)");
                    }
                    Ok(Some((next, Settled::Unchanged)))
                }
                (false, _) => Ok(None),
            }
        }
    }
}

fn reseal(db: &mut Connection, old: &Sealer, new: &Sealer, now_ms: i64) -> Result<(), StoreError> {
    let error = failed("seal everything again");
    let transaction = db.transaction().map_err(&error)?;
    for column in COLUMNS {
        reseal_column(&transaction, column, old, new)?;
    }
    let before = read_meta(&transaction, BEFORE)?.unwrap_or_default();
    let check = new.seal(KEY_CHECK_PLACE, KEY_CHECK.as_bytes())?;
    let texts = [(MADE, now_ms.to_string()), (BEFORE, format!("{before}{}\n", old.id()))];
    let rows = texts.map(|(name, text)| (name, text.into_bytes())).into_iter().chain([(KEY_CHECK_PLACE.row, check)]);
    for (name, value) in rows {
        transaction
            .execute("INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)", (name, value))
            .map_err(&error)?;
    }
    transaction.commit().map_err(error)
}

fn reseal_column(transaction: &Transaction<'_>, of: &Column, old: &Sealer, new: &Sealer) -> Result<(), StoreError> {
    let error = failed("seal everything again");
    let Column { table, row, sealed: column, place } = of;
    let rows: Vec<(String, Vec<u8>)> = transaction
        .prepare(&format!("SELECT {row}, {column} FROM {table} WHERE {column} IS NOT NULL"))
        .and_then(|mut query| query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect())
        .map_err(&error)?;
    let mut update =
        transaction.prepare(&format!("UPDATE {table} SET {column} = ?2 WHERE {row} = ?1")).map_err(&error)?;
    for (name, sealed) in rows {
        let place = Place { table, row: &name, name: place };
        let sealed = new.seal(place, old.open(place, &sealed)?.expose())?;
        update.execute((&name, sealed)).map_err(&error)?;
    }
    Ok(())
}

fn read_meta(db: &Connection, name: &str) -> Result<Option<String>, StoreError> {
    let value: Option<Vec<u8>> = db
        .query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| row.get(0))
        .optional()
        .map_err(failed("read about the state"))?;
    Ok(value.and_then(|value| String::from_utf8(value).ok()))
}

#[cfg(test)]
mod tests;
