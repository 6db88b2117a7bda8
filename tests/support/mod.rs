//! What the tests against real parts share: conditions with a deadline, and Debian's mosquitto.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends")]

use std::future::Future;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Nothing here takes longer on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(30);

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

/// A loopback port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
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
        let child = Command::new(binary())
            .arg("-v")
            .arg("-c")
            .arg(self.folder.path().join("mosquitto.conf"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("mosquitto is installed (apt-get install mosquitto)");
        self.child = Some(child);
        let end = Instant::now() + DEADLINE;
        while TcpStream::connect(self.addr()).is_err() {
            assert!(Instant::now() < end, "mosquitto does not listen: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
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
        let pid = self.child.as_ref().expect("it runs").id().to_string();
        let signal = if frozen { "-STOP" } else { "-CONT" };
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
    }
}

fn binary() -> PathBuf {
    ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"]
        .iter()
        .map(PathBuf::from)
        .find(|path| path.exists())
        .unwrap_or("mosquitto".into())
}
