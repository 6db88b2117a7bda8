//! Codes at rest. The code itself is kept only sealed, and only while it lives.

use rusqlite::types::Type;
use rusqlite::{Connection, Error, OptionalExtension, Row, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::failed;
use super::{Place, Store, StoreError};
use crate::pairing::code::{CodeId, CodeRecord, Ending};
use crate::secret::Secret;

/// Dead codes that are kept to be explained; the oldest beyond go.
const KEPT: u32 = 1000;
/// Those that may still make a pairing.
const LIVE: &str = "state IN ('active', 'claimed')";
const COLUMNS: &str =
    "id, state, request, creator, made_boot_ms, made_ms, attempts, claimed_ms, ended_ms, ended_by, ended_why";

fn place(id: &CodeId) -> Place<'_> {
    Place { table: "codes", row: id.as_str(), name: "code" }
}

impl Store {
    /// Keeps a new code, and what `edit` changes of the live ones, in one commit: of two that are made at once the later
    /// one sees the earlier. Where `edit` refuses, nothing changes. `secret` is the code itself.
    pub(crate) fn insert_code<T, E>(
        &self,
        record: &CodeRecord,
        secret: &str,
        edit: impl FnOnce(&mut Vec<CodeRecord>) -> Result<T, E>,
    ) -> Result<Result<T, E>, StoreError> {
        let error = failed("keep a code");
        let under = self.sealer();
        let sealed = under.seal(place(&record.id), secret.as_bytes())?;
        let mut db = self.db();
        let transaction = db.transaction().map_err(&error)?;
        let edited = match edited(&transaction, LIVE, None, edit)? {
            Ok(edited) => edited,
            refused => return Ok(refused),
        };
        transaction
            .execute(
                "INSERT INTO codes (id, state, request, creator, made_boot_ms, made_ms, sealed) VALUES (?1, '', '', '', ?2, ?3, ?4)",
                params![record.id.as_str(), record.made_boot_ms.cast_signed(), record.made_ms, sealed],
            )
            .map_err(&error)?;
        update(&transaction, record).map_err(&error)?;
        transaction
            .execute(
                "DELETE FROM codes WHERE sealed IS NULL AND id NOT IN
                 (SELECT id FROM codes ORDER BY made_ms DESC, id DESC LIMIT ?1)",
                [KEPT],
            )
            .map_err(&error)?;
        transaction.commit().map_err(error)?;
        Ok(Ok(edited))
    }

    /// Loads the live codes, lets `edit` change them, and keeps what changed, in one commit.
    pub(crate) fn edit_live_codes<T>(&self, edit: impl FnOnce(&mut Vec<CodeRecord>) -> T) -> Result<T, StoreError> {
        self.edit_codes(LIVE, None, edit)
    }

    /// The same for one code in any state; none if there is no such code.
    pub(crate) fn edit_code<T>(
        &self,
        id: &CodeId,
        edit: impl FnOnce(&mut CodeRecord) -> T,
    ) -> Result<Option<T>, StoreError> {
        self.edit_codes("id = ?1", Some(id), |codes| codes.first_mut().map(edit))
    }

    /// All codes that are kept, the newest first.
    pub(crate) fn codes(&self) -> Result<Vec<CodeRecord>, StoreError> {
        select(&self.db(), "1 ORDER BY made_ms DESC, id DESC", None)
    }

    /// The code itself, while it lives.
    pub(crate) fn code_secret(&self, id: &CodeId) -> Result<Option<Secret<Vec<u8>>>, StoreError> {
        let under = self.sealer();
        let sealed: Option<Option<Vec<u8>>> = self
            .db()
            .query_row("SELECT sealed FROM codes WHERE id = ?1", [id.as_str()], |row| row.get(0))
            .optional()
            .map_err(failed("read a code"))?;
        sealed.flatten().map(|sealed| under.open(place(id), &sealed)).transpose()
    }

    fn edit_codes<T>(
        &self,
        condition: &str,
        id: Option<&CodeId>,
        edit: impl FnOnce(&mut Vec<CodeRecord>) -> T,
    ) -> Result<T, StoreError> {
        let error = failed("change a code");
        let mut db = self.db();
        let transaction = db.transaction().map_err(&error)?;
        let result = edited(&transaction, condition, id, edit)?;
        transaction.commit().map_err(error)?;
        Ok(result)
    }

    /// Gives up the keys that were agreed with a code and that no sensor has proven yet; whether there were any.
    pub(crate) fn drop_pending_of(&self, code: &CodeId) -> Result<bool, StoreError> {
        let error = failed("drop the pending keys of a code");
        let mut db = self.db();
        let transaction = db.transaction().map_err(&error)?;
        transaction
            .execute("DELETE FROM devices WHERE pending_code = ?1 AND current_pairing IS NULL", [code.as_str()])
            .and_then(|gone| {
                let sql = "UPDATE devices SET pending_pairing = NULL, pending_sealed = NULL, pending_info = NULL,
                           pending_code = NULL, pending_ms = NULL WHERE pending_code = ?1";
                Ok(gone + transaction.execute(sql, [code.as_str()])?)
            })
            .and_then(|dropped| transaction.commit().map(|()| dropped > 0))
            .map_err(error)
    }
}

/// Lets `edit` change some codes, and keeps what changed.
fn edited<T>(
    db: &Connection,
    condition: &str,
    id: Option<&CodeId>,
    edit: impl FnOnce(&mut Vec<CodeRecord>) -> T,
) -> Result<T, StoreError> {
    let before = select(db, condition, id)?;
    let mut after = before.clone();
    let result = edit(&mut after);
    for record in after.iter().filter(|record| !before.contains(record)) {
        update(db, record).map_err(failed("change a code"))?;
    }
    Ok(result)
}

fn select(db: &Connection, condition: &str, id: Option<&CodeId>) -> Result<Vec<CodeRecord>, StoreError> {
    let error = failed("read the codes");
    let mut query = db.prepare_cached(&format!("SELECT {COLUMNS} FROM codes WHERE {condition}")).map_err(&error)?;
    let rows = match id {
        Some(id) => query.query_map([id.as_str()], read),
        None => query.query_map([], read),
    };
    rows.map_err(&error)?.collect::<Result<_, _>>().map_err(error)
}

fn update(db: &Connection, record: &CodeRecord) -> rusqlite::Result<()> {
    let ending = record.ending.as_ref();
    db.execute(
        "UPDATE codes SET state = ?2, request = ?3, creator = ?4, attempts = ?5, claimed_ms = ?6,
         ended_ms = ?7, ended_by = ?8, ended_why = ?9,
         sealed = CASE WHEN ?2 IN ('active', 'claimed') THEN sealed END WHERE id = ?1",
        params![
            record.id.as_str(),
            record.state.as_str(),
            json(&record.request),
            json(&record.creator),
            record.attempts,
            record.claimed_ms,
            ending.map(|end| end.at_ms),
            ending.map(|end| json(&end.by)),
            ending.map(|end| &end.why),
        ],
    )
    .map(drop)
}

fn read(row: &Row<'_>) -> rusqlite::Result<CodeRecord> {
    let ending = match (row.get("ended_ms")?, row.get::<_, Option<String>>("ended_by")?, row.get("ended_why")?) {
        (Some(at_ms), Some(by), Some(why)) => Some(Ending { at_ms, by: parse(&by)?, why }),
        _ => None,
    };
    Ok(CodeRecord {
        id: parse(&json(&row.get::<_, String>("id")?))?,
        state: parse(&json(&row.get::<_, String>("state")?))?,
        request: parse(&row.get::<_, String>("request")?)?,
        creator: parse(&row.get::<_, String>("creator")?)?,
        made_boot_ms: row.get::<_, i64>("made_boot_ms")?.cast_unsigned(),
        made_ms: row.get("made_ms")?,
        attempts: row.get("attempts")?,
        claimed_ms: row.get("claimed_ms")?,
        ending,
    })
}

/// Strings, numbers and plain structs only: writing them cannot fail.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn parse<T: DeserializeOwned>(text: &str) -> rusqlite::Result<T> {
    serde_json::from_str(text).map_err(|error| Error::FromSqlConversionFailure(0, Type::Text, Box::new(error)))
}
