//! The key of the daemon's own issuer is changed while readings go on, and mosquitto follows by the files that the daemon
//! keeps for it: nobody copies anything, nobody sends a signal.

use std::path::Path;
use std::time::Duration;

use clawgate::clock::Clock;
use clawgate::store::{Store, StoreOptions};
use rumqttc::{AsyncClient, BrokerSessionResumePolicy, Event, Incoming, MqttOptions, QoS};
use serde_json::Value as Json;

use super::daemon::{Daemon, Sensor, quoted};
use super::issuer_front::Front;
use super::mqtt_client::{Connect, MqttClient};
use super::support::{self, Mosquitto};
use super::{Site, goes_on, plugin};

/// A mosquitto that was set up before the gateway first ran: its key file is somebody else's, and it runs already.
fn site() -> Site {
    let folder = tempfile::tempdir().unwrap();
    let public = folder.path().join("public");
    std::fs::create_dir(&public).unwrap();
    let stranger = clawgate::token::key::SigningKey::generate().unwrap();
    std::fs::write(public.join("jwks"), stranger.public_pem().unwrap()).unwrap();
    let mosquitto = tempfile::tempdir().unwrap();
    for name in ["jwks", "denylist"] {
        std::os::unix::fs::symlink(public.join(name), mosquitto.path().join(name)).unwrap();
    }
    let front = Front::start();
    let broker = Mosquitto::start_in(mosquitto, &plugin::config(front.url()));
    Site::of(folder, broker, front)
}

impl Site {
    /// The gateway, which is its own issuer.
    fn issuing_daemon(&self, sensor: &Sensor, schedule: &str) -> Daemon {
        let (folder, port) = (self.folder.path(), self.broker.port());
        let listen = std::net::SocketAddr::from(([127, 0, 0, 1], support::free_port()));
        self.front.leads_to(listen);
        let dash = clawgate::token::key::SigningKey::load_or_create(&folder.join("dash.pem")).unwrap();
        std::fs::write(folder.join("dash.pub"), dash.public_pem().unwrap()).unwrap();
        let config = format!(
            "mode = \"relay\"\n[gateway]\nid = \"gw-1\"\n[metrics]\nlisten = \"off\"\n[spool]\ncommit_ms = 100\n\
             [broker]\nurl = \"mqtt://127.0.0.1:{port}\"\n[keys]\nissuer_lead = \"3s\"\n{schedule}\
             [issuer]\nlisten = \"{listen}\"\nurl = {:?}\nlife = \"5m\"\npublish_dir = {}\n\
             [standalone.subscribers.dash]\npublic_key = {}\ntopics = [\"claw/v1/default/+/+/up/#\"]\n\
             [uart.ports.p1]\npath = {}\n",
            self.front.url(),
            quoted(&folder.join("public")),
            quoted(&folder.join("dash.pub")),
            quoted(&sensor.line()),
        );
        let own = folder.join("daemon");
        std::fs::create_dir(&own).unwrap();
        Daemon::start(&own, &config)
    }

    /// Subscribes for the rest of the test, with a new token for each connection.
    async fn collect_anew(&self) {
        let (dash, collected, port) = (self.client("dash"), self.collected.clone(), self.broker.port());
        let (tell, subscribed) = tokio::sync::oneshot::channel();
        let mut tell = Some(tell);
        tokio::spawn(async move {
            loop {
                let Ok(token) = dash.own_token("claw").await else {
                    // The daemon, which is the issuer, is away.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                let mut options = MqttOptions::new("dash", ("127.0.0.1", port));
                options.set_credentials("dash", token.bearer().to_owned());
                options.set_clean_start(false);
                options.set_session_expiry_interval(Some(3600));
                options.set_connect_timeout(support::DEADLINE);
                options.set_broker_session_resume_policy(BrokerSessionResumePolicy::AllowBrokerOnly);
                let (client, mut events) = AsyncClient::builder(options).capacity(16).build();
                client.subscribe("claw/v1/default/+/+/up/telemetry", QoS::AtLeastOnce).await.unwrap();
                while let Ok(event) = events.poll().await {
                    match event {
                        Event::Incoming(Incoming::Publish(publish)) => collected.note(publish),
                        Event::Incoming(Incoming::SubAck(_)) => drop(tell.take().map(|tell| tell.send(()))),
                        _ => {}
                    }
                }
            }
        });
        support::within("the subscription stands", subscribed).await.unwrap();
    }

    /// A connection beside the collector's, under this token.
    async fn beside(&self, token: &str) -> Result<MqttClient, String> {
        MqttClient::connect(Connect::to(self.broker.addr(), "dash.beside", token)).await
    }
}

/// Ids of the issuer's keys in this state.
fn keys(daemon: &Daemon, state: &str) -> Vec<String> {
    keys_of(daemon, "issuer", state).iter().map(|key| key["id"].as_str().unwrap().to_owned()).collect()
}

fn keys_of(daemon: &Daemon, kind: &str, state: &str) -> Vec<Json> {
    let all = daemon.json(&["key", "ls"]);
    let of = |key: &&Json| key["kind"] == kind && key["state"] == state;
    all[0].as_array().unwrap().iter().filter(of).cloned().collect()
}

fn in_use(daemon: &Daemon, kind: &str) -> String {
    keys_of(daemon, kind, "in_use")[0]["id"].as_str().unwrap().to_owned()
}

fn rotate(daemon: &Daemon, more: &[&str]) -> String {
    daemon.json(&[&["key", "rotate", "issuer"], more].concat())[0]["id"].as_str().unwrap().to_owned()
}

fn token_id(daemon: &Daemon) -> String {
    let tokens = daemon.json(&["token", "ls"]);
    let of_device = |token: &&Json| token["device"] == "pump-3" && token["state"] == "valid";
    let token = tokens[0].as_array().unwrap().iter().find(of_device).cloned().unwrap_or_default();
    token["jti"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mosquitto_follows_the_issuers_keys_by_itself_and_no_reading_is_lost_repeated_or_reordered() {
    let site = site();
    let mut sensor = Sensor::start(&site.folder.path().join("sensor"), &["--rate", "100"]);
    let mut daemon = site.issuing_daemon(&sensor, "");
    site.collect_anew().await;
    daemon.pair("p1", &mut sensor, "pump-3");
    goes_on(&site, &daemon, "pump-3", 100);

    // Announced: the broker has the new key before it signs.
    let (first, token) = (keys(&daemon, "in_use"), token_id(&daemon));
    let second = rotate(&daemon, &[]);
    let file = std::fs::read_to_string(site.folder.path().join("public/jwks")).unwrap();
    assert!(file.contains(&second) && file.contains(&first[0]), "{file}");
    daemon.wait("the new key signs", |daemon| keys(daemon, "in_use") == [second.clone()]);
    daemon.wait("the device has a token under it", |daemon| !["", &*token].contains(&&*token_id(daemon)));
    goes_on(&site, &daemon, "pump-3", 100);
    site.has_all_of(&daemon, &sensor);
    let log = site.broker.log();
    assert!(log.contains("its keys are in use") && !log.contains("refused: unknown key id"), "{log}");
    assert_eq!(site.duplicates(), 0);
    assert!(site.in_order());

    // At once: whoever stands on an older key is cut off, and the device goes on under the new one.
    let stolen = site.client("dash").own_token("claw").await.unwrap();
    let mut beside = site.beside(stolen.bearer()).await.unwrap();
    let third = rotate(&daemon, &["--now"]);
    beside.ended().await;
    assert_eq!(site.beside(stolen.bearer()).await.err().as_deref(), Some("NotAuthorized"));
    assert!(site.broker.log().contains("the key that signed the token of dash was withdrawn"), "{}", site.broker.log());
    assert_eq!(keys(&daemon, "in_use"), [third]);
    goes_on(&site, &daemon, "pump-3", 100);
    site.has_all_of(&daemon, &sensor);
    assert!(site.in_order());

    // kill -9 while a new key is published and does not sign yet: it does, and the broker takes it.
    let fourth = rotate(&daemon, &[]);
    daemon.kill();
    daemon.resume();
    daemon.wait("the new key signs", |daemon| keys(daemon, "in_use") == [fourth.clone()]);
    goes_on(&site, &daemon, "pump-3", 100);
    site.has_all_of(&daemon, &sensor);
    assert!(site.in_order());
    // What was in flight when the connections were cut and when the daemon was killed, and no more.
    assert!(site.duplicates() <= 3 * 100, "{} duplicates", site.duplicates());

    // A revocation reaches the broker by its file.
    let done = daemon.cli(&["token", "revoke", "pump-3", "--why", "stolen"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let denied = || std::fs::read_to_string(site.folder.path().join("public/denylist")).unwrap();
    daemon.wait("the broker's deny list has it", |_| denied().contains("sub gw-1 pump-3 "));

    // Where the broker's file cannot be written, no key is made that the broker would not know.
    let public = site.folder.path().join("public");
    std::fs::rename(&public, site.folder.path().join("gone")).unwrap();
    let refused = daemon.cli(&["key", "rotate", "issuer"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("public/jwks") && said.contains("publish_dir"), "{said}");
    let problem =
        |daemon: &Daemon| String::from_utf8_lossy(&daemon.cli(&["status", "--json"]).stdout).contains("public/jwks: ");
    daemon.wait("it stands in the status", |daemon| problem(daemon));
    std::fs::rename(site.folder.path().join("gone"), &public).unwrap();
    daemon.wait("it is gone from the status", |daemon| !problem(daemon));

    // Whom the gateway's own issuer gives a token stands in the audit log, by its id.
    let token = site.client("dash").own_token("claw").await.unwrap();
    assert!(daemon.stop());
    let logs = std::fs::read_dir(site.folder.path().join("daemon/state/audit")).unwrap();
    let log: String = logs.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap()).collect();
    let given = |line: &&str| line.contains("\"token.refresh\"") && line.contains(token.jti());
    assert!(log.lines().find(given).is_some_and(|line| line.contains("\"client\":\"dash\"")), "{log}");
}

const KINDS: [&str; 4] = ["issuer", "audit", "gateway", "master"];

/// Makes keys of a gateway that is off as old as if they had been made at `wall`, as those of one that was set up then.
fn made_at(state: &Path, wall: Duration, kinds: &[&str]) {
    let options = StoreOptions { dir: state.to_owned(), ..StoreOptions::default() };
    let store = Store::open(&options, Clock::manual(wall)).unwrap();
    let again = |name: &str| store.put_secret(name, store.secret(name).unwrap().unwrap().expose()).unwrap();
    for kind in kinds {
        match *kind {
            "issuer" => {
                let kept = store.secret("local-issuer-ring").unwrap().unwrap();
                let mut ring: Json = serde_json::from_slice(kept.expose()).unwrap();
                ring["made"] = wall.as_secs().into();
                store.put_secret("local-issuer-ring", ring.to_string().as_bytes()).unwrap();
            }
            "audit" => again("audit-key"),
            "gateway" => again("gateway-static"),
            _ => drop(store.rotate_master_key().unwrap()),
        }
    }
}

/// How often the daemon changed a key of that kind by itself.
fn changed_by_itself(daemon: &Daemon, kind: &str) -> usize {
    let lines = daemon.json(&["audit", "tail", "-n", "10000"]);
    let is_it =
        |line: &&Json| line["action"] == "key.rotate" && line["subject"] == kind && line["actor"]["kind"] == "daemon";
    lines[0].as_array().unwrap().iter().filter(is_it).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_are_due_are_changed_by_the_gateway_itself_once_however_long_it_was_off() {
    let site = site();
    let mut sensor = Sensor::start(&site.folder.path().join("sensor"), &["--rate", "100"]);
    let schedule = "issuer = \"30d\"\naudit = \"30d\"\ngateway = \"30d\"\nmaster = \"30d\"\n";
    let mut daemon = site.issuing_daemon(&sensor, schedule);
    site.collect_anew().await;
    daemon.pair("p1", &mut sensor, "pump-3");
    goes_on(&site, &daemon, "pump-3", 50);
    let state = site.folder.path().join("daemon/state");
    let now = Clock::system().wall();
    let ago = |days: u64| now.checked_sub(Duration::from_secs(days * 86_400)).unwrap();

    // Off for more than three periods.
    assert!(daemon.stop());
    made_at(&state, ago(100), &KINDS);
    let store = |state: &Path| {
        Store::open(&StoreOptions { dir: state.to_owned(), ..StoreOptions::default() }, Clock::system()).unwrap()
    };
    let master = store(&state).master_key().unwrap().id;
    daemon.resume();
    daemon.wait("each was changed by the schedule", |daemon| {
        KINDS.iter().all(|kind| changed_by_itself(daemon, kind) == 1)
    });
    daemon.wait("the issuer's new key signs", |daemon| keys(daemon, "retired").len() == 1);
    assert_ne!(in_use(&daemon, "master"), master);
    for kind in KINDS {
        let left_s = keys_of(&daemon, kind, "in_use")[0]["rotates_in_s"].as_u64().unwrap();
        assert!((29 * 86_400..=30 * 86_400).contains(&left_s), "{kind}: {left_s}");
    }
    // The first of this run is good for longer than this test lasts.
    daemon.wait("the device has a token under the new key", |daemon| {
        let tokens = daemon.json(&["token", "ls"]).remove(0);
        let has =
            |token: &Json| token["device"] == "pump-3" && token["refreshed"].as_u64().is_some_and(|times| times >= 2);
        tokens.as_array().unwrap().iter().any(has)
    });
    goes_on(&site, &daemon, "pump-3", 100);
    site.has_all_of(&daemon, &sensor);
    assert!(site.in_order());
    // Of the end and the restart; the change of the keys repeats none.
    assert!(site.duplicates() <= 2 * 100, "{} duplicates", site.duplicates());
    assert!(!site.broker.log().contains("refused: unknown key id"), "{}", site.broker.log());

    // Off for a moment, and a key that is due beside those that are not: nothing is made up for.
    let pinned = in_use(&daemon, "audit");
    daemon.kill();
    made_at(&state, ago(31), &["audit"]);
    daemon.resume();
    daemon.wait("the one that is due was changed", |daemon| changed_by_itself(daemon, "audit") == 2);
    for kind in ["issuer", "gateway", "master"] {
        assert_eq!(changed_by_itself(&daemon, kind), 1, "{kind}");
    }
    let path = state.display().to_string();
    let verified = daemon.cli(&["audit", "verify", "--state-dir", &path, "--key", &pinned]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));

    // Made in what is still to come: the clock was wrong then, or is now. Which of the two is known where something keeps
    // it; here that depends on the machine.
    daemon.kill();
    made_at(&state, now + Duration::from_secs(1000 * 86_400), &KINDS);
    made_at(&state, ago(31), &["audit"]);
    daemon.resume();
    daemon.wait("the one that is due was changed", |daemon| changed_by_itself(daemon, "audit") == 3);
    let changed = 1 + usize::from(clawgate::clock::is_synchronised());
    for kind in ["issuer", "gateway", "master"] {
        daemon.wait(kind, |daemon| changed_by_itself(daemon, kind) == changed);
    }
    goes_on(&site, &daemon, "pump-3", 50);
    site.has_all_of(&daemon, &sensor);
    assert!(daemon.stop());
}
