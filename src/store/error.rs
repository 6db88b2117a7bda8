//! What can go wrong with the state: each says the file, the reason and the way back.

use std::io;
use std::path::{Path, PathBuf};

use crate::ids::{DeviceId, PairingId};

/// Why the state cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process holds the state directory.
    #[error("{} is in use by {}: stop that one first, or give this one a state directory of its own", dir.display(), holder(*pid))]
    Locked {
        /// The state directory.
        dir: PathBuf,
        /// The process that holds it, where it could be read.
        pid: Option<u32>,
    },
    /// A file or directory cannot be made, read or written.
    #[error("{}: cannot {action}: {source}", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system answered.
        source: io::Error,
    },
    /// The state was sealed with a master key that is not there any more.
    #[error(
        "{}: the master key is missing, but {} was sealed with it: put the key back (from its backup or as systemd credential \
         clawgate-master-key); without it the pairings cannot be read: move the state directory away and pair again",
        key.display(), state.display()
    )]
    KeyMissing {
        /// Where the key was looked for.
        key: PathBuf,
        /// The state that needs it.
        state: PathBuf,
    },
    /// An operator keeps the key, where this program does not write.
    #[error(
        "the master key is {place}, which clawgate does not write: put a new one beside it, under its name with .new, and \
         restart (\"master\" in keys.md)"
    )]
    KeyKept {
        /// Where it is.
        place: String,
    },
    /// The key opens nothing of this state.
    #[error(
        "{}: this is not the master key that {} was sealed with: put the right key back; nothing was changed",
        key.display(), state.display()
    )]
    KeyWrong {
        /// Where the key came from.
        key: PathBuf,
        /// The state that needs another.
        state: PathBuf,
    },
    /// The key file is not 32 bytes or 64 hexadecimal digits.
    #[error("{}: not a master key: it must hold 32 bytes, or 64 hexadecimal digits; put the right file back", .0.display())]
    KeyMalformed(PathBuf),
    /// Others can read the key file.
    #[error("{}: others can read the master key (mode {mode:03o}): chmod 600 it, and think who may have read it", path.display())]
    KeyExposed {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Made by a later clawgate.
    #[error(
        "{}: written by a newer clawgate (schema {found}, this one knows up to {known}): install the newer version again, \
         or go back to the copy that it kept beside the file before it changed it (state.db.schema-N; \"Upgrade and rollback\" in \
         install.md)",
        file.display()
    )]
    Newer {
        /// The database.
        file: PathBuf,
        /// Its schema.
        found: i64,
        /// The last schema this program knows.
        known: i64,
    },
    /// The gateway was moved to another board, with its keys.
    #[error(
        "{}: this gateway was moved to another board by clawgate backup create --fence, and does not serve here any more. If \
         the other board never served, and never will: remove that file",
        file.display()
    )]
    Fenced {
        /// The mark, with the name of the backup.
        file: PathBuf,
    },
    /// The database is damaged, or is no database of ours.
    #[error(
        "{}: damaged: {reason}. Nothing was changed. Restore a copy of the state directory; or move the file away and pair \
         the sensors again",
        file.display()
    )]
    Damaged {
        /// The database.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The database is gone, and what was made with it is still there.
    #[error(
        "{}: missing, but {} was made with it. Nothing was changed. Restore a copy of the state directory; or move the \
         whole directory away and pair the sensors again",
        file.display(),
        beside.display()
    )]
    Missing {
        /// The database.
        file: PathBuf,
        /// What stands beside its place.
        beside: PathBuf,
    },
    /// The database refused; disk full, read-only or an I/O error mostly.
    #[error("state.db: cannot {action}: {source}{}", advice(source))]
    Database {
        /// What was tried.
        action: &'static str,
        /// What SQLite answered.
        source: rusqlite::Error,
    },
    /// A sealed value does not open.
    #[error("state.db: the sealed {0} was altered: restore a copy of the state directory, or pair that sensor again")]
    Unsealable(String),
    /// The operating system gave no random bytes.
    #[error("no random bytes from the operating system: {0}")]
    Random(String),
    /// No such device.
    #[error("no device {0:?}: clawgate devices ls shows the paired ones")]
    UnknownDevice(String),
    /// The name stands for another sensor.
    #[error("{device} is the sensor {hardware_id}: choose another name, or first: clawgate unpair {device}")]
    NameTaken {
        /// The name asked for.
        device: DeviceId,
        /// The sensor that has it.
        hardware_id: String,
    },
    /// The sensor is known under another name.
    #[error(
        "the sensor {hardware_id} is paired as {device}: pair it under that name, rename it, or first: clawgate unpair {device}"
    )]
    SensorTaken {
        /// The name it has.
        device: DeviceId,
        /// The sensor.
        hardware_id: String,
    },
    /// The pairing is not pending there.
    #[error("{device} has no pending pairing {pairing}: pair it again")]
    NotPending {
        /// The device.
        device: DeviceId,
        /// The pairing asked for.
        pairing: PairingId,
    },
}

impl StoreError {
    pub(super) fn file(path: &Path, action: &'static str, source: io::Error) -> Self {
        Self::File { path: path.to_owned(), action, source }
    }

    pub(super) fn damaged(file: &Path, reason: impl Into<String>) -> Self {
        Self::Damaged { file: file.to_owned(), reason: reason.into() }
    }
}

/// Names what was tried when SQLite refuses.
pub(crate) fn failed(action: &'static str) -> impl Fn(rusqlite::Error) -> StoreError {
    move |source| StoreError::Database { action, source }
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

fn advice(error: &rusqlite::Error) -> &'static str {
    use rusqlite::ErrorCode;
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => "; free space on that disk",
        Some(ErrorCode::ReadOnly) => "; the disk or the file is read-only: check the mount and the owner",
        Some(ErrorCode::SystemIoFailure) => "; check the disk (dmesg)",
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            "; the file is damaged: stop clawgate and restore a copy of the state directory"
        }
        _ => "",
    }
}
