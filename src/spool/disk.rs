//! `spool.db`: opening it, refusing it, and writing to it in transactions that are true when they say so.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _, Transaction, TransactionBehavior, params};

use super::entry::{DeadLetter, Kind};
use super::error::SpoolError;
use super::queue::{ChunkRef, Entry};
use crate::ids::{PairingId, ReadingId};

/// Newest schema this program writes and reads.
const SCHEMA: i64 = 1;
/// "claw" in ASCII; tells this file from any other SQLite database.
const APPLICATION_ID: i64 = 0x636c_6177;
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Pages in the WAL before it is copied into the file.
const CHECKPOINT_PAGES: u32 = 2000;
/// An empty spool whose file is larger than this gives the space back.
const SHRINK_BYTES: u64 = 16 << 20;

const CREATE: &str = "
    CREATE TABLE meta (id INTEGER PRIMARY KEY CHECK (id = 1), dropped INTEGER NOT NULL);
    INSERT INTO meta VALUES (1, 0);
    CREATE TABLE lane (
        id INTEGER PRIMARY KEY,
        pairing BLOB NOT NULL UNIQUE,
        epochs BLOB NOT NULL DEFAULT x'',
        mark_row INTEGER NOT NULL DEFAULT 0,
        mark_done INTEGER NOT NULL DEFAULT 0
    );
    CREATE TABLE chunk (
        id INTEGER PRIMARY KEY,
        lane INTEGER NOT NULL,
        epoch INTEGER NOT NULL,
        first_seq INTEGER NOT NULL,
        last_seq INTEGER NOT NULL,
        count INTEGER NOT NULL,
        gap INTEGER NOT NULL,
        body BLOB NOT NULL
    );
    CREATE TABLE dead_letter (
        id INTEGER PRIMARY KEY,
        lane INTEGER NOT NULL,
        epoch INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        gap_to INTEGER,
        mapped INTEGER NOT NULL,
        content BLOB NOT NULL,
        reason TEXT NOT NULL,
        at_unix_ms INTEGER NOT NULL,
        UNIQUE (lane, epoch, seq)
    );
";

/// What an earlier process left.
#[derive(Default)]
pub(super) struct Left {
    pub(super) lanes: Vec<FoundLane>,
    pub(super) dropped: u64,
    pub(super) dead_letters: u64,
}

/// One lane as the file knows it.
pub(super) struct FoundLane {
    pub(super) pairing: PairingId,
    pub(super) epochs: Vec<(u64, u64)>,
    pub(super) rows: Vec<ChunkRef>,
}

/// The database. Owned by the worker.
pub(super) struct Disk {
    path: PathBuf,
    connection: Option<Connection>,
    lanes: HashMap<PairingId, i64>,
    next_id: i64,
    /// A transaction failed after it may have reached the file: its rows, from this id on, do not count.
    uncertain: bool,
}

impl Disk {
    pub(super) fn open(path: &Path) -> Result<(Self, Left), SpoolError> {
        if !inspect(path)? {
            create(path)?;
        }
        let connection = connect(path)?;
        let mut disk = Self {
            path: path.to_owned(),
            connection: Some(connection),
            lanes: HashMap::new(),
            next_id: 1,
            uncertain: false,
        };
        let left = disk.load().map_err(|error| classify(path, error))?;
        Ok((disk, left))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn load(&mut self) -> rusqlite::Result<Left> {
        let Some(connection) = &self.connection else { return Ok(Left::default()) };
        let mut left = Left::default();
        left.dropped = connection.query_row("SELECT dropped FROM meta", [], |row| row.get::<_, i64>(0))?.unsigned_abs();
        left.dead_letters =
            connection.query_row("SELECT count(*) FROM dead_letter", [], |row| row.get::<_, i64>(0))?.unsigned_abs();
        let mut by_id = HashMap::new();
        let mut marks = HashMap::new();
        let mut statement =
            connection.prepare("SELECT id, pairing, epochs, mark_row, mark_done FROM lane ORDER BY id")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            let pairing = PairingId(row.get(1)?);
            let epochs: Vec<u8> = row.get(2)?;
            marks.insert(row.get::<_, i64>(3)?, row.get::<_, u32>(4)?);
            by_id.insert(id, left.lanes.len());
            self.lanes.insert(pairing, id);
            left.lanes.push(FoundLane { pairing, epochs: unpack_epochs(&epochs), rows: Vec::new() });
        }
        let mut statement = connection
            .prepare("SELECT id, lane, epoch, first_seq, last_seq, count, gap, length(body) FROM chunk ORDER BY id")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            self.next_id = id + 1;
            let Some(lane) = by_id.get(&row.get::<_, i64>(1)?).and_then(|at| left.lanes.get_mut(*at)) else { continue };
            let count: u32 = row.get(5)?;
            lane.rows.push(ChunkRef {
                id,
                epoch: row.get::<_, i64>(2)?.cast_unsigned(),
                first_seq: row.get::<_, i64>(3)?.cast_unsigned(),
                last_seq: row.get::<_, i64>(4)?.cast_unsigned(),
                count,
                done: marks.get(&id).copied().unwrap_or(0).min(count),
                gap: row.get(6)?,
                bytes: row.get(7)?,
            });
        }
        Ok(left)
    }

    /// One transaction. With `durable` it is fsynced before this returns; without, it survives the end of the
    /// process, not of the power. After an error nothing of it counts, and the file is opened anew.
    pub(super) fn write<T>(
        &mut self,
        durable: bool,
        work: impl FnOnce(&mut Writer<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, SpoolError> {
        self.reopen()?;
        let result = self.try_write(durable, work);
        result.map_err(|error| {
            // What the kernel holds after a failed fsync cannot be trusted: start from the file again.
            self.connection = None;
            self.lanes.clear();
            self.uncertain = true;
            classify(&self.path, error)
        })
    }

    fn try_write<T>(
        &mut self,
        durable: bool,
        work: impl FnOnce(&mut Writer<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let Some(connection) = &mut self.connection else { return Err(rusqlite::Error::InvalidQuery) };
        connection.pragma_update(None, "synchronous", if durable { "FULL" } else { "NORMAL" })?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if self.uncertain {
            transaction.execute("DELETE FROM chunk WHERE id >= ?1", [self.next_id])?;
        }
        let mut writer = Writer { transaction: &transaction, lanes: &mut self.lanes, next_id: self.next_id };
        let out = work(&mut writer)?;
        let next_id = writer.next_id;
        transaction.commit()?;
        self.next_id = next_id;
        self.uncertain = false;
        Ok(out)
    }

    fn reopen(&mut self) -> Result<(), SpoolError> {
        if self.connection.is_some() {
            return Ok(());
        }
        if !inspect(&self.path)? {
            return Err(damaged(&self.path, "the file was removed while it was in use"));
        }
        let connection = connect(&self.path)?;
        // Frames that a failed fsync lost may stand before those to come: empty the WAL first.
        let busy: i64 = connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
            .map_err(|error| classify(&self.path, error))?;
        if busy != 0 {
            return Err(SpoolError::InUse { path: self.path.clone() });
        }
        let mut lanes = HashMap::new();
        let found = (|| {
            let mut statement = connection.prepare("SELECT pairing, id FROM lane")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                lanes.insert(PairingId(row.get(0)?), row.get(1)?);
            }
            Ok(())
        })();
        found.map_err(|error| classify(&self.path, error))?;
        self.lanes = lanes;
        self.connection = Some(connection);
        Ok(())
    }

    /// The body of a row; `None` if it is not there.
    pub(super) fn read(&mut self, id: i64) -> Result<Option<Bytes>, SpoolError> {
        self.reopen()?;
        let Some(connection) = &self.connection else { return Err(SpoolError::Stopped) };
        let read = (|| {
            let mut statement = connection.prepare_cached("SELECT body FROM chunk WHERE id = ?1")?;
            statement.query_row([id], |row| row.get::<_, Vec<u8>>(0)).optional()
        })();
        read.map(|body| body.map(Bytes::from)).map_err(|error| classify(&self.path, error))
    }

    /// The newest dead letters.
    pub(super) fn dead_letters(&mut self, limit: usize) -> Result<Vec<DeadLetter>, SpoolError> {
        self.reopen()?;
        let Some(connection) = &self.connection else { return Err(SpoolError::Stopped) };
        let read = (|| {
            let mut statement = connection.prepare_cached(
                "SELECT pairing, epoch, seq, gap_to, content, reason, at_unix_ms
                 FROM dead_letter JOIN lane ON lane.id = dead_letter.lane ORDER BY dead_letter.id DESC LIMIT ?1",
            )?;
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let rows = statement.query_map([limit], |row| {
                let gap_to: Option<i64> = row.get(3)?;
                Ok(DeadLetter {
                    id: ReadingId {
                        pairing: PairingId(row.get(0)?),
                        epoch: row.get::<_, i64>(1)?.cast_unsigned(),
                        seq: row.get::<_, i64>(2)?.cast_unsigned(),
                    },
                    kind: gap_to.map_or(Kind::Telemetry, |to| Kind::Gap { to: to.cast_unsigned() }),
                    content: Bytes::from(row.get::<_, Vec<u8>>(4)?),
                    reason: row.get(5)?,
                    at_unix_ms: row.get::<_, i64>(6)?.unsigned_abs(),
                })
            })?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        })();
        read.map_err(|error| classify(&self.path, error))
    }

    /// Gives the space of an empty spool back to the file system.
    pub(super) fn shrink(&mut self) -> Result<(), SpoolError> {
        let Some(connection) = &self.connection else { return Ok(()) };
        if fs::metadata(&self.path).map_or(0, |meta| meta.len()) < SHRINK_BYTES {
            return Ok(());
        }
        connection
            .execute_batch("VACUUM; PRAGMA wal_checkpoint(TRUNCATE);")
            .map_err(|error| classify(&self.path, error))
    }
}

/// The statements of one transaction.
pub(super) struct Writer<'a> {
    transaction: &'a Transaction<'a>,
    lanes: &'a mut HashMap<PairingId, i64>,
    next_id: i64,
}

impl Writer<'_> {
    fn lane(&mut self, pairing: PairingId) -> rusqlite::Result<i64> {
        if let Some(id) = self.lanes.get(&pairing) {
            return Ok(*id);
        }
        self.transaction.execute("INSERT INTO lane (pairing) VALUES (?1)", [pairing.0])?;
        let id = self.transaction.last_insert_rowid();
        self.lanes.insert(pairing, id);
        Ok(id)
    }

    /// Adds a row; its id.
    pub(super) fn insert(
        &mut self,
        pairing: PairingId,
        (epoch, first_seq, last_seq): (u64, u64, u64),
        count: usize,
        body: &[u8],
    ) -> rusqlite::Result<i64> {
        let lane = self.lane(pairing)?;
        let id = self.next_id;
        self.next_id += 1;
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.transaction.prepare_cached("INSERT INTO chunk VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, ?7)")?.execute(
            params![id, lane, epoch.cast_signed(), first_seq.cast_signed(), last_seq.cast_signed(), count, body],
        )?;
        Ok(id)
    }

    /// Puts a gap record in the place of the row with its id.
    pub(super) fn replace(&mut self, gap: &ChunkRef, body: &[u8]) -> rusqlite::Result<()> {
        self.transaction
            .prepare_cached(
                "UPDATE chunk SET epoch = ?2, first_seq = ?3, last_seq = ?4, count = 1, gap = 1, body = ?5 WHERE id = ?1",
            )?
            .execute(params![
                gap.id,
                gap.epoch.cast_signed(),
                gap.first_seq.cast_signed(),
                gap.last_seq.cast_signed(),
                body
            ])?;
        Ok(())
    }

    pub(super) fn delete(&mut self, id: i64) -> rusqlite::Result<()> {
        self.transaction.prepare_cached("DELETE FROM chunk WHERE id = ?1")?.execute([id])?;
        Ok(())
    }

    pub(super) fn mark(&mut self, pairing: PairingId, row: i64, done: u32) -> rusqlite::Result<()> {
        let lane = self.lane(pairing)?;
        self.transaction
            .prepare_cached("UPDATE lane SET mark_row = ?2, mark_done = ?3 WHERE id = ?1")?
            .execute(params![lane, row, done])?;
        Ok(())
    }

    pub(super) fn epochs(&mut self, pairing: PairingId, epochs: &[(u64, u64)]) -> rusqlite::Result<()> {
        let lane = self.lane(pairing)?;
        let mut packed = Vec::with_capacity(epochs.len() * 16);
        for (epoch, next) in epochs {
            packed.extend_from_slice(&epoch.to_be_bytes());
            packed.extend_from_slice(&next.to_be_bytes());
        }
        self.transaction.prepare_cached("UPDATE lane SET epochs = ?2 WHERE id = ?1")?.execute(params![lane, packed])?;
        Ok(())
    }

    pub(super) fn add_dropped(&mut self, entries: u64) -> rusqlite::Result<()> {
        self.transaction.execute("UPDATE meta SET dropped = dropped + ?1", [entries.cast_signed()])?;
        Ok(())
    }

    pub(super) fn bury(
        &mut self,
        pairing: PairingId,
        entry: &Entry,
        reason: &str,
        at_unix_ms: u64,
    ) -> rusqlite::Result<()> {
        let lane = self.lane(pairing)?;
        let gap_to = match entry.kind {
            Kind::Telemetry => None,
            Kind::Gap { to } => Some(to.cast_signed()),
        };
        self.transaction
            .prepare_cached("INSERT OR REPLACE INTO dead_letter VALUES (NULL, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?
            .execute(params![
                lane,
                entry.epoch.cast_signed(),
                entry.seq.cast_signed(),
                gap_to,
                entry.captured == super::Capture::Mapped,
                entry.content.as_ref(),
                reason,
                at_unix_ms.cast_signed()
            ])?;
        Ok(())
    }

    /// Keeps the newest `keep` dead letters; how many there are.
    pub(super) fn trim_dead_letters(&mut self, keep: u64) -> rusqlite::Result<u64> {
        self.transaction.execute(
            "DELETE FROM dead_letter WHERE id <= (SELECT id FROM dead_letter ORDER BY id DESC LIMIT 1 OFFSET ?1)",
            [keep.cast_signed()],
        )?;
        self.count_dead_letters()
    }

    pub(super) fn count_dead_letters(&mut self) -> rusqlite::Result<u64> {
        let count: i64 = self.transaction.query_row("SELECT count(*) FROM dead_letter", [], |row| row.get(0))?;
        Ok(count.unsigned_abs())
    }

    /// Takes the dead letters of one pairing out of their table, oldest first.
    pub(super) fn exhume(&mut self, pairing: PairingId) -> rusqlite::Result<Vec<Entry>> {
        let lane = self.lane(pairing)?;
        let mut statement = self
            .transaction
            .prepare("SELECT epoch, seq, gap_to, mapped, content FROM dead_letter WHERE lane = ?1 ORDER BY id")?;
        let rows = statement.query_map([lane], |row| {
            let gap_to: Option<i64> = row.get(2)?;
            let kind = gap_to.map_or(Kind::Telemetry, |to| Kind::Gap { to: to.cast_unsigned() });
            let captured = if row.get(3)? { super::Capture::Mapped } else { super::Capture::Exact };
            let content = Bytes::from(row.get::<_, Vec<u8>>(4)?);
            let (epoch, seq) = (row.get::<_, i64>(0)?.cast_unsigned(), row.get::<_, i64>(1)?.cast_unsigned());
            Ok(Entry::from_disk(0, epoch, seq, kind, captured, content))
        })?;
        let entries = rows.collect::<rusqlite::Result<Vec<_>>>()?;
        self.transaction.execute("DELETE FROM dead_letter WHERE lane = ?1", [lane])?;
        Ok(entries)
    }

    /// Deletes a lane with all that is under it.
    pub(super) fn remove_lane(&mut self, pairing: PairingId) -> rusqlite::Result<()> {
        let lane = self.lane(pairing)?;
        for statement in [
            "DELETE FROM chunk WHERE lane = ?1",
            "DELETE FROM dead_letter WHERE lane = ?1",
            "DELETE FROM lane WHERE id = ?1",
        ] {
            self.transaction.execute(statement, [lane])?;
        }
        self.lanes.remove(&pairing);
        Ok(())
    }
}

/// Looks at the file before SQLite may touch it. `false` where there is none.
fn inspect(path: &Path) -> Result<bool, SpoolError> {
    let mut head = [0; MAGIC.len()];
    match File::open(path).and_then(|mut file| file.read_exact(&mut head)) {
        Ok(()) if &head == MAGIC => Ok(true),
        Ok(()) => Err(damaged(path, "it does not begin as an SQLite database does")),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(damaged(path, "it is cut short")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let wal = sibling(path, "-wal");
            if fs::metadata(&wal).is_ok_and(|meta| meta.len() > 0) {
                return Err(damaged(path, "the file is gone, its -wal file with readings in it is still there"));
            }
            Ok(false)
        }
        Err(source) => Err(SpoolError::Io { path: path.to_owned(), source }),
    }
}

/// Makes an empty spool under another name and moves it into place whole, so that a file that is there is
/// always one that was complete.
fn create(path: &Path) -> Result<(), SpoolError> {
    let fresh = sibling(path, ".new");
    let io = |source| SpoolError::Io { path: fresh.clone(), source };
    for leftover in [fresh.clone(), sibling(&fresh, "-wal"), sibling(&fresh, "-journal")] {
        match fs::remove_file(&leftover) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(io(source)),
            _ => {}
        }
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh).map_err(io)?;
    let made = (|| {
        let connection = Connection::open_with_flags(&fresh, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.execute_batch(&format!(
            "PRAGMA application_id = {APPLICATION_ID}; BEGIN; {CREATE} PRAGMA user_version = {SCHEMA}; COMMIT;"
        ))?;
        connection.close().map_err(|(_, error)| error)
    })();
    made.map_err(|error: rusqlite::Error| classify(&fresh, error))?;
    fs::rename(&fresh, path).map_err(io)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)
}

fn connect(path: &Path) -> Result<Connection, SpoolError> {
    let opened = (|| {
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        // A file that is refused below is left as it is.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.busy_timeout(std::time::Duration::ZERO)?;
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        let application: i64 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
        let schema: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        Ok((connection, application, schema))
    })();
    let (connection, application, schema) = opened.map_err(|error| classify(path, error))?;
    if application != APPLICATION_ID {
        return Err(damaged(path, "it is an SQLite database, but not a spool of clawgate"));
    }
    if schema > SCHEMA {
        return Err(SpoolError::NewerSchema { path: path.to_owned(), found: schema, known: SCHEMA });
    }
    let verdict = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
    match verdict.map_err(|error| classify(path, error))?.as_str() {
        "ok" => {}
        verdict => return Err(damaged(path, verdict)),
    }
    let prepared = (|| {
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
        connection.pragma_update(None, "journal_size_limit", 16 << 20)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
        Ok(())
    })();
    prepared.map_err(|error| classify(path, error))?;
    Ok(connection)
}

fn classify(path: &Path, error: rusqlite::Error) -> SpoolError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => damaged(path, &error.to_string()),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => SpoolError::InUse { path: path.to_owned() },
        _ => SpoolError::Database { path: path.to_owned(), source: error },
    }
}

fn damaged(path: &Path, reason: &str) -> SpoolError {
    SpoolError::Damaged { path: path.to_owned(), reason: reason.to_owned() }
}

fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn unpack_epochs(packed: &[u8]) -> Vec<(u64, u64)> {
    let (pairs, _) = packed.as_chunks::<16>();
    let word = |pair: &[u8; 16], at: usize| {
        pair.get(at..at + 8).and_then(|word| word.try_into().ok()).map_or(0, u64::from_be_bytes)
    };
    pairs.iter().map(|pair| (word(pair, 0), word(pair, 8))).collect()
}
