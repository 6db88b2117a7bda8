//! The gateway itself at a real RabbitMQ, over MQTT 3.1.1: the daemon says how it is, hears signed commands, and answers.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use clawgate::clock::Clock;
use clawgate::config::BrokerProfile;
use clawgate::token::key::SigningKey;
use clawgate::token::local::{DenyList, LocalIssuer, Mint};
use clawgate::token::scope::{Action, Scope, Topics};
use clawgate::token::{ClaimForm, Issuer as _, TokenRequest};
use rumqttc_v4::{AsyncClient, Broker, Event, EventLoop, Incoming, MqttOptions, PublishOptions, QoS};
use serde_json::{Value as Json, json};

use crate::daemon::{Daemon, Sensor, quoted};
use crate::fixtures::{reader, request};
use crate::node::{RESOURCE, RabbitMq, patient};
use crate::support::{free_port, until, within};

const OWN: &str = "claw/v1/default/gw-1/_gateway";

/// RabbitMQ, the daemon whose tokens it takes, and a second issuer that it trusts, for everybody else.
struct Site {
    folder: tempfile::TempDir,
    broker: RabbitMq,
    issuer: LocalIssuer,
    ops: SigningKey,
    daemon: Daemon,
}

impl Site {
    fn start(sensors: &[(&str, &Sensor)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (ops, other) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        std::fs::write(folder.path().join("ops.pem"), ops.public_pem().unwrap()).unwrap();
        let [broker, issuer] = [free_port(), free_port()];
        let mut config = format!(
            "mode = \"relay\"\n[gateway]\nid = \"gw-1\"\n[metrics]\nlisten = \"off\"\n[spool]\ncommit_ms = 100\n\
             [broker]\nurl = \"mqtt://127.0.0.1:{broker}\"\nprofile = \"rabbitmq\"\n\
             [issuer]\nlisten = \"127.0.0.1:{issuer}\"\naudience = {RESOURCE:?}\n\
             [cloud]\nclock = \"any\"\nstatus_every = \"10s\"\n\
             [cloud.command_keys.ops]\npublic_key = {}\ncommands = [\"revoke\", \"config\"]\n",
            quoted(&folder.path().join("ops.pem")),
        );
        for (name, sensor) in sensors {
            let _ = writeln!(config, "[uart.ports.{name}]\npath = {}", quoted(&sensor.line()));
        }
        let own = folder.path().join("daemon");
        std::fs::create_dir(&own).unwrap();
        // It makes the key that the broker must know, and waits until somebody listens to what it says first.
        let mut daemon = Daemon::start(&own, &config);
        let key = key_of(issuer);
        assert!(daemon.stop());
        let broker = RabbitMq::start_on(broker, &[key, key_pem(&other)]);
        let issuer = LocalIssuer::new("urn:others", other, DenyList::in_memory(), Clock::system())
            .with_claims(ClaimForm::of(BrokerProfile::Rabbitmq));
        Self { folder, broker, issuer, ops, daemon }
    }

    fn connect(&self, client_id: &str, token: &str) -> (AsyncClient, EventLoop) {
        let mut options = MqttOptions::new(client_id, Broker::tcp("127.0.0.1", self.broker.addr().port()));
        options.set_credentials(client_id, token.to_owned());
        options.set_max_packet_size(1 << 20, 1 << 20);
        patient(AsyncClient::builder(options).capacity(16).build())
    }

    /// A client that is none of the gateway's, with rights on these topics.
    fn client(&self, name: &str, topics: &[(&str, Action)]) -> (AsyncClient, EventLoop) {
        let mint = Mint {
            sub: name.to_owned(),
            client_id: name.to_owned(),
            topics: Topics::new(topics.iter().map(|(topic, action)| ((*topic).to_owned(), vec![*action])).collect()),
            ..reader(&[], 600)
        };
        self.connect(name, &self.issuer.mint(mint).unwrap())
    }

    /// Publishes as a backend does; whether the broker took it, or closed the connection.
    async fn sends(&self, topic: &str, text: &str) -> bool {
        let commands = format!("{OWN}/down/cmd/#");
        let (client, mut events) = self.client("backend", &[(&commands, Action::Publish)]);
        client.publish(topic, text.to_owned(), PublishOptions::at_least_once()).await.unwrap();
        let answer = async {
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Incoming::PubAck(_))) => return true,
                    Ok(_) => {}
                    Err(_) => return false,
                }
            }
        };
        within("the broker answers", answer).await
    }

    async fn commands(&self, claims: &Json) -> String {
        let text = self.ops.sign("claw-cmd+jwt", claims).unwrap();
        let topic = format!("{OWN}/down/cmd/{}", claims["cmd"].as_str().unwrap());
        assert!(self.sends(&topic, &text).await, "the broker takes a command");
        text
    }

    fn audited(&self, action: &str) -> Vec<Json> {
        let lines = self.daemon.json(&["audit", "export"]);
        lines.into_iter().filter(|line| line["action"] == action).collect()
    }
}

/// Topics and payloads, as they came.
type Messages = Vec<(String, Vec<u8>)>;

/// Everything that the broker hands out, for ever.
struct Ear(Arc<Mutex<Messages>>);

impl Ear {
    async fn listen(site: &Site) -> Self {
        let (client, mut events) = site.client("dash", &[("claw/v1/#", Action::Subscribe)]);
        client.subscribe("claw/v1/#", QoS::AtLeastOnce).await.unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (into, (ready, is_ready)) = (Arc::clone(&heard), tokio::sync::oneshot::channel());
        tokio::spawn(async move {
            let (_client, mut ready) = (client, Some(ready));
            while let Ok(event) = events.poll().await {
                match event {
                    Event::Incoming(Incoming::SubAck(_)) => drop(ready.take().map(|ready| ready.send(()))),
                    Event::Incoming(Incoming::Publish(message)) => {
                        let topic = String::from_utf8(message.topic.to_vec()).unwrap();
                        into.lock().unwrap().push((topic, message.payload.to_vec()));
                    }
                    _ => {}
                }
            }
        });
        within("the subscription stands", is_ready).await.unwrap();
        Self(heard)
    }

    fn on(&self, topic: &str) -> Vec<Vec<u8>> {
        let heard = self.0.lock().unwrap();
        heard.iter().filter(|(on, _)| on == topic).map(|(_, payload)| payload.clone()).collect()
    }

    fn own(&self, leaf: &str) -> Vec<Json> {
        let all = self.on(&format!("{OWN}/up/{leaf}"));
        all.iter().map(|payload| serde_json::from_slice(payload).unwrap()).collect()
    }

    fn readings(&self, device: &str) -> usize {
        self.on(&format!("claw/v1/default/gw-1/{device}/up/telemetry")).len()
    }
}

/// The key of the daemon's own issuer, as its endpoint shows it to brokers.
fn key_of(port: u16) -> (String, String) {
    let url = format!("http://127.0.0.1:{port}/jwks");
    let jwks = ureq::get(url).call().unwrap().body_mut().read_to_string().unwrap();
    let jwks: Json = serde_json::from_str(&jwks).unwrap();
    let key = &jwks["keys"][0];
    let coordinate = |name: &str| URL_SAFE_NO_PAD.decode(key[name].as_str().unwrap()).unwrap();
    // SubjectPublicKeyInfo of an uncompressed point on P-256 (RFC 5480).
    let mut der =
        b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\0\x04"
            .to_vec();
    der.extend(coordinate("x").into_iter().chain(coordinate("y")));
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der));
    (key["kid"].as_str().unwrap().to_owned(), pem)
}

fn key_pem(key: &SigningKey) -> (String, String) {
    (key.public().kid.clone(), key.public_pem().unwrap())
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn claims(jti: &str, command: &str, args: &Json, life_s: u64) -> Json {
    let now = now_s();
    json!({
        "iss": "ops", "aud": "default/gw-1", "iat": now, "exp": now + life_s, "jti": jti, "cmd": command, "args": args,
    })
}

fn sensor(folder: &Path, name: &str) -> Sensor {
    Sensor::start(&folder.join(name), &["--rate", "20"])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_rabbitmq_the_gateway_says_how_it_is_and_obeys_signed_commands() {
    let folder = tempfile::tempdir().unwrap();
    let mut sensors = [sensor(folder.path(), "a"), sensor(folder.path(), "b")];
    let mut site = Site::start(&[("p1", &sensors[0]), ("p2", &sensors[1])]);
    let ear = Ear::listen(&site).await;
    site.daemon.resume();
    it_says_how_it_is(&site, &ear);
    site.daemon.pair("p1", &mut sensors[0], "pump-3");
    site.daemon.pair("p2", &mut sensors[1], "pump-4");
    a_signed_revocation_cuts_a_device_once(&site, &ear).await;
    nobody_gets_at_anothers_commands(&site).await;
    its_token_is_replaced_and_nobody_misses_it(&site, &ear);
    what_came_while_it_was_away_is_carried_out_in_time_or_refused(&mut site, &ear).await;
    more_than_it_takes_at_a_time_is_done_to_the_last_one(&mut site, &ear).await;
    what_it_cannot_take_is_thrown_away(&site, &ear).await;
}

fn it_says_how_it_is(site: &Site, ear: &Ear) {
    site.daemon.wait("it says how it is", |_| ear.own("status").iter().any(|said| said["state"] == "online"));
    let said = ear.own("status").into_iter().find(|said| said["state"] == "online").unwrap();
    assert_eq!((&said["gateway"], &said["commands"]), (&json!("gw-1"), &json!(["revoke", "config"])), "{said}");
    site.daemon.wait("its checkpoint is published", |_| !ear.own("audit").is_empty());
    site.daemon.wait("commands are heard", |daemon| daemon.log().contains("commands from the cloud are heard"));
}

async fn a_signed_revocation_cuts_a_device_once(site: &Site, ear: &Ear) {
    let Site { daemon, .. } = site;
    daemon.wait("both send", |_| ear.readings("pump-3") > 5 && ear.readings("pump-4") > 5);
    let revoke = claims("cut-1", "revoke", &json!({ "device": "pump-4", "why": "stolen" }), 300);
    let text = site.commands(&revoke).await;
    daemon.wait("it is answered", |_| !ear.own("reply/cut-1").is_empty());
    let first = &ear.own("reply/cut-1")[0];
    assert_eq!((&first["status"], &first["result"]["revoked"]), (&json!("done"), &json!("pump-4")), "{first}");
    let other_goes_on = |more| {
        let before = ear.readings("pump-3");
        daemon.wait("the other goes on", |_| ear.readings("pump-3") > before + more);
    };
    // What was on its way when it was cut comes with those of the other.
    other_goes_on(20);
    let at_rest = ear.readings("pump-4");
    other_goes_on(40);
    assert_eq!(ear.readings("pump-4"), at_rest, "nothing more of the revoked device");

    // The same bytes again: the same answer, and nothing done.
    assert!(site.sends(&format!("{OWN}/down/cmd/revoke"), &text).await);
    daemon.wait("it is answered again", |_| ear.own("reply/cut-1").len() >= 2);
    assert_eq!(&ear.own("reply/cut-1")[1], first);
    let lines = site.audited("token.revoke");
    assert_eq!((lines.len(), &lines[0]["actor"]["key"]), (1, &json!("ops")), "{lines:?}");
    // Nobody's signature is no reason to answer.
    let stranger = SigningKey::generate().unwrap();
    let forged = stranger.sign("claw-cmd+jwt", &claims("cut-2", "revoke", &json!({ "device": "pump-3" }), 300));
    assert!(site.sends(&format!("{OWN}/down/cmd/revoke"), &forged.unwrap()).await);
    daemon.wait("it is written down", |_| !site.audited("command.refuse").is_empty());
    daemon.wait("its alarm is said", |_| ear.own("alarm").iter().any(|said| said["kind"] == "command"));
    assert!(ear.own("reply/cut-2").is_empty());
}

/// RabbitMQ keeps everybody to the topics of the token: who gives commands, and the gateway that hears them.
async fn nobody_gets_at_anothers_commands(site: &Site) {
    let refused = site.audited("command.refuse").len();
    for topic in
        ["claw/v1/default/gw-2/_gateway/down/cmd/revoke", "claw/v1/default/gw-1/pump-3/down/cmd/x", "x/down/cmd/revoke"]
    {
        assert!(!site.sends(topic, "x").await, "{topic}");
    }
    // What the gateway's own token says to RabbitMQ, made as the daemon makes it.
    let own = TokenRequest {
        device: clawgate::ids::DeviceId::gateway(),
        scope: vec![Scope::StatusWrite, Scope::CommandRead],
        ..request("gw-9", "pump-3", 60)
    };
    let token = site.issuer.issue(&own).await.unwrap();
    let base = "claw/v1/default/gw-9/_gateway";
    for (filter, allowed) in [
        (format!("{base}/down/cmd/+"), true),
        (format!("{base}/down/#"), false),
        (format!("{OWN}/down/cmd/+"), false),
        ("claw/v1/default/gw-9/pump-3/down/cmd/+".to_owned(), false),
    ] {
        assert_eq!(subscribes(site, token.bearer(), &filter).await, allowed, "{filter}");
    }
    for (topic, allowed) in [
        (format!("{base}/up/status"), true),
        (format!("{base}/up/reply/a-1"), true),
        (format!("{base}/up/telemetry"), false),
        (format!("{base}/down/cmd/revoke"), false),
        (format!("{OWN}/up/status"), false),
    ] {
        let (client, mut events) = site.connect("gw-9._gateway", token.bearer());
        client.publish(topic.clone(), "{}", PublishOptions::at_least_once()).await.unwrap();
        let puback = within("the broker answers", answered(&mut events, |it| matches!(it, Incoming::PubAck(_)))).await;
        assert_eq!(puback.is_some(), allowed, "{topic}");
    }
    assert_eq!(site.audited("command.refuse").len(), refused, "none of it reached the gateway");
}

/// The first packet that fits, or none at the connection's end.
async fn answered(events: &mut EventLoop, fits: impl Fn(&Incoming) -> bool) -> Option<Incoming> {
    loop {
        match events.poll().await {
            Ok(Event::Incoming(packet)) if fits(&packet) => return Some(packet),
            Ok(_) => {}
            Err(_) => return None,
        }
    }
}

async fn subscribes(site: &Site, token: &str, filter: &str) -> bool {
    let (client, mut events) = site.connect("gw-9._gateway", token);
    client.subscribe(filter, QoS::AtLeastOnce).await.unwrap();
    let packet = within("the broker answers", answered(&mut events, |it| matches!(it, Incoming::SubAck(_)))).await;
    let Some(Incoming::SubAck(suback)) = packet else { return false };
    suback.return_codes.iter().all(|code| matches!(code, rumqttc_v4::SubscribeReasonCode::Success(_)))
}

/// By an operator: what is due by itself would be too late on a machine that stands still.
fn its_token_is_replaced_and_nobody_misses_it(site: &Site, ear: &Ear) {
    let heard = |daemon: &Daemon| daemon.log().matches("commands from the cloud are heard").count();
    for _ in 0..2 {
        let before = heard(&site.daemon);
        let done = site.daemon.cli(&["token", "rotate", "_gateway"]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        site.daemon.wait("it hears again with the new one", |daemon| heard(daemon) > before);
    }
    assert!(ear.own("status").iter().all(|said| said["state"] == "online"), "it left in order each time");
}

async fn what_came_while_it_was_away_is_carried_out_in_time_or_refused(site: &mut Site, ear: &Ear) {
    site.daemon.kill();
    until("its will is said", || ear.own("status").iter().any(|said| said["state"] == "offline")).await;
    let short = claims("late-1", "revoke", &json!({ "device": "pump-3" }), 2);
    site.commands(&short).await;
    site.commands(&claims("kept-1", "config", &json!({ "patch": { "log.level": "debug" } }), 300)).await;
    until("the short one is over", || now_s() > short["exp"].as_u64().unwrap()).await;
    site.daemon.resume();
    site.daemon
        .wait("both are answered", |_| !ear.own("reply/late-1").is_empty() && !ear.own("reply/kept-1").is_empty());
    let (late, kept) = (ear.own("reply/late-1").remove(0), ear.own("reply/kept-1").remove(0));
    assert_eq!((&late["status"], &kept["status"]), (&json!("refused"), &json!("done")), "{late} {kept}");
    assert!(late["why"].as_str().unwrap().contains("expired"), "{late}");
    assert!(site.audited("command.refuse").iter().any(|line| line["subject"] == "late-1"));
    assert_eq!(site.audited("token.revoke").len(), 1, "the late one did nothing");
}

/// The test's RabbitMQ hands out a hundred before the first is acknowledged, and the gateway takes 32.
async fn more_than_it_takes_at_a_time_is_done_to_the_last_one(site: &mut Site, ear: &Ear) {
    site.daemon.kill();
    let backend = format!("{OWN}/down/cmd/#");
    let (client, mut events) = site.client("burst", &[(&backend, Action::Publish)]);
    let topic = format!("{OWN}/down/cmd/revoke");
    for n in 0..80 {
        let command = claims(&format!("burst-{n}"), "revoke", &json!({ "device": "nobody" }), 600);
        let text = site.ops.sign("claw-cmd+jwt", &command).unwrap();
        client.publish(&*topic, text, PublishOptions::at_least_once()).await.unwrap();
        let puback = within("the broker answers", answered(&mut events, |it| matches!(it, Incoming::PubAck(_)))).await;
        assert!(puback.is_some(), "the broker takes a command");
    }
    site.daemon.resume();
    site.daemon.wait("each is answered", |_| (0..80).all(|n| !ear.own(&format!("reply/burst-{n}")).is_empty()));
    let first = ear.own("reply/burst-0").remove(0);
    assert_eq!((&first["status"], &first["code"]), (&json!("failed"), &json!("not_found")), "{first}");
}

/// Larger than any command: under MQTT 3.1.1 nobody can tell the broker so beforehand, and it would come for ever.
async fn what_it_cannot_take_is_thrown_away(site: &Site, ear: &Ear) {
    assert!(site.sends(&format!("{OWN}/down/cmd/revoke"), &"x".repeat(100_000)).await);
    site.daemon.wait("it is told", |daemon| daemon.log().contains("is no command"));
    // Since then, and not before: what is kept meanwhile is thrown away with it.
    site.daemon.wait("it hears again", |daemon| {
        let log = daemon.log();
        log.rsplit_once("is no command").is_some_and(|(_, since)| since.contains("commands from the cloud are heard"))
    });
    site.commands(&claims("next-1", "config", &json!({ "patch": { "log.level": null } }), 300)).await;
    site.daemon.wait("the next one is answered", |_| !ear.own("reply/next-1").is_empty());
    assert_eq!(site.daemon.log().matches("is no command").count(), 1, "{}", site.folder.path().display());
}
