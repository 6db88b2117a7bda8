//! The relay against a real broker: everything arrives, in order, under its name, whatever the broker does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends")]

#[path = "support/back_half.rs"]
mod back_half;
#[path = "relay_delivery/faults.rs"]
mod faults;
#[path = "relay_delivery/moody.rs"]
mod moody;
#[path = "support/packet.rs"]
mod packet;
mod support;

use std::sync::Arc;
use std::time::Duration;

use back_half::{Gateway, pack, pairing, reading, submit};
use bytes::Bytes;
use clawgate::config::Payload;
use clawgate::ids::{DeviceId, PairingId};
use clawgate::relay::RelayState;
use clawgate::spool::{Capture, Incoming, Kind};
use clawgate::token::scope::{Action, Scope, Topics};
use clawgate::token::{TokenFeed, TokenState, TokenWish};
use clawgate_protocol::senml::{self, Record, Value};
use support::{DEADLINE, Mosquitto, Subscriber, limited_token, token, token_for, until, within};

/// A broker that keeps sessions over its own restart.
const DURABLE: &str = "allow_anonymous true\npersistence true\npersistence_location {dir}/\nautosave_interval 1\n";

async fn arrives(subscriber: &Subscriber, device: &str, last: u64) {
    until("every reading arrives", || {
        subscriber.on(&format!("/{device}/up/telemetry")).iter().any(|m| m.seq() == last)
    })
    .await;
    assert_eq!(subscriber.seqs(device), (1..=last).collect::<Vec<_>>(), "in order, none missing");
}

#[tokio::test]
async fn a_reading_arrives_under_its_name_as_senml_json() {
    let broker = Mosquitto::start();
    let subscriber = Subscriber::start(&broker).await;
    let gateway = Gateway::start(broker.port(), |_| ());
    let (lane, _feed) = gateway.attach("pump-3");
    submit(&lane, 1..=1);
    lane.submit(Incoming { captured: Capture::Mapped, ..reading(2) }).unwrap();
    let gap = Incoming { kind: Kind::Gap { to: 9 }, content: Bytes::from_static(b"memory full"), ..reading(3) };
    lane.submit(gap).unwrap();
    until("all three arrive", || subscriber.on("/up/event").len() == 1 && subscriber.on("/up/telemetry").len() == 2)
        .await;

    let telemetry = subscriber.on("/up/telemetry");
    let first = &telemetry[0];
    assert_eq!(first.topic, "claw/v1/default/site-1/pump-3/up/telemetry");
    assert_eq!(String::from_utf8_lossy(&first.payload), r#"[{"bt":1700000000,"n":"t","u":"Cel","v":1}]"#);
    assert_eq!(first.content_type, "application/senml+json");
    assert_eq!(first.attribute("specversion"), "1.0");
    assert_eq!(first.attribute("id"), format!("{}.000000000000feed.1", pairing("pump-3")));
    assert_eq!(first.attribute("source"), "claw/v1/default/site-1/pump-3");
    assert_eq!(first.attribute("type"), "claw.telemetry.v1");
    assert_eq!((first.attribute("clawcapture"), telemetry[1].attribute("clawcapture")), ("", "mapped"));

    let event: serde_json::Value = serde_json::from_slice(&subscriber.on("/up/event")[0].payload).unwrap();
    assert_eq!((event["from"].as_u64(), event["to"].as_u64()), (Some(3), Some(9)));
    assert_eq!(event["reason"], "memory full");
    let mut progress = lane.progress();
    within("all is safe", progress.wait_for(|progress| progress.safe == 9)).await.unwrap();
    gateway.stop().await;
}

#[tokio::test]
async fn senml_cbor_is_passed_as_the_sensor_made_it() {
    let broker = Mosquitto::start();
    let subscriber = Subscriber::start(&broker).await;
    let gateway = Gateway::start(broker.port(), |options| options.payload = Payload::Cbor);
    let (lane, _feed) = gateway.attach("pump-3");
    submit(&lane, 1..=1);
    arrives(&subscriber, "pump-3", 1).await;
    let got = &subscriber.on("/up/telemetry")[0];
    assert_eq!((got.payload.as_slice(), got.content_type.as_str()), (&pack(1)[..], "application/senml+cbor"));
    gateway.stop().await;
}

#[tokio::test]
async fn presence_is_retained_and_the_will_speaks_for_a_gateway_that_died() {
    let broker = Mosquitto::start();
    let gateway = Gateway::start(broker.port(), |_| ());
    let (_lane, _feed) = gateway.attach("pump-3");
    // For who comes later it is retained once the broker has it.
    until("its presence is taken", || broker.log().contains("Sending PUBACK to site-1.pump-3")).await;
    assert_eq!(gateway.state(), RelayState::Connected);
    let state = |message: &support::Received| {
        let payload: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
        (payload["state"].as_str().unwrap().to_owned(), payload["device"]["units"][0].as_str().unwrap().to_owned())
    };
    let late = Subscriber::start(&broker).await;
    until("presence is retained", || late.on("/up/state").first().is_some_and(|message| message.retained)).await;
    assert_eq!(state(&late.on("/up/state")[0]), ("online".to_owned(), "Cel".to_owned()));
    // Cut the connection without a word: another client takes the id over and leaves.
    let mut options = rumqttc::MqttOptions::new("site-1.pump-3", rumqttc::Broker::tcp("127.0.0.1", broker.port()));
    options.set_connect_timeout(DEADLINE);
    let (_client, mut events) = rumqttc::AsyncClient::builder(options).capacity(1).build();
    events.poll().await.unwrap();
    until("the will is published", || late.on("/up/state").iter().any(|message| state(message).0 == "offline")).await;
    drop(events);
    until("the relay comes back", || late.on("/up/state").last().is_some_and(|message| state(message).0 == "online"))
        .await;
    gateway.stop().await;
    until("it says goodbye", || late.on("/up/state").last().is_some_and(|message| state(message).0 == "offline")).await;
}

#[tokio::test]
async fn a_broker_that_restarts_under_load_loses_nothing() {
    let mut broker = Mosquitto::start_with(DURABLE);
    let subscriber = Subscriber::start(&broker).await;
    let gateway = Gateway::start(broker.port(), |_| ());
    let (lane, _feed) = gateway.attach("pump-3");
    for round in 0..3 {
        submit(&lane, round * 1000 + 1..=round * 1000 + 500);
        broker.stop();
        submit(&lane, round * 1000 + 501..=round * 1000 + 1000);
        broker.resume();
    }
    arrives(&subscriber, "pump-3", 3000).await;
    until("the spool is empty", || gateway.spool.status().depth == 0).await;
    // What the broker was sent; to its subscriber it may itself say again what was under way when it stopped.
    let log = broker.log();
    let is_sent = |line: &&str| line.contains("Received PUBLISH from site-1.pump-3 ") && line.contains("/up/telemetry");
    let copies = log.lines().filter(is_sent).count();
    assert!((3000..=3000 + 3 * 100).contains(&copies), "{copies}: more than the in-flight window was sent twice");
    gateway.stop().await;
}

#[tokio::test]
async fn a_frozen_broker_holds_up_neither_collecting_nor_acknowledging() {
    let broker = Mosquitto::start();
    let subscriber = Subscriber::start(&broker).await;
    let gateway = Gateway::start(broker.port(), |options| {
        options.ack_timeout = Duration::from_secs(1);
        // The frozen one is connected to, and answers when it goes on: until then the last error stands.
        options.connect_timeout = DEADLINE;
    });
    let (lane, _feed) = gateway.attach("pump-3");
    submit(&lane, 1..=50);
    arrives(&subscriber, "pump-3", 50).await;
    let is_quiet = || gateway.state() == RelayState::Connected && gateway.spool.status().depth == 0;
    until("it is connected and has nothing to wait for", is_quiet).await;
    broker.freeze(true);
    submit(&lane, 51..=2000);
    let mut progress = lane.progress();
    within("all is on disk", progress.wait_for(|progress| progress.safe == 2000)).await.unwrap();
    until("the relay notices", || gateway.last_error().contains("confirm")).await;
    broker.freeze(false);
    arrives(&subscriber, "pump-3", 2000).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_cold_start_without_a_broker_recovers_by_itself() {
    let mut broker = Mosquitto::start();
    let port = broker.port();
    broker.kill();
    let gateway = Gateway::start(port, |_| ());
    let (lane, _feed) = gateway.attach("pump-3");
    submit(&lane, 1..=100);
    until("it backs off", || gateway.state() == RelayState::BackingOff).await;
    assert!(gateway.last_error().contains("refused"), "{}", gateway.last_error());
    let mut progress = lane.progress();
    within("all is on disk", progress.wait_for(|progress| progress.safe == 100)).await.unwrap();
    broker.resume();
    until("the broker has it all", || gateway.spool.status().depth == 0).await;
    assert_eq!(gateway.relay.status()[0].confirmed, 100);
    gateway.stop().await;
}

#[tokio::test]
async fn a_new_token_on_a_broker_without_enhanced_authentication_costs_a_reconnect_and_nothing_else() {
    let broker = Mosquitto::start_with(DURABLE);
    let subscriber = Subscriber::start(&broker).await;
    let gateway = Gateway::start(broker.port(), |_| ());
    let (lane, feed) = gateway.attach("pump-3");
    until("it is connected", || gateway.state() == RelayState::Connected).await;
    let mut seq = 0;
    for round in 0..5 {
        submit(&lane, seq + 1..=seq + 200);
        seq += 200;
        let next = token("pump-3", &format!("token-{round}"), Duration::from_secs(600));
        feed.state.send_replace(TokenState::Valid(Arc::new(next)));
        until("it has reconnected", || gateway.relay.status()[0].connects == round + 2).await;
    }
    arrives(&subscriber, "pump-3", seq).await;
    until("all is confirmed", || gateway.spool.status().depth == 0).await;
    assert_eq!(subscriber.on("/up/telemetry").len() as u64, seq, "nothing twice: it drains first");
    gateway.stop().await;
}

#[tokio::test]
async fn a_topic_outside_of_the_token_is_refused_before_the_network() {
    let broker = Mosquitto::start();
    let gateway = Gateway::start(broker.port(), |_| ());
    let (lane, mut feed) = gateway.attach("pump-3");
    let other = Topics::new(vec![("claw/v1/default/site-1/pump-4/up/#".to_owned(), vec![Action::Publish])]);
    let device: DeviceId = "pump-3".parse().unwrap();
    let wrong = token_for(&device, "wrong", Duration::from_secs(600), &other);
    feed.state.send_replace(TokenState::Valid(Arc::new(wrong)));
    assert_eq!(
        within("the keeper is told", feed.wishes.recv()).await,
        Some(TokenWish::Refused { jti: "wrong".to_owned() })
    );
    submit(&lane, 1..=10);
    until("it is paused", || gateway.state() == RelayState::Paused).await;
    assert!(gateway.last_error().contains("does not allow"), "{}", gateway.last_error());
    assert!(!broker.log().contains("up/telemetry"));
    assert_eq!(gateway.spool.status().depth, 10, "the queue is kept");
    gateway.stop().await;
}

#[tokio::test]
async fn a_message_the_broker_will_never_take_does_not_block_the_queue() {
    let broker = Mosquitto::start_with("allow_anonymous true\nmax_packet_size 2000\n");
    let subscriber = Subscriber::start(&broker).await;
    let gateway = Gateway::start(broker.port(), |_| ());
    let (lane, _feed) = gateway.attach("pump-3");
    submit(&lane, 1..=3);
    lane.submit(Incoming { content: Bytes::from_static(b"not senml"), ..reading(4) }).unwrap();
    let text = "x".repeat(3000);
    let record = Record { name: Some("t"), value: Some(Value::Text(&text)), ..Record::default() };
    let mut large = [0; 3500];
    let len = senml::encode(&[record], &mut large).unwrap();
    lane.submit(Incoming { content: Bytes::copy_from_slice(&large[..len]), ..reading(5) }).unwrap();
    submit(&lane, 6..=10);
    until("the others arrive", || subscriber.seqs("pump-3") == [1, 2, 3, 6, 7, 8, 9, 10]).await;
    until("the two are buried", || gateway.spool.status().dead_letters == 2).await;
    let mut letters = gateway.spool.dead_letters(10).await.unwrap();
    letters.sort_by_key(|letter| letter.id.seq);
    assert!(letters[0].reason.starts_with("0x99"), "{}", letters[0].reason);
    assert!(letters[1].reason.starts_with("0x95"), "{}", letters[1].reason);
    let mut progress = lane.progress();
    within("all is safe", progress.wait_for(|progress| progress.safe == 10)).await.unwrap();
    gateway.stop().await;
}

#[tokio::test]
async fn a_revoked_device_is_cut_at_once_and_its_neighbour_goes_on() {
    let broker = Mosquitto::start();
    let subscriber = Subscriber::start(&broker).await;
    let gateway = Gateway::start(broker.port(), |_| ());
    let (bad, feed) = gateway.attach("pump-3");
    let (good, _feed) = gateway.attach("pump-4");
    submit(&bad, 1..=10);
    submit(&good, 1..=10);
    arrives(&subscriber, "pump-3", 10).await;
    arrives(&subscriber, "pump-4", 10).await;
    feed.state.send_replace(TokenState::Revoked { reason: "revoked by uid 0".to_owned() });
    until("it is paused", || gateway.state() == RelayState::Paused).await;
    assert_eq!(gateway.last_error(), "revoked by uid 0");
    submit(&bad, 11..=20);
    submit(&good, 11..=20);
    arrives(&subscriber, "pump-4", 20).await;
    assert_eq!(subscriber.seqs("pump-3").len(), 10);
    assert_eq!(gateway.relay.status()[1].connects, 1, "the neighbour's connection was not touched");
    gateway.stop().await;
}

#[tokio::test]
async fn what_waited_under_an_earlier_pairing_goes_out_first_under_its_own_name() {
    let mut broker = Mosquitto::start_with(DURABLE);
    let subscriber = Subscriber::start(&broker).await;
    broker.stop();
    let gateway = Gateway::start(broker.port(), |_| ());
    let (lane, _feed) = gateway.attach("pump-3");
    submit(&lane, 1..=50);
    within("it ends", gateway.relay.detach(&"pump-3".parse().unwrap())).await;
    let (again, _feed) = gateway.attach_as("pump-3", PairingId([7; 8]));
    submit(&again, 1..=50);
    broker.resume();
    until("all arrive", || subscriber.on("/up/telemetry").len() == 100).await;
    let ids: Vec<String> = subscriber.on("/up/telemetry").iter().map(|it| it.attribute("id").to_owned()).collect();
    let name = |pairing, seq| format!("{pairing}.000000000000feed.{seq}");
    let old = (1..=50).map(|seq| name(pairing("pump-3"), seq));
    assert_eq!(ids, old.chain((1..=50).map(|seq| name(again.pairing(), seq))).collect::<Vec<_>>());
    gateway.stop().await;
}

#[tokio::test]
async fn more_devices_than_connections_take_turns() {
    let broker = Mosquitto::start();
    let subscriber = Subscriber::start(&broker).await;
    let gateway = Gateway::start(broker.port(), |options| {
        options.max_connections = 1;
        options.idle = Duration::from_millis(200);
    });
    let devices = ["pump-1", "pump-2", "pump-3"];
    let attached: Vec<_> = devices.iter().map(|device| gateway.attach(device)).collect();
    for round in 0..2 {
        for (lane, _feed) in &attached {
            submit(lane, round * 10 + 1..=round * 10 + 10);
        }
        for device in devices {
            arrives(&subscriber, device, round * 10 + 10).await;
        }
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_connection_that_is_idle_is_given_up_soon_when_somebody_waits_for_room() {
    let broker = Mosquitto::start();
    let subscriber = Subscriber::start(&broker).await;
    let gateway = Gateway::start(broker.port(), |options| options.max_connections = 1);
    let (first, _feed) = gateway.attach("pump-1");
    submit(&first, 1..=3);
    arrives(&subscriber, "pump-1", 3).await;
    // It was busy a moment ago, and is idle in a while.
    let (second, _feed) = gateway.attach("pump-2");
    submit(&second, 1..=3);
    arrives(&subscriber, "pump-2", 3).await;
    gateway.stop().await;
}

#[tokio::test]
async fn no_more_than_the_tokens_rate_is_published_and_what_waits_is_not_lost() {
    let broker = Mosquitto::start();
    let subscriber = Subscriber::start(&broker).await;
    let gateway = Gateway::start(broker.port(), |_| ());
    let device: DeviceId = "pump-3".parse().unwrap();
    let topics = Topics::of_device("default", "site-1", &device, &[Scope::TelemetryWrite]);
    let rated = |id: &str, rate| {
        let life = Duration::from_secs(600);
        TokenState::Valid(Arc::new(limited_token(&device, id, life, &topics, Some(rate))))
    };
    let (feed, handle) = TokenFeed::new(rated("first", 1));
    let lane = gateway.attach_with("pump-3", handle);
    submit(&lane, 1..=60);
    // The presence and one reading are two seconds' worth; the sensor is told that all are safe long before they went.
    let mut progress = lane.progress();
    within("all is safe", progress.wait_for(|progress| progress.safe == 60)).await.unwrap();
    until("something arrives", || subscriber.on("/pump-3/up/telemetry").len() > 1).await;
    let status = gateway.relay.status().remove(0);
    assert!(status.held > 0 && status.published < 60, "{status:?}");
    // A token with more lets the rest go, in order.
    feed.state.send_replace(rated("second", 1000));
    arrives(&subscriber, "pump-3", 60).await;
    gateway.stop().await;
}
