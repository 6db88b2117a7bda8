//! What the spool writes to disk per reading: flash wears.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends")]

mod support;

use std::time::Duration;

use bytes::Bytes;
use clawgate::clock::Clock;
use clawgate::ids::PairingId;
use clawgate::spool::{Capture, Incoming, Kind, Spool, SpoolOptions};
use support::within;
use tokio_util::sync::CancellationToken;

const BYTES: usize = 100;

/// Bytes that this process passed to `write` and its kin.
fn written() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    io.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap().parse().unwrap()
}

/// Bytes written per byte of reading, over an outage in which `rate` readings come a commit, and its end.
async fn outage(devices: u8, rate: u64, commits: u64) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    // So many readings a commit on any machine: each is asked for.
    let options = SpoolOptions { commit: Duration::from_secs(3600), ..SpoolOptions::default() };
    let spool = Spool::open(&folder.path().join("spool.db"), options, Clock::system()).unwrap();
    let stop = CancellationToken::new();
    let task = tokio::spawn(spool.clone().run(stop.clone()));
    let lanes: Vec<_> = (0..devices).map(|device| spool.lane(PairingId([device; 8]))).collect();
    let before = written();
    for commit in 0..commits {
        for seq in commit * rate + 1..=(commit + 1) * rate {
            for lane in &lanes {
                let content = Bytes::from(vec![b'r'; BYTES]);
                lane.submit(Incoming { epoch: 1, seq, kind: Kind::Telemetry, content, captured: Capture::Exact })
                    .unwrap();
            }
        }
        within("it is committed", spool.commit()).await.unwrap();
        assert!(lanes.iter().all(|lane| lane.progress().borrow().safe == (commit + 1) * rate));
    }
    for lane in &lanes {
        let mut left = commits * rate;
        while left > 0 {
            within("more comes", lane.ready()).await;
            let tickets: Vec<_> = lane.take(usize::MAX).iter().map(|entry| entry.ticket).collect();
            left -= lane.confirm(&tickets) as u64;
        }
    }
    stop.cancel();
    within("it ends", task).await.unwrap().unwrap();
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
    let factor = (written() - before) as f64 / (commits * rate * u64::from(devices) * BYTES as u64) as f64;
    eprintln!("{devices} devices, {rate} readings a commit each: {factor:.2} bytes written per byte of reading");
    factor
}

/// One test, so that nothing else writes in this process meanwhile.
#[tokio::test]
async fn an_outage_writes_at_most_four_times_the_bytes_of_its_readings() {
    for (devices, rate, commits) in [(1, 2000, 20), (1, 200, 100), (100, 20, 20), (10, 20, 50)] {
        let factor = outage(devices, rate, commits).await;
        assert!(factor <= 4.0, "{factor}");
    }
}
