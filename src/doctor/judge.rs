//! What is well and what is not, and what to do: plain functions over what the probes saw.

use std::path::Path;
use std::time::Duration;

use super::broker::Reached;
use super::probe::{BluetoothSeen, ClockSeen, KeySeen, PortSeen, Radio, UsersSeen};
use super::{Asked, Finding};
use crate::cli::terminal::size;
use crate::config::secrets::{Look, Looked};
use crate::config::{BrokerUrl, ConfigError};
use crate::link::state::PortCondition;

/// 2026-01-01: a clock before it was never set.
const EARLIEST: Duration = Duration::from_secs(1_767_225_600);
/// Below this the databases cannot work.
const LEAST_DISK: u64 = 32 << 20;
/// A certificate with less time left is spoken of.
const SOON: Duration = Duration::from_secs(21 * 86_400);
/// Before 5.55 BlueZ loses notifications of several characteristics at once.
const LEAST_BLUEZ: (u32, u32) = (5, 55);

pub(super) fn configuration(file: &Path, refused: Option<&ConfigError>) -> Finding {
    match refused {
        None => Finding::ok("config", format!("{} is taken", file.display())),
        Some(error) => Finding::problem("config", error.to_string(), "Correct it; check with: clawgate config check"),
    }
}

/// The daemon and what it says of itself.
pub(super) fn daemon(asked: &Asked, systemd: bool) -> Vec<Finding> {
    let log = if systemd { "journalctl -u clawgate" } else { "its log" };
    match asked {
        None if systemd => {
            vec![Finding::problem(
                "daemon",
                "does not run",
                "Start it: systemctl start clawgate; why it ended: journalctl -u clawgate",
            )]
        }
        None => vec![Finding::problem("daemon", "does not run", "Start it, as user clawgate: clawgate run")],
        Some(Err(why)) => {
            vec![Finding::problem("daemon", format!("runs, but does not say how it is: {why}"), format!("See {log}."))]
        }
        Some(Ok(status)) => {
            let runs = format!("{} runs, gateway {}, mode {}", status.version, status.gateway, status.mode);
            let told = status.problems.iter();
            let told = told.map(|p| {
                Finding::problem(&p.part, &p.message, format!("clawgate status shows it as it changes; more in {log}."))
            });
            std::iter::once(Finding::ok("daemon", runs)).chain(told).collect()
        }
    }
}

pub(super) fn clock(seen: &ClockSeen) -> Finding {
    let keeper = seen.keeper.map(|keeper| format!(" by {keeper}")).unwrap_or_default();
    match (seen.wall < EARLIEST, seen.kernel, seen.keeper) {
        (true, ..) => Finding::problem(
            "clock",
            format!(
                "says a time before this program was written ({} s since 1970): tokens and certificates fail",
                seen.wall.as_secs()
            ),
            "Set it, and keep it set: timedatectl set-ntp true",
        ),
        (_, Some(true), _) => Finding::ok("clock", format!("synchronised{keeper}")),
        // Who may not ask the kernel sees no more than that somebody keeps it.
        (_, None, _) if seen.timesyncd => Finding::ok("clock", "synchronised by systemd-timesyncd"),
        (_, None, Some(keeper)) => Finding::ok("clock", format!("kept by {keeper}")),
        (_, Some(false), Some(keeper)) => Finding::advice(
            "clock",
            format!("{keeper} runs, but has not synchronised it: sensors are not offered the time"),
            "Give it some minutes after a start; else see that it reaches its servers (chronyc sources, ntpq -p, \
             timedatectl timesync-status).",
        ),
        (_, _, None) => Finding::advice(
            "clock",
            "nothing is known to keep it right: tokens fail when it drifts, and sensors are not offered the time",
            "timedatectl set-ntp true",
        ),
    }
}

/// Everything that Bluetooth hangs on. A machine without any of it is no problem: serial lines work.
pub(super) fn bluetooth(seen: &BluetoothSeen) -> Vec<Finding> {
    let part = "bluetooth";
    let mut findings = Vec::new();
    if seen.radios.is_empty() {
        findings.push(Finding::advice(
            part,
            "no adapter: sensors on serial lines only",
            "Plug one in, where sensors speak Bluetooth.",
        ));
    }
    findings.extend(seen.radios.iter().map(radio));
    match &seen.bluez {
        None => findings.push(Finding::advice(part, "BlueZ is not installed", "apt install bluez")),
        Some(version) if older(version, LEAST_BLUEZ) => {
            findings.push(Finding::advice(
                part,
                format!("BlueZ {version} is older than {}.{}", LEAST_BLUEZ.0, LEAST_BLUEZ.1),
                "Upgrade it.",
            ));
        }
        Some(version) if !seen.radios.is_empty() && !seen.bluetoothd_runs => {
            let what = format!("BlueZ {version} is installed, but bluetoothd does not run");
            findings.push(Finding::problem(part, what, "systemctl enable --now bluetooth"));
        }
        Some(version) => findings.push(Finding::ok(part, format!("BlueZ {version}"))),
    }
    if seen.bluez.is_some() {
        findings.push(bus(seen));
    }
    findings
}

fn radio(radio: &Radio) -> Finding {
    let part = format!("adapter {}", radio.name);
    match (radio.hard_blocked, radio.soft_blocked) {
        (true, _) => {
            Finding::problem(part, "switched off by a hardware switch", "Turn the switch, or set it in the firmware.")
        }
        (_, true) => Finding::problem(part, "blocked by rfkill", "rfkill unblock bluetooth"),
        _ => Finding::ok(part, "there, not blocked"),
    }
}

fn bus(seen: &BluetoothSeen) -> Finding {
    let part = "d-bus";
    match (seen.bus, seen.policy, seen.daemon_in_group) {
        (false, ..) => {
            Finding::problem(part, "the system bus does not run: BlueZ cannot be asked", "systemctl start dbus")
        }
        (_, false, _) => {
            Finding::problem(part, "BlueZ's D-Bus policy is missing: only root may ask it", "apt reinstall bluez")
        }
        (.., Some(false)) => Finding::problem(
            part,
            "the daemon's user is not in the group bluetooth: BlueZ refuses it",
            "Run it by clawgate.service, or: adduser clawgate bluetooth, and restart it",
        ),
        (.., Some(true)) => Finding::ok(part, "the daemon may ask BlueZ"),
        (.., None) => Finding::ok(part, "the group bluetooth may ask BlueZ"),
    }
}

/// Whether `5.48` is before `(5, 55)`; what cannot be read is not.
fn older(version: &str, least: (u32, u32)) -> bool {
    let (major, minor) = version.split_once('.').unwrap_or((version, "0"));
    match (major.parse(), minor.parse()) {
        (Ok(major), Ok(minor)) => (major, minor) < least,
        _ => false,
    }
}

pub(super) fn users(seen: &UsersSeen) -> Finding {
    match (seen.user && seen.group, seen.caller_in_group) {
        (false, _) => Finding::advice(
            "users",
            "there is no user clawgate with a group of its own: the daemon runs as somebody else",
            "Install the package, or see \"Without Debian\" in install.md.",
        ),
        (true, false) => Finding::advice(
            "users",
            "you are not in the group clawgate: the socket refuses you",
            "sudo, or: adduser YOU clawgate",
        ),
        (true, true) => Finding::ok("users", "the daemon has a user of its own; you may ask it"),
    }
}

/// A port as it stands; where a daemon runs, its own word for it counts.
pub(super) fn port(seen: &PortSeen, asked: &Asked, modem_manager: bool) -> Finding {
    let part = format!("port {}", seen.name);
    let path = seen.path.display();
    if let Some(Ok(status)) = asked
        && let Some(port) = status.ports.iter().find(|port| Path::new(&port.path) == seen.path)
        && port.state == "open"
    {
        return Finding::ok(part, format!("{path} at {}: {}", port.baud, port.explanation));
    }
    match &seen.condition {
        PortCondition::Open if modem_manager && !seen.path.starts_with("/dev/clawgate") => Finding::advice(
            part,
            format!("{path} is free, but ModemManager runs and may write to it"),
            "Name it in /etc/udev/rules.d/65-clawgate-ports.rules, and use /dev/clawgate/NAME.",
        ),
        PortCondition::Open => Finding::ok(part, format!("{path} is there and free")),
        PortCondition::Absent if seen.path.to_string_lossy().contains(['*', '?']) => Finding::advice(
            part,
            format!("nothing fits {path}"),
            "Plug a sensor in; where udev does not know it: 65-clawgate-ports.rules.",
        ),
        other => Finding::problem(part, format!("{path}: {other}"), ""),
    }
}

pub(super) fn no_ports() -> Finding {
    Finding::advice(
        "ports",
        "the configuration names no serial port",
        "[uart.ports.NAME], where sensors speak over one.",
    )
}

pub(super) fn broker(url: &BrokerUrl, reached: &Reached, now: Duration) -> Finding {
    let part = "broker";
    let place = format!("{}:{}", url.host, url.port);
    let days = |time: Duration| time.as_secs() / 86_400;
    match reached {
        Reached::NoAddress(why) => Finding::problem(
            part,
            format!("{place}: the name is not known: {why}"),
            "Check broker.url and the name server.",
        ),
        Reached::NotConnected(why) => Finding::problem(
            part,
            format!("{place} cannot be reached: {why}"),
            "Check the network, the firewall, and that the broker runs.",
        ),
        Reached::BadFiles(why) => Finding::problem(part, why, "Correct the [broker] section."),
        Reached::NoTls(why) => Finding::problem(
            part,
            format!("{place} answers, but TLS fails: {why}"),
            "Compare its certificate with broker.ca, broker.url's name with the certificate's, and this clock with the time.",
        ),
        Reached::Plain { here: true } => Finding::ok(part, format!("{place} answers, without TLS")),
        Reached::Plain { here: false } => Finding::advice(
            part,
            format!("{place} answers, without TLS: whoever listens on the way there has tokens and readings"),
            "Write broker.url with mqtts://, and broker.ca.",
        ),
        Reached::Tls(None) => Finding::ok(part, format!("{place} answers, its certificate is good")),
        Reached::Tls(Some(end)) => match end.checked_sub(now) {
            None => Finding::problem(part, format!("{place}: its certificate has expired"), "Renew it at the broker."),
            Some(left) if left < SOON => Finding::advice(
                part,
                format!("{place} answers; its certificate ends in {} days", days(left)),
                "Renew it at the broker.",
            ),
            Some(left) => {
                Finding::ok(part, format!("{place} answers; its certificate is good for {} days", days(left)))
            }
        },
    }
}

pub(super) fn issuer(url: &str, asked: &Result<(), String>) -> Finding {
    match asked {
        Ok(()) => Finding::ok("issuer", format!("{url} answers")),
        Err(why) => {
            Finding::problem("issuer", why, "Check issuer.url and issuer.ca, the network, and that the issuer runs.")
        }
    }
}

/// A secret, or a CA that secrets are shown to.
pub(super) fn secret(looked: &Looked) -> Finding {
    let place = looked.place.as_deref();
    match &looked.look {
        Look::Good => Finding::ok(looked.key, place.map_or("is good".to_owned(), |place| format!("{place} is good"))),
        Look::Unseen(why) => Finding::advice(looked.key, why, "Run doctor as root; or see what the daemon's log says."),
        Look::Bad(why) => Finding::problem(looked.key, why, "See \"Secrets from elsewhere\" in keys.md."),
    }
}

/// A place that the daemon writes to; where it is as it should be, there is nothing to say.
pub(super) fn place(looked: &Looked) -> Option<Finding> {
    match &looked.look {
        Look::Good => None,
        Look::Unseen(why) => {
            Some(Finding::advice(looked.key, why, "Run doctor as root; or see what the daemon's log says."))
        }
        Look::Bad(why) => Some(Finding::problem(looked.key, why, "Correct it; check with: clawgate config check")),
    }
}

pub(super) fn spool(asked: &Asked, max_bytes: u64) -> Finding {
    let part = "spool";
    let Some(Ok(status)) = asked else {
        return Finding::ok(part, format!("at most {} on disk; how full it is, the daemon would say", size(max_bytes)));
    };
    let (spool, used) = (&status.spool, status.spool.bytes.saturating_mul(100) / status.spool.max_bytes.max(1));
    let waits = format!("{} waiting, {} of {}", spool.waiting, size(spool.bytes), size(spool.max_bytes));
    if spool.dropped > 0 {
        return Finding::problem(
            part,
            format!("{waits}; {} readings were dropped for want of room", spool.dropped),
            "Raise spool.max_bytes, and see why the broker does not take them.",
        );
    }
    if spool.dead_letters > 0 {
        return Finding::problem(
            part,
            format!("{waits}; the broker refused {} readings for good", spool.dead_letters),
            "clawgate status and the log name the reason.",
        );
    }
    if used >= 80 {
        return Finding::advice(part, format!("{waits}: {used} % full"), "See why the broker does not take them.");
    }
    Finding::ok(part, waits)
}

pub(super) fn disk(folder: &Path, free: Option<u64>, spool_bytes: u64) -> Finding {
    let part = "disk";
    let place = folder.display();
    match free {
        None => Finding::advice(part, format!("how much is free under {place} cannot be seen"), ""),
        Some(free) if free < LEAST_DISK => Finding::problem(
            part,
            format!("{} free under {place}: readings and keys cannot be written", size(free)),
            "Free some space.",
        ),
        Some(free) if free < spool_bytes => Finding::advice(
            part,
            format!("{} free under {place}: less than the spool may take ({})", size(free), size(spool_bytes)),
            "Free some space, or lower spool.max_bytes.",
        ),
        Some(free) => Finding::ok(part, format!("{} free under {place}", size(free))),
    }
}

pub(super) fn master_key(seen: &KeySeen) -> Finding {
    let part = "master key";
    let path = seen.path.display();
    let seal = "Seal it to this machine: \"The master key\" in install.md";
    match (&seen.configured, seen.sealed, seen.file) {
        (Some(file), ..) => {
            Finding::ok(part, format!("in {}, as configured: as safe as that place is", file.display()))
        }
        (None, true, Some(true)) => Finding::advice(
            part,
            format!("sealed to this machine, but {path} is still there: a copied state directory opens"),
            "With a backup made (clawgate backup create): shred -u that file.",
        ),
        (None, true, _) => Finding::ok(part, "sealed to this machine: a copied disk or state directory does not open"),
        (None, false, Some(true)) => {
            Finding::advice(part, format!("in {path}: copies of the databases do not open, a stolen disk does"), seal)
        }
        (None, false, Some(false)) => Finding::advice(part, format!("none yet: the first start makes {path}"), seal),
        (None, false, None) => Finding::advice(part, "you may not look where it is", "Run doctor as root."),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    fn radio_that(hard_blocked: bool, soft_blocked: bool) -> Radio {
        Radio { name: "hci0".to_owned(), soft_blocked, hard_blocked }
    }

    fn healthy() -> BluetoothSeen {
        BluetoothSeen {
            radios: vec![radio_that(false, false)],
            bluez: Some("5.66".to_owned()),
            bluetoothd_runs: true,
            bus: true,
            policy: true,
            daemon_in_group: Some(true),
        }
    }

    /// The worst of some findings.
    fn worst(findings: &[Finding]) -> Level {
        findings.iter().map(|f| f.level).max_by_key(|level| *level as u8).unwrap_or(Level::Ok)
    }

    #[test]
    fn a_clock_is_well_when_the_kernel_says_so_whichever_program_keeps_it() {
        let seen = |wall, kernel, timesyncd, keeper| {
            clock(&ClockSeen { wall: Duration::from_secs(wall), kernel, timesyncd, keeper })
        };
        let now = 1_800_000_000;
        assert_eq!(seen(5, Some(true), true, None).level, Level::Problem);
        assert_eq!(seen(now, Some(true), false, None).level, Level::Ok);
        let named = seen(now, Some(true), false, Some("chronyd"));
        assert_eq!((named.level, named.message.as_str()), (Level::Ok, "synchronised by chronyd"));
        // A marker of before and a program that runs are no synchronised clock.
        let not_yet = seen(now, Some(false), true, Some("ntpd"));
        assert!(not_yet.level == Level::Advice && not_yet.message.contains("ntpd runs"), "{not_yet:?}");
        assert_eq!(seen(now, Some(false), true, None).level, Level::Advice);
        // Where the kernel may not be asked, what can be seen has to do.
        assert_eq!(seen(now, None, true, None).level, Level::Ok);
        assert_eq!(seen(now, None, false, Some("chronyd")).level, Level::Ok);
        assert_eq!(seen(now, None, false, None).level, Level::Advice);
    }

    #[test]
    fn bluetooth_is_a_problem_only_where_there_is_a_radio() {
        assert_eq!(worst(&bluetooth(&healthy())), Level::Ok);
        let none = BluetoothSeen { radios: Vec::new(), bluez: None, bluetoothd_runs: false, ..healthy() };
        assert_eq!(worst(&bluetooth(&none)), Level::Advice);
        assert_eq!(worst(&bluetooth(&BluetoothSeen { bluetoothd_runs: false, ..healthy() })), Level::Problem);
        assert_eq!(
            worst(&bluetooth(&BluetoothSeen { radios: vec![radio_that(false, true)], ..healthy() })),
            Level::Problem
        );
        assert_eq!(
            worst(&bluetooth(&BluetoothSeen { radios: vec![radio_that(true, false)], ..healthy() })),
            Level::Problem
        );
        assert_eq!(worst(&bluetooth(&BluetoothSeen { bluez: Some("5.48".to_owned()), ..healthy() })), Level::Advice);
    }

    #[test]
    fn missing_rights_on_the_bus_are_named() {
        assert_eq!(worst(&bluetooth(&BluetoothSeen { bus: false, ..healthy() })), Level::Problem);
        assert_eq!(worst(&bluetooth(&BluetoothSeen { policy: false, ..healthy() })), Level::Problem);
        let refused = bluetooth(&BluetoothSeen { daemon_in_group: Some(false), ..healthy() });
        assert!(
            refused.iter().any(|f| f.level == Level::Problem && f.next_step.contains("adduser clawgate bluetooth"))
        );
    }

    #[test]
    fn a_version_is_compared_by_number() {
        assert!(older("5.9", (5, 55)) && older("4.99", (5, 55)));
        assert!(!older("5.55", (5, 55)) && !older("5.100", (5, 55)) && !older("odd", (5, 55)));
    }

    #[test]
    fn a_port_is_judged_by_what_stands_there() {
        let level = |path: &str, condition, modem_manager| {
            port(&PortSeen { name: "line".to_owned(), path: path.into(), condition }, &None, modem_manager).level
        };
        assert_eq!(level("/dev/ttyUSB0", PortCondition::Open, false), Level::Ok);
        assert_eq!(level("/dev/ttyUSB0", PortCondition::Open, true), Level::Advice);
        assert_eq!(level("/dev/clawgate/line1", PortCondition::Open, true), Level::Ok);
        assert_eq!(level("/dev/clawgate/*", PortCondition::Absent, false), Level::Advice);
        assert_eq!(level("/dev/ttyUSB0", PortCondition::Absent, false), Level::Problem);
        assert_eq!(level("/dev/ttyUSB0", PortCondition::Busy { pid: Some(7), process: None }, false), Level::Problem);
    }

    #[test]
    fn a_brokers_certificate_is_watched() {
        let url = BrokerUrl { host: "broker".to_owned(), port: 8883, tls: true };
        let now = Duration::from_secs(1_800_000_000);
        let left = |days: u64| broker(&url, &Reached::Tls(Some(now + Duration::from_secs(days * 86_400))), now).level;
        assert_eq!((left(22), left(20)), (Level::Ok, Level::Advice));
        assert_eq!(broker(&url, &Reached::Tls(Some(now.saturating_sub(SOON))), now).level, Level::Problem);
        assert_eq!(broker(&url, &Reached::NotConnected("refused".to_owned()), now).level, Level::Problem);
        assert_eq!(broker(&url, &Reached::Plain { here: true }, now).level, Level::Ok);
        assert_eq!(broker(&url, &Reached::Plain { here: false }, now).level, Level::Advice);
    }

    #[test]
    fn a_key_file_is_worth_advice_and_a_sealed_key_is_well() {
        let level = |sealed, file| {
            master_key(&KeySeen { configured: None, sealed, file, path: "/var/lib/clawgate/master.key".into() }).level
        };
        assert_eq!(level(true, Some(false)), Level::Ok);
        assert_eq!(level(true, Some(true)), Level::Advice);
        assert_eq!(level(false, Some(true)), Level::Advice);
        assert_eq!(level(false, None), Level::Advice);
    }

    #[test]
    fn a_disk_is_full_long_before_its_last_byte() {
        let level = |free| disk(Path::new("/var/lib/clawgate"), Some(free), 256 << 20).level;
        assert_eq!((level(1 << 30), level(200 << 20), level(1 << 20)), (Level::Ok, Level::Advice, Level::Problem));
    }

    #[test]
    fn a_daemon_that_does_not_run_or_answer_is_a_problem() {
        assert_eq!(worst(&daemon(&None, true)), Level::Problem);
        assert_eq!(worst(&daemon(&Some(Err("no answer".to_owned())), true)), Level::Problem);
    }
}
