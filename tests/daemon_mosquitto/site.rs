//! A site as real processes: issuer, mosquitto over TLS with the plugin, and a subscriber that keeps account.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use clawgate::clock::Clock;
use clawgate::token::key::SigningKey;
use clawgate::token::oauth::{OauthIssuer, OauthOptions};
use clawgate::token::{AccessToken, Issuer};
use rumqttc::{AsyncClient, Event, Incoming, MqttOptions, Publish, QoS, TlsConfiguration, Transport};
use tempfile::TempDir;

use super::authority::{authority_of, client_tls};
use super::daemon::{Daemon, Sensor, quoted};
use super::fixtures::request;
use super::issuer_front::Front;
use super::mqtt_client::{Connect, MqttClient};
use super::plugin;
use super::support::{self, Mosquitto};

/// Of the devices' tokens, where a test does not say otherwise: they are refreshed many times in it.
pub(crate) const DEVICE_LIFE: Duration = Duration::from_secs(10);

/// Everything but sensors and daemon.
pub(crate) struct Site {
    pub(crate) folder: TempDir,
    pub(crate) broker: Mosquitto,
    issuer: Option<IssuerProcess>,
    /// Everybody reaches the issuer through it.
    pub(crate) front: Front,
    pub(crate) tls: Arc<rustls::ClientConfig>,
    pub(crate) collected: Collected,
    /// Of the devices' tokens.
    pub(crate) life: Duration,
}

struct IssuerProcess(Child);

impl IssuerProcess {
    /// Behind this front from now on.
    fn start(folder: &Path, front: &Front, environment: &[(&str, String)]) -> Self {
        let mut serve = Command::new(env!("CARGO_BIN_EXE_clawgate"));
        serve.args(["issuer", "serve", "--json", "--config"]).arg(folder.join("issuer.toml"));
        serve.envs(environment.iter().map(|(name, value)| (name, value)));
        let mut process = serve.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said: serde_json::Value = serde_json::from_str(&line).unwrap();
        front.leads_to(said["listen"].as_str().unwrap().parse().unwrap());
        Self(process)
    }
}

impl Drop for IssuerProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What arrived, by the reading's name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Collected(Arc<Mutex<BTreeMap<String, Arrival>>>);

impl Collected {
    /// Keeps account of a reading.
    pub(crate) fn note(&self, publish: Publish) {
        let topic = String::from_utf8_lossy(&publish.topic).into_owned();
        let properties = publish.properties.unwrap().user_properties;
        let name = properties.into_iter().find(|(key, _)| key == "id").unwrap().1;
        let mut collected = self.lock();
        let place = collected.len();
        collected.entry(name).or_insert(Arrival { times: 0, topic, place }).times += 1;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arrival>> {
        self.0.lock().unwrap()
    }
}

#[derive(Debug, Default)]
struct Arrival {
    times: usize,
    topic: String,
    /// How many others had arrived when it came first.
    place: usize,
}

impl Site {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mosquitto = tempfile::tempdir().unwrap();
        let front = Front::start();
        register(folder.path(), front.url());
        let issuer = IssuerProcess::start(folder.path(), &front, &[]);
        let jwks = ureq::get(format!("{}/jwks", front.url())).call().unwrap().body_mut().read_to_string().unwrap();
        std::fs::write(mosquitto.path().join("jwks"), jwks).unwrap();
        // The broker reads the issuer's own deny list.
        std::os::unix::fs::symlink(folder.path().join("denylist"), mosquitto.path().join("denylist")).unwrap();
        authority_of(mosquitto.path(), "ca", &["server"]);
        let tls = client_tls(mosquitto.path(), "ca.pem", None);
        std::fs::copy(mosquitto.path().join("ca.pem"), folder.path().join("ca.pem")).unwrap();
        let config = format!(
            "cafile {{dir}}/ca.pem\ncertfile {{dir}}/server.pem\nkeyfile {{dir}}/server.key\n{}\
             persistence true\npersistence_location {{dir}}/\n",
            plugin::config(front.url())
        );
        let broker = Mosquitto::start_in(mosquitto, &config);
        let site = Self { issuer: Some(issuer), ..Self::with(folder, broker, front, tls) };
        site.collect().await;
        site
    }

    /// One whose issuer is the daemon itself, behind the front once it runs.
    pub(crate) fn of(folder: TempDir, broker: Mosquitto, front: Front) -> Self {
        authority_of(broker.folder(), "ca", &[]);
        let tls = client_tls(broker.folder(), "ca.pem", None);
        Self::with(folder, broker, front, tls)
    }

    fn with(folder: TempDir, broker: Mosquitto, front: Front, tls: Arc<rustls::ClientConfig>) -> Self {
        Self { folder, broker, issuer: None, front, tls, collected: Collected::default(), life: DEVICE_LIFE }
    }

    pub(crate) fn client(&self, id: &str) -> OauthIssuer {
        let key = SigningKey::load(&self.folder.path().join(format!("{id}.pem"))).unwrap();
        let options = OauthOptions {
            url: self.front.url().to_owned(),
            client_id: id.to_owned(),
            key,
            ca: None,
            certificate: None,
        };
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
        options.set_connect_timeout(support::DEADLINE);
        let (client, mut events) = AsyncClient::builder(options).capacity(16).build();
        let collected = self.collected.clone();
        let (tell, subscribed) = tokio::sync::oneshot::channel();
        let mut tell = Some(tell);
        tokio::spawn(async move {
            client.subscribe("claw/v1/default/+/+/up/telemetry", QoS::AtLeastOnce).await.unwrap();
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Incoming::Publish(publish))) => collected.note(publish),
                    Ok(Event::Incoming(Incoming::SubAck(_))) => drop(tell.take().map(|tell| tell.send(()))),
                    Ok(_) => {}
                    // The broker is restarting.
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        });
        support::within("the subscription stands", subscribed).await.unwrap();
    }

    /// The issuer's process ends, whatever it was doing.
    pub(crate) fn stop_issuer(&mut self) {
        self.front.leads_nowhere();
        self.issuer = None;
    }

    /// Another process of the same issuer, with its key and what it revoked.
    pub(crate) fn resume_issuer(&mut self) {
        self.resume_issuer_in(&[]);
    }

    /// The same in this environment.
    pub(crate) fn resume_issuer_in(&mut self, environment: &[(&str, String)]) {
        self.issuer = Some(IssuerProcess::start(self.folder.path(), &self.front, environment));
    }

    pub(crate) fn daemon(&self, ports: &[(&str, &Sensor)]) -> Daemon {
        self.daemon_with(ports, "")
    }

    /// With this added to its configuration.
    pub(crate) fn daemon_with(&self, ports: &[(&str, &Sensor)], more: &str) -> Daemon {
        self.daemon_in(ports, more, &[])
    }

    /// With this added to its configuration and its environment.
    pub(crate) fn daemon_in(&self, ports: &[(&str, &Sensor)], more: &str, environment: &[(&str, String)]) -> Daemon {
        let folder = self.folder.path();
        let mut config = format!(
            "mode = \"relay\"\n[gateway]\nid = \"gw-1\"\n[metrics]\nlisten = \"off\"\n[spool]\ncommit_ms = 100\n\
             [broker]\nurl = \"mqtts://localhost:{}\"\nca = {}\n\
             [issuer]\nkind = \"oauth\"\nurl = {:?}\nclient_key = {}\nlife = \"{}s\"\n",
            self.broker.port(),
            quoted(&folder.join("ca.pem")),
            self.front.url(),
            quoted(&folder.join("gw-1.pem")),
            self.life.as_secs(),
        );
        for (name, sensor) in ports {
            let _ = writeln!(config, "[uart.ports.{name}]\npath = {}", quoted(&sensor.line()));
        }
        config.push_str(more);
        let own = self.daemon_folder();
        std::fs::create_dir_all(&own).unwrap();
        Daemon::start_with(&own, &config, environment)
    }

    /// Where the daemon has its socket, and in `state` its state.
    pub(crate) fn daemon_folder(&self) -> PathBuf {
        self.folder.path().join("daemon")
    }

    pub(crate) fn arrived(&self, device: &str) -> usize {
        let topic = format!("claw/v1/default/gw-1/{device}/up/telemetry");
        self.collected.lock().values().filter(|arrival| arrival.topic == topic).count()
    }

    /// Whether the broker has logged this of a device's connection; what stood in its log `before` does not count.
    pub(crate) fn broker_said(&self, before: usize, device: &str, words: &str) -> bool {
        let client = format!("gw-1.{device}");
        self.broker.log()[before..].lines().any(|line| line.contains(&client) && line.contains(words))
    }

    /// How many connections of a device's the broker has let in.
    pub(crate) fn connections(&self, device: &str) -> usize {
        let client = format!(" as gw-1.{device} (");
        self.broker.log().lines().filter(|line| line.contains("New client connected") && line.contains(&client)).count()
    }

    /// Waits until a device that gets no token has no connection any more: the broker has read all that came by the last
    /// one, and the daemon may have left that one before.
    pub(crate) fn loses(&self, daemon: &Daemon, device: &str) {
        let client = format!("gw-1.{device}");
        daemon.wait("the connection is gone", |_| {
            let log = self.broker.log();
            let mut seen = log.lines().filter(|line| line.contains(&client)).filter_map(|line| {
                let ends =
                    ["disconnect", "closed its connection", "Bad socket"].iter().any(|words| line.contains(words));
                (ends || line.contains("New client connected")).then_some(ends)
            });
            seen.next_back() == Some(true)
        });
        self.settles(daemon);
    }

    /// Waits until every reading that the broker took by now has arrived. (Neither it nor the subscriber may have been
    /// away before, after which some arrive twice.)
    pub(crate) fn settles(&self, daemon: &Daemon) {
        let log = self.broker.log();
        let taken =
            log.lines().filter(|line| line.contains("Received PUBLISH from gw-1.") && line.contains("/telemetry'"));
        let taken = taken.count();
        daemon.wait("what the broker took arrives", |_| {
            self.collected.lock().values().map(|arrival| arrival.times).sum::<usize>() >= taken
        });
    }

    /// Waits until everything that the sensor was told is safe by now has arrived.
    pub(crate) fn has_all_of(&self, daemon: &Daemon, sensor: &Sensor) {
        // What it still held when it was paired again comes under the new pairing.
        let of_its_start = |name: &String| name.split_once('.').unwrap().1.to_owned();
        let safe: BTreeSet<String> = sensor.acknowledged().iter().map(of_its_start).collect();
        daemon.wait("every acknowledged reading arrives", |_| {
            safe.is_subset(&self.collected.lock().keys().map(of_its_start).collect())
        });
    }

    /// The names of the readings that came, with how often.
    pub(crate) fn came(&self) -> BTreeMap<String, usize> {
        self.collected.lock().iter().map(|(name, arrival)| (name.clone(), arrival.times)).collect()
    }

    pub(crate) fn duplicates(&self) -> usize {
        self.collected.lock().values().map(|arrival| arrival.times - 1).sum()
    }

    /// Whether the readings of each start of a sensor came in their order.
    pub(crate) fn in_order(&self) -> bool {
        let collected = self.collected.lock();
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

    pub(crate) async fn token(&self, device: &str) -> AccessToken {
        let request = request("gw-1", device, 60);
        self.client("gw-1").issue(&request).await.unwrap()
    }

    pub(crate) async fn connect(&self, client_id: &str, token: &AccessToken) -> Result<MqttClient, String> {
        let how = Connect::to(self.broker.addr(), client_id, token.bearer());
        MqttClient::connect(Connect { tls: Some(Arc::clone(&self.tls)), ..how }).await
    }
}

/// What `clawgate issuer serve` runs by: a gateway, a subscriber and a backend are its clients.
fn register(folder: &Path, url: &str) {
    let clawgate = env!("CARGO_BIN_EXE_clawgate");
    // The subscribers of the tests have no other token than their first.
    let mut config = format!("listen = \"127.0.0.1:0\"\nurl = {url:?}\nlife = \"2h\"\n");
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
}

/// Waits until so many more readings of the device have arrived.
pub(crate) fn goes_on(site: &Site, daemon: &Daemon, device: &str, more: usize) {
    let before = site.arrived(device);
    daemon.wait(&format!("{more} more readings of {device} arrive"), |_| site.arrived(device) >= before + more);
}
