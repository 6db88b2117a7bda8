//! Parts of tests: a pseudo terminal whose master end plays the wire.

use std::path::{Path, PathBuf};

use clawgate_protocol::fragment::Header;
use clawgate_protocol::frame::uart;
use tokio_serial::{SerialPort as _, SerialStream};

/// A pseudo terminal. Dropping it is pulling the plug.
pub(crate) struct Pty {
    /// The sensor's end.
    pub(crate) wire: SerialStream,
    slave: PathBuf,
    // Keeps the line up while the gateway does not have it open.
    _keep: SerialStream,
}

impl Pty {
    pub(crate) fn new() -> Self {
        let (wire, keep) = SerialStream::pair().unwrap();
        let slave = PathBuf::from(keep.name().unwrap());
        Self { wire, slave, _keep: keep }
    }

    /// The path of the gateway's end.
    pub(crate) fn slave(&self) -> &Path {
        &self.slave
    }

    /// The gateway's end once more, for a test that fills the line: a write that finds no room is refused.
    pub(crate) fn open_beside(&self) -> std::fs::File {
        use std::os::unix::fs::OpenOptionsExt as _;
        let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
        let flags = i32::try_from(flags.bits()).unwrap();
        std::fs::OpenOptions::new().write(true).custom_flags(flags).open(&self.slave).unwrap()
    }
}

/// A message as one frame on the line.
pub(crate) fn frame(message: &[u8]) -> Vec<u8> {
    let mut line = vec![0; uart::max_encoded_len(message.len())];
    let length = uart::encode(uart::ADDRESS, Header::WHOLE, message, &mut line).unwrap();
    line.truncate(length);
    line
}
