//! A RabbitMQ of the test's own: Debian's server with MQTT and the OAuth 2 backend, on loopback alone.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clawgate::token::key::SigningKey;
use rumqttc_v4::{AsyncClient, EventLoop};

use crate::support::free_port;

/// Erlang boots slowly, and more so beside other tests.
const BOOT: Duration = Duration::from_secs(180);

/// The id that scopes begin with: the audience of the tests' tokens.
pub(crate) const RESOURCE: &str = "claw";

/// One node, and the port mapper that it insists on; both end when dropped.
pub(crate) struct RabbitMq {
    folder: tempfile::TempDir,
    name: String,
    port: u16,
    mapper_port: u16,
    mapper: Child,
    node: Child,
}

impl RabbitMq {
    /// Starts one that takes the tokens of this key.
    pub(crate) fn start(key: &SigningKey) -> Self {
        Self::start_on(free_port(), &[(key.public().kid.clone(), key.public_pem().unwrap())])
    }

    /// Starts one on this port that takes the tokens of these keys: the id and the public half of each.
    pub(crate) fn start_on(port: u16, keys: &[(String, String)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [mapper_port, node_port] = [free_port(), free_port()];
        let name = format!("claw{}x{port}@localhost", std::process::id());
        configure(folder.path(), port, keys);
        let mapper = Command::new("/usr/bin/epmd")
            .args(["-address", "127.0.0.1", "-port", &mapper_port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("epmd is installed (apt-get install rabbitmq-server)");
        // A node that finds none starts one of its own, which nobody ends.
        let end = Instant::now() + BOOT;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, mapper_port)).is_err() {
            assert!(Instant::now() < end, "epmd does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let in_folder = |name: &str| folder.path().join(name);
        let node = Command::new("/usr/lib/rabbitmq/bin/rabbitmq-server")
            .env("HOME", in_folder("home"))
            // The script then becomes the node, instead of watching it: its pid is the node's.
            .env("RUNNING_UNDER_SYSTEMD", "true")
            .env("RABBITMQ_NODENAME", &name)
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env("RABBITMQ_CONFIG_FILE", in_folder("rabbitmq.conf"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", in_folder("enabled_plugins"))
            .env("RABBITMQ_MNESIA_BASE", in_folder("db"))
            .env("RABBITMQ_LOG_BASE", in_folder("logs"))
            .env("RABBITMQ_LOGS", "-")
            .env("RABBITMQ_PID_FILE", in_folder("pid"))
            .env("RABBITMQ_DIST_PORT", node_port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("ERL_EPMD_PORT", mapper_port.to_string())
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "-kernel inet_dist_use_interface {127,0,0,1} +S 1:1 +SDcpu 1:1 +SDio 1 +A 1",
            )
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("rabbitmq-server is installed (apt-get install rabbitmq-server)");
        let mut broker = Self { folder, name, port, mapper_port, mapper, node };
        let end = Instant::now() + BOOT;
        while TcpStream::connect(broker.addr()).is_err() {
            assert!(broker.node.try_wait().unwrap().is_none(), "RabbitMQ ended: {}", broker.log());
            assert!(Instant::now() < end, "RabbitMQ does not listen: {}", broker.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        broker
    }

    /// Where it speaks MQTT.
    pub(crate) fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// What the node's own command line says.
    pub(crate) fn ctl(&self, args: &[&str]) -> String {
        let done = Command::new("/usr/lib/rabbitmq/bin/rabbitmqctl")
            .env("HOME", self.folder.path().join("home"))
            .env("RABBITMQ_NODENAME", &self.name)
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", self.folder.path().join("enabled_plugins"))
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("ERL_EPMD_PORT", self.mapper_port.to_string())
            .args(args)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(done.status.success(), "{args:?}: {said}{}", String::from_utf8_lossy(&done.stderr));
        said
    }

    /// Where its files are.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What it logged so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        for child in [&mut self.node, &mut self.mapper] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A client that waits for a slow broker's answer instead of taking it for a refusal.
pub(crate) fn patient((client, mut events): (AsyncClient, EventLoop)) -> (AsyncClient, EventLoop) {
    events.network_options.set_connection_timeout(BOOT.as_secs());
    (client, events)
}

/// docs/brokers.md shows the same lines, but for the prefetch: a burst is to be one.
fn configure(folder: &Path, port: u16, keys: &[(String, String)]) {
    std::fs::create_dir(folder.join("home")).unwrap();
    let mut signing_keys = String::new();
    for (kid, pem) in keys {
        let path = folder.join(format!("{kid}.pem"));
        std::fs::write(&path, pem).unwrap();
        let _ = writeln!(signing_keys, "auth_oauth2.signing_keys.{kid} = {}", path.display());
    }
    std::fs::write(folder.join("enabled_plugins"), "[rabbitmq_mqtt,rabbitmq_auth_backend_oauth2].\n").unwrap();
    let config = format!(
        "listeners.tcp = none
mqtt.listeners.tcp.1 = 127.0.0.1:{port}
mqtt.allow_anonymous = false
mqtt.prefetch = 100
auth_backends.1 = rabbit_auth_backend_oauth2
auth_oauth2.resource_server_id = {RESOURCE}
auth_oauth2.additional_scopes_key = claw_rabbitmq
auth_oauth2.default_key = {kid}
{signing_keys}vm_memory_high_watermark.absolute = 256MB
disk_free_limit.absolute = 1MB
log.console = true
log.console.level = info
log.file = false
",
        kid = keys[0].0,
    );
    std::fs::write(folder.join("rabbitmq.conf"), config).unwrap();
}
