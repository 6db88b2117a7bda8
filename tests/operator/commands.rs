//! Verbs, their exit codes, and what goes to which stream.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::site::{Site, end, until};

#[test]
fn a_wrong_command_line_exits_2_and_no_daemon_exits_1_with_the_next_step() {
    let site = Site::standalone("");
    assert_eq!(site.run(&["pair"]).code, 2);
    assert_eq!(site.run(&["frobnicate"]).code, 2);
    let ended = site.run(&["status"]);
    assert_eq!(ended.code, 1);
    assert!(ended.out.is_empty() && ended.err.contains("No clawgate answers at"), "{ended:?}");
    assert!(ended.err.contains("systemctl start clawgate"), "{ended:?}");
    assert_eq!(site.run(&["status", "--json"]).json()["code"], "no_daemon");
}

#[test]
fn a_code_is_never_an_argument() {
    let site = Site::standalone("");
    assert_eq!(site.run(&["pair", "bench", "K7QF-3M9X"]).code, 2);
    assert_eq!(site.run(&["pair", "bench", "--code", "K7QF-3M9X"]).code, 2);
}

#[test]
fn a_typo_is_said_before_the_daemon_hears_of_it() {
    let site = Site::standalone("");
    for (typed, words) in [
        ("K7QF-3M9U", "Symbol 8 is not used"),
        ("K7QF-3M9", "has 8 symbols, this has 7"),
        ("AAAA-AAAA", "check symbol does not fit"),
    ] {
        let ended = site.run_with(&["pair", "bench"], typed);
        assert_eq!(ended.code, 4, "{ended:?}");
        assert!(ended.err.contains(words) && ended.err.contains("No attempt was used"), "{ended:?}");
    }
    let nothing = site.run(&["pair", "bench"]);
    assert_eq!(nothing.code, 2, "{nothing:?}");
}

#[test]
fn a_configuration_is_checked_with_file_line_and_key() {
    let site = Site::standalone("");
    let path = site.config();
    let check = |json: &[&str]| {
        let args = [&["config", "check", "--config", path.to_str().unwrap()], json].concat();
        site.run(&args)
    };
    assert_eq!(check(&["--json"]).ok().json()["ok"], true);
    fs::write(&path, "mode = \"standalone\"\n[spool]\ncomit_ms = 5\n").unwrap();
    let refused = check(&[]);
    assert_eq!(refused.code, 78);
    assert!(refused.err.contains("clawgate.toml:3: ") && refused.err.contains("commit_ms"), "{refused:?}");
    assert_eq!(check(&["--json"]).json()["ok"], false);
    let absent =
        "mode = \"standalone\"\n[cloud.command_keys.ops]\npublic_key = \"/nowhere/ops.pem\"\ncommands = [\"revoke\"]\n";
    fs::write(&path, absent).unwrap();
    let refused = check(&[]);
    assert_eq!(refused.code, 78);
    assert!(refused.err.contains("cloud.command_keys.ops") && refused.err.contains("/nowhere/ops.pem"), "{refused:?}");
}

/// What the daemon would meet only after its start, and what it would run with although nobody can mean it so.
#[test]
fn a_configuration_is_refused_for_what_would_fail_later_and_warned_of_for_what_is_open() {
    let site = Site::standalone("");
    let path = site.config();
    let check = |text: &str| {
        fs::write(&path, format!("state_dir = {:?}\n{text}", site.path("state").display().to_string())).unwrap();
        site.run(&["config", "check", "--config", path.to_str().unwrap(), "--json"])
    };
    let oauth = |url: &str| {
        format!(
            "[broker]\nurl = \"mqtt://127.0.0.1\"\n[issuer]\nkind = \"oauth\"\nclient_key = \"/k\"\nurl = \"{url}\"\n"
        )
    };
    for (text, words) in [
        ("mode = \"standalone\"\n[issuer]\npublish_dir = \"/nowhere\"\n", "issuer.publish_dir: /nowhere: is not there"),
        ("[broker]\nurl = \"mqtt://127.0.0.1\"\nclient_cert = \"/c\"\n", ":4: broker.client_cert: is never shown"),
        ("[broker]\nurl = \"mqtt://127.0.0.1\"\nclient_key = \"/k\"\n", ":4: broker.client_key: is never shown"),
        ("[broker]\nurl = \"mqtt://127.0.0.1:\"\n", ":3: broker.url: "),
        (&oauth("https://id.example:"), ":7: issuer.url: "),
        ("mode = \"standalone\"\n[metrics]\nlisten = \"127.0.0.1:1883\"\n", ":4: metrics.listen: "),
    ] {
        let refused = check(text);
        let error = refused.json()["error"].as_str().unwrap_or_default().to_owned();
        assert!(refused.code == 78 && error.contains(words), "{words}: {refused:?}");
    }
    let open = check("[broker]\nurl = \"mqtt://broker.example\"\n").ok().json();
    assert!(open["ok"] == true && open["warnings"][0].as_str().unwrap().starts_with("broker.url: mqtt://"), "{open}");
    let here = check("[broker]\nurl = \"mqtt://localhost\"\n").ok().json();
    assert_eq!(here["warnings"], serde_json::json!([]));
}

/// Whatever key the configuration names, and wherever: the daemon need not start for it to be found.
#[test]
fn a_key_that_can_be_none_is_found_before_the_start() {
    let site = Site::standalone("");
    let path = site.config();
    let (none, ca) = (site.path("none.pem"), site.path("ca.pem"));
    fs::write(&none, "no key").unwrap();
    fs::set_permissions(&none, fs::Permissions::from_mode(0o600)).unwrap();
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "9"])
        .args(["-subj", "/CN=ca", "-keyout", "/dev/null", "-out"])
        .arg(&ca)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let tls = |host: &str| format!("[broker]\nurl = \"mqtts://{host}\"\nca = {:?}\n", ca.display().to_string());
    let aws = format!(
        "{}profile = \"aws-iot\"\nauthorizer = \"claw\"\nauthorizer_token = \"t\"\nauthorizer_key = ",
        tls("x.iot.eu-west-1.amazonaws.com:443")
    );
    let hub = tls("contoso.azure-devices.net")
        + "profile = \"azure-iot-hub\"\n[issuer]\nkind = \"azure-sas\"\ndevice_keys = ";
    let subscriber = "mode = \"standalone\"\n[standalone.subscribers.dash]\ntopics = [\"claw/v1/#\"]\npublic_key = ";
    let master = "mode = \"standalone\"\nmaster_key = ";
    for (text, key) in [
        (aws.as_str(), "broker.authorizer_key: "),
        (hub.as_str(), "issuer.device_keys: "),
        (subscriber, "standalone.subscribers.dash.public_key "),
        (master, "master_key: "),
    ] {
        for file in [Path::new("/nowhere/key"), &none] {
            let file = file.display().to_string();
            let state = site.path("state").display().to_string();
            fs::write(&path, format!("state_dir = {state:?}\n{text}{file:?}\n")).unwrap();
            let refused = site.run(&["config", "check", "--config", path.to_str().unwrap(), "--json"]);
            let error = refused.json()["error"].as_str().unwrap_or_default().to_owned();
            assert!(refused.code == 78 && error.contains(key) && error.contains(&file), "{key} {refused:?}");
            assert_eq!(error.matches(key.trim_end_matches(": ")).count(), 1, "{error}");
        }
    }
}

#[test]
fn every_verb_is_in_completions_and_manual() {
    let site = Site::standalone("");
    let help = site.run(&["--help"]).ok().out;
    let verbs: Vec<&str> = help
        .lines()
        .skip_while(|line| !line.starts_with("Commands:"))
        .skip(1)
        .take_while(|line| line.starts_with("  "))
        .filter(|line| !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(verbs.len() > 14, "{verbs:?}");
    for shell in ["bash", "zsh", "fish"] {
        let completions = site.run(&["completions", shell]).ok().out;
        assert!(verbs.iter().all(|verb| completions.contains(verb)), "{shell}");
    }
    let manual = site.run(&["man"]).ok().out.replace("\\-", "-");
    assert!(verbs.iter().all(|verb| manual.contains(verb)));
    let dir = site.path("man");
    fs::create_dir(&dir).unwrap();
    site.run(&["man", "--dir", dir.to_str().unwrap()]).ok();
    assert!(verbs.iter().filter(|verb| **verb != "help").all(|verb| dir.join(format!("clawgate-{verb}.1")).exists()));
}

#[test]
fn a_sensor_is_found_paired_named_and_let_go() {
    let site = Site::standalone("");
    site.configure(&format!("mode = \"standalone\"\n{}[standalone]\nlisten = \"127.0.0.1:0\"\n", site.line("bench")));
    let mut sensor = site.sensor("bench");
    let _daemon = site.start();

    let paired = site.pair("bench", &mut sensor);
    assert_eq!(paired.code, 0, "{paired:?}");
    // Progress goes to standard error, the result to standard output, and no colour where nobody sees it.
    for stage in ["connect", "key exchange", "confirm", "token", "first reading"] {
        assert!(paired.err.contains(stage), "{paired:?}");
    }
    assert!(paired.out.starts_with("bench is paired. Fingerprint "), "{paired:?}");
    assert!(!paired.err.contains('\x1b') && !paired.out.contains('\x1b'), "{paired:?}");

    let devices = site.run(&["devices", "ls", "--json"]).ok().json();
    assert_eq!(devices[0]["id"], "bench");
    assert_eq!(devices[0]["token"]["state"], "valid");
    assert_eq!(site.run(&["devices", "show", "nobody"]).code, 3);
    assert_eq!(site.run(&["devices", "rename", "bench", "Not A Name"]).code, 2);
    site.run(&["devices", "rename", "bench", "pump-3"]).ok();
    until("the session goes by the new name", || (site.status()["ports"][0]["device"] == "pump-3").then_some(()));

    let before = site.run(&["devices", "show", "pump-3", "--json"]).ok().json()["token"]["jti"].clone();
    site.run(&["token", "rotate", "pump-3"]).ok();
    let after = site.run(&["token", "ls", "--json"]).ok().json();
    assert_ne!(after[0]["jti"], before);
    assert_eq!(site.run(&["token", "rotate", "nobody"]).code, 3);
    until("readings are confirmed", || site.status()["devices"][0]["relay"]["confirmed"].as_u64().filter(|n| *n > 3));

    site.run(&["identify", "bench"]).ok();
    assert_eq!(site.run(&["identify", "nobody"]).code, 3);
    let gone = site.run(&["unpair", "pump-3"]).ok();
    assert!(gone.out.contains("the sensor erased its key too"), "{gone:?}");
    assert_eq!(site.run(&["unpair", "pump-3"]).code, 3);
    assert!(site.run(&["devices", "ls"]).ok().out.contains("No device is paired"));
}

#[test]
fn a_wrong_code_exits_4_and_a_revoked_token_degrades() {
    let site = Site::standalone("");
    site.configure(&format!("mode = \"standalone\"\n{}[standalone]\nlisten = \"127.0.0.1:0\"\n", site.line("bench")));
    let mut sensor = site.sensor("bench");
    let _daemon = site.start();

    site.open_window("bench", &mut sensor);
    let other = site.run(&["code", "new", "--json"]).ok().json()["code"].as_str().unwrap().to_owned();
    let wrong = site.run_with(&["pair", "bench", "--name", "pump", "--json"], &other);
    assert_eq!(wrong.code, 4, "{wrong:?}");
    let lines: Vec<Value> = wrong.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = lines.last().unwrap();
    assert_eq!((&last["event"], &last["cause"]), (&"failed".into(), &"wrong_code".into()));
    assert!(!last["next_step"].as_str().unwrap().is_empty());
    // The sensor makes the next guess wait.
    let right = until("the sensor takes the next try", || {
        let mut command = site.command(Path::new(env!("CARGO_BIN_EXE_clawgate")), &["pair", "bench", "--name", "pump"]);
        let ended = end(command.env("OPENCLAW_PAIRING_CODE", &sensor.label));
        (ended.code == 0).then_some(ended)
    });
    assert!(right.out.contains("pump is paired"), "{right:?}");

    assert_eq!(site.run(&["status"]).code, 0);
    site.run(&["token", "revoke", "pump", "--why", "stolen"]).ok();
    let status = until("the gateway is degraded", || Some(site.run(&["status"])).filter(|ended| ended.code == 8));
    assert!(status.out.contains("token revoked: stolen. It is cut off"), "{status:?}");
    // Asked again: the reason stands, and what a person can do is said.
    site.run(&["token", "revoke", "pump"]).ok();
    let token = site.run(&["token", "ls", "--json"]).ok().json()[0].clone();
    assert_eq!(token["reason"], "stolen", "{token}");
    assert!(token["next_step"].as_str().unwrap().contains("clawgate pair pump"), "{token}");
}

#[test]
fn a_code_tells_its_story() {
    let site = Site::standalone("");
    let _daemon = site.start();
    let made =
        site.run(&["code", "new", "--label", "line 3", "--ttl", "5m", "--device", "pump-3", "--json"]).ok().json();
    let id = made["id"].as_str().unwrap();
    let shown = site.run(&["code", "new", "--sensor", "th-77"]).ok().out;
    assert!(shown.contains('█') && shown.contains("lives 1:00, 3 attempts"), "{shown}");
    let listed = site.run(&["code", "ls", "--json"]).ok();
    assert!(!listed.out.contains(made["code"].as_str().unwrap()), "a code is told once");
    assert_eq!(listed.json().as_array().unwrap().len(), 2);

    assert!(site.run(&["code", "explain", id]).ok().out.contains("Live for another"));
    site.run(&["code", "revoke", id, "--why", "lost the note"]).ok();
    let told = site.run(&["code", "explain", id]).ok().out;
    assert!(
        told.contains("Revoked at") && told.contains("lost the note") && told.contains("clawgate code new"),
        "{told}"
    );
    assert!(site.run(&["code", "revoke", id]).ok().out.contains("already: it is revoked"));
    assert_eq!(site.run(&["code", "explain", "ocpc_nothing"]).code, 3);
    assert_eq!(site.run(&["code", "new", "--ttl", "2d"]).code, 2);
    assert_eq!(site.run(&["code", "new", "--scope", "everything"]).code, 2);
}

#[test]
fn the_audit_log_is_verified_without_the_daemon() {
    let site = Site::standalone("");
    let daemon = site.start();
    site.run(&["code", "new"]).ok();
    let tail = site.run(&["audit", "tail", "--json"]).ok().json();
    assert_eq!(tail.as_array().unwrap().last().unwrap()["action"], "code.new");
    let export = site.run(&["audit", "export"]).ok().out;
    assert!(
        export.lines().count() >= 3 && export.lines().all(|l| serde_json::from_str::<Value>(l).is_ok()),
        "{export}"
    );
    assert_eq!(daemon.stop(), 0);

    let state = site.path("state");
    let verify = || site.run(&["audit", "verify", "--json", "--state-dir", state.to_str().unwrap()]);
    assert_eq!(verify().ok().json()["findings"], Value::Array(Vec::new()));
    let file = fs::read_dir(state.join("audit")).unwrap().map(|f| f.unwrap().path());
    let file = file.into_iter().find(|f| fs::read_to_string(f).unwrap().contains("code.new")).unwrap();
    let text = fs::read_to_string(&file).unwrap().replacen("code.new", "code.old", 1);
    fs::write(&file, text).unwrap();
    let changed = verify();
    assert_eq!(changed.code, 1);
    assert!(!changed.json()["findings"].as_array().unwrap().is_empty());
    assert_eq!(site.run(&["audit", "verify", "--state-dir", "/nonexistent"]).code, 3);
}

#[test]
fn a_port_that_is_absent_is_said_with_what_to_do() {
    let site = Site::standalone("");
    site.configure(&format!("mode = \"standalone\"\n{}[standalone]\nlisten = \"127.0.0.1:0\"\n", site.line("gone")));
    let _daemon = site.start();
    let status = site.run(&["status"]);
    assert_eq!(status.code, 8, "{status:?}");
    assert!(status.out.contains("gone: absent: plug the device in"), "{status:?}");
    // It is taken as soon as it is there, without a restart.
    let _sensor = site.sensor("gone");
    until("the port is open", || (site.run(&["status"]).code == 0).then_some(()));
}
