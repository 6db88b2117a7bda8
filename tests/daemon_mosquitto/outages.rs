//! Long outages and wrong clocks: what is acknowledged arrives, nobody is stormed, and the words name the cause.
//!
//! Each of these waits much and works little, so they run side by side in one test, each at a site of its own; and the
//! alarms beside them, which wait as much.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use clawgate::clock::Clock;
use clawgate::ids::PairingId;
use clawgate::secret::Secret;
use clawgate::store::{DeviceInfo, KeySlot, NewPairing, Store, StoreOptions};
use serde_json::Value as Json;
use tokio::runtime::{self, Runtime};

use super::alarms::a_token_off_its_allow_list_and_a_flood_of_readings_are_alarms_wherever_one_looks;
use super::daemon::{Daemon, Sensor};
use super::issuer_front::{Answer, Asked, Mood};
use super::site::{DEVICE_LIFE, Site, goes_on};

/// Debian's place for what turns a process's wall clock and leaves the others alone.
const FAKETIME: &str = "faketime/libfaketimeMT.so.1";

type Scenario = fn(&mut Site);

#[test]
fn outages_and_wrong_clocks_lose_nothing_and_storm_nobody() {
    let all: [(&str, Scenario); 7] = [
        ("a start without broker and issuer", a_start_without_broker_and_issuer),
        ("an outage of the issuer", |site| an_outage_of_the_issuer_longer_than_a_token(site, false)),
        ("an outage of the issuer with a crash", |site| an_outage_of_the_issuer_longer_than_a_token(site, true)),
        ("a clock that is wrong by a day", a_clock_that_is_wrong_by_a_day),
        ("an issuer whose clock is wrong", super::issuer_clock::an_issuer_whose_own_clock_is_wrong),
        ("fifty devices", fifty_devices_refresh_at_once_and_after_an_outage),
        ("a quarantine of one device", a_quarantine_of_one_device_is_no_other_devices),
    ];
    thread::scope(|scope| {
        for (name, scenario) in all {
            let run = move |runtime: Runtime| scenario(&mut runtime.block_on(Site::start()));
            beside(scope, name, run);
        }
        beside(scope, "alarms", |runtime| {
            runtime.block_on(a_token_off_its_allow_list_and_a_flood_of_readings_are_alarms_wherever_one_looks());
        });
    });
}

/// A panic says by the thread's name which it was, and fails the test.
fn beside<'s>(scope: &'s Scope<'s, '_>, name: &str, run: impl FnOnce(Runtime) + Send + 's) {
    let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, || run(runtime)).unwrap();
}

/// What `token ls` says of a device.
fn token(daemon: &Daemon, device: &str) -> Json {
    let all = daemon.json(&["token", "ls"]).remove(0);
    let found = all.as_array().unwrap().iter().find(|token| token["device"] == device).cloned();
    found.unwrap_or_else(|| panic!("no {device} in {all}"))
}

pub(super) fn reason(daemon: &Daemon, device: &str) -> String {
    token(daemon, device)["reason"].as_str().unwrap_or_default().to_owned()
}

/// The state of a device's connection.
pub(super) fn relay(daemon: &Daemon, device: &str) -> String {
    let all = daemon.json(&["devices", "ls"]).remove(0);
    let found = all.as_array().unwrap().iter().find(|one| one["id"] == device).cloned();
    found.unwrap_or_else(|| panic!("no {device} in {all}"))["relay"]["state"].as_str().unwrap().to_owned()
}

/// Waits until the sensor was told of so many more readings that they are safe.
pub(super) fn keeps(daemon: &Daemon, sensor: &Sensor, more: usize) {
    let before = sensor.acknowledged().len();
    daemon.wait(&format!("{more} more readings are safe"), |_| sensor.acknowledged().len() >= before + more);
}

/// A site's daemon with one sensor, paired and delivering.
pub(super) fn one_device(site: &Site, environment: &[(&str, String)]) -> (Daemon, Sensor) {
    let mut sensor = Sensor::start(&site.folder.path().join("sensor"), &["--rate", "20"]);
    let daemon = site.daemon_in(&[("p1", &sensor)], "", environment);
    daemon.pair("p1", &mut sensor, "pump-3");
    goes_on(site, &daemon, "pump-3", 10);
    (daemon, sensor)
}

/// The most requests that one run of the daemon makes for one token in vain in this time: the waits double.
pub(super) fn most_attempts(in_vain: Duration) -> usize {
    let (mut attempts, mut certain) = (1, Duration::from_millis(500));
    let mut at = certain;
    while at <= in_vain {
        attempts += 1;
        certain *= 2;
        at += certain;
    }
    attempts
}

fn a_start_without_broker_and_issuer(site: &mut Site) {
    // No connection ends with its token, after which some readings may come twice.
    site.life = Duration::from_secs(300);
    let (mut daemon, sensor) = one_device(site, &[]);
    assert!(daemon.stop());
    site.loses(&daemon, "pump-3");
    site.stop_issuer();
    site.broker.stop();
    let before = site.came();
    daemon.resume();
    keeps(&daemon, &sensor, 60);
    daemon.wait("it is said why there is no token", |daemon| reason(daemon, "pump-3").contains("did not answer"));
    assert!(reason(&daemon, "pump-3").contains(site.front.url()), "{}", token(&daemon, "pump-3"));
    assert_eq!(token(&daemon, "pump-3")["state"], "waiting");
    assert_eq!(site.came(), before);

    site.resume_issuer();
    site.broker.resume();
    site.has_all_of(&daemon, &sensor);
    goes_on(site, &daemon, "pump-3", 10);
    let twice: Vec<_> =
        site.came().into_iter().filter(|(name, times)| *times > 1 && !before.contains_key(name)).collect();
    assert!(twice.is_empty() && site.in_order(), "{twice:?}");
}

fn an_outage_of_the_issuer_longer_than_a_token(site: &Site, crash: bool) {
    let (mut daemon, sensor) = one_device(site, &[]);
    let patience = Duration::from_secs(3);
    let since = site.front.asked().len();
    let busy = Answer { status: 429, headers: "retry-after: 3\r\n".to_owned(), body: "{}".to_owned() };
    site.front.is_to("pump-3", Mood::Says(busy));
    let refused =
        || -> Vec<Asked> { site.front.asked().into_iter().skip(since).filter(|one| one.device == "pump-3").collect() };
    daemon.wait("the server's words are told", |daemon| reason(daemon, "pump-3").contains("answered 429"));
    let since_its_token = || {
        let asked = site.front.asked();
        asked[..since].iter().rfind(|one| one.device == "pump-3").unwrap().at.elapsed()
    };
    // On a slow machine it is over before the test looks.
    let is_valid = token(&daemon, "pump-3")["state"] == "valid";
    assert!(is_valid || since_its_token() + Duration::from_secs(1) >= DEVICE_LIFE, "the token in use stays");
    // Over the end of the token, at which the broker has its say too.
    daemon.wait("the server is asked three times", |_| refused().len() >= 3);
    for pair in refused().windows(2) {
        let waited = pair[1].at - pair[0].at;
        assert!(waited >= patience, "Retry-After was {patience:?}, it waited {waited:?}: {}", daemon.log());
    }
    let (begin, since) = (Instant::now(), site.front.asked().len());
    site.front.is(Mood::Mute);
    site.front.is_to("pump-3", Mood::Mute);

    daemon.wait("the token expires", |daemon| token(daemon, "pump-3")["state"] == "waiting");
    daemon.wait("the connection is given up", |daemon| relay(daemon, "pump-3") == "waiting_for_token");
    daemon.wait("it is said why", |daemon| reason(daemon, "pump-3").contains("did not answer"));
    site.loses(&daemon, "pump-3");
    let at_rest = site.arrived("pump-3");
    keeps(&daemon, &sensor, 40);
    let mut runs = 1;
    if crash {
        daemon.kill();
        daemon.resume();
        runs = 2;
        keeps(&daemon, &sensor, 40);
        daemon.wait("it is said why", |daemon| reason(daemon, "pump-3").contains("did not answer"));
    }
    assert_eq!(site.arrived("pump-3"), at_rest, "nothing goes out without a token");
    // For the device and for the gateway itself.
    let (asked, limit) = (site.front.asked().len() - since, runs * 2 * most_attempts(begin.elapsed()));
    assert!(asked <= limit, "{asked} requests in vain within {:?}", begin.elapsed());

    site.front.is(Mood::Through);
    site.front.is_to("pump-3", Mood::Through);
    site.has_all_of(&daemon, &sensor);
    goes_on(site, &daemon, "pump-3", 10);
    // What was in flight when the broker cut the connection may come twice.
    assert!(site.in_order() && site.duplicates() <= 100, "{} twice", site.duplicates());
}

/// The wall clock of one process.
pub(super) struct WallClock(PathBuf);

impl WallClock {
    pub(super) fn new(folder: &Path) -> Self {
        let clock = Self(folder.join("clock"));
        clock.turn("+0");
        clock
    }

    /// What the process must be started with.
    pub(super) fn environment(&self) -> Vec<(&'static str, String)> {
        let library = ["/usr/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"]
            .iter()
            .map(|folder| Path::new(folder).join(FAKETIME))
            .find(|path| path.exists())
            .expect("faketime is installed (apt-get install faketime)");
        let yes = || "1".to_owned();
        vec![
            ("LD_PRELOAD", library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.0.display().to_string()),
            ("FAKETIME_NO_CACHE", yes()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", yes()),
            ("NO_FAKE_STAT", yes()),
        ]
    }

    /// So far off it is from now on.
    pub(super) fn turn(&self, offset: &str) {
        let new = self.0.with_extension("new");
        std::fs::write(&new, offset).unwrap();
        std::fs::rename(new, &self.0).unwrap();
    }
}

fn a_clock_that_is_wrong_by_a_day(site: &mut Site) {
    // What is good when the clock is turned stays so for as long as the test looks.
    site.life = Duration::from_secs(300);
    let clock = WallClock::new(site.folder.path());
    let (mut daemon, sensor) = one_device(site, &clock.environment());
    // The gateway's own stands too, before the clock is wrong.
    daemon.wait("both connections stand", |_| site.connections("pump-3") > 0 && site.connections("_gateway") > 0);
    let code = daemon.json(&["code", "new", "--ttl", "10m"]).remove(0)["id"].as_str().unwrap().to_owned();
    let named = |daemon: &Daemon, off: &str| {
        let why = reason(daemon, "pump-3");
        why.contains("the clock here is") && why.contains(off) && why.contains("set the time")
    };
    let connections = |site: &Site| ["pump-3", "_gateway"].map(|device| site.connections(device));
    let stands = connections(site);
    for (turned, off) in [("+1d", "ahead of"), ("-1d", "behind")] {
        // In operation: the token in use is as good as before, a new one does not come, and the cause is named.
        clock.turn(turned);
        let begin = Instant::now();
        let asked = site.front.asked().len();
        let refused = daemon.cli(&["token", "rotate", "pump-3"]);
        let words = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && words.contains("the clock here is"), "{turned}: {words}");
        assert!(named(&daemon, off), "{turned}: {}", token(&daemon, "pump-3"));
        assert_eq!(token(&daemon, "pump-3")["state"], "valid", "{turned}");
        goes_on(site, &daemon, "pump-3", 10);
        assert_eq!(connections(site), stands, "{turned}: a connection was given up");
        let codes = daemon.json(&["code", "ls"]).remove(0);
        let lives = codes.as_array().unwrap().iter().any(|one| one["id"] == code.as_str() && one["state"] == "active");
        assert!(lives, "{turned}: {codes}");
        let (asked, limit) = (site.front.asked().len() - asked, 2 * most_attempts(begin.elapsed()) + 1);
        assert!(asked <= limit, "{turned}: {asked} requests within {:?}", begin.elapsed());
        clock.turn("+0");
        daemon.wait("it goes on alone", |daemon| {
            let token = token(daemon, "pump-3");
            token["state"] == "valid" && token["reason"].is_null()
        });
    }
    for (turned, off) in [("+1d", "ahead of"), ("-1d", "behind")] {
        daemon.kill();
        clock.turn(turned);
        daemon.resume();
        daemon.wait("the cause is named", |daemon| named(daemon, off));
        assert_eq!(token(&daemon, "pump-3")["state"], "waiting", "{turned}");
        keeps(&daemon, &sensor, 20);
        clock.turn("+0");
        site.has_all_of(&daemon, &sensor);
        goes_on(site, &daemon, "pump-3", 10);
    }
    assert!(site.in_order());
    assert!(daemon.stop());
    let verified =
        daemon.cli(&["audit", "verify", "--state-dir", &site.daemon_folder().join("state").display().to_string()]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
}

fn fifty_devices_refresh_at_once_and_after_an_outage(site: &mut Site) {
    const DEVICES: usize = 50;
    // The keeper's bound.
    const AT_ONCE: usize = 8;
    // Fifty answers of a slow issuer take their time: what came first is not to be over before the last is there.
    site.life = 2 * DEVICE_LIFE;
    let state = StoreOptions { dir: site.daemon_folder().join("state"), ..StoreOptions::default() };
    std::fs::create_dir_all(site.daemon_folder()).unwrap();
    let store = Store::open(&state, Clock::system()).unwrap();
    for number in 0..DEVICES {
        let device: clawgate::ids::DeviceId = format!("d{number}").parse().unwrap();
        let pairing = PairingId(number.to_be_bytes());
        let key = KeySlot { pairing, record: Secret::new(number.to_be_bytes().repeat(30)) };
        let hardware_id = format!("hw-{number}");
        let new = NewPairing { device: device.clone(), hardware_id, info: DeviceInfo::default(), key, code: None };
        store.put_pending(&new).unwrap();
        store.confirm_pending(&device, pairing).unwrap();
    }
    drop(store);
    let requests = || {
        let mut all: BTreeMap<String, Vec<Instant>> = BTreeMap::new();
        for asked in site.front.asked() {
            // Those for the metadata name nobody.
            if asked.device.starts_with('d') {
                all.entry(asked.device).or_default().push(asked.at);
            }
        }
        all
    };
    let each = |daemon: &Daemon, field: &str, least: u64| {
        let all = daemon.json(&["token", "ls"]).remove(0);
        let devices = all.as_array().unwrap().iter().filter(|one| one["device"] != "_gateway");
        devices.filter(|one| one[field].as_u64().is_some_and(|times| times >= least)).count() == DEVICES
    };
    site.front.takes(Duration::from_millis(100));
    let daemon = site.daemon(&[]);
    daemon.wait("each has its first token", |daemon| each(daemon, "refreshed", 1));
    daemon.wait("each has its second", |daemon| each(daemon, "refreshed", 2));
    let waits: Vec<Duration> = requests().values().map(|times| times[1] - times[0]).collect();
    let (first, last) = (*waits.iter().min().unwrap(), *waits.iter().max().unwrap());
    let spread = last.saturating_sub(first);
    // Times in a token are whole seconds: up to one of its life may be over when it comes.
    assert!(first >= site.life.saturating_sub(Duration::from_secs(1)).mul_f64(0.7), "refreshed after {first:?}");
    assert!(spread >= site.life.mul_f64(0.05), "all within {spread:?}");
    eprintln!("second requests {first:?} to {last:?} after the first");

    site.front.is(Mood::Says(Answer { status: 503, headers: String::new(), body: "down".to_owned() }));
    let before = requests();
    daemon.wait("each was refused three times", |daemon| each(daemon, "failed", 3));
    site.front.is(Mood::Through);
    daemon.wait("each has a token again", |daemon| each(daemon, "refreshed", 3));
    let after = requests();
    let mut firsts = BTreeSet::new();
    for (device, times) in &after {
        let in_vain = &times[before[device].len()..];
        for (failures, pair) in in_vain.windows(2).take(3).enumerate() {
            let backed_off = Duration::from_millis(500 << failures);
            assert!(
                pair[1] - pair[0] >= backed_off,
                "{device}: {:?} after {} failures",
                pair[1] - pair[0],
                failures + 1
            );
        }
        firsts.insert(in_vain[1] - in_vain[0]);
    }
    let spread = firsts.last().unwrap().saturating_sub(*firsts.first().unwrap());
    assert!(spread >= Duration::from_millis(200), "all first retries within {spread:?}");
    let asked = site.front.asked();
    assert!(asked.iter().all(|one| one.device.is_empty() || one.in_flight.0 == 1), "two requests for one device");
    let most = asked.iter().map(|one| one.in_flight.1).max().unwrap();
    assert!(most <= AT_ONCE, "{most} requests at one time");
    eprintln!("first retries spread over {spread:?}; {most} in flight at most; {} requests", asked.len());
}

fn a_quarantine_of_one_device_is_no_other_devices(site: &mut Site) {
    let mut sensors: Vec<Sensor> =
        ["a", "b"].iter().map(|name| Sensor::start(&site.folder.path().join(name), &["--rate", "20"])).collect();
    let daemon = site.daemon(&[("p1", &sensors[0]), ("p2", &sensors[1])]);
    daemon.pair("p1", &mut sensors[0], "pump-3");
    daemon.pair("p2", &mut sensors[1], "pump-4");
    goes_on(site, &daemon, "pump-4", 10);
    let body = r#"{"error":"invalid_grant","error_description":"pump-4 was sold\u001b[2J"}"#.to_owned();
    site.front.is_to("pump-4", Mood::Says(Answer { status: 400, headers: String::new(), body }));

    daemon.wait("the device is paused", |daemon| token(daemon, "pump-4")["state"] == "quarantined");
    let said = reason(&daemon, "pump-4");
    assert!(said.contains("invalid_grant") && said.contains("pump-4 was sold") && !said.contains('\u{1b}'), "{said}");
    let alarm = |daemon: &Daemon| {
        // It ends with 8 while something is not well.
        let status: Json = serde_json::from_slice(&daemon.cli(&["status", "--json"]).stdout).unwrap();
        let alarms = status["alarms"].as_array().unwrap();
        alarms.iter().find(|alarm| alarm["kind"] == "quarantine" && alarm["subject"] == "pump-4").cloned()
    };
    daemon.wait("an alarm says it", |daemon| alarm(daemon).is_some());
    let raised = alarm(&daemon).unwrap();
    assert!(raised["next_step"].as_str().is_some_and(|step| step.contains("token rotate pump-4")), "{raised}");
    daemon.wait("the connection is closed", |daemon| relay(daemon, "pump-4") == "paused");
    site.loses(&daemon, "pump-4");
    let (at_rest, asked) = (site.arrived("pump-4"), asked_for(site, "pump-4"));
    keeps(&daemon, &sensors[1], 20);
    goes_on(site, &daemon, "pump-3", 20);
    let refreshed = token(&daemon, "pump-3")["refreshed"].as_u64().unwrap();
    daemon.wait("the other's token is refreshed", |daemon| {
        token(daemon, "pump-3")["refreshed"].as_u64().unwrap() > refreshed
    });
    assert_eq!(
        (site.arrived("pump-4"), asked_for(site, "pump-4")),
        (at_rest, asked),
        "nothing goes out, nothing is asked"
    );

    let refused = daemon.cli(&["token", "rotate", "pump-4"]);
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(7) && words.contains("invalid_grant"), "{:?} {words}", refused.status);
    assert_eq!(token(&daemon, "pump-4")["state"], "quarantined");
    site.front.is_to("pump-4", Mood::Through);
    assert!(daemon.cli(&["token", "rotate", "pump-4"]).status.success());
    site.has_all_of(&daemon, &sensors[1]);
    goes_on(site, &daemon, "pump-4", 10);
    assert!(site.in_order());
    daemon.wait("the alarm is over", |daemon| alarm(daemon).is_none());
}

fn asked_for(site: &Site, device: &str) -> usize {
    site.front.asked().iter().filter(|asked| asked.device == device).count()
}
