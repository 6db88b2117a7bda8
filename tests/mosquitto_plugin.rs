//! The plugin in Debian's mosquitto, as a real MQTT client meets it: the same promises as the embedded broker's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed test says where by panicking")]

#[path = "support/authority.rs"]
mod authority;
#[path = "support/fixtures.rs"]
mod fixtures;
#[path = "mosquitto_plugin/keys.rs"]
mod keys;
#[path = "mosquitto_plugin/limits.rs"]
mod limits;
#[path = "support/mqtt_client.rs"]
mod mqtt_client;
#[path = "support/plugin.rs"]
mod plugin;
mod support;
#[path = "support/thief.rs"]
mod thief;

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use clawgate::clock::Clock;
use clawgate::token::key::SigningKey;
use clawgate::token::local::{DenyList, LocalIssuer};
use clawgate::token::{Issuer, Limits, TokenRequest};
use fixtures::{ALL, before_it_ends, reader};
use mqtt_client::{By, Connect, MqttClient};
use support::Mosquitto;

const UP: &str = "claw/v1/default/g/pump-3/up/telemetry";

struct Bed {
    issuer: LocalIssuer,
    key: SigningKey,
    broker: Mosquitto,
    tls: Option<Arc<rustls::ClientConfig>>,
}

impl Bed {
    fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), "")
    }

    /// With these lines of configuration for the listener.
    fn start_in(folder: tempfile::TempDir, listener: &str) -> Self {
        let deny = DenyList::open(&folder.path().join("denylist")).unwrap();
        let key = SigningKey::generate().unwrap();
        let issuer = LocalIssuer::new("https://issuer.test", key.clone(), deny, Clock::system());
        std::fs::write(folder.path().join("jwks"), serde_json::to_string(&issuer.jwks()).unwrap()).unwrap();
        let config = plugin::config("https://issuer.test") + "persistence true\npersistence_location {dir}/\n";
        let broker = Mosquitto::start_in(folder, &(listener.to_owned() + &config));
        Self { issuer, key, broker, tls: None }
    }

    fn how<'a>(&self, client_id: &'a str, token: &'a str) -> Connect<'a> {
        Connect { tls: self.tls.clone(), ..Connect::to(self.broker.addr(), client_id, token) }
    }

    async fn connect(&self, client_id: &str, token: &str) -> Result<MqttClient, String> {
        MqttClient::connect(self.how(client_id, token)).await
    }

    async fn token(&self, device: &str, life_s: u64) -> String {
        self.issuer.issue(&request(device, life_s)).await.unwrap().bearer().to_owned()
    }

    fn subscriber_token(&self, life_s: u64) -> String {
        self.issuer.mint(reader(&[ALL], life_s)).unwrap()
    }

    async fn subscriber(&self) -> MqttClient {
        let client = self.connect("dash", &self.subscriber_token(600)).await.unwrap();
        assert_eq!(client.subscribe(ALL).await, "Success(AtLeastOnce)");
        client
    }
}

fn request(device: &str, life_s: u64) -> TokenRequest {
    fixtures::request("g", device, life_s)
}

#[tokio::test]
async fn what_a_device_may_publish_reaches_a_subscriber_and_nothing_else_does() {
    let bed = Bed::start();
    let mut subscriber = bed.subscriber().await;
    for by in [By::EnhancedAuth, By::Password] {
        let token = bed.token("pump-3", 600).await;
        let device = MqttClient::connect(Connect { by, ..bed.how("g.pump-3", &token) }).await.unwrap();
        for elsewhere in ["claw/v1/default/g/pump-4/up/telemetry", "claw/v1/default/g/pump-3/down/cmd/x", "x"] {
            assert_eq!(device.publish(elsewhere, "stray").await, "NotAuthorized", "{elsewhere}");
        }
        assert_eq!(device.subscribe("#").await, "NotAuthorized");
        assert_eq!(device.publish(UP, "21.5").await, "Success");
        let message = subscriber.next().await;
        assert_eq!((&*message.topic, &*message.payload), (UP.as_bytes(), &b"21.5"[..]));
    }
}

#[tokio::test]
async fn who_has_no_good_token_is_not_admitted() {
    let bed = Bed::start();
    let good = bed.token("pump-3", 600).await;
    let for_others = bed.issuer.issue(&TokenRequest { audience: "other".to_owned(), ..request("pump-3", 600) }).await;
    let stranger = LocalIssuer::new(
        "https://issuer.test",
        SigningKey::generate().unwrap(),
        DenyList::in_memory(),
        Clock::system(),
    );
    let strangers = stranger.issue(&request("pump-3", 600)).await.unwrap();
    for (client_id, token, what) in [
        ("g.pump-3", "", "no token"),
        ("g.pump-3", "a.b.c", "garbage"),
        ("g.pump-3", strangers.bearer(), "another key's"),
        ("g.pump-3", for_others.as_ref().unwrap().bearer(), "for another broker"),
        ("g.pump-4", &good, "another device's"),
        ("h.pump-3", &good, "another gateway's"),
    ] {
        for by in [By::EnhancedAuth, By::Password] {
            let answer = MqttClient::connect(Connect { by, ..bed.how(client_id, token) }).await;
            assert_eq!(answer.err().as_deref(), Some("NotAuthorized"), "{what}, {by:?}: {}", bed.broker.log());
        }
    }
}

#[tokio::test]
async fn an_expired_token_is_refused_and_its_live_connection_cut() {
    let bed = Bed::start();
    let connect = async |life_s| {
        let short = bed.token("pump-3", life_s).await;
        Some((bed.connect("g.pump-3", &short).await.ok()?, short))
    };
    let (mut device, short) = before_it_ends(connect).await;
    let other = bed.connect("g.pump-4", &bed.token("pump-4", 600).await).await.unwrap();
    device.ended().await;
    assert_eq!(bed.connect("g.pump-3", &short).await.err().as_deref(), Some("NotAuthorized"));
    let published = other.publish("claw/v1/default/g/pump-4/up/telemetry", "1").await;
    assert_eq!(published, "NoMatchingSubscribers", "permitted, and nobody there");
}

#[tokio::test]
async fn a_revoked_device_is_cut_live_and_its_neighbour_goes_on() {
    let bed = Bed::start();
    let mut subscriber = bed.subscriber().await;
    let token = bed.token("pump-3", 600).await;
    let state = "claw/v1/default/g/pump-3/up/state";
    let how = Connect { will: Some((state, "offline")), ..bed.how("g.pump-3", &token) };
    let mut revoked = MqttClient::connect(how).await.unwrap();
    let other = bed.connect("g.pump-4", &bed.token("pump-4", 600).await).await.unwrap();
    bed.issuer.revoke(&request("pump-3", 600), None, "stolen").await.unwrap();
    revoked.ended().await;
    assert_eq!(bed.connect("g.pump-3", &token).await.err().as_deref(), Some("NotAuthorized"));
    assert!(other.is_connected());
    let message = subscriber.next().await;
    assert_eq!((&*message.topic, &*message.payload), (state.as_bytes(), &b"offline"[..]), "the cloud learns of it");
    bed.connect("g.pump-3", &bed.token("pump-3", 600).await)
        .await
        .expect("a token issued after the revocation is good");
}

#[tokio::test]
async fn a_fresh_token_keeps_a_live_connection_beyond_the_life_of_the_first() {
    let bed = Bed::start();
    let renew = async |life_s| {
        let device = bed.connect("g.pump-3", &bed.token("pump-3", life_s).await).await.ok()?;
        device.reauthenticate(&bed.token("pump-3", 600).await).await.ok()?;
        Some((device, life_s))
    };
    let (device, first_s) = before_it_ends(renew).await;
    // Another token that lives as long at least ends when the first one would have.
    let connect =
        async |life_s: u64| bed.connect("g.pump-4", &bed.token("pump-4", life_s.max(first_s)).await).await.ok();
    before_it_ends(connect).await.ended().await;
    assert_eq!(device.publish(UP, "still here").await, "NoMatchingSubscribers", "permitted, and nobody there");
}

#[tokio::test]
async fn re_authentication_with_anothers_token_ends_the_connection() {
    let bed = Bed::start();
    let others = bed.token("pump-4", 600).await;
    for bad in ["garbage", &others] {
        let mut device = bed.connect("g.pump-3", &bed.token("pump-3", 600).await).await.unwrap();
        let _ = device.reauthenticate(bad).await;
        device.ended().await;
    }
    // Another owner's, though it is good for this client id, too.
    let of_device = TokenRequest { gateway: "dash".to_owned(), ..request("kept", 600) };
    let of_device = bed.issuer.issue(&of_device).await.unwrap();
    let mut client = bed.connect("dash.kept", of_device.bearer()).await.unwrap();
    let _ = client.reauthenticate(&bed.issuer.mint(reader(&[ALL], 600)).unwrap()).await;
    client.ended().await;
}

#[tokio::test]
async fn a_retained_state_is_there_for_a_subscriber_that_comes_later() {
    let bed = Bed::start();
    let device = bed.connect("g.pump-3", &bed.token("pump-3", 600).await).await.unwrap();
    device.retain("claw/v1/default/g/pump-3/up/state", "online").await;
    let message = bed.subscriber().await.next().await;
    assert!(message.retain && message.payload == "online");
}

#[tokio::test]
async fn what_comes_while_a_subscriber_is_away_waits_for_it_over_the_end_of_its_token_and_a_restart() {
    let mut bed = Bed::start();
    let subscribe = async |life_s| {
        // Each try with a session of its own: one that an earlier connection left is not subscribed with again.
        let (short, id) = (bed.subscriber_token(life_s), format!("dash.{life_s}"));
        let how = Connect { keeps_session: true, by: By::Password, ..bed.how(&id, &short) };
        let subscriber = MqttClient::connect(how).await.ok()?;
        (subscriber.subscribe(ALL).await == "Success(AtLeastOnce)").then_some((subscriber, short, id))
    };
    let (mut subscriber, short, id) = before_it_ends(subscribe).await;
    subscriber.ended().await;
    let token = bed.token("pump-3", 600).await;
    let device = bed.connect("g.pump-3", &token).await.unwrap();
    assert_eq!(device.publish(UP, "1").await, "Success", "{}", bed.broker.log());
    bed.broker.stop();
    bed.broker.resume();
    let device = bed.connect("g.pump-3", &token).await.unwrap();
    assert_eq!(device.publish(UP, "2").await, "Success", "{}", bed.broker.log());
    assert_eq!(bed.connect(&id, &short).await.err().as_deref(), Some("NotAuthorized"));
    let fresh = bed.subscriber_token(600);
    let how = Connect { keeps_session: true, ..bed.how(&id, &fresh) };
    let mut subscriber = MqttClient::connect(how).await.unwrap();
    assert_eq!((&*subscriber.next().await.payload, &*subscriber.next().await.payload), (&b"1"[..], &b"2"[..]));
}

#[tokio::test]
async fn a_token_that_ends_under_load_costs_no_session_a_message_and_one_that_is_replaced_in_time_no_client() {
    let bed = Bed::start();
    let device = bed.connect("g.pump-3", &bed.token("pump-3", 600).await).await.unwrap();
    let tries = Cell::new(0);
    let listens = async |name: &str, life_s| {
        tries.set(tries.get() + 1);
        let (token, id) = (bed.subscriber_token(life_s), format!("{name}-{}", tries.get()));
        let how = Connect { keeps_session: true, ..bed.how(&id, &token) };
        let client = MqttClient::connect(how).await.ok()?;
        (client.subscribe(ALL).await == "Success(AtLeastOnce)").then_some((client, id))
    };
    let fresh = bed.subscriber_token(600);
    let renews = async |life_s| {
        let (client, _) = listens("dash.lives", life_s).await?;
        client.reauthenticate(&fresh).await.ok().map(|()| (client, life_s))
    };
    let (mut lives, first_s) = before_it_ends(renews).await;
    // Its token ends after the one that was replaced.
    let (mut ended, id) = before_it_ends(async |life_s: u64| listens("dash.ends", life_s.max(first_s)).await).await;
    // Messages come close together when the token ends, and for a while after that.
    let mut sent = 0;
    let mut rest = 50;
    while rest > 0 {
        assert_eq!(device.publish(UP, &sent.to_string()).await, "Success", "{}", bed.broker.log());
        sent += 1;
        rest -= u32::from(!ended.is_connected());
    }
    let cut = format!("{id:?} cut off: the token of dash expired");
    assert!(bed.broker.log().contains(&cut), "{}", bed.broker.log());
    assert!(lives.is_connected());
    for n in 0..sent {
        assert_eq!(lives.next().await.payload, n.to_string(), "the one that stayed");
    }
    let mut heard = std::collections::BTreeSet::new();
    while let Some(message) = ended.try_next(Duration::ZERO).await {
        heard.insert(message.payload);
    }
    let how = Connect { keeps_session: true, ..bed.how(&id, &fresh) };
    let mut again = MqttClient::connect(how).await.unwrap();
    while heard.len() < sent {
        heard.insert(again.next().await.payload);
    }
}

#[test]
fn a_broker_whose_plugin_is_set_up_wrong_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("mosquitto.conf");
    let text = format!("listener {} 127.0.0.1\nplugin {}\n", support::free_port(), plugin::path().display());
    std::fs::write(&config, text).unwrap();
    let done = std::process::Command::new(support::mosquitto()).arg("-c").arg(&config).output().unwrap();
    assert!(!done.status.success());
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(said.contains("plugin_opt_key_file is missing"), "{said}");
}
