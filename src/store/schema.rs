//! The schema of `state.db` and its steps from version to version.

use std::path::Path;

use rusqlite::{Connection, ErrorCode};

use super::StoreError;
use super::error::failed;

/// Marks a database as ours ("claw"); another one is refused, not written to.
const APPLICATION_ID: i64 = 0x636c_6177;

/// Step `n` leads from schema `n` to schema `n + 1`. Steps that were released are never edited.
const STEPS: &[&str] = &[
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
     CREATE TABLE secrets (name TEXT PRIMARY KEY, sealed BLOB NOT NULL, made_ms INTEGER NOT NULL) STRICT;
     CREATE TABLE devices (
         id TEXT PRIMARY KEY,
         hardware_id TEXT NOT NULL UNIQUE,
         info TEXT NOT NULL,
         created_ms INTEGER NOT NULL,
         confirmed_ms INTEGER,
         current_pairing BLOB UNIQUE, current_sealed BLOB,
         pending_pairing BLOB UNIQUE, pending_sealed BLOB, pending_info TEXT, pending_code TEXT, pending_ms INTEGER
     ) STRICT;
     CREATE TABLE codes (
         id TEXT PRIMARY KEY,
         state TEXT NOT NULL,
         request TEXT NOT NULL,
         creator TEXT NOT NULL,
         made_boot_ms INTEGER NOT NULL,
         made_ms INTEGER NOT NULL,
         attempts INTEGER NOT NULL DEFAULT 0,
         claimed_ms INTEGER,
         ended_ms INTEGER, ended_by TEXT, ended_why TEXT,
         sealed BLOB
     ) STRICT;
     CREATE INDEX codes_made ON codes (made_ms);",
    "CREATE TABLE anchors (
         pairing BLOB NOT NULL, epoch INTEGER NOT NULL,
         zero_unix_ms INTEGER NOT NULL, made_ms INTEGER NOT NULL,
         PRIMARY KEY (pairing, epoch)
     ) STRICT, WITHOUT ROWID;
     ALTER TABLE devices ADD COLUMN seen_ms INTEGER;
     ALTER TABLE devices ADD COLUMN seen_link TEXT;",
    "ALTER TABLE devices ADD COLUMN revoked_why TEXT;",
    "CREATE TABLE commands (
         signer TEXT NOT NULL, jti TEXT NOT NULL,
         digest BLOB NOT NULL, iat_s INTEGER NOT NULL, exp_s INTEGER NOT NULL, reply TEXT,
         PRIMARY KEY (signer, jti)
     ) STRICT, WITHOUT ROWID;
     CREATE TABLE overlay (
         key TEXT PRIMARY KEY, value TEXT NOT NULL, made_by TEXT NOT NULL, made_ms INTEGER NOT NULL
     ) STRICT;",
];

/// The schema this program writes.
#[allow(clippy::cast_possible_wrap, reason = "a handful of steps")]
pub(super) const KNOWN: i64 = STEPS.len() as i64;

/// Makes the tables in an empty database.
pub(super) fn create(db: &mut Connection) -> Result<(), StoreError> {
    let pragma = failed("mark a new database");
    db.pragma_update(None, "application_id", APPLICATION_ID).map_err(pragma)?;
    migrate(db, 0)
}

/// Checks, without a write, that the database is ours, whole, and not of a later schema; gives its schema.
pub(super) fn examine(db: &Connection, file: &Path) -> Result<i64, StoreError> {
    let unreadable = |error: rusqlite::Error| match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => StoreError::damaged(file, error.to_string()),
        _ => failed("read the file")(error),
    };
    let integer = |name: &str| db.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(unreadable);
    if integer("application_id")? != APPLICATION_ID {
        return Err(StoreError::damaged(file, "it is not a state database of clawgate"));
    }
    let found = integer("user_version")?;
    if found > KNOWN {
        return Err(StoreError::Newer { file: file.to_owned(), found, known: KNOWN });
    }
    if found < 1 {
        return Err(StoreError::damaged(file, "it holds no tables"));
    }
    let verdict: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(unreadable)?;
    if verdict != "ok" {
        return Err(StoreError::damaged(file, verdict));
    }
    Ok(found)
}

/// Takes the steps from schema `from` to this program's, all or none.
pub(super) fn migrate(db: &mut Connection, from: i64) -> Result<(), StoreError> {
    let steps = STEPS.get(usize::try_from(from).unwrap_or(0)..).unwrap_or_default();
    if steps.is_empty() {
        return Ok(());
    }
    let error = failed("bring the schema up to date");
    let transaction = db.transaction().map_err(&error)?;
    for step in steps {
        transaction.execute_batch(step).map_err(&error)?;
    }
    transaction.pragma_update(None, "user_version", KNOWN).map_err(&error)?;
    transaction.commit().map_err(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A database as the version with `steps` steps left it.
    fn of_version(steps: usize) -> Connection {
        let db = Connection::open_in_memory().unwrap();
        db.pragma_update(None, "application_id", APPLICATION_ID).unwrap();
        STEPS[..steps].iter().for_each(|step| db.execute_batch(step).unwrap());
        db.pragma_update(None, "user_version", i64::try_from(steps).unwrap()).unwrap();
        db
    }

    #[test]
    fn a_database_of_every_older_version_is_brought_up_to_date_with_its_rows() {
        for version in 1..=STEPS.len() {
            let mut db = of_version(version);
            db.execute(
                "INSERT INTO devices (id, hardware_id, info, created_ms) VALUES ('pump-3', 'th-1', '{}', 5)",
                [],
            )
            .unwrap();
            let found = examine(&db, Path::new("state.db")).unwrap();
            migrate(&mut db, found).unwrap();
            let row: (i64, Option<String>) =
                db.query_row("SELECT created_ms, seen_link FROM devices", [], |r| Ok((r.get(0)?, r.get(1)?))).unwrap();
            assert_eq!(row, (5, None));
            assert_eq!(db.pragma_query_value(None, "user_version", |r| r.get::<_, i64>(0)).unwrap(), KNOWN);
        }
    }

    #[test]
    fn a_newer_schema_is_refused_and_left_alone() {
        let db = of_version(STEPS.len());
        db.pragma_update(None, "user_version", KNOWN + 1).unwrap();
        let error = examine(&db, Path::new("state.db")).unwrap_err();
        assert!(matches!(error, StoreError::Newer { .. }), "{error}");
        assert_eq!(db.pragma_query_value(None, "user_version", |r| r.get::<_, i64>(0)).unwrap(), KNOWN + 1);
    }

    #[test]
    fn a_database_of_another_program_is_refused() {
        let db = of_version(1);
        db.pragma_update(None, "application_id", 7).unwrap();
        assert!(matches!(examine(&db, Path::new("x")), Err(StoreError::Damaged { .. })));
    }
}
