//! Every action of the audit log, provoked at the real daemon: each leaves a line that says who (uid and name), when (wall
//! clock, boot, time since boot), to what, and with which outcome.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use clawgate::audit::Action;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::issuer_front;
use crate::site::{Sensor, Site, end, until};

/// What is not provoked here, and where it is.
const ELSEWHERE: &[(Action, &str)] = &[
    (Action::CommandRevoke, "a signed command needs a broker and a backend: tests/daemon_mosquitto/principal.rs"),
    (Action::CommandApprove, "the same"),
    (Action::CommandCode, "the same"),
    (Action::CommandConfig, "the same"),
    (Action::CommandRefuse, "the same"),
    (Action::AuditMissing, "the log must have been unwritable first: unwritable.rs"),
    (Action::ConfigUnset, "something must have been changed by a command first: configuration.rs"),
];

/// A walk through one site: what was done, and every line that was seen of it.
struct Walk {
    site: Site,
    /// By the hash before them: the oldest go on the way.
    lines: BTreeMap<String, Value>,
    done: Vec<(Action, Value, String, &'static str)>,
}

impl Walk {
    fn over(site: Site) -> Self {
        Self { site, lines: BTreeMap::new(), done: Vec::new() }
    }

    fn look(&mut self) {
        let lines = self.site.audit().into_iter();
        self.lines.extend(lines.map(|line| (line["prev"].to_string(), line)));
    }

    /// Such a line must be there.
    fn must(&mut self, action: Action, actor: Value, subject: &str, outcome: &'static str) {
        self.done.push((action, actor, subject.to_owned(), outcome));
    }

    /// The same, and it comes by itself.
    fn comes(&mut self, action: Action, actor: Value, subject: &str, outcome: &'static str) {
        self.must(action, actor, subject, outcome);
        until(action.as_str(), || {
            let is_it = |line: &Value| line["action"] == action.as_str() && line["subject"] == subject;
            self.site.audit().iter().any(is_it).then_some(())
        });
    }

    /// Holds what was done against the lines.
    fn check(&mut self) -> BTreeSet<Action> {
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().replace('-', "");
        let uptime: f64 = fs::read_to_string("/proc/uptime").unwrap().split(' ').next().unwrap().parse().unwrap();
        let now = jiff::Timestamp::now();
        for line in self.lines.values() {
            let time: jiff::Timestamp = line["time"].as_str().unwrap().parse().unwrap();
            assert!(time <= now && now.duration_since(time).as_secs() < 3600, "{line}");
            assert_eq!(line["boot_id"], boot_id.as_str(), "{line}");
            let boot_s = line["boot_ms"].as_f64().unwrap() / 1000.0;
            assert!(boot_s <= uptime + 1.0 && uptime - boot_s < 3600.0, "{line}");
        }
        for (action, actor, subject, outcome) in &self.done {
            let of_it: Vec<_> = self.lines.values().filter(|line| line["action"] == action.as_str()).collect();
            let is_it = |line: &&&Value| {
                line["actor"] == *actor && line["subject"] == subject.as_str() && line["outcome"] == *outcome
            };
            assert!(of_it.iter().any(|line| is_it(&line)), "{action} {actor} {subject} {outcome}: {}", json!(of_it));
        }
        self.done.iter().map(|(action, ..)| *action).collect()
    }

    fn code(&self, more: &[&str]) -> (String, String) {
        let made = self.site.run(&[&["code", "new", "--json"], more].concat()).ok().json();
        (made["id"].as_str().unwrap().to_owned(), made["code"].as_str().unwrap().to_owned())
    }
}

fn daemon() -> Value {
    json!({ "kind": "daemon" })
}

/// Who runs this test.
fn person() -> Value {
    let id = |what| end(Command::new("id").arg(what)).ok().out.trim().to_owned();
    json!({ "kind": "uid", "uid": id("-u").parse::<u32>().unwrap(), "name": id("-un") })
}

fn configure(site: &Site, more: &str) {
    let standalone =
        "[standalone]\nlisten = \"127.0.0.1:0\"\n[keys]\nissuer_lead = \"1s\"\n[audit]\nmax_bytes = \"1MiB\"\n";
    site.configure(&format!("mode = \"standalone\"\n{}{standalone}{more}", site.line("bench")));
}

/// A pairing that waits for a yes that does not come in time.
fn pair_in_vain(site: &Site, sensor: &mut Sensor, name: &str) {
    site.open_window("bench", sensor);
    assert_eq!(site.run_with(&["pair", "bench", "--name", name], &sensor.label).code, 7);
}

/// Everything that is done with codes, devices, tokens and keys.
fn at_work(walk: &mut Walk, sensor: &mut Sensor) {
    let running = walk.site.start();
    walk.must(Action::DaemonStart, daemon(), "gateway", "ok");
    let config = walk.site.config().display().to_string();
    configure(&walk.site, "[pairing]\nattempts = 1\n[alarms]\nfailed_attempts = 1\n");
    running.signal(Signal::HUP);
    walk.comes(Action::ConfigReload, daemon(), &config, "ok");

    let (id, other) = walk.code(&[]);
    walk.must(Action::CodeNew, person(), &id, "ok");
    walk.site.run(&["code", "revoke", &id, "--why", "mislaid"]).ok();
    walk.must(Action::CodeRevoke, person(), &id, "ok");
    assert_eq!(walk.site.run(&["code", "revoke", "ocpc_nothing"]).code, 3);
    walk.must(Action::ControlCall, person(), "POST /v1/codes/ocpc_nothing/revoke", "refused");
    for request in ["POST /v1/nothing", "PUT /v1/status"] {
        let answer = walk.site.raw(format!("{request} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes());
        assert!(answer.contains("no_route"), "{answer}");
        walk.must(Action::ControlCall, person(), request, "refused");
    }
    let (id, _) = walk.code(&["--ttl", "1s"]);
    walk.comes(Action::CodeExpire, daemon(), &id, "ok");
    let (id, _) = walk.code(&["--sensor", "th-77", "--ttl", "5m"]);
    sensor.say(&format!("code {other}"));
    walk.comes(Action::CodeExhaust, daemon(), &id, "ok");
    walk.must(Action::CodeClaim, daemon(), &id, "ok");
    walk.must(Action::CodeAttempt, daemon(), &id, "ok");
    walk.must(Action::CodeAttemptFailed, daemon(), &id, "failed");
    walk.must(Action::DevicePair, person(), "th-77", "failed");
    walk.comes(Action::AlarmRaise, daemon(), "pairing", "ok");

    let (id, code) = walk.code(&["--sensor", "th-77", "--device", "pump-1", "--ttl", "5m"]);
    sensor.say(&format!("code {code}"));
    walk.comes(Action::CodeUsed, json!({ "kind": "device", "id": "pump-1" }), &id, "ok");
    walk.comes(Action::TokenIssue, daemon(), "pump-1", "ok");
    walk.must(Action::DevicePair, person(), "pump-1", "ok");
    walk.site.run(&["identify", "bench"]).ok();
    walk.must(Action::DeviceIdentify, person(), "bench", "ok");
    walk.site.run(&["devices", "rename", "pump-1", "pump-2"]).ok();
    walk.must(Action::DeviceRename, person(), "pump-1", "ok");
    for (verb, action) in [("replay", Action::DeadLettersReplay), ("drop", Action::DeadLettersDrop)] {
        walk.site.run(&["dead-letters", verb, "pump-2"]).ok();
        walk.must(action, person(), "pump-2", "ok");
    }
    for (verb, action) in [("rotate", Action::TokenRotate), ("revoke", Action::TokenRevoke)] {
        walk.site.run(&["token", verb, "pump-2"]).ok();
        walk.must(action, person(), "pump-2", "ok");
    }
    walk.site.run(&["unpair", "pump-2"]).ok();
    walk.must(Action::DeviceUnpair, person(), "pump-2", "ok");

    walk.site.run(&["key", "rotate", "issuer"]).ok();
    walk.must(Action::KeyRotate, person(), "issuer", "ok");
    walk.comes(Action::KeyInUse, daemon(), "issuer", "ok");
    let key = walk.site.run(&["key", "rotate", "audit", "--json"]).ok().json()["id"].as_str().unwrap().to_owned();
    walk.must(Action::AuditKey, person(), &key, "ok");
    walk.site.run(&["audit", "export"]).ok();
    walk.must(Action::AuditExport, person(), "audit", "ok");
    let (id, _) = walk.code(&["--ttl", "1d"]);
    walk.must(Action::CodeVoid, daemon(), &id, "ok");
    walk.look();
    assert_eq!(running.stop(), 0);
    walk.must(Action::DaemonStop, daemon(), "gateway", "ok");
    walk.must(Action::ControlRead, person(), "control socket", "ok");
    walk.must(Action::TokenRefresh, daemon(), "tokens", "ok");
}

/// A backend that is asked, and a log that is full.
fn with_a_backend(walk: &mut Walk, sensor: &mut Sensor) {
    configure(&walk.site, "[pairing]\napproval = \"backend\"\napproval_time = \"1s\"\n");
    let running = walk.site.start();
    // Changed while it stood still.
    let lines = walk.site.audit();
    let start = lines.iter().rfind(|line| line["action"] == "daemon.start").unwrap();
    let changed = ["pairing.attempts", "pairing.approval", "pairing.approval_time", "alarms.failed_attempts"];
    assert_eq!(start["details"]["config_changed"], json!(changed), "{start}");
    pair_in_vain(&walk.site, sensor, "pump-3");
    walk.must(Action::DeviceCommission, person(), "pump-3", "failed");
    walk.site.run(&["devices", "approve", "pump-3", "--why", "order 17"]).ok();
    walk.must(Action::DeviceApprove, person(), "pump-3", "ok");
    walk.look();

    // Lines as long as they can be, until the oldest go.
    let body = json!({ "why": "\u{1f600}".repeat(600) }).to_string();
    let request = format!(
        "POST /v1/dead-letters/pump-3/drop HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    until("the oldest lines go", || {
        for _ in 0..20 {
            assert!(walk.site.raw(request.as_bytes()).starts_with("HTTP/1.1 200"));
        }
        walk.site.audit().iter().any(|line| line["action"] == "audit.drop").then_some(())
    });
    walk.must(Action::AuditDrop, daemon(), "audit", "ok");
    walk.site.run(&["unpair", "pump-3"]).ok();
    pair_in_vain(&walk.site, sensor, "pump-4");
    walk.site.run(&["devices", "reject", "pump-4"]).ok();
    walk.must(Action::DeviceReject, person(), "pump-4", "ok");
    walk.look();
    assert_eq!(running.stop(), 0);
}

/// The state in a file and back, and a log that something was done to.
fn at_rest(walk: &mut Walk) {
    let (config, key, file) = (walk.site.config(), walk.site.path("backup.key"), walk.site.path("backup"));
    fs::write(&key, "ab".repeat(32)).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let [config, key, file] = [&config, &key, &file].map(|path| path.to_str().unwrap());
    let made = walk.site.run(&["backup", "create", file, "--key", key, "--config", config, "--json"]).ok().json();
    let id = made["id"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned();
    walk.site.run(&["backup", "restore", file, "--key", key, "--config", config, "--replace"]).ok();
    walk.must(Action::BackupCreate, person(), &id, "ok");
    walk.must(Action::BackupRestore, person(), &id, "ok");

    let newest = |site: &Site| {
        let names = fs::read_dir(site.path("state/audit")).unwrap().map(|file| file.unwrap().path());
        names.filter(|path| path.to_str().unwrap().contains("/audit-")).max().unwrap()
    };
    OpenOptions::new().append(true).open(newest(&walk.site)).unwrap().write_all(b"{\"seq\":").unwrap();
    let running = walk.site.start();
    walk.comes(Action::AuditRecovered, daemon(), "audit", "ok");
    walk.look();
    assert_eq!(running.stop(), 0);
    let log = newest(&walk.site);
    let text = fs::read_to_string(&log).unwrap();
    fs::write(&log, &text[..=text.trim_end().rfind('\n').unwrap()]).unwrap();
    let _running = walk.site.start();
    walk.comes(Action::AuditDamaged, daemon(), "audit", "failed");
    walk.comes(Action::AlarmRaise, daemon(), "audit", "ok");
    assert_eq!(walk.site.status()["alarms"][0]["kind"], "audit");
    walk.look();
}

/// An OAuth server that knows nobody; its URL.
fn refusing_issuer() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let metadata = json!({ "issuer": url, "token_endpoint": format!("{url}/token") }).to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // To its end: what is closed with bytes unread takes the answer with it.
            let Ok((head, _)) = issuer_front::read(&mut stream) else { continue };
            let (status, body) = if head.contains("/.well-known/") {
                ("200 OK", metadata.as_str())
            } else {
                ("400 Bad Request", r#"{"error":"invalid_grant","error_description":"unknown here"}"#)
            };
            let head = format!("content-type: application/json\r\ncontent-length: {}\r\nconnection: close", body.len());
            let _ = write!(stream, "HTTP/1.1 {status}\r\n{head}\r\n\r\n{body}");
        }
    });
    url
}

/// A cloud that does not take the device.
fn refused_by_the_cloud() -> Walk {
    let site = Site::standalone("");
    let key = site.path("client.pem");
    site.run(&["issuer", "key", key.to_str().unwrap()]).ok();
    let config = format!(
        "state_dir = \"{}\"\nmode = \"relay\"\n[broker]\nurl = \"mqtt://127.0.0.1:1\"\n[metrics]\nlisten = \"off\"\n\
         [issuer]\nkind = \"oauth\"\nurl = \"{}\"\nclient_key = \"{}\"\n[control]\nsocket = \"{}\"\n{}",
        site.path("state").display(),
        refusing_issuer(),
        key.display(),
        site.socket().display(),
        site.line("bench")
    );
    fs::write(site.config(), config).unwrap();
    let mut walk = Walk::over(site);
    let mut sensor = walk.site.thermometer("bench", &[]);
    let _running = walk.site.start();
    let refused = walk.site.pair("bench", &mut sensor);
    assert!(refused.code == 7 && refused.err.contains("unknown here"), "{refused:?}");
    walk.must(Action::DeviceCommission, person(), "bench", "failed");
    walk.comes(Action::TokenQuarantine, daemon(), "bench", "failed");
    walk.look();
    walk
}

#[test]
fn every_action_leaves_a_line_with_who_when_to_what_and_its_outcome() {
    let mut walk = Walk::over(Site::standalone(""));
    configure(&walk.site, "[pairing]\nattempts = 1\n");
    let mut sensor = walk.site.thermometer("bench", &["--device", "th-77"]);
    at_work(&mut walk, &mut sensor);
    with_a_backend(&mut walk, &mut sensor);
    at_rest(&mut walk);
    let mut seen = walk.check();
    seen.extend(refused_by_the_cloud().check());
    let elsewhere = ELSEWHERE.iter().map(|(action, why)| {
        assert!(!why.is_empty() && !seen.contains(action), "{action}");
        *action
    });
    let all: BTreeSet<Action> = elsewhere.collect::<Vec<_>>().into_iter().chain(seen).collect();
    let missing: Vec<&Action> = Action::ALL.iter().filter(|action| !all.contains(action)).collect();
    assert!(missing.is_empty(), "neither provoked here nor elsewhere: {missing:?}");
}
