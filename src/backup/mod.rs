//! Moves a gateway to another board: everything of its state directory in one file, sealed under a passphrase or a key.
//!
//! Works on a gateway that is stopped: the state directory is held for it, so that no reading, key or audit line is
//! missing in the copy or comes twice. No session key and no counter of a session is in a backup (they live in memory
//! only, and every connection makes new ones), so a gateway that is restored, even twice, cannot use a nonce again.

mod archive;
mod create;
mod envelope;
mod restore;

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub(crate) use create::create;
pub(crate) use envelope::Unlock;
pub(crate) use restore::restore;

use crate::audit::AuditError;
use crate::store::StoreError;

/// The master key in a backup: beside the state, under the file name that a restored gateway looks for.
const KEY_ENTRY: &str = "master.key";
/// What a backup is of.
const MANIFEST_ENTRY: &str = "manifest.json";

/// What a backup is of; its first entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// A random name, in the audit logs of both boards.
    pub(crate) id: String,
    /// The site it was made of.
    pub(crate) gateway: String,
    /// Version of the clawgate that made it.
    pub(crate) version: String,
    /// When, RFC 3339.
    pub(crate) made: String,
    /// Whether the old board was taken out of service with it.
    pub(crate) moved: bool,
}

/// Why there is no backup, or none that could be restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum BackupError {
    /// The state directory, its databases or its key.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The audit log.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// There is nothing to back up.
    #[error("{}: holds no state of a gateway: name the configuration of the one you mean with --config", .0.display())]
    NoState(PathBuf),
    /// A file.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Something stands where the backup is to go.
    #[error("{}: exists already: name another file, or remove it", .0.display())]
    Exists(PathBuf),
    /// The key that the state is sealed with could not be had.
    #[error("the master key cannot be unsealed: {0}; run this as root on the machine that it is sealed to")]
    Sealed(String),
    /// The file is no backup.
    #[error("this is not a backup of clawgate, or one of a newer version")]
    NotABackup,
    /// A wrong passphrase or key, or a file that was altered: which one cannot be told.
    #[error("it does not open: the passphrase or key is another one, or the file was altered or cut")]
    NotOpened,
    /// A database would not let its journal be folded in.
    #[error("{}: its journal cannot be folded in: {why}", path.display())]
    Journal {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        why: String,
    },
    /// There are paired sensors on this board already.
    #[error(
        "{}: this board has {devices} paired sensors of its own: with --replace their state is set aside, and they must be \
         paired again",
        dir.display()
    )]
    InUse {
        /// The state directory.
        dir: PathBuf,
        /// How many.
        devices: usize,
    },
    /// The configuration wants the master key from elsewhere.
    #[error(
        "the master key of the backup goes into {}, but this board takes its key from {from}: remove that first, and seal the \
         key again after the restore (\"The master key\" in install.md)",
        file.display()
    )]
    KeyElsewhere {
        /// Where the restored key goes.
        file: PathBuf,
        /// Where this board's key comes from.
        from: String,
    },
    /// The operating system gave no random bytes.
    #[error("no random bytes from the operating system: {0}")]
    Random(String),
}

fn failed<'a>(path: &'a Path, action: &'static str) -> impl Fn(io::Error) -> BackupError + 'a {
    move |source| BackupError::Io { path: path.to_owned(), action, source }
}

/// Random bytes.
fn random<const N: usize>() -> Result<[u8; N], BackupError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| BackupError::Random(error.to_string()))?;
    Ok(bytes)
}

/// What root made in the state directory belongs to whom the directory belongs to, or the daemon could not write it.
fn give_to_owner(dir: &Path) -> Result<(), BackupError> {
    use std::os::unix::fs::MetadataExt as _;
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let owner = dir.metadata().map_err(failed(dir, "read the owner"))?;
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().map_err(failed(&folder, "read the folder"))? {
            let path = entry.map_err(failed(&folder, "read the folder"))?.path();
            std::os::unix::fs::lchown(&path, Some(owner.uid()), Some(owner.gid()))
                .map_err(failed(&path, "give it to the daemon's user"))?;
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
            }
        }
    }
    Ok(())
}
