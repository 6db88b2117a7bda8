//! The place of a demonstration: a private directory that goes with it, keys, and the daemon's configuration.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use crate::token::key::{KeyError, SigningKey};

/// Tenant and gateway of the demonstration.
pub(super) const SITE: &str = "demo";
/// The subscriber's client id.
pub(super) const SUBSCRIBER: &str = "viewer";

/// A directory of mode 0700 that is removed when dropped.
#[derive(Debug)]
pub(super) struct Workshop(PathBuf);

impl Workshop {
    /// Makes the directory, the subscriber's key and the configuration for `sensors` serial lines.
    pub(super) fn new(sensors: usize) -> Result<Self, WorkshopError> {
        let dir = std::env::temp_dir();
        let path = (0..100)
            .map(|attempt| dir.join(format!("clawgate-demo-{}-{attempt}", std::process::id())))
            .find(|path| DirBuilder::new().mode(0o700).create(path).is_ok())
            .ok_or_else(|| WorkshopError::Directory { dir, source: io::Error::last_os_error() })?;
        let workshop = Self(path);
        let key = SigningKey::load_or_create(&workshop.subscriber_key())?;
        workshop.write("subscriber.pub.pem", &key.public_pem()?)?;
        workshop.write("clawgate.toml", &workshop.configuration(sensors))?;
        Ok(workshop)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn config(&self) -> PathBuf {
        self.0.join("clawgate.toml")
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.0.join("control.sock")
    }

    pub(super) fn subscriber_key(&self) -> PathBuf {
        self.0.join("subscriber.key.pem")
    }

    pub(super) fn subscriber_log(&self) -> PathBuf {
        self.0.join("subscriber.jsonl")
    }

    /// The serial line of a sensor, counted from 1.
    pub(super) fn line(&self, sensor: usize) -> PathBuf {
        self.0.join(format!("tty-{sensor}"))
    }

    pub(super) fn sensor_log(&self, sensor: usize) -> PathBuf {
        self.0.join(format!("sensor-{sensor}.jsonl"))
    }

    fn write(&self, name: &str, content: &str) -> Result<(), WorkshopError> {
        let path = self.0.join(name);
        fs::write(&path, content).map_err(|source| WorkshopError::Directory { dir: path, source })
    }

    fn configuration(&self, sensors: usize) -> String {
        let dir = self.0.display();
        let port = |sensor| format!("[uart.ports.line-{sensor}]\npath = \"{}\"", self.line(sensor).display());
        let ports: Vec<String> = (1..=sensors).map(port).collect();
        format!(
            "mode = \"standalone\"\nstate_dir = \"{dir}/state\"\n\
             [gateway]\nid = \"{SITE}\"\ntenant = \"{SITE}\"\n\
             [control]\nsocket = \"{dir}/control.sock\"\n\
             [issuer]\nlife = \"10s\"\nlisten = \"127.0.0.1:0\"\n\
             [standalone]\nlisten = \"127.0.0.1:0\"\n\
             [standalone.subscribers.{SUBSCRIBER}]\npublic_key = \"{dir}/subscriber.pub.pem\"\n\
             topics = [\"claw/v1/{SITE}/{SITE}/+/up/telemetry\"]\n\
             [metrics]\nlisten = \"off\"\n{}\n",
            ports.join("\n")
        )
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        // Only keys and logs of a demonstration that is over; nobody is left to tell.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Why there is no place for a demonstration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum WorkshopError {
    /// The directory or a file in it cannot be made.
    #[error("{}: {source}; the demonstration needs a temporary directory that it may write (TMPDIR)", dir.display())]
    Directory {
        /// Which.
        dir: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// The subscriber's key cannot be made.
    #[error(transparent)]
    Key(#[from] KeyError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_one_that_the_daemon_takes() {
        let workshop = Workshop::new(3).unwrap();
        let config = crate::config::load(&workshop.config()).unwrap();
        assert_eq!(config.uart.ports.len(), 3);
        assert_eq!(config.issuer.life.as_secs(), 10);
        let path = workshop.path().to_owned();
        drop(workshop);
        assert!(!path.exists());
    }
}
