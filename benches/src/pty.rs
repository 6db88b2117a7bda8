//! A pseudo-terminal in raw mode: the serial line of a benchmark.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

use crate::Outcome;

/// Both ends of a line. The far end stays open here, so that what waits in it survives the death of its reader:
/// kinder to a gateway than a real serial port.
pub(crate) struct Pty {
    /// The sensor's end.
    pub(crate) near: File,
    /// The gateway's end.
    pub(crate) far: File,
    /// Where the gateway's end is found.
    pub(crate) path: PathBuf,
}

impl Pty {
    /// A new line.
    ///
    /// # Errors
    /// The system gives no pty.
    pub(crate) fn open() -> Outcome<Self> {
        let near = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&near)?;
        unlockpt(&near)?;
        let path = PathBuf::from(OsStr::from_bytes(ptsname(&near, Vec::new())?.as_bytes()));
        let far = OpenOptions::new().read(true).write(true).open(&path)?;
        let mut mode = tcgetattr(&far)?;
        mode.make_raw();
        tcsetattr(&far, OptionalActions::Now, &mode)?;
        Ok(Self { near: near.into(), far, path })
    }
}
