//! A file without secrets that brokers on this machine read: the issuer's public keys, or what it revoked. It is replaced
//! whole, so that a reader sees the old one or the new one, and all of either.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Such a file. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PublicFile(PathBuf);

impl PublicFile {
    /// The file of that name; its folder must be there.
    #[must_use]
    pub(crate) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Makes the file say `text`; one that says it already is left alone.
    ///
    /// # Errors
    /// Its path, and what the system said.
    pub(crate) fn put(&self, text: &str) -> Result<(), String> {
        if fs::read_to_string(&self.0).is_ok_and(|there| there == text) {
            return Ok(());
        }
        replace(&self.0, text, PUBLIC).map_err(|error| format!("{}: {error}", self.0.display()))
    }
}

/// Mode of a file that everybody may read.
pub(super) const PUBLIC: u32 = 0o644;

/// Replaces a file whole, durably; its mode is this one, whatever this process's umask is.
pub(crate) fn replace(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut staged = path.as_os_str().to_owned();
    staged.push(".new");
    let staged = PathBuf::from(staged);
    // Made anew, never opened: in a folder that others may write to, a link could stand there.
    match fs::remove_file(&staged) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&staged)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&staged, path)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn it_is_replaced_when_it_says_something_else_and_left_alone_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("jwks");
        let file = PublicFile::new(path.clone());
        file.put("one").unwrap();
        let first = fs::metadata(&path).unwrap();
        assert_eq!(first.mode() & 0o777, 0o644);
        file.put("one").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().ino(), first.ino());
        // Somebody else wrote to it.
        fs::write(&path, "other").unwrap();
        file.put("one").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one");
        let said = PublicFile::new(dir.path().join("gone/jwks")).put("one").unwrap_err();
        assert!(said.contains("gone/jwks: "), "{said}");
    }

    #[test]
    fn a_link_that_somebody_put_there_is_not_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let precious = dir.path().join("precious");
        fs::write(&precious, "precious").unwrap();
        std::os::unix::fs::symlink(&precious, dir.path().join("jwks.new")).unwrap();
        PublicFile::new(dir.path().join("jwks")).put("one").unwrap();
        assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
    }
}
