//! The keys of an issuer without a database, in one file of mode 0600: the key that signs as PEM, as other programs read it
//! too, and above it a line with the rest of the ring. It is replaced whole, so that a crash leaves the old keys or the new
//! ones. One process changes it at a time.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use zeroize::Zeroizing;

use super::public_file::replace;
use super::{KeyBook, KeyRing, PublicFile, RingError};
use crate::secret::Secret;
use crate::token::key::{Jwks, KeyError, SigningKey};

/// What the line above the key begins with.
const LINE: &str = "clawgate-keys: ";

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// The key that signs.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The rest of the ring.
    #[error("{path}: {source}; without its line \"clawgate-keys\" the file begins anew with the key that signs")]
    Ring {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: RingError,
    },
    /// Another process has it.
    #[error("{path} is in use{}: one issuer runs on a key file", pid.map_or_else(String::new, |pid| format!(" by process {pid}")))]
    InUse {
        /// The file.
        path: PathBuf,
        /// That process.
        pid: Option<i32>,
    },
    /// The file, or the lock beside it.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A file of keys that this process may change.
pub struct KeyFile {
    path: PathBuf,
    published: Option<PublicFile>,
    /// Carries the lock; the kernel releases it with the process, however that ends.
    _lock: File,
}

impl KeyFile {
    /// Takes the file for this process; the first key is made where there is none. Its public keys go to `published`.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub(crate) fn open(path: &Path, published: Option<PublicFile>) -> Result<KeyRing, KeyFileError> {
        let lock = hold(path)?;
        SigningKey::load_or_create(path)?;
        // A link stays a link: what it leads to is replaced.
        let path = fs::canonicalize(path).map_err(|source| KeyFileError::File { path: path.to_owned(), source })?;
        let book = Arc::new(Self { path: path.clone(), published, _lock: lock });
        read(&path, book)
    }

    /// The keys as they are in the file, to be looked at.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub(crate) fn look(path: &Path) -> Result<KeyRing, KeyFileError> {
        read(path, Arc::new(Nowhere))
    }
}

/// Of a ring that is only looked at.
struct Nowhere;

impl KeyBook for Nowhere {
    fn keep(&self, _: &Secret<Vec<u8>>, _: &Secret<Vec<u8>>) -> Result<(), String> {
        Err("the file was opened to be looked at".to_owned())
    }
}

impl KeyBook for KeyFile {
    fn keep(&self, signing: &Secret<Vec<u8>>, rest: &Secret<Vec<u8>>) -> Result<(), String> {
        let pem = SigningKey::from_pkcs8(signing.expose()).and_then(|key| key.to_pem());
        let pem = pem.map_err(|error| error.to_string())?;
        let rest = Zeroizing::new(BASE64.encode(rest.expose()));
        let text = Zeroizing::new(format!("{LINE}{}\n{}", *rest, pem.expose()));
        replace(&self.path, &text, 0o600).map_err(|error| format!("{}: {error}", self.path.display()))
    }

    fn publish(&self, keys: &Jwks) -> Result<(), String> {
        self.published.as_ref().map_or(Ok(()), |file| file.put(&keys.to_text()))
    }
}

fn read(path: &Path, book: Arc<dyn KeyBook>) -> Result<KeyRing, KeyFileError> {
    let failed = |source| KeyFileError::File { path: path.to_owned(), source };
    let key = SigningKey::load(path)?;
    let text = Zeroizing::new(fs::read_to_string(path).map_err(failed)?);
    let made = u64::try_from(fs::metadata(path).map_err(failed)?.mtime()).unwrap_or(0);
    let damaged = |source| KeyFileError::Ring { path: path.to_owned(), source };
    let line = text.lines().find_map(|line| line.strip_prefix(LINE));
    let rest = line.map(|line| BASE64.decode(line.as_bytes()).map(Secret::new)).transpose();
    let rest = rest.map_err(|_| damaged(RingError::Damaged))?;
    KeyRing::open(key, made, rest.as_ref(), book).map_err(damaged)
}

/// Takes the lock beside the file.
fn hold(path: &Path) -> Result<File, KeyFileError> {
    let mut lock_path = path.as_os_str().to_owned();
    lock_path.push(".lock");
    let lock_path = PathBuf::from(lock_path);
    let failed = |source| KeyFileError::File { path: lock_path.clone(), source };
    let mut options = OpenOptions::new();
    let mut lock =
        options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&lock_path).map_err(failed)?;
    match crate::lock::take(&lock) {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let pid = lock.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            return Err(KeyFileError::InUse { path: path.to_owned(), pid });
        }
        Err(TryLockError::Error(source)) => return Err(failed(source)),
    }
    lock.set_len(0)
        .and_then(|()| lock.seek(SeekFrom::Start(0)))
        .and_then(|_| writeln!(lock, "{}", std::process::id()))
        .map_err(failed)?;
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_ring_stands_in_one_file_and_its_key_is_one_that_others_can_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("issuer.pem");
        let public = PublicFile::new(dir.path().join("jwks"));
        let ring = KeyFile::open(&path, Some(public)).unwrap();
        assert_eq!(SigningKey::load(&path).unwrap().public().kid, ring.state(0).signing);
        let held = KeyFile::open(&path, None).map(|_| ()).unwrap_err();
        assert!(held.to_string().contains(&format!("by process {}", std::process::id())), "{held}");
        let new = ring.rotate(1000, Duration::from_secs(60)).unwrap().next.unwrap().0;
        assert!(fs::read_to_string(dir.path().join("jwks")).unwrap().contains(&new));
        assert_eq!(KeyFile::look(&path).unwrap().state(1000), ring.state(1000));
        drop(ring);
        crate::testing::let_go();
        // As after kill -9; in time the new key signs, and is the one that others read.
        let again = KeyFile::open(&path, None).unwrap();
        assert_eq!((again.state(1059).next.unwrap().0, again.tend(1060).unwrap().signing), (new.clone(), new.clone()));
        assert_eq!(SigningKey::load(&path).unwrap().public().kid, new);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_key_that_an_operator_put_there_begins_anew_and_a_damaged_line_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("issuer.pem");
        KeyFile::open(&path, None).unwrap().rotate(1000, Duration::from_secs(60)).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let pem = &text[text.find("-----BEGIN").unwrap()..];
        fs::write(&path, pem).unwrap();
        assert_eq!(KeyFile::look(&path).unwrap().state(1000).next, None);
        fs::write(&path, format!("{LINE}###\n{pem}")).unwrap();
        let said = KeyFile::look(&path).map(|_| ()).unwrap_err().to_string();
        assert!(said.contains("issuer.pem") && said.contains("damaged"), "{said}");
    }
}
