//! The socket on which a daemon says that it is ready, as a service manager would offer it.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Outcome;

/// How long a daemon may take.
const LIMIT: Duration = Duration::from_secs(20);

/// A socket for `NOTIFY_SOCKET`.
pub(crate) struct Notify {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Notify {
    /// A socket in `dir`.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn bind(dir: &Path) -> Outcome<Self> {
        let path = dir.join("notify");
        let _ = std::fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path)?;
        socket.set_read_timeout(Some(LIMIT))?;
        Ok(Self { socket, path })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for `READY=1`.
    ///
    /// # Errors
    /// It did not come in time.
    pub(crate) fn wait_ready(&self) -> Outcome<()> {
        let mut buffer = [0; 4096];
        loop {
            let length = self.socket.recv(&mut buffer).map_err(|_| "the daemon was not ready within 20 s")?;
            if buffer[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
                return Ok(());
            }
        }
    }
}
