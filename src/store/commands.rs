//! Commands from the cloud that were taken, and what came of each, until none of them can be good any more; and the
//! keys of the configuration that such commands changed.

use rusqlite::{OptionalExtension, params};

use super::error::failed;
use super::{Store, StoreError};

/// Commands that are remembered at a time.
const MOST: i64 = 1000;
/// Of these, one key's share.
const MOST_OF_ONE: i64 = 300;

/// A command, as it is told from others.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CommandId<'a> {
    /// The key that signed it.
    pub(crate) key: &'a str,
    /// Its id among that key's.
    pub(crate) jti: &'a str,
    /// SHA-256 of what was signed.
    pub(crate) digest: [u8; 32],
    /// Made at and good until, seconds since 1970.
    pub(crate) iat_s: u64,
    pub(crate) exp_s: u64,
}

/// What is known of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Begun {
    /// It is new, and noted: carry it out.
    New,
    /// It was taken before, with this answer; none where the gateway stopped before there was one.
    Before(Option<String>),
    /// Its id was used for another command.
    Other,
    /// So many commands live that it cannot be noted.
    Full,
}

/// A key of the configuration that a command changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Overlaid {
    /// As the files write it.
    pub(crate) key: String,
    /// In JSON.
    pub(crate) value: String,
    /// Who changed it.
    pub(crate) by: String,
    /// When, wall time in milliseconds since 1970.
    pub(crate) made_ms: i64,
}

impl Store {
    /// Notes a command before it is carried out; it is on the disk when this returns. What has expired is forgotten then,
    /// but only what had when the newest command was made: that time is the floor of the next start, so that what is
    /// forgotten is never good again, whatever the clock says.
    pub(crate) fn begin_command(&self, id: CommandId<'_>, now_s: u64) -> Result<Begun, StoreError> {
        let error = failed("note a command");
        let mut db = self.db();
        let transaction = db.transaction().map_err(&error)?;
        let newest: i64 = transaction
            .query_row("SELECT max(coalesce(max(iat_s), 0), ?1) FROM commands", [id.iat_s.cast_signed()], |row| {
                row.get(0)
            })
            .map_err(&error)?;
        transaction
            .execute("DELETE FROM commands WHERE exp_s <= min(?1, ?2)", [now_s.cast_signed(), newest])
            .map_err(&error)?;
        let before: Option<(Vec<u8>, Option<String>)> = transaction
            .query_row("SELECT digest, reply FROM commands WHERE signer = ?1 AND jti = ?2", [id.key, id.jti], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()
            .map_err(&error)?;
        if let Some((digest, reply)) = before {
            // Nothing is noted, so nothing is forgotten either.
            return Ok(if digest == id.digest { Begun::Before(reply) } else { Begun::Other });
        }
        let counts = "SELECT count(*), coalesce(sum(signer = ?1), 0) FROM commands";
        let (all, own): (i64, i64) =
            transaction.query_row(counts, [id.key], |row| Ok((row.get(0)?, row.get(1)?))).map_err(&error)?;
        if all >= MOST || own >= MOST_OF_ONE {
            return Ok(Begun::Full);
        }
        transaction
            .execute(
                "INSERT INTO commands (signer, jti, digest, iat_s, exp_s) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![id.key, id.jti, id.digest, id.iat_s.cast_signed(), id.exp_s.cast_signed()],
            )
            .map_err(&error)?;
        transaction.commit().map_err(error)?;
        Ok(Begun::New)
    }

    /// Keeps the answer to a command that was noted.
    pub(crate) fn end_command(&self, key: &str, jti: &str, reply: &str) -> Result<(), StoreError> {
        self.db()
            .execute("UPDATE commands SET reply = ?3 WHERE signer = ?1 AND jti = ?2", [key, jti, reply])
            .map(drop)
            .map_err(failed("keep the answer to a command"))
    }

    /// The latest time, in seconds since 1970, at which a command that was taken had been made.
    pub(crate) fn latest_command(&self) -> Result<u64, StoreError> {
        self.db()
            .query_row("SELECT coalesce(max(iat_s), 0) FROM commands", [], |row| row.get::<_, i64>(0))
            .map(i64::cast_unsigned)
            .map_err(failed("read the commands"))
    }

    /// The keys of the configuration that commands changed, by name.
    pub(crate) fn overlay(&self) -> Result<Vec<Overlaid>, StoreError> {
        let error = failed("read the overlay of the configuration");
        let db = self.db();
        let mut query =
            db.prepare_cached("SELECT key, value, made_by, made_ms FROM overlay ORDER BY key").map_err(&error)?;
        let rows = query.query_map([], |row| {
            Ok(Overlaid { key: row.get(0)?, value: row.get(1)?, by: row.get(2)?, made_ms: row.get(3)? })
        });
        rows.map_err(&error)?.collect::<Result<_, _>>().map_err(error)
    }

    /// Puts these keys in the place of all.
    pub(crate) fn replace_overlay(&self, all: &[Overlaid]) -> Result<(), StoreError> {
        let error = failed("keep the overlay of the configuration");
        let mut db = self.db();
        let transaction = db.transaction().map_err(&error)?;
        transaction.execute("DELETE FROM overlay", []).map_err(&error)?;
        for one in all {
            transaction
                .execute(
                    "INSERT INTO overlay (key, value, made_by, made_ms) VALUES (?1, ?2, ?3, ?4)",
                    params![one.key, one.value, one.by, one.made_ms],
                )
                .map_err(&error)?;
        }
        transaction.commit().map_err(error)
    }
}
