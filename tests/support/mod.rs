//! What the tests against real parts share: conditions with a deadline, ports, and Debian's mosquitto.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends")]

mod ports;

use std::future::Future;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clawgate::clock::Clock;
use clawgate::ids::DeviceId;
use clawgate::token::scope::{Scope, Topics};
use clawgate::token::{AccessToken, TokenFeed, TokenHandle, TokenState};
use rumqttc::{AsyncClient, Broker, Event, Incoming, MqttOptions, QoS};
use tempfile::TempDir;
use tokio::task::JoinHandle;

pub(crate) use ports::free_port;

/// Nothing here takes longer on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// Waits until `condition` holds.
///
/// # Panics
/// Panics with `what` when it does not within [`DEADLINE`].
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + DEADLINE;
    while !condition() {
        assert!(tokio::time::Instant::now() < end, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits for `future` at most [`DEADLINE`].
///
/// # Panics
/// Panics with `what` when it takes longer.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("not within {DEADLINE:?}: {what}"))
}

/// A mosquitto of the test's own, on loopback; ended when dropped.
pub struct Mosquitto {
    folder: TempDir,
    port: u16,
    child: Option<Child>,
}

impl Mosquitto {
    /// Starts one that lets everybody in.
    pub fn start() -> Self {
        Self::start_with("allow_anonymous true\n")
    }

    /// Starts one with these lines of configuration after its listener. `{dir}` stands for its folder.
    pub fn start_with(config: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), config)
    }

    /// As [`start_with`](Self::start_with), in a folder that already holds what the configuration names.
    pub fn start_in(folder: TempDir, config: &str) -> Self {
        let port = free_port();
        let config = config.replace("{dir}", &folder.path().display().to_string());
        let mut file = std::fs::File::create(folder.path().join("mosquitto.conf")).unwrap();
        // Started by root it would become another user, who cannot read the folder.
        let user = String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap();
        writeln!(file, "user {}\nmax_queued_messages 0\nlistener {port} 127.0.0.1\n{config}", user.trim()).unwrap();
        let mut broker = Self { folder, port, child: None };
        broker.resume();
        broker
    }

    /// Its address.
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where its configuration and log are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Starts it again on the same port.
    pub fn resume(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let child = Command::new(mosquitto())
            .arg("-v")
            .arg("-c")
            .arg(self.folder.path().join("mosquitto.conf"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("mosquitto is installed (apt-get install mosquitto)");
        let child = self.child.insert(child);
        let end = Instant::now() + DEADLINE;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            let is_up = child.try_wait().unwrap().is_none() && Instant::now() < end;
            assert!(is_up, "mosquitto does not listen: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends it in order: it saves its sessions where it is told to.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
            let _ = child.wait();
        }
    }

    /// Kills it: connections and everything it held in memory are gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops it from running without closing anything (`SIGSTOP`), or lets it go on (`SIGCONT`).
    pub fn freeze(&self, frozen: bool) {
        self.signal(if frozen { "-STOP" } else { "-CONT" });
    }

    /// Has it read its files again (`SIGHUP`).
    pub fn hang_up(&self) {
        self.signal("-HUP");
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().expect("it runs").id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Where Debian puts it.
pub fn mosquitto() -> PathBuf {
    ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"]
        .iter()
        .map(PathBuf::from)
        .find(|path| path.exists())
        .unwrap_or("mosquitto".into())
}

/// What a subscriber was sent.
#[derive(Debug, Clone)]
pub struct Received {
    pub topic: String,
    pub payload: Vec<u8>,
    pub retained: bool,
    pub content_type: String,
    pub properties: Vec<(String, String)>,
}

impl Received {
    /// One of the CloudEvents attributes.
    pub fn attribute(&self, name: &str) -> &str {
        self.properties.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// The seq at the end of a reading's id.
    pub fn seq(&self) -> u64 {
        self.attribute("id").rsplit('.').next().and_then(|seq| seq.parse().ok()).unwrap_or(0)
    }
}

/// A subscriber of its own, independent of the relay; its session survives a restart of the broker.
pub struct Subscriber {
    received: Arc<Mutex<Vec<Received>>>,
    task: JoinHandle<()>,
}

impl Subscriber {
    /// Subscribes to everything below `claw/`.
    pub async fn start(broker: &Mosquitto) -> Self {
        let mut options = MqttOptions::new("subscriber", Broker::tcp("127.0.0.1", broker.port()));
        options.set_clean_start(false).set_session_expiry_interval(Some(3600)).set_keep_alive(60);
        options.set_max_packet_size(Some(1 << 20));
        options.set_connect_timeout(DEADLINE);
        let (client, mut events) = AsyncClient::builder(options).capacity(16).build();
        let received = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&received);
        let (ready_tx, ready) = tokio::sync::oneshot::channel();
        client.subscribe("claw/#", QoS::AtLeastOnce).await.unwrap();
        let task = tokio::spawn(async move {
            let _client = client;
            let mut ready = Some(ready_tx);
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Incoming::SubAck(_))) => {
                        if let Some(ready) = ready.take() {
                            let _ = ready.send(());
                        }
                    }
                    Ok(Event::Incoming(Incoming::Publish(publish))) => {
                        let properties = publish.properties.unwrap_or_default();
                        into.lock().unwrap().push(Received {
                            topic: String::from_utf8(publish.topic.to_vec()).unwrap(),
                            payload: publish.payload.to_vec(),
                            retained: publish.retain,
                            content_type: properties.content_type.unwrap_or_default(),
                            properties: properties.user_properties,
                        });
                    }
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        });
        within("the subscriber is subscribed", ready).await.unwrap();
        Self { received, task }
    }

    /// Everything so far on topics that end so.
    pub fn on(&self, leaf: &str) -> Vec<Received> {
        let all = self.received.lock().unwrap();
        all.iter().filter(|message| message.topic.ends_with(leaf)).cloned().collect()
    }

    /// Seqs of the readings of one device, each where it came first.
    pub fn seqs(&self, device: &str) -> Vec<u64> {
        let mut seen = std::collections::HashSet::new();
        let leaf = format!("/{device}/up/telemetry");
        self.on(&leaf).iter().map(Received::seq).filter(|seq| seen.insert(*seq)).collect()
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A token as an issuer would make it for this device; nobody has signed it.
pub fn token(device: &str, id: &str, life: Duration) -> AccessToken {
    let device: DeviceId = device.parse().unwrap();
    token_for(&device, id, life, &Topics::of_device("default", "site-1", &device, &[Scope::TelemetryWrite]))
}

/// A token for a device with topics of the test's choice.
pub fn token_for(device: &DeviceId, id: &str, life: Duration, topics: &Topics) -> AccessToken {
    limited_token(device, id, life, topics, None)
}

/// The same with so many publishes a second.
pub fn limited_token(
    device: &DeviceId,
    id: &str,
    life: Duration,
    topics: &Topics,
    per_second: Option<u32>,
) -> AccessToken {
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = part(serde_json::json!({ "alg": "ES256", "typ": "at+jwt" }));
    let claims = part(serde_json::json!({
        "iss": "test", "sub": device, "aud": "claw", "client_id": "site-1", "jti": id,
        "iat": 1_000_000, "exp": 1_000_000 + life.as_secs(), "scope": "telemetry:write", "claw_aif": topics,
        "claw_rate": per_second,
    }));
    AccessToken::received(format!("{header}.{claims}.c2ln"), &Clock::system()).unwrap()
}

/// Both ends of the token of a device that has one.
pub fn token_feed(device: &str) -> (TokenFeed, TokenHandle) {
    let state = TokenState::Valid(Arc::new(token(device, "first", Duration::from_secs(600))));
    TokenFeed::new(state)
}
