//! The state directory: private to its owner, held by one process.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::StoreError;

/// A directory of mode 0700 that this process holds until it drops the value or dies.
#[derive(Debug)]
pub(super) struct StateDir {
    path: PathBuf,
    /// Carries the lock; the kernel releases it with the process, however that ends.
    _lock: File,
}

impl StateDir {
    /// Makes the directory where it is missing, and takes the lock.
    pub(super) fn hold(path: &Path) -> Result<Self, StoreError> {
        if !path.is_dir() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .map_err(|source| StoreError::file(path, "make the state directory", source))?;
        }
        restrict(path, 0o700)?;
        let lock_path = path.join("lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(|source| StoreError::file(&lock_path, "open the lock file", source))?;
        match crate::lock::take(&lock) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let pid = lock.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                return Err(StoreError::Locked { dir: path.to_owned(), pid });
            }
            Err(TryLockError::Error(source)) => return Err(StoreError::file(&lock_path, "lock", source)),
        }
        // Only words for the next one who is refused; the lock itself needs no content.
        lock.set_len(0)
            .and_then(|()| lock.seek(SeekFrom::Start(0)))
            .and_then(|_| writeln!(lock, "{}", std::process::id()))
            .map_err(|source| StoreError::file(&lock_path, "write the process id", source))?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Takes permissions away from others; keeps what is already narrow enough.
pub(super) fn restrict(path: &Path, mode: u32) -> Result<(), StoreError> {
    let now =
        fs::metadata(path).map_err(|source| StoreError::file(path, "read the mode", source))?.permissions().mode();
    if now & 0o077 != 0 {
        fs::set_permissions(path, Permissions::from_mode(mode))
            .map_err(|source| StoreError::file(path, "take the permissions of others away (chmod)", source))?;
    }
    Ok(())
}

/// Makes names in a directory survive a power cut.
pub(super) fn sync_dir(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(|source| StoreError::file(path, "sync the directory", source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_and_told_the_pid() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("state");
        let held = StateDir::hold(&path).unwrap();
        let refused = StateDir::hold(&path).unwrap_err();
        assert!(refused.to_string().contains(&format!("process {}", std::process::id())), "{refused}");
        drop(held);
        crate::testing::let_go();
        StateDir::hold(&path).unwrap();
    }

    #[test]
    fn an_open_directory_is_closed_to_others() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("state");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        let _held = StateDir::hold(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(path.join("lock")).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
