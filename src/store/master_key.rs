//! The master key: from a configured file, from systemd's credentials, or a key file of our own.
//! Never made anew over a state that was sealed with another.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::dir::sync_dir;
use super::{STATE_FILE, StoreError};
use crate::secret::Secret;

/// The name of the systemd credential.
const CREDENTIAL: &str = "clawgate-master-key";
/// The key file of our own, in the state directory.
const KEY_FILE: &str = "master.key";

/// The key that everything sealed at rest hangs on, and where it came from.
#[derive(Debug)]
pub(super) struct MasterKey {
    pub(super) bytes: Secret<[u8; 32]>,
    pub(super) origin: PathBuf,
}

/// Finds the key; makes the file in `dir` only at a first start, when no state exists yet.
///
/// The caller holds the lock on `dir`, so that two first starts cannot make two keys.
pub(super) fn load(dir: &Path, configured: Option<&Path>, credentials: Option<&Path>) -> Result<MasterKey, StoreError> {
    if let Some(path) = configured {
        return read_private(path)?.ok_or_else(|| missing(path, dir));
    }
    if let Some(path) = credentials.map(|dir| dir.join(CREDENTIAL)) {
        // systemd guards this directory itself; its ACL shows as group bits, so the mode says nothing.
        if let Some(key) = read(&path)? {
            return Ok(key);
        }
    }
    let path = dir.join(KEY_FILE);
    match read_private(&path)? {
        Some(key) => Ok(key),
        None if dir.join(STATE_FILE).exists() => Err(missing(&path, dir)),
        None => create(&path, dir),
    }
}

fn missing(key: &Path, dir: &Path) -> StoreError {
    StoreError::KeyMissing { key: key.to_owned(), state: dir.join(STATE_FILE) }
}

fn read_private(path: &Path) -> Result<Option<MasterKey>, StoreError> {
    match fs::metadata(path) {
        Ok(meta) if meta.permissions().mode() & 0o077 != 0 => {
            Err(StoreError::KeyExposed { path: path.to_owned(), mode: meta.permissions().mode() & 0o777 })
        }
        _ => read(path),
    }
}

fn read(path: &Path) -> Result<Option<MasterKey>, StoreError> {
    let content = match fs::read(path) {
        Ok(content) => Zeroizing::new(content),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StoreError::file(path, "read the master key", source)),
    };
    let bytes = parse(&content).ok_or_else(|| StoreError::KeyMalformed(path.to_owned()))?;
    Ok(Some(MasterKey { bytes, origin: path.to_owned() }))
}

/// 32 raw bytes, or 64 hexadecimal digits with white space around them.
pub(crate) fn parse(content: &[u8]) -> Option<Secret<[u8; 32]>> {
    if let Ok(raw) = <[u8; 32]>::try_from(content) {
        return Some(Secret::new(raw));
    }
    let digits = content.trim_ascii();
    let mut key = Zeroizing::new([0u8; 32]);
    if digits.len() != 64 {
        return None;
    }
    for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        let text = std::str::from_utf8(pair).ok()?;
        if !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(text, 16).ok()?;
    }
    Some(Secret::new(*key))
}

fn create(path: &Path, dir: &Path) -> Result<MasterKey, StoreError> {
    let mut key = Zeroizing::new([0u8; 32]);
    getrandom::fill(key.as_mut()).map_err(|error| StoreError::Random(error.to_string()))?;
    // Written aside and renamed: a crash leaves a whole key or none.
    let aside = dir.join("master.key.new");
    let write = || {
        let _ = fs::remove_file(&aside);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
        file.write_all(key.as_ref())?;
        file.sync_all()?;
        fs::rename(&aside, path)
    };
    write().map_err(|source| StoreError::file(path, "make the master key", source))?;
    sync_dir(dir)?;
    tracing::info!(
        file = %path.display(),
        "a master key was made: it protects copies of the databases, not a stolen disk or state directory, for it lies in \
         it; seal it to this machine with systemd-creds (\"The master key\" in install.md)"
    );
    Ok(MasterKey { bytes: Secret::new(*key), origin: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_start_makes_a_private_key_and_finds_it_again() {
        let temp = tempfile::tempdir().unwrap();
        let first = load(temp.path(), None, None).unwrap();
        let found = load(temp.path(), None, None).unwrap();
        assert!(first.bytes == found.bytes);
        let mode = fs::metadata(temp.path().join(KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_lost_key_is_said_and_never_made_anew() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join(STATE_FILE), "anything").unwrap();
        let error = load(temp.path(), None, None).unwrap_err();
        assert!(matches!(error, StoreError::KeyMissing { .. }), "{error}");
        assert!(!temp.path().join(KEY_FILE).exists());
    }

    #[test]
    fn a_configured_key_that_is_absent_is_not_replaced_by_another() {
        let temp = tempfile::tempdir().unwrap();
        let error = load(temp.path(), Some(&temp.path().join("other.key")), None).unwrap_err();
        assert!(matches!(error, StoreError::KeyMissing { .. }), "{error}");
        assert!(!temp.path().join(KEY_FILE).exists());
    }

    #[test]
    fn the_systemd_credential_goes_before_our_own_file() {
        let temp = tempfile::tempdir().unwrap();
        load(temp.path(), None, None).unwrap();
        let credentials = temp.path().join("credentials");
        fs::create_dir(&credentials).unwrap();
        fs::write(credentials.join(CREDENTIAL), [7u8; 32]).unwrap();
        assert_eq!(load(temp.path(), None, Some(&credentials)).unwrap().bytes.expose(), &[7; 32]);
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("exposed.key");
        fs::write(&path, [7u8; 32]).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = load(temp.path(), Some(&path), None).unwrap_err();
        assert!(matches!(error, StoreError::KeyExposed { mode: 0o640, .. }), "{error}");
    }

    #[test]
    fn a_key_of_another_form_is_refused() {
        assert!(parse(b"").is_none());
        assert!(parse(&[b'g'; 64]).is_none());
        assert!(parse(&[b'0'; 63]).is_none());
        assert!(parse("+1".repeat(32).as_bytes()).is_none());
        assert!(parse(format!(" {}\n", "ab".repeat(32)).as_bytes()).is_some_and(|key| key.expose() == &[0xab; 32]));
    }
}
