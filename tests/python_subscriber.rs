//! The subscriber of the documentation, as a process of its own, against the embedded broker and issuer: it gets a
//! token, reads what the relay publishes, prints each reading once, and goes on when its token ends.
#![cfg(feature = "standalone")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed test says where by panicking")]

#[path = "support/fixtures.rs"]
mod fixtures;
#[path = "support/mqtt_client.rs"]
mod mqtt_client;
mod support;

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use bytes::Bytes;
use clawgate::clock::Clock;
use clawgate::ids::PairingId;
use clawgate::metrics::Metrics;
use clawgate::relay::{Relay, RelayDevice, RelayOptions};
use clawgate::spool::{Capture, Incoming, Kind, Lane, Spool, SpoolOptions};
use clawgate::standalone::issuer_server::{Client, Clients, IssuerListener, IssuerServer, Rights, ServerOptions};
use clawgate::standalone::{Broker, BrokerOptions};
use clawgate::token::keeper::{Grant, KeeperOptions};
use clawgate::token::key::SigningKey;
use clawgate::token::local::{DenyList, LocalIssuer};
use clawgate::token::scope::Scope;
use clawgate::token::{Issuer, Limits, Stage, TokenKeeper};
use clawgate_protocol::senml::{self, Number, Record, Value};
use mqtt_client::{By, Connect, MqttClient};
use serde_json::Value as Json;
use support::DEADLINE;
use tokio_util::sync::CancellationToken;

/// Short, so that both the relay and the subscriber change tokens while the test looks.
const LIFE: Duration = Duration::from_secs(5);

/// The running script; ended when dropped.
struct Script {
    process: Child,
    lines: Receiver<Json>,
    said: Receiver<String>,
}

impl Script {
    fn start(broker: SocketAddr, issuer: SocketAddr, key: &Path) -> Self {
        let mut process = Command::new("/usr/bin/python3")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/subscriber.py"))
            .args(["--port", &broker.port().to_string(), "--issuer", &format!("http://{issuer}"), "--key"])
            .arg(key)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("python3 is installed");
        let (line, lines) = channel();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        std::thread::spawn(move || {
            for text in stdout.lines().map_while(Result::ok) {
                let _ = line.send(serde_json::from_str(&text).unwrap());
            }
        });
        let (saying, said) = channel();
        let stderr = BufReader::new(process.stderr.take().unwrap());
        std::thread::spawn(move || {
            for text in stderr.lines().map_while(Result::ok) {
                let _ = saying.send(text);
            }
        });
        Self { process, lines, said }
    }

    /// The next printed line that is no presence.
    fn next(&self) -> Json {
        loop {
            let line = self.lines.recv_timeout(DEADLINE).unwrap_or_else(|error| {
                panic!("nothing printed ({error}); it said {:?}", self.said.try_iter().collect::<Vec<_>>())
            });
            if line.get("state").is_none() {
                return line;
            }
        }
    }

    /// Waits until it has got another token and subscribed with it.
    fn has_another_token(&self) {
        let says = || self.said.recv_timeout(DEADLINE).unwrap();
        let mut said = says();
        // On a slow machine one may end before it was used.
        while said != "subscribed" {
            assert!(said.starts_with("token for"), "{said}: are python3-paho-mqtt and python3-jwt installed?");
            said = says();
        }
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn pack(value: i64) -> Bytes {
    let record = Record {
        base_time: Some(Number::Integer(1_700_000_000)),
        name: Some("t"),
        unit: Some("Cel"),
        value: Some(Value::Number(Number::Integer(value))),
        ..Record::default()
    };
    let mut out = [0; 128];
    let len = senml::encode(&[record], &mut out).unwrap();
    Bytes::copy_from_slice(&out[..len])
}

fn submit(lane: &Lane, seq: u64, kind: Kind, content: Bytes) {
    lane.submit(Incoming { epoch: 0xfeed, seq, kind, content, captured: Capture::Exact }).unwrap();
}

/// What the daemon is made of, between a sensor's session and the broker.
struct Gateway {
    _relay: Relay,
    _keeper: TokenKeeper,
    lane: Lane,
}

fn gateway(folder: &Path, issuer: &LocalIssuer, broker: SocketAddr) -> Gateway {
    let spool = Spool::open(&folder.join("spool.db"), SpoolOptions::default(), Clock::system()).unwrap();
    tokio::spawn(spool.clone().run(CancellationToken::new()));
    let options = RelayOptions::new("127.0.0.1".into(), broker.port(), "default".into(), "gw-1".into());
    let relay = Relay::new(options, Clock::system(), Metrics::new().relay).unwrap();
    let options = KeeperOptions { tenant: "default".into(), gateway: "gw-1".into(), stage: Stage::default() };
    let keeper = TokenKeeper::new(Arc::new(issuer.clone()) as Arc<dyn Issuer>, options, Clock::system());
    let (device, pairing) = ("pump-3".parse().unwrap(), PairingId([7; 8]));
    let grant =
        Grant { scope: vec![Scope::TelemetryWrite], life: LIFE, audience: "claw".into(), limits: Limits::default() };
    let token = keeper.add(&device, grant).unwrap();
    let lane = spool.lane(pairing);
    let description = serde_json::json!({ "units": ["Cel"] });
    relay.attach(RelayDevice { id: device, pairing, description }, lane.clone(), token);
    Gateway { _relay: relay, _keeper: keeper, lane }
}

/// Delivers one reading twice, as a gateway may after a restart.
async fn deliver_twice(issuer: &LocalIssuer, addr: SocketAddr, topic: &str, id: &str) {
    let token = issuer.issue(&fixtures::request("gw-1", "pump-4", 600)).await.unwrap();
    let how = Connect { by: By::Password, ..Connect::to(addr, "gw-1.pump-4", token.bearer()) };
    let device = MqttClient::connect(how).await.unwrap();
    for _ in 0..2 {
        assert_eq!(device.publish_named(topic, "[]", id).await, "Success");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_subscriber_reads_on_over_the_end_of_its_token() {
    let folder = tempfile::tempdir().unwrap();
    let listener = IssuerListener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let name = format!("http://{}", listener.addr());
    let issuer = LocalIssuer::new(&name, SigningKey::generate().unwrap(), DenyList::in_memory(), Clock::system());
    let key_file = folder.path().join("dash.pem");
    let client = Client {
        id: "dash".into(),
        key: SigningKey::load_or_create(&key_file).unwrap().public().clone(),
        rights: Rights::Subscriber { topics: vec!["claw/v1/default/+/+/up/#".into()], commands: vec![] },
    };
    let options = ServerOptions { audience: "claw".into(), life: LIFE, url: None };
    let server = IssuerServer::start(listener, issuer.clone(), Clients::new([client], Some("gw-1")).unwrap(), options);
    let options = BrokerOptions { listen: "127.0.0.1:0".parse().unwrap(), tls: None, max_clients: 16 };
    let broker = Broker::start(options, issuer.verifier("claw").unwrap()).await.unwrap();

    let script = Script::start(broker.addr(), server.addr(), &key_file);
    script.has_another_token();
    let gateway = gateway(folder.path(), &issuer, broker.addr());
    submit(&gateway.lane, 1, Kind::Telemetry, pack(21));
    let first = script.next();
    assert_eq!(first["id"], "0707070707070707.000000000000feed.1");
    assert_eq!(first["topic"], "claw/v1/default/gw-1/pump-3/up/telemetry");
    assert_eq!(first["content"][0]["v"], 21);

    deliver_twice(&issuer, broker.addr(), "claw/v1/default/gw-1/pump-4/up/telemetry", "x.y.1").await;
    assert_eq!(script.next()["id"], "x.y.1");

    script.has_another_token();
    submit(&gateway.lane, 2, Kind::Telemetry, pack(22));
    assert_eq!(script.next()["content"][0]["v"], 22, "the duplicate was not printed, the next reading was");
    script.has_another_token();
    submit(&gateway.lane, 3, Kind::Gap { to: 9 }, Bytes::from_static(b"memory full"));
    let gap = script.next();
    assert_eq!((gap["type"].as_str(), gap["content"]["to"].as_u64()), (Some("claw.gap.v1"), Some(9)));
}
