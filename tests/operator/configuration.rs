//! The configuration in force as an operator sees it, and the way back from what commands laid over the files.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::site::{STRANGER, Site, end, until};

const FILES: &str = "mode = \"standalone\"\n[log]\nlevel = \"warn\"\n[pairing]\nttl = \"5m\"\n\
                     [standalone]\nlisten = \"127.0.0.1:0\"\n";

/// As a signed command leaves it; the daemon must not run.
fn lay(site: &Site, key: &str, value: &str) {
    let db = rusqlite::Connection::open(site.path("state/state.db")).unwrap();
    let by = "the cloud (key ops), command c2f1-1";
    let row = rusqlite::params![key, json!(value).to_string(), by, 1_764_000_000_000_i64];
    db.execute("INSERT INTO overlay (key, value, made_by, made_ms) VALUES (?1, ?2, ?3, ?4)", row).unwrap();
}

fn key(site: &Site, name: &str) -> Value {
    let shown = site.run(&["config", "show", "--json"]).ok().json();
    let keys = shown["keys"].as_array().unwrap();
    keys.iter().find(|key| key["key"] == name).unwrap_or_else(|| panic!("{name}: {shown}")).clone()
}

#[test]
fn what_a_command_changed_is_shown_with_its_origin_and_taken_away_here() {
    let site = Site::standalone("");
    site.configure(FILES);
    let drop_in = site.path("conf.d/ttl.toml");
    fs::create_dir(site.path("conf.d")).unwrap();
    fs::write(&drop_in, "[pairing]\nttl = \"6m\"\n").unwrap();
    let daemon = site.start();
    daemon.stop();
    lay(&site, "pairing.ttl", "7m");
    lay(&site, "log.level", "debug");
    let daemon = site.start();

    let ttl = key(&site, "pairing.ttl");
    assert_eq!(
        (&ttl["value"], &ttl["from"], &ttl["beneath"]),
        (&json!("7m"), &json!("command"), &json!("6m")),
        "{ttl}"
    );
    assert_eq!(ttl["file"], json!(drop_in.display().to_string()), "the later file");
    assert_eq!(
        (&ttl["by"], &ttl["at"]),
        (&json!("the cloud (key ops), command c2f1-1"), &json!("2025-11-24T16:00:00Z"))
    );
    let attempts = key(&site, "pairing.attempts");
    assert_eq!((&attempts["value"], &attempts["from"]), (&json!(3), &json!("default")), "{attempts}");
    let words = site.run(&["config", "show"]).ok().out;
    let line = words.lines().find(|line| line.starts_with("pairing.ttl")).unwrap();
    assert!(line.contains("command c2f1-1") && line.contains("without it \"6m\""), "{line}");

    // The files say something else now: what a restart would change is told, and what is refused.
    site.configure(&FILES.replace("mode = \"standalone\"", "mode = \"standalone\"\n[spool]\ncommit_ms = 50"));
    assert_eq!(key(&site, "spool.commit_ms")["waiting"], json!(50));
    site.configure(&format!("{FILES}[nonsense]\n"));
    let shown = site.run(&["config", "show", "--json"]).ok().json();
    assert!(shown["refused"].as_str().unwrap().contains("nonsense"), "{shown}");
    let refused = site.run(&["config", "unset", "--all", "--json"]);
    assert!(refused.json()["message"].as_str().unwrap().contains("nonsense"), "{refused:?}");
    site.configure(FILES);
    assert_eq!(key(&site, "pairing.ttl")["value"], "7m", "a refusal leaves all as it was");

    // Only an admin takes it away.
    let program = site.program_for_all();
    fs::set_permissions(site.socket(), fs::Permissions::from_mode(0o666)).unwrap();
    let socket = site.socket().display().to_string();
    site.configure(&format!(
        "{FILES}[control]\nsocket = {socket:?}\n[control.roles]\noperator = [\"uid:{STRANGER}\"]\n"
    ));
    daemon.signal(Signal::HUP);
    let as_stranger = |args: &[&str]| end(site.command(&program, args).uid(STRANGER).gid(STRANGER));
    until("an operator may look", || (as_stranger(&["config", "show"]).code == 0).then_some(()));
    let refused = as_stranger(&["config", "unset", "--all"]);
    assert!(refused.err.contains("needs the role admin"), "{refused:?}");

    let unset = |args: &[&str]| site.run(&[&["config", "unset", "--json"], args].concat()).ok().json()["unset"].clone();
    assert_eq!(unset(&["pairing.ttl"]), json!(["pairing.ttl"]));
    assert_eq!(unset(&["pairing.ttl"]), json!([]), "twice is once");
    let ttl = key(&site, "pairing.ttl");
    assert_eq!((&ttl["value"], &ttl["from"], &ttl["by"]), (&json!("6m"), &json!("file"), &Value::Null), "{ttl}");
    assert_eq!(key(&site, "log.level")["value"], "debug", "the other one stays");
    assert_eq!(unset(&["--all"]), json!(["log.level"]));
    assert_eq!(site.run(&["status", "--json"]).ok().json()["overlay"], json!([]));
    let unknown = site.run(&["config", "unset", "broker.url"]);
    assert_eq!(unknown.code, 2, "{unknown:?}");
    assert!(unknown.err.contains("no key that a command can change"), "{unknown:?}");
    assert_eq!(site.run(&["config", "unset"]).code, 2, "one key, or all of them");
    let lines: Vec<Value> = site.audit().into_iter().filter(|line| line["action"] == "config.unset").collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!((&lines[0]["subject"], &lines[1]["details"]["keys"]), (&json!("pairing.ttl"), &json!(["log.level"])));
    assert_eq!(lines[0]["actor"]["kind"], "uid", "{lines:?}");

    // And it stays away.
    drop(daemon);
    let _daemon = site.start();
    assert_eq!(key(&site, "log.level")["value"], "warn");
}

#[test]
fn no_secret_is_shown_of_the_configuration() {
    let site = Site::standalone("");
    site.configure(&format!(
        "{FILES}[vault]\nurl = \"https://kim:canary-7c1f@vault.example\"\ntoken = \"credential:vault\"\n"
    ));
    let _daemon = site.start();
    let shown = site.run(&["config", "show", "--json"]).ok();
    assert!(!shown.out.contains("canary"), "{}", shown.out);
    assert_eq!(key(&site, "vault.url")["value"], "https://***@vault.example");
    assert_eq!(key(&site, "vault.token")["value"], "credential:vault", "the place, not the secret");
}
