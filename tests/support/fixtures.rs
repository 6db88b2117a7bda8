//! What tests ask an issuer for, and how they connect with it.
#![allow(dead_code, reason = "each test file uses its part of it")]

use std::time::Duration;

use clawgate::token::local::Mint;
use clawgate::token::scope::{Action, Scope, TELEMETRY_READ, Topics};
use clawgate::token::{Limits, Stage, TokenRequest};

/// What all devices of all gateways send.
pub(crate) const ALL: &str = "claw/v1/default/+/+/up/#";

/// A token of a gateway's device, to send readings with.
pub(crate) fn request(gateway: &str, device: &str, life_s: u64) -> TokenRequest {
    TokenRequest {
        tenant: "default".to_owned(),
        gateway: gateway.to_owned(),
        device: device.parse().unwrap(),
        scope: vec![Scope::TelemetryWrite],
        life: Duration::from_secs(life_s),
        audience: "claw".to_owned(),
        limits: Limits::default(),
        stage: Stage::default(),
    }
}

/// A token of `dash`, to subscribe to these with.
pub(crate) fn reader(filters: &[&str], life_s: u64) -> Mint {
    Mint {
        sub: "dash".to_owned(),
        client_id: "dash".to_owned(),
        audience: "claw".to_owned(),
        scope: TELEMETRY_READ.to_owned(),
        topics: Topics::new(filters.iter().map(|filter| ((*filter).to_owned(), vec![Action::Subscribe])).collect()),
        life: Duration::from_secs(life_s),
        limits: Limits::default(),
        certificate: None,
    }
}

/// Does what has to be done with a token that ends soon, given its life in seconds: a short one where the machine is quick
/// enough for it, and a longer one where the first was over too early.
pub(crate) async fn before_it_ends<T>(mut attempt: impl AsyncFnMut(u64) -> Option<T>) -> T {
    for life_s in [3, 6, 15, 60] {
        if let Some(done) = attempt(life_s).await {
            return done;
        }
    }
    panic!("every token was over before it was used");
}
