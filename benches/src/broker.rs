//! Debian's mosquitto on a free loopback port: the main broker, and the local one of the bridge.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Outcome;
use crate::process::{self, Service};

/// Debian installs it where an ordinary PATH does not look.
const MOSQUITTO: &str = "/usr/sbin/mosquitto";

/// The broker that everything is measured against.
pub(crate) struct Broker {
    /// Where it listens, also after a restart.
    pub(crate) address: SocketAddr,
    config: PathBuf,
    service: Option<Service>,
}

impl Broker {
    /// Starts it with its state in `dir` and returns once it listens.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn start(dir: &Path) -> Outcome<Self> {
        let address = process::free_port()?;
        // Its own state survives an orderly restart, so that no loss of the broker's is laid at a gateway's door.
        let config = write_config(dir, "main", address, "autosave_interval 1800\n")?;
        let mut broker = Self { address, config, service: None };
        broker.resume()?;
        Ok(broker)
    }

    /// Ends it in order; it writes its queues down.
    ///
    /// # Errors
    /// It did not end.
    pub(crate) fn pause(&mut self) -> Outcome<()> {
        self.service.take().map_or(Ok(()), |mut service| service.stop())
    }

    /// Starts it again on the same port.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn resume(&mut self) -> Outcome<()> {
        self.service = Some(service(&self.config)?);
        process::wait_listening(self.address)
    }
}

/// A mosquitto that is told more, for the bridge: `autosave_interval`, `connection`.
///
/// # Errors
/// It cannot be started.
pub(crate) fn mosquitto(dir: &Path, name: &str, address: SocketAddr, more: &str) -> Outcome<Service> {
    let service = service(&write_config(dir, name, address, more)?)?;
    process::wait_listening(address)?;
    Ok(service)
}

fn service(config: &Path) -> Outcome<Service> {
    let config = config.to_owned();
    Service::start(move || {
        let mut command = Command::new(MOSQUITTO);
        command.arg("-c").arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(command)
    })
}

fn write_config(dir: &Path, name: &str, address: SocketAddr, more: &str) -> Outcome<PathBuf> {
    let state = dir.join(name);
    fs::create_dir_all(&state)?;
    let path = dir.join(format!("{name}.conf"));
    // Started as root it would change to a user who cannot read its state.
    let user = if rustix::process::getuid().is_root() { "user root\n" } else { "" };
    let text = format!(
        "{user}listener {} {}\nallow_anonymous true\nset_tcp_nodelay true\nmax_inflight_messages 0\n\
         max_queued_messages 0\npersistence true\npersistence_location {}/\nlog_dest file {}\n{more}",
        address.port(),
        address.ip(),
        state.display(),
        dir.join(format!("{name}.log")).display(),
    );
    fs::write(&path, text)?;
    Ok(path)
}
