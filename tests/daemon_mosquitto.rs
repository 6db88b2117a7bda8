//! The whole thing as real processes: sensors on ptys, the daemon, an issuer, mosquitto over TLS with the plugin, and a
//! subscriber that compares what arrived with what the sensors were told is safe.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed test says where by panicking")]

#[path = "daemon_mosquitto/alarms.rs"]
mod alarms;
#[path = "support/authority.rs"]
mod authority;
#[path = "daemon_mosquitto/commands.rs"]
mod commands;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/fixtures.rs"]
mod fixtures;
#[path = "daemon_mosquitto/issuer_clock.rs"]
mod issuer_clock;
#[path = "support/issuer_front.rs"]
mod issuer_front;
#[path = "daemon_mosquitto/memory.rs"]
mod memory;
#[path = "support/mqtt_client.rs"]
mod mqtt_client;
#[path = "daemon_mosquitto/outages.rs"]
mod outages;
#[path = "support/plugin.rs"]
mod plugin;
#[path = "daemon_mosquitto/principal.rs"]
mod principal;
#[path = "daemon_mosquitto/rotation.rs"]
mod rotation;
#[path = "daemon_mosquitto/site.rs"]
mod site;
mod support;

use std::time::Duration;

use daemon::Sensor;
use site::{Site, goes_on};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_over_restarts_of_broker_daemon_and_sensor() {
    let mut site = Site::start().await;
    let mut sensor = Sensor::start(&site.folder.path().join("sensor"), &["--rate", "200"]);
    let mut daemon = site.daemon(&[("p1", &sensor)]);
    daemon.pair("p1", &mut sensor, "pump-3");
    goes_on(&site, &daemon, "pump-3", 200);

    // The broker restarts under load; meanwhile the readings are collected on.
    let before = sensor.acknowledged().len();
    site.broker.stop();
    daemon.wait("readings are safe without a broker", |_| sensor.acknowledged().len() >= before + 300);
    site.broker.resume();
    site.has_all_of(&daemon, &sensor);
    goes_on(&site, &daemon, "pump-3", 200);

    // The daemon is killed under load, twice, the second time without a broker to send to.
    daemon.kill();
    daemon.resume();
    goes_on(&site, &daemon, "pump-3", 200);
    site.broker.stop();
    let before = sensor.acknowledged().len();
    daemon.wait("readings are safe without a broker", |_| sensor.acknowledged().len() >= before + 300);
    daemon.kill();
    site.broker.resume();
    daemon.resume();
    site.has_all_of(&daemon, &sensor);
    goes_on(&site, &daemon, "pump-3", 200);

    // The sensor loses its memory and goes on under a new epoch, with the same keys.
    sensor.tell("power-cycle");
    daemon.wait("the sensor starts again", |_| sensor.starts() == 2);
    goes_on(&site, &daemon, "pump-3", 200);
    site.has_all_of(&daemon, &sensor);

    daemon.wait("its token is valid", |daemon| {
        let tokens = daemon.json(&["token", "ls"]).remove(0);
        tokens.as_array().unwrap().iter().any(|token| token["device"] == "pump-3" && token["state"] == "valid")
    });
    // What is safe on disk when it ends is sent by the next run.
    assert!(daemon.stop(), "an orderly end: {}", daemon.log());
    daemon.resume();
    site.has_all_of(&daemon, &sensor);
    assert!(site.in_order());
    // What was in flight at the end of each connection, and no more: the two kills, the broker's two stops, this end, and
    // on a slow machine that of a token whose successor came too late.
    let ends = site.connections("pump-3");
    assert!(site.duplicates() <= ends * 100, "{} duplicates of {ends} connections", site.duplicates());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_device_is_cut_while_another_goes_on_and_no_token_reaches_anothers_topics() {
    let mut site = Site::start().await;
    // It is cut by the revocation, however slow the machine is, and not by the end of its token.
    site.life = Duration::from_secs(120);
    let mut sensors: Vec<Sensor> =
        ["a", "b"].iter().map(|name| Sensor::start(&site.folder.path().join(name), &["--rate", "50"])).collect();
    let mut daemon = site.daemon(&[("p1", &sensors[0]), ("p2", &sensors[1])]);
    daemon.pair("p1", &mut sensors[0], "pump-3");
    daemon.pair("p2", &mut sensors[1], "pump-4");
    goes_on(&site, &daemon, "pump-3", 20);
    goes_on(&site, &daemon, "pump-4", 20);

    let probe = site.connect("gw-1.probe", &site.token("probe").await).await.unwrap();
    for topic in ["claw/v1/default/gw-1/pump-3/up/telemetry", "claw/v1/default/gw-1/pump-3/down/cmd/x", "anything"] {
        assert_eq!(probe.publish(topic, "[]").await, "NotAuthorized", "{topic}");
    }

    let stolen = site.token("pump-4").await;
    let log = site.broker.log().len();
    let done = daemon.cli(&["token", "revoke", "pump-4", "--why", "stolen"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    site.loses(&daemon, "pump-4");
    assert!(!site.broker_said(log, "pump-4", "expired"), "by the end of its token: {}", site.broker.log());
    assert_eq!(site.connect("gw-1.pump-4", &stolen).await.err().as_deref(), Some("NotAuthorized"));

    let at_rest = site.arrived("pump-4");
    goes_on(&site, &daemon, "pump-3", 100);
    assert_eq!(site.arrived("pump-4"), at_rest, "nothing more of the revoked device");

    // A restart is no pardon, pairing again is one.
    daemon.kill();
    daemon.resume();
    goes_on(&site, &daemon, "pump-3", 100);
    let listed = daemon.json(&["token", "ls"])[0].to_string();
    assert!(listed.contains("revoked"), "{listed}");
    assert_eq!(site.arrived("pump-4"), at_rest, "nothing more of the revoked device");
    daemon.pair("p2", &mut sensors[1], "pump-4");
    goes_on(&site, &daemon, "pump-4", 50);
    assert!(daemon.stop());
}
