use bytes::Bytes;

use super::*;
use crate::spool::entry::{Capture, Outgoing};

fn incoming(epoch: u64, seq: u64) -> Incoming {
    Incoming { epoch, seq, kind: Kind::Telemetry, content: Bytes::from_static(b"x"), captured: Capture::Exact }
}

fn queue(in_flight: usize) -> Queue {
    Queue::new(PairingId([1; 8]), Limits { window_entries: 100, window_bytes: 1 << 20, in_flight })
}

fn take(queue: &mut Queue, max: usize) -> Vec<Outgoing> {
    let mut out = Vec::new();
    queue.take_into(max, &mut out);
    out
}

#[test]
fn who_goes_back_to_an_earlier_epoch_is_not_told_that_what_waits_of_it_is_safe() {
    let mut queue = queue(10);
    // The other epoch's reading comes first, so that none of this one's is the first that is not safe.
    queue.hello(7, 1);
    queue.submit(incoming(7, 1), Duration::ZERO);
    queue.hello(8, 1);
    queue.submit(incoming(8, 1), Duration::ZERO);
    queue.submit(incoming(8, 2), Duration::ZERO);
    assert_eq!(queue.hello(7, 1).safe, 0);
    assert_eq!(queue.hello(8, 1), Progress { epoch: 8, safe: 0, next: 3 });
    for (taken, safe) in take(&mut queue, usize::MAX).into_iter().zip([0, 1, 2]) {
        assert!(queue.confirm(taken.ticket));
        assert_eq!(queue.progress().safe, safe);
    }
}

#[test]
fn what_is_confirmed_behind_one_that_is_not_counts_as_in_flight_and_holds_up_nothing_for_ever() {
    let mut queue = queue(10);
    for seq in 1..=50 {
        queue.submit(incoming(1, seq), Duration::ZERO);
    }
    let first = take(&mut queue, usize::MAX);
    assert!(first[1..].iter().all(|taken| queue.confirm(taken.ticket)));
    assert!(!queue.is_ready(), "a kill now repeats nine");
    queue.requeue();
    assert!(queue.is_ready());
    let again = take(&mut queue, usize::MAX);
    assert_eq!(again.iter().map(|taken| taken.id.seq).collect::<Vec<_>>(), [1]);
    assert!(queue.dead_letter(again[0].ticket, String::new()));
    assert!(queue.is_ready());
    assert!(take(&mut queue, usize::MAX).iter().all(|taken| queue.confirm(taken.ticket)));
    assert!(!queue.is_ready(), "not before the dead letter is on disk");
    let dying = queue.dying();
    queue.buried(&dying);
    assert!(queue.is_ready());
    assert_eq!(take(&mut queue, usize::MAX).len(), 10);
}

#[test]
fn a_dead_letter_that_was_replayed_into_the_midst_of_a_row_leaves_it_known_how_far_that_is_through() {
    let mut queue = queue(10);
    let of_row =
        |id, seq| ChunkRef { id, epoch: 1, first_seq: seq, last_seq: seq, count: 1, done: 0, bytes: 1, gap: false };
    (1..=3).for_each(|seq| assert_eq!(queue.submit(incoming(1, seq), Duration::ZERO), Submitted::Accepted));
    queue.push_backlog(of_row(7, 99));
    queue.submit(incoming(1, 4), Duration::ZERO);
    let rows = queue.begin_refill();
    let letter = Entry::from_disk(7, 1, 99, Kind::Telemetry, Capture::Exact, Bytes::new());
    queue.end_refill(vec![(rows[0], vec![letter])]);
    let drafts = queue.drafts(256, 1 << 20);
    queue.committed(&drafts[0], 9, 100);
    queue.written();
    assert!(take(&mut queue, 4).into_iter().all(|taken| queue.confirm(taken.ticket)));
    let settled = queue.settled();
    assert_eq!((settled.deletes, settled.mark), (vec![7], Some((9, 3))));
}

#[test]
fn what_is_confirmed_while_it_is_written_is_recorded_as_through() {
    let mut queue = queue(10);
    for seq in 1..=5 {
        queue.submit(incoming(1, seq), Duration::ZERO);
    }
    let drafts = queue.drafts(256, 1 << 20);
    for taken in take(&mut queue, 2) {
        assert!(queue.confirm(taken.ticket));
    }
    queue.committed(&drafts[0], 9, 100);
    queue.written();
    assert_eq!(take(&mut queue, usize::MAX).len(), 3);
    let settled = queue.settled();
    assert_eq!((settled.mark, settled.unrecorded, queue.unrecorded()), (Some((9, 2)), 2, 2));
}

#[test]
fn no_more_is_confirmed_while_it_is_written_than_a_kill_may_repeat() {
    let mut queue = queue(10);
    for seq in 1..=30 {
        queue.submit(incoming(1, seq), Duration::ZERO);
    }
    let confirm_all = |queue: &mut Queue| {
        let taken = take(queue, usize::MAX);
        assert!(taken.iter().all(|taken| queue.confirm(taken.ticket)));
        taken.len()
    };
    queue.drafts(256, 1 << 20);
    assert_eq!(confirm_all(&mut queue), 10);
    assert!(!queue.is_ready(), "killed once the row is on disk, and all ten come again");
    // The transaction fails: none of it is on disk.
    queue.written();
    assert!(queue.is_ready());
    let drafts = queue.drafts(256, 1 << 20);
    assert_eq!(confirm_all(&mut queue), 10);
    queue.committed(&drafts[0], 9, 100);
    queue.written();
    assert!(!queue.is_ready(), "the row does not say yet how far it is through");
    let settled = queue.settled();
    queue.recorded(settled, true);
    assert_eq!(confirm_all(&mut queue), 10);
}

#[test]
fn the_epoch_that_is_spoken_of_is_forgotten_last() {
    let mut queue = queue(10);
    queue.hello(1, 5);
    for epoch in 2..=EPOCHS as u64 {
        queue.hello(epoch, 1);
    }
    queue.hello(1, 1);
    queue.hello(100, 1);
    assert_eq!((queue.hello(1, 1).next, queue.hello(3, 1).next), (5, 1));
}

#[test]
fn the_end_of_the_numbers_is_no_panic() {
    let mut queue = queue(10);
    let gap = |seq| Incoming { kind: Kind::Gap { to: u64::MAX }, ..incoming(7, seq) };
    assert_eq!(queue.submit(gap(1), Duration::ZERO), Submitted::OutOfOrder { next: 1 });
    assert_eq!(queue.hello(7, u64::MAX).next, u64::MAX);
    assert_eq!(queue.submit(gap(u64::MAX), Duration::ZERO), Submitted::OutOfOrder { next: u64::MAX });
    assert_eq!(queue.submit(incoming(7, u64::MAX - 1), Duration::ZERO), Submitted::Duplicate);
    assert_eq!(queue.progress().safe, u64::MAX - 1);
}

#[test]
fn a_full_flight_is_refilled_by_halves_and_the_last_ones_go_at_once() {
    let mut queue = queue(10);
    for seq in 1..=17 {
        assert_eq!(queue.submit(incoming(1, seq), Duration::ZERO), Submitted::Accepted);
    }
    let mut flying: VecDeque<_> = take(&mut queue, usize::MAX).into_iter().map(|entry| entry.ticket).collect();
    let confirm = |queue: &mut Queue, flying: &mut VecDeque<_>, count| {
        flying.drain(..count).for_each(|ticket| assert!(queue.confirm(ticket)));
        queue.is_ready()
    };
    assert_eq!(flying.len(), 10);
    assert!(!confirm(&mut queue, &mut flying, 4), "seven wait: four are not worth a write");
    assert!(confirm(&mut queue, &mut flying, 1));
    flying.extend(take(&mut queue, usize::MAX).into_iter().map(|entry| entry.ticket));
    assert!(!confirm(&mut queue, &mut flying, 1), "two wait");
    assert!(confirm(&mut queue, &mut flying, 1), "and all of them may go");
    assert_eq!(take(&mut queue, usize::MAX).len(), 2);
}
