//! The serial line: a port that is there, or a pseudo terminal of our own. Raw, and never blocking.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

/// Why the line cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum TtyError {
    /// The port cannot be opened.
    #[error("cannot open {}: {source}; check that it exists and that you may use it (group dialout)", path.display())]
    Open { path: PathBuf, source: std::io::Error },
    /// Something that is not a terminal.
    #[error("{} is not a serial port: {source}", path.display())]
    NotATty { path: PathBuf, source: std::io::Error },
    /// The kernel gives no pseudo terminal.
    #[error("cannot make a pseudo terminal: {0}; is /dev/pts mounted?")]
    Pty(std::io::Error),
    /// The link cannot be made.
    #[error("cannot put the link to the pseudo terminal at {}: {source}", path.display())]
    Link { path: PathBuf, source: std::io::Error },
    /// Something else than a link is in its place.
    #[error("{} exists and is not a symbolic link: remove it or give another place", path.display())]
    InTheWay { path: PathBuf },
}

/// An open line.
pub(crate) struct Tty {
    file: File,
    /// The other end of a pseudo terminal, so that it stays up while nobody has it open.
    _other_end: Option<OwnedFd>,
    link: Option<PathBuf>,
}

/// What became of reading or writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Io {
    /// So many bytes.
    Done(usize),
    /// Nothing now.
    Later,
    /// The line is gone.
    Gone,
}

impl Tty {
    pub(crate) fn open(path: &Path, baud: u32) -> Result<Self, TtyError> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|error| TtyError::Open { path: path.to_owned(), source: error.into() })?;
        raw(&fd, Some(baud)).map_err(|source| TtyError::NotATty { path: path.to_owned(), source })?;
        Ok(Self { file: fd.into(), _other_end: None, link: None })
    }

    /// A pseudo terminal with a symbolic link to its other end. A stale link is replaced.
    pub(crate) fn pty(link: &Path) -> Result<Self, TtyError> {
        let (fd, other_end, name) = new_pty().map_err(TtyError::Pty)?;
        let failed = |source| TtyError::Link { path: link.to_owned(), source };
        match std::fs::symlink_metadata(link) {
            Ok(found) if !found.is_symlink() => return Err(TtyError::InTheWay { path: link.to_owned() }),
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
            _ => (),
        }
        // Made beside and renamed, so that whoever watches the place never sees it missing.
        let beside = crate::store::beside(link);
        let _ = std::fs::remove_file(&beside);
        std::os::unix::fs::symlink(&name, &beside).map_err(failed)?;
        std::fs::rename(&beside, link).map_err(failed)?;
        Ok(Self { file: fd.into(), _other_end: Some(other_end), link: Some(link.to_owned()) })
    }

    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Io {
        match self.file.read(buffer) {
            // A serial port that was pulled reads as ended.
            Ok(0) => Io::Gone,
            done => Self::outcome(done),
        }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Io {
        Self::outcome(self.file.write(bytes))
    }

    fn outcome(done: std::io::Result<usize>) -> Io {
        match done {
            Ok(count) => Io::Done(count),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Io::Later,
            Err(_) => Io::Gone,
        }
    }
}

impl AsFd for Tty {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Tty {
    fn drop(&mut self) {
        if let Some(link) = &self.link {
            let _ = std::fs::remove_file(link);
        }
    }
}

fn new_pty() -> std::io::Result<(OwnedFd, OwnedFd, PathBuf)> {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use std::os::unix::ffi::OsStringExt as _;

    let fd = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&fd)?;
    unlockpt(&fd)?;
    let name = ptsname(&fd, Vec::new())?;
    let other_end = rustix::fs::open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    raw(&other_end, None)?;
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
    Ok((fd, other_end, std::ffi::OsString::from_vec(name.into_bytes()).into()))
}

fn raw(fd: &OwnedFd, baud: Option<u32>) -> std::io::Result<()> {
    let mut settings = tcgetattr(fd)?;
    settings.make_raw();
    if let Some(baud) = baud {
        settings.set_speed(baud)?;
    }
    Ok(tcsetattr(fd, OptionalActions::Now, &settings)?)
}
