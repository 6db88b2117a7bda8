//! What survives a restart, in `state.db`: the gateway's identity, the devices and their keys, codes,
//! clock anchors, named secrets. Sealed where it is secret; refused, never emptied, where it is damaged.
//!
//! Calls are synchronous and reach the disk before they return: from async code call them in
//! `blocking`.

mod anchors;
mod codes;
mod commands;
mod decision;
mod devices;
mod dir;
mod error;
mod master_key;
mod rekey;
mod schema;
mod seal;
mod secrets;

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

pub use anchors::Anchor;
pub(crate) use commands::{Begun, CommandId, Overlaid};
pub use decision::Decision;
pub use devices::{Device, DeviceInfo, KeySlot, Keyed, NewPairing, Pending, Seen};
pub use error::StoreError;

use crate::clock::Clock;
use crate::secret::Secret;
use dir::StateDir;
use error::failed;
pub(crate) use master_key::parse as parse_key;
use master_key::{MasterKey, Origin};
pub use rekey::MasterKeyInfo;
use rekey::Settled;
pub(crate) use seal::key_id;
use seal::{Place, Sealer};
pub(crate) use secrets::REFRESH_TOKEN;

/// The database, in the state directory.
pub(crate) const STATE_FILE: &str = "state.db";
/// In the state directory of a gateway that was moved to another board.
const FENCE_FILE: &str = "moved-away.json";
/// Sealed at the first start; opens only under the same master key.
const KEY_CHECK: &str = "clawgate master key";
const KEY_CHECK_PLACE: Place<'static> = Place { table: "meta", row: "key-check", name: "value" };

/// Where the state is and where its master key comes from.
#[derive(Debug, Clone, Default)]
pub struct StoreOptions {
    /// The state directory; made with mode 0700 where it is missing.
    pub dir: PathBuf,
    /// The file of the master key, where the configuration names one.
    pub master_key: Option<PathBuf>,
    /// systemd's `$CREDENTIALS_DIRECTORY`; its `clawgate-master-key` is the key.
    pub credentials_dir: Option<PathBuf>,
    /// The key itself, where the caller has it already; nothing is looked for then.
    pub given_key: Option<Secret<[u8; 32]>>,
}

/// The open state; clones share it.
#[derive(Debug, Clone)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    db: Mutex<Connection>,
    /// Taken before `db`, and held while sealed values are on their way; written only when the master key changes.
    sealer: RwLock<Sealer>,
    origin: Origin,
    /// This start sealed everything again under a new key.
    key_changed: bool,
    clock: Clock,
    dir: StateDir,
}

impl Store {
    /// Takes the state directory for this process and opens the database; makes both at a first start.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process holds the directory; `Key*` when the master key is lost,
    /// wrong or exposed; [`StoreError::Newer`] and [`StoreError::Damaged`] for a database that this program
    /// must not touch; `File` and `Database` when the disk refuses.
    pub fn open(options: &StoreOptions, clock: Clock) -> Result<Self, StoreError> {
        let dir = StateDir::hold(&options.dir)?;
        let fence = dir.path().join(FENCE_FILE);
        if fence.exists() {
            return Err(StoreError::Fenced { file: fence });
        }
        let (key, successor) = match &options.given_key {
            Some(given) => (MasterKey { bytes: given.clone(), origin: Origin::Given }, None),
            None => master_key::load(dir.path(), options.master_key.as_deref(), options.credentials_dir.as_deref())?,
        };
        let file = dir.path().join(STATE_FILE);
        if !file.exists() {
            create(dir.path(), &file, &Sealer::new(key.bytes.clone()))?;
        }
        dir::restrict(&file, 0o600)?;
        let mut db = connect(&file)?;
        let found = schema::examine(&db, &file)?;
        if found < schema::KNOWN {
            keep_old(&db, dir.path(), found)?;
        }
        configure(&db)?;
        schema::migrate(&mut db, found)?;
        let check = db.query_row("SELECT 1 FROM meta WHERE name = ?1", [KEY_CHECK_PLACE.row], |_| Ok(()));
        check.map_err(|error| StoreError::damaged(&file, format!("the key check is gone: {error}")))?;
        let (origin, place) = (key.origin.clone(), key.origin.path(dir.path()));
        let Some((sealer, settled)) = rekey::settle(&mut db, key, successor, dir.path(), ms(clock.wall()))? else {
            return Err(StoreError::KeyWrong { key: place, state: file });
        };
        rekey::note_made(&db, ms(clock.wall()))?;
        let key_changed = settled == Settled::Changed;
        if key_changed {
            tracing::info!(
                key = sealer.id(),
                "everything is sealed under the new master key; the old one is of no use"
            );
        }
        let inner = Inner { db: Mutex::new(db), sealer: RwLock::new(sealer), origin, key_changed, clock, dir };
        Ok(Self(Arc::new(inner)))
    }

    /// The state directory.
    #[must_use]
    pub(crate) fn dir(&self) -> &Path {
        self.0.dir.path()
    }

    /// Folds the journal into the database's file, so that the file alone is the whole state.
    pub(crate) fn fold_journal(&self) -> Result<(), StoreError> {
        fold(&self.db()).map_err(failed("fold the journal in"))
    }

    /// Takes this state out of service for good: from the next start on it is refused. `why` is for people.
    pub(crate) fn fence(&self, why: &[u8]) -> Result<(), StoreError> {
        let path = self.dir().join(FENCE_FILE);
        let write = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
            file.write_all(why)?;
            file.sync_all()
        };
        write().map_err(|source| StoreError::file(&path, "take the gateway out of service", source))?;
        dir::sync_dir(self.dir())
    }

    /// Whether this start changed the master key over to one that an operator put beside it.
    pub(crate) fn key_changed_at_start(&self) -> bool {
        self.0.key_changed
    }

    /// Seals and opens; to be taken before [`Self::db`] and kept as long as a sealed value is in hand.
    fn sealer(&self) -> RwLockReadGuard<'_, Sealer> {
        self.0.sealer.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection. A panic while it was held rolled its transaction back, so it is sound to go on.
    fn db(&self) -> MutexGuard<'_, Connection> {
        self.0.db.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wall time in milliseconds, as the tables keep it.
    pub(crate) fn now_ms(&self) -> i64 {
        ms(self.0.clock.wall())
    }
}

/// The master key in a file; never made.
pub(crate) fn read_key(path: &Path, dir: &Path) -> Result<Secret<[u8; 32]>, StoreError> {
    Ok(master_key::load(dir, Some(path), None)?.0.bytes)
}

/// Folds a journal in and empties it; an error where somebody else uses the database.
pub(crate) fn fold(db: &Connection) -> rusqlite::Result<()> {
    let busy: i64 = db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    if busy == 0 { Ok(()) } else { Err(rusqlite::Error::QueryReturnedNoRows) }
}

/// Milliseconds as SQLite keeps them.
fn ms(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// Builds the first database aside and renames it, so that an empty or half-made `state.db` can only be damage.
fn create(dir: &Path, file: &Path, sealer: &Sealer) -> Result<(), StoreError> {
    let journal = dir.join("state.db-wal");
    if journal.exists() {
        return Err(StoreError::damaged(
            file,
            format!("it is missing, but its journal {} is there", journal.display()),
        ));
    }
    // What a gateway that ran here has left: an empty registry beside it would be a loss that nobody notices.
    let left = ["spool.db", "revoked.json", "audit/checkpoint.json"].into_iter().map(|name| dir.join(name));
    if let Some(beside) = left.into_iter().find(|path| path.exists()) {
        return Err(StoreError::Missing { file: file.to_owned(), beside });
    }
    let aside = dir.join("state.db.new");
    for stale in [aside.clone(), dir.join("state.db.new-wal"), dir.join("state.db.new-shm")] {
        match fs::remove_file(&stale) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::file(&stale, "remove a half-made database", source));
            }
            _ => {}
        }
    }
    let new = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&aside)
        .map_err(|source| StoreError::file(&aside, "make the state database", source))?;
    let mut db = connect(&aside)?;
    configure(&db)?;
    schema::create(&mut db)?;
    let check = sealer.seal(KEY_CHECK_PLACE, KEY_CHECK.as_bytes())?;
    db.execute("INSERT INTO meta (name, value) VALUES (?1, ?2)", (KEY_CHECK_PLACE.row, check))
        .map_err(failed("write the key check"))?;
    db.close().map_err(|(_, source)| failed("close the new database")(source))?;
    new.sync_all()
        .and_then(|()| fs::rename(&aside, file))
        .map_err(|source| StoreError::file(file, "make the state database", source))?;
    dir::sync_dir(dir)
}

/// Copies a database of an older schema beside itself before it is changed: the way back to the older clawgate.
fn keep_old(db: &Connection, dir: &Path, schema: i64) -> Result<(), StoreError> {
    let aside = dir.join("state.db.schema.new");
    let kept = dir.join(format!("state.db.schema-{schema}"));
    let unkept = |source| StoreError::file(&kept, "keep the state as the older clawgate left it", source);
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(unkept(error)),
        _ => {}
    }
    // Made by us first, for its mode; SQLite takes an empty file.
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside).map_err(unkept)?;
    db.execute("VACUUM INTO ?1", [aside.to_string_lossy()]).map_err(failed("copy the state before it is changed"))?;
    file.sync_all().and_then(|()| fs::rename(&aside, &kept)).map_err(unkept)?;
    dir::sync_dir(dir)?;
    tracing::info!(file = %kept.display(), schema, "the state is brought to a newer schema; its copy is kept for the way back");
    Ok(())
}

/// Opens an existing file, unread and unchanged as yet.
fn connect(file: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(file, flags).map_err(failed("open the file"))
}

/// Every commit reaches the disk before it is reported; the journal is folded in after 64 pages and does not stay
/// larger; freed pages are wiped. SQLite gives its journals the mode of the file.
fn configure(db: &Connection) -> Result<(), StoreError> {
    db.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 64;
         PRAGMA journal_size_limit = 524288; PRAGMA secure_delete = ON; PRAGMA trusted_schema = OFF;",
    )
    .map_err(failed("set up the journal"))
}

#[cfg(test)]
mod tests;
