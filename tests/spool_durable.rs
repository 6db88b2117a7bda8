//! The spool's promise: acknowledged means confirmed or on disk; forgotten means confirmed; in order.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends")]

#[path = "spool_durable/kills.rs"]
mod kills;
mod support;

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use clawgate::clock::Clock;
use clawgate::ids::{DeviceId, PairingId};
use clawgate::spool::{Capture, Incoming, Kind, Lane, Outgoing, Spool, SpoolError, SpoolOptions, Submitted};
use support::{until, within};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const PUMP: PairingId = PairingId(*b"pump-001");
const EPOCH: u64 = 0xfeed;

fn options() -> SpoolOptions {
    SpoolOptions { commit: Duration::from_millis(20), ..SpoolOptions::default() }
}

/// Commits when it is asked to, and at the end.
fn when_asked() -> SpoolOptions {
    SpoolOptions { commit: Duration::from_secs(3600), ..SpoolOptions::default() }
}

struct Running {
    spool: Spool,
    stop: CancellationToken,
    task: JoinHandle<Result<(), SpoolError>>,
}

impl Running {
    fn start(path: &Path, options: SpoolOptions) -> Self {
        let spool = Spool::open(path, options, Clock::system()).unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(spool.clone().run(stop.clone()));
        Self { spool, stop, task }
    }

    async fn stop(self) {
        self.stop.cancel();
        within("the spool stops", self.task).await.unwrap().unwrap();
    }
}

fn reading(seq: u64) -> Incoming {
    let content = Bytes::from(format!("reading {seq} {}", "x".repeat(88)));
    Incoming { epoch: EPOCH, seq, kind: Kind::Telemetry, content, captured: Capture::Exact }
}

fn submit(lane: &Lane, seqs: std::ops::RangeInclusive<u64>) {
    for seq in seqs {
        assert_eq!(lane.submit(reading(seq)).unwrap(), Submitted::Accepted, "seq {seq}");
    }
}

async fn safe(lane: &Lane, seq: u64) {
    let mut progress = lane.progress();
    within("it becomes safe", progress.wait_for(|progress| progress.safe >= seq)).await.unwrap();
}

/// Takes and confirms until `last` is through; every entry in the order it came.
async fn drain(lane: &Lane, last: u64) -> Vec<Outgoing> {
    let mut out: Vec<Outgoing> = Vec::new();
    while out.last().is_none_or(|entry| entry.id.seq < last) {
        within("more comes", lane.ready()).await;
        let taken = lane.take(usize::MAX);
        assert_eq!(lane.confirm(&taken.iter().map(|entry| entry.ticket).collect::<Vec<_>>()), taken.len());
        out.extend(taken);
    }
    out
}

fn seqs(entries: &[Outgoing]) -> Vec<u64> {
    entries.iter().map(|entry| entry.id.seq).collect()
}

#[tokio::test]
async fn what_the_broker_confirms_is_safe_at_once_and_never_written() {
    let folder = tempfile::tempdir().unwrap();
    let it = Running::start(&folder.path().join("spool.db"), when_asked());
    let lane = it.spool.lane(PUMP);
    submit(&lane, 1..=50);
    assert_eq!(lane.hello(EPOCH, 1).safe, 0);
    assert_eq!(seqs(&drain(&lane, 50).await), (1..=50).collect::<Vec<_>>());
    let progress = lane.hello(EPOCH, 1);
    assert_eq!((progress.safe, progress.next), (50, 51));
    assert_eq!(it.spool.status().commits, 0);
    it.stop().await;
}

#[tokio::test]
async fn what_is_not_confirmed_in_time_goes_to_disk_and_comes_back_after_a_restart_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool.db");
    let it = Running::start(&path, options());
    let lane = it.spool.lane(PUMP);
    submit(&lane, 1..=3000);
    safe(&lane, 3000).await;
    assert!(it.spool.status().memory_bytes == 0, "nobody serves the lane, so nothing stays in memory");
    submit(&lane, 3001..=3010);
    it.stop().await;

    let it = Running::start(&path, options());
    let lane = it.spool.lane(PUMP);
    let progress = lane.hello(EPOCH, 2990);
    assert_eq!((progress.safe, progress.next), (3010, 3011));
    assert_eq!(lane.submit(reading(3010)).unwrap(), Submitted::Duplicate);
    assert_eq!(lane.submit(reading(3012)).unwrap(), Submitted::OutOfOrder { next: 3011 });
    submit(&lane, 3011..=3500);
    let out = drain(&lane, 3500).await;
    assert_eq!(seqs(&out), (1..=3500).collect::<Vec<_>>());
    assert_eq!(out[99].content, reading(100).content);
    it.stop().await;

    let it = Running::start(&path, options());
    let lane = it.spool.lane(PUMP);
    assert_eq!(it.spool.status().depth, 0);
    assert_eq!(lane.hello(EPOCH, 1).next, 3501, "what is confirmed and gone is still known");
    it.stop().await;
}

#[tokio::test]
async fn a_lost_connection_republishes_what_was_in_flight_and_ignores_late_answers() {
    let folder = tempfile::tempdir().unwrap();
    let it = Running::start(&folder.path().join("spool.db"), options());
    let lane = it.spool.lane(PUMP);
    submit(&lane, 1..=300);
    within("something waits", lane.ready()).await;
    let first = lane.take(usize::MAX);
    assert_eq!(first.len(), 100, "the in-flight bound");
    assert!(lane.take(usize::MAX).is_empty());
    assert_eq!(lane.confirm(&[first[0].ticket, first[2].ticket]), 2);
    lane.requeue();
    assert_eq!(lane.confirm(&[first[1].ticket]), 0, "an answer of the old connection");
    // In between it is committed, and nobody serves the lane: 3 is still known to be through.
    safe(&lane, 300).await;
    let expected: Vec<u64> = (2..=300).filter(|seq| *seq != 3).collect();
    assert_eq!(seqs(&drain(&lane, 300).await), expected);
    it.stop().await;
}

#[tokio::test]
async fn every_device_has_its_own_order_and_progress() {
    let folder = tempfile::tempdir().unwrap();
    let it = Running::start(&folder.path().join("spool.db"), when_asked());
    let lanes: Vec<Lane> = (0..20).map(|device| it.spool.lane(PairingId([device; 8]))).collect();
    for seq in 1..=200 {
        for lane in &lanes {
            assert_eq!(lane.submit(reading(seq)).unwrap(), Submitted::Accepted);
        }
    }
    it.spool.commit().await.unwrap();
    for lane in &lanes {
        safe(lane, 200).await;
    }
    assert_eq!(it.spool.status().commits, 1, "one commit serves all lanes");
    for lane in &lanes {
        assert_eq!(seqs(&drain(lane, 200).await), (1..=200).collect::<Vec<_>>());
    }
    it.stop().await;
}

#[tokio::test]
async fn the_byte_cap_takes_the_largest_lanes_oldest_and_leaves_a_gap_record() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool.db");
    let it = Running::start(&path, SpoolOptions { max_bytes: 200_000, ..options() });
    let (quiet, chatty) = (it.spool.lane(PairingId([1; 8])), it.spool.lane(PUMP));
    submit(&quiet, 1..=50);
    safe(&quiet, 50).await;
    for last in (500..=5000).step_by(500) {
        submit(&chatty, last - 499..=last);
        safe(&chatty, last).await;
    }
    let status = it.spool.status();
    assert!(status.disk_bytes <= 200_000, "{} bytes", status.disk_bytes);
    assert!(status.dropped > 2000, "{} dropped", status.dropped);
    it.stop().await;

    let it = Running::start(&path, SpoolOptions { max_bytes: 200_000, ..options() });
    assert_eq!(it.spool.status().dropped, status.dropped, "the count survives");
    assert_eq!(seqs(&drain(&it.spool.lane(PairingId([1; 8])), 50).await), (1..=50).collect::<Vec<_>>());
    let out = drain(&it.spool.lane(PUMP), 5000).await;
    let Kind::Gap { to } = out[0].kind else { panic!("the gap stands where the readings stood: {:?}", out[0]) };
    assert_eq!((out[0].id.seq, to), (1, status.dropped));
    assert_eq!(seqs(&out[1..]), (to + 1..=5000).collect::<Vec<_>>());
    it.stop().await;
}

#[tokio::test]
async fn a_sensors_gap_record_counts_as_the_readings_it_stands_for() {
    let folder = tempfile::tempdir().unwrap();
    let it = Running::start(&folder.path().join("spool.db"), options());
    let lane = it.spool.lane(PUMP);
    submit(&lane, 1..=3);
    let gap =
        |seq, to| Incoming { kind: Kind::Gap { to }, content: Bytes::from_static(b"memory full"), ..reading(seq) };
    assert_eq!(lane.submit(gap(5, 9)).unwrap(), Submitted::OutOfOrder { next: 4 });
    assert_eq!(lane.submit(gap(4, 9)).unwrap(), Submitted::Accepted);
    assert_eq!(lane.submit(gap(4, 9)).unwrap(), Submitted::Duplicate);
    assert_eq!(lane.submit(gap(4, 12)).unwrap(), Submitted::Accepted, "it grew before it was acknowledged");
    submit(&lane, 13..=13);
    safe(&lane, 13).await;
    let out = drain(&lane, 13).await;
    assert_eq!((out[3].id.seq, out[3].kind), (4, Kind::Gap { to: 9 }));
    assert_eq!((out[4].id.seq, out[4].kind), (10, Kind::Gap { to: 12 }));
    it.stop().await;
}

#[tokio::test]
async fn a_new_epoch_starts_over_and_an_old_one_is_still_known() {
    let folder = tempfile::tempdir().unwrap();
    let it = Running::start(&folder.path().join("spool.db"), options());
    let lane = it.spool.lane(PUMP);
    submit(&lane, 1..=10);
    let progress = lane.hello(77, 1);
    assert_eq!((progress.epoch, progress.safe, progress.next), (77, 0, 1));
    let other = Incoming { epoch: 77, ..reading(1) };
    assert_eq!(lane.submit(other).unwrap(), Submitted::Accepted);
    let mut watch = lane.progress();
    within("it becomes safe", watch.wait_for(|progress| progress.epoch == 77 && progress.safe == 1)).await.unwrap();
    assert_eq!(lane.hello(EPOCH, 1).next, 11);
    it.stop().await;
}

#[tokio::test]
async fn a_dead_letter_does_not_stand_in_the_way_and_can_be_replayed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool.db");
    let it = Running::start(&path, options());
    let lane = it.spool.lane(PUMP);
    submit(&lane, 1..=5);
    within("something waits", lane.ready()).await;
    let taken = lane.take(usize::MAX);
    lane.dead_letter(taken[1].ticket, "0x99 payload format invalid");
    assert_eq!(lane.confirm(&taken.iter().map(|entry| entry.ticket).collect::<Vec<_>>()), 4);
    safe(&lane, 5).await;
    until("the letter is buried, and waits no more", || {
        let status = it.spool.status();
        (status.dead_letters, status.depth) == (1, 0)
    })
    .await;
    it.stop().await;

    let it = Running::start(&path, options());
    let letters = it.spool.dead_letters(10).await.unwrap();
    assert_eq!((letters[0].id.seq, letters[0].reason.as_str()), (2, "0x99 payload format invalid"));
    assert_eq!(it.spool.replay_dead_letters(PUMP).await.unwrap(), 1);
    assert_eq!(it.spool.status().dead_letters, 0);
    let out = drain(&it.spool.lane(PUMP), 2).await;
    assert_eq!(out[0].content, reading(2).content);
    it.stop().await;
}

#[tokio::test]
async fn dead_letters_beyond_their_bound_are_counted_as_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool.db");
    let it = Running::start(&path, SpoolOptions { in_flight: 1000, ..options() });
    let lane = it.spool.lane(PUMP);
    let mut refused = 0;
    for last in (500..=10_000).step_by(500).chain([10_003]) {
        submit(&lane, refused + 1..=last);
        while refused < last {
            within("something waits", lane.ready()).await;
            for entry in lane.take(usize::MAX) {
                lane.dead_letter(entry.ticket, "0x90 topic name invalid");
                refused += 1;
            }
        }
    }
    until("all are through", || it.spool.status().depth == 0).await;
    let status = it.spool.status();
    assert_eq!((status.dead_letters, status.dropped), (10_000, 3));
    it.stop().await;
    assert_eq!(Running::start(&path, options()).spool.status().dropped, 3, "the count survives");
}

#[tokio::test]
async fn a_device_that_is_paired_again_has_its_older_lanes_served_first_also_after_a_restart_or_a_new_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool.db");
    let (old, new) = (PairingId([1; 8]), PairingId([2; 8]));
    let (pump, renamed): (DeviceId, DeviceId) = ("pump-3".parse().unwrap(), "pump-4".parse().unwrap());
    let pairings = |lanes: Vec<Lane>| lanes.iter().map(Lane::pairing).collect::<Vec<_>>();
    let it = Running::start(&path, options());
    assert_eq!(pairings(it.spool.lane(old).serve(&pump)), [old]);
    submit(&it.spool.lane(old), 1..=5);
    safe(&it.spool.lane(old), 5).await;
    assert_eq!(pairings(it.spool.lane(new).serve(&pump)), [old, new]);
    it.stop().await;

    let it = Running::start(&path, options());
    assert_eq!(pairings(it.spool.lane(new).serve(&pump)), [old, new]);
    assert_eq!(pairings(it.spool.lane(new).serve(&renamed)), [old, new]);
    assert_eq!(seqs(&drain(&it.spool.lane(old), 5).await), [1, 2, 3, 4, 5]);
    assert!(!it.spool.lane(old).ready_or_empty().await);
    assert_eq!(pairings(it.spool.lane(new).serve(&renamed)), [new]);
    it.stop().await;
}

#[tokio::test]
async fn lanes_of_many_pairings_are_served_in_the_order_of_their_making_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool.db");
    let pump: DeviceId = "pump-3".parse().unwrap();
    // Not in the order of their names.
    let pairings: Vec<PairingId> = (1..=8u8).map(|number| PairingId([number.wrapping_mul(101); 8])).collect();
    let it = Running::start(&path, when_asked());
    for pairing in &pairings {
        let lane = it.spool.lane(*pairing);
        assert_eq!(lane.serve(&pump).last().map(Lane::pairing), Some(*pairing));
        submit(&lane, 1..=5);
    }
    it.stop().await;
    let it = Running::start(&path, options());
    let served: Vec<PairingId> = it.spool.lane(pairings[7]).serve(&pump).iter().map(Lane::pairing).collect();
    assert_eq!(served, pairings);
    it.stop().await;
}

#[tokio::test]
async fn a_lane_that_was_purged_takes_nothing_more() {
    let folder = tempfile::tempdir().unwrap();
    let it = Running::start(&folder.path().join("spool.db"), options());
    let lane = it.spool.lane(PUMP);
    submit(&lane, 1..=5);
    it.spool.purge(PUMP).await.unwrap();
    assert!(matches!(lane.submit(reading(6)), Err(SpoolError::Purged { .. })));
    let asked_again = it.spool.lane(PUMP);
    assert!(matches!(asked_again.submit(reading(6)), Err(SpoolError::Purged { .. })), "a session that begins late");
    assert_eq!(it.spool.status().memory_bytes, 0);
    it.stop().await;
}

#[tokio::test]
async fn an_unpaired_devices_queue_is_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool.db");
    let it = Running::start(&path, options());
    submit(&it.spool.lane(PUMP), 1..=5);
    safe(&it.spool.lane(PUMP), 5).await;
    assert_eq!(it.spool.purge(PUMP).await.unwrap(), 5);
    it.stop().await;
    let it = Running::start(&path, options());
    assert_eq!(it.spool.status().lanes.len(), 0);
    it.stop().await;
}

/// Takes and confirms the first `count` of a row, and waits until the file knows that they are through.
async fn settle_some(lane: &Lane, count: usize) {
    within("something waits", lane.ready()).await;
    let taken = lane.take(usize::MAX);
    assert_eq!(taken.len(), count, "the in-flight bound");
    assert_eq!(lane.confirm(&taken.iter().map(|entry| entry.ticket).collect::<Vec<_>>()), count);
    // More goes out only when these are recorded.
    within("they are recorded", lane.ready()).await;
}

#[tokio::test]
async fn how_far_a_row_was_through_is_not_taken_for_a_later_row_in_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool.db");
    let fifty = SpoolOptions { in_flight: 50, ..options() };
    let filled = async |seqs| {
        let it = Running::start(&path, when_asked());
        submit(&it.spool.lane(PUMP), seqs);
        it.stop().await;
    };
    filled(1..=100).await;
    let it = Running::start(&path, fifty.clone());
    settle_some(&it.spool.lane(PUMP), 50).await;
    assert_eq!(seqs(&drain(&it.spool.lane(PUMP), 100).await), (51..=100).collect::<Vec<_>>());
    it.stop().await;
    // The file is empty, and the next row is the first again.
    filled(101..=200).await;
    let it = Running::start(&path, options());
    assert_eq!(seqs(&drain(&it.spool.lane(PUMP), 200).await), (101..=200).collect::<Vec<_>>());
    it.stop().await;
}

#[tokio::test]
async fn a_gap_of_the_cap_in_the_place_of_a_row_that_was_half_through_is_told_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool.db");
    let it = Running::start(&path, when_asked());
    submit(&it.spool.lane(PUMP), 1..=100);
    it.stop().await;
    let it = Running::start(&path, SpoolOptions { in_flight: 50, ..options() });
    settle_some(&it.spool.lane(PUMP), 50).await;
    it.stop().await;
    // There is room for what comes, or for what is there.
    let it = Running::start(&path, SpoolOptions { max_bytes: 15_000, ..when_asked() });
    submit(&it.spool.lane(PUMP), 101..=200);
    it.stop().await;
    let it = Running::start(&path, options());
    let out = drain(&it.spool.lane(PUMP), 200).await;
    assert_eq!((out[0].id.seq, out[0].kind), (1, Kind::Gap { to: 100 }));
    assert_eq!(seqs(&out[1..]), (101..=200).collect::<Vec<_>>());
    until("nothing is left", || it.spool.status().disk_bytes == 0).await;
    it.stop().await;
}
