//! The places that the daemon writes to, as they look from here before it starts.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{Access, access};

use super::secrets::{Look, Looked};
use super::{Config, IssuerKind};

/// What an address of a socket holds (unix(7)), without its last zero.
const MOST_SOCKET: usize = 107;
/// Behind the socket's name while it is made: a process id and what tells it from others.
const SOCKET_TAIL: usize = ".4194304.new".len();

/// Those that are in use.
pub(crate) fn look(config: &Config) -> Vec<Looked> {
    let mut all = vec![state_dir(&config.state_dir), socket(&config.control.socket)];
    if let Some(folder) = config.issuer.publish_dir.as_ref().filter(|_| config.issuer.kind == IssuerKind::Local) {
        all.push(looked("issuer.publish_dir", folder, published(folder, &config.state_dir)));
    }
    all
}

fn looked(key: &'static str, path: &Path, look: Look) -> Looked {
    Looked { key, place: Some(path.display().to_string()), look }
}

fn state_dir(path: &Path) -> Looked {
    let is_other = fs::metadata(path).is_ok_and(|about| !about.is_dir());
    let bad = || Look::Bad(format!("{}: is no folder; write another path, or move it away", path.display()));
    looked("state_dir", path, if is_other { bad() } else { Look::Good })
}

fn socket(path: &Path) -> Looked {
    let look = if path.as_os_str().len() + SOCKET_TAIL > MOST_SOCKET {
        Look::Bad(format!("{}: is longer than a socket's path can be; write a shorter one", path.display()))
    } else if fs::metadata(path).is_ok_and(|about| about.is_dir() || about.is_file()) {
        Look::Bad(format!("{}: is there, and no socket; write another path, or move it away", path.display()))
    } else {
        Look::Good
    };
    looked("control.socket", path, look)
}

/// The folder must be there, and be the daemon's to write: brokers read what stands in it.
fn published(folder: &Path, state_dir: &Path) -> Look {
    let about = match fs::metadata(folder) {
        Ok(about) => about,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Look::Unseen(format!("{}: this user may not look there", folder.display()));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let text = "is not there; make it, for clawgate to write (install -d -o clawgate -m 755)";
            return Look::Bad(format!("{}: {text}", folder.display()));
        }
        Err(error) => return Look::Bad(format!("{}: {error}", folder.display())),
    };
    if !about.is_dir() {
        return Look::Bad(format!("{}: is no folder; write the folder's path", folder.display()));
    }
    if let Some(name) = ["jwks", "denylist"].into_iter().find(|name| folder.join(name).is_dir()) {
        return Look::Bad(format!(
            "{}: is a folder, and a file is to stand there; remove it",
            folder.join(name).display()
        ));
    }
    match access(folder, Access::WRITE_OK | Access::EXEC_OK) {
        Err(rustix::io::Errno::ROFS) => Look::Bad(format!("{}: is on a disk that cannot be written", folder.display())),
        Err(_) => Look::Unseen(format!("{}: this user may not write there; the daemon's must", folder.display())),
        // Root may write anywhere; whose state it is tells who the daemon is.
        Ok(()) => match fs::metadata(state_dir).map(|state| state.uid()) {
            Ok(daemon) if daemon != 0 && daemon != about.uid() && about.mode() & 0o022 == 0 => Look::Bad(format!(
                "{}: belongs to uid {}, and the daemon's uid {daemon} cannot write there; chown it",
                folder.display(),
                about.uid()
            )),
            _ => Look::Good,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(config: &Config, key: &str) -> Look {
        look(config).into_iter().find(|looked| looked.key == key).unwrap().look
    }

    #[test]
    fn a_folder_to_publish_in_that_cannot_be_one_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("public");
        let mut config = Config { state_dir: dir.path().join("state"), ..Config::default() };
        config.issuer.publish_dir = Some(folder.clone());
        let bad = |words: &str| match said(&config, "issuer.publish_dir") {
            Look::Bad(text) => assert!(text.contains(words) && text.contains("public"), "{text}"),
            other => panic!("{other:?} instead of {words}"),
        };
        bad("is not there");
        fs::write(&folder, "").unwrap();
        bad("is no folder");
        fs::remove_file(&folder).unwrap();
        fs::create_dir_all(folder.join("jwks")).unwrap();
        bad("a file is to stand there");
        fs::remove_dir(folder.join("jwks")).unwrap();
        assert_eq!(said(&config, "issuer.publish_dir"), Look::Good);
    }

    #[test]
    fn a_state_or_a_socket_that_can_be_none_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let mut config = Config { state_dir: file.clone(), ..Config::default() };
        assert!(matches!(said(&config, "state_dir"), Look::Bad(text) if text.contains("is no folder")));
        config.state_dir = dir.path().join("not-yet");
        assert_eq!(said(&config, "state_dir"), Look::Good);
        for bad in [file, dir.path().to_owned(), dir.path().join("s".repeat(107))] {
            config.control.socket = bad;
            assert!(matches!(said(&config, "control.socket"), Look::Bad(_)), "{:?}", config.control.socket);
        }
        config.control.socket = dir.path().join("c.sock");
        let _listens = std::os::unix::net::UnixListener::bind(&config.control.socket).unwrap();
        assert_eq!(said(&config, "control.socket"), Look::Good);
    }
}
