//! Whether what came is what was asked for.

use std::collections::BTreeSet;
use std::num::NonZeroU32;

use super::answer::plain;
use crate::token::scope::{TELEMETRY_READ, to_claim};
use crate::token::{AccessToken, AddressRange, Claims, IssuerError, Thumbprint, TokenRequest};

/// A device's token, if it is that of the device that was asked for.
pub(super) fn device(
    token: AccessToken,
    issuer: &str,
    client_id: &str,
    request: &TokenRequest,
    certificate: Option<&Thumbprint>,
) -> Result<AccessToken, IssuerError> {
    let claims = token.claims();
    same("iss", issuer, claims.iss.trim_end_matches('/'))?;
    same("sub", request.device.as_str(), &claims.sub)?;
    same("aud", &request.audience, &claims.aud)?;
    same("client_id", client_id, &claims.client_id)?;
    let asked = to_claim(&request.scope);
    let (wanted, got): (BTreeSet<_>, BTreeSet<_>) = (asked.split(' ').collect(), claims.scope.split(' ').collect());
    if wanted != got {
        return Err(mismatch("scope", &asked, &claims.scope));
    }
    limits(claims, request)?;
    binding(claims, certificate)?;
    let topics = request.topics();
    if claims.claw_aif.is_empty() {
        // Not every server knows the claim; the rights follow from the scopes then, here as at such a server's broker.
        return Ok(token.with_topics(topics));
    }
    if claims.claw_aif != topics {
        return Err(mismatch("claw_aif", &format!("{topics:?}"), &format!("{:?}", claims.claw_aif)));
    }
    Ok(token)
}

/// A limit that the server left out is kept by no broker: such a token is worth more than what was granted. The stage
/// may be left out: a server that does not know the claim is of one stage by its name and its audience.
fn limits(claims: &Claims, request: &TokenRequest) -> Result<(), IssuerError> {
    let stage = claims.claw_stage.unwrap_or(request.stage);
    same("claw_stage", request.stage.as_str(), stage.as_str())?;
    let (asked, got) = (&request.limits, claims.limits());
    let words = |ranges: &[AddressRange]| ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    same("claw_addresses", &words(&asked.addresses), &words(&got.addresses))?;
    let number = |rate: Option<NonZeroU32>| rate.map_or_else(|| "none".to_owned(), |rate| rate.to_string());
    same("claw_rate", &number(asked.per_second), &number(got.per_second))
}

/// A token that is bound to what the gateway cannot show is of no use. One that is bound to nothing is what a server
/// gives that does not know how: it is good for whoever has it, as without a certificate of ours.
fn binding(claims: &Claims, certificate: Option<&Thumbprint>) -> Result<(), IssuerError> {
    let Some(cnf) = &claims.cnf else { return Ok(()) };
    let words = |certificate: Option<&Thumbprint>| certificate.map_or("none", Thumbprint::as_str).to_owned();
    match (certificate, &cnf.certificate) {
        (Some(asked), Some(got)) if asked == got => Ok(()),
        (asked, got) => Err(mismatch("cnf", &words(asked), &words(got.as_ref()))),
    }
}

/// A token that came for the gateway's word names it as the one who acts (RFC 8693, section 4.1).
pub(super) fn actor(token: &AccessToken, client_id: &str) -> Result<(), IssuerError> {
    let actor = token.claims().act.as_ref().map_or("", |act| act.sub.as_str());
    same("act", client_id, actor)
}

/// A subscriber's own token.
pub(super) fn own(token: &AccessToken, issuer: &str, client_id: &str, audience: &str) -> Result<(), IssuerError> {
    let claims = token.claims();
    same("iss", issuer, claims.iss.trim_end_matches('/'))?;
    same("sub", client_id, &claims.sub)?;
    same("aud", audience, &claims.aud)?;
    same("scope", TELEMETRY_READ, &claims.scope)
}

fn same(claim: &'static str, asked: &str, got: &str) -> Result<(), IssuerError> {
    if asked == got { Ok(()) } else { Err(mismatch(claim, asked, got)) }
}

fn mismatch(claim: &'static str, asked: &str, got: &str) -> IssuerError {
    IssuerError::Mismatch { claim, asked: asked.to_owned(), got: plain(got) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Clock;
    use crate::token::key::SigningKey;
    use crate::token::local::{DenyList, LocalIssuer};
    use crate::token::scope::{Scope, Topics};
    use crate::token::{Confirmation, Issuer as _, Limits, Stage};

    const ISSUER: &str = "https://id.example";

    fn request() -> TokenRequest {
        TokenRequest {
            tenant: "t".to_owned(),
            gateway: "g".to_owned(),
            device: "pump-3".parse().unwrap(),
            scope: vec![Scope::TelemetryWrite, Scope::CommandRead],
            life: Duration::from_secs(60),
            audience: "claw".to_owned(),
            limits: Limits::new(vec!["192.0.2.0/24".parse().unwrap()], NonZeroU32::new(5)).unwrap(),
            stage: Stage::default(),
        }
    }

    async fn good_claims() -> Claims {
        let key = SigningKey::generate().unwrap();
        let issuer = LocalIssuer::new(ISSUER, key, DenyList::in_memory(), Clock::system());
        issuer.issue(&request()).await.unwrap().claims().clone()
    }

    fn checked(claims: &Claims) -> Result<AccessToken, IssuerError> {
        let jwt = SigningKey::generate().unwrap().sign("at+jwt", claims).unwrap();
        device(AccessToken::received(jwt, &Clock::system()).unwrap(), ISSUER, "g", &request(), None)
    }

    #[tokio::test]
    async fn a_token_is_bound_to_our_certificate_or_to_none() {
        let thumbprint = |text: &str| serde_json::from_value::<Thumbprint>(text.into()).unwrap();
        let (ours, theirs) = (thumbprint("ours"), thumbprint("theirs"));
        let mut claims = good_claims().await;
        for (cnf, certificate, good) in [
            (None, Some(&ours), true),
            (Some(ours.clone().into()), Some(&ours), true),
            (Some(theirs.into()), Some(&ours), false),
            (Some(ours.clone().into()), None, false),
            (Some(Confirmation { certificate: None }), Some(&ours), false),
        ] {
            claims.cnf = cnf;
            let jwt = SigningKey::generate().unwrap().sign("at+jwt", &claims).unwrap();
            let token = AccessToken::received(jwt, &Clock::system()).unwrap();
            match device(token, ISSUER, "g", &request(), certificate) {
                Ok(_) => assert!(good, "{:?}", claims.cnf),
                Err(error) => assert!(!good && error.to_string().contains("cnf"), "{error}"),
            }
        }
    }

    #[tokio::test]
    async fn a_token_that_differs_in_anything_is_refused() {
        type Change = fn(&mut Claims);
        let good = good_claims().await;
        checked(&good).unwrap();
        let others: [(&str, Change); 11] = [
            ("iss", |claims| claims.iss = "https://evil.example".to_owned()),
            ("sub", |claims| claims.sub = "pump-4".to_owned()),
            ("aud", |claims| claims.aud = "other".to_owned()),
            ("client_id", |claims| claims.client_id = "h".to_owned()),
            ("scope", |claims| claims.scope = String::new()),
            ("claw_aif", |claims| {
                claims.claw_aif = Topics::of_device("t", "g", &"pump-4".parse().unwrap(), &[Scope::TelemetryWrite]);
            }),
            ("claw_addresses", |claims| claims.claw_addresses.clear()),
            ("claw_addresses", |claims| claims.claw_addresses = vec!["192.0.0.0/16".parse().unwrap()]),
            ("claw_rate", |claims| claims.claw_rate = None),
            ("claw_rate", |claims| claims.claw_rate = NonZeroU32::new(6)),
            ("claw_stage", |claims| claims.claw_stage = Some(Stage::Dev)),
        ];
        for (claim, change) in others {
            let mut bad = good.clone();
            change(&mut bad);
            match checked(&bad) {
                Err(IssuerError::Mismatch { claim: named, .. }) => assert_eq!(named, claim),
                other => panic!("{claim}: {other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_token_for_our_word_names_us_as_the_one_who_acts() {
        let mut claims = good_claims().await;
        for (act, good) in [(None, false), (Some("h"), false), (Some("g"), true)] {
            claims.act = act.map(|sub| crate::token::Actor { sub: sub.to_owned() });
            assert_eq!(actor(&checked(&claims).unwrap(), "g").is_ok(), good, "{act:?}");
        }
    }

    #[tokio::test]
    async fn scopes_in_another_order_are_the_same_and_missing_topics_follow_from_them() {
        let mut claims = good_claims().await;
        claims.scope = "command:read telemetry:write".to_owned();
        claims.claw_aif = Topics::default();
        claims.claw_stage = None;
        assert_eq!(checked(&claims).unwrap().claims().claw_aif, request().topics());
    }
}
