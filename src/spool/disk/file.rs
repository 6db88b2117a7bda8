//! The file itself: looked at before it is touched, made whole or not at all, refused with a reason.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::spool::error::SpoolError;

/// Newest schema this program writes and reads.
const SCHEMA: i64 = 1;
/// "claw" in ASCII; tells this file from any other SQLite database.
const APPLICATION_ID: i64 = 0x636c_6177;
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Small pages, because a commit of a few readings rewrites whole ones: half the bytes of 4096 in a trial.
const PAGE: u32 = 1024;
/// Pages in the WAL before it is copied into the file.
const CHECKPOINT_PAGES: u32 = 8000;
const CREATE: &str = "
    CREATE TABLE meta (id INTEGER PRIMARY KEY CHECK (id = 1), dropped INTEGER NOT NULL);
    INSERT INTO meta VALUES (1, 0);
    CREATE TABLE lane (
        id INTEGER PRIMARY KEY,
        pairing BLOB NOT NULL UNIQUE,
        device TEXT,
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

/// Looks at the file before SQLite may touch it. `false` where there is none.
pub(super) fn inspect(path: &Path) -> Result<bool, SpoolError> {
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

/// What a process that was killed had written stands in the log, whether the disk has it or not; who opens the file next
/// takes it for safe. So it has to reach the disk first. While the file is open nothing but its log may be: the lock
/// would go with the second handle.
pub(super) fn settle(path: &Path) -> Result<(), SpoolError> {
    let log = sibling(path, "-wal");
    let io = |source| SpoolError::Io { path: log.clone(), source };
    match File::open(&log) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        opened => opened.and_then(|log| log.sync_all()).and_then(|()| sync_folder(path)).map_err(io),
    }
}

/// The entries of the folder that `path` is in reach the disk.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// Makes an empty spool under another name and moves it into place whole, so that a file that is there is
/// always one that was complete.
pub(super) fn create(path: &Path) -> Result<(), SpoolError> {
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
            "PRAGMA page_size = {PAGE}; PRAGMA application_id = {APPLICATION_ID};
             BEGIN; {CREATE} PRAGMA user_version = {SCHEMA}; COMMIT;"
        ))?;
        connection.close().map_err(|(_, error)| error)
    })();
    made.map_err(|error: rusqlite::Error| classify(&fresh, error))?;
    fs::rename(&fresh, path).and_then(|()| sync_folder(path)).map_err(io)
}

/// Opens a file that [`inspect`] found good, checks it whole, and prepares it for writing.
pub(super) fn connect(path: &Path) -> Result<Connection, SpoolError> {
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

/// What an error of SQLite means here.
pub(super) fn classify(path: &Path, error: rusqlite::Error) -> SpoolError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => damaged(path, &error.to_string()),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => SpoolError::InUse { path: path.to_owned() },
        _ => SpoolError::Database { path: path.to_owned(), source: error },
    }
}

/// Damage, for `reason`.
pub(super) fn damaged(path: &Path, reason: &str) -> SpoolError {
    SpoolError::Damaged { path: path.to_owned(), reason: reason.to_owned() }
}

fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
