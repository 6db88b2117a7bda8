//! What a code and a pairing are allowed: limits, stage, and a backend that says yes or no; with the whole daemon.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::site::{Sensor, Site, until};
use crate::thief;

fn site(more: &str) -> Site {
    let site = Site::standalone("");
    configure(&site, more);
    site
}

fn configure(site: &Site, more: &str) {
    let line = site.line("bench");
    site.configure(&format!("mode = \"standalone\"\n{line}{more}\n[standalone]\nlisten = \"127.0.0.1:0\"\n"));
}

/// A pairing by label that goes on while others look at it.
fn begin(site: &Site, sensor: &mut Sensor) -> Child {
    site.open_window("bench", sensor);
    std::fs::write(site.path("code"), &sensor.label).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_clawgate"));
    let mut command = site.command(program, &["pair", "bench", "--name", "pump-3", "--json"]);
    let input = File::open(site.path("code")).unwrap();
    command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn events(child: Child) -> (i32, Vec<Value>) {
    let ended = child.wait_with_output().unwrap();
    let lines = String::from_utf8(ended.stdout).unwrap();
    (ended.status.code().unwrap_or(-1), lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

fn device(site: &Site) -> Option<Value> {
    site.run(&["devices", "ls", "--json"]).json().as_array().unwrap().first().cloned()
}

/// Waits until so many of its readings wait, while its token is held back.
fn held(site: &Site) -> Value {
    let is_held = |device: &Value| device["waiting"].as_u64() > Some(3) && device["token"]["state"] == "held";
    device_when(site, "readings wait", is_held)
}

/// Waits until an alarm that stands is counted and logged, too.
fn is_told_everywhere(site: &Site, kind: &str) -> String {
    until("the alarm is logged", || site.log().contains(kind).then_some(()));
    let counted = format!("clawgate_alarms_total{{kind={kind:?}}} 1");
    until("the alarm is counted", || {
        Some(site.raw(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")).filter(|metrics| metrics.contains(&counted))
    })
}

/// Waits until the device is as `wanted`.
fn device_when(site: &Site, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    until(what, || device(site).filter(|device| wanted(device)))
}

#[test]
fn a_pairing_waits_for_the_backend_and_its_readings_are_kept_until_the_yes() {
    let site = site("[pairing]\napproval = \"backend\"\n");
    let mut sensor = site.thermometer("bench", &[]);
    let _daemon = site.start();
    let pairing = begin(&site, &mut sensor);
    let waits = held(&site);
    assert_eq!(waits["decision"]["state"], "waiting");
    assert_eq!(waits["relay"]["confirmed"], 0, "{waits}");
    assert!(site.run(&["devices", "ls"]).ok().out.contains("awaits approval"));
    let refused = site.run(&["token", "rotate", "pump-3"]);
    assert!(refused.code == 7 && refused.err.contains("clawgate devices approve pump-3"), "{refused:?}");

    let yes = site.run(&["devices", "approve", "pump-3", "--why", "order 17"]).ok();
    assert!(yes.out.contains("pump-3 is approved"), "{yes:?}");
    let (code, lines) = events(pairing);
    assert_eq!(code, 0, "{lines:?}");
    let told = lines.iter().find(|line| line["event"] == "decision").expect("the pairing did not say that it waits");
    assert_eq!((&told["device"], &told["within_s"]), (&json!("pump-3"), &json!(600)));
    assert_eq!(lines.last().unwrap()["event"], "paired");
    device_when(&site, "what waited is confirmed", |device| device["relay"]["confirmed"].as_u64() > Some(3));
    let line = site.audit().into_iter().find(|line| line["action"] == "device.approve").unwrap();
    assert_eq!((&line["subject"], &line["reason"]), (&json!("pump-3"), &json!("order 17")));
    assert_eq!(line["actor"]["kind"], "uid");
    // Said twice, a yes is a yes; a no comes too late.
    site.run(&["devices", "approve", "pump-3"]).ok();
    let late = site.run(&["devices", "reject", "pump-3"]);
    assert!(late.code == 2 && late.err.contains("clawgate unpair pump-3"), "{late:?}");
}

#[test]
fn nobody_deciding_leaves_a_device_waiting_over_a_restart_and_a_no_unpairs_it() {
    let site = site("[pairing]\napproval = \"backend\"\napproval_time = \"1s\"\n");
    let mut sensor = site.thermometer("bench", &[]);
    let daemon = site.start();
    let (code, lines) = events(begin(&site, &mut sensor));
    assert_eq!(code, 7, "{lines:?}");
    let last = lines.last().unwrap();
    assert!(last["message"].as_str().unwrap().contains("it waits for the backend"), "{last}");
    assert!(last["next_step"].as_str().unwrap().contains("stays paired"), "{last}");
    assert_eq!(daemon.stop(), 0);

    let _daemon = site.start();
    let waits = held(&site);
    assert_eq!(waits["decision"]["state"], "waiting");
    assert_eq!(waits["relay"]["confirmed"], 0);
    site.run(&["devices", "reject", "pump-3", "--why", "unknown here"]).ok();
    assert_eq!(device(&site), None);
    let audit = site.audit();
    let line = audit.iter().find(|line| line["action"] == "device.reject").unwrap();
    assert_eq!(line["reason"], "unknown here");
    assert!(audit.iter().any(|line| line["action"] == "device.unpair"));
}

/// What the issuer inside answers at `path`.
fn issuer_says(status: &Value, path: &str) -> Value {
    let url = status["issuer"].as_str().unwrap();
    let address = url.trim_start_matches("http://").split('/').next().unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

#[test]
fn wrong_codes_are_an_alarm_in_log_metrics_audit_and_status() {
    let site = site("[alarms]\nfailed_attempts = 2\n");
    let mut sensor = site.thermometer("bench", &[]);
    let _daemon = site.start();
    // A code as good as any, and not the one on the label.
    let other = site.run(&["code", "new", "--json"]).ok().json()["code"].as_str().unwrap().to_owned();
    for round in 1..=2 {
        assert_eq!(site.status()["alarms"], json!([]), "before round {round}");
        let wrong = until("the sensor takes a code", || {
            site.open_window("bench", &mut sensor);
            let ended = site.run_with(&["pair", "bench", "--name", "pump-3"], &other);
            ended.err.contains("does not match").then_some(ended)
        });
        assert_eq!(wrong.code, 4, "{wrong:?}");
    }
    let alarms = until("the alarm stands", || Some(site.status()["alarms"].clone()).filter(|all| *all != json!([])));
    assert_eq!((&alarms[0]["kind"], &alarms[0]["subject"]), (&json!("failed_attempts"), &json!("pairing")));
    assert!(alarms[0]["words"].as_str().unwrap().starts_with("2 wrong codes within 10 min"), "{alarms}");
    assert!(site.run(&["status"]).out.contains("clawgate audit tail"));
    is_told_everywhere(&site, "failed_attempts");
    let line = until("the audit line", || site.audit().into_iter().find(|line| line["action"] == "alarm.raise"));
    assert_eq!((&line["subject"], &line["details"]["kind"]), (&json!("pairing"), &json!("failed_attempts")));
}

/// The device's token, as it went to the broker among these system calls.
fn token_in(calls: &str, device: &str) -> Option<String> {
    let is_part = |byte: char| byte.is_ascii_alphanumeric() || "-_.".contains(byte);
    // The last line may still be on its way into the file.
    let calls = calls.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let tokens =
        calls.match_indices("eyJ").map(|(at, _)| calls[at..].split(|c| !is_part(c)).next().unwrap_or_default());
    let whose = tokens.filter(|token| {
        let claims = token.split('.').nth(1).and_then(|claims| URL_SAFE_NO_PAD.decode(claims).ok());
        claims.and_then(|claims| serde_json::from_slice::<Value>(&claims).ok()).is_some_and(|it| it["sub"] == device)
    });
    whose.last().filter(|token| token.split('.').count() == 3).map(str::to_owned)
}

#[test]
fn a_stolen_token_that_comes_from_elsewhere_is_an_alarm_and_the_device_goes_on() {
    let site = site("");
    let mut sensor = site.thermometer("bench", &[]);
    let daemon = site.start();
    let new = ["code", "new", "--device", "pump-3", "--allow-address", "127.0.0.1/32", "--json"];
    let code = site.run(&new).ok().json()["code"].as_str().unwrap().to_owned();
    sensor.say(&format!("code {code}"));
    let confirmed = |device: &Value| device["relay"]["confirmed"].as_u64().unwrap_or(0);
    device_when(&site, "readings flow", |device| confirmed(device) > 2);

    // Stolen from the daemon's own connection.
    let tap = site.path("tap");
    let mut strace = Command::new("strace");
    strace.args([
        "-f",
        "-qq",
        "-s",
        "4096",
        "-e",
        "trace=write,writev,sendto,sendmsg",
        "-p",
        &daemon.id().to_string(),
        "-o",
    ]);
    let mut strace = strace.arg(&tap).spawn().expect("strace is installed (apt-get install strace)");
    let tapped = || std::fs::read_to_string(&tap).unwrap_or_default();
    until("the daemon is tapped", || (!tapped().is_empty()).then_some(()));
    site.run(&["token", "rotate", "pump-3"]).ok();
    let token = until("a token goes by", || token_in(&tapped(), "pump-3"));
    kill_process(Pid::from_child(&strace), Signal::TERM).unwrap();
    strace.wait().unwrap();

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let broker = site.status()["broker"].as_str().unwrap().trim_start_matches("mqtt://").parse().unwrap();
    let shows = |from| runtime.block_on(thief::connects_from(from, broker, "gw.pump-3", &token));
    assert_eq!(site.status()["alarms"], json!([]));
    assert_eq!(shows(thief::ELSEWHERE), 0x87);
    let alarm = until("the alarm stands", || site.status()["alarms"].get(0).cloned());
    assert_eq!((&alarm["kind"], &alarm["subject"]), (&json!("off_allow_list"), &json!("pump-3")));
    let words = alarm["words"].as_str().unwrap();
    assert!(words.contains("a client at 127.0.0.2") && words.contains("from 127.0.0.1/32"), "{words}");
    assert!(site.run(&["status"]).out.contains("clawgate token revoke pump-3"));
    let metrics = is_told_everywhere(&site, "off_allow_list");
    let line = until("the audit line", || site.audit().into_iter().find(|line| line["action"] == "alarm.raise"));
    assert_eq!((&line["subject"], &line["details"]["kind"]), (&json!("pump-3"), &json!("off_allow_list")));
    let before = confirmed(&device(&site).unwrap());
    device_when(&site, "the device goes on", |device| confirmed(device) > before);
    assert!(!site.log().contains(&token) && !metrics.contains(&token));
}

#[test]
fn a_device_of_another_stage_is_not_served_and_says_why() {
    let site = site("");
    let mut sensor = site.thermometer("bench", &[]);
    let daemon = site.start();
    site.pair("bench", &mut sensor).ok();
    let status = site.status();
    assert_eq!(status["stage"], "prod");
    assert!(!status["issuer"].as_str().unwrap().ends_with("/dev"));
    let key_of_prod = issuer_says(&status, "/jwks")["keys"][0]["kid"].clone();
    let refused = site.run(&["code", "new", "--stage", "dev"]);
    assert!(refused.code == 2 && refused.err.contains("of the stage dev, this gateway of prod"), "{refused:?}");
    assert_eq!(daemon.stop(), 0);

    configure(&site, "[gateway]\nstage = \"dev\"\n");
    let daemon = site.start();
    let held = held(&site);
    assert_eq!(held["stage"], "prod", "{held}");
    let why = held["token"]["reason"].as_str().unwrap();
    assert!(why.contains("paired for the stage prod, and this gateway is of dev: pair it again here"), "{why}");
    assert_eq!(held["relay"]["confirmed"], 0);
    let status = site.run(&["status", "--json"]);
    assert_eq!(status.code, 8, "{status:?}");
    let status = status.json();
    assert!(status["issuer"].as_str().unwrap().ends_with("/dev"));
    assert_ne!(issuer_says(&status, "/jwks")["keys"][0]["kid"], key_of_prod);
    let metadata = issuer_says(&status, "/.well-known/oauth-authorization-server/dev");
    assert_eq!(metadata["issuer"], status["issuer"]);
    let made = site.run(&["code", "new", "--json"]).ok().json();
    let shown = site.run(&["code", "show", made["id"].as_str().unwrap(), "--json"]).ok().json();
    assert_eq!(shown["stage"], "dev");
    assert_eq!(daemon.stop(), 0);

    // The same audience in both stages is found before anything starts.
    configure(&site, "[gateway]\nstage = \"prod\"\n");
    let shared =
        std::fs::read_to_string(site.config()).unwrap().replace("[issuer]\n", "[issuer]\naudience = \"shed\"\n");
    std::fs::write(site.config(), &shared).unwrap();
    assert_eq!(site.start().stop(), 0);
    std::fs::write(site.config(), shared.replace("\"prod\"", "\"staging\"")).unwrap();
    let check = site.run(&["config", "check", "--config", site.config().to_str().unwrap()]);
    assert!(check.code == 78 && check.err.contains("issuer.audience: shed is that of the stage prod"), "{check:?}");
    assert_eq!(site.start_with(|_| {}).ended(), 78);
}

#[test]
fn limits_of_a_code_stand_in_its_record_and_in_the_audit_log_and_bad_ones_are_refused() {
    let site = site("");
    let _daemon = site.start();
    let wanted =
        ["--allow-address", "192.0.2.0/24", "--allow-address", "2001:db8::/32", "--rate", "5", "--idle", "20s"];
    let more = [
        "--label",
        "north shed",
        "--ttl",
        "1m",
        "--scope",
        "command:read",
        "--scope",
        "claw/command:read,telemetry:write",
        "--sensor",
        "th-1",
        "--json",
    ];
    let made = site.run(&[&["code", "new"], &wanted[..], &more[..]].concat()).ok().json();
    let id = made["id"].as_str().unwrap();
    let code = site.run(&["code", "show", id, "--json"]).ok().json();
    for (field, value) in [
        ("addresses", json!(["192.0.2.0/24", "2001:db8::/32"])),
        ("per_second", json!(5)),
        ("idle_s", json!(20)),
        ("ttl_s", json!(60)),
        ("scopes", json!(["command:read", "telemetry:write"])),
        ("label", json!("north shed")),
    ] {
        assert_eq!(code[field], value, "{field}");
    }
    let text = site.run(&["code", "show", id]).ok().out;
    assert!(!text.contains(made["code"].as_str().unwrap()), "a code is shown once");
    let line = site.audit().into_iter().find(|line| line["action"] == "code.new").unwrap();
    assert_eq!(line["details"]["limits"], json!({"addresses": ["192.0.2.0/24", "2001:db8::/32"], "per_second": 5}));
    let said = site.run(&["code", "new", "--ttl", "10m", "--idle", "2m"]).ok().out;
    assert!(said.contains("lives 10:00 (void after 2:00 if no sensor claims it)"), "{said}");
    assert_eq!(made["idle_s"], 20, "{made}");
    site.run(&["code", "revoke", id, "--why", "lost"]).ok();
    let ended = site.run(&["code", "show", id, "--json"]).ok().json();
    assert_eq!(ended["ended_why"], "lost");
    assert!(ended["ended_by"].as_str().unwrap().contains("uid") && ended["ended_at"].is_string(), "{ended}");
    for (bad, words) in [
        (&["--allow-address", "192.0.2.7/24"], "did you mean 192.0.2.0/24?"),
        (&["--rate", "0"], "at least 1 publish"),
        (&["--scope", "other/telemetry:write"], "for the service \"claw\""),
        (&["--scope", "command:read"], "can send nothing"),
        (&["--idle", "1d"], "choose --idle"),
        (&["--ttl", "1500ms"], "whole seconds"),
        (&["--idle", "20ms"], "whole seconds"),
        (&["--ttl", "2d"], "1 s to 1 day"),
        (&["--sensor", ""], "is no sensor's id"),
        (&["--sensor", "TH-1"], "1 to 32 of a-z"),
    ] {
        let refused = site.run(&[&["code", "new"], &bad[..]].concat());
        assert!(refused.code == 2 && refused.err.contains(words), "{bad:?}: {refused:?}");
    }
}

#[test]
fn a_code_that_no_sensor_claims_within_its_idle_time_is_over_and_who_comes_after_is_refused() {
    let site = site("");
    let mut sensor = site.thermometer("bench", &[]);
    let _daemon = site.start();
    let new = |idle: &str| {
        let new = ["code", "new", "--device", "pump-3", "--ttl", "10m", "--idle", idle, "--json"];
        let made = site.run(&new).ok().json();
        (made["id"].as_str().unwrap().to_owned(), made["code"].as_str().unwrap().to_owned())
    };
    let shown = |id: &str| site.run(&["code", "show", id, "--json"]).ok().json();
    let (lonely, text) = new("1s");
    let over = until("its idle time is over", || Some(shown(&lonely)).filter(|code| code["state"] == "expired"));
    assert_eq!(over["ended_why"], "no sensor claimed it within its idle time", "{over}");
    assert!(over["ended_by"] == "the gateway" && over["left_s"].is_null(), "{over}");
    let row = site.run(&["code", "ls"]).ok().out.lines().find(|line| line.starts_with(&lonely)).unwrap().to_owned();
    assert_eq!(row.split_whitespace().nth(1), Some("expired"), "{row}");
    let told = site.run(&["code", "explain", &lonely]).ok().out;
    assert!(told.contains("(1 s after ") && told.contains("no sensor had claimed it, never used"), "{told}");
    assert!(told.contains("clawgate code new --device pump-3"), "{told}");

    sensor.say(&format!("code {text}"));
    until("its window is seen", || {
        site.run(&["scan", "--for", "100ms", "--json"]).out.contains("issued").then_some(())
    });
    assert_eq!(device(&site), None);
    // Another code, at the same sensor: the first one began nothing.
    let (used, text) = new("5m");
    sensor.say(&format!("code {text}"));
    device_when(&site, "readings flow", |device| device["relay"]["confirmed"].as_u64() > Some(2));
    until("its code is used", || (shown(&used)["state"] == "used").then_some(()));
    assert_eq!(shown(&lonely)["state"], "expired");
    let is_line = |line: &Value| line["action"] == "code.used";
    until("and says so in the audit log", || site.audit().iter().any(is_line).then_some(()));
    assert_eq!(shown(&lonely)["attempts_taken"], 0);
    let audit = site.audit();
    let of = |id: &str| -> Vec<&str> {
        let lines = audit.iter().filter(|line| line["subject"] == id);
        lines.map(|line| line["action"].as_str().unwrap()).collect()
    };
    assert_eq!(of(&lonely), ["code.new", "code.expire"]);
    assert!(of(&used).ends_with(&["code.claim", "code.attempt", "code.used"]), "{:?}", of(&used));
    let line = audit.iter().find(|line| line["action"] == "code.expire").unwrap();
    assert_eq!((&line["reason"], &line["actor"]["kind"]), (&over["ended_why"], &json!("daemon")));
}

#[test]
fn a_token_off_its_allow_list_delivers_nothing_and_is_an_alarm() {
    let site = site("");
    let mut sensor = site.thermometer("bench", &["--device", "th-0815"]);
    let _daemon = site.start();
    // No address of this machine is in it.
    let wanted = ["--sensor", "th-0815", "--device", "pump-3", "--allow-address", "192.0.2.0/24", "--json"];
    let code = site.run(&[&["code", "new"], &wanted[..]].concat()).ok().json()["code"].as_str().unwrap().to_owned();
    sensor.say(&format!("code {code}"));
    let alarm = until("the alarm is raised", || {
        let alarms = site.status()["alarms"].clone();
        alarms.as_array()?.iter().find(|alarm| alarm["kind"] == "off_allow_list").cloned()
    });
    assert_eq!(alarm["subject"], "pump-3");
    assert!(alarm["words"].as_str().unwrap().contains("192.0.2.0/24"), "{alarm}");
    assert!(alarm["next_step"].as_str().unwrap().contains("--allow-address"), "{alarm}");
    let device = device_when(&site, "its readings wait", |device| device["waiting"].as_u64() > Some(0));
    assert_eq!(device["relay"]["confirmed"], 0, "{device}");
    is_told_everywhere(&site, "off_allow_list");
    until("the audit line", || {
        site.audit().into_iter().find(|line| line["details"]["kind"] == "off_allow_list" && line["subject"] == "pump-3")
    });
    let text = site.run(&["status"]).out;
    let words = text.lines().skip_while(|line| !line.starts_with("alarm")).nth(1);
    assert!(
        words.is_some_and(|line| line.starts_with("           ")),
        "what to do stands on a line of its own: {text}"
    );
}
