//! A power cut: what was acknowledged is on the disk, and not only in the kernel's memory.
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
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use daemon::{Daemon, Sensor, quoted};
use support::{DEADLINE, Mosquitto, Received, Subscriber};

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

fn arrived(subscriber: &Subscriber) -> BTreeSet<String> {
    subscriber.on("/pump-3/up/telemetry").iter().map(|reading: &Received| reading.attribute("id").to_owned()).collect()
}

fn config(broker: &Mosquitto, line: &Path) -> String {
    format!(
        "mode = \"relay\"\n[metrics]\nlisten = \"off\"\n[issuer]\nlisten = \"127.0.0.1:0\"\n\
         [spool]\ncommit_ms = 100\n[broker]\nurl = \"mqtt://127.0.0.1:{}\"\n[uart.ports.p1]\npath = {}\n",
        broker.port(),
        quoted(line)
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_loses_nothing_that_was_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("daemon/state");
    let disk = match Disk::plug_in(folder.path().join("disk"), state.clone()) {
        Ok(disk) => disk,
        Err(why) => return eprintln!("not run: a disk whose power can be cut needs root and loop devices: {why}"),
    };
    let durable = "allow_anonymous true\npersistence true\npersistence_location {dir}/\n";
    let mut broker = Mosquitto::start_with(durable);
    let subscriber = Subscriber::start(&broker).await;
    let mut sensor = Sensor::start(&folder.path().join("sensor"), &["--rate", "200"]);
    let mut daemon = Daemon::start(&folder.path().join("daemon"), &config(&broker, &sensor.line()));
    daemon.pair("p1", &mut sensor, "pump-3");
    broker.stop();

    let mut safe = 0;
    for cut in 1..=CUTS {
        let enough = safe + 100 + any(200);
        daemon.wait("readings are safe without a broker", |_| sensor.acknowledged().len() >= enough);
        // Anywhere between one commit and the next.
        std::thread::sleep(Duration::from_millis(any(200) as u64));
        daemon.freeze();
        disk.cut();
        daemon.kill();
        safe = sensor.acknowledged().len();
        disk.power_up();
        daemon.resume();
        eprintln!("power cut {cut}: {safe} readings acknowledged so far");
    }
    broker.resume();
    let promised = sensor.acknowledged();
    let lost = || {
        let here = arrived(&subscriber);
        promised.iter().filter(|name| !here.contains(*name)).count()
    };
    let end = Instant::now() + DEADLINE;
    while lost() > 0 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(lost(), 0, "lost of {} readings that were acknowledged", promised.len());
    assert!(daemon.stop(), "an orderly end: {}", daemon.log());
    let verified = daemon.cli(&["audit", "verify", "--state-dir", state.to_str().unwrap()]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
}
