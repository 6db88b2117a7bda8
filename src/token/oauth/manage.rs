//! Changes this gateway's key in its own registration (RFC 7592), and looks whether the server takes a key.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::register::{Registered, as_client_key};
use super::transport::Transport;
use super::{LookError, OauthIssuer, OauthOptions, answer};
use crate::clock::Clock;
use crate::secret::Secret;
use crate::token::key::Jwk;
use crate::token::{Issuer as _, IssuerError, TokenRequest};

/// What the server adds to the metadata when it shows them, and does not want back (RFC 7592, section 2.2).
const ITS_OWN: [&str; 4] =
    ["registration_access_token", "registration_client_uri", "client_secret_expires_at", "client_id_issued_at"];

/// What is registered of a client.
pub(crate) struct Metadata(Map<String, Value>);

/// A registration that this gateway may change by itself.
pub(crate) struct Managed {
    transport: Transport,
    endpoint: String,
    token: Secret<String>,
    /// As it is known now: a server may give another access token with each answer.
    pub(crate) registered: Registered,
}

impl Managed {
    /// `None` where the server gave nothing to change it with.
    pub(crate) fn of(registered: Registered, url: &str, ca: Option<&Path>) -> Result<Option<Self>, LookError> {
        let (Some(endpoint), Some(token)) =
            (registered.registration_client_uri.clone(), registered.registration_access_token.clone())
        else {
            return Ok(None);
        };
        let transport = Transport::new(url, ca)?;
        transport.permits(&endpoint)?;
        Ok(Some(Self { transport, endpoint, token: Secret::new(token), registered }))
    }

    /// What is registered, as it is written back. Like every answer, this one may have brought another access token, which
    /// may be the only one that is good now.
    pub(crate) fn look(&mut self) -> Result<Metadata, LookError> {
        let reply = self.transport.get_by(&self.endpoint, &self.token)?;
        self.follow(answer::registered(&self.endpoint, &reply)?)?;
        let mut metadata: Map<String, Value> = answer::parse(&self.endpoint, &reply)?;
        if metadata.contains_key("jwks_uri") {
            let reason = "the client's keys are fetched from a jwks_uri there: change them where it points".to_owned();
            return Err(IssuerError::Answer { endpoint: self.endpoint.clone(), reason }.into());
        }
        metadata.retain(|name, _| !ITS_OWN.contains(&name.as_str()));
        Ok(Metadata(metadata))
    }

    /// The client has these keys there from now on, and no other. What else is registered stays as it is.
    pub(crate) fn set_keys(&mut self, Metadata(mut metadata): Metadata, keys: &[Jwk]) -> Result<(), LookError> {
        let keys: Vec<_> = keys.iter().map(as_client_key).collect();
        metadata.insert("jwks".to_owned(), json!({ "keys": keys }));
        let reply = self.transport.put_json(&self.endpoint, &self.token, &Value::Object(metadata))?;
        self.follow(answer::registered(&self.endpoint, &reply)?)
    }

    /// Another token or place, where the server named one.
    fn follow(&mut self, now: Registered) -> Result<(), LookError> {
        if now.client_id != self.registered.client_id {
            let reason = "it speaks of another client".to_owned();
            return Err(IssuerError::Answer { endpoint: self.endpoint.clone(), reason }.into());
        }
        if let Some(endpoint) = now.registration_client_uri {
            self.transport.permits(&endpoint)?;
            self.endpoint.clone_from(&endpoint);
            self.registered.registration_client_uri = Some(endpoint);
        }
        if let Some(token) = now.registration_access_token {
            self.token = Secret::new(token.clone());
            self.registered.registration_access_token = Some(token);
        }
        Ok(())
    }
}

/// Whether the server takes the key of `options`: asks for a token of the gateway itself. What it says about the request
/// is no concern here, once it knows who asks.
pub(crate) async fn takes(options: OauthOptions, request: &TokenRequest) -> Result<bool, LookError> {
    match OauthIssuer::new(options, Clock::system())?.issue(request).await {
        Err(IssuerError::Refused { code, .. }) if code == "invalid_client" => Ok(false),
        Ok(_) | Err(IssuerError::Refused { .. } | IssuerError::Mismatch { .. } | IssuerError::Token { .. }) => Ok(true),
        Err(unclear) => Err(unclear.into()),
    }
}
