//! What the spool does when its file or its disk is not as it should be: it says so, and acknowledges nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends")]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use clawgate::clock::Clock;
use clawgate::ids::PairingId;
use clawgate::spool::{Capture, Incoming, Kind, Lane, Spool, SpoolError, SpoolOptions, Submitted};
use support::{until, within};
use tokio_util::sync::CancellationToken;

const PUMP: PairingId = PairingId(*b"pump-001");

fn options() -> SpoolOptions {
    SpoolOptions { commit: Duration::from_millis(20), ..SpoolOptions::default() }
}

fn reading(seq: u64) -> Incoming {
    let content = Bytes::from(vec![b'r'; 500]);
    Incoming { epoch: 9, seq, kind: Kind::Telemetry, content, captured: Capture::Exact }
}

fn open(path: &Path) -> Result<Spool, SpoolError> {
    Spool::open(path, options(), Clock::system())
}

/// A spool with rows in it, closed.
async fn filled(path: &Path, rows: u64) {
    let spool = open(path).unwrap();
    let lane = spool.lane(PUMP);
    for seq in 1..=rows {
        lane.submit(reading(seq)).unwrap();
    }
    let stop = CancellationToken::new();
    stop.cancel();
    within("it commits and ends", spool.run(stop)).await.unwrap();
}

async fn safe(lane: &Lane, seq: u64) {
    let mut progress = lane.progress();
    within("it becomes safe", progress.wait_for(|progress| progress.safe >= seq)).await.unwrap();
}

#[tokio::test]
async fn a_file_that_is_no_spool_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool.db");
    for content in [&b""[..], b"SQLite", &[0; 8192], b"some text that is longer than a header\n"] {
        fs::write(&path, content).unwrap();
        let error = open(&path).unwrap_err();
        assert!(matches!(error, SpoolError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("spool.db") && error.to_string().contains("aside"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), content);
    }
}

#[tokio::test]
async fn a_database_of_somebody_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool.db");
    rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    assert!(matches!(open(&path).unwrap_err(), SpoolError::Damaged { .. }));
}

#[tokio::test]
async fn damaged_pages_are_refused_or_become_a_gap_but_never_an_empty_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool.db");
    filled(&path, 2000).await;
    let good = fs::read(&path).unwrap();
    assert!(good.len() > 100_000);
    let (mut refused, mut gaps) = (0, 0);
    for (page, whole) in (1..good.len() / 4096).step_by(9).flat_map(|page| [(page, true), (page, false)]) {
        let mut bad = good.clone();
        // A whole page lost breaks the tree, a few bytes may lie within a reading.
        let range = if whole { 0..4096 } else { 500..540 };
        bad[page * 4096..][range].fill(0xa5);
        fs::write(&path, &bad).unwrap();
        let _ = fs::remove_file(folder.path().join("spool.db-wal"));
        let Ok(spool) = open(&path) else {
            refused += 1;
            assert_eq!(fs::read(&path).unwrap(), bad, "page {page}: a refused file was touched");
            continue;
        };
        // The damage lies within content, or where nothing is: everything else must come, in order.
        let stop = CancellationToken::new();
        let task = tokio::spawn(spool.clone().run(stop.clone()));
        let lane = spool.lane(PUMP);
        let mut accounted = 0;
        while accounted < 2000 {
            within("more comes", lane.ready()).await;
            for entry in lane.take(usize::MAX) {
                assert_eq!(entry.id.seq, accounted + 1, "page {page}");
                accounted = match entry.kind {
                    Kind::Telemetry => {
                        assert_eq!(entry.content, reading(0).content, "page {page}: damage was passed on");
                        entry.id.seq
                    }
                    Kind::Gap { to } => {
                        gaps += 1;
                        to
                    }
                };
                lane.confirm(&[entry.ticket]);
            }
        }
        stop.cancel();
        within("it ends", task).await.unwrap().unwrap();
    }
    assert!(refused > 0 && gaps > 0, "{refused} refused, {gaps} gaps");
}

#[tokio::test]
async fn a_missing_file_whose_wal_is_there_is_damage_and_not_a_first_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool.db");
    fs::write(folder.path().join("spool.db-wal"), b"frames").unwrap();
    assert!(matches!(open(&path).unwrap_err(), SpoolError::Damaged { .. }));
    assert!(!path.exists());
}

#[tokio::test]
async fn a_newer_schema_is_refused_untouched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool.db");
    filled(&path, 10).await;
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let before = fs::read(&path).unwrap();
    assert!(matches!(open(&path).unwrap_err(), SpoolError::NewerSchema { found: 99, known: 1, .. }));
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn a_second_process_on_the_same_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool.db");
    let _first = open(&path).unwrap();
    assert!(matches!(open(&path).unwrap_err(), SpoolError::InUse { .. }));
}

#[tokio::test]
async fn only_the_owner_may_read_the_file() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool.db");
    filled(&path, 1).await;
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

/// A file system of its own, unmounted when dropped; `None` where this user may not mount.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(folder.path())
            .status()
            .is_ok_and(|status| status.success());
        if !mounted {
            eprintln!("not run: mounting a small file system needs root");
        }
        mounted.then_some(Self(folder))
    }

    fn remount(&self, options: &str) {
        let status = Command::new("mount").args(["-o", options]).arg(self.0.path()).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn on_a_full_disk_readings_stay_unacknowledged_and_go_on_when_there_is_room() {
    let Some(disk) = SmallDisk::mount("1m") else { return };
    let path = disk.0.path().join("spool.db");
    let options = SpoolOptions { memory_bytes: 4 << 20, ..options() };
    let spool = Spool::open(&path, options, Clock::system()).unwrap();
    let stop = CancellationToken::new();
    let task = tokio::spawn(spool.clone().run(stop.clone()));
    let lane = spool.lane(PUMP);
    let progress = lane.progress();
    let mut next = 1;
    // Until the disk is full and then memory too: memory alone may be, while the disk is only slow.
    until("disk and memory are full", || {
        for _ in 0..50 {
            match lane.submit(reading(next)) {
                Ok(Submitted::Accepted) => next += 1,
                Err(SpoolError::Full { .. }) => return spool.status().trouble.is_some(),
                other => panic!("{other:?}"),
            }
        }
        false
    })
    .await;
    let status = spool.status();
    assert!(status.trouble.is_some(), "{status:?}");
    // A sensor that connects now is told the same as the one that is connected.
    let told = lane.hello(9, 1).safe;
    let held = progress.borrow().safe.max(told);
    assert!(held < next - 1, "{held} of {} safe", next - 1);
    assert!(status.memory_bytes <= 4 << 20);
    // What a crash would leave now has everything that was called safe.
    let left = tempfile::tempdir().unwrap();
    for name in ["spool.db", "spool.db-wal"] {
        fs::copy(disk.0.path().join(name), left.path().join(name)).unwrap();
    }
    let kept = open(&left.path().join("spool.db")).unwrap().lane(PUMP).hello(9, 1).next - 1;
    assert!(held <= kept, "{held} called safe, {kept} on the disk");

    disk.remount("remount,size=64m");
    safe(&lane, next - 1).await;
    assert_eq!(spool.status().trouble, None);
    stop.cancel();
    within("it ends", task).await.unwrap().unwrap();

    let spool = open(&path).unwrap();
    assert_eq!(spool.lane(PUMP).hello(9, 1).next, next);
    assert_eq!(spool.status().depth, next - 1, "nothing twice, nothing lost");
}

/// Not a test of its own: the process whose fsyncs fail in [`a_failed_fsync_is_never_taken_as_success`].
#[tokio::test]
async fn fsync_victim() {
    let Ok(path) = std::env::var("CLAWGATE_FSYNC_VICTIM") else { return };
    let when_asked = SpoolOptions { commit: Duration::from_secs(3600), ..options() };
    let spool = Spool::open(Path::new(&path), when_asked, Clock::system()).unwrap();
    let task = tokio::spawn(spool.clone().run(CancellationToken::new()));
    let lane = spool.lane(PUMP);
    let next = lane.hello(9, 1).next;
    for seq in next..next + 100 {
        lane.submit(reading(seq)).unwrap();
    }
    let fails = async |safe| {
        let said = within("it is tried", spool.commit()).await.unwrap_err().to_string();
        assert_eq!(spool.status().trouble, Some(said));
        assert_eq!(lane.progress().borrow().safe, safe, "acknowledged although the fsync failed");
    };
    fails(next - 1).await;
    // The broker still answers: what it confirms is safe without the disk.
    within("it waits", lane.ready()).await;
    // Three were there before.
    let tickets: Vec<_> = lane.take(4).iter().map(|entry| entry.ticket).collect();
    assert_eq!(lane.confirm(&tickets), 4);
    lane.requeue();
    fails(next).await;
    fails(next).await;
    within("it is tried", spool.commit()).await.unwrap();
    assert_eq!(lane.progress().borrow().safe, next + 99);
    assert_eq!(spool.status().trouble, None);
    drop(task);
    println!("healed");
}

/// Not a test of its own: the process that [`no_acknowledgement_comes_before_its_fsync`] watches.
#[tokio::test]
async fn commit_victim() {
    let Ok(path) = std::env::var("CLAWGATE_COMMIT_VICTIM") else { return };
    let spool = open(Path::new(&path)).unwrap();
    let task = tokio::spawn(spool.clone().run(CancellationToken::new()));
    let lane = spool.lane(PUMP);
    let next = lane.hello(9, 1).next;
    for seq in next..next + 20 {
        lane.submit(reading(seq)).unwrap();
        safe(&lane, seq).await;
    }
    drop(task);
    // No orderly end, which would make a checkpoint and its fsyncs.
    std::process::exit(7);
}

#[tokio::test]
async fn no_acknowledgement_comes_before_its_fsync() {
    if Command::new("strace").arg("-V").output().is_err() {
        eprintln!("not run: counting fsyncs needs strace");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (path, trace) = (folder.path().join("spool.db"), folder.path().join("trace"));
    filled(&path, 3).await;
    let status = Command::new("strace")
        .args(["-f", "-qq", "-e", "trace=fsync,fdatasync", "-o"])
        .arg(&trace)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "commit_victim"])
        .env("CLAWGATE_COMMIT_VICTIM", &path)
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(7));
    let syncs = fs::read_to_string(&trace).unwrap().matches("sync(").count();
    assert!(syncs >= 20, "{syncs} fsyncs for 20 acknowledgements, one after the other");
}

/// Not a test of its own: the process that
/// [`what_a_killed_process_wrote_reaches_the_disk_before_the_next_one_calls_it_safe`] watches.
#[tokio::test]
async fn heir_victim() {
    let Ok(path) = std::env::var("CLAWGATE_HEIR_VICTIM") else { return };
    let spool = open(Path::new(&path)).unwrap();
    let safe = spool.lane(PUMP).hello(9, 1).safe;
    // Without closing it, which would make a checkpoint and its fsyncs.
    std::process::exit(if safe == 20 { 7 } else { 8 });
}

#[tokio::test]
async fn what_a_killed_process_wrote_reaches_the_disk_before_the_next_one_calls_it_safe() {
    if Command::new("strace").arg("-V").output().is_err() {
        eprintln!("not run: seeing fsyncs needs strace");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool.db");
    let spool = open(&path).unwrap();
    let stop = CancellationToken::new();
    let task = tokio::spawn(spool.clone().run(stop.clone()));
    let lane = spool.lane(PUMP);
    (1..=20).for_each(|seq| assert_eq!(lane.submit(reading(seq)).unwrap(), Submitted::Accepted));
    safe(&lane, 20).await;
    // What a kill between the write and its fsync leaves: these files have not been synced.
    let left = folder.path().join("left.db");
    fs::copy(&path, &left).unwrap();
    fs::copy(folder.path().join("spool.db-wal"), folder.path().join("left.db-wal")).unwrap();
    let trace = folder.path().join("trace");
    let status = Command::new("strace")
        .args(["-f", "-y", "-qq", "-e", "trace=fsync,fdatasync", "-o"])
        .arg(&trace)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "heir_victim"])
        .env("CLAWGATE_HEIR_VICTIM", &left)
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(7), "it calls them safe");
    let trace = fs::read_to_string(&trace).unwrap();
    assert!(trace.lines().any(|line| line.contains("left.db-wal") && line.ends_with("= 0")), "{trace}");
    stop.cancel();
    within("it ends", task).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_failed_fsync_is_never_taken_as_success() {
    if Command::new("strace").arg("-V").output().is_err() {
        eprintln!("not run: failing an fsync needs strace");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool.db");
    filled(&path, 3).await;
    let out = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync"])
        .args(["-e", "inject=fsync,fdatasync:error=EIO:when=1..3"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "fsync_victim", "--nocapture"])
        .env("CLAWGATE_FSYNC_VICTIM", &path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(said.contains("healed"), "{said}{}", String::from_utf8_lossy(&out.stderr));
    let spool = open(&path).unwrap();
    assert_eq!(spool.status().depth, 3 + 100 - 4, "the failed commits count once, or not at all");
}

/// Not a test of its own: the process whose fsyncs fail in [`a_replay_whose_fsync_fails_loses_no_dead_letter`].
#[tokio::test]
async fn replay_victim() {
    let Ok(path) = std::env::var("CLAWGATE_REPLAY_VICTIM") else { return };
    let spool = open(Path::new(&path)).unwrap();
    let task = tokio::spawn(spool.clone().run(CancellationToken::new()));
    let lane = spool.lane(PUMP);
    let one_more = async || {
        let next = lane.hello(9, 1).next;
        lane.submit(reading(next)).unwrap();
        safe(&lane, next).await;
    };
    // A log with nothing else in it would be thrown away with the commit that fails.
    one_more().await;
    let replayed = spool.replay_dead_letters(PUMP).await;
    // The next commit, which has to do with what the failed one left.
    one_more().await;
    let status = spool.status();
    drop(task);
    println!("\nreplayed {} letters {} depth {}", replayed.is_ok(), status.dead_letters, status.depth);
}

#[tokio::test]
async fn a_replay_whose_fsync_fails_loses_no_dead_letter() {
    if Command::new("strace").arg("-V").output().is_err() {
        eprintln!("not run: failing an fsync needs strace");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut failed = 0;
    for first in 1..=8 {
        let path = folder.path().join(format!("{first}.db"));
        let spool = open(&path).unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(spool.clone().run(stop.clone()));
        let lane = spool.lane(PUMP);
        for seq in 1..=3 {
            lane.submit(reading(seq)).unwrap();
        }
        within("something waits", lane.ready()).await;
        lane.take(usize::MAX).iter().for_each(|entry| lane.dead_letter(entry.ticket, "0x99 payload format invalid"));
        until("they are buried", || spool.status().dead_letters == 3).await;
        stop.cancel();
        within("it ends", task).await.unwrap().unwrap();
        drop((lane, spool));

        let out = Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-e"])
            .arg(format!("inject=fsync,fdatasync:error=EIO:when={first}..{}", first + 1))
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "replay_victim", "--nocapture"])
            .env("CLAWGATE_REPLAY_VICTIM", &path)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stdout);
        let said = said.lines().find(|line| line.starts_with("replayed")).unwrap_or_else(|| panic!("{out:?}"));
        let words: Vec<&str> = said.split(' ').collect();
        let number = |at: usize| words[at].parse::<u64>().unwrap();
        failed += u64::from(words[1] == "false");
        assert!(number(3) + number(5) > 4, "fsync {first} failed: {said}");
        let spool = open(&path).unwrap();
        let status = spool.status();
        assert!(status.dead_letters + status.depth > 4, "fsync {first} failed: {status:?}");
    }
    assert!(failed > 0, "no fsync of the replay was hit");
}
