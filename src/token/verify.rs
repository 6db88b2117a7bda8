//! Checks a token the way a broker must: signature, type, issuer, audience, times, deny list.

use std::collections::HashMap;
use std::sync::Arc;

use jsonwebtoken::{Algorithm, Validation};

use super::key::{Jwks, KeyError};
use super::local::{DenyList, IssuerTime, KeySource};
use super::{Claims, MAX_TOKEN_BYTES};

/// Why a token was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Longer than any token of ours.
    #[error("the token is too long")]
    TooLong,
    /// Not a JWT of type `at+jwt` signed with ES256 by a known key for this issuer and audience.
    #[error("the token is not valid here: {0}")]
    Invalid(String),
    /// Its time is over.
    #[error("the token expired {0} s ago")]
    Expired(u64),
    /// Its time has not begun.
    #[error("the token is not good before {0} s from now")]
    NotYet(u64),
    /// It stands on the deny list.
    #[error("the token was revoked")]
    Revoked,
}

/// Verifies access tokens of one issuer for one audience. Cheap to clone.
#[derive(Clone)]
pub struct Verifier(Arc<Inner>);

struct Inner {
    keys: KeySource,
    validation: Validation,
    deny: DenyList,
    time: IssuerTime,
}

impl Verifier {
    /// A verifier for tokens that `issuer` made for `audience`.
    ///
    /// # Errors
    /// [`KeyError::NoPublicKey`] when one of the keys is none.
    pub fn new(keys: &Jwks, issuer: &str, audience: &str, deny: DenyList, time: IssuerTime) -> Result<Self, KeyError> {
        let keys = keys
            .keys
            .iter()
            .map(|jwk| Ok((jwk.kid.clone(), jwk.decoding()?)))
            .collect::<Result<HashMap<_, _>, KeyError>>()?;
        Ok(Self::of(KeySource::Fixed(Arc::new(keys)), issuer, audience, deny, time))
    }

    /// The same with the keys as they are at each moment.
    pub(super) fn of(keys: KeySource, issuer: &str, audience: &str, deny: DenyList, time: IssuerTime) -> Self {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_issuer(&[issuer]);
        validation.set_audience(&[audience]);
        validation.set_required_spec_claims(&["iss", "aud", "exp", "sub"]);
        // Its times are checked below, against the issuer's own time, the expiry without leeway.
        (validation.validate_exp, validation.validate_nbf) = (false, false);
        Self(Arc::new(Inner { keys, validation, deny, time }))
    }

    /// The claims of a token that is good now.
    ///
    /// # Errors
    /// [`Refusal`] says why it is not.
    pub fn verify(&self, token: &[u8]) -> Result<Claims, Refusal> {
        Ok(self.verify_signed(token)?.0)
    }

    /// The same with the id of the key that signed.
    pub(crate) fn verify_signed(&self, token: &[u8]) -> Result<(Claims, String), Refusal> {
        let (claims, kid) = self.signed(token)?;
        self.still_good(&claims)?;
        Ok((claims, kid))
    }

    /// Whether tokens under that key are still taken: it may have been withdrawn before they expire.
    pub(crate) fn takes_key(&self, kid: &str) -> bool {
        self.0.keys.find(kid, self.0.time.now()).is_some()
    }

    /// The claims of a token that is or was good: made by this issuer for this audience.
    ///
    /// # Errors
    /// [`Refusal::TooLong`] or [`Refusal::Invalid`].
    pub(crate) fn authentic(&self, token: &[u8]) -> Result<Claims, Refusal> {
        Ok(self.signed(token)?.0)
    }

    fn signed(&self, token: &[u8]) -> Result<(Claims, String), Refusal> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Refusal::TooLong);
        }
        let invalid = |what: &str| Refusal::Invalid(what.to_owned());
        let token = str::from_utf8(token).map_err(|_| invalid("not a JWT"))?;
        let header = jsonwebtoken::decode_header(token).map_err(|_| invalid("not a JWT"))?;
        if !header.typ.is_some_and(|typ| typ.eq_ignore_ascii_case("at+jwt")) {
            return Err(invalid("its type is not at+jwt"));
        }
        let now = self.0.time.now();
        let kid = header.kid.unwrap_or_default();
        let key = self.0.keys.find(&kid, now).ok_or_else(|| invalid("unknown key id"))?;
        let token = jsonwebtoken::decode::<Claims>(token, &key, &self.0.validation);
        token.map(|token| (token.claims, kid)).map_err(|error| invalid(&error.to_string()))
    }

    /// Whether claims that were verified once still hold: not expired, not revoked.
    ///
    /// # Errors
    /// [`Refusal::Expired`], [`Refusal::NotYet`] or [`Refusal::Revoked`].
    pub(crate) fn still_good(&self, claims: &Claims) -> Result<(), Refusal> {
        let now = self.0.time.now();
        if claims.exp <= now {
            return Err(Refusal::Expired(now - claims.exp));
        }
        if let Some(early) = claims.early(now) {
            return Err(Refusal::NotYet(early));
        }
        if self.0.deny.denies(claims) { Err(Refusal::Revoked) } else { Ok(()) }
    }

    /// The time that lives are measured against, seconds since 1970.
    #[must_use]
    pub(crate) fn now(&self) -> u64 {
        self.0.time.now()
    }

    /// Wakes whenever something was revoked.
    #[must_use]
    pub(crate) fn revocations(&self) -> tokio::sync::watch::Receiver<u64> {
        self.0.deny.changes()
    }
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Verifier")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
    use jsonwebtoken::{EncodingKey, Header};
    use serde_json::{Value, json};

    use super::*;
    use crate::clock::Clock;
    use crate::token::key::SigningKey;

    const NOW: u64 = 1_800_000_000;

    fn claims() -> Value {
        json!({
            "iss": "urn:test", "sub": "pump-3", "aud": "claw", "client_id": "g", "iat": NOW, "exp": NOW + 60, "jti": "x",
            "scope": "telemetry:write",
        })
    }

    fn verifier(key: &SigningKey) -> Verifier {
        let clock = Clock::manual(Duration::from_secs(NOW));
        let keys = Jwks { keys: vec![key.public().clone()] };
        let time = IssuerTime::starting_at(0, clock);
        Verifier::new(&keys, "urn:test", "claw", DenyList::in_memory(), time).unwrap()
    }

    #[test]
    fn a_header_never_chooses_how_or_by_which_key_a_token_is_checked() {
        let (key, stranger) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        let verifier = verifier(&key);
        let good = key.sign("at+jwt", &claims()).unwrap();
        verifier.verify(good.as_bytes()).unwrap();
        let [_, payload, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!("three parts") };
        let kid = &key.public().kid;
        let header = |header: Value| BASE64URL.encode(header.to_string());
        let none = header(json!({ "alg": "none", "typ": "at+jwt", "kid": kid }));
        let es384 = header(json!({ "alg": "ES384", "typ": "at+jwt", "kid": kid }));
        let jwk = header(json!({ "alg": "ES256", "typ": "at+jwt", "kid": kid, "jwk": stranger.public() }));
        let mut bad = vec![
            format!("{none}.{payload}."),
            format!("{none}.{payload}.{signature}"),
            format!("{es384}.{payload}.{signature}"),
            format!("{jwk}.{payload}.{signature}"),
            stranger.sign("at+jwt", &claims()).unwrap(),
            key.sign("JWT", &claims()).unwrap(),
            format!("{good}.{signature}"),
        ];
        // The public key, as whoever has it might write it, in place of a shared secret.
        let pem = key.public_pem().unwrap();
        let point = BASE64URL.decode(&key.public().x).unwrap();
        for secret in [pem.as_bytes(), pem.trim().as_bytes(), key.public().x.as_bytes(), &point] {
            let mut header = Header::new(Algorithm::HS256);
            (header.typ, header.kid) = (Some("at+jwt".to_owned()), Some(kid.clone()));
            bad.push(jsonwebtoken::encode(&header, &claims(), &EncodingKey::from_secret(secret)).unwrap());
        }
        // Another key's name, a path, nothing: none leads to a key.
        for name in ["", "../keys", &stranger.public().kid] {
            let header = header(json!({ "alg": "ES256", "typ": "at+jwt", "kid": name }));
            bad.push(format!("{header}.{payload}.{signature}"));
        }
        for token in bad {
            assert!(matches!(verifier.verify(token.as_bytes()), Err(Refusal::Invalid(_))), "{token}");
        }
    }

    #[test]
    fn claims_that_are_missing_twice_or_of_another_kind_are_refused() {
        let key = SigningKey::generate().unwrap();
        let verifier = verifier(&key);
        for name in ["iss", "sub", "aud", "client_id", "iat", "exp", "jti"] {
            let mut missing = claims();
            missing.as_object_mut().unwrap().remove(name);
            assert!(verifier.verify(key.sign("at+jwt", &missing).unwrap().as_bytes()).is_err(), "{name}");
        }
        for (name, value) in [
            ("aud", json!(["claw"])),
            ("aud", json!(["claw", "other"])),
            ("aud", json!("claw2")),
            ("iss", json!(["urn:test"])),
            ("exp", json!(-1)),
            ("exp", json!(1e300)),
            ("exp", json!((NOW + 60).to_string())),
            ("exp", json!(null)),
            ("exp", json!(NOW)),
            ("iat", json!(-1)),
            ("nbf", json!(NOW + 31)),
            ("nbf", json!(-1)),
            ("nbf", json!("x")),
            ("sub", json!(7)),
            ("claw_rate", json!(0)),
            ("claw_addresses", json!(["0.0.0.0/0", "x"])),
            ("claw_aif", json!([["#", ["all"]]])),
        ] {
            let mut other = claims();
            other[name] = value.clone();
            assert!(verifier.verify(key.sign("at+jwt", &other).unwrap().as_bytes()).is_err(), "{name}: {value}");
        }
        for good in [0, NOW, NOW + 30] {
            let mut from = claims();
            from["nbf"] = json!(good);
            verifier.verify(key.sign("at+jwt", &from).unwrap().as_bytes()).unwrap();
        }
        let text = claims().to_string();
        let twice = text.replacen('{', &format!(r#"{{"exp":{},"#, NOW + 600), 1);
        let raw: Box<serde_json::value::RawValue> = serde_json::from_str(&twice).unwrap();
        assert!(verifier.verify(key.sign("at+jwt", &raw).unwrap().as_bytes()).is_err(), "exp twice");
    }
}
