//! Opens one serial port for us alone, or says why not: absent, busy and held by whom, not permitted and
//! which group is missing, no serial port at all.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use tokio_serial::SerialStream;

use super::options::Port;
use crate::link::state::PortCondition;

/// The device numbers of Unix98 pseudo terminals (slaves), `Documentation/admin-guide/devices.txt`.
const PTY_MAJORS: std::ops::RangeInclusive<u32> = 136..=143;

/// Opens and locks the port; raw, 8N1, no flow control.
///
/// The one lock is serialport's: a file lock that keeps a second daemon away, and on real ports exclusive mode,
/// which also keeps away programs that know no file locks. It asks for both before it changes a setting, and gives
/// exclusive mode back where the file lock is another's.
///
/// # Errors
/// The condition that stands in the way.
pub(crate) fn open(port: &Port) -> Result<SerialStream, PortCondition> {
    // Stays open beside the real one so that DTR does not drop in between, which would reset many boards.
    let look = first_look(&port.path)?;
    let rdev = look.metadata().map_err(|error| PortCondition::Failed { reason: error.to_string() })?.rdev();
    let path = port.path.to_string_lossy();
    let mut stream = SerialStream::open(&tokio_serial::new(path, port.baud)).map_err(|error| match error.kind() {
        // Its word for a lock that another holds.
        tokio_serial::ErrorKind::NoDevice => held(rdev),
        tokio_serial::ErrorKind::Io(kind) => condition(&io::Error::from(kind), &port.path),
        _ => PortCondition::Failed { reason: error.to_string() },
    })?;
    if PTY_MAJORS.contains(&rustix::fs::major(rdev)) {
        // TIOCEXCL on a pseudo terminal outlives us when the other end keeps the slave open, and would then
        // lock out our own next start. The file lock remains, which is what keeps a second daemon away.
        stream.set_exclusive(false).map_err(|error| PortCondition::Failed { reason: error.to_string() })?;
    }
    Ok(stream)
}

/// How a port is, found without opening it: a modem line that moves resets many boards. [`PortCondition::Open`] says
/// that nothing stands in the way.
pub(crate) fn look(path: &Path) -> PortCondition {
    let metadata = match path.metadata() {
        Ok(metadata) => metadata,
        Err(error) => return condition(&error, path),
    };
    if !metadata.file_type().is_char_device() {
        return PortCondition::NotATty;
    }
    match held(metadata.rdev()) {
        busy @ PortCondition::Busy { pid: Some(_), .. } => busy,
        // Asks for the effective user; the daemon's may have other groups.
        _ if rustix::fs::access(path, rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK).is_err() => {
            not_permitted(path)
        }
        _ => PortCondition::Open,
    }
}

/// Opens the node for a moment with nothing changed on it: errors here carry the true reason.
fn first_look(path: &Path) -> Result<File, PortCondition> {
    let metadata = path.metadata().map_err(|error| condition(&error, path))?;
    if !metadata.file_type().is_char_device() {
        return Err(PortCondition::NotATty);
    }
    let flags = OFlags::NOCTTY | OFlags::NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(i32::try_from(flags.bits()).unwrap_or(0))
        .open(path)
        .map_err(|error| condition(&error, path))?;
    if rustix::termios::isatty(&file) { Ok(file) } else { Err(PortCondition::NotATty) }
}

fn condition(error: &io::Error, path: &Path) -> PortCondition {
    match error.kind() {
        io::ErrorKind::NotFound => PortCondition::Absent,
        io::ErrorKind::ResourceBusy => path.metadata().map_or(PortCondition::Absent, |node| held(node.rdev())),
        // EPERM, not EACCES: not the node's mode, but the device list of the service's control group.
        _ if error.raw_os_error() == Some(1) => PortCondition::Failed {
            reason:
                "the service's device list refuses it: its driver was loaded after the service started, or its kind is \
                     not in DeviceAllow=; restart clawgate"
                    .to_owned(),
        },
        io::ErrorKind::PermissionDenied => not_permitted(path),
        // The node of a device that is going: ENXIO, ENODEV.
        _ if matches!(error.raw_os_error(), Some(6 | 19)) => PortCondition::Absent,
        _ => PortCondition::Failed { reason: error.to_string() },
    }
}

/// Who holds the device with this number, as far as `/proc` lets us see.
fn held(rdev: u64) -> PortCondition {
    // Of ours, one is the look that found it held: a second is another port of the config on the same device.
    let own = std::process::id();
    let pid = processes().find(|&pid| handles(pid, rdev) > usize::from(pid == own));
    let process = pid.and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).ok());
    PortCondition::Busy { pid, process: process.map(|name| name.trim_end().escape_debug().to_string()) }
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = Path::new("/proc").read_dir().into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// How many open files of a process are that device.
fn handles(pid: u32, rdev: u64) -> usize {
    let open_files = PathBuf::from(format!("/proc/{pid}/fd")).read_dir();
    // A stat through the link sees the device itself, whatever name it was opened by.
    let is_it = |fd: &std::fs::DirEntry| fd.path().metadata().is_ok_and(|node| node.rdev() == rdev);
    open_files.into_iter().flatten().flatten().filter(is_it).count()
}

fn not_permitted(path: &Path) -> PortCondition {
    const GROUP_READ_WRITE: u32 = 0o060;
    match path.metadata() {
        Ok(node) if node.mode() & GROUP_READ_WRITE == GROUP_READ_WRITE => {
            PortCondition::NoPermission { group: group_name(node.gid()) }
        }
        Ok(node) => PortCondition::Failed {
            reason: format!(
                "only its owner may open it (mode {:04o}); install clawgate's udev rule, or: chmod g+rw",
                node.mode() & 0o7777
            ),
        },
        Err(_) => PortCondition::Failed { reason: "its folder may not be entered".to_owned() },
    }
}

fn group_name(gid: u32) -> String {
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let name = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == gid.to_string()).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| gid.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::testing::Pty;

    fn port(path: &Path) -> Port {
        Port { name: "line".to_owned(), path: path.to_owned(), baud: 115_200 }
    }

    #[tokio::test]
    async fn a_pseudo_terminal_is_a_port() {
        let pty = Pty::new();
        assert!(open(&port(pty.slave())).is_ok());
    }

    #[tokio::test]
    async fn a_port_in_use_is_not_opened_twice_and_is_free_again_afterwards() {
        let pty = Pty::new();
        let first = open(&port(pty.slave())).unwrap();
        assert!(matches!(open(&port(pty.slave())), Err(PortCondition::Busy { .. })));
        drop(first);
        crate::testing::let_go();
        assert!(open(&port(pty.slave())).is_ok());
    }

    #[tokio::test]
    async fn the_holder_of_a_busy_port_is_named() {
        let pty = Pty::new();
        let mut holder = std::process::Command::new("flock");
        // It speaks once it holds the lock.
        holder.args(["--exclusive", pty.slave().to_str().unwrap(), "sh", "-c", "echo; exec cat"]);
        let mut holder = crate::testing::spawn(holder.stdin(std::process::Stdio::piped())).unwrap();
        let told = open(&port(pty.slave())).unwrap_err().to_string();
        holder.kill().unwrap();
        holder.wait().unwrap();
        assert!(told.contains("holds it; stop that process"), "{told}");
    }

    #[tokio::test]
    async fn what_is_no_port_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(open(&port(&file)).err(), Some(PortCondition::NotATty));
        assert_eq!(open(&port(Path::new("/dev/null"))).err(), Some(PortCondition::NotATty));
        assert_eq!(open(&port(&folder.path().join("nothing"))).err(), Some(PortCondition::Absent));
    }

    #[test]
    fn a_port_that_may_not_be_opened_names_the_group_that_may() {
        use std::os::unix::fs::PermissionsExt;
        let node = tempfile::NamedTempFile::new().unwrap();
        let with_mode = |mode| {
            node.as_file().set_permissions(std::fs::Permissions::from_mode(mode)).unwrap();
            not_permitted(node.path())
        };
        let group = group_name(node.as_file().metadata().unwrap().gid());
        assert_eq!(with_mode(0o660), PortCondition::NoPermission { group });
        // Nobody is helped by a group that has no right either.
        assert!(matches!(with_mode(0o600), PortCondition::Failed { .. }));
    }

    #[test]
    fn a_group_is_named_or_at_least_numbered() {
        assert_eq!(group_name(0), "root");
        assert_eq!(group_name(4_000_000), "4000000");
    }
}
