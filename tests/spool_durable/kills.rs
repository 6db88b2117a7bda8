//! A process that is killed: what it called safe is there, and little of what it published comes again.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use clawgate::spool::{SpoolError, Submitted};

use crate::support::within;
use crate::{EPOCH, PUMP, Running, drain, options, reading, safe, seqs, submit};

/// Not a test of its own: the process that [`kill_dash_nine_loses_nothing_that_was_acknowledged`] kills.
#[tokio::test]
async fn victim() {
    let Ok(path) = std::env::var("CLAWGATE_SPOOL_VICTIM") else { return };
    let it = Running::start(Path::new(&path), options());
    let lane = it.spool.lane(PUMP);
    let next = lane.hello(EPOCH, 1).next;
    let mut progress = lane.progress();
    // Each on a line of its own: where one test runs at a time, its name stands in the line before.
    println!("\nnext {next}");
    for seq in next.. {
        loop {
            match lane.submit(reading(seq)) {
                Ok(Submitted::Accepted) => break,
                // The disk is slow just now: the reading stays with the sensor.
                Err(SpoolError::Full { .. }) => tokio::time::sleep(Duration::from_millis(1)).await,
                other => panic!("seq {seq}: {other:?}"),
            }
        }
        if seq % 50 == 0 {
            let safe = progress.borrow_and_update().safe;
            println!("\nsafe {safe}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test]
async fn kill_dash_nine_loses_nothing_that_was_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool.db");
    let mut acknowledged = 0;
    for round in 0..5u32 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kills::victim", "--nocapture"])
            .env("CLAWGATE_SPOOL_VICTIM", &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut target = u64::MAX;
        for line in lines.by_ref().map_while(Result::ok) {
            if let Some(next) = line.strip_prefix("next ").and_then(|next| next.parse::<u64>().ok()) {
                assert!(next > acknowledged, "round {round}: {acknowledged} was acknowledged, {next} is expected");
                target = next + 500 + u64::from(round) * 333;
            }
            if let Some(safe) = line.strip_prefix("safe ").and_then(|safe| safe.parse::<u64>().ok()) {
                acknowledged = acknowledged.max(safe);
            }
            if acknowledged >= target {
                break;
            }
        }
        assert!(acknowledged >= target, "round {round}: it ended by itself, {acknowledged} of {target} acknowledged");
        child.kill().unwrap();
        for line in lines.map_while(Result::ok) {
            if let Some(safe) = line.strip_prefix("safe ").and_then(|safe| safe.parse::<u64>().ok()) {
                acknowledged = acknowledged.max(safe);
            }
        }
        child.wait().unwrap();
    }
    let it = Running::start(&path, options());
    let lane = it.spool.lane(PUMP);
    let next = lane.hello(EPOCH, 1).next;
    assert!(next > acknowledged && acknowledged > 3000, "{acknowledged} acknowledged, {next} next");
    let out = drain(&lane, next - 1).await;
    assert_eq!(seqs(&out), (1..next).collect::<Vec<_>>());
    it.stop().await;
}

#[tokio::test]
async fn a_kill_while_draining_repeats_at_most_the_in_flight_bound() {
    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("spool.db"), folder.path().join("copy.db"));
    let it = Running::start(&path, options());
    let lane = it.spool.lane(PUMP);
    submit(&lane, 1..=8000);
    safe(&lane, 8000).await;
    let mut published = 0;
    for round in 0..20 {
        while published < (round + 1) * 377 {
            within("more comes", lane.ready()).await;
            let taken = lane.take(usize::MAX);
            published = taken.last().map_or(published, |entry| entry.id.seq);
            lane.confirm(&taken.iter().map(|entry| entry.ticket).collect::<Vec<_>>());
        }
        // What a kill would leave: the files as they stand now.
        std::fs::copy(&path, &copy).unwrap();
        std::fs::copy(folder.path().join("spool.db-wal"), folder.path().join("copy.db-wal")).unwrap();
        let after = Running::start(&copy, options());
        let lane = after.spool.lane(PUMP);
        within("something is left", lane.ready()).await;
        let first = lane.take(usize::MAX)[0].id.seq;
        assert!(first <= published + 1, "{first} after {published}: lost");
        assert!(published < first + 100, "{first} after {published}: repeats more than is in flight");
        after.stop().await;
    }
    it.stop().await;
}
