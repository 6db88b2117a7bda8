//! Tokens on a live stream: replaced by re-authentication without a gap, cut when they are revoked.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends")]
#![cfg(feature = "standalone")]

#[path = "support/back_half.rs"]
mod back_half;
#[path = "support/fixtures.rs"]
mod fixtures;
#[path = "support/line.rs"]
mod line;
#[path = "support/mqtt_client.rs"]
mod mqtt_client;
#[path = "support/plugin.rs"]
mod plugin;
#[path = "relay_tokens/refresh.rs"]
mod refresh;
mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use back_half::{Gateway, submit};
use clawgate::clock::Clock;
use clawgate::config::Reauth;
use clawgate::relay::RelayState;
use clawgate::standalone::{Broker, BrokerOptions};
use clawgate::token::key::SigningKey;
use clawgate::token::local::{DenyList, LocalIssuer};
use clawgate::token::{AccessToken, Issuer as _, Limits, TokenFeed, TokenRequest, TokenState, TokenWish};
use fixtures::{before_it_ends, reader};
use mqtt_client::{Connect, MqttClient};
use support::{until, within};

struct Site {
    issuer: LocalIssuer,
    broker: Broker,
}

impl Site {
    async fn start() -> Self {
        let key = SigningKey::generate().unwrap();
        let issuer = LocalIssuer::new("urn:clawgate:test", key, DenyList::in_memory(), Clock::system());
        let options = BrokerOptions { listen: "127.0.0.1:0".parse().unwrap(), tls: None, max_clients: 16 };
        let broker = Broker::start(options, issuer.verifier("claw").unwrap()).await.unwrap();
        Self { issuer, broker }
    }

    async fn token(&self, device: &str, life_s: u64) -> Arc<AccessToken> {
        self.limited_token(device, life_s, Limits::default()).await
    }

    async fn limited_token(&self, device: &str, life_s: u64, limits: Limits) -> Arc<AccessToken> {
        Arc::new(token_of(&self.issuer, device, life_s, limits).await)
    }

    async fn feed(&self, device: &str) -> (TokenFeed, clawgate::token::TokenHandle) {
        TokenFeed::new(TokenState::Valid(self.token(device, 600).await))
    }

    async fn subscriber(&self) -> MqttClient {
        subscriber(&self.issuer, self.broker.addr()).await
    }
}

fn request(device: &str, life_s: u64, limits: Limits) -> TokenRequest {
    TokenRequest { limits, ..fixtures::request("site-1", device, life_s) }
}

async fn token_of(issuer: &LocalIssuer, device: &str, life_s: u64, limits: Limits) -> AccessToken {
    issuer.issue(&request(device, life_s, limits)).await.unwrap()
}

async fn subscriber(issuer: &LocalIssuer, broker: SocketAddr) -> MqttClient {
    const ALL: &str = "claw/v1/default/+/+/up/telemetry";
    let token = issuer.mint(reader(&[ALL], 600)).unwrap();
    let client = MqttClient::connect(Connect::to(broker, "dash", &token)).await.unwrap();
    assert_eq!(client.subscribe(ALL).await, "Success(AtLeastOnce)");
    client
}

#[tokio::test]
async fn a_stream_goes_on_through_re_authentications_without_a_loss_or_a_repetition() {
    let site = Site::start().await;
    let mut subscriber = site.subscriber().await;
    let gateway = Gateway::start(site.broker.addr().port(), |_| ());
    let (feed, handle) = site.feed("pump-3").await;
    let lane = gateway.attach_with("pump-3", handle);
    until("it is connected", || gateway.state() == RelayState::Connected).await;
    let mut seq = 0;
    for round in 1..=10 {
        submit(&lane, seq + 1..=seq + 150);
        seq += 150;
        feed.state.send_replace(TokenState::Valid(site.token("pump-3", 600).await));
        submit(&lane, seq + 1..=seq + 50);
        seq += 50;
        until("the broker took the new token", || gateway.relay.status()[0].reauths == round).await;
    }
    for seq in 1..=seq {
        let message = subscriber.next().await;
        let payload = String::from_utf8_lossy(&message.payload).into_owned();
        assert!(payload.contains(&format!("\"v\":{seq}}}")), "{payload} instead of {seq}");
    }
    assert_eq!(gateway.relay.status()[0].connects, 1);
    gateway.stop().await;
    site.broker.stop().await;
}

/// The embedded broker can check such a token only where it comes as password.
#[tokio::test]
async fn a_device_whose_token_the_broker_takes_as_password_only_reconnects_and_its_neighbour_re_authenticates() {
    let site = Site::start().await;
    let gateway = Gateway::start(site.broker.addr().port(), |_| ());
    let here = || Limits::new(vec!["127.0.0.0/8".parse().unwrap()], None).unwrap();
    let first = TokenState::Valid(site.limited_token("pump-3", 600, here()).await);
    let (limited, handle) = TokenFeed::new(first);
    let lane = gateway.attach_with("pump-3", handle);
    let (free, handle) = site.feed("pump-4").await;
    let other = gateway.attach_with("pump-4", handle);
    submit(&lane, 1..=10);
    submit(&other, 1..=10);
    until("both deliver", || gateway.spool.status().depth == 0).await;
    let before = gateway.relay.status()[0].connects;
    limited.state.send_replace(TokenState::Valid(site.limited_token("pump-3", 600, here()).await));
    free.state.send_replace(TokenState::Valid(site.token("pump-4", 600).await));
    until("both have renewed", || {
        let status = gateway.relay.status();
        status[0].connects == before + 1 && status[1].reauths == 1
    })
    .await;
    assert_eq!((gateway.relay.status()[0].reauths, gateway.relay.status()[1].connects), (0, 1));
    gateway.stop().await;
    site.broker.stop().await;
}

/// The same broker, and an operator who wants no token to go as password.
#[tokio::test]
async fn a_token_that_must_not_go_as_password_waits_for_a_broker_that_takes_it_otherwise() {
    let site = Site::start().await;
    let gateway = Gateway::start(site.broker.addr().port(), |options| options.reauth = Reauth::Always);
    let here = Limits::new(vec!["127.0.0.0/8".parse().unwrap()], None).unwrap();
    let token = TokenState::Valid(site.limited_token("pump-3", 600, here).await);
    let (feed, handle) = TokenFeed::new(token);
    let lane = gateway.attach_with("pump-3", handle);
    submit(&lane, 1..=10);
    let waits_again = || gateway.metrics.connects.get() >= 3 && gateway.state() == RelayState::BackingOff;
    until("it waits between attempts", waits_again).await;
    assert!(gateway.last_error().contains("enhanced authentication"), "{}", gateway.last_error());
    assert_eq!((gateway.spool.status().depth, gateway.relay.status()[0].connects), (10, 0));
    // One that the broker can check that way.
    feed.state.send_replace(TokenState::Valid(site.token("pump-3", 600).await));
    until("it delivers", || gateway.spool.status().depth == 0).await;
    gateway.stop().await;
    site.broker.stop().await;
}

#[tokio::test]
async fn tokens_that_change_faster_than_the_broker_answers_do_not_overlap() {
    let site = Site::start().await;
    let gateway = Gateway::start(site.broker.addr().port(), |_| ());
    let (feed, handle) = site.feed("pump-3").await;
    let lane = gateway.attach_with("pump-3", handle);
    until("it is connected", || gateway.state() == RelayState::Connected).await;
    for _ in 0..50 {
        feed.state.send_replace(TokenState::Valid(site.token("pump-3", 600).await));
    }
    submit(&lane, 1..=100);
    until("all is confirmed", || gateway.spool.status().depth == 0).await;
    assert_eq!(gateway.relay.status()[0].connects, 1);
    gateway.stop().await;
    site.broker.stop().await;
}

fn no_token() -> TokenState {
    TokenState::Waiting { since: Duration::ZERO, last_error: None, approval: None }
}

/// Gives a device a token that lives so long; when that ends, if it was connected under it before.
async fn is_connected_under(
    life_s: u64,
    gateway: &Gateway,
    feed: &TokenFeed,
    issuer: &LocalIssuer,
) -> Option<Duration> {
    let token = Arc::new(token_of(issuer, "pump-3", life_s, Limits::default()).await);
    let ends = Duration::from_secs(token.claims().exp);
    let connects = || gateway.relay.status()[0].connects;
    let before = connects();
    feed.state.send_replace(TokenState::Valid(token));
    let was_connected = || connects() > before;
    until("it is connected, or too late", || was_connected() || Clock::system().wall() > ends).await;
    was_connected().then_some(ends)
}

#[tokio::test]
async fn an_expiry_in_an_outage_is_waited_out_until_a_token_comes() {
    let site = Site::start().await;
    let gateway = Gateway::start(site.broker.addr().port(), |_| ());
    let (mut feed, handle) = TokenFeed::new(no_token());
    let lane = gateway.attach_with("pump-3", handle);
    before_it_ends(async |life_s| {
        let expiry = is_connected_under(life_s, &gateway, &feed, &site.issuer).await;
        until("the token is over", || expiry.is_none_or(|expiry| Clock::system().wall() > expiry)).await;
        let waits = || matches!(gateway.state(), RelayState::WaitingForToken | RelayState::Paused);
        until("it waits for another", waits).await;
        // Where it is slow, the broker refuses the token before the gateway has left; how long before goes with its life.
        let was_shown = feed.wishes.try_recv().is_ok();
        expiry.filter(|_| !was_shown)
    })
    .await;
    submit(&lane, 1..=10);
    until("all is safe", || lane.progress().borrow().safe == 10).await;
    assert_eq!(gateway.state(), RelayState::WaitingForToken);
    assert_eq!(gateway.spool.status().depth, 10);
    assert!(feed.wishes.try_recv().is_err(), "an expired token was shown to the broker");
    feed.state.send_replace(TokenState::Valid(site.token("pump-3", 600).await));
    until("the queue drains", || gateway.spool.status().depth == 0).await;
    gateway.stop().await;
    site.broker.stop().await;
}

#[tokio::test]
async fn a_token_revoked_at_the_issuer_cuts_that_device_and_no_other() {
    let site = Site::start().await;
    let gateway = Gateway::start(site.broker.addr().port(), |_| ());
    let token = site.token("pump-3", 600).await;
    let (mut feed, handle) = TokenFeed::new(TokenState::Valid(Arc::clone(&token)));
    let cut = gateway.attach_with("pump-3", handle);
    let (_feed, handle) = site.feed("pump-4").await;
    let other = gateway.attach_with("pump-4", handle);
    until("both are connected", || gateway.relay.status().iter().all(|it| it.state == RelayState::Connected)).await;
    site.issuer.deny_list().deny_token(token.jti(), token.claims().exp, site.issuer.now()).unwrap();
    submit(&cut, 1..=10);
    assert_eq!(
        within("the keeper is told", feed.wishes.recv()).await,
        Some(TokenWish::Refused { jti: token.jti().to_owned() })
    );
    submit(&other, 1..=10);
    until("the other goes on", || gateway.relay.status()[1].confirmed == 10).await;
    assert_eq!(gateway.relay.status()[1].connects, 1);
    gateway.stop().await;
    site.broker.stop().await;
}
