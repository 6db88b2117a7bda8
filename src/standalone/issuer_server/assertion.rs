//! Client assertions: a client proves with a signature who it is (RFC 7523, section 3), once per assertion.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use jsonwebtoken::{Algorithm, Validation};
use serde::Deserialize;
use tracing::debug;

use super::Site;
use super::clients::Client;
use super::reply::Refused;

/// The only way to authenticate here.
pub(super) const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// An assertion lives at most this long, so that the list of used ones stays short.
const MAX_LIFE_S: u64 = 300;
/// Longer than any assertion.
const MAX_BYTES: usize = 4096;
/// Used assertions that are remembered.
const MAX_REPLAYS: usize = 10_000;
/// Of these, one client's share.
const MAX_REPLAYS_OF_ONE: usize = 1_000;

#[derive(Deserialize)]
struct AssertionClaims {
    iss: String,
    sub: String,
    exp: u64,
    jti: String,
}

/// Assertions that were used and are not expired yet.
#[derive(Debug, Default)]
pub(super) struct Replays(Mutex<HashMap<(String, String), u64>>);

impl Replays {
    /// Remembers an assertion.
    fn first_use(&self, client: &str, jti: String, exp: u64, now: u64) -> Result<(), Refused> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.retain(|_, exp| *exp > now);
        if seen.len() >= MAX_REPLAYS || seen.keys().filter(|(of, _)| of == client).count() >= MAX_REPLAYS_OF_ONE {
            return Err(Refused::unavailable("too many requests in five minutes"));
        }
        if seen.insert((client.to_owned(), jti), exp).is_some() {
            debug!(client, "client assertion replayed");
            return Err(Refused::client());
        }
        Ok(())
    }
}

/// The client that signed `assertion`.
pub(super) fn authenticate(site: &Site, kind: Option<&str>, assertion: Option<&str>) -> Result<Client, Refused> {
    if kind != Some(ASSERTION_TYPE) {
        return Err(Refused::client());
    }
    let assertion = assertion.filter(|text| text.len() <= MAX_BYTES).ok_or_else(Refused::client)?;
    // Who it claims to be decides which key it is checked with.
    let claimed: AssertionClaims =
        jsonwebtoken::dangerous::insecure_decode_claims(assertion).map_err(|_| Refused::client())?;
    let client = site.clients.load().get(&claimed.iss).cloned().ok_or_else(Refused::client)?;
    let mut validation = Validation::new(Algorithm::ES256);
    validation.set_audience(&[site.issuer.name(), &site.url, &format!("{}/token", site.url)]);
    validation.set_required_spec_claims(&["iss", "sub", "aud", "exp"]);
    // Checked below, against the issuer's own time.
    validation.validate_exp = false;
    let key = client.key.decoding().map_err(|_| Refused::client())?;
    let claims = jsonwebtoken::decode::<AssertionClaims>(assertion, &key, &validation)
        .map_err(|error| {
            debug!(client = client.id, %error, "client assertion refused");
            Refused::client()
        })?
        .claims;
    let now = site.issuer.now();
    let timely = claims.exp > now && claims.exp <= now.saturating_add(MAX_LIFE_S);
    if claims.sub != client.id || !timely || claims.jti.is_empty() || claims.jti.len() > 128 {
        debug!(client = client.id, now, exp = claims.exp, "client assertion refused");
        return Err(Refused::client());
    }
    site.replays.first_use(&client.id, claims.jti, claims.exp, now)?;
    Ok(client)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assertion_is_good_once_and_a_busy_client_fills_only_its_share() {
        let replays = Replays::default();
        replays.first_use("a", "1".to_owned(), 400, 100).unwrap();
        assert_eq!(replays.first_use("a", "1".to_owned(), 400, 101), Err(Refused::client()));
        replays.first_use("b", "1".to_owned(), 400, 101).unwrap();
        for n in 0..MAX_REPLAYS_OF_ONE * 2 {
            let _ = replays.first_use("a", format!("x{n}"), 400, 102);
        }
        assert!(replays.first_use("a", "y".to_owned(), 400, 103).is_err());
        replays.first_use("b", "y".to_owned(), 400, 103).unwrap();
        replays.first_use("a", "y".to_owned(), 800, 500).unwrap();
    }
}
