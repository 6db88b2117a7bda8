//! A client of HashiCorp Vault's HTTP API (OpenBao speaks it too): a token, or a login by AppRole, and the read of one field
//! of a secret in a KV engine of version 2.
//!
//! Nothing is held between two reads: a login's token is given back after its read, so that there is none to renew; a
//! token in a file is read anew each time, so that whoever renews it there (Vault's agent) is followed.

mod config;
mod error;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::{SecretSource, Secrets, SourceError};
use crate::clock::Clock;
use crate::http_client::{HttpClient, NoReply, Reply, plain};
use crate::secret::Secret;

pub use config::VaultConfig;
pub use error::VaultError;

/// A whole request.
const LIMIT: Duration = Duration::from_secs(10);
/// An answer with a secret of some kilobytes.
const MOST_BYTES: u64 = 256 * 1024;

/// A vault that a read goes to.
pub(super) struct Vault {
    http: HttpClient,
    url: String,
    namespace: Option<String>,
    mount: String,
    clock: Clock,
    token: Secret<String>,
    /// The token is of a login, and is given back.
    is_login: bool,
    /// What must not come back in the server's words.
    hidden: Vec<Secret<String>>,
}

#[derive(Deserialize)]
struct LoginAnswer<'a> {
    #[serde(borrow)]
    auth: LoginAuth<'a>,
}

#[derive(Deserialize)]
struct LoginAuth<'a> {
    #[serde(borrow)]
    client_token: &'a RawValue,
}

#[derive(Deserialize)]
struct ReadAnswer<'a> {
    #[serde(borrow)]
    data: ReadData<'a>,
}

#[derive(Deserialize)]
struct ReadData<'a> {
    #[serde(borrow)]
    data: BTreeMap<String, &'a RawValue>,
}

#[derive(Deserialize)]
struct ErrorAnswer {
    errors: Vec<String>,
}

impl Vault {
    /// With a token, by a login where there is none.
    pub(super) fn open(config: &VaultConfig, secrets: &Secrets) -> Result<Self, SourceError> {
        let url = config.url.clone().unwrap_or_default().trim_end_matches('/').to_owned();
        let http = HttpClient::new(config.ca.as_deref(), LIMIT, MOST_BYTES)
            .map_err(|error| VaultError::Setup(format!("vault.ca {error}")))?;
        let mut vault = Self {
            http,
            url,
            namespace: config.namespace.clone(),
            mount: config.mount.clone(),
            clock: secrets.clock().clone(),
            token: Secret::new(String::new()),
            is_login: false,
            hidden: Vec::new(),
        };
        let read = |source: &SecretSource| {
            let bytes = secrets.read(source)?;
            let text = std::str::from_utf8(bytes.expose()).map(str::trim).unwrap_or_default();
            if text.is_empty() || !text.bytes().all(|b| b.is_ascii_graphic()) {
                return Err(SourceError::Vault(VaultError::Setup(format!("{source}: it holds no token or secret id"))));
            }
            Ok(Secret::new(text.to_owned()))
        };
        match (&config.token, &config.role_id, &config.secret_id) {
            (Some(token), ..) => {
                vault.token = read(token)?;
                vault.hidden.push(vault.token.clone());
            }
            (None, Some(role), Some(secret_id)) => vault.log_in(role, &read(secret_id)?)?,
            _ => {
                return Err(VaultError::Setup(
                    "vault.token, or vault.role_id and vault.secret_id are needed".to_owned(),
                )
                .into());
            }
        }
        Ok(vault)
    }

    fn log_in(&mut self, role: &str, secret_id: &Secret<String>) -> Result<(), VaultError> {
        self.hidden.push(secret_id.clone());
        let body = Zeroizing::new(
            serde_json::to_vec(&serde_json::json!({ "role_id": role, "secret_id": secret_id.expose() }))
                .map_err(|error| VaultError::Setup(error.to_string()))?,
        );
        let reply = self.ask(Some(&body), "auth/approle/login")?;
        match reply.status {
            200 => {}
            400 | 401 | 403 | 404 => {
                let (url, words) = (self.url.clone(), self.words(&reply));
                return Err(VaultError::Login { url, status: reply.status, words });
            }
            _ => return Err(self.trouble(&reply)),
        }
        let answer: LoginAnswer<'_> = serde_json::from_slice(&reply.body).map_err(|_| self.unusable("the login's"))?;
        let token: String =
            serde_json::from_str(answer.auth.client_token.get()).map_err(|_| self.unusable("the login's"))?;
        self.token = Secret::new(token);
        if !self.token.expose().bytes().all(|b| b.is_ascii_graphic()) {
            return Err(self.unusable("the login's token is no token; the"));
        }
        self.hidden.push(self.token.clone());
        self.is_login = true;
        Ok(())
    }

    /// One field of a secret.
    pub(super) fn read(&self, path: &str, field: &str) -> Result<Secret<Vec<u8>>, VaultError> {
        let reply = self.ask(None, &format!("{}/data/{path}", self.mount))?;
        let url = || self.url.clone();
        let path = format!("{}/data/{path}", self.mount);
        match reply.status {
            200 => {}
            401 | 403 => return Err(VaultError::Forbidden { url: url(), path, words: self.words(&reply) }),
            404 => return Err(VaultError::NotFound { url: url(), path }),
            _ => return Err(self.trouble(&reply)),
        }
        let answer: ReadAnswer<'_> = serde_json::from_slice(&reply.body).map_err(|_| self.unusable("the"))?;
        let raw = answer.data.data.get(field);
        let text = raw.and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
        text.map(|text| Secret::new(text.into_bytes()))
            .ok_or_else(|| VaultError::NoField { path, field: field.to_owned() })
    }

    /// A request of the API, below `/v1/`.
    fn ask(&self, post: Option<&[u8]>, path: &str) -> Result<Reply, VaultError> {
        let url = format!("{}/v1/{path}", self.url);
        let namespace = self.namespace.as_deref();
        let headers = [("x-vault-namespace", namespace), ("x-vault-token", self.own_token())];
        let headers = headers.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let answer = if let Some(body) = post {
            let request = self.http.post(&url).header("content-type", "application/json");
            headers.fold(request, |request, (name, value)| request.header(name, value)).send(body)
        } else {
            headers.fold(self.http.get(&url), |request, (name, value)| request.header(name, value)).call()
        };
        self.take(answer)
    }

    fn own_token(&self) -> Option<&str> {
        Some(self.token.expose().as_str()).filter(|token| !token.is_empty())
    }

    fn take(&self, answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Reply, VaultError> {
        let url = || self.url.clone();
        self.http.read(answer).map_err(|none| match none {
            NoReply::Unreachable(reason) => VaultError::Unreachable { url: url(), reason: self.shown(&reason) },
            NoReply::TooLong(limit) => {
                VaultError::Answer { url: url(), reason: format!("it has more than {limit} bytes") }
            }
        })
    }

    /// An answer that says nothing about the secret.
    fn trouble(&self, reply: &Reply) -> VaultError {
        let (url, status, words) = (self.url.clone(), reply.status, self.words(reply));
        match status {
            503 | 501 | 472 | 473 => VaultError::Sealed { url, status, words },
            429 | 500.. => VaultError::Busy { url, status, words, retry_after: reply.retry_after(Some(&self.clock)) },
            _ => VaultError::Answer { url, reason: format!("HTTP status {status}: {words}") },
        }
    }

    fn unusable(&self, what: &str) -> VaultError {
        let reason = format!("{what} answer is not the JSON that was expected");
        VaultError::Answer { url: self.url.clone(), reason }
    }

    /// What the server says, as it may be shown. An answer that should hold a secret is never shown.
    fn words(&self, reply: &Reply) -> String {
        let said = serde_json::from_slice::<ErrorAnswer>(&reply.body).map(|said| said.errors.join("; "));
        let said = said.unwrap_or_default();
        if said.trim().is_empty() { "it said no more".to_owned() } else { self.shown(&said) }
    }

    /// No control characters, no end of them, and none of what was sent.
    fn shown(&self, words: &str) -> String {
        let hide = |words: String, secret: &Secret<String>| words.replace(secret.expose().as_str(), "[redacted]");
        let words = self.hidden.iter().fold(words.to_owned(), hide);
        plain(&words)
    }
}

impl Drop for Vault {
    /// A login's token is worth nothing after its read; where that cannot be said, it ends by itself.
    fn drop(&mut self) {
        if self.is_login
            && let Err(error) = self.ask(Some(b"{}"), "auth/token/revoke-self")
        {
            tracing::debug!(%error, "the vault's token was not given back; it ends by itself");
        }
    }
}

#[cfg(test)]
mod tests;
