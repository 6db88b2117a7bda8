//! A client of HashiCorp Vault's HTTP API (OpenBao speaks it too): a token, or a login by AppRole, and the read of one field
//! of a secret in a KV engine of version 2.
//!
//! Nothing is held between two reads: a login's token is given back after its read, so that there is none to renew; a
//! token in a file is read anew each time, so that whoever renews it there (Vault's agent) is followed.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use ureq::http::Uri;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig};
use ureq::{Agent, Body};
use zeroize::Zeroizing;

use super::{SecretSource, Secrets, SourceError};
use crate::clock::Clock;
use crate::secret::Secret;

/// A whole request.
const LIMIT: Duration = Duration::from_secs(10);
/// An answer with a secret of some kilobytes.
const MOST_BYTES: u64 = 256 * 1024;
/// Of what a server says, this much is shown.
const MOST_WORDS: usize = 200;
/// Longest wait that a server may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// `[vault]`: the store that `"vault:PATH#FIELD"` is read from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VaultConfig {
    /// `https://host[:port]`, or `http` on this machine.
    pub url: Option<String>,
    /// The only CA (PEM) that its certificate may come from; the web's roots when there is none.
    pub ca: Option<PathBuf>,
    /// Namespace, where there are some.
    pub namespace: Option<String>,
    /// Where the KV engine (version 2) is mounted.
    pub mount: String,
    /// A file or a credential with a token.
    pub token: Option<SecretSource>,
    /// AppRole: the role.
    pub role_id: Option<String>,
    /// AppRole: a file or a credential with its secret id.
    pub secret_id: Option<SecretSource>,
}

impl Default for VaultConfig {
    fn default() -> Self {
        let mount = "secret".to_owned();
        Self { url: None, ca: None, namespace: None, mount, token: None, role_id: None, secret_id: None }
    }
}

impl VaultConfig {
    /// What is missing or contradicts itself: the key and words.
    ///
    /// # Errors
    /// The first objection.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let Some(url) = &self.url else {
            let other = [self.ca.is_some(), self.token.is_some(), self.role_id.is_some(), self.secret_id.is_some()];
            let without = || Err(("vault.url", "is missing; write https://host:8200".to_owned()));
            return if other.contains(&true) { without() } else { Ok(()) };
        };
        if !is_safe(url) {
            return Err((
                "vault.url",
                format!("{url:?}: an https URL is wanted (http only for a vault on this machine)"),
            ));
        }
        match (&self.token, &self.role_id, &self.secret_id) {
            (Some(_), None, None) | (None, Some(_), Some(_)) => {}
            _ => {
                let text = "or both of vault.role_id and vault.secret_id are needed; write one of the two ways";
                return Err(("vault.token", text.to_owned()));
            }
        }
        for (key, source) in [("vault.token", &self.token), ("vault.secret_id", &self.secret_id)] {
            if matches!(source, Some(SecretSource::Vault { .. } | SecretSource::Environment(_))) {
                return Err((key, "comes from a file or \"credential:NAME\"".to_owned()));
            }
        }
        let plain =
            |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
        if !self.mount.split('/').all(plain) {
            return Err(("vault.mount", format!("{:?} is no mount: such as \"secret\" or \"teams/edge\"", self.mount)));
        }
        Ok(())
    }
}

/// Why the vault gave no secret. None of these holds one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VaultError {
    /// The address or the CA.
    #[error("{0}")]
    Setup(String),
    /// No answer: network, TLS or time-out.
    #[error("the vault at {url} did not answer: {reason}; check the network, vault.url and vault.ca")]
    Unreachable {
        /// The vault.
        url: String,
        /// What the transport said.
        reason: String,
    },
    /// It is sealed, or in standby, or not made yet.
    #[error(
        "the vault at {url} answered {status}: {words}; it is sealed or on standby: unseal it, or wait for the active one"
    )]
    Sealed {
        /// The vault.
        url: String,
        /// HTTP status.
        status: u16,
        /// Its words.
        words: String,
    },
    /// It asked for patience, or failed on its side.
    #[error("the vault at {url} answered {status}: {words}; ask again later")]
    Busy {
        /// The vault.
        url: String,
        /// HTTP status.
        status: u16,
        /// Its words.
        words: String,
        /// Its Retry-After.
        retry_after: Option<Duration>,
    },
    /// The role and its secret id were not taken.
    #[error(
        "the vault at {url} refused the login ({status}: {words}): make a new secret id for the role, and check vault.role_id"
    )]
    Login {
        /// The vault.
        url: String,
        /// HTTP status.
        status: u16,
        /// Its words.
        words: String,
    },
    /// The token may not read it.
    #[error(
        "the vault at {url} refused to read {path} ({words}): the token needs a policy with read on it, and may have expired"
    )]
    Forbidden {
        /// The vault.
        url: String,
        /// What was asked for.
        path: String,
        /// Its words.
        words: String,
    },
    /// There is no such secret.
    #[error(
        "the vault at {url} has no secret at {path}, or its newest version was deleted: check the path and vault.mount (a KV engine of version 2)"
    )]
    NotFound {
        /// The vault.
        url: String,
        /// What was asked for.
        path: String,
    },
    /// The secret has no such field, or it is no text.
    #[error("the secret {path} has no field {field:?} that is a text: check its name")]
    NoField {
        /// What was asked for.
        path: String,
        /// The field.
        field: String,
    },
    /// No answer of a vault.
    #[error("the vault at {url} gave no usable answer: {reason}")]
    Answer {
        /// The vault.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl VaultError {
    /// Whether asking again may help.
    #[must_use]
    pub fn heals(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Sealed { .. } | Self::Busy { .. } | Self::Answer { .. })
    }

    /// Not to be asked again before.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after, .. } => retry_after.map(|wait| wait.min(LONGEST_WAIT)),
            _ => None,
        }
    }
}

/// A vault that a read goes to.
pub(super) struct Vault {
    agent: Agent,
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

struct Reply {
    status: u16,
    retry_after: Option<String>,
    body: Zeroizing<Vec<u8>>,
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
        let mut vault = Self {
            agent: agent(config.ca.as_deref())?,
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
            let request = self.agent.post(&url).header("content-type", "application/json");
            headers.fold(request, |request, (name, value)| request.header(name, value)).send(body)
        } else {
            headers.fold(self.agent.get(&url), |request, (name, value)| request.header(name, value)).call()
        };
        self.take(answer)
    }

    fn own_token(&self) -> Option<&str> {
        Some(self.token.expose().as_str()).filter(|token| !token.is_empty())
    }

    fn take(&self, answer: Result<ureq::http::Response<Body>, ureq::Error>) -> Result<Reply, VaultError> {
        let unreachable = |error: ureq::Error| VaultError::Unreachable {
            url: self.url.clone(),
            reason: self.plain(&error.to_string()),
        };
        let mut answer = answer.map_err(unreachable)?;
        let retry_after = answer.headers().get("retry-after").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let status = answer.status().as_u16();
        let body = answer.body_mut().with_config().limit(MOST_BYTES).read_to_vec().map_err(|error| match error {
            ureq::Error::BodyExceedsLimit(limit) => {
                let reason = format!("it has more than {limit} bytes");
                VaultError::Answer { url: self.url.clone(), reason }
            }
            other => unreachable(other),
        })?;
        Ok(Reply { status, retry_after, body: Zeroizing::new(body) })
    }

    /// An answer that says nothing about the secret.
    fn trouble(&self, reply: &Reply) -> VaultError {
        let (url, status, words) = (self.url.clone(), reply.status, self.words(reply));
        match status {
            503 | 501 | 472 | 473 => VaultError::Sealed { url, status, words },
            429 | 500.. => VaultError::Busy { url, status, words, retry_after: self.retry_after(reply) },
            _ => VaultError::Answer { url, reason: format!("HTTP status {status}: {words}") },
        }
    }

    /// Seconds, or a date (RFC 9110, section 10.2.3).
    fn retry_after(&self, reply: &Reply) -> Option<Duration> {
        let text = reply.retry_after.as_deref()?.trim();
        if let Ok(seconds) = text.parse() {
            return Some(Duration::from_secs(seconds));
        }
        let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp().as_second();
        Some(Duration::from_secs(u64::try_from(at).ok()?.saturating_sub(self.clock.wall().as_secs())))
    }

    fn unusable(&self, what: &str) -> VaultError {
        let reason = format!("{what} answer is not the JSON that was expected");
        VaultError::Answer { url: self.url.clone(), reason }
    }

    /// What the server says, as it may be shown. An answer that should hold a secret is never shown.
    fn words(&self, reply: &Reply) -> String {
        let said = serde_json::from_slice::<ErrorAnswer>(&reply.body).map(|said| said.errors.join("; "));
        let said = said.unwrap_or_default();
        if said.trim().is_empty() { "it said no more".to_owned() } else { self.plain(&said) }
    }

    /// No control characters, no end of them, and none of what was sent.
    fn plain(&self, words: &str) -> String {
        let hide = |words: String, secret: &Secret<String>| words.replace(secret.expose().as_str(), "[redacted]");
        let words = self.hidden.iter().fold(words.to_owned(), hide);
        words.chars().take(MOST_WORDS).flat_map(char::escape_default).collect()
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

fn agent(ca: Option<&Path>) -> Result<Agent, VaultError> {
    let mut tls = TlsConfig::builder();
    if let Some(path) = ca {
        tls = tls.root_certs(RootCerts::new_with_certs(&certificates(path)?));
    }
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_global(Some(LIMIT))
        .proxy(None)
        .user_agent("clawgate")
        .tls_config(tls.build())
        .build();
    Ok(config.new_agent())
}

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, VaultError> {
    let failed = |reason: String| VaultError::Setup(format!("vault.ca {}: {reason}", path.display()));
    let pem = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    let all: Vec<_> = ureq::tls::parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if all.is_empty() { Err(failed("no certificate in it".to_owned())) } else { Ok(all) }
}

/// `https`, or `http` to this machine.
fn is_safe(url: &str) -> bool {
    let Ok(uri) = url.parse::<Uri>() else { return false };
    let Some(host) = uri.host().filter(|host| !host.is_empty()) else { return false };
    match uri.scheme_str() {
        Some("https") => true,
        Some("http") => {
            let bare = host.trim_start_matches('[').trim_end_matches(']');
            host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
