//! One access token: an RFC 9068 JWT, its claims, and its life counted on a clock that nobody can turn.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::limits;
use super::scope::{Action, Topics};
use super::{AddressRange, CLOCK_TOLERANCE, Confirmation, Limits, MAX_TOKEN_BYTES, Stage, Thumbprint};
use crate::clock::Clock;
use crate::secret::Secret;

/// Why a text was not taken as an access token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// More than 8 KiB.
    #[error("the token has {0} bytes; at most {MAX_TOKEN_BYTES} are taken")]
    TooLong(usize),
    /// Not three base64url parts, or claims that RFC 9068 asks for are missing.
    #[error("this is no RFC 9068 access token: {0}")]
    Malformed(#[source] jsonwebtoken::errors::Error),
    /// `exp` is not after `iat`.
    #[error("the token's life is empty: iat {iat}, exp {exp}")]
    EmptyLife {
        /// Issued at, seconds since 1970.
        iat: u64,
        /// Expires at, seconds since 1970.
        exp: u64,
    },
    /// `nbf` is well after `iat`: no broker takes it yet.
    #[error("the token is good from {nbf} on, {} s after it was issued: no broker takes it before", nbf - iat)]
    NotYet {
        /// Issued at, seconds since 1970.
        iat: u64,
        /// Not before, seconds since 1970.
        nbf: u64,
    },
}

/// The claims of an access token (RFC 9068, section 2.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The issuer.
    pub iss: String,
    /// Whom it stands for: a device id, or a subscriber's client id.
    pub sub: String,
    /// The broker it is for; exactly one.
    pub aud: String,
    /// Who asked for it: the gateway, or the subscriber itself.
    pub client_id: String,
    /// Issued at, seconds since 1970.
    pub iat: u64,
    /// Expires at, seconds since 1970.
    pub exp: u64,
    /// Not good before, seconds since 1970; from its issue on when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<u64>,
    /// Its own id, for the deny list.
    pub jti: String,
    /// Scopes, separated by spaces; empty where the issuer granted none of those that were asked for, and said 200.
    #[serde(default)]
    pub scope: String,
    /// What the broker enforces.
    #[serde(default)]
    pub claw_aif: Topics,
    /// From where it may be used, as CIDR ranges; from anywhere when absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "limits::few")]
    pub claw_addresses: Vec<AddressRange>,
    /// Publishes a second that it allows; absent for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claw_rate: Option<NonZeroU32>,
    /// The stage it is good in. Not every server sets it: its issuer and its audience are of one stage anyway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claw_stage: Option<Stage>,
    /// Who may show it; whoever has it when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cnf: Option<Confirmation>,
    /// Who acts for whom it stands for (RFC 8693, section 4.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub act: Option<Actor>,
}

impl Claims {
    /// The certificate that must be shown with the token.
    #[must_use]
    pub fn certificate(&self) -> Option<&Thumbprint> {
        self.cnf.as_ref()?.certificate.as_ref()
    }

    /// How long it is not good yet at `now`, in seconds. Between a broker's clock and an issuer's there is a tolerance.
    pub(crate) fn early(&self, now: u64) -> Option<u64> {
        self.nbf?.checked_sub(now).filter(|early| *early > CLOCK_TOLERANCE.as_secs())
    }

    /// What the token is limited to.
    #[must_use]
    pub fn limits(&self) -> Limits {
        let mut addresses = self.claw_addresses.clone();
        addresses.sort_unstable();
        addresses.dedup();
        Limits { addresses, per_second: self.claw_rate }
    }
}

/// The party that acts for a token's subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// Its id.
    pub sub: String,
}

/// A token as it came from its issuer.
#[derive(Clone)]
pub struct AccessToken {
    jwt: Secret<String>,
    claims: Claims,
    received: Duration,
    expires: Duration,
}

impl AccessToken {
    /// Reads a token that was just issued. Its life starts now on the boot clock, whatever the wall clock says; where
    /// that agrees with the issuer's, it starts with what is really left of it.
    ///
    /// The signature is not checked: that is the broker's part; the issuer's answer is compared with the request.
    ///
    /// # Errors
    /// [`TokenError`] when it is too long, not a JWT with RFC 9068's claims, or dead on arrival.
    pub fn received(jwt: String, clock: &Clock) -> Result<Self, TokenError> {
        if jwt.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLong(jwt.len()));
        }
        let claims: Claims = jsonwebtoken::dangerous::insecure_decode_claims(&jwt).map_err(TokenError::Malformed)?;
        let life = claims
            .exp
            .checked_sub(claims.iat)
            .filter(|life| *life > 0)
            .ok_or(TokenError::EmptyLife { iat: claims.iat, exp: claims.exp })?;
        // By the issuer's own times: the clock here may be any.
        if let Some(nbf) = claims.nbf.filter(|_| claims.early(claims.iat).is_some()) {
            return Err(TokenError::NotYet { iat: claims.iat, nbf });
        }
        let received = clock.boot();
        let expires = received.saturating_add(left_of(Duration::from_secs(life), &claims, clock.wall()));
        Ok(Self { jwt: Secret::new(jwt), claims, received, expires })
    }

    /// A credential that is no JWT, with what is known of it. Its life starts now on the boot clock.
    pub(super) fn opaque(text: String, claims: Claims, clock: &Clock) -> Self {
        let received = clock.boot();
        let expires = received.saturating_add(Duration::from_secs(claims.exp.saturating_sub(claims.iat)));
        Self { jwt: Secret::new(text), claims, received, expires }
    }

    /// The same token, expiring no later than `left` from its receipt.
    pub(super) fn living_at_most(mut self, left: Duration) -> Self {
        self.expires = self.expires.min(self.received.saturating_add(left));
        self
    }

    /// The same token with the topics that its issuer left to be derived.
    pub(super) fn with_topics(mut self, topics: Topics) -> Self {
        self.claims.claw_aif = topics;
        self
    }

    /// The JWT, for the broker and for nobody else.
    #[must_use]
    pub fn bearer(&self) -> &str {
        self.jwt.expose()
    }

    /// Its claims.
    #[must_use]
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// Its own id.
    #[must_use]
    pub fn jti(&self) -> &str {
        &self.claims.jti
    }

    /// From receipt to expiry.
    #[must_use]
    pub fn life(&self) -> Duration {
        self.expires.saturating_sub(self.received)
    }

    /// Time left; zero when it is expired.
    #[must_use]
    pub(crate) fn left(&self, clock: &Clock) -> Duration {
        self.expires.saturating_sub(clock.boot())
    }

    /// By how much the issuer's clock and the one here differ (issuer's time minus ours, seconds), where the token is of
    /// no time that this machine knows: it has ended, or was not issued yet. A broker with the right time may refuse it,
    /// and so it would the next one.
    #[must_use]
    pub(crate) fn clock_off(&self, clock: &Clock) -> Option<i64> {
        let wall = clock.wall();
        let at_receipt = wall.saturating_sub(clock.boot().saturating_sub(self.received));
        let has_ended = wall >= Duration::from_secs(self.claims.exp);
        let is_to_come = Duration::from_secs(self.claims.iat) > at_receipt.saturating_add(CLOCK_TOLERANCE);
        let difference = self.claims.iat.cast_signed().saturating_sub(at_receipt.as_secs().cast_signed());
        (has_ended || is_to_come).then_some(difference)
    }

    /// Whether it permits `action` on `topic`, so that what the broker would refuse is never sent.
    #[must_use]
    pub fn allows(&self, topic: &str, action: Action) -> bool {
        self.claims.claw_aif.allows(topic, action)
    }
}

/// What is left of a token's life at its receipt. `iat` is cut to a second and the answer took its time, so that the
/// broker ends a token up to seconds before `life` from now: of a short one that is much. The wall clock knows better
/// where it shows a time in the token's first half; any other is one that somebody turned.
fn left_of(life: Duration, claims: &Claims, wall: Duration) -> Duration {
    match wall.checked_sub(Duration::from_secs(claims.iat)) {
        Some(gone) if gone < life / 2 => life.saturating_sub(gone),
        _ => life,
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccessToken(sub {:?}, jti {:?})", self.claims.sub, self.claims.jti)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::key::SigningKey;

    const ISSUED: u64 = 1_700_000_000;

    fn received(more: &serde_json::Value, clock: &Clock) -> Result<AccessToken, TokenError> {
        let mut claims = serde_json::json!({
            "iss": "i", "sub": "pump-3", "aud": "claw", "client_id": "g", "jti": "x", "scope": "",
            "iat": ISSUED, "exp": ISSUED + 4,
        });
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        AccessToken::received(SigningKey::generate().unwrap().sign("at+jwt", &claims).unwrap(), clock)
    }

    fn left_at(wall: Duration) -> Duration {
        let clock = Clock::manual(wall);
        received(&serde_json::json!({}), &clock).unwrap().left(&clock)
    }

    #[test]
    fn a_token_that_is_good_only_later_is_not_taken_whatever_the_clock_here_says() {
        for wall in [0, ISSUED, ISSUED + 100] {
            let clock = Clock::manual(Duration::from_secs(wall));
            let from = |nbf: u64| received(&serde_json::json!({ "nbf": nbf, "exp": ISSUED + 600 }), &clock);
            for good in [0, ISSUED, ISSUED + 30] {
                from(good).unwrap();
            }
            let refused = from(ISSUED + 31).unwrap_err();
            assert!(refused.to_string().contains("31 s after it was issued"), "{refused}");
            assert!(received(&serde_json::json!({ "nbf": "soon" }), &clock).is_err());
        }
    }

    #[test]
    fn a_token_has_left_what_the_broker_gives_it_and_all_of_its_life_where_the_clock_was_turned() {
        let issued = Duration::from_secs(ISSUED);
        let life = Duration::from_secs(4);
        assert_eq!(left_at(issued + Duration::from_millis(900)), Duration::from_millis(3100), "iat is cut to a second");
        assert_eq!(left_at(issued + Duration::from_millis(1999)), Duration::from_millis(2001));
        for turned in [issued + Duration::from_secs(2), issued + Duration::from_secs(86_400), Duration::ZERO] {
            assert_eq!(left_at(turned), life);
        }
        assert_eq!(left_at(issued.saturating_sub(Duration::from_millis(1))), life);
    }
}
