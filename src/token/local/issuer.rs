//! Mints and revokes the tokens of a site with a key of its own.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;

use super::handed::Ledger;
use super::{Deed, DenyError, DenyList, Handed, IssuerTime, KeyRing, KeySource, RingError, RingState};
use crate::clock::Clock;
use crate::token::key::{Jwks, KeyError, SigningKey};
use crate::token::scope::{self, Topics};
use crate::token::vendor::{ClaimForm, Signed};
use crate::token::verify::Verifier;
use crate::token::{
    AccessToken, CLOCK_TOLERANCE, Claims, Issuer, IssuerError, Limits, Stage, Thumbprint, TokenFuture, TokenRequest,
};

/// A token never lives longer, whatever is asked: it bounds the deny list and what a stolen token is worth.
const MAX_LIFE: Duration = Duration::from_secs(24 * 3600);

/// The issuer of standalone mode and of `clawgate issuer serve`. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LocalIssuer {
    name: String,
    ring: KeyRing,
    deny: DenyList,
    time: IssuerTime,
    clock: Clock,
    stage: Stage,
    form: ClaimForm,
    certificate: Option<Thumbprint>,
    handed: Ledger,
}

/// What a token shall say.
#[derive(Debug, Clone)]
pub struct Mint {
    /// Whom it stands for.
    pub sub: String,
    /// Who asked for it.
    pub client_id: String,
    /// The broker it is for.
    pub audience: String,
    /// Scopes as the claim carries them.
    pub scope: String,
    /// What the broker enforces.
    pub topics: Topics,
    /// How long it lives; capped at a day.
    pub life: Duration,
    /// From where it may be used, and how often.
    pub limits: Limits,
    /// Whose certificate must come with it; anybody may show it without.
    pub certificate: Option<Thumbprint>,
}

impl LocalIssuer {
    /// An issuer that calls itself `name` (the `iss` claim), with one key for ever, of the stage prod.
    #[must_use]
    pub fn new(name: &str, key: SigningKey, deny: DenyList, clock: Clock) -> Self {
        Self::with_ring(name, KeyRing::of_one(key), deny, clock)
    }

    /// The same with keys that change.
    #[must_use]
    pub(crate) fn with_ring(name: &str, ring: KeyRing, deny: DenyList, clock: Clock) -> Self {
        let behind_s = deny.time_floor().saturating_sub(clock.wall().as_secs());
        if behind_s > CLOCK_TOLERANCE.as_secs() {
            tracing::warn!(
                behind_s,
                "the clock is behind the issuer's last revocation, and tokens are dated by that: set the clock if it is \
                 wrong; if it was ahead then, see \"a clock that was ahead\" in issuers.md"
            );
        }
        let time = IssuerTime::starting_at(deny.time_floor(), clock.clone());
        let (stage, form) = (Stage::default(), ClaimForm::default());
        Self {
            name: name.to_owned(),
            ring,
            deny,
            time,
            clock,
            stage,
            form,
            certificate: None,
            handed: Ledger::default(),
        }
    }

    /// The same issuer for another stage; its name and key should be that stage's alone.
    #[must_use]
    pub(crate) fn of_stage(mut self, stage: Stage) -> Self {
        self.stage = stage;
        self
    }

    /// The same issuer, whose tokens say what they allow in a broker's own words too.
    #[must_use]
    pub fn with_claims(mut self, form: ClaimForm) -> Self {
        self.form = form;
        self
    }

    /// The same issuer, whose tokens for devices only the holder of this certificate may show.
    #[must_use]
    pub fn bound_to(mut self, certificate: Option<Thumbprint>) -> Self {
        self.certificate = certificate;
        self
    }

    /// The one stage that its tokens are good in.
    #[must_use]
    pub(crate) fn stage(&self) -> Stage {
        self.stage
    }

    /// A signed token.
    ///
    /// # Errors
    /// [`KeyError`] when there is no randomness or the signature fails.
    pub fn mint(&self, wanted: Mint) -> Result<String, KeyError> {
        self.make(wanted).map(|(token, _)| token)
    }

    /// The same for a client of the endpoints: it is noted for the audit log.
    ///
    /// # Errors
    /// As [`Self::mint`].
    pub(crate) fn hand_out(&self, wanted: Mint) -> Result<String, KeyError> {
        let (token, claims) = self.make(wanted)?;
        let life = Duration::from_secs(claims.exp.saturating_sub(claims.iat));
        self.note(claims.client_id, claims.sub, Deed::Issued { jti: claims.jti, life });
        Ok(token)
    }

    fn make(&self, wanted: Mint) -> Result<(String, Claims), KeyError> {
        let mut id = [0_u8; 16];
        getrandom::fill(&mut id).map_err(KeyError::Random)?;
        // Seconds are coarse: a token made in the second of a revocation must be told from the revoked ones.
        let after_cut = self.deny.cut_of(&wanted.client_id, &wanted.sub).map_or(0, |cut| cut.saturating_add(1));
        let now = self.time.now();
        let iat = now.max(after_cut);
        let life = wanted.life.min(MAX_LIFE).max(Duration::from_secs(1));
        let claims = Claims {
            iss: self.name.clone(),
            sub: wanted.sub,
            aud: wanted.audience,
            client_id: wanted.client_id,
            iat,
            exp: iat.saturating_add(life.as_secs()),
            nbf: None,
            jti: BASE64URL.encode(id),
            scope: wanted.scope,
            claw_aif: wanted.topics,
            claw_addresses: wanted.limits.addresses,
            claw_rate: wanted.limits.per_second,
            claw_stage: Some(self.stage),
            cnf: wanted.certificate.map(Thumbprint::into),
            act: None,
        };
        let token = self.ring.sign("at+jwt", &Signed::new(&claims, self.form), life, now)?;
        Ok((token, claims))
    }

    fn note(&self, client: String, subject: String, what: Deed) {
        self.handed.note(Handed { client, subject, at: self.clock.boot(), what });
    }

    /// What clients of the endpoints were given and had taken back since the last call, and how much there was no room for.
    pub(crate) fn take_handed(&self) -> (Vec<Handed>, u64) {
        self.handed.take()
    }

    /// Denies everything that `client` was given for `subject` until now, durably.
    ///
    /// # Errors
    /// [`DenyError`] when it could not be kept.
    pub(crate) fn deny_subject(&self, client: &str, subject: &str) -> Result<(), DenyError> {
        self.deny.deny_subject(client, subject, self.time.now(), MAX_LIFE)
    }

    /// The same where a client of the endpoints asks for it: it is noted for the audit log.
    ///
    /// # Errors
    /// As [`Self::deny_subject`].
    pub(crate) fn take_back(&self, client: &str, subject: &str) -> Result<(), DenyError> {
        self.deny_subject(client, subject)?;
        self.note(client.to_owned(), subject.to_owned(), Deed::Revoked);
        Ok(())
    }

    /// Who it says it is.
    #[must_use]
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The public keys that its tokens are checked with.
    #[must_use]
    pub fn jwks(&self) -> Jwks {
        self.ring.jwks(self.time.now())
    }

    /// The keys that it signs with.
    #[must_use]
    pub fn ring(&self) -> &KeyRing {
        &self.ring
    }

    /// Signs with a new key from now on, and takes no token under another: somebody else may know the old ones.
    ///
    /// # Errors
    /// [`RingError`]; nothing was changed then.
    pub fn replace_keys(&self) -> Result<RingState, RingError> {
        let state = self.ring.replace(self.time.now())?;
        self.deny.wake();
        Ok(state)
    }

    /// What was revoked.
    #[must_use]
    pub fn deny_list(&self) -> &DenyList {
        &self.deny
    }

    /// The issuer's time, seconds since 1970.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.time.now()
    }

    /// A verifier of its tokens for one audience; it follows the keys as they change.
    ///
    /// # Errors
    /// [`KeyError::NoPublicKey`] when its own key is unusable.
    pub fn verifier(&self, audience: &str) -> Result<Verifier, KeyError> {
        for key in self.jwks().keys {
            key.decoding()?;
        }
        let keys = KeySource::Ring(self.ring.clone());
        Ok(Verifier::of(keys, &self.name, audience, self.deny.clone(), self.time.clone()))
    }
}

impl Issuer for LocalIssuer {
    fn issue<'a>(&'a self, request: &'a TokenRequest) -> TokenFuture<'a, AccessToken> {
        Box::pin(async move {
            if request.stage != self.stage {
                let (asked, own) = (request.stage, self.stage);
                return Err(IssuerError::Local(format!("a token of {asked} was asked of the issuer of {own}")));
            }
            let jwt = self
                .mint(Mint {
                    sub: request.device.to_string(),
                    client_id: request.gateway.clone(),
                    audience: request.audience.clone(),
                    scope: scope::to_claim(&request.scope),
                    topics: request.topics(),
                    life: request.life,
                    limits: request.limits.clone(),
                    certificate: self.certificate.clone(),
                })
                .map_err(|error| IssuerError::Local(error.to_string()))?;
            AccessToken::received(jwt, &self.clock).map_err(|error| IssuerError::Local(error.to_string()))
        })
    }

    fn revoke<'a>(
        &'a self,
        request: &'a TokenRequest,
        _current: Option<&'a AccessToken>,
        _why: &'a str,
    ) -> TokenFuture<'a, ()> {
        Box::pin(async move {
            let (issuer, client, subject) = (self.clone(), request.gateway.clone(), request.device.to_string());
            // The list is fsynced: off the async threads.
            tokio::task::spawn_blocking(move || issuer.deny_subject(&client, &subject))
                .await
                .map_err(|error| IssuerError::Local(error.to_string()))?
                .map_err(|error| IssuerError::Local(error.to_string()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::scope::{Action, Scope};
    use crate::token::verify::Refusal;

    fn request() -> TokenRequest {
        TokenRequest {
            tenant: "t".to_owned(),
            gateway: "g".to_owned(),
            device: "pump-3".parse().unwrap(),
            scope: vec![Scope::TelemetryWrite],
            life: Duration::from_secs(60),
            audience: "broker".to_owned(),
            limits: Limits::default(),
            stage: Stage::default(),
        }
    }

    fn issuer(clock: &Clock) -> LocalIssuer {
        LocalIssuer::new("urn:test", SigningKey::generate().unwrap(), DenyList::in_memory(), clock.clone())
    }

    #[tokio::test]
    async fn a_token_is_good_until_its_last_second_and_not_in_the_next() {
        let clock = Clock::manual(Duration::from_secs(1_000_000));
        let issuer = issuer(&clock);
        let token = issuer.issue(&request()).await.unwrap();
        let verifier = issuer.verifier("broker").unwrap();
        assert!(token.allows("claw/v1/t/g/pump-3/up/telemetry", Action::Publish));
        clock.advance(Duration::from_secs(59));
        assert_eq!(verifier.verify(token.bearer().as_bytes()).unwrap(), *token.claims());
        clock.advance(Duration::from_secs(1));
        assert!(matches!(verifier.verify(token.bearer().as_bytes()), Err(Refusal::Expired(0))));
        assert_eq!(token.left(&clock), Duration::ZERO);
    }

    #[tokio::test]
    async fn a_token_for_another_broker_issuer_or_type_is_refused() {
        let clock = Clock::manual(Duration::from_secs(1_000_000));
        let ours = issuer(&clock);
        let token = ours.issue(&request()).await.unwrap();
        let elsewhere = ours.verifier("other-broker").unwrap();
        assert!(matches!(elsewhere.verify(token.bearer().as_bytes()), Err(Refusal::Invalid(_))));
        let other_key = issuer(&clock).verifier("broker").unwrap();
        assert!(matches!(other_key.verify(token.bearer().as_bytes()), Err(Refusal::Invalid(_))));
        let plain_jwt = ours.ring.sign("JWT", token.claims(), MAX_LIFE, 1_000_000).unwrap();
        assert!(matches!(ours.verifier("broker").unwrap().verify(plain_jwt.as_bytes()), Err(Refusal::Invalid(_))));
    }

    #[tokio::test]
    async fn every_flipped_byte_makes_a_token_invalid() {
        let clock = Clock::manual(Duration::from_secs(1_000_000));
        let issuer = issuer(&clock);
        let token = issuer.issue(&request()).await.unwrap();
        let verifier = issuer.verifier("broker").unwrap();
        let good = token.bearer().as_bytes();
        // The last character of a base64url part may carry unused bits; every other one counts.
        for at in (0..good.len() - 1).step_by(7) {
            let mut bad = good.to_vec();
            bad[at] = if bad[at] == b'A' { b'B' } else { b'A' };
            assert!(verifier.verify(&bad).is_err(), "byte {at}");
            assert!(verifier.verify(&good[..at]).is_err(), "cut at {at}");
        }
    }

    #[tokio::test]
    async fn revoking_one_device_denies_its_tokens_and_no_others() {
        let clock = Clock::manual(Duration::from_secs(1_000_000));
        let issuer = issuer(&clock);
        let verifier = issuer.verifier("broker").unwrap();
        let (older, newer) = (issuer.issue(&request()).await.unwrap(), issuer.issue(&request()).await.unwrap());
        let other = TokenRequest { device: "pump-4".parse().unwrap(), ..request() };
        let others = issuer.issue(&other).await.unwrap();
        issuer.revoke(&request(), Some(&newer), "test").await.unwrap();
        for revoked in [&older, &newer] {
            assert!(matches!(verifier.verify(revoked.bearer().as_bytes()), Err(Refusal::Revoked)));
        }
        verifier.verify(others.bearer().as_bytes()).unwrap();
        let paired_again = issuer.issue(&request()).await.unwrap();
        verifier.verify(paired_again.bearer().as_bytes()).unwrap();
    }

    #[tokio::test]
    async fn a_device_that_is_revoked_paired_again_and_revoked_within_one_second_stays_out() {
        let clock = Clock::manual(Duration::from_secs(1_000_000));
        let issuer = issuer(&clock);
        let verifier = issuer.verifier("broker").unwrap();
        for _ in 0..3 {
            let token = issuer.issue(&request()).await.unwrap();
            verifier.verify(token.bearer().as_bytes()).unwrap();
            issuer.revoke(&request(), Some(&token), "test").await.unwrap();
            assert!(matches!(verifier.verify(token.bearer().as_bytes()), Err(Refusal::Revoked)));
        }
        let back = issuer.issue(&TokenRequest { life: MAX_LIFE, ..request() }).await.unwrap();
        issuer.revoke(&request(), Some(&back), "test").await.unwrap();
        // Its entry lives as long as it would.
        clock.advance(MAX_LIFE);
        issuer.deny_subject("g", "another").unwrap();
        assert!(verifier.verify(back.bearer().as_bytes()).is_err());
    }

    #[tokio::test]
    async fn a_life_is_capped_at_a_day() {
        let clock = Clock::manual(Duration::from_secs(1_000_000));
        let asked = TokenRequest { life: Duration::from_secs(1 << 40), ..request() };
        assert_eq!(issuer(&clock).issue(&asked).await.unwrap().life(), MAX_LIFE);
    }

    #[test]
    fn what_a_client_of_the_endpoints_is_given_and_has_taken_back_is_noted() {
        let clock = Clock::manual(Duration::from_secs(1_000_000));
        let issuer = issuer(&clock);
        let wanted = Mint {
            sub: "dash".to_owned(),
            client_id: "dash".to_owned(),
            audience: "broker".to_owned(),
            scope: scope::TELEMETRY_READ.to_owned(),
            topics: Topics::new(Vec::new()),
            life: Duration::from_secs(60),
            limits: Limits::default(),
            certificate: None,
        };
        issuer.mint(wanted.clone()).unwrap();
        let token = issuer.clone().hand_out(wanted).unwrap();
        let claims = issuer.verifier("broker").unwrap().verify(token.as_bytes()).unwrap();
        issuer.take_back("dash", "dash").unwrap();
        let (notes, unkept) = issuer.take_handed();
        let what: Vec<_> = notes.into_iter().map(|note| (note.client, note.what)).collect();
        let given = Deed::Issued { jti: claims.jti, life: Duration::from_secs(60) };
        assert_eq!((what, unkept), (vec![("dash".to_owned(), given), ("dash".to_owned(), Deed::Revoked)], 0));
    }
}
