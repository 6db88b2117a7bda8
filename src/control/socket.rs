//! The control socket: systemd's, where it passes one; else a file of our own, made with mode 0660, a stale one
//! replaced, a living one respected.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};

use listenfd::ListenFd;
use tokio::net::UnixListener;

/// Why the control socket could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    /// Another daemon answers there.
    #[error("{}: another clawgate answers on this socket; stop it first, or set control.socket", .0.display())]
    InUse(PathBuf),
    /// The path is something else than a socket.
    #[error("{}: is not a socket, so it is left alone; remove it, or set control.socket", .0.display())]
    NotASocket(PathBuf),
    /// systemd passed something that cannot be listened on.
    #[error("systemd passed no stream socket that listens: {0}; clawgate.socket needs one ListenStream= with a path")]
    Passed(io::Error),
    /// The system refused.
    #[error("{}: the control socket cannot be made: {source}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A listening socket; its file goes with it, unless it is systemd's.
pub struct ControlSocket {
    /// What accepts.
    pub listener: UnixListener,
    own_file: Option<PathBuf>,
}

/// Takes the listener that systemd passed (`LISTEN_FDS`, sd_listen_fds(3)); `None` where it passed none.
///
/// Called once, at the start of the process, before there are threads: it clears those variables.
///
/// # Errors
/// Where what was passed is no listening unix stream socket.
pub(crate) fn passed() -> Result<Option<StdUnixListener>, SocketError> {
    let mut passed = ListenFd::from_env();
    if passed.len() == 0 {
        return Ok(None);
    }
    passed.take_unix_listener(0).map_err(SocketError::Passed)
}

impl ControlSocket {
    /// The listener that was passed, else one at `path`.
    ///
    /// # Errors
    /// As [`ControlSocket::bind`]; [`SocketError::Passed`] where the passed one cannot be used.
    pub(crate) fn open(passed: Option<StdUnixListener>, path: &Path) -> Result<Self, SocketError> {
        let Some(passed) = passed else { return Self::bind(path) };
        let address = passed.local_addr().map_err(SocketError::Passed)?;
        if address.as_pathname() != Some(path) {
            tracing::warn!(
                listens = ?address, control_socket = %path.display(),
                "systemd's clawgate.socket says where the control socket is; control.socket is not used"
            );
        }
        passed.set_nonblocking(true).map_err(SocketError::Passed)?;
        let listener = UnixListener::from_std(passed).map_err(SocketError::Passed)?;
        Ok(Self { listener, own_file: None })
    }

    /// Listens at `path`.
    ///
    /// # Errors
    /// Where another daemon answers there, something else stands there, or the system refuses.
    pub(crate) fn bind(path: &Path) -> Result<Self, SocketError> {
        let io_error = |source| SocketError::Io { path: path.to_owned(), source };
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(io_error)?;
        }
        clear_stale(path)?;
        // Bound under a private name and moved once its mode is right: it never stands open to everybody.
        let private = path.with_extension(format!("{}.new", std::process::id()));
        let _ = fs::remove_file(&private);
        let listener = UnixListener::bind(&private).map_err(io_error)?;
        fs::set_permissions(&private, fs::Permissions::from_mode(0o660)).map_err(io_error)?;
        fs::rename(&private, path).map_err(io_error)?;
        Ok(Self { listener, own_file: Some(path.to_owned()) })
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if let Some(file) = &self.own_file {
            let _ = fs::remove_file(file);
        }
    }
}

/// Leaves a path free for a socket, or says who stands there.
fn clear_stale(path: &Path) -> Result<(), SocketError> {
    let io_error = |source| SocketError::Io { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(io_error(e)),
        Ok(meta) if !meta.file_type().is_socket() => Err(SocketError::NotASocket(path.to_owned())),
        Ok(_) => match StdUnixStream::connect(path) {
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            _ => Err(SocketError::InUse(path.to_owned())),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_living_one_respected() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/control.sock");
        let first = ControlSocket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o660);
        assert!(matches!(ControlSocket::bind(&path), Err(SocketError::InUse(_))));
        // As after kill -9: the file stays, nobody listens.
        let stale = dir.path().join("stale.sock");
        drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
        crate::testing::let_go();
        assert!(ControlSocket::bind(&stale).is_ok());
        drop(first);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_passed_socket_is_used_and_its_file_stays_systemds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let passed = StdUnixListener::bind(&path).unwrap();
        let socket = ControlSocket::open(Some(passed), Path::new("/elsewhere.sock")).unwrap();
        let _client = StdUnixStream::connect(&path).unwrap();
        assert!(socket.listener.accept().await.is_ok());
        drop(socket);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn a_file_at_the_path_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        fs::write(&path, "mine").unwrap();
        assert!(matches!(ControlSocket::bind(&path), Err(SocketError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }
}
