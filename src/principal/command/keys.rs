//! The public keys of those who may command, as the configuration names them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jsonwebtoken::DecodingKey;

use super::CommandName;
use crate::config::CloudConfig;
use crate::token::key::{Jwk, Jwks, KeyError};

/// A key file is not larger.
const MAX_FILE: u64 = 64 * 1024;
/// Keys of one file: the one in use, the next, and some more.
const MAX_KEYS: usize = 8;

/// Why a command key cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cloud.command_keys.{name}.public_key {}: {reason}", path.display())]
pub struct CommandKeyError {
    name: String,
    path: PathBuf,
    reason: String,
}

/// Who may command, and what. Empty where commands are off.
#[derive(Clone, Default)]
pub(crate) struct CommandKeys(BTreeMap<String, Commander>);

#[derive(Clone)]
pub(super) struct Commander {
    /// By key id.
    pub(super) keys: Vec<(String, DecodingKey)>,
    pub(super) may: Vec<CommandName>,
}

impl CommandKeys {
    /// Reads the keys that the configuration names.
    ///
    /// # Errors
    /// [`CommandKeyError`] names the key and what is wrong with its file.
    pub(crate) fn of(config: &CloudConfig) -> Result<Self, CommandKeyError> {
        let read = |(name, key): (&crate::config::Name, &crate::config::CommandKeyConfig)| {
            let path = key.public_key.clone();
            let failed = |reason| CommandKeyError { name: name.to_string(), path: path.clone(), reason };
            let keys = read_keys(&path).map_err(failed)?;
            Ok((name.to_string(), Commander { keys, may: key.commands.clone() }))
        };
        config.command_keys.iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// Whether nobody may command.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Every command that somebody may give.
    pub(crate) fn commands(&self) -> Vec<String> {
        let mut all: Vec<_> = self.0.values().flat_map(|commander| commander.may.iter().copied()).collect();
        all.sort_unstable();
        all.dedup();
        all.into_iter().map(|name| name.as_str().to_owned()).collect()
    }

    pub(super) fn commander(&self, name: &str) -> Option<&Commander> {
        self.0.get(name)
    }
}

impl std::fmt::Debug for CommandKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Commander {
    /// The key that a header means: by its id, or the only one.
    pub(super) fn key(&self, kid: Option<&str>) -> Option<&DecodingKey> {
        match (self.keys.as_slice(), kid) {
            ([(_, only)], _) => Some(only),
            (several, Some(kid)) => several.iter().find(|(known, _)| known == kid).map(|(_, key)| key),
            (_, None) => None,
        }
    }
}

/// A public key as PEM, a JWK, or a JWK set.
fn read_keys(path: &Path) -> Result<Vec<(String, DecodingKey)>, String> {
    let said = |error: &dyn std::fmt::Display| error.to_string();
    if std::fs::metadata(path).map_err(|error| said(&error))?.len() > MAX_FILE {
        return Err(format!("more than {MAX_FILE} bytes"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| said(&error))?;
    let found: Vec<Jwk> = if text.trim_start().starts_with('{') {
        match serde_json::from_str::<Jwks>(&text) {
            Ok(set) => set.keys,
            Err(_) => vec![serde_json::from_str(&text).map_err(|error| format!("neither a JWK nor a set: {error}"))?],
        }
    } else {
        vec![Jwk::from_pem(&text).map_err(|error| said(&error))?]
    };
    if found.is_empty() || found.len() > MAX_KEYS {
        return Err(format!("{} keys; 1 to {MAX_KEYS} are allowed", found.len()));
    }
    let key = |jwk: Jwk| Ok((jwk.kid.clone(), jwk.decoding()?));
    found.into_iter().map(key).collect::<Result<_, KeyError>>().map_err(|error| said(&error))
}
