//! The master key: from a configured file, from systemd's credentials, or a key file of our own.
//! Never made anew over a state that was sealed with another. One that takes its place stands beside it, as `NAME.new`.

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
    pub(super) origin: Origin,
}

/// Where a master key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// The key file of our own, in the state directory.
    Own,
    /// A file that the configuration names.
    Configured(PathBuf),
    /// A systemd credential, at that path.
    Credential(PathBuf),
    /// The caller has it.
    Given,
}

impl Origin {
    /// The file; only a name for a key that was given.
    pub(super) fn path(&self, dir: &Path) -> PathBuf {
        match self {
            Self::Own => dir.join(KEY_FILE),
            Self::Configured(path) | Self::Credential(path) => path.clone(),
            Self::Given => "the key that was given".into(),
        }
    }

    /// For people.
    pub(super) fn words(&self, dir: &Path) -> String {
        let path = self.path(dir);
        match self {
            Self::Own => format!("in {}, beside what it seals", path.display()),
            Self::Configured(_) => format!("in {}, as configured", path.display()),
            Self::Credential(_) => format!("the systemd credential {CREDENTIAL}"),
            Self::Given => path.display().to_string(),
        }
    }
}

/// Finds the key, and the one beside it that shall take its place; makes the file in `dir` only at a first start, when
/// no state exists yet.
///
/// The caller holds the lock on `dir`, so that two first starts cannot make two keys.
pub(super) fn load(
    dir: &Path,
    configured: Option<&Path>,
    credentials: Option<&Path>,
) -> Result<(MasterKey, Option<MasterKey>), StoreError> {
    let with = |bytes, successor: Option<_>, origin: Origin| {
        let successor = successor.map(|bytes| MasterKey { bytes, origin: origin.clone() });
        (MasterKey { bytes, origin }, successor)
    };
    if let Some(path) = configured {
        let key = read_private(path)?.ok_or_else(|| missing(path, dir))?;
        return Ok(with(key, read_private(&beside(path))?, Origin::Configured(path.to_owned())));
    }
    if let Some(path) = credentials.map(|dir| dir.join(CREDENTIAL)) {
        // systemd guards this directory itself; its ACL shows as group bits, so the mode says nothing.
        if let Some(key) = read(&path)? {
            return Ok(with(key, read(&beside(&path))?, Origin::Credential(path)));
        }
    }
    let path = dir.join(KEY_FILE);
    match read_private(&path)? {
        // One that a crash has torn while it was written was never in use.
        Some(key) => Ok(with(key, read_private(&beside(&path)).ok().flatten(), Origin::Own)),
        None if dir.join(STATE_FILE).exists() => Err(missing(&path, dir)),
        None => Ok(with(create(&path, dir)?, None, Origin::Own)),
    }
}

/// Where the key stands that shall take the place of the one at `path`.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

/// Writes a new key beside the key file of our own; it is on disk when this returns.
pub(super) fn write_new(dir: &Path) -> Result<Secret<[u8; 32]>, StoreError> {
    let mut key = Zeroizing::new([0u8; 32]);
    getrandom::fill(key.as_mut()).map_err(|error| StoreError::Random(error.to_string()))?;
    let aside = beside(&dir.join(KEY_FILE));
    let write = || {
        let _ = fs::remove_file(&aside);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
        file.write_all(key.as_ref())?;
        file.sync_all()
    };
    write().map_err(|source| StoreError::file(&aside, "make a master key", source))?;
    sync_dir(dir)?;
    Ok(Secret::new(*key))
}

/// Puts the new key in the place of the key file of our own.
pub(super) fn put_in_place(dir: &Path) -> Result<(), StoreError> {
    let path = dir.join(KEY_FILE);
    fs::rename(beside(&path), &path)
        .map_err(|source| StoreError::file(&path, "put the master key in place", source))?;
    sync_dir(dir)
}

/// Removes a new key that never came into use.
pub(super) fn remove_new(dir: &Path) -> Result<(), StoreError> {
    let aside = beside(&dir.join(KEY_FILE));
    match fs::remove_file(&aside) {
        Err(source) if source.kind() != ErrorKind::NotFound => {
            Err(StoreError::file(&aside, "remove a master key that is not in use", source))
        }
        _ => Ok(()),
    }
}

fn missing(key: &Path, dir: &Path) -> StoreError {
    StoreError::KeyMissing { key: key.to_owned(), state: dir.join(STATE_FILE) }
}

fn read_private(path: &Path) -> Result<Option<Secret<[u8; 32]>>, StoreError> {
    match fs::metadata(path) {
        Ok(meta) if meta.permissions().mode() & 0o077 != 0 => {
            Err(StoreError::KeyExposed { path: path.to_owned(), mode: meta.permissions().mode() & 0o777 })
        }
        _ => read(path),
    }
}

fn read(path: &Path) -> Result<Option<Secret<[u8; 32]>>, StoreError> {
    let content = match fs::read(path) {
        Ok(content) => Zeroizing::new(content),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StoreError::file(path, "read the master key", source)),
    };
    parse(&content).map(Some).ok_or_else(|| StoreError::KeyMalformed(path.to_owned()))
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

fn create(path: &Path, dir: &Path) -> Result<Secret<[u8; 32]>, StoreError> {
    // Written aside and renamed: a crash leaves a whole key or none.
    let key = write_new(dir)?;
    put_in_place(dir)?;
    tracing::info!(
        file = %path.display(),
        "a master key was made: it protects copies of the databases, not a stolen disk or state directory, for it lies in \
         it; seal it to this machine with systemd-creds (\"The master key\" in install.md)"
    );
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_start_makes_a_private_key_and_finds_it_again() {
        let temp = tempfile::tempdir().unwrap();
        let (first, _) = load(temp.path(), None, None).unwrap();
        let (found, _) = load(temp.path(), None, None).unwrap();
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
        assert_eq!(load(temp.path(), None, Some(&credentials)).unwrap().0.bytes.expose(), &[7; 32]);
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
