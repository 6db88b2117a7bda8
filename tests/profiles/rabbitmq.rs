//! The relay against a real RabbitMQ: MQTT 3.1.1, a token's scopes kept by its OAuth 2 backend, refresh by draining.
//!
//! One broker for all of it: it takes ten seconds to start.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clawgate::clock::Clock;
use clawgate::config::BrokerProfile;
use clawgate::relay::{Profile, RelayState};
use clawgate::token::key::SigningKey;
use clawgate::token::local::{DenyList, LocalIssuer};
use clawgate::token::{AccessToken, ClaimForm, Issuer as _, TokenFeed, TokenRequest, TokenState, TokenWish};
use rumqttc_v4::{
    AsyncClient, Broker, ConnectReturnCode, ConnectionError, Event, Incoming, MqttOptions, PublishOptions, QoS,
};
use tokio::task::JoinHandle;

use crate::back_half::{Gateway, pairing, submit};
use crate::fixtures;
use crate::line::Line;
use crate::node::{RESOURCE, RabbitMq, patient};
use crate::support::{until, within};

const TOPIC: &str = "claw/v1/default/site-1/pump-3/up/telemetry";
const OTHERS: &str = "claw/v1/default/site-1/pump-4/up/telemetry";

fn request(device: &str, life_s: u64) -> TokenRequest {
    fixtures::request("site-1", device, life_s)
}

struct Site {
    key: SigningKey,
    issuer: LocalIssuer,
    broker: RabbitMq,
}

impl Site {
    fn start() -> Self {
        let key = SigningKey::generate().unwrap();
        let issuer = LocalIssuer::new("urn:clawgate:test", key.clone(), DenyList::in_memory(), Clock::system())
            .with_claims(ClaimForm::of(BrokerProfile::Rabbitmq));
        let broker = RabbitMq::start(&key);
        Self { key, issuer, broker }
    }

    async fn token(&self, device: &str, life_s: u64) -> Arc<AccessToken> {
        Arc::new(self.issuer.issue(&request(device, life_s)).await.unwrap())
    }

    /// A gateway with one device under this token.
    fn gateway(&self, token: Arc<AccessToken>) -> (Gateway, clawgate::spool::Lane, TokenFeed) {
        Self::gateway_to(self.broker.addr().port(), token)
    }

    fn gateway_to(port: u16, token: Arc<AccessToken>) -> (Gateway, clawgate::spool::Lane, TokenFeed) {
        let gateway = Gateway::start(port, |options| {
            options.profile = Profile::of(BrokerProfile::Rabbitmq);
        });
        let device = token.claims().sub.clone();
        let (feed, handle) = TokenFeed::new(TokenState::Valid(token));
        let lane = gateway.attach_with(&device, handle);
        (gateway, lane, feed)
    }

    /// Connects as a device with nothing of the gateway between, and publishes once.
    async fn publish(&self, token: &str, topic: &str) -> Said {
        let mut events = self.connect("site-1.pump-3", "pump-3", token);
        let client = events.0;
        client.publish(topic, "[]", PublishOptions::at_least_once()).await.unwrap();
        let said = async {
            loop {
                match events.1.poll().await {
                    Ok(Event::Incoming(Incoming::PubAck(_))) => return Said::Taken,
                    Ok(_) => {}
                    Err(ConnectionError::ConnectionRefused(code)) => return Said::Refused(code),
                    Err(_) => return Said::Closed,
                }
            }
        };
        within("the broker answers", said).await
    }

    fn connect(&self, client_id: &str, username: &str, token: &str) -> (AsyncClient, rumqttc_v4::EventLoop) {
        let mut options = MqttOptions::new(client_id, Broker::tcp("127.0.0.1", self.broker.addr().port()));
        options.set_credentials(username, token.to_owned());
        patient(AsyncClient::builder(options).capacity(16).build())
    }

    /// Subscribes to what all devices send.
    async fn subscriber(&self) -> Subscriber {
        let mint = fixtures::reader(&["claw/v1/#"], 600);
        let (client, mut events) = self.connect("dash", "dash", &self.issuer.mint(mint).unwrap());
        client.subscribe("claw/v1/#", QoS::AtLeastOnce).await.unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&heard);
        let (ready, is_ready) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            let (_client, mut ready) = (client, Some(ready));
            loop {
                match events.poll().await.expect("the subscriber's connection stands") {
                    Event::Incoming(Incoming::SubAck(_)) => drop(ready.take().map(|ready| ready.send(()))),
                    Event::Incoming(Incoming::Publish(publish)) => {
                        let topic = String::from_utf8(publish.topic.to_vec()).unwrap();
                        let payload = publish.payload.to_vec();
                        into.lock().unwrap().push(Heard { topic, payload, at: Instant::now() });
                    }
                    _ => {}
                }
            }
        });
        within("the subscriber is subscribed", is_ready).await.unwrap();
        Subscriber { heard, task }
    }
}

/// What the broker did about a publish.
#[derive(Debug, PartialEq)]
enum Said {
    Taken,
    Closed,
    Refused(ConnectReturnCode),
}

/// A message, and when it came.
struct Heard {
    topic: String,
    payload: Vec<u8>,
    at: Instant,
}

struct Subscriber {
    heard: Arc<Mutex<Vec<Heard>>>,
    task: JoinHandle<()>,
}

impl Subscriber {
    /// The CloudEvents on a topic, and when each came.
    fn events(&self, topic: &str) -> Vec<(serde_json::Value, Instant)> {
        let heard = self.heard.lock().unwrap();
        let on_topic = heard.iter().filter(|heard| heard.topic == topic);
        on_topic.map(|heard| (serde_json::from_slice(&heard.payload).unwrap(), heard.at)).collect()
    }

    fn count(&self, topic: &str) -> usize {
        self.heard.lock().unwrap().iter().filter(|heard| heard.topic == topic).count()
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rabbitmq_keeps_each_device_to_its_token() {
    let site = Site::start();
    a_refresh_under_load_loses_repeats_and_reorders_nothing(&site).await;
    what_a_token_does_not_allow_ends_the_connection(&site).await;
    an_expired_token_is_refused_and_not_outlived(&site).await;
    a_token_of_another_issuer_is_refused(&site).await;
    a_refusal_is_told_and_keeps_the_queue(&site).await;
    a_revoked_device_is_cut_here(&site).await;
    a_thiefs_connection_is_ended_by_the_operator_and_no_other(&site).await;
    the_issuers_key_is_changed_in_the_running_broker(&site).await;
}

async fn a_refresh_under_load_loses_repeats_and_reorders_nothing(site: &Site) {
    const ROUNDS: u64 = 6;
    let subscriber = site.subscriber().await;
    let delay = Line::to(site.broker.addr(), Duration::from_millis(40)).await;
    let (gateway, lane, feed) = Site::gateway_to(delay.port(), site.token("pump-3", 600).await);
    until("it is connected", || gateway.state() == RelayState::Connected).await;
    let mut seq = 0;
    for round in 1..=ROUNDS {
        submit(&lane, seq + 1..=seq + 150);
        seq += 150;
        feed.state.send_replace(TokenState::Valid(site.token("pump-3", 600).await));
        submit(&lane, seq + 1..=seq + 50);
        seq += 50;
        until("it is back with the new token", || gateway.relay.status()[0].connects == round + 1).await;
    }
    until("all is confirmed", || gateway.spool.status().depth == 0).await;
    until("all has arrived", || subscriber.count(TOPIC) >= usize::try_from(seq).unwrap()).await;
    let events = subscriber.events(TOPIC);
    for (event, seq) in events.iter().zip(1..=seq) {
        let id = format!("{}.000000000000feed.{seq}", pairing("pump-3"));
        assert_eq!(event.0["id"], id, "every reading once and in order");
    }
    assert_eq!(events.len() as u64, seq, "and none again");
    let gap = events.windows(2).map(|pair| pair[1].1.duration_since(pair[0].1)).max().unwrap();
    eprintln!(
        "{seq} readings over {ROUNDS} refreshes and an 80 ms line: none lost, repeated or reordered; longest gap {gap:?}"
    );

    let (first, _) = &events[0];
    assert_eq!(first["specversion"], "1.0");
    assert_eq!(first["type"], "claw.telemetry.v1");
    assert_eq!(first["source"], "claw/v1/default/site-1/pump-3");
    assert_eq!(first["datacontenttype"], "application/senml+json");
    assert_eq!(first["data"][0]["v"], 1);
    gateway.stop().await;
    let states = subscriber.events("claw/v1/default/site-1/pump-3/up/state");
    assert_eq!(states[0].0["state"], "online");
}

async fn what_a_token_does_not_allow_ends_the_connection(site: &Site) {
    let subscriber = site.subscriber().await;
    let token = site.token("pump-3", 600).await;
    assert_eq!(site.publish(token.bearer(), TOPIC).await, Said::Taken);
    for topic in
        [OTHERS, "claw/v1/default/site-1/pump-3/down/cmd/x", "claw/v1/default/site-1/pump-33/up/telemetry", "x"]
    {
        assert_eq!(site.publish(token.bearer(), topic).await, Said::Closed, "{topic}");
    }
    until("what was in scope arrives", || subscriber.count(TOPIC) == 1).await;
    assert_eq!(subscriber.heard.lock().unwrap().len(), 1, "nothing else does");
    let refusal = "access to topic 'claw.v1.default.site-1.pump-4.up.telemetry'";
    until("the broker says why", || site.broker.log().contains(refusal)).await;
    // The gateway does not come so far: a token for another device is not used at all.
    let (gateway, lane, mut feed) = {
        let gateway = Gateway::start(site.broker.addr().port(), |options| {
            options.profile = Profile::of(BrokerProfile::Rabbitmq);
        });
        let (feed, handle) = TokenFeed::new(TokenState::Valid(token));
        let lane = gateway.attach_with("pump-4", handle);
        (gateway, lane, feed)
    };
    submit(&lane, 1..=3);
    assert!(matches!(within("the keeper is told", feed.wishes.recv()).await, Some(TokenWish::Refused { .. })));
    assert_eq!((gateway.spool.status().depth, subscriber.count(OTHERS)), (3, 0));
    assert!(gateway.last_error().contains("does not allow publishing"), "{}", gateway.last_error());
    gateway.stop().await;
}

async fn an_expired_token_is_refused_and_not_outlived(site: &Site) {
    let clock = Clock::system();
    let send = async |life_s| {
        let token = site.token("pump-3", life_s).await;
        let end = Duration::from_secs(token.claims().exp);
        let (gateway, lane, feed) = site.gateway(Arc::clone(&token));
        submit(&lane, 1..=5);
        let is_over = || clock.wall() > end;
        until("what came in time is taken", || gateway.spool.status().depth == 0 || is_over()).await;
        if gateway.spool.status().depth == 0 {
            return Some((token, gateway, lane, feed));
        }
        gateway.stop().await;
        None
    };
    let (token, gateway, lane, _feed) = fixtures::before_it_ends(send).await;
    // RabbitMQ 3.10 does not end the connection of an expired token: the gateway leaves, a little before.
    until("the gateway leaves", || gateway.state() == RelayState::WaitingForToken).await;
    submit(&lane, 6..=8);
    until("the token is over", || clock.wall() > Duration::from_secs(token.claims().exp)).await;
    assert_eq!(site.publish(token.bearer(), TOPIC).await, Said::Refused(ConnectReturnCode::BadUserNamePassword));
    assert_eq!((gateway.spool.status().depth, gateway.relay.status()[0].connects), (3, 1));
    gateway.stop().await;
}

async fn a_token_of_another_issuer_is_refused(site: &Site) {
    let other = LocalIssuer::new("x", SigningKey::generate().unwrap(), DenyList::in_memory(), Clock::system());
    let token = Arc::new(other.issue(&request("pump-3", 600)).await.unwrap());
    assert!(matches!(site.publish(token.bearer(), TOPIC).await, Said::Refused(_)));
    let (gateway, lane, mut feed) = site.gateway(Arc::clone(&token));
    submit(&lane, 1..=3);
    let told = within("the keeper is told", feed.wishes.recv()).await;
    assert_eq!(told, Some(TokenWish::Refused { jti: token.jti().to_owned() }));
    assert_eq!(gateway.spool.status().depth, 3);
    gateway.stop().await;
}

/// A mistake in the broker's own words: our claims allow the topic, RabbitMQ's do not.
async fn a_refusal_is_told_and_keeps_the_queue(site: &Site) {
    let good = site.token("pump-3", 600).await;
    let mut claims = serde_json::to_value(good.claims()).unwrap();
    claims["claw_rabbitmq"] = format!("{RESOURCE}.write:%2F/amq.topic/elsewhere.*").into();
    let wrong = AccessToken::received(site.key.sign("at+jwt", &claims).unwrap(), &Clock::system()).unwrap();
    let (gateway, lane, feed) = site.gateway(Arc::new(wrong));
    submit(&lane, 1..=20);
    until("the reason is told", || gateway.last_error().contains("the token does not allow a topic")).await;
    assert_eq!(gateway.spool.status().depth, 20, "nothing is given up for a mistake in rights");
    feed.state.send_replace(TokenState::Valid(site.token("pump-3", 600).await));
    until("the queue drains", || gateway.spool.status().depth == 0).await;
    gateway.stop().await;
}

async fn a_revoked_device_is_cut_here(site: &Site) {
    let subscriber = site.subscriber().await;
    let (gateway, lane, feed) = site.gateway(site.token("pump-3", 600).await);
    let (other, other_lane, _other_feed) = site.gateway(site.token("pump-4", 600).await);
    submit(&lane, 1..=5);
    until("it sends", || subscriber.count(TOPIC) == 5 && gateway.spool.status().depth == 0).await;
    let revoked = Instant::now();
    feed.state.send_replace(TokenState::Revoked { reason: "stolen".to_owned() });
    until("it is cut", || gateway.state() == RelayState::Paused).await;
    let after = revoked.elapsed();
    submit(&lane, 6..=9);
    submit(&other_lane, 1..=5);
    until("another goes on", || subscriber.count(OTHERS) == 5).await;
    assert_eq!((subscriber.count(TOPIC), gateway.spool.status().depth), (5, 4));
    eprintln!("a revoked device was cut off after {after:?}");
    gateway.stop().await;
    other.stop().await;
}

/// docs/brokers.md shows both commands.
async fn a_thiefs_connection_is_ended_by_the_operator_and_no_other(site: &Site) {
    let stolen = site.token("pump-3", 600).await;
    // RabbitMQ binds neither client id nor username to the token.
    let (_thief, mut thiefs) = site.connect("somebody", "anybody", stolen.bearer());
    let others = site.token("pump-4", 600).await;
    let (other, mut other_events) = site.connect("site-1.pump-4", "pump-4", others.bearer());
    for events in [&mut thiefs, &mut other_events] {
        let answer = within("the broker answers", events.poll()).await.unwrap();
        assert!(matches!(answer, Event::Incoming(Incoming::ConnAck(_))), "{answer:?}");
    }
    let listed = site.broker.ctl(&["list_mqtt_connections", "client_id", "user", "conn_name"]);
    eprintln!("{listed}");
    assert!(listed.lines().any(|line| line.starts_with("somebody\t")), "{listed}");
    let cut =
        r#"[rabbit_mqtt_reader:close_connection(Pid, "stolen") || {"somebody", Pid} <- rabbit_mqtt_collector:list()]."#;
    assert_eq!(site.broker.ctl(&["eval", cut]).trim(), "[ok]");
    let ended = async { while thiefs.poll().await.is_ok() {} };
    within("the thief is cut off", ended).await;
    other.publish(OTHERS, "[]", PublishOptions::at_least_once()).await.unwrap();
    let goes_on =
        async { while !matches!(other_events.poll().await.unwrap(), Event::Incoming(Incoming::PubAck(_))) {} };
    within("another goes on", goes_on).await;
}

/// docs/brokers.md shows both commands. The last part of the test: nobody takes the site's own key any more.
async fn the_issuers_key_is_changed_in_the_running_broker(site: &Site) {
    let next = SigningKey::generate().unwrap();
    let pem = site.broker.folder().join("next.pem");
    std::fs::write(&pem, next.public_pem().unwrap()).unwrap();
    let issuer = LocalIssuer::new("urn:clawgate:test", next.clone(), DenyList::in_memory(), Clock::system())
        .with_claims(ClaimForm::of(BrokerProfile::Rabbitmq));
    let older = site.token("pump-3", 600).await;
    let newer = issuer.issue(&request("pump-3", 600)).await.unwrap();
    assert_eq!(site.publish(older.bearer(), TOPIC).await, Said::Taken);
    assert!(matches!(site.publish(newer.bearer(), TOPIC).await, Said::Refused(_)));

    site.broker.ctl(&["add_uaa_key", &next.public().kid, &format!("--pem-file={}", pem.display())]);
    for token in [older.bearer(), newer.bearer()] {
        assert_eq!(site.publish(token, TOPIC).await, Said::Taken, "{}", site.broker.log());
    }

    // No command takes one away.
    let removed = format!(
        "A = rabbitmq_auth_backend_oauth2, C = application:get_env(A, key_config, []), \
         K = maps:remove(<<\"{}\">>, proplists:get_value(signing_keys, C)), \
         application:set_env(A, key_config, [{{signing_keys, K}} | proplists:delete(signing_keys, C)]), maps:keys(K).",
        site.key.public().kid
    );
    let left = site.broker.ctl(&["eval", &removed]);
    assert_eq!(left.trim(), format!("[<<\"{}\">>]", next.public().kid));
    assert!(matches!(site.publish(older.bearer(), TOPIC).await, Said::Refused(_)));
    assert_eq!(site.publish(newer.bearer(), TOPIC).await, Said::Taken);
}
