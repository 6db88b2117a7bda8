//! The embedded broker as a real MQTT client meets it: every token is enforced, from CONNECT to its last second.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed test says where by panicking")]
#![cfg(feature = "standalone")]

#[path = "support/fixtures.rs"]
mod fixtures;
#[path = "support/mqtt_client.rs"]
mod mqtt_client;
#[path = "support/thief.rs"]
mod thief;

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use clawgate::clock::Clock;
use clawgate::standalone::{Broker, BrokerOptions, TlsFiles};
use clawgate::token::key::SigningKey;
use clawgate::token::local::{DenyList, LocalIssuer};
use clawgate::token::{Issuer, Limits, Thumbprint, TokenRequest};
use fixtures::{ALL, before_it_ends, reader};
use mqtt_client::{By, Connect, MqttClient};

const UP: &str = "claw/v1/default/g/pump-3/up/telemetry";

struct Bed {
    issuer: LocalIssuer,
    broker: Broker,
}

impl Bed {
    async fn start() -> Self {
        let issuer = issuer();
        let options = BrokerOptions { listen: "127.0.0.1:0".parse().unwrap(), tls: None, max_clients: 16 };
        let broker = Broker::start(options, issuer.verifier("claw").unwrap()).await.unwrap();
        Self { issuer, broker }
    }

    fn how<'a>(&self, client_id: &'a str, token: &'a str) -> Connect<'a> {
        Connect::to(self.broker.addr(), client_id, token)
    }

    async fn connect(&self, client_id: &str, token: &str) -> Result<MqttClient, String> {
        MqttClient::connect(self.how(client_id, token)).await
    }

    fn subscriber_token(&self, life_s: u64) -> String {
        self.issuer.mint(reader(&[ALL], life_s)).unwrap()
    }

    async fn subscriber(&self) -> MqttClient {
        let client = self.connect("dash", &self.subscriber_token(600)).await.unwrap();
        assert_eq!(client.subscribe(ALL).await, "Success(AtLeastOnce)");
        client
    }

    async fn token(&self, device: &str, life_s: u64) -> String {
        token(&self.issuer, device, life_s).await
    }
}

fn issuer() -> LocalIssuer {
    let key = SigningKey::generate().unwrap();
    LocalIssuer::new("urn:clawgate:test", key, DenyList::in_memory(), Clock::system())
}

async fn token(issuer: &LocalIssuer, device: &str, life_s: u64) -> String {
    issuer.issue(&request(device, life_s)).await.unwrap().bearer().to_owned()
}

fn request(device: &str, life_s: u64) -> TokenRequest {
    fixtures::request("g", device, life_s)
}

#[tokio::test]
async fn what_a_device_may_publish_reaches_a_subscriber_and_nothing_else_does() {
    let bed = Bed::start().await;
    let mut subscriber = bed.subscriber().await;
    for by in [By::EnhancedAuth, By::Password] {
        let token = bed.token("pump-3", 600).await;
        let device = MqttClient::connect(Connect { by, ..bed.how("g.pump-3", &token) }).await.unwrap();
        for elsewhere in ["claw/v1/default/g/pump-4/up/telemetry", "claw/v1/default/g/pump-3/down/cmd/x", "x"] {
            assert_eq!(device.publish(elsewhere, "stray").await, "NotAuthorized", "{elsewhere}");
        }
        assert_eq!(device.subscribe(ALL).await, "NotAuthorized");
        assert_eq!(device.subscribe("#").await, "NotAuthorized");
        assert_eq!(device.publish(UP, "21.5").await, "Success");
        let message = subscriber.next().await;
        assert_eq!((&*message.topic, &*message.payload), (UP.as_bytes(), &b"21.5"[..]));
    }
    bed.broker.stop().await;
}

#[tokio::test]
async fn who_has_no_good_token_is_not_admitted() {
    let bed = Bed::start().await;
    let good = bed.token("pump-3", 600).await;
    let strangers = token(&issuer(), "pump-3", 600).await;
    let for_others = bed.issuer.issue(&TokenRequest { audience: "other".to_owned(), ..request("pump-3", 600) }).await;
    let refused = [
        ("g.pump-3", "", "no token"),
        ("g.pump-3", "a.b.c", "garbage"),
        ("g.pump-3", &strangers, "another issuer's"),
        ("g.pump-3", for_others.as_ref().unwrap().bearer(), "for another broker"),
        ("g.pump-4", &good, "another device's"),
        ("h.pump-3", &good, "another gateway's"),
        ("dash", &good, "a device's as subscriber's"),
    ];
    for (client_id, token, what) in refused {
        for by in [By::EnhancedAuth, By::Password] {
            let answer = MqttClient::connect(Connect { by, ..bed.how(client_id, token) }).await;
            assert_eq!(answer.err().as_deref(), Some("NotAuthorized"), "{what}");
        }
    }
}

#[tokio::test]
async fn an_expired_token_is_refused_and_its_live_connection_cut() {
    let bed = Bed::start().await;
    let connect = async |life_s| {
        let short = bed.token("pump-3", life_s).await;
        Some((bed.connect("g.pump-3", &short).await.ok()?, short))
    };
    let (mut device, short) = before_it_ends(connect).await;
    let other = bed.connect("g.pump-4", &bed.token("pump-4", 600).await).await.unwrap();
    device.ended().await;
    assert_eq!(bed.connect("g.pump-3", &short).await.err().as_deref(), Some("NotAuthorized"));
    assert_eq!(other.publish("claw/v1/default/g/pump-4/up/telemetry", "1").await, "Success");
}

#[tokio::test]
async fn a_revoked_device_is_cut_live_and_its_neighbour_goes_on() {
    let bed = Bed::start().await;
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
    assert_eq!(other.publish("claw/v1/default/g/pump-4/up/telemetry", "1").await, "Success");
    let said = [subscriber.next().await, subscriber.next().await];
    assert!(
        said.iter().any(|message| message.topic == state && message.payload == "offline"),
        "the cloud learns that the device is gone: {said:?}"
    );
    bed.connect("g.pump-3", &bed.token("pump-3", 600).await)
        .await
        .expect("a token issued after the revocation is good");
}

#[tokio::test]
async fn a_key_that_is_withdrawn_cuts_who_came_in_by_it() {
    let bed = Bed::start().await;
    let old = bed.token("pump-3", 600).await;
    let mut device = bed.connect("g.pump-3", &old).await.unwrap();
    // A change in peace cuts nobody.
    bed.issuer.ring().rotate(bed.issuer.now(), Duration::ZERO).unwrap();
    let mut neighbour = bed.connect("g.pump-4", &bed.token("pump-4", 600).await).await.unwrap();
    assert_eq!(device.publish(UP, "21.5").await, "Success");
    bed.issuer.replace_keys().unwrap();
    device.ended().await;
    neighbour.ended().await;
    assert!(bed.connect("g.pump-3", &old).await.is_err());
    let back = bed.connect("g.pump-3", &bed.token("pump-3", 600).await).await.unwrap();
    assert_eq!(back.publish(UP, "21.5").await, "Success");
    bed.broker.stop().await;
}

#[tokio::test]
async fn a_fresh_token_keeps_a_live_connection_beyond_the_life_of_the_first() {
    let bed = Bed::start().await;
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
    assert_eq!(device.publish(UP, "still here").await, "Success");
}

#[tokio::test]
async fn re_authentication_with_a_bad_or_anothers_token_ends_the_connection() {
    let bed = Bed::start().await;
    for bad in ["garbage".to_owned(), bed.token("pump-4", 600).await, bed.token("pump-3", 1).await] {
        let mut device = bed.connect("g.pump-3", &bed.token("pump-3", 600).await).await.unwrap();
        // The last one is good, but only for a second.
        let _ = device.reauthenticate(&bad).await;
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
async fn who_may_read_less_under_a_fresh_token_gets_no_more_of_what_it_may_not() {
    let bed = Bed::start().await;
    let filters = ["claw/v1/default/g/pump-3/up/#", "claw/v1/default/g/pump-4/up/#"];
    let token = |filters: &[&str]| bed.issuer.mint(reader(filters, 600)).unwrap();
    let (both, less) = (token(&filters), token(&filters[..1]));
    let mut reader = MqttClient::connect(Connect { keeps_session: true, ..bed.how("dash", &both) }).await.unwrap();
    for filter in filters {
        assert_eq!(reader.subscribe(filter).await, "Success(AtLeastOnce)");
    }
    for as_much in [&filters[..], &[ALL]] {
        reader.reauthenticate(&token(as_much)).await.unwrap();
    }
    let _ = reader.reauthenticate(&less).await;
    reader.ended().await;
    let mut reader = MqttClient::connect(Connect { keeps_session: true, ..bed.how("dash", &less) }).await.unwrap();
    for (device, topic) in [("pump-4", "claw/v1/default/g/pump-4/up/telemetry"), ("pump-3", UP)] {
        let publisher = bed.connect(&format!("g.{device}"), &bed.token(device, 600).await).await.unwrap();
        assert_eq!(publisher.publish(topic, device).await, "Success");
    }
    assert_eq!(reader.next().await.payload, "pump-3");
    bed.broker.stop().await;
}

#[tokio::test]
async fn a_token_for_some_addresses_is_taken_as_password_from_them_and_in_no_way_from_others() {
    let bed = Bed::start().await;
    for (addresses, by_password) in [("127.0.0.0/8", None), ("192.0.2.0/24", Some("NotAuthorized"))] {
        let limits = Limits::new(vec![addresses.parse().unwrap()], None).unwrap();
        let token = bed.issuer.issue(&TokenRequest { limits, ..request("pump-3", 600) }).await.unwrap();
        let answer = |by| MqttClient::connect(Connect { by, ..bed.how("g.pump-3", token.bearer()) });
        assert_eq!(answer(By::Password).await.err().as_deref(), by_password, "{addresses}");
        assert_eq!(answer(By::EnhancedAuth).await.err().as_deref(), Some("BadAuthenticationMethod"), "{addresses}");
        // Nor is it a way in for a connection that stands already.
        let mut device = bed.connect("g.pump-3", &bed.token("pump-3", 600).await).await.unwrap();
        let _ = device.reauthenticate(token.bearer()).await;
        device.ended().await;
    }
}

#[tokio::test]
async fn who_shows_a_token_from_elsewhere_is_told_of_whatever_it_calls_itself() {
    let bed = Bed::start().await;
    let mut told = bed.broker.off_list();
    let limits = Limits::new(vec!["127.0.0.1/32".parse().unwrap()], None).unwrap();
    let request = TokenRequest { limits: limits.clone(), ..request("pump-3", 600) };
    let token = bed.issuer.issue(&request).await.unwrap();
    for client_id in ["g.pump-3", "somebody"] {
        let answer = thief::connects_from(thief::ELSEWHERE, bed.broker.addr(), client_id, token.bearer()).await;
        assert_eq!(answer, 0x87);
        let seen = tokio::time::timeout(mqtt_client::DEADLINE, told.recv()).await.expect("it is told").unwrap();
        assert_eq!((&*seen.device, &*seen.client_id, &seen.limits), ("pump-3", client_id, &limits));
        assert_eq!(seen.address, thief::ELSEWHERE);
    }
    // Neither who is where it should be nor who has no good token.
    assert_eq!(
        MqttClient::connect(Connect { by: By::Password, ..bed.how("g.pump-3", token.bearer()) }).await.err(),
        None
    );
    let broker = bed.broker.addr();
    assert_eq!(thief::connects_from(thief::ELSEWHERE, broker, "g.pump-3", "garbage").await, 0x87);
    assert!(told.try_recv().is_err());
    bed.broker.stop().await;
}

#[tokio::test]
async fn a_token_that_is_bound_to_a_certificate_is_refused_where_none_can_be_seen() {
    let bed = Bed::start().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), rcgen::generate_simple_self_signed(["g".to_owned()]).unwrap().cert.pem()).unwrap();
    let issuer = bed.issuer.clone().bound_to(Some(Thumbprint::of_file(file.path()).unwrap()));
    let token = token(&issuer, "pump-3", 600).await;
    for by in [By::EnhancedAuth, By::Password] {
        let answer = MqttClient::connect(Connect { by, ..bed.how("g.pump-3", &token) }).await;
        assert_eq!(answer.err().as_deref(), Some("NotAuthorized"), "{by:?}");
    }
}

#[tokio::test]
async fn who_publishes_faster_than_its_token_allows_waits_for_its_turn_and_loses_nothing() {
    let bed = Bed::start().await;
    let limits = Limits::new(Vec::new(), NonZeroU32::new(20)).unwrap();
    let token = bed.issuer.issue(&TokenRequest { limits, ..request("pump-3", 600) }).await.unwrap();
    let begun = Instant::now();
    // Twice: coming back does not fill the purse.
    for _ in 0..2 {
        let device = bed.connect("g.pump-3", token.bearer()).await.unwrap();
        for n in 0..30 {
            assert_eq!(device.publish(UP, &n.to_string()).await, "Success");
        }
    }
    // 40 at once, the rest at 20 a second.
    assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_retained_state_is_there_for_a_subscriber_that_comes_later() {
    let bed = Bed::start().await;
    let device = bed.connect("g.pump-3", &bed.token("pump-3", 600).await).await.unwrap();
    assert_eq!(device.retain("claw/v1/default/g/pump-3/up/state", "online").await, "Success");
    let message = bed.subscriber().await.next().await;
    assert!(message.retain && message.payload == "online");
}

#[tokio::test]
async fn what_comes_while_a_subscriber_is_away_waits_for_it_over_the_end_of_its_token() {
    let bed = Bed::start().await;
    let subscribe = async |life_s| {
        // Each try with a session of its own: one that an earlier connection left is not subscribed with again.
        let (short, id) = (bed.subscriber_token(life_s), format!("dash.{life_s}"));
        let how = Connect { keeps_session: true, ..bed.how(&id, &short) };
        let subscriber = MqttClient::connect(how).await.ok()?;
        (subscriber.subscribe(ALL).await == "Success(AtLeastOnce)").then_some((subscriber, id))
    };
    let (mut subscriber, id) = before_it_ends(subscribe).await;
    subscriber.ended().await;
    let device = bed.connect("g.pump-3", &bed.token("pump-3", 600).await).await.unwrap();
    assert_eq!(device.publish(UP, "1").await, "Success");
    let fresh = bed.subscriber_token(600);
    let how = Connect { keeps_session: true, ..bed.how(&id, &fresh) };
    assert_eq!(MqttClient::connect(how).await.unwrap().next().await.payload, "1");
}

#[tokio::test]
async fn over_tls_a_pinned_ca_is_enough_to_connect() {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let files = TlsFiles { certificate: dir.path().join("crt.pem"), key: dir.path().join("key.pem") };
    std::fs::write(&files.certificate, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let tls = std::sync::Arc::new(config.with_root_certificates(roots).with_no_client_auth());

    let issuer = issuer();
    let options = BrokerOptions { listen: "127.0.0.1:0".parse().unwrap(), tls: Some(files), max_clients: 16 };
    let broker = Broker::start(options, issuer.verifier("claw").unwrap()).await.unwrap();
    let token = token(&issuer, "pump-3", 600).await;
    let how = Connect { tls: Some(tls), ..Connect::to(broker.addr(), "g.pump-3", &token) };
    let device = MqttClient::connect(how).await.unwrap();
    assert_eq!(device.publish(UP, "1").await, "Success");
}
