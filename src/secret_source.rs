//! Where a secret of the configuration comes from: a file, a systemd credential, the environment, or a store that speaks
//! Vault's protocol. The configuration names the place; the secret itself is read when it is needed, and never written.

mod vault;

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

use vault::Vault;
pub use vault::{VaultConfig, VaultError};

use crate::clock::Clock;
use crate::secret::Secret;

/// A key or a passphrase is not longer.
const MOST_BYTES: u64 = 64 * 1024;

/// Bits of a file's mode that let every user of the machine at it.
pub(crate) const EVERYBODY: u32 = 0o007;

/// A place of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// `"/path"`: a file.
    File(PathBuf),
    /// `"credential:NAME"`: a credential that systemd hands to this unit.
    Credential(String),
    /// `"env:NAME"`: a variable of the environment.
    Environment(String),
    /// `"vault:PATH#FIELD"`: a field of a secret in the store of `[vault]`.
    Vault {
        /// Below the mount.
        path: String,
        /// Of the secret's data.
        field: String,
    },
}

impl FromStr for SecretSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |part: &str| {
            let all = part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
            all && !part.is_empty() && part.len() <= 128 && !part.starts_with('.')
        };
        let refuse = |form: &str| Err(format!("{text:?} names no secret: write {form}"));
        if let Some(name) = text.strip_prefix("credential:") {
            return if plain(name) { Ok(Self::Credential(name.to_owned())) } else { refuse("\"credential:NAME\"") };
        }
        if let Some(name) = text.strip_prefix("env:") {
            return if plain(name) { Ok(Self::Environment(name.to_owned())) } else { refuse("\"env:NAME\"") };
        }
        if let Some(place) = text.strip_prefix("vault:") {
            return match place.split_once('#') {
                Some((path, field)) if path.split('/').all(plain) && plain(field) => {
                    Ok(Self::Vault { path: path.to_owned(), field: field.to_owned() })
                }
                _ => refuse("\"vault:PATH#FIELD\", the path below vault.mount"),
            };
        }
        if text.is_empty() {
            return refuse("a path, \"credential:NAME\", \"env:NAME\" or \"vault:PATH#FIELD\"");
        }
        Ok(Self::File(text.into()))
    }
}

impl<'de> Deserialize<'de> for SecretSource {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Credential(name) => write!(f, "credential:{name}"),
            Self::Environment(name) => write!(f, "env:{name}"),
            Self::Vault { path, field } => write!(f, "vault:{path}#{field}"),
        }
    }
}

/// Why a secret could not be had. None of these holds one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The file or the credential.
    #[error("{}: cannot be read: {source}; check that it is there and that clawgate may read it", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Every user of this machine could take it.
    #[error(
        "{}: has mode {mode:04o}, so that every user of this machine may read it: chmod o-rwx it, and make a new secret if one \
         did",
        path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// This process was not started by systemd with credentials.
    #[error(
        "credential:{0}: systemd handed no credentials in: add LoadCredentialEncrypted={0} to the unit (systemctl edit clawgate)"
    )]
    NoCredentials(String),
    /// The variable is not set, or is no text.
    #[error(
        "env:{0}: the variable is not set for this process, or is no text: set it in the unit, best by EnvironmentFile="
    )]
    NoVariable(String),
    /// A vault is named and none is configured.
    #[error(
        "{0}: there is no vault to read it from: write vault.url, and vault.token or vault.role_id and vault.secret_id"
    )]
    NoVault(String),
    /// What the vault said.
    #[error(transparent)]
    Vault(#[from] VaultError),
}

impl SourceError {
    /// Whether asking again may help.
    #[must_use]
    pub(crate) fn heals(&self) -> bool {
        matches!(self, Self::Vault(error) if error.heals())
    }

    /// Not to be asked again before, where the vault named a time.
    #[must_use]
    pub(crate) fn retry_after(&self) -> Option<std::time::Duration> {
        match self {
            Self::Vault(error) => error.retry_after(),
            _ => None,
        }
    }
}

/// Reads secrets. Blocks: not for async threads.
#[derive(Debug, Clone)]
pub struct Secrets {
    credentials_dir: Option<PathBuf>,
    vault: Option<VaultConfig>,
    clock: Clock,
}

impl Secrets {
    /// With the vault of the configuration; credentials are found as systemd hands them to this process.
    #[must_use]
    pub(crate) fn new(vault: &VaultConfig, clock: Clock) -> Self {
        let credentials_dir = std::env::var_os("CREDENTIALS_DIRECTORY").map(Into::into);
        let vault = vault.url.is_some().then(|| vault.clone());
        Self { credentials_dir, vault, clock }
    }

    /// The secret as it is now.
    ///
    /// # Errors
    /// [`SourceError`].
    pub(crate) fn read(&self, source: &SecretSource) -> Result<Secret<Vec<u8>>, SourceError> {
        match source {
            SecretSource::File(path) => read_file(path, EVERYBODY),
            // Who may read those, systemd sees to.
            SecretSource::Credential(name) => match &self.credentials_dir {
                Some(dir) => read_file(&dir.join(name), 0),
                None => Err(SourceError::NoCredentials(name.clone())),
            },
            SecretSource::Environment(name) => match std::env::var(name) {
                Ok(text) => Ok(Secret::new(text.into_bytes())),
                Err(_) => Err(SourceError::NoVariable(name.clone())),
            },
            SecretSource::Vault { path, field } => {
                let config = self.vault.as_ref().ok_or_else(|| SourceError::NoVault(source.to_string()))?;
                Ok(Vault::open(config, self)?.read(path, field)?)
            }
        }
    }

    /// Whether systemd has handed credentials to this process.
    pub(crate) fn has_credentials(&self) -> bool {
        self.credentials_dir.is_some()
    }

    /// The time.
    fn clock(&self) -> &Clock {
        &self.clock
    }
}

/// `forbidden`: bits of the mode that a file must not have. A pipe is its reader's alone.
pub(crate) fn read_file(path: &Path, forbidden: u32) -> Result<Secret<Vec<u8>>, SourceError> {
    let failed = |source| SourceError::File { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let about = file.metadata().map_err(failed)?;
    if about.is_file() && about.mode() & forbidden != 0 {
        return Err(SourceError::Exposed { path: path.to_owned(), mode: about.mode() & 0o7777 });
    }
    let mut content = Zeroizing::new(Vec::with_capacity(4096));
    file.take(MOST_BYTES + 1).read_to_end(&mut content).map_err(failed)?;
    if content.len() as u64 > MOST_BYTES {
        return Err(failed(io::Error::other(format!("it has more than {MOST_BYTES} bytes"))));
    }
    Ok(Secret::new(std::mem::take(&mut *content)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_in_each_form_and_written_back_as_it_was() {
        for good in ["/etc/key.pem", "credential:oauth.key", "env:OPENCLAW_KEY", "vault:sites/roof/oauth#client_key"] {
            assert_eq!(good.parse::<SecretSource>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "credential:",
            "credential:../x",
            "credential:a/b",
            "env:",
            "env:A=B",
            "vault:a",
            "vault:a#",
            "vault:#b",
            "vault:../a#b",
            "vault:a//b#c",
            "vault:a?x=1#b",
        ] {
            let refused = bad.parse::<SecretSource>().unwrap_err();
            assert!(refused.contains("write "), "{bad}: {refused}");
        }
    }

    #[test]
    fn what_is_not_there_is_named_with_what_to_do() {
        let secrets = Secrets::new(&VaultConfig::default(), Clock::system());
        let said = |text: &str| secrets.read(&text.parse().unwrap()).unwrap_err().to_string();
        assert!(said("/nowhere/key").contains("check that it is there"));
        assert!(said("env:CLAWGATE_NOT_SET").contains("EnvironmentFile="));
        assert!(said("vault:a#b").contains("write vault.url"));
        let without = Secrets { credentials_dir: None, ..secrets };
        let said = without.read(&"credential:k".parse().unwrap()).unwrap_err().to_string();
        assert!(said.contains("LoadCredentialEncrypted=k"), "{said}");
    }

    #[test]
    fn a_file_that_every_user_may_read_is_no_place_for_a_secret() {
        use std::os::unix::fs::PermissionsExt as _;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"secret").unwrap();
        let secrets = Secrets::new(&VaultConfig::default(), Clock::system());
        let read = |mode| {
            std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            secrets.read(&SecretSource::File(file.path().to_owned()))
        };
        for good in [0o600, 0o640, 0o400] {
            assert_eq!(read(good).unwrap().expose(), b"secret", "{good:o}");
        }
        for bad in [0o644, 0o604, 0o602] {
            let said = read(bad).unwrap_err().to_string();
            assert!(said.contains(&format!("mode {bad:04o}")) && said.contains("chmod o-rwx"), "{said}");
        }
    }

    #[test]
    fn a_credential_is_read_from_where_systemd_put_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("k"), b"secret").unwrap();
        let secrets = Secrets { credentials_dir: Some(dir.path().to_owned()), vault: None, clock: Clock::system() };
        assert_eq!(secrets.read(&"credential:k".parse().unwrap()).unwrap().expose(), b"secret");
        std::fs::write(dir.path().join("k"), vec![0; 70_000]).unwrap();
        assert!(secrets.read(&"credential:k".parse().unwrap()).unwrap_err().to_string().contains("65536"));
    }
}
