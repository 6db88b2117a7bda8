//! Tokens: who signed them, what they say, and whose client they are good for.

use std::net::IpAddr;
use std::num::NonZeroU32;

use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;

use crate::options::Options;
use crate::peer::{Peer, lies_in};
use crate::rate::Owner;

/// A longer token is refused unread.
const MAX_TOKEN: usize = 8 * 1024;
/// Scope of a token that only reads.
const TELEMETRY_READ: &str = "telemetry:read";
/// How far the issuer's clock may be ahead of the broker's, in seconds.
const TOLERANCE_S: u64 = 30;

/// What a token says.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Claims {
    pub(crate) sub: String,
    pub(crate) client_id: String,
    pub(crate) iat: u64,
    pub(crate) exp: u64,
    nbf: Option<u64>,
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
        if self.claw_addresses.is_some() && peer.address.is_none() {
            return Err(format!("the token of {sub} is for certain addresses, and the client has none"));
        }
        if let Some(address) = self.off_list(peer) {
            return Err(format!("the token of {sub} is not for address {address}"));
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

    /// How long it is not good yet at `now`, in seconds.
    pub(crate) fn early(&self, now: u64) -> Option<u64> {
        self.nbf?.checked_sub(now).filter(|early| *early > TOLERANCE_S)
    }

    /// The client's address, where the token does not allow it.
    pub(crate) fn off_list(&self, peer: &Peer<'_>) -> Option<IpAddr> {
        let (ranges, address) = (self.claw_addresses.as_ref()?, peer.address?);
        (!ranges.iter().any(|range| lies_in(range, address))).then_some(address)
    }

    /// From where it may be used; empty for anywhere, and for nowhere.
    pub(crate) fn addresses(&self) -> &[String] {
        self.claw_addresses.as_deref().unwrap_or_default()
    }

    /// A device has exactly `GATEWAY.DEVICE`, so that no other token can take its connection over; a subscriber has
    /// its own name, or `NAME.anything`.
    fn permits_client_id(&self, mqtt_id: &str) -> bool {
        if self.scope == TELEMETRY_READ {
            return mqtt_id.strip_prefix(&self.sub).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        }
        mqtt_id == format!("{}.{}", self.client_id, self.sub)
    }

    /// Whether it allows to publish anything.
    pub(crate) fn publishes(&self) -> bool {
        self.claw_aif.iter().any(|(_, actions)| actions.iter().any(|action| action == "pub"))
    }

    /// Whose it is.
    pub(crate) fn owner(&self) -> Owner {
        (self.client_id.clone(), self.sub.clone())
    }
}

/// One of the issuer's public keys: an uncompressed point, in whichever form it was given.
pub(crate) type Signer = Vec<u8>;

/// The issuer's keys, and what else is checked of a token whoever shows it, except its times.
pub(crate) struct Keys {
    keys: Vec<Known>,
    validation: Validation,
}

struct Known {
    id: Option<String>,
    key: DecodingKey,
}

impl Keys {
    /// From a JWKS, or one public key as PEM.
    ///
    /// # Errors
    /// Why the text cannot be used.
    pub(crate) fn parse(text: &str, options: &Options) -> Result<Self, String> {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_issuer(&[&options.issuer]);
        validation.set_audience(&[&options.audience]);
        validation.set_required_spec_claims(&["iss", "aud", "exp", "sub"]);
        // The caller's: without leeway, and not before the issuer's own time.
        validation.validate_exp = false;
        Ok(Self { keys: known(text).map_err(|error| error.to_string())?, validation })
    }

    /// What the token says, and which of the keys signed it.
    ///
    /// # Errors
    /// Why it is refused.
    pub(crate) fn verify(&self, token: &[u8]) -> Result<(Claims, Signer), String> {
        if token.is_empty() || token.len() > MAX_TOKEN {
            return Err("no token, or one that is too long".to_owned());
        }
        let token = str::from_utf8(token).map_err(|_| "not a JWT".to_owned())?;
        let header = jsonwebtoken::decode_header(token).map_err(|_| "not a JWT".to_owned())?;
        if !header.typ.is_some_and(|typ| typ.eq_ignore_ascii_case("at+jwt")) {
            return Err("not an access token: its type is not at+jwt".to_owned());
        }
        let mut refusal = "unknown key id".to_owned();
        for known in &self.keys {
            if known.id.is_some() && known.id != header.kid {
                continue;
            }
            match jsonwebtoken::decode::<Claims>(token, &known.key, &self.validation) {
                Ok(token) => return Ok((token.claims, known.signer().to_vec())),
                Err(error) => refusal = error.to_string(),
            }
        }
        Err(refusal)
    }

    /// Whether this key is still one of them.
    pub(crate) fn has(&self, signer: &[u8]) -> bool {
        self.keys.iter().any(|known| known.signer() == signer)
    }
}

impl Known {
    fn signer(&self) -> &[u8] {
        // An ES256 key is kept as its bytes; one of another kind has signed nothing.
        self.key.try_get_as_bytes().unwrap_or_default()
    }
}

fn known(text: &str) -> Result<Vec<Known>, Box<dyn std::error::Error>> {
    if !text.trim_start().starts_with('{') {
        return Ok(vec![Known { id: None, key: DecodingKey::from_ec_pem(text.as_bytes())? }]);
    }
    let set: JwkSet = serde_json::from_str(text)?;
    if set.keys.is_empty() {
        return Err("there is no key in it".into());
    }
    let known = |jwk: &Jwk| Ok(Known { id: jwk.common.key_id.clone(), key: DecodingKey::from_jwk(jwk)? });
    set.keys.iter().map(known).collect()
}
