//! Tokens: who signed them, what they say, and whose client they are good for.

use std::fs;
use std::num::NonZeroU32;
use std::path::Path;

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;

use crate::options::Options;
use crate::peer::{Peer, lies_in};
use crate::rate::Owner;

/// A longer token is refused unread.
const MAX_TOKEN: usize = 8 * 1024;
/// Bound of the files that are read.
pub(crate) const MAX_FILE: u64 = 16 * 1024 * 1024;
/// Scope of a token that only reads.
const TELEMETRY_READ: &str = "telemetry:read";

/// What a token says.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Claims {
    pub(crate) sub: String,
    pub(crate) client_id: String,
    pub(crate) iat: u64,
    pub(crate) exp: u64,
    pub(crate) jti: String,
    #[serde(default)]
    scope: String,
    #[serde(default)]
    pub(crate) claw_aif: Vec<(String, Vec<String>)>,
    /// Where it may come from; absent means from anywhere, empty from nowhere.
    claw_addresses: Option<Vec<String>>,
    /// Publishes a second.
    pub(crate) claw_rate: Option<NonZeroU32>,
    /// Who may show it (RFC 7800).
    cnf: Option<Confirmation>,
}

/// A confirmation in another way than by certificate is one that this broker cannot check.
#[derive(Debug, Clone, Deserialize)]
struct Confirmation {
    #[serde(rename = "x5t#S256")]
    certificate: Option<String>,
}

impl Claims {
    /// Whether this client may show the token.
    ///
    /// # Errors
    /// Why it may not, for the broker's log.
    pub(crate) fn permits(&self, peer: &Peer<'_>) -> Result<(), String> {
        let (sub, mqtt_id) = (&self.sub, peer.mqtt_id);
        if !self.permits_client_id(mqtt_id) {
            return Err(format!("the token of {sub} is not for client id {mqtt_id:?}"));
        }
        if let Some(ranges) = &self.claw_addresses {
            let Some(address) = peer.address else {
                return Err(format!("the token of {sub} is for certain addresses, and the client has none"));
            };
            if !ranges.iter().any(|range| lies_in(range, address)) {
                return Err(format!("the token of {sub} is not for address {address}"));
            }
        }
        if let Some(confirmation) = &self.cnf {
            let Some(bound_to) = &confirmation.certificate else {
                return Err(format!("the token of {sub} is bound to what is no certificate"));
            };
            let Some(shown) = &peer.certificate else {
                return Err(format!(
                    "the token of {sub} is bound to a certificate, and the client showed none (its listener needs \
                     require_certificate true)"
                ));
            };
            if shown != bound_to {
                return Err(format!("the token of {sub} is bound to another certificate"));
            }
        }
        Ok(())
    }

    /// A device has exactly `GATEWAY.DEVICE`, so that no other token can take its connection over; a subscriber has
    /// its own name, or `NAME.anything`.
    fn permits_client_id(&self, mqtt_id: &str) -> bool {
        if self.scope == TELEMETRY_READ {
            return mqtt_id.strip_prefix(&self.sub).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        }
        mqtt_id == format!("{}.{}", self.client_id, self.sub)
    }

    /// Whose it is.
    pub(crate) fn owner(&self) -> Owner {
        (self.client_id.clone(), self.sub.clone())
    }
}

/// The issuer's keys, and what else is checked of a token whoever shows it, except its times.
pub(crate) struct Keys {
    keys: Vec<(Option<String>, DecodingKey)>,
    validation: Validation,
}

impl Keys {
    /// From a JWKS, or one public key as PEM.
    ///
    /// # Errors
    /// Why the file cannot be used.
    pub(crate) fn read(options: &Options) -> Result<Self, String> {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_issuer(&[&options.issuer]);
        validation.set_audience(&[&options.audience]);
        validation.set_required_spec_claims(&["iss", "aud", "exp", "sub"]);
        // The caller's: without leeway, and not before the issuer's own time.
        validation.validate_exp = false;
        Ok(Self { keys: read_keys(&options.key_file)?, validation })
    }

    /// What the token says, if one of the keys signed it.
    ///
    /// # Errors
    /// Why it is refused.
    pub(crate) fn verify(&self, token: &[u8]) -> Result<Claims, String> {
        if token.is_empty() || token.len() > MAX_TOKEN {
            return Err("no token, or one that is too long".to_owned());
        }
        let token = str::from_utf8(token).map_err(|_| "not a JWT".to_owned())?;
        let header = jsonwebtoken::decode_header(token).map_err(|_| "not a JWT".to_owned())?;
        if !header.typ.is_some_and(|typ| typ.eq_ignore_ascii_case("at+jwt")) {
            return Err("not an access token: its type is not at+jwt".to_owned());
        }
        let mut refusal = "unknown key id".to_owned();
        for (kid, key) in &self.keys {
            if kid.is_some() && *kid != header.kid {
                continue;
            }
            match jsonwebtoken::decode::<Claims>(token, key, &self.validation) {
                Ok(token) => return Ok(token.claims),
                Err(error) => refusal = error.to_string(),
            }
        }
        Err(refusal)
    }
}

fn read_keys(path: &Path) -> Result<Vec<(Option<String>, DecodingKey)>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    if fs::metadata(path).map_err(|error| failed(&error))?.len() > MAX_FILE {
        return Err(failed(&"the file is too large"));
    }
    let text = fs::read_to_string(path).map_err(|error| failed(&error))?;
    if !text.trim_start().starts_with('{') {
        let key = DecodingKey::from_ec_pem(text.as_bytes()).map_err(|error| failed(&error))?;
        return Ok(vec![(None, key)]);
    }
    let set: JwkSet = serde_json::from_str(&text).map_err(|error| failed(&error))?;
    let keys: Vec<_> = set
        .keys
        .iter()
        .map(|jwk| Ok((jwk.common.key_id.clone(), DecodingKey::from_jwk(jwk).map_err(|error| failed(&error))?)))
        .collect::<Result<_, String>>()?;
    if keys.is_empty() { Err(failed(&"no key in it")) } else { Ok(keys) }
}
