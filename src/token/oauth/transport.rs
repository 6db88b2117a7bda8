//! HTTP to the OAuth server, and its address judged.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::tls::ClientCert;
use zeroize::Zeroizing;

use crate::http_client::{CaError, HttpClient, NoReply, Reply, is_safe, plain};
use crate::secret::Secret;
use crate::token::IssuerError;

/// A whole request; shorter than what the keeper waits.
const LIMIT: Duration = Duration::from_secs(20);
/// An answer with a token has about a kilobyte.
const MAX_ANSWER: u64 = 64 * 1024;

/// Parameters that prove something to whoever has them: a server that quotes them in a refusal is not quoted.
const SECRETS: [&str; 5] = ["client_assertion", "device_code", "refresh_token", "subject_token", "token"];

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

impl From<CaError> for OauthSetupError {
    fn from(CaError { path, reason }: CaError) -> Self {
        Self::Ca { path, reason }
    }
}

#[derive(Debug)]
pub(super) struct Transport(HttpClient);

impl Transport {
    pub(super) fn new(url: &str, ca: Option<&Path>) -> Result<Self, OauthSetupError> {
        if !is_safe(url) {
            return Err(OauthSetupError::Url(url.chars().take(200).collect()));
        }
        Ok(Self(HttpClient::new(ca, LIMIT, MAX_ANSWER)?))
    }

    /// Shows a certificate where one is asked for.
    pub(super) fn showing(certificate: &ClientCert, ca: Option<&Path>) -> Result<Self, OauthSetupError> {
        Ok(Self(HttpClient::showing(Some(certificate), ca, LIMIT, MAX_ANSWER)?))
    }

    /// Whether a token may be asked for there.
    #[expect(clippy::unused_self, reason = "the rule belongs to the transport")]
    pub(super) fn permits(&self, endpoint: &str) -> Result<(), IssuerError> {
        if is_safe(endpoint) {
            return Ok(());
        }
        let reason = "it is neither https nor on this machine".to_owned();
        Err(IssuerError::Answer { endpoint: plain(endpoint), reason })
    }

    pub(super) fn get(&self, endpoint: &str) -> Result<Reply, IssuerError> {
        self.read(endpoint, self.0.get(endpoint).header("accept", "application/json").call())
    }

    pub(super) fn post(&self, endpoint: &str, form: &[(&'static str, String)]) -> Result<Reply, IssuerError> {
        let sent = form.iter().filter(|(name, _)| SECRETS.contains(name)).map(|(_, value)| value.as_str());
        let form = form.iter().map(|(name, value)| (*name, value.as_str()));
        let reply = self.read(endpoint, self.0.post(endpoint).header("accept", "application/json").send_form(form))?;
        Ok(without(reply, sent))
    }

    pub(super) fn post_json(
        &self,
        endpoint: &str,
        bearer: &Secret<String>,
        body: &serde_json::Value,
    ) -> Result<Reply, IssuerError> {
        let request = self.0.post(endpoint).header("accept", "application/json");
        let request = request.header("authorization", format!("Bearer {}", bearer.expose()));
        Ok(without(self.read(endpoint, request.send_json(body))?, [bearer.expose().as_str()].into_iter()))
    }

    /// To whoever shows this token.
    pub(super) fn get_by(&self, endpoint: &str, bearer: &Secret<String>) -> Result<Reply, IssuerError> {
        let request = self.0.get(endpoint).header("accept", "application/json");
        let request = request.header("authorization", format!("Bearer {}", bearer.expose()));
        Ok(without(self.read(endpoint, request.call())?, [bearer.expose().as_str()].into_iter()))
    }

    pub(super) fn put_json(
        &self,
        endpoint: &str,
        bearer: &Secret<String>,
        body: &serde_json::Value,
    ) -> Result<Reply, IssuerError> {
        let request = self.0.put(endpoint).header("accept", "application/json");
        let request = request.header("authorization", format!("Bearer {}", bearer.expose()));
        Ok(without(self.read(endpoint, request.send_json(body))?, [bearer.expose().as_str()].into_iter()))
    }

    fn read(
        &self,
        endpoint: &str,
        answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<Reply, IssuerError> {
        let endpoint = || endpoint.to_owned();
        self.0.read(answer).map_err(|none| match none {
            NoReply::Unreachable(reason) => IssuerError::Unreachable { endpoint: endpoint(), reason },
            NoReply::TooLong(limit) => {
                let reason = format!("the answer has more than {limit} bytes");
                IssuerError::Answer { endpoint: endpoint(), reason }
            }
        })
    }
}

/// A refusal without what was sent. A success stays as it is: it is read, and never shown.
fn without<'a>(reply: Reply, sent: impl Iterator<Item = &'a str>) -> Reply {
    if (200..300).contains(&reply.status) {
        return reply;
    }
    let words = Zeroizing::new(String::from_utf8_lossy(&reply.body).into_owned());
    let hide = |words: Zeroizing<String>, secret: &str| Zeroizing::new(words.replace(secret, "[redacted]"));
    let words = sent.filter(|secret| !secret.is_empty()).fold(words, hide);
    Reply { body: Zeroizing::new(words.as_bytes().to_vec()), ..reply }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuer_over_an_open_network_and_a_file_without_a_ca_are_refused_by_their_keys() {
        let refusal = |url, ca| Transport::new(url, ca).unwrap_err().to_string();
        assert!(refusal("http://id.example", None).contains("issuer.url"));
        let file = tempfile::NamedTempFile::new().unwrap();
        let refused = refusal("https://id.example", Some(file.path()));
        assert!(refused.contains("issuer.ca") && refused.contains("no certificate"), "{refused}");
        let endpoint = Transport::new("https://id.example", None).unwrap().permits("http://id.example/token");
        assert!(endpoint.unwrap_err().to_string().contains("neither https"));
    }
}
