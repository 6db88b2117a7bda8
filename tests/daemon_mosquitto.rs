//! The whole thing as real processes: sensors on ptys, the daemon, an issuer, mosquitto over TLS with the plugin, and a
//! subscriber that compares what arrived with what the sensors were told is safe.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed test says where by panicking")]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/mqtt_client.rs"]
mod mqtt_client;
#[path = "support/plugin.rs"]
mod plugin;
#[path = "daemon_mosquitto/principal.rs"]
mod principal;
mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clawgate::clock::Clock;
use clawgate::token::key::SigningKey;
use clawgate::token::oauth::{OauthIssuer, OauthOptions};
use clawgate::token::scope::Scope;
use clawgate::token::{AccessToken, Issuer, Limits, Stage, TokenRequest};
use daemon::{Daemon, Sensor, quoted};
use mqtt_client::{By, Connect, MqttClient};
use rumqttc::{AsyncClient, Event, Incoming, MqttOptions, QoS, TlsConfiguration, Transport};
use support::Mosquitto;
use tempfile::TempDir;

/// Of the devices' tokens: they are refreshed many times in a test.
const DEVICE_LIFE: &str = "10s";

/// Everything but sensors and daemon.
struct Site {
    folder: TempDir,
    broker: Mosquitto,
    _issuer: IssuerProcess,
    issuer_url: String,
    tls: Arc<rustls::ClientConfig>,
    collected: Collected,
}

struct IssuerProcess(Child);

impl Drop for IssuerProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What arrived, by the reading's name.
type Collected = Arc<Mutex<BTreeMap<String, Arrival>>>;

#[derive(Debug, Default)]
struct Arrival {
    times: usize,
    topic: String,
    /// How many others had arrived when it came first.
    place: usize,
}

impl Site {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mosquitto = tempfile::tempdir().unwrap();
        let (issuer, issuer_url) = start_issuer(folder.path());
        let jwks = ureq::get(format!("{issuer_url}/jwks")).call().unwrap().body_mut().read_to_string().unwrap();
        std::fs::write(mosquitto.path().join("jwks"), jwks).unwrap();
        // The broker reads the issuer's own deny list.
        std::os::unix::fs::symlink(folder.path().join("denylist"), mosquitto.path().join("denylist")).unwrap();
        let tls = certificates(mosquitto.path());
        std::fs::copy(mosquitto.path().join("ca.pem"), folder.path().join("ca.pem")).unwrap();
        let config = format!(
            "cafile {{dir}}/ca.pem\ncertfile {{dir}}/server.pem\nkeyfile {{dir}}/server.key\n{}\
             persistence true\npersistence_location {{dir}}/\n",
            plugin::config(&issuer_url)
        );
        let broker = Mosquitto::start_in(mosquitto, &config);
        let site = Self { folder, broker, _issuer: issuer, issuer_url, tls, collected: Collected::default() };
        site.collect().await;
        site
    }

    fn client(&self, id: &str) -> OauthIssuer {
        let key = SigningKey::load(&self.folder.path().join(format!("{id}.pem"))).unwrap();
        let options =
            OauthOptions { url: self.issuer_url.clone(), client_id: id.to_owned(), key, ca: None, certificate: None };
        OauthIssuer::new(options, Clock::system()).unwrap()
    }

    /// Subscribes to everything for the rest of the test, over the broker's restarts too.
    async fn collect(&self) {
        let token = self.client("dash").own_token("claw").await.unwrap();
        let mut options = MqttOptions::new("dash", ("localhost", self.broker.port()));
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::clone(&self.tls))));
        options.set_credentials("dash", token.bearer().to_owned());
        options.set_clean_start(false);
        options.set_session_expiry_interval(Some(3600));
        let (client, mut events) = AsyncClient::builder(options).capacity(16).build();
        let collected = Arc::clone(&self.collected);
        let (tell, subscribed) = tokio::sync::oneshot::channel();
        let mut tell = Some(tell);
        tokio::spawn(async move {
            client.subscribe("claw/v1/default/+/+/up/telemetry", QoS::AtLeastOnce).await.unwrap();
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Incoming::Publish(publish))) => {
                        let topic = String::from_utf8_lossy(&publish.topic).into_owned();
                        let properties = publish.properties.unwrap().user_properties;
                        let name = properties.into_iter().find(|(key, _)| key == "id").unwrap().1;
                        let mut collected = collected.lock().unwrap();
                        let place = collected.len();
                        collected.entry(name).or_insert(Arrival { times: 0, topic, place }).times += 1;
                    }
                    Ok(Event::Incoming(Incoming::SubAck(_))) => drop(tell.take().map(|tell| tell.send(()))),
                    Ok(_) => {}
                    // The broker is restarting.
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        });
        support::within("the subscription stands", subscribed).await.unwrap();
    }

    fn daemon(&self, ports: &[(&str, &Sensor)]) -> Daemon {
        self.daemon_with(ports, "")
    }

    /// With this added to its configuration.
    fn daemon_with(&self, ports: &[(&str, &Sensor)], more: &str) -> Daemon {
        let folder = self.folder.path();
        let mut config = format!(
            "mode = \"relay\"\n[gateway]\nid = \"gw-1\"\n[metrics]\nlisten = \"off\"\n[spool]\ncommit_ms = 100\n\
             [broker]\nurl = \"mqtts://localhost:{}\"\nca = {}\n\
             [issuer]\nkind = \"oauth\"\nurl = {:?}\nclient_key = {}\nlife = {DEVICE_LIFE:?}\n",
            self.broker.port(),
            quoted(&folder.join("ca.pem")),
            self.issuer_url,
            quoted(&folder.join("gw-1.pem")),
        );
        for (name, sensor) in ports {
            let _ = writeln!(config, "[uart.ports.{name}]\npath = {}", quoted(&sensor.line()));
        }
        config.push_str(more);
        let own = folder.join("daemon");
        std::fs::create_dir(&own).unwrap();
        Daemon::start(&own, &config)
    }

    fn arrived(&self, device: &str) -> usize {
        let topic = format!("claw/v1/default/gw-1/{device}/up/telemetry");
        self.collected.lock().unwrap().values().filter(|arrival| arrival.topic == topic).count()
    }

    /// Waits until everything that the sensor was told is safe by now has arrived.
    fn has_all_of(&self, daemon: &Daemon, sensor: &Sensor) {
        let safe = sensor.acknowledged();
        daemon.wait("every acknowledged reading arrives", |_| {
            let collected = self.collected.lock().unwrap();
            safe.iter().all(|name| collected.contains_key(name))
        });
    }

    fn duplicates(&self) -> usize {
        self.collected.lock().unwrap().values().map(|arrival| arrival.times - 1).sum()
    }

    /// Whether the readings of each start of a sensor came in their order.
    fn in_order(&self) -> bool {
        let collected = self.collected.lock().unwrap();
        let mut readings: Vec<(&str, u64, usize)> = collected
            .iter()
            .map(|(name, arrival)| {
                let (epoch, seq) = name.rsplit_once('.').unwrap();
                (epoch, seq.parse().unwrap(), arrival.place)
            })
            .collect();
        readings.sort_unstable();
        readings.windows(2).all(|pair| pair[0].0 != pair[1].0 || pair[0].2 < pair[1].2)
    }

    async fn token(&self, device: &str) -> AccessToken {
        let request = TokenRequest {
            tenant: "default".to_owned(),
            gateway: "gw-1".to_owned(),
            device: device.parse().unwrap(),
            scope: vec![Scope::TelemetryWrite],
            life: Duration::from_secs(60),
            audience: "claw".to_owned(),
            limits: Limits::default(),
            stage: Stage::default(),
        };
        self.client("gw-1").issue(&request).await.unwrap()
    }

    async fn connect(&self, client_id: &str, token: &AccessToken) -> Result<MqttClient, String> {
        let (addr, tls) = (self.broker.addr(), Some(Arc::clone(&self.tls)));
        MqttClient::connect(Connect {
            addr,
            tls,
            client_id,
            token: token.bearer(),
            by: By::EnhancedAuth,
            will: None,
            keeps_session: false,
        })
        .await
    }
}

/// `clawgate issuer serve` for one gateway and one subscriber.
fn start_issuer(folder: &Path) -> (IssuerProcess, String) {
    let clawgate = env!("CARGO_BIN_EXE_clawgate");
    let mut config = "listen = \"127.0.0.1:0\"\nlife = \"10m\"\n".to_owned();
    for (client, rights) in [
        ("gw-1", "tenant = \"default\""),
        ("dash", "topics = [\"claw/v1/default/+/+/up/#\"]"),
        ("backend", "commands = [\"claw/v1/default/+/_gateway/down/cmd/#\"]"),
    ] {
        let key = Command::new(clawgate).args(["issuer", "key"]).arg(folder.join(format!("{client}.pem"))).output();
        std::fs::write(folder.join(format!("{client}.pub")), key.unwrap().stdout).unwrap();
        let _ = writeln!(config, "[clients.{client}]\npublic_key = \"{client}.pub\"\n{rights}");
    }
    std::fs::write(folder.join("issuer.toml"), config).unwrap();
    let mut serve = Command::new(clawgate);
    serve.args(["issuer", "serve", "--json", "--config"]).arg(folder.join("issuer.toml"));
    let mut process = serve.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let said: serde_json::Value = serde_json::from_str(&line).unwrap();
    (IssuerProcess(process), said["issuer"].as_str().unwrap().to_owned())
}

/// A CA, a certificate of it for the broker, and a client that trusts only this CA.
fn certificates(folder: &Path) -> Arc<rustls::ClientConfig> {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let server = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    std::fs::write(folder.join("ca.pem"), ca_certificate.pem()).unwrap();
    std::fs::write(folder.join("server.pem"), server.pem()).unwrap();
    std::fs::write(folder.join("server.key"), key.serialize_pem()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca_certificate.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(config.with_root_certificates(roots).with_no_client_auth())
}

/// Waits until so many more readings of the device have arrived.
fn goes_on(site: &Site, daemon: &Daemon, device: &str, more: usize) {
    let before = site.arrived(device);
    daemon.wait(&format!("{more} more readings of {device} arrive"), |_| site.arrived(device) >= before + more);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_over_restarts_of_broker_daemon_and_sensor() {
    let mut site = Site::start().await;
    let mut sensor = Sensor::start(&site.folder.path().join("sensor"), &["--rate", "200"]);
    let mut daemon = site.daemon(&[("p1", &sensor)]);
    daemon.pair("p1", &mut sensor, "pump-3");
    goes_on(&site, &daemon, "pump-3", 200);

    // The broker restarts under load; meanwhile the readings are collected on.
    let before = sensor.acknowledged().len();
    site.broker.stop();
    daemon.wait("readings are safe without a broker", |_| sensor.acknowledged().len() >= before + 300);
    site.broker.resume();
    site.has_all_of(&daemon, &sensor);
    goes_on(&site, &daemon, "pump-3", 200);

    // The daemon is killed under load, twice, the second time without a broker to send to.
    daemon.kill();
    daemon.resume();
    goes_on(&site, &daemon, "pump-3", 200);
    site.broker.stop();
    let before = sensor.acknowledged().len();
    daemon.wait("readings are safe without a broker", |_| sensor.acknowledged().len() >= before + 300);
    daemon.kill();
    site.broker.resume();
    daemon.resume();
    site.has_all_of(&daemon, &sensor);
    goes_on(&site, &daemon, "pump-3", 200);

    // The sensor loses its memory and goes on under a new epoch, with the same keys.
    sensor.tell("power-cycle");
    daemon.wait("the sensor starts again", |_| sensor.starts() == 2);
    goes_on(&site, &daemon, "pump-3", 200);
    site.has_all_of(&daemon, &sensor);

    let token = &daemon.json(&["token", "ls"])[0];
    assert!(token.to_string().contains("valid"), "{token}");
    // What is safe on disk when it ends is sent by the next run.
    assert!(daemon.stop(), "an orderly end: {}", daemon.log());
    daemon.resume();
    site.has_all_of(&daemon, &sensor);
    assert!(site.in_order());
    // What was in flight at each of the two kills, the broker's two stops and the end, and no more.
    assert!(site.duplicates() <= 5 * 100, "{} duplicates", site.duplicates());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_device_is_cut_while_another_goes_on_and_no_token_reaches_anothers_topics() {
    let site = Site::start().await;
    let mut sensors: Vec<Sensor> =
        ["a", "b"].iter().map(|name| Sensor::start(&site.folder.path().join(name), &["--rate", "50"])).collect();
    let mut daemon = site.daemon(&[("p1", &sensors[0]), ("p2", &sensors[1])]);
    daemon.pair("p1", &mut sensors[0], "pump-3");
    daemon.pair("p2", &mut sensors[1], "pump-4");
    goes_on(&site, &daemon, "pump-3", 20);
    goes_on(&site, &daemon, "pump-4", 20);

    let probe = site.connect("gw-1.probe", &site.token("probe").await).await.unwrap();
    for topic in ["claw/v1/default/gw-1/pump-3/up/telemetry", "claw/v1/default/gw-1/pump-3/down/cmd/x", "anything"] {
        assert_eq!(probe.publish(topic, "[]").await, "NotAuthorized", "{topic}");
    }

    let stolen = site.token("pump-4").await;
    let done = daemon.cli(&["token", "revoke", "pump-4", "--why", "stolen"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let broker_said =
        |words: &str| site.broker.log().lines().any(|line| line.contains("gw-1.pump-4") && line.contains(words));
    daemon.wait("the connection is gone", |_| {
        ["cut off", "disconnected", "closed its connection"].iter().any(|words| broker_said(words))
    });
    assert!(!broker_said("expired"), "it was cut by the end of its token: {}", site.broker.log());
    assert_eq!(site.connect("gw-1.pump-4", &stolen).await.err().as_deref(), Some("NotAuthorized"));

    let at_rest = site.arrived("pump-4");
    goes_on(&site, &daemon, "pump-3", 100);
    assert_eq!(site.arrived("pump-4"), at_rest, "nothing more of the revoked device");

    // A restart is no pardon, pairing again is one.
    daemon.kill();
    daemon.resume();
    goes_on(&site, &daemon, "pump-3", 100);
    let listed = daemon.json(&["token", "ls"])[0].to_string();
    assert!(listed.contains("revoked"), "{listed}");
    assert_eq!(site.arrived("pump-4"), at_rest, "nothing more of the revoked device");
    daemon.pair("p2", &mut sensors[1], "pump-4");
    goes_on(&site, &daemon, "pump-4", 50);
    assert!(daemon.stop());
}
