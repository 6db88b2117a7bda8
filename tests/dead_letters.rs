//! What a real broker refuses for good waits among the dead letters, and reaches it when it is sent again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed test says where by panicking")]

#[path = "support/daemon.rs"]
mod daemon;
mod support;

use std::collections::BTreeSet;
use std::fs;

use daemon::{Daemon, Sensor, quoted};
use rumqttc::{AsyncClient, Event, EventLoop, Incoming, MqttOptions, QoS};
use serde_json::{Value, json};
use support::Mosquitto;

/// More than a token, less than the sensor's readings.
const SMALL: &str = "max_packet_size 1100\n";

/// A client that hears of readings from now on.
async fn subscribed(broker: &Mosquitto) -> (AsyncClient, EventLoop) {
    let mut options = MqttOptions::new("looker", ("127.0.0.1", broker.port()));
    options.set_connect_timeout(support::DEADLINE);
    let (client, mut events) = AsyncClient::builder(options).capacity(16).build();
    client.subscribe("claw/v1/+/+/+/up/telemetry", QoS::AtLeastOnce).await.unwrap();
    let stands = async { while !matches!(events.poll().await, Ok(Event::Incoming(Incoming::SubAck(_)))) {} };
    support::within("the subscription stands", stands).await;
    (client, events)
}

/// The names of the first `count` readings that it sees.
async fn seen(events: &mut EventLoop, count: usize) -> BTreeSet<String> {
    let collecting = async {
        let mut names = BTreeSet::new();
        while names.len() < count {
            if let Ok(Event::Incoming(Incoming::Publish(publish))) = events.poll().await {
                let properties = publish.properties.unwrap().user_properties;
                names.extend(properties.into_iter().find(|(key, _)| key == "id").map(|(_, id)| id));
            }
        }
        names
    };
    support::within("the readings arrive", collecting).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_broker_refuses_is_listed_replayed_and_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let mut broker = Mosquitto::start_with(&format!("allow_anonymous true\n{SMALL}"));
    let more = ["--rate", "20", "--size", "900", "--count", "5"];
    let mut sensor = Sensor::start(&folder.path().join("sensor"), &more);
    let daemon = Daemon::start(
        folder.path(),
        &format!(
            "[broker]\nurl = \"mqtt://{}\"\nreauth = \"never\"\n[uart.ports.bench]\npath = {}\n\
             [issuer]\nlisten = \"127.0.0.1:0\"\n[metrics]\nlisten = \"off\"\n",
            broker.addr(),
            quoted(&sensor.line())
        ),
    );
    daemon.wait("the sensor is seen", |daemon| !daemon.json(&["scan", "--for", "200ms"]).is_empty());
    sensor.tell("button");
    daemon.wait("its window is seen", |daemon| {
        daemon.json(&["scan", "--for", "200ms"]).iter().any(|found| found["state"] == "pairable")
    });
    // It is paired, and not in service; why is said at once.
    let paired =
        daemon.command(&["pair", "bench", "--name", "pump-3"]).env("OPENCLAW_PAIRING_CODE", &sensor.label).output();
    let paired = paired.unwrap();
    let said = String::from_utf8_lossy(&paired.stderr).into_owned();
    assert_eq!(paired.status.code(), Some(7), "{said}");
    assert!(
        said.contains("the broker refused its reading: 0x95") && said.contains("dead-letters replay pump-3"),
        "{said}"
    );

    let letters =
        |daemon: &Daemon| daemon.json(&["dead-letters", "ls", "pump-3"]).remove(0).as_array().unwrap().clone();
    daemon.wait("all five are refused", |daemon| letters(daemon).len() == 5);
    let refused = letters(&daemon);
    for letter in &refused {
        assert!(letter["device"] == "pump-3" && letter["kind"] == "telemetry", "{letter}");
        assert!(letter["reason"].as_str().unwrap().contains("0x95 packet too large"), "{letter}");
    }
    assert_eq!(daemon.json(&["dead-letters", "ls", "-n", "2"])[0].as_array().unwrap().len(), 2);
    assert_eq!(daemon.json(&["dead-letters", "ls", "other"])[0], json!([]));
    assert_eq!(daemon.cli(&["dead-letters", "replay", "other"]).status.code(), Some(3));
    let shown = String::from_utf8(daemon.cli(&["dead-letters", "ls"]).stdout).unwrap();
    assert!(shown.contains("clawgate dead-letters replay pump-3"), "{shown}");

    // Sent again while nothing was mended, they are refused again, and none is lost.
    let done = daemon.json(&["dead-letters", "replay", "pump-3"]).remove(0);
    assert_eq!(done["done"], "5 dead letters of pump-3 wait for the broker again.");
    daemon.wait("all five are refused again", |daemon| letters(daemon).len() == 5);

    let connects = |broker: &Mosquitto| {
        let log = broker.log();
        log.lines().filter(|line| line.contains("Sending CONNACK to") && line.contains(".pump-3 (0, 0)")).count()
    };
    let before = connects(&broker);
    assert!(before > 0, "{}", broker.log());
    broker.stop();
    let config = broker.folder().join("mosquitto.conf");
    fs::write(&config, fs::read_to_string(&config).unwrap().replace(SMALL, "")).unwrap();
    broker.resume();
    let (_client, mut events) = subscribed(&broker).await;
    // Not the connection of before, under whose bound they would be refused once more.
    daemon.wait("the relay is back", |daemon| {
        connects(&broker) > before && daemon.json(&["devices", "show", "pump-3"])[0]["relay"]["state"] == "connected"
    });
    daemon.json(&["dead-letters", "replay", "pump-3"]);
    let arrived = seen(&mut events, 5).await;
    let names: BTreeSet<_> = refused.iter().map(|letter| letter["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(arrived, names);
    daemon.wait("nothing is left", |daemon| letters(daemon).is_empty());

    let said = |action: &str| -> Vec<Value> {
        let lines = daemon.json(&["audit", "tail", "-n", "1000"]).remove(0);
        lines.as_array().unwrap().iter().filter(|line| line["action"] == action).cloned().collect()
    };
    let replays = said("dead_letters.replay");
    assert_eq!(replays.len(), 2, "{replays:?}");
    assert!(
        replays.iter().all(|line| line["details"]["messages"] == 5 && line["actor"]["kind"] == "uid"),
        "{replays:?}"
    );
    let done = daemon.json(&["dead-letters", "drop", "pump-3", "--why", "bench test"]).remove(0);
    assert_eq!(done["done"], "0 dead letters of pump-3 are dropped.");
    assert_eq!(said("dead_letters.drop")[0]["reason"], "bench test");
}
