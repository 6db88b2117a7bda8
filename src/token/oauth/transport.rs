//! HTTP to the OAuth server: TLS with one trust anchor, no redirects, answers capped in size and time.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::http::Uri;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body};

use crate::secret::Secret;
use crate::token::IssuerError;

/// A whole request; shorter than what the keeper waits.
const LIMIT: Duration = Duration::from_secs(20);
/// An answer with a token has about a kilobyte.
const MAX_ANSWER: u64 = 64 * 1024;

/// Why the client cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OauthSetupError {
    /// Not a URL, or one that would show tokens to the network.
    #[error("issuer.url {0:?}: an https URL is wanted (http only for an issuer on this machine)")]
    Url(String),
    /// The CA file cannot be read or holds no certificate.
    #[error("issuer.ca {path}: {reason}")]
    Ca {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// An answer, whatever it says.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    /// `Retry-After`, unread.
    pub(super) retry_after: Option<String>,
    /// `Date`, unread.
    pub(super) date: Option<String>,
    pub(super) body: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Transport {
    agent: Agent,
}

impl Transport {
    pub(super) fn new(url: &str, ca: Option<&Path>) -> Result<Self, OauthSetupError> {
        if !is_safe(url) {
            return Err(OauthSetupError::Url(url.chars().take(200).collect()));
        }
        let mut tls = TlsConfig::builder();
        if let Some(path) = ca {
            tls = tls.root_certs(RootCerts::new_with_certs(&certificates(path)?));
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_global(Some(LIMIT))
            .timeout_connect(Some(LIMIT / 2))
            .max_idle_connections(2)
            .proxy(None)
            .user_agent("clawgate")
            .tls_config(tls.build())
            .build();
        Ok(Self { agent: config.new_agent() })
    }

    /// Whether a token may be asked for there.
    #[expect(clippy::unused_self, reason = "the rule belongs to the transport")]
    pub(super) fn permits(&self, endpoint: &str) -> Result<(), IssuerError> {
        if is_safe(endpoint) {
            return Ok(());
        }
        let reason = "it is neither https nor on this machine".to_owned();
        Err(IssuerError::Answer { endpoint: super::answer::plain(endpoint), reason })
    }

    pub(super) fn get(&self, endpoint: &str) -> Result<Reply, IssuerError> {
        read(endpoint, self.agent.get(endpoint).header("accept", "application/json").call())
    }

    pub(super) fn post(&self, endpoint: &str, form: &[(&'static str, String)]) -> Result<Reply, IssuerError> {
        let form = form.iter().map(|(name, value)| (*name, value.as_str()));
        read(endpoint, self.agent.post(endpoint).header("accept", "application/json").send_form(form))
    }

    pub(super) fn post_json(
        &self,
        endpoint: &str,
        bearer: &Secret<String>,
        body: &serde_json::Value,
    ) -> Result<Reply, IssuerError> {
        let request = self.agent.post(endpoint).header("accept", "application/json");
        read(endpoint, request.header("authorization", format!("Bearer {}", bearer.expose())).send_json(body))
    }
}

fn read(endpoint: &str, answer: Result<ureq::http::Response<Body>, ureq::Error>) -> Result<Reply, IssuerError> {
    let unreachable =
        |error: ureq::Error| IssuerError::Unreachable { endpoint: endpoint.to_owned(), reason: error.to_string() };
    let mut answer = answer.map_err(unreachable)?;
    let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (status, retry_after, date) = (answer.status().as_u16(), header("retry-after"), header("date"));
    let body = answer.body_mut().with_config().limit(MAX_ANSWER).read_to_vec().map_err(|error| match error {
        ureq::Error::BodyExceedsLimit(limit) => IssuerError::Answer {
            endpoint: endpoint.to_owned(),
            reason: format!("the answer has more than {limit} bytes"),
        },
        other => unreachable(other),
    })?;
    Ok(Reply { status, retry_after, date, body })
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

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, OauthSetupError> {
    let failed = |reason: String| OauthSetupError::Ca { path: path.to_owned(), reason };
    let pem = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    let all: Result<Vec<_>, _> = ureq::tls::parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(ureq::tls::PemItem::Certificate(certificate)) => Some(Ok(certificate)),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        })
        .collect();
    let all = all.map_err(|error| failed(error.to_string()))?;
    if all.is_empty() { Err(failed("no certificate in it".to_owned())) } else { Ok(all) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_never_asked_for_over_an_open_network() {
        for good in ["https://id.example", "http://127.0.0.1:7480", "http://localhost:1/x", "http://[::1]:7480"] {
            assert!(is_safe(good), "{good}");
        }
        for bad in ["http://id.example", "http://10.0.0.1", "ftp://localhost", "localhost", "", "http://127.0.0.1.evil"]
        {
            assert!(!is_safe(bad), "{bad}");
        }
    }

    #[test]
    fn a_ca_file_without_a_certificate_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let refused = Transport::new("https://id.example", Some(file.path())).unwrap_err().to_string();
        assert!(refused.contains("no certificate"), "{refused}");
    }
}
