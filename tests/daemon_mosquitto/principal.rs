//! The gateway itself at the broker: what it says of itself, and the commands it takes.

use std::time::Duration;

use serde_json::Value as Json;

use super::mqtt_client::MqttClient;
use super::{Site, support};

/// A subscriber to everything that the gateway says of itself.
async fn listener(site: &Site) -> MqttClient {
    let token = site.client("dash").own_token("claw").await.unwrap();
    let client = site.connect("dash.gateway", &token).await.unwrap();
    assert_eq!(client.subscribe("claw/v1/default/gw-1/_gateway/up/#").await, "Success(AtLeastOnce)");
    client
}

/// The next message on this topic that fits; others are passed over.
async fn hears(client: &mut MqttClient, leaf: &str, fits: impl Fn(&Json) -> bool) -> Json {
    let topic = format!("claw/v1/default/gw-1/_gateway/up/{leaf}");
    let heard = async {
        loop {
            let message = client.next().await;
            let said: Json = serde_json::from_slice(&message.payload).unwrap();
            if message.topic == topic.as_bytes() && fits(&said) {
                return said;
            }
        }
    };
    support::within(&format!("{leaf} is said"), heard).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateway_says_how_it_is_publishes_its_checkpoints_and_is_missed_when_it_is_killed() {
    let site = Site::start().await;
    let mut heard = listener(&site).await;
    let mut daemon = site.daemon(&[]);
    let status = hears(&mut heard, "status", |said| said["state"] == "online").await;
    assert_eq!((&status["gateway"], &status["health"]), (&"gw-1".into(), &"ok".into()), "{status}");
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    let checkpoint = hears(&mut heard, "audit", |_| true).await;
    // What anybody with the broker's copy can hold against this disk.
    let anchor = site.folder.path().join("anchor.json");
    std::fs::write(&anchor, format!("{checkpoint}\n")).unwrap();
    let state = site.folder.path().join("daemon/state").display().to_string();
    let verify = daemon.cli(&["audit", "verify", "--state-dir", &state, "--anchor", &anchor.display().to_string()]);
    assert!(verify.status.success(), "{}", String::from_utf8_lossy(&verify.stderr));

    // Its token is replaced on the live connection like a device's, at 7 to 8 s of 10.
    daemon.wait("its token is refreshed", |daemon| {
        let tokens = daemon.json(&["token", "ls"]);
        let own = tokens[0].as_array().unwrap().iter().find(|token| token["device"] == "_gateway").cloned().unwrap();
        assert_eq!((&own["state"], &own["scope"]), (&"valid".into(), &"status:write".into()), "{own}");
        own["refreshed"].as_u64().is_some_and(|times| times >= 3)
    });
    assert!(heard.try_next(Duration::from_millis(100)).await.is_none_or(|message| message.topic.ends_with(b"audit")));
    daemon.kill();
    hears(&mut heard, "status", |said| said["state"] == "offline").await;
    daemon.resume();
    hears(&mut heard, "status", |said| said["state"] == "online").await;
    assert!(daemon.stop());
    hears(&mut heard, "status", |said| said["state"] == "stopped").await;
}
