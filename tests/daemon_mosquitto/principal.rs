//! The gateway itself at the broker: what it says of itself.

use std::time::Duration;

use serde_json::Value as Json;

use super::mqtt_client::MqttClient;
use super::{Site, support};

/// A subscriber to everything that the gateway says of itself.
pub(crate) async fn listener(site: &Site) -> MqttClient {
    let token = site.client("dash").own_token("claw").await.unwrap();
    let client = site.connect("dash.gateway", &token).await.unwrap();
    assert_eq!(client.subscribe("claw/v1/default/gw-1/_gateway/up/#").await, "Success(AtLeastOnce)");
    client
}

/// The next message on this topic that fits; others are passed over.
pub(crate) async fn hears(client: &mut MqttClient, leaf: &str, fits: impl Fn(&Json) -> bool) -> Json {
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

/// The first status of a gateway that is connected, and its first checkpoint, whichever comes first.
async fn says_how_it_is(heard: &mut MqttClient) -> (Json, Json) {
    let (mut status, mut checkpoint) = (None, None);
    let both = async {
        loop {
            let message = heard.next().await;
            let said: Json = serde_json::from_slice(&message.payload).unwrap();
            if message.topic.ends_with(b"/up/audit") {
                checkpoint = checkpoint.take().or(Some(said));
            } else if message.topic.ends_with(b"/up/status") && said["state"] == "online" {
                status = status.take().or(Some(said));
            }
            if let (Some(status), Some(checkpoint)) = (&status, &checkpoint) {
                return (status.clone(), checkpoint.clone());
            }
        }
    };
    support::within("status and checkpoint are said", both).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateway_says_how_it_is_publishes_its_checkpoints_and_is_missed_when_it_is_killed() {
    let mut site = Site::start().await;
    let mut heard = listener(&site).await;
    // A machine that stands still in the last part of a token's life costs the connection: then with a longer one.
    let mut lives = [10, 20, 40].into_iter();
    let mut daemon = loop {
        site.life = Duration::from_secs(lives.next().expect("its connection goes on under the next token"));
        let before = site.connections("_gateway");
        let mut daemon = site.daemon(&[]);
        let (status, checkpoint) = says_how_it_is(&mut heard).await;
        assert_eq!((&status["gateway"], &status["health"]), (&"gw-1".into(), &"ok".into()), "{status}");
        assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
        // What anybody with the broker's copy can hold against this disk.
        let anchor = site.folder.path().join("anchor.json");
        std::fs::write(&anchor, format!("{checkpoint}\n")).unwrap();
        let state = site.folder.path().join("daemon/state").display().to_string();
        let verify = daemon.cli(&["audit", "verify", "--state-dir", &state, "--anchor", &anchor.display().to_string()]);
        assert!(verify.status.success(), "{}", String::from_utf8_lossy(&verify.stderr));

        // Its token is replaced on the live connection like a device's, at 70 to 80 % of its life.
        daemon.wait("its token is refreshed", |daemon| {
            let tokens = daemon.json(&["token", "ls"]);
            let own = tokens[0].as_array().unwrap().iter().find(|token| token["device"] == "_gateway").unwrap();
            assert!(own["state"] != "valid" || own["scope"] == "status:write", "{own}");
            own["state"] == "valid" && own["refreshed"].as_u64().is_some_and(|times| times >= 3)
        });
        if site.connections("_gateway") == before + 1 {
            break daemon;
        }
        assert!(daemon.stop());
        hears(&mut heard, "status", |said| said["state"] == "stopped").await;
    };
    while let Some(message) = heard.try_next(Duration::ZERO).await {
        let said: Json = serde_json::from_slice(&message.payload).unwrap();
        assert!(message.topic.ends_with(b"audit") || said["state"] == "online", "{said}");
    }
    daemon.kill();
    hears(&mut heard, "status", |said| said["state"] == "offline").await;
    daemon.resume();
    hears(&mut heard, "status", |said| said["state"] == "online").await;
    assert!(daemon.stop());
    hears(&mut heard, "status", |said| said["state"] == "stopped").await;
}
