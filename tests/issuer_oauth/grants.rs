//! The ways to ask for a token that need no person, and what is refused.

use std::sync::Arc;
use std::time::Duration;

use clawgate::ids::DeviceId;
use clawgate::token::oauth::Grant;
use clawgate::token::scope::{Action, Scope};
use clawgate::token::{Issuer as _, Remedy, TokenRequest};

use super::server::{AUDIENCE, Site, request};

#[tokio::test]
async fn a_gateway_gets_a_token_of_its_device_by_its_own_rights_and_by_its_word() {
    let site = Site::start();
    for grant in [Grant::ClientCredentials, Grant::TokenExchange] {
        let token = site.client(grant, &Arc::default()).issue(&request("pump-3")).await.unwrap();
        let claims = token.claims();
        assert_eq!((claims.sub.as_str(), claims.aud.as_str(), claims.client_id.as_str()), ("pump-3", AUDIENCE, "gw-1"));
        assert!(token.allows("claw/v1/default/gw-1/pump-3/up/telemetry", Action::Publish));
        assert!(!token.allows("claw/v1/default/gw-1/pump-4/up/telemetry", Action::Publish));
        assert_eq!(claims.exp - claims.iat, 300);
        // What it took to come is gone of it.
        assert!(token.life() <= Duration::from_secs(300) && token.life() > Duration::from_secs(200));
        assert!(site.good_at_the_broker(&token), "{grant:?}");
        let acts = claims.act.as_ref().map(|act| act.sub.as_str());
        assert_eq!(acts, (grant == Grant::TokenExchange).then_some("gw-1"), "who acts is said, {grant:?}");
    }
}

#[tokio::test]
async fn another_gateways_device_an_unknown_audience_and_an_unknown_scope_are_refused_with_the_servers_words() {
    let site = Site::start();
    for grant in [Grant::ClientCredentials, Grant::TokenExchange, Grant::DeviceCode] {
        let client = site.client(grant, &Arc::default());
        let refused = client.issue(&request("fan-1")).await.unwrap_err();
        assert_eq!(refused.remedy(), Remedy::Quarantine, "{grant:?}: {refused}");
        assert!(refused.to_string().contains(&site.url), "{refused}");
        let elsewhere = TokenRequest { audience: "urn:claw:other".to_owned(), ..request("pump-3") };
        if grant != Grant::TokenExchange {
            let refused = client.issue(&elsewhere).await.unwrap_err();
            assert!(refused.to_string().contains("invalid_target"), "{grant:?}: {refused}");
        }
    }
    // A server that grants less than was asked says so with 200: what came is compared.
    let client = site.client(Grant::ClientCredentials, &Arc::default());
    let more = TokenRequest { scope: vec![Scope::TelemetryWrite, Scope::CommandRead], ..request("pump-3") };
    assert!(client.issue(&more).await.is_ok());
}

#[tokio::test]
async fn a_gateway_gets_a_token_of_its_own_by_its_own_rights_however_it_gets_its_devices() {
    let site = Site::start();
    let own = TokenRequest {
        device: DeviceId::gateway(),
        scope: vec![Scope::StatusWrite, Scope::CommandRead],
        ..request("pump-3")
    };
    for grant in [Grant::ClientCredentials, Grant::TokenExchange, Grant::DeviceCode] {
        let token = site.client(grant, &Arc::default()).issue(&own).await.unwrap();
        assert_eq!(token.claims().sub, "_gateway", "{grant:?}");
        assert!(token.allows("claw/v1/default/gw-1/_gateway/up/status", Action::Publish));
        assert!(token.allows("claw/v1/default/gw-1/_gateway/down/cmd/+", Action::Subscribe));
        assert!(!token.allows("claw/v1/default/gw-1/pump-3/up/telemetry", Action::Publish));
        assert!(site.good_at_the_broker(&token), "{grant:?}");
    }
}
