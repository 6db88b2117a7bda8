//! What a broker may answer: late, never, twice, or with a refusal. A broker by script plays it. (An answer to nothing ends
//! the connection in the client library; that it settles nothing here either, a unit test of the relay says.)
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends")]

#[path = "support/back_half.rs"]
mod back_half;
#[path = "support/packet.rs"]
mod packet;
#[path = "relay_refusals/scripted.rs"]
mod scripted;
mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use back_half::{Gateway, submit};
use bytes::Bytes;
use clawgate::clock::Clock;
use clawgate::ids::{DeviceId, PairingId};
use clawgate::metrics::Metrics;
use clawgate::relay::{Relay, RelayDevice, RelayOptions, RelayState};
use clawgate::spool::{Incoming, Spool, SpoolOptions};
use clawgate::token::{TokenFeed, TokenState, TokenWish};
use scripted::{Reply, Scripted, ends_a_token};
use support::{token, token_feed, until, within};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

async fn all_confirmed(gateway: &Gateway, readings: u64) {
    until("the spool is empty", || gateway.spool.status().depth == 0).await;
    let lane = gateway.spool.lane(back_half::pairing("pump-3"));
    assert_eq!(lane.progress().borrow().safe, readings);
}

#[tokio::test]
async fn no_matching_subscribers_is_success_and_counted() {
    let broker = Scripted::start(0, |seq, _| Reply::Ack(if seq % 2 == 0 { 0x10 } else { 0 })).await;
    let gateway = Gateway::start(broker.port, |_| ());
    let (lane, _feed) = gateway.attach("pump-3");
    submit(&lane, 1..=10);
    all_confirmed(&gateway, 10).await;
    let status = &gateway.relay.status()[0];
    assert_eq!((status.confirmed, status.unheard), (10, 5));
    gateway.stop().await;
}

#[tokio::test]
async fn a_puback_that_never_comes_is_not_waited_for_for_ever() {
    let broker =
        Scripted::start(0, |seq, times| if (seq, times) == (10, 1) { Reply::Nothing } else { Reply::Ack(0) }).await;
    // So long nothing else is late on any machine.
    let gateway = Gateway::start(broker.port, |options| options.ack_timeout = Duration::from_secs(3));
    let (lane, _feed) = gateway.attach("pump-3");
    submit(&lane, 1..=20);
    all_confirmed(&gateway, 20).await;
    // Once a connection; where more than two were needed, everything was late.
    let (sent, connects) = (broker.count(10) as u64, gateway.relay.status()[0].connects);
    assert!(sent >= 2 && sent <= connects, "{sent} times on {connects} connections");
    gateway.stop().await;
}

#[tokio::test]
async fn a_puback_that_comes_late_or_twice_loses_nothing() {
    let broker = Scripted::start(0, |seq, times| match (seq, times) {
        (20, 1) => Reply::Twice,
        (40, _) => Reply::Late(Duration::from_millis(100)),
        (50, 1) => Reply::Cut,
        _ => Reply::Ack(0),
    })
    .await;
    // Later than the others, and in time on any machine.
    let gateway = Gateway::start(broker.port, |options| options.ack_timeout = Duration::from_secs(10));
    let (lane, _feed) = gateway.attach("pump-3");
    submit(&lane, 1..=60);
    all_confirmed(&gateway, 60).await;
    let mut seen = broker.seen();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, (1..=60).collect::<Vec<_>>());
    gateway.stop().await;
}

#[tokio::test]
async fn an_unauthorized_publish_stops_the_device_keeps_its_queue_and_tells_the_keeper_once() {
    let broker = Scripted::start(0, |seq, _| Reply::Ack(if seq > 3 { 0x87 } else { 0 })).await;
    let gateway = Gateway::start(broker.port, |_| ());
    let (lane, mut feed) = gateway.attach("pump-3");
    submit(&lane, 1..=20);
    assert_eq!(
        within("the keeper is told", feed.wishes.recv()).await,
        Some(TokenWish::Refused { jti: "first".to_owned() })
    );
    until("it is paused", || gateway.state() == RelayState::Paused).await;
    assert!(feed.wishes.try_recv().is_err());
    assert_eq!(gateway.spool.status().depth, 17, "an ACL mistake loses no backlog");
    assert_eq!(gateway.spool.status().dead_letters, 0);
    gateway.stop().await;
}

#[tokio::test]
async fn what_was_refused_under_a_token_that_ended_is_not_laid_to_the_next_one_and_what_that_carried_is_not_sent_twice()
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let all = Arc::clone(&seen);
    let task = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(ends_a_token(stream, Arc::clone(&all)));
        }
    });
    let gateway = Gateway::start(port, |_| ());
    let (lane, mut feed) = gateway.attach("pump-3");
    submit(&lane, 1..=10);
    until("ten are in flight", || seen.lock().unwrap().len() == 10).await;
    feed.state.send_replace(TokenState::Valid(Arc::new(token("pump-3", "second", Duration::from_secs(600)))));
    until("the second token is shown", || seen.lock().unwrap().contains(&0)).await;
    submit(&lane, 11..=20);
    let told = within("the keeper is told", feed.wishes.recv()).await;
    assert_eq!(told, Some(TokenWish::Refused { jti: "first".to_owned() }));
    all_confirmed(&gateway, 20).await;
    let readings: Vec<u64> = seen.lock().unwrap().iter().copied().filter(|seq| *seq > 0).collect();
    assert_eq!(readings, (1..=20).chain(5..=10).collect::<Vec<_>>(), "each once, and the refused ones again");
    gateway.stop().await;
    task.abort();
}

#[tokio::test]
async fn a_refused_connect_is_not_tried_again_with_the_same_token() {
    let broker = Scripted::start(0x87, |_, _| Reply::Ack(0)).await;
    let gateway = Gateway::start(broker.port, |_| ());
    let (_lane, mut feed) = gateway.attach("pump-3");
    within("the keeper is told", feed.wishes.recv()).await.unwrap();
    until("it is paused", || gateway.state() == RelayState::Paused).await;
    let connects = broker.connects.lock().unwrap().len();
    assert_eq!(connects, 2, "once with the method, once with the password");
    gateway.stop().await;
}

#[tokio::test]
async fn quota_is_waited_out_and_nothing_is_lost_or_buried() {
    let broker = Scripted::start(0, |seq, times| Reply::Ack(if seq == 5 && times < 4 { 0x97 } else { 0 })).await;
    let gateway = Gateway::start(broker.port, |_| ());
    let (lane, _feed) = gateway.attach("pump-3");
    submit(&lane, 1..=10);
    all_confirmed(&gateway, 10).await;
    assert_eq!((broker.count(5), broker.count(4)), (4, 1));
    assert_eq!(gateway.spool.status().dead_letters, 0);
    gateway.stop().await;
}

#[tokio::test]
async fn a_puback_that_refuses_the_message_itself_buries_it_and_the_queue_goes_on() {
    let broker = Scripted::start(0, |seq, _| {
        Reply::Ack(match seq {
            4 => 0x90,
            6 => 0x99,
            _ => 0,
        })
    })
    .await;
    let gateway = Gateway::start(broker.port, |_| ());
    let (lane, _feed) = gateway.attach("pump-3");
    submit(&lane, 1..=10);
    all_confirmed(&gateway, 10).await;
    until("both are buried", || gateway.spool.status().dead_letters == 2).await;
    assert_eq!(gateway.relay.status()[0].connects, 1);
    gateway.stop().await;
}

#[tokio::test]
async fn a_broker_that_hangs_up_over_one_message_gets_the_others_and_that_one_is_found() {
    let broker = Scripted::start(0, |seq, _| if seq == 7 { Reply::Disconnect(0x99) } else { Reply::Ack(0) }).await;
    let gateway = Gateway::start(broker.port, |_| ());
    let (lane, _feed) = gateway.attach("pump-3");
    submit(&lane, 1..=50);
    all_confirmed(&gateway, 50).await;
    let letters = gateway.spool.dead_letters(10).await.unwrap();
    assert_eq!(letters.iter().map(|letter| letter.id.seq).collect::<Vec<_>>(), [7]);
    assert!(letters[0].reason.contains("PayloadFormatInvalid"), "{}", letters[0].reason);
    gateway.stop().await;
}

#[tokio::test]
async fn a_broker_that_hangs_up_without_a_word_is_asked_one_by_one_and_nothing_is_given_up() {
    let takes_it = Arc::new(AtomicBool::new(false));
    let takes = Arc::clone(&takes_it);
    let broker =
        Scripted::start(
            0,
            move |seq, _| {
                if seq == 7 && !takes.load(Ordering::Relaxed) { Reply::Cut } else { Reply::Ack(0) }
            },
        );
    let broker = broker.await;
    let gateway = Gateway::start(broker.port, |options| {
        options.backoff = (Duration::from_millis(10), Duration::from_millis(10));
    });
    let (lane, _feed) = gateway.attach("pump-3");
    submit(&lane, 1..=50);
    let status = || gateway.relay.status().remove(0);
    // Two ends without an answer make it careful; the first may have brought some.
    until("it tried a few times", || status().connects >= 5).await;
    let before = status();
    until("it tried again", || status().connects >= before.connects + 3).await;
    let after = status();
    let (connects, published) = (after.connects - before.connects, after.published - before.published);
    assert!(published <= connects + 1, "{published} on {connects} connections");
    takes_it.store(true, Ordering::Relaxed);
    all_confirmed(&gateway, 50).await;
    assert!(gateway.spool.dead_letters(10).await.unwrap().is_empty());
    gateway.stop().await;
}

#[tokio::test]
async fn a_black_hole_is_given_up_and_keeps_nothing_from_the_disk() {
    let hole = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = hole.local_addr().unwrap().port();
    let taken = tokio::spawn(async move {
        let mut held = Vec::new();
        // It takes connections and bytes, and says nothing.
        loop {
            held.push(hole.accept().await.unwrap());
        }
    });
    let gateway = Gateway::start(port, |options| options.connect_timeout = Duration::from_millis(200));
    let (lane, _feed) = gateway.attach("pump-3");
    submit(&lane, 1..=100);
    let mut progress = lane.progress();
    within("all is on disk", progress.wait_for(|progress| progress.safe == 100)).await.unwrap();
    until("it is given up", || gateway.last_error().contains("did not answer in time")).await;
    assert_eq!(gateway.spool.status().depth, 100);
    gateway.stop().await;
    taken.abort();
}

#[tokio::test]
async fn reconnects_are_spaced_and_not_a_storm() {
    let broker = Scripted::start(0, |_, _| Reply::Cut).await;
    let gateway = Gateway::start(broker.port, |options| {
        options.backoff = (Duration::from_millis(40), Duration::from_millis(400));
    });
    let (lane, _feed) = gateway.attach("pump-3");
    submit(&lane, 1..=1);
    until("it tried a few times", || broker.connects.lock().unwrap().len() >= 8).await;
    let times = broker.connects.lock().unwrap().clone();
    // The first is the one with the method, which is answered at once with the next.
    let gaps: Vec<Duration> = times[1..].windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (gap, least) in gaps.iter().zip([20, 40, 80, 160, 200, 200]) {
        assert!(*gap >= Duration::from_millis(least), "{gaps:?}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_device_that_is_attached_while_it_is_detached_waits_for_its_connection_to_end() {
    let script = |seq, times| if seq <= 5 && times == 1 { Reply::Nothing } else { Reply::Ack(0) };
    let broker = Scripted::start(0, script).await;
    let gateway = Gateway::start(broker.port, |options| options.drain = Duration::from_millis(300));
    let (lane, _feed) = gateway.attach("pump-3");
    submit(&lane, 1..=5);
    until("they are sent", || broker.seen().len() == 5).await;
    let device = "pump-3".parse().unwrap();
    let mut leaving = Box::pin(gateway.relay.detach(&device));
    tokio::select! {
        biased;
        () = &mut leaving => panic!("what is in flight is waited for"),
        () = std::future::ready(()) => {}
    }
    assert!(gateway.relay.status().is_empty());
    let (_, _feed) = gateway.attach("pump-3");
    submit(&lane, 6..=10);
    let connects = || broker.connects.lock().unwrap().len();
    let before = connects();
    within("it is detached", leaving).await;
    // On one thread: nobody connects between the end and this look.
    assert_eq!(connects(), before, "one connection at a time");
    all_confirmed(&gateway, 10).await;
    assert_eq!(broker.seen(), (1..=5).chain(1..=10).collect::<Vec<_>>(), "in order");
    assert_eq!(gateway.relay.status().len(), 1);
    gateway.stop().await;
}

#[tokio::test]
async fn a_device_whose_token_nobody_keeps_any_more_does_not_connect_again_and_again() {
    let broker = Scripted::start(0, |_, _| Reply::Ack(0)).await;
    let gateway = Gateway::start(broker.port, |_| ());
    let (_lane, feed) = gateway.attach("pump-3");
    until("it is connected", || gateway.state() == RelayState::Connected).await;
    drop(feed);
    until("it says so", || gateway.state() == RelayState::Paused).await;
    assert!(gateway.last_error().contains("restart"), "{}", gateway.last_error());
    assert_eq!(gateway.relay.status()[0].connects, 1);
    gateway.stop().await;
}

#[tokio::test]
async fn a_device_is_said_to_wait_for_a_token_only_where_it_has_none() {
    let gateway = Gateway::start(support::free_port(), |_| ());
    let waiting = TokenState::Waiting { since: Duration::ZERO, last_error: None, approval: None };
    let valid = TokenState::Valid(Arc::new(token("pump-2", "first", Duration::from_secs(600))));
    let revoked = TokenState::Revoked { reason: "revoked by uid 0".to_owned() };
    let mut feeds = Vec::new();
    for (device, state) in [("pump-1", waiting), ("pump-2", valid), ("pump-3", revoked)] {
        let (feed, handle) = TokenFeed::new(state);
        gateway.attach_with(device, handle);
        feeds.push(feed);
    }
    // No task has begun: they do when this one waits.
    let states: Vec<RelayState> = gateway.relay.status().iter().map(|it| it.state).collect();
    assert_eq!(states, [RelayState::WaitingForToken, RelayState::Connecting, RelayState::Paused]);
    gateway.stop().await;
}

#[tokio::test]
async fn presence_that_is_too_large_for_the_broker_holds_no_reading_up() {
    // "I take 1000 bytes", says its answer to CONNECT.
    let broker = Scripted::start_saying(vec![0x20, 8, 0, 0, 5, 0x27, 0, 0, 3, 232], |_, _| Reply::Ack(0)).await;
    let gateway = Gateway::start(broker.port, |_| ());
    let lane = gateway.spool.lane(back_half::pairing("pump-3"));
    let (_feed, handle) = token_feed("pump-3");
    let description = serde_json::json!({ "capabilities": "x".repeat(2000) });
    let device = RelayDevice { id: "pump-3".parse().unwrap(), pairing: lane.pairing(), description };
    gateway.relay.attach(device, lane.clone(), handle);
    submit(&lane, 1..=3);
    all_confirmed(&gateway, 3).await;
    assert_eq!(gateway.spool.status().dead_letters, 0);
    gateway.stop().await;
}

#[tokio::test]
async fn what_an_earlier_pairing_left_holds_up_nothing_when_it_is_through_while_there_is_no_connection() {
    let broker = Scripted::start(0, |_, _| Reply::Ack(0)).await;
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(&folder.path().join("spool.db"), SpoolOptions::default(), Clock::system()).unwrap();
    let mut options = RelayOptions::new("127.0.0.1".into(), broker.port, "default".into(), "site-1".into());
    options.idle = Duration::from_millis(50);
    let relay = Relay::new(options, Clock::system(), Metrics::new().relay).unwrap();
    let device: DeviceId = "pump-3".parse().unwrap();
    let (old, new) = (spool.lane(PairingId([1; 8])), spool.lane(PairingId([2; 8])));
    assert_eq!(old.serve(&device).len(), 1);
    // It goes to the dead letters, and has to wait for the disk.
    old.submit(Incoming { content: Bytes::from_static(b"not senml"), ..back_half::reading(1) }).unwrap();
    submit(&new, 1..=3);
    let (_feed, handle) = token_feed("pump-3");
    let description = serde_json::Value::Null;
    relay.attach(RelayDevice { id: device.clone(), pairing: new.pairing(), description }, new, handle);
    until("it is refused, and nothing can be sent", || {
        let status = relay.device_status(&device).unwrap();
        status.refused == 1 && status.state == RelayState::Idle
    })
    .await;
    let stop = CancellationToken::new();
    let task = tokio::spawn(spool.clone().run(stop.clone()));
    until("the others arrive", || (1..=3).all(|seq| broker.count(seq) > 0)).await;
    within("the relay ends", relay.shutdown()).await;
    stop.cancel();
    within("the spool ends", task).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_panic_within_ends_the_connection_and_neither_the_device_nor_its_neighbour() {
    let broker = Scripted::start(0, |_, _| Reply::Ack(0)).await;
    // Instants do not go so far: what waits for an answer panics.
    let gateway = Gateway::start(broker.port, |options| options.ack_timeout = Duration::MAX);
    let (lane, feed) = gateway.attach("pump-3");
    submit(&lane, 1..=3);
    until("it begins anew", || gateway.relay.status()[0].connects > 2).await;
    until("it is said", || {
        let status = gateway.relay.status().remove(0);
        let said = status.last_error.is_some_and(|error| error.contains("an error in clawgate itself"));
        said && status.state == RelayState::BackingOff
    })
    .await;
    assert_eq!(gateway.spool.status().depth, 3, "the queue is kept");
    feed.state.send_replace(TokenState::Revoked { reason: "revoked by uid 0".to_owned() });
    until("it is still listened to", || gateway.state() == RelayState::Paused).await;
    gateway.stop().await;
}
