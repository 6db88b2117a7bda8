//! A disk that loses its power, or becomes read-only, under the running daemon: what was acknowledged is on it, and
//! not only in the kernel's memory.
//!
//! The daemon's state lies on a file system of its own, in a file. Its power is cut by the ioctl that ext4 has for
//! such tests: what has not reached the disk by then never does. The daemon is stopped just before and killed just
//! after, so that it says nothing that a machine without power would not have said.
#![cfg(feature = "standalone")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends")]

#[path = "support/daemon.rs"]
mod daemon;
mod support;

use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use daemon::{Daemon, Sensor, quoted};
use support::{DEADLINE, Mosquitto, Subscriber};
use tempfile::TempDir;

/// How often the power is cut.
const CUTS: usize = 6;

/// `FS_IOC_SHUTDOWN` without a flush of the journal (`EXT4_GOING_FLAGS_NOLOGFLUSH`).
const CUT: &str = "import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";

/// An ext4 in a file, mounted; unmounted when dropped.
struct Disk {
    image: PathBuf,
    mounted_at: PathBuf,
}

impl Disk {
    /// Makes and mounts one; why it cannot be had otherwise.
    fn plug_in(image: PathBuf, mounted_at: PathBuf) -> Result<Self, String> {
        File::create(&image).and_then(|file| file.set_len(64 << 20)).unwrap();
        std::fs::create_dir_all(&mounted_at).unwrap();
        run(Command::new("/sbin/mkfs.ext4").args(["-q", "-F"]).arg(&image))?;
        let disk = Self { image, mounted_at };
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&self) -> Result<(), String> {
        run(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.mounted_at))
    }

    /// Cuts its power.
    fn cut(&self) {
        run(Command::new("python3").args(["-c", CUT]).arg(&self.mounted_at)).expect("ext4 can be shut down");
    }

    /// What ext4 does after an error of the device: nothing more is written.
    fn becomes_read_only(&self) {
        run(Command::new("mount").args(["-o", "remount,abort"]).arg(&self.mounted_at)).expect("ext4 can be aborted");
    }

    /// Gives it power again; nothing may be open on it.
    fn power_up(&self) {
        run(Command::new("umount").arg(&self.mounted_at)).unwrap();
        self.mount().unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.mounted_at).output();
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let done = command.output().map_err(|error| format!("{}: {error}", command.get_program().display()))?;
    if done.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&done.stderr).trim().to_owned()) }
}

/// A number below `bound`, another one each time.
fn any(bound: usize) -> usize {
    let mut random = [0; 2];
    getrandom::fill(&mut random).unwrap();
    usize::from(u16::from_le_bytes(random)) % bound
}

/// A daemon whose state lies on a disk of its own, with a paired sensor and a broker that has been stopped.
struct Site {
    sensor: Sensor,
    daemon: Daemon,
    subscriber: Subscriber,
    broker: Mosquitto,
    disk: Disk,
    folder: TempDir,
}

impl Site {
    /// `None` where such a disk cannot be had.
    async fn start() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("daemon");
        let disk = match Disk::plug_in(folder.path().join("disk"), own.join("state")) {
            Ok(disk) => disk,
            Err(why) => {
                eprintln!("not run: a disk whose power can be cut needs root and loop devices: {why}");
                return None;
            }
        };
        let durable = "allow_anonymous true\npersistence true\npersistence_location {dir}/\n";
        let mut broker = Mosquitto::start_with(durable);
        let subscriber = Subscriber::start(&broker).await;
        let mut sensor = Sensor::start(&folder.path().join("sensor"), &["--rate", "200"]);
        let config = format!(
            "mode = \"relay\"\n[metrics]\nlisten = \"off\"\n[issuer]\nlisten = \"127.0.0.1:0\"\n\
             [spool]\ncommit_ms = 100\n[broker]\nurl = \"mqtt://127.0.0.1:{}\"\n[uart.ports.p1]\npath = {}\n",
            broker.port(),
            quoted(&sensor.line())
        );
        let daemon = Daemon::start(&own, &config);
        daemon.pair("p1", &mut sensor, "pump-3");
        broker.stop();
        Some(Self { sensor, daemon, subscriber, broker, disk, folder })
    }

    fn acknowledged(&self) -> usize {
        self.sensor.acknowledged().len()
    }

    /// The daemon is killed, the disk is mounted anew, the daemon starts again.
    fn restart(&mut self) {
        self.daemon.kill();
        self.disk.power_up();
        self.daemon.resume();
    }

    /// The broker comes back, and everything that was acknowledged before has to arrive.
    fn nothing_is_lost(mut self) {
        self.broker.resume();
        let promised = self.sensor.acknowledged();
        let lost = || {
            let here = self.subscriber.on("/pump-3/up/telemetry");
            let here: BTreeSet<&str> = here.iter().map(|reading| reading.attribute("id")).collect();
            promised.iter().filter(|name| !here.contains(name.as_str())).count()
        };
        let end = Instant::now() + DEADLINE;
        while lost() > 0 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(lost(), 0, "lost of {} readings that were acknowledged", promised.len());
        assert!(self.daemon.stop(), "an orderly end: {}", self.daemon.log());
        let state = self.folder.path().join("daemon/state");
        let verified = self.daemon.cli(&["audit", "verify", "--state-dir", state.to_str().unwrap()]);
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_loses_nothing_that_was_acknowledged() {
    let Some(mut site) = Site::start().await else { return };
    let mut safe = 0;
    for cut in 1..=CUTS {
        let enough = safe + 100 + any(200);
        site.daemon.wait("readings are safe without a broker", |_| site.acknowledged() >= enough);
        // Anywhere between one commit and the next.
        std::thread::sleep(Duration::from_millis(any(200) as u64));
        site.daemon.freeze();
        site.disk.cut();
        site.restart();
        safe = site.acknowledged();
        eprintln!("power cut {cut}: {safe} readings acknowledged so far");
    }
    site.nothing_is_lost();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_becomes_read_only_is_said_and_nothing_more_is_acknowledged() {
    let Some(mut site) = Site::start().await else { return };
    site.daemon.wait("readings are safe without a broker", |_| site.acknowledged() >= 100);
    site.disk.becomes_read_only();
    let status = || String::from_utf8_lossy(&site.daemon.cli(&["status"]).stdout).into_owned();
    site.daemon.wait("it is said", |_| status().contains("spool.db"));
    let refused = site.daemon.cli(&["code", "new"]);
    let words = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && words.contains("state.db") && words.contains("check the disk"), "{words}");
    let makes = |more| {
        let made = site.sensor.made();
        site.daemon.wait("the sensor makes more", |_| site.sensor.made() > made + more);
    };
    // Acknowledgements that were on their way arrive while the sensor sends some more in vain; on a slow machine, many.
    let mut before = site.acknowledged();
    let all_have_arrived = (0..10).any(|_| {
        makes(300);
        let now = site.acknowledged();
        std::mem::replace(&mut before, now) == now
    });
    assert!(all_have_arrived, "acknowledged although nothing can be kept: {before}");
    site.restart();
    site.daemon.wait("it goes on", |_| site.acknowledged() > before);
    site.nothing_is_lost();
}
