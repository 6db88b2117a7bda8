//! The socket file: made with mode 0660, a stale one replaced, a living one respected.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};

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
    /// The system refused.
    #[error("{}: the control socket cannot be made: {source}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A listening socket; its file goes with it.
pub struct ControlSocket {
    /// What accepts.
    pub listener: UnixListener,
    path: PathBuf,
}

impl ControlSocket {
    /// Listens at `path`.
    ///
    /// # Errors
    /// Where another daemon answers there, something else stands there, or the system refuses.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
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
        Ok(Self { listener, path: path.to_owned() })
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
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
        assert!(ControlSocket::bind(&stale).is_ok());
        drop(first);
        assert!(!path.exists());
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
