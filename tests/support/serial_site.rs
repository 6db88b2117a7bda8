//! A daemon in standalone mode with a subscriber that counts what arrives: for one sensor of another make on a serial
//! line, at `line` in the site's folder.
#![allow(dead_code, reason = "each test file uses its part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clawgate::clock::Clock;
use clawgate::token::key::SigningKey;
use clawgate::token::oauth::{OauthIssuer, OauthOptions};
use serde_json::Value as Json;
use tempfile::TempDir;

use crate::daemon::Daemon;
use crate::mqtt_client::{By, Connect, MqttClient};
use crate::support::{self, free_port};

/// A daemon in standalone mode, for one sensor and one subscriber.
pub(crate) struct Site {
    folder: TempDir,
    broker: SocketAddr,
    issuer: String,
    /// How often each value came: every reading has one of its own.
    arrived: Arc<Mutex<BTreeMap<u64, usize>>>,
}

impl Site {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = SigningKey::load_or_create(&folder.path().join("dash.pem")).unwrap();
        std::fs::write(folder.path().join("dash.pub.pem"), key.public_pem().unwrap()).unwrap();
        let broker = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let issuer = format!("127.0.0.1:{}", free_port());
        Self { folder, broker, issuer, arrived: Arc::default() }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn daemon(&self) -> Daemon {
        self.daemon_with("")
    }

    /// With this added to its configuration.
    pub(crate) fn daemon_with(&self, more: &str) -> Daemon {
        let folder = self.folder.path();
        let config = format!(
            "mode = \"standalone\"\n[gateway]\nid = \"gw-1\"\n[metrics]\nlisten = \"off\"\n[spool]\ncommit_ms = 50\n\
             [uart.ports.line1]\npath = \"{}\"\n[issuer]\nlisten = {:?}\n[standalone]\nlisten = \"{}\"\n\
             [standalone.subscribers.dash]\npublic_key = \"{}\"\ntopics = [\"claw/v1/default/gw-1/#\"]\n{more}",
            folder.join("line").display(),
            self.issuer,
            self.broker,
            folder.join("dash.pub.pem").display(),
        );
        Daemon::start(folder, &config)
    }

    /// Counts what arrives, until this daemon ends.
    pub(crate) async fn subscribe(&self) {
        let key = SigningKey::load(&self.folder.path().join("dash.pem")).unwrap();
        let url = format!("http://{}", self.issuer);
        let options = OauthOptions { url, client_id: "dash".to_owned(), key, ca: None, certificate: None };
        let token = OauthIssuer::new(options, Clock::system()).unwrap().own_token("claw").await.unwrap();
        let connect = Connect {
            addr: self.broker,
            tls: None,
            client_id: "dash",
            token: token.bearer(),
            by: By::Password,
            will: None,
            keeps_session: false,
        };
        let mut client = MqttClient::connect(connect).await.unwrap();
        client.subscribe("claw/v1/default/gw-1/c-1/up/telemetry").await;
        let arrived = Arc::clone(&self.arrived);
        tokio::spawn(async move {
            while client.is_connected() {
                let Some(message) = client.try_next(Duration::from_millis(200)).await else { continue };
                let pack: Json = serde_json::from_slice(&message.payload).unwrap();
                assert_eq!(pack[0]["u"], "Cel");
                let value = pack[0]["v"].as_f64().map(|value| format!("{value}").parse().unwrap()).unwrap();
                *arrived.lock().unwrap().entry(value).or_default() += 1;
            }
        });
    }

    /// Waits until the readings with these values are there, each so many times.
    pub(crate) async fn until_arrived(&self, values: std::ops::RangeInclusive<u64>, times: usize) {
        support::until(&format!("{values:?} arrive"), || {
            let arrived = self.arrived.lock().unwrap();
            values.clone().all(|value| arrived.get(&value).is_some_and(|came| *came >= times))
        })
        .await;
        let arrived = self.arrived.lock().unwrap();
        for value in values {
            assert_eq!(arrived[&value], times, "the reading {value} came so many times");
        }
    }
}

/// Waits until a scan shows the sensor on the line.
pub(crate) fn wait_for_sensor(daemon: &Daemon) {
    daemon.wait("the sensor is seen", |daemon| {
        String::from_utf8_lossy(&daemon.cli(&["scan", "--for", "1s", "--json"]).stdout).contains("line1")
    });
}
