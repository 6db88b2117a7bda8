//! Why the spool refused, and what to do.

use std::path::PathBuf;

use crate::ids::PairingId;

/// Why the spool could not be opened, or could not take an entry.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpoolError {
    /// The file is there and cannot be trusted.
    #[error(
        "spool {0} is damaged: {reason}. Nothing was written to it. Save what can be read with \
         `sqlite3 {0} .recover`, then move it and its -wal file aside and start again",
        .path.display()
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A later version of clawgate wrote it.
    #[error(
        "spool {} has schema {found}, this clawgate knows up to {known}: run the newer clawgate again, let it drain, \
         or move the file aside", .path.display()
    )]
    NewerSchema {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest one this program knows.
        known: i64,
    },
    /// Another process has it open.
    #[error("spool {} is in use by another process: is a second clawgate running?", .path.display())]
    InUse {
        /// The database.
        path: PathBuf,
    },
    /// The disk or its permissions.
    #[error("spool {}: {source}; check that the disk is mounted, writable and not full", .path.display())]
    Io {
        /// The file concerned.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// SQLite failed in a way that is neither damage nor I/O of ours.
    #[error("spool {}: {source}", .path.display())]
    Database {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// Memory is full and the disk does not take it; the sensor keeps the reading and sends it again.
    #[error("the spool's memory is full ({limit} bytes) and the disk does not keep up; the sensor keeps its readings")]
    Full {
        /// The bound.
        limit: usize,
    },
    /// The device was removed while a session of it still ran.
    #[error("pairing {pairing} was removed: its readings are taken no more")]
    Purged {
        /// The pairing.
        pairing: PairingId,
    },
    /// The thread that owns the database has ended.
    #[error("the spool has stopped; restart clawgate")]
    Stopped,
}
