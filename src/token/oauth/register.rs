//! Registers this gateway as a client of the server (RFC 7591), with an initial access token from its administrator.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::transport::Transport;
use super::{DETAIL_TYPE, Grant, LookError, answer};
use crate::secret::Secret;
use crate::token::IssuerError;
use crate::token::key::Jwk;

/// What is registered.
pub(crate) struct Registration<'a> {
    /// The issuer's URL.
    pub(crate) url: &'a str,
    /// The only CA that its certificate may come from.
    pub(crate) ca: Option<&'a Path>,
    /// Given by the server's administrator, good for a registration.
    pub(crate) token: &'a Secret<String>,
    /// How the client is shown to people there.
    pub(crate) name: &'a str,
    /// Its public key.
    pub(crate) key: &'a Jwk,
    /// How it will ask for tokens.
    pub(crate) grant: Grant,
}

/// What the server answered: who we are there. Not `Debug`: the token in it is a secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Registered {
    /// The id that it gave us: belongs into `issuer.client_id`.
    pub(crate) client_id: String,
    /// Where the registration can be looked at and taken back (RFC 7592).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) registration_client_uri: Option<String>,
    /// What for that has to be shown there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) registration_access_token: Option<String>,
}

/// Registers; `None` where the server's metadata names no registration endpoint.
pub(crate) fn register(wanted: &Registration<'_>) -> Result<Option<Registered>, LookError> {
    let url = wanted.url.trim_end_matches('/');
    let transport = Transport::new(url, wanted.ca)?;
    let at = answer::metadata_url(url);
    let endpoints = answer::endpoints(&at, url, &transport.get(&at)?)?;
    let Some(endpoint) = endpoints.registration else { return Ok(None) };
    transport.permits(&endpoint)?;
    let further: &[&str] = match wanted.grant {
        Grant::ClientCredentials => &[],
        Grant::TokenExchange => &["urn:ietf:params:oauth:grant-type:token-exchange"],
        Grant::DeviceCode => &["urn:ietf:params:oauth:grant-type:device_code", "refresh_token"],
    };
    let grants: Vec<_> = ["client_credentials"].iter().chain(further).collect();
    let metadata = json!({
        "client_name": wanted.name,
        "token_endpoint_auth_method": "private_key_jwt",
        "token_endpoint_auth_signing_alg": "ES256",
        "id_token_signed_response_alg": "ES256",
        "grant_types": grants,
        "response_types": [],
        "redirect_uris": [],
        "authorization_details_types": [DETAIL_TYPE],
        "jwks": { "keys": [as_client_key(wanted.key)] },
    });
    let reply = transport.post_json(&endpoint, wanted.token, &metadata)?;
    Ok(Some(answer::registered(&endpoint, &reply)?))
}

/// A key as a client has it there.
pub(super) fn as_client_key(key: &Jwk) -> serde_json::Value {
    json!({
        "kty": key.kty, "crv": key.crv, "x": key.x, "y": key.y, "kid": key.kid, "use": "sig", "alg": "ES256",
    })
}

impl Registered {
    /// Whether the id may stand in a configuration and before a person.
    pub(super) fn check(self, endpoint: &str) -> Result<Self, IssuerError> {
        let plain =
            |text: &str| !text.is_empty() && text.len() <= 256 && text.bytes().all(|byte| byte.is_ascii_graphic());
        if plain(&self.client_id) {
            return Ok(self);
        }
        let reason = "the client id that it gave is empty, too long, or not plain ASCII".to_owned();
        Err(IssuerError::Answer { endpoint: endpoint.to_owned(), reason })
    }
}
