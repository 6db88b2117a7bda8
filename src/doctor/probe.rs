//! What the machine shows, without a judgement: files of `/proc`, `/sys`, `/etc`, and nothing opened that minds it.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::clock::Clock;
use crate::config::{Config, id_of};
use crate::link::state::PortCondition;
use crate::link::uart;

/// What keeps the clock right, as far as it can be seen.
pub(super) struct ClockSeen {
    /// Wall time since 1970.
    pub(super) wall: Duration,
    /// Whether the kernel reckons its clock to be right; none where it may not be asked.
    pub(super) kernel: Option<bool>,
    /// systemd-timesyncd has synchronised since boot.
    pub(super) timesyncd: bool,
    /// The program that keeps the clock.
    pub(super) keeper: Option<&'static str>,
}

/// Programs that keep a clock, by the name that the kernel has of them (15 bytes), and by that of people.
const KEEPERS: &[(&str, &str)] = &[
    ("chronyd", "chronyd"),
    ("ntpd", "ntpd"),
    ("ntp-daemon", "ntpd-rs"),
    ("phc2sys", "phc2sys"),
    ("systemd-timesyn", "systemd-timesyncd"),
];

pub(super) fn clock(clock: &Clock) -> ClockSeen {
    ClockSeen {
        wall: clock.wall(),
        kernel: crate::clock::kernel_says_synchronised(),
        timesyncd: crate::clock::timesyncd_synchronised(),
        keeper: KEEPERS.iter().find(|(name, _)| runs(name)).map(|(_, shown)| *shown),
    }
}

/// One radio.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Radio {
    /// `hci0`.
    pub(super) name: String,
    /// Blocked by software: `rfkill unblock` helps.
    pub(super) soft_blocked: bool,
    /// Blocked by a switch.
    pub(super) hard_blocked: bool,
}

/// What of Bluetooth is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BluetoothSeen {
    pub(super) radios: Vec<Radio>,
    /// `5.66`; none where BlueZ is not installed.
    pub(super) bluez: Option<String>,
    pub(super) bluetoothd_runs: bool,
    /// The system bus's socket is there.
    pub(super) bus: bool,
    /// BlueZ's D-Bus policy is installed.
    pub(super) policy: bool,
    /// The daemon's user is in the group that the policy lets in; `None` where no daemon runs.
    pub(super) daemon_in_group: Option<bool>,
}

pub(super) fn bluetooth() -> BluetoothSeen {
    let policies = ["/etc/dbus-1/system.d/bluetooth.conf", "/usr/share/dbus-1/system.d/bluetooth.conf"];
    BluetoothSeen {
        radios: radios(Path::new("/sys/class/bluetooth")),
        bluez: Command::new("bluetoothctl").arg("--version").output().ok().and_then(|done| version(&done.stdout)),
        bluetoothd_runs: runs("bluetoothd"),
        bus: Path::new("/run/dbus/system_bus_socket").exists(),
        policy: policies.iter().any(|path| Path::new(path).exists()),
        daemon_in_group: daemon_pid().and_then(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
            let root = field("Uid:")?.split_whitespace().next() == Some("0");
            let group = id_of(&fs::read_to_string("/etc/group").ok()?, "bluetooth")?;
            Some(root || field("Groups:")?.split_whitespace().any(|id| id.parse() == Ok(group)))
        }),
    }
}

/// The last word of `bluetoothctl: 5.66`.
fn version(said: &[u8]) -> Option<String> {
    String::from_utf8_lossy(said).split_whitespace().last().map(str::to_owned)
}

fn radios(class: &Path) -> Vec<Radio> {
    let mut found: Vec<Radio> = entries(class)
        // `hci0:64` are connections.
        .filter(|path| !path.to_string_lossy().contains(':'))
        .map(|path| {
            let kills: Vec<PathBuf> = entries(&path)
                .filter(|inner| inner.file_name().is_some_and(|name| name.to_string_lossy().starts_with("rfkill")))
                .collect();
            let is = |what: &str| {
                kills.iter().any(|kill| fs::read_to_string(kill.join(what)).is_ok_and(|text| text.trim() == "1"))
            };
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Radio { name, soft_blocked: is("soft"), hard_blocked: is("hard") }
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// Who is who.
pub(super) struct UsersSeen {
    /// The user `clawgate` exists.
    pub(super) user: bool,
    /// The group `clawgate` exists.
    pub(super) group: bool,
    /// Who asks is root or in that group.
    pub(super) caller_in_group: bool,
}

pub(super) fn users() -> UsersSeen {
    let group_file = fs::read_to_string("/etc/group").unwrap_or_default();
    let group = id_of(&group_file, "clawgate");
    let own = rustix::process::getgroups().unwrap_or_default();
    let is_own = |id: u32| own.iter().any(|gid| gid.as_raw() == id);
    UsersSeen {
        user: fs::read_to_string("/etc/passwd").is_ok_and(|text| text.lines().any(|l| l.starts_with("clawgate:"))),
        caller_in_group: rustix::process::geteuid().is_root() || group.is_some_and(is_own),
        group: group.is_some(),
    }
}

/// A port of the configuration.
pub(super) struct PortSeen {
    pub(super) name: String,
    pub(super) path: PathBuf,
    /// Whether something stands there, and who holds it; never opened for it.
    pub(super) condition: PortCondition,
}

pub(super) fn ports(config: &Config) -> Vec<PortSeen> {
    let expand = |(name, port): (&crate::config::Name, &crate::config::PortConfig)| {
        let option = uart::PortOptions { name: name.to_string(), path: port.path.clone(), baud: port.baud };
        let mut ports = uart::UartOptions { ports: vec![option.clone()] }.expand();
        if ports.is_empty() {
            ports.push(uart::Port { name: option.name, path: option.path, baud: option.baud });
        }
        ports
    };
    let ports = config.uart.ports.iter().flat_map(expand);
    ports.map(|port| PortSeen { condition: uart::look(&port.path), name: port.name, path: port.path }).collect()
}

/// Bytes that the disk under a folder, or under its nearest ancestor that exists, has left for others than root.
pub(super) fn disk(folder: &Path) -> Option<u64> {
    let found = folder.ancestors().find_map(|path| rustix::fs::statvfs(path).ok())?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Where the master key is.
pub(super) struct KeySeen {
    /// A file that the configuration names.
    pub(super) configured: Option<PathBuf>,
    /// A credential that systemd opens for the unit.
    pub(super) sealed: bool,
    /// The key file in the state directory; `None` where this user may not look.
    pub(super) file: Option<bool>,
    /// That file.
    pub(super) path: PathBuf,
}

pub(super) fn master_key(config: &Config) -> KeySeen {
    let stores = ["/etc/credstore.encrypted", "/run/credstore.encrypted", "/usr/lib/credstore.encrypted"];
    let path = config.state_dir.join("master.key");
    let file = match fs::symlink_metadata(&path) {
        Ok(_) => Some(true),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => None,
        Err(_) => Some(false),
    };
    let sealed = stores.iter().any(|store| Path::new(store).join("clawgate-master-key").exists());
    KeySeen { configured: config.master_key.clone(), sealed, file, path }
}

pub(super) fn has_systemd() -> bool {
    Path::new("/run/systemd/system").exists()
}

/// Whether a process of that name runs.
pub(super) fn runs(name: &str) -> bool {
    processes().any(|(_, folder)| comm(&folder).is_some_and(|found| found == name))
}

/// The process id of a `clawgate run`. The socket is not asked: systemd would start the daemon for that.
pub(crate) fn daemon_pid() -> Option<u32> {
    let is_daemon = |folder: &Path| {
        let words = fs::read(folder.join("cmdline")).unwrap_or_default();
        comm(folder).is_some_and(|name| name == "clawgate") && words.split(|b| *b == 0).nth(1) == Some(b"run")
    };
    processes().find(|(_, folder)| is_daemon(folder)).map(|(pid, _)| pid)
}

fn comm(process: &Path) -> Option<String> {
    fs::read_to_string(process.join("comm")).ok().map(|text| text.trim_end().to_owned())
}

fn processes() -> impl Iterator<Item = (u32, PathBuf)> {
    entries(Path::new("/proc")).filter_map(|path| Some((path.file_name()?.to_str()?.parse().ok()?, path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_radio_is_seen_and_its_connections_are_no_radios() {
        let class = tempfile::tempdir().unwrap();
        let kill = class.path().join("hci0/rfkill3");
        fs::create_dir_all(&kill).unwrap();
        fs::create_dir_all(class.path().join("hci0:64")).unwrap();
        fs::write(kill.join("soft"), "1\n").unwrap();
        fs::write(kill.join("hard"), "0\n").unwrap();
        let expected = Radio { name: "hci0".to_owned(), soft_blocked: true, hard_blocked: false };
        assert_eq!(radios(class.path()), [expected]);
    }

    #[test]
    fn a_process_is_found_by_its_name() {
        let own = comm(Path::new("/proc/self")).unwrap();
        assert!(runs(&own) && !runs("no such process"));
    }

    #[test]
    fn a_version_is_read_by_field() {
        assert_eq!(version(b"bluetoothctl: 5.66\n").as_deref(), Some("5.66"));
    }
}
