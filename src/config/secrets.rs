//! Whether the keys, secrets and CAs that the configuration names can be had and used, as far as this process can tell:
//! for `config check` and `doctor`, before a daemon starts.

use std::fs::File;
use std::path::Path;

use super::{Config, ConfigError, IssuerKind, places};
use crate::clock::Clock;
use crate::http_client;
use crate::relay::{ClientKey, Profile, TlsFiles};
use crate::secret::Secret;
use crate::secret_source::{SecretSource, Secrets, SourceError};
use crate::store;
use crate::token::azure;
use crate::token::key::SigningKey;

/// How a secret or a CA looks from here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Look {
    /// It is there and what it should be.
    Good,
    /// It cannot be seen by this process, and why; the daemon may have it.
    Unseen(String),
    /// The daemon will not be able to use it either, and why.
    Bad(String),
}

/// One that the configuration names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Looked {
    /// Its key.
    pub(crate) key: &'static str,
    /// Its place, where it is a secret's.
    pub(crate) place: Option<String>,
    /// How it looks.
    pub(crate) look: Look,
}

/// Refuses what cannot work, and says what could not be seen. No vault is asked.
///
/// # Errors
/// [`ConfigError::Incomplete`] names the key.
pub(crate) fn examine(main: &Path, config: &Config) -> Result<Vec<String>, ConfigError> {
    let mut unseen = Vec::new();
    for Looked { key, look, .. } in places::look(config).into_iter().chain(look(config, false)) {
        match look {
            Look::Good => {}
            Look::Unseen(why) => unseen.push(format!("{key}: {why}")),
            Look::Bad(message) => {
                return Err(ConfigError::Incomplete { path: main.to_owned(), key: key.to_owned(), message });
            }
        }
    }
    Ok(unseen)
}

/// Everything that is in use.
pub(crate) fn look(config: &Config, ask_vault: bool) -> Vec<Looked> {
    let secrets = Secrets::new(&config.vault, Clock::system());
    let see = |key, source: &SecretSource, is_usable: &dyn Fn(Secret<Vec<u8>>) -> Result<(), String>| {
        let look = match seen(&secrets, source, ask_vault) {
            Ok(secret) => is_usable(secret).map_or_else(Look::Bad, |()| Look::Good),
            Err(look) => look,
        };
        Looked { key, place: Some(source.to_string()), look }
    };
    let mut all = files(config);
    if config.vault.url.is_some() {
        all.extend(config.vault.ca.as_deref().map(|ca| anchor("vault.ca", ca)));
        for (key, source) in [("vault.token", &config.vault.token), ("vault.secret_id", &config.vault.secret_id)] {
            all.extend(source.as_ref().map(|source| see(key, source, &|word| is_word(source, &word))));
        }
    }
    if config.issuer.kind == IssuerKind::Oauth {
        all.extend(config.issuer.ca.as_deref().map(|ca| anchor("issuer.ca", ca)));
        if let Some(source) = &config.issuer.client_key {
            all.push(see("issuer.client_key", source, &|pem| {
                let key = SigningKey::from_pem(pem.expose(), &source.to_string());
                key.map(drop).map_err(|error| error.to_string())
            }));
        }
    }
    if let Some(path) = &config.broker.authorizer_key {
        let opens =
            || Profile::of(config.broker.profile).with_authorizer("", Some((String::new(), path.clone()))).load();
        all.push(see("broker.authorizer_key", &SecretSource::File(path.clone()), &|_| {
            opens().map_err(|error| without("broker.authorizer_key", &error.to_string()))
        }));
    }
    if let Some(ca) = config.broker.ca.as_ref().filter(|_| config.broker.url.as_ref().is_some_and(|url| url.tls)) {
        let opens =
            |client| TlsFiles { ca: ca.clone(), client }.load(None).map(drop).map_err(|error| error.to_string());
        let look = opens(None).map_or_else(Look::Bad, |()| Look::Good);
        let is_good = look == Look::Good;
        all.push(Looked { key: "broker.ca", place: None, look });
        all.extend(config.broker.client_cert.as_deref().map(|chain| anchor("broker.client_cert", chain)));
        if let (true, Some(chain), Some(source)) = (is_good, &config.broker.client_cert, &config.broker.client_key) {
            let key = |pem| ClientKey { pem, from: source.to_string() };
            all.push(see("broker.client_key", source, &|pem| opens(Some((chain.clone(), key(pem))))));
        }
    }
    all
}

/// Keys that can be in a file alone.
fn files(config: &Config) -> Vec<Looked> {
    let mut all = Vec::new();
    if let Some(path) = &config.master_key {
        all.push(file("master_key", path, || store::read_key(path, &config.state_dir).map(drop)));
    }
    if let Some(path) = config.issuer.device_keys.as_ref().filter(|_| config.issuer.kind == IssuerKind::AzureSas) {
        all.push(file("issuer.device_keys", path, || azure::check_keys(path)));
    }
    all
}

fn file<E: std::fmt::Display>(key: &'static str, path: &Path, is_usable: impl FnOnce() -> Result<(), E>) -> Looked {
    let look = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Look::Unseen(unreadable(path)),
        _ => is_usable().map_or_else(|error| Look::Bad(without(key, &error.to_string())), |()| Look::Good),
    };
    Looked { key, place: Some(path.display().to_string()), look }
}

/// The words of an error that begin with the key by themselves.
fn without(key: &str, words: &str) -> String {
    words.strip_prefix(key).unwrap_or(words).trim_start().to_owned()
}

fn unreadable(path: &Path) -> String {
    format!("{}: this user may not read it; the daemon's must", path.display())
}

/// What is at its place; else how that looks.
fn seen(secrets: &Secrets, source: &SecretSource, ask_vault: bool) -> Result<Secret<Vec<u8>>, Look> {
    match source {
        SecretSource::Credential(name) if !secrets.has_credentials() => {
            let text = "is handed to the unit alone, and was not looked at; see LoadCredentialEncrypted= in";
            return Err(Look::Unseen(format!("credential:{name} {text} systemctl cat clawgate")));
        }
        SecretSource::Environment(name) if std::env::var_os(name).is_none() => {
            let text = "is not set here, and the unit's own environment was not looked at; see EnvironmentFile= in";
            return Err(Look::Unseen(format!("env:{name} {text} systemctl cat clawgate")));
        }
        SecretSource::Vault { .. } if !ask_vault => {
            return Err(Look::Unseen(format!("{source} was not asked for; clawgate doctor does")));
        }
        _ => {}
    }
    secrets.read(source).map_err(|error| match &error {
        SourceError::File { path, source } if source.kind() == std::io::ErrorKind::PermissionDenied => {
            Look::Unseen(unreadable(path))
        }
        _ => Look::Bad(error.to_string()),
    })
}

/// A token or a secret id.
fn is_word(source: &SecretSource, word: &Secret<Vec<u8>>) -> Result<(), String> {
    let word = word.expose().trim_ascii();
    if !word.is_empty() && word.iter().all(u8::is_ascii_graphic) {
        return Ok(());
    }
    Err(format!("{source}: it holds no token or secret id: one line of plain ASCII is wanted"))
}

/// A file of certificates.
fn anchor(key: &'static str, file: &Path) -> Looked {
    let look = http_client::read_ca(file).map_or_else(|error| Look::Bad(error.to_string()), |()| Look::Good);
    Looked { key, place: None, look }
}
