//! What all cells share: a broker and a subscriber that counts each reading by its name.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rumqttc::{AsyncClient, Broker, Event, Incoming, MqttOptions, QoS};
use tokio::runtime::Handle;

use crate::daemon::{Daemon, quoted};
use crate::support::{DEADLINE, Mosquitto, within};
use crate::until;

/// Where BlueZ is looked for.
pub(crate) const BUS: &str = "DBUS_SYSTEM_BUS_ADDRESS";

/// How often each reading came, by its name, by the gateway that sent it.
type Arrived = Arc<Mutex<HashMap<String, HashMap<String, usize>>>>;

/// The broker and its subscriber.
pub(crate) struct Site {
    broker: Mosquitto,
    arrived: Arrived,
}

impl Site {
    pub(crate) fn start(runtime: &Handle) -> Self {
        let broker = Mosquitto::start();
        let mut options = MqttOptions::new("matrix", Broker::tcp("127.0.0.1", broker.port()));
        options.set_clean_start(false).set_session_expiry_interval(Some(3600)).set_keep_alive(30);
        options.set_connect_timeout(DEADLINE);
        let arrived = Arrived::default();
        let into = Arc::clone(&arrived);
        runtime.block_on(async move {
            let (client, mut events) = AsyncClient::builder(options).capacity(16).build();
            let (ready, subscribed) = tokio::sync::oneshot::channel();
            let mut ready = Some(ready);
            client.subscribe("claw/v1/default/+/+/up/telemetry", QoS::AtLeastOnce).await.unwrap();
            tokio::spawn(async move {
                let _client = client;
                loop {
                    match events.poll().await {
                        Ok(Event::Incoming(Incoming::SubAck(_))) => drop(ready.take().map(|ready| ready.send(()))),
                        Ok(Event::Incoming(Incoming::Publish(publish))) => {
                            let topic = String::from_utf8(publish.topic.to_vec()).unwrap();
                            let gateway = topic.split('/').nth(3).unwrap().to_owned();
                            let properties = publish.properties.unwrap().user_properties;
                            let id = properties.into_iter().find(|(key, _)| key == "id").unwrap().1;
                            *into.lock().unwrap().entry(gateway).or_default().entry(id).or_default() += 1;
                        }
                        Ok(_) => {}
                        Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
                    }
                }
            });
            within("the subscription stands", subscribed).await.unwrap();
        });
        Self { broker, arrived }
    }

    /// A daemon in `folder` that insists on this suite, with one port or the BlueZ on this bus.
    pub(crate) fn daemon(&self, folder: &Path, gateway: &str, suite: u8, bus: Option<String>) -> Daemon {
        let mut config = format!(
            "mode = \"relay\"\n[gateway]\nid = {gateway:?}\n[metrics]\nlisten = \"off\"\n[spool]\ncommit_ms = 50\n\
             [pairing]\nmin_suite = {suite}\n[broker]\nurl = \"mqtt://127.0.0.1:{}\"\n",
            self.broker.port()
        );
        let _ = writeln!(config, "[issuer]\nlisten = \"127.0.0.1:0\"");
        let _ = match &bus {
            Some(_) => writeln!(config, "[ble]\nenabled = \"on\""),
            None => writeln!(config, "[uart.ports.line1]\npath = {}", quoted(&folder.join("line"))),
        };
        let environment: Vec<_> = bus.map(|bus| (BUS, bus)).into_iter().collect();
        Daemon::start_with(folder, &config, &environment)
    }

    /// Waits until so many readings came from this gateway.
    pub(crate) fn hears(&self, gateway: &str, readings: usize) {
        until(&format!("{readings} readings, not {}", self.count(gateway)), || self.count(gateway) >= readings);
    }

    fn count(&self, gateway: &str) -> usize {
        self.arrived.lock().unwrap().get(gateway).map_or(0, HashMap::len)
    }

    /// Sees that so many came, each of them once.
    pub(crate) fn has_each_once(&self, gateway: &str, readings: usize) {
        let arrived = self.arrived.lock().unwrap();
        let arrived = &arrived[gateway];
        let again: Vec<_> = arrived.iter().filter(|(_, times)| **times != 1).collect();
        assert_eq!((arrived.len(), again), (readings, vec![]), "readings, and those that came more than once");
    }
}
