//! What a person should look at although nothing has failed, end to end: in the status, the log, the audit log, the metrics,
//! and where the gateway speaks for itself.

use std::fmt::Write as _;
use std::time::Duration;

use clawgate::token::{Issuer as _, Limits, TokenRequest};
use serde_json::Value as Json;

use super::daemon::{Daemon, Sensor};
use super::fixtures::request;
use super::principal::{hears, listener};
use super::{Site, goes_on, support};

/// Words without their figures: an alarm that is raised again has those of its last time.
fn plain(words: &Json) -> String {
    words.as_str().unwrap().chars().filter(|c| !c.is_ascii_digit()).collect()
}

/// That an alarm stands wherever one looks.
fn stands(daemon: &Daemon, told: &Json) {
    let (kind, device) = (told["kind"].as_str().unwrap(), told["subject"].as_str().unwrap());
    let is_it = |alarm: &Json| alarm["kind"] == kind && alarm["subject"] == device;
    // A device that is paused or waits makes the status one of trouble: exit code 8.
    let status = daemon.cli(&["status", "--json"]);
    let status: Json = serde_json::from_slice(&status.stdout).unwrap();
    let alarm = status["alarms"].as_array().unwrap().iter().find(|alarm| is_it(alarm)).expect("in the status").clone();
    assert_eq!((plain(&alarm["words"]), &alarm["next_step"]), (plain(&told["words"]), &told["next_step"]), "{status}");
    let log = daemon.log();
    assert!(log.lines().any(|line| line.contains("alarm") && line.contains(kind) && line.contains(device)), "{log}");
    let metrics = daemon.get("/metrics");
    assert!(metrics.contains(&format!("clawgate_alarms_total{{kind=\"{kind}\"}} 1")), "{metrics}");
    let raised =
        |line: &Json| line["action"] == "alarm.raise" && line["subject"] == device && line["details"]["kind"] == kind;
    daemon.wait("it is audited", |_| {
        let lines = daemon.cli(&["audit", "export"]).stdout;
        String::from_utf8_lossy(&lines).lines().any(|line| serde_json::from_str(line).is_ok_and(|line| raised(&line)))
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_broker_tells_of_a_stolen_token_is_an_alarm_of_the_gateways_wherever_one_looks() {
    let mut site = Site::start().await;
    // No connection ends with its token, after which the broker tells the same again.
    site.life = Duration::from_secs(300);
    let mut heard = listener(&site).await;
    let mut sensor = Sensor::start(&site.folder.path().join("a"), &["--rate", "20"]);
    let mut daemon = site.daemon_with(&[("p1", &sensor)], "[cloud]\nbroker_alarms = false\n");
    daemon.pair("p1", &mut sensor, "pump-3");
    goes_on(&site, &daemon, "pump-3", 5);
    daemon.reload("broker_alarms = false", "broker_alarms = true");
    daemon.wait("it listens", |daemon| daemon.log().contains("what the broker tells beside the alarms is heard"));
    let limits = Limits::new(vec!["192.0.2.0/24".parse().unwrap()], None).unwrap();
    for device in ["not-here", "pump-3"] {
        let wanted = TokenRequest { limits: limits.clone(), ..request("gw-1", device, 600) };
        let stolen = site.client("gw-1").issue(&wanted).await.unwrap();
        assert_eq!(site.connect("a-thief", &stolen).await.err().as_deref(), Some("NotAuthorized"));
    }
    let told = hears(&mut heard, "alarm", |said| said["kind"] == "off_allow_list" && said["by"].is_null()).await;
    assert_eq!(told["subject"], "pump-3", "of no device that is none of its own: {told}");
    let words = told["words"].as_str().unwrap();
    assert!(words.starts_with(r#"the broker says: a client at 127.0.0.1 that calls itself \"a-thief\""#), "{words}");
    assert!(told["next_step"].as_str().unwrap().contains("clawgate token revoke pump-3"), "{told}");
    stands(&daemon, &told);
    let log = site.broker.log();
    let to_it =
        log.lines().filter(|line| line.contains("Sending PUBLISH to gw-1._gateway") && line.contains("up/alarm'"));
    assert_eq!(to_it.count(), 2, "and not what it says itself: {log}");
    goes_on(&site, &daemon, "pump-3", 20);
    assert!(daemon.stop());
}

/// Run beside the outages, for it waits as much.
pub(crate) async fn a_token_off_its_allow_list_and_a_flood_of_readings_are_alarms_wherever_one_looks() {
    let site = Site::start().await;
    let mut heard = listener(&site).await;
    let sensor = |name| Sensor::start(&site.folder.path().join(name), &["--rate", "1"]);
    let (mut flood, mut elsewhere) = (sensor("a"), sensor("b"));
    let alarms = "[alarms]\nrate_factor = 3\nrate_learning = \"10s\"\n";
    let mut daemon = site.daemon_with(&[("p1", &flood), ("p2", &elsewhere)], alarms);
    daemon.pair("p1", &mut flood, "pump-3");
    // What it made before came at once, and says nothing of its pace.
    let before = flood.made();

    // The code says from where its device's token may be used, and this machine is not there.
    let code = daemon.json(&["code", "new", "--device", "pump-4", "--allow-address", "192.0.2.0/24"]).remove(0);
    elsewhere.tell(&format!("code {}", code["code"].as_str().unwrap()));
    let off_list = |said: &Json| said["kind"] == "off_allow_list" && said["subject"] == "pump-4";
    let by_broker = hears(&mut heard, "alarm", |said| off_list(said) && said["by"] == "broker").await;
    let words = by_broker["words"].as_str().unwrap();
    assert!(words.starts_with("a client at 127.0.0.1 that calls itself \"gw-1.pump-4\""), "{words}");
    let told = hears(&mut heard, "alarm", |said| off_list(said) && said["by"].is_null()).await;
    let mut words = format!("the broker localhost:{} refused (0x87) its token, ", site.broker.port());
    write!(words, "which may be used from 192.0.2.0/24").unwrap();
    assert_eq!(told["words"], words);
    assert!(told["next_step"].as_str().unwrap().contains("--allow-address"), "{told}");
    assert!(site.broker.log().contains("the token of pump-4 is not for address 127.0.0.1"), "{}", site.broker.log());
    stands(&daemon, &told);
    assert_eq!(site.arrived("pump-4"), 0);

    // One reading a second for three looks at it; then sixty.
    daemon.wait("the baseline is learnt", |_| site.arrived("pump-3") >= before + 36);
    let flooding = async {
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
        loop {
            seconds.tick().await;
            flood.tell("read 60");
        }
    };
    let spike = hears(&mut heard, "alarm", |said| said["kind"] == "rate_spike" && said["subject"] == "pump-3");
    let told = tokio::select! {
        told = spike => told,
        () = flooding => unreachable!("it goes on"),
    };
    let words = told["words"].as_str().unwrap();
    assert!(words.starts_with("it sends ") && words.contains("; it used to send "), "{words}");
    assert!(told["next_step"].as_str().unwrap().contains("clawgate token revoke pump-3"), "{told}");
    stands(&daemon, &told);
    site.has_all_of(&daemon, &flood);
    assert!(daemon.stop());
    support::within("the status is said", hears(&mut heard, "status", |said| said["state"] == "stopped")).await;
}
