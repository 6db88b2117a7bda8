//! Every refusal that the standards and this server know: what it means for the device, and whose words are told.

use std::sync::Arc;
use std::time::Duration;

use clawgate::token::key::SigningKey;
use clawgate::token::oauth::{Grant, OauthIssuer, OauthOptions};
use clawgate::token::scope::Scope;
use clawgate::token::{Issuer as _, IssuerError, Remedy, TokenRequest};
use serde_json::json;

use super::server::{Shelf, Site, approval, approved, request};

const AGAIN: Remedy = Remedy::Retry(None);

fn site(is: &serde_json::Value) -> Site {
    Site::that(SigningKey::generate().unwrap(), is)
}

#[tokio::test]
async fn each_error_of_the_server_pauses_the_device_or_is_asked_again() {
    let answers = [
        // RFC 6749, section 5.2: of the gateway or of its way to ask, or of this device.
        ("InvalidRequest", "invalid_request", AGAIN),
        ("InvalidClient", "invalid_client", AGAIN),
        ("InvalidClientAuth", "invalid_client", AGAIN),
        ("UnauthorizedClient", "unauthorized_client", AGAIN),
        ("UnsupportedGrantType", "unsupported_grant_type", AGAIN),
        ("InvalidGrant", "invalid_grant", Remedy::Quarantine),
        ("InvalidScope", "invalid_scope", Remedy::Quarantine),
        // RFC 8707, RFC 9396, RFC 6749, section 4.1.2.1.
        ("InvalidTarget", "invalid_target", Remedy::Quarantine),
        ("InvalidAuthorizationDetails", "invalid_authorization_details", Remedy::Quarantine),
        ("AccessDenied", "access_denied", Remedy::Quarantine),
        // What this client never asks for, and a server may want all the same (RFC 9449, RFC 9470).
        ("InvalidDpopProof", "invalid_dpop_proof", Remedy::Quarantine),
        ("UseDpopNonce", "use_dpop_nonce", Remedy::Quarantine),
        ("UnmetAuthenticationRequirements", "unmet_authentication_requirements", Remedy::Quarantine),
        // In trouble itself: told by its status and its words.
        ("TemporarilyUnavailable", "TemporarilyUnavailable it is", AGAIN),
        ("a bug of the server", "answered 500", AGAIN),
    ];
    let throws: serde_json::Map<_, _> =
        answers.iter().enumerate().map(|(number, (name, ..))| (format!("d{number}"), json!(name))).collect();
    let site = site(&json!({ "throws": throws }));
    let client = site.client(Grant::ClientCredentials, &Arc::default());
    for (number, (name, told, remedy)) in answers.into_iter().enumerate() {
        let refused = client.issue(&request(&format!("d{number}"))).await.unwrap_err();
        let words = refused.to_string();
        assert_eq!(refused.remedy(), remedy, "{name}: {words}");
        assert!(words.contains(told) && words.contains(&site.url), "{name}: {words}");
    }
}

#[tokio::test]
async fn a_gateway_that_is_not_known_or_may_not_ask_so_is_no_fault_of_its_devices() {
    let site = site(&json!({}));
    let stranger = OauthOptions { key: SigningKey::generate().unwrap(), ..site.options() };
    let nobody = OauthOptions { client_id: "gw-9".to_owned(), ..site.options() };
    for options in [stranger, nobody] {
        let client = OauthIssuer::new(options, clawgate::clock::Clock::system()).unwrap();
        for refused in [
            client.issue(&request("pump-3")).await.map(drop).unwrap_err(),
            client.revoke(&request("pump-3"), Some(&site.token("pump-3").await), "sold").await.unwrap_err(),
        ] {
            assert!(matches!(&refused, IssuerError::Refused { status: 401, .. }), "{refused}");
            assert!(refused.remedy() == AGAIN && refused.to_string().contains("invalid_client"), "{refused}");
        }
    }
    // This server says `invalid_request` of what RFC 6749 calls an `unauthorized_client`.
    let key = SigningKey::generate().unwrap();
    let clients = json!({ "gw-1": { "jwk": key.public(), "devices": ["pump-3"], "grants": ["client_credentials"] } });
    let limited = Site::that(key, &json!({ "clients": clients }));
    let unknown = self::site(&json!({ "no_exchange": true }));
    for (site, code) in [(limited, "invalid_request"), (unknown, "unsupported_grant_type")] {
        let refused = site.client(Grant::TokenExchange, &Arc::default()).issue(&request("pump-3")).await.unwrap_err();
        assert!(refused.remedy() == AGAIN && refused.to_string().contains(code), "{refused}");
    }
}

#[tokio::test]
async fn less_than_what_was_asked_for_is_refused_or_found_out() {
    let both = TokenRequest { scope: vec![Scope::TelemetryWrite, Scope::CommandRead], ..request("pump-3") };
    let key = SigningKey::generate().unwrap();
    let clients = json!({ "gw-1": { "jwk": key.public(), "devices": ["pump-3"], "scope": "telemetry:write" } });
    let site = Site::that(key, &json!({ "clients": clients }));
    for grant in [Grant::ClientCredentials, Grant::DeviceCode] {
        let refused = site.client(grant, &Arc::default()).issue(&both).await.unwrap_err();
        assert!(refused.to_string().contains("invalid_scope"), "{grant:?}: {refused}");
        assert_eq!(refused.remedy(), Remedy::Quarantine, "{grant:?}");
    }
    // These answer 200.
    for grants_only in ["telemetry:write", "other"] {
        let site = self::site(&json!({ "grants_only": grants_only }));
        let refused = site.client(Grant::ClientCredentials, &Arc::default()).issue(&both).await.unwrap_err();
        assert!(matches!(&refused, IssuerError::Mismatch { claim: "scope", .. }), "{grants_only}: {refused}");
        assert_eq!(refused.remedy(), Remedy::Quarantine);
    }
}

#[tokio::test]
async fn each_answer_about_an_approval_goes_on_or_ends_it() {
    let site = site(&json!({}));
    let five = Duration::from_secs(5);
    for (error, goes_on) in [
        // RFC 8628, section 3.5.
        ("authorization_pending", Some(five)),
        ("slow_down", Some(five * 2)),
        ("access_denied", None),
        ("expired_token", None),
        // It forgot the approval.
        ("invalid_grant", None),
    ] {
        let client = site.client(Grant::DeviceCode, &Arc::default());
        let asked = approval(client.issue(&request("pump-3")).await);
        site.person(&format!("deny?user_code={}&error={error}", asked.code)).await;
        match (client.issue(&request("pump-3")).await.unwrap_err(), goes_on) {
            (IssuerError::Approval { poll, approval }, Some(expected)) => {
                assert_eq!((poll, &approval.code), (expected, &asked.code), "{error}");
            }
            (ended @ IssuerError::NotApproved { .. }, None) => {
                assert!(ended.to_string().contains(error), "{ended}");
                assert_eq!(ended.remedy(), Remedy::Quarantine, "{error}");
            }
            (other, _) => panic!("{error}: {other}"),
        }
    }
    // Nothing that a person said: the gateway's registration.
    let client = site.client(Grant::DeviceCode, &Arc::default());
    let asked = approval(client.issue(&request("pump-3")).await);
    site.person(&format!("deny?user_code={}&error=unauthorized_client", asked.code)).await;
    let refused = client.issue(&request("pump-3")).await.unwrap_err();
    assert!(matches!(refused, IssuerError::Refused { .. }) && refused.remedy() == AGAIN, "{refused}");
}

#[tokio::test]
async fn a_server_that_says_slow_down_again_is_asked_less_often_again() {
    let site = site(&json!({}));
    let client = site.client(Grant::DeviceCode, &Arc::default());
    let asked = approval(client.issue(&request("pump-3")).await);
    let mut polls = Vec::new();
    for error in ["slow_down", "slow_down", "authorization_pending", "slow_down"] {
        site.person(&format!("deny?user_code={}&error={error}", asked.code)).await;
        match client.issue(&request("pump-3")).await.unwrap_err() {
            IssuerError::Approval { poll, approval } if approval.code == asked.code => polls.push(poll.as_secs()),
            other => panic!("{error}: {other}"),
        }
    }
    assert_eq!(polls, [10, 15, 15, 20], "five seconds more each time (RFC 8628, section 3.5), and never less again");
}

#[tokio::test]
async fn an_approval_that_nobody_gives_and_one_that_is_too_old_end() {
    let (hasty, forgetful) = (site(&json!({ "approval_s": 1 })), site(&json!({ "refresh_s": 1 })));
    let nobody = hasty.client(Grant::DeviceCode, &Arc::default());
    approval(nobody.issue(&request("pump-4")).await);
    let shelf = Arc::<Shelf>::default();
    let client = approved(&forgetful, &shelf).await;
    // What one asks for and what the other gave live for a second.
    let (mut ended, mut refused) = (None, None);
    while ended.is_none() || refused.is_none() {
        tokio::time::sleep(Duration::from_millis(1200)).await;
        ended = ended.or(client.issue(&request("pump-3")).await.err());
        refused = refused.or(nobody
            .issue(&request("pump-4"))
            .await
            .err()
            .filter(|error| !matches!(error, IssuerError::Approval { .. })));
    }
    let (ended, refused) = (ended.unwrap(), refused.unwrap());
    assert!(matches!(&ended, IssuerError::ApprovalEnded { .. }), "{ended}");
    assert!(shelf.kept.lock().unwrap().is_empty(), "a dead refresh token is kept");
    assert!(matches!(&refused, IssuerError::NotApproved { .. }), "{refused}");
    assert!(refused.to_string().contains("expired_token"), "{refused}");
}
