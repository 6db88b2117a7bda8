//! `key ls` and `key rotate`: a new key in place of an old one, while readings go on.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::site::{Site, until};

/// Ids of the published keys.
fn published(site: &Site) -> BTreeSet<String> {
    let issuer = site.status()["issuer"].as_str().unwrap().to_owned();
    let text = ureq::get(format!("{issuer}/jwks")).call().unwrap().body_mut().read_to_string().unwrap();
    let keys: Value = serde_json::from_str(&text).unwrap();
    keys["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

fn keys(site: &Site, kind: &str) -> Vec<Value> {
    let keys = site.run(&["key", "ls", "--json"]).ok().json();
    keys.as_array().unwrap().iter().filter(|key| key["kind"] == kind).cloned().collect()
}

fn in_use(site: &Site, kind: &str) -> String {
    let id = |key: &Value| (key["state"] == "in_use").then(|| key["id"].as_str().unwrap().to_owned());
    keys(site, kind).iter().find_map(id).unwrap()
}

fn device(site: &Site) -> Value {
    site.status()["devices"][0].clone()
}

fn confirmed(site: &Site) -> u64 {
    device(site)["relay"]["confirmed"].as_u64().unwrap()
}

fn jti(site: &Site) -> String {
    device(site)["token"]["jti"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn the_issuers_key_is_changed_under_traffic_and_over_a_restart() {
    let site = Site::standalone("");
    site.configure(&format!(
        "mode = \"standalone\"\n{}[standalone]\nlisten = \"127.0.0.1:0\"\n[keys]\nissuer_lead = \"10s\"\n",
        site.line("line1")
    ));
    let daemon = site.start();
    let mut sensor = site.thermometer("line1", &[]);
    site.pair("line1", &mut sensor).ok();
    let (old, token) = (in_use(&site, "issuer"), jti(&site));
    assert_eq!(published(&site), BTreeSet::from([old.clone()]));

    let rotated = site.run(&["key", "rotate", "issuer", "--json"]).ok().json();
    let new = rotated["id"].as_str().unwrap().to_owned();
    // Published, and not signing yet.
    assert_eq!(published(&site), BTreeSet::from([old.clone(), new.clone()]));
    let again = site.run(&["key", "rotate", "issuer"]);
    assert!(again.code == 1 && again.err.contains("published already"), "{again:?}");
    until("the new key signs", || (in_use(&site, "issuer") == new).then_some(()));
    until("the device has a token under it", || (jti(&site) != token).then_some(()));
    let before = confirmed(&site);
    until("readings go on", || (confirmed(&site) > before + 5).then_some(()));
    assert_eq!(device(&site)["relay"]["refused"], 0);
    assert_eq!(published(&site), BTreeSet::from([old.clone(), new.clone()]), "the old key still has tokens");
    for action in ["key.rotate", "key.in_use"] {
        let is_it = |line: &Value| line["action"] == action && line["details"]["id"] == new;
        until(action, || site.audit().iter().any(is_it).then_some(()));
    }

    // kill -9.
    drop(daemon);
    let _daemon = site.start();
    assert_eq!(in_use(&site, "issuer"), new);
    assert_eq!(published(&site), BTreeSet::from([old.clone(), new.clone()]));
    until("readings go on", || (confirmed(&site) > 5).then_some(()));

    // Somebody else may know it: it goes with all before it, and the device is back with another token.
    let token = jti(&site);
    let newest =
        site.run(&["key", "rotate", "issuer", "--now", "--json"]).ok().json()["id"].as_str().unwrap().to_owned();
    assert_eq!(published(&site), BTreeSet::from([newest]));
    until("the device has a token under it", || {
        let device = device(&site);
        (device["token"]["state"] == "valid" && jti(&site) != token).then_some(())
    });
    let before = confirmed(&site);
    until("readings go on", || (confirmed(&site) > before + 5).then_some(()));
}

#[test]
fn the_keys_of_the_gateway_itself_are_changed_while_it_runs() {
    let site = Site::standalone("");
    site.configure(&format!(
        "mode = \"standalone\"\n{}[standalone]\nlisten = \"127.0.0.1:0\"\n[keys]\ngateway = \"30d\"\n",
        site.line("line1")
    ));
    let daemon = site.start();
    let mut sensor = site.thermometer("line1", &[]);
    site.pair("line1", &mut sensor).ok();
    let month = keys(&site, "gateway")[0]["rotates_in_s"].as_u64().unwrap();
    assert!((29 * 86_400..=30 * 86_400).contains(&month), "{month}");

    // New session keys, while readings go on.
    let handshakes = || {
        let address = site.status()["metrics"].as_str().unwrap().to_owned();
        let text = ureq::get(address).call().unwrap().body_mut().read_to_string().unwrap();
        let line = text.lines().find(|line| line.starts_with("clawgate_session_handshakes_total")).unwrap().to_owned();
        line.split_whitespace().last().unwrap().parse::<u64>().unwrap()
    };
    let before = handshakes();
    let said = site.run(&["key", "rotate", "device", "line1"]).ok().out;
    assert!(said.contains("new session keys now") && said.contains("clawgate pair line1"), "{said}");
    until("the session is under new keys", || (handshakes() > before).then_some(()));
    assert_eq!(site.run(&["key", "rotate", "device", "nobody"]).code, 3);

    // The master key, and the static key: what is there keeps its own.
    let (master, own) = (in_use(&site, "master"), in_use(&site, "gateway"));
    let file = std::fs::read(site.path("state/master.key")).unwrap();
    let newer = site.run(&["key", "rotate", "master", "--json"]).ok().json()["id"].clone();
    assert!(newer != master && in_use(&site, "master") == newer);
    assert!(std::fs::read(site.path("state/master.key")).unwrap() != file);
    site.run(&["key", "rotate", "gateway"]).ok();
    let retired = |site: &Site| keys(site, "gateway").iter().filter(|key| key["state"] == "retired").count();
    assert!(in_use(&site, "gateway") != own && retired(&site) == 1);

    // The audit log: who pinned the first key follows it to the one in use.
    let pinned = in_use(&site, "audit");
    site.run(&["key", "rotate", "audit"]).ok();
    assert!(in_use(&site, "audit") != pinned);
    let state = site.path("state").display().to_string();
    let verify = |key: &str| site.run(&["audit", "verify", "--state-dir", &state, "--key", key]);
    verify(&pinned).ok();
    assert_ne!(verify(&"0".repeat(64)).code, 0);

    drop(daemon);
    let _daemon = site.start();
    verify(&pinned).ok();
    assert!(in_use(&site, "master") == newer && retired(&site) == 1);
    until("readings go on", || (confirmed(&site) > 5).then_some(()));
    // Paired again, without its button: the last pairing under the old static key is gone, and the key with it.
    let again = site.run_with(&["pair", "line1", "--name", "line1"], &sensor.label).ok();
    assert!(again.err.contains("paired") || again.out.contains("line1"), "{again:?}");
    until("the old static key is gone", || (retired(&site) == 0).then_some(()));
    assert!(site.run(&["key", "rotate", "nothing"]).err.contains("issuer, "));
}

#[test]
fn a_certificate_that_ends_soon_is_said_once_over_restarts_and_stands_in_status_doctor_and_metrics() {
    let site = Site::standalone("");
    let soon =
        jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date().saturating_add(jiff::Span::new().days(4));
    let mut params = rcgen::CertificateParams::new(vec!["vault".to_owned()]).unwrap();
    let (month, day) = (soon.month().unsigned_abs(), soon.day().unsigned_abs());
    params.not_after = rcgen::date_time_ymd(soon.year().into(), month, day);
    let pem = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem();
    std::fs::write(site.path("ca.pem"), pem).unwrap();
    site.configure(&format!(
        "mode = \"standalone\"\n[standalone]\nlisten = \"127.0.0.1:0\"\n[vault]\nurl = \"https://127.0.0.1:1\"\ntoken = \"/x\"\nca = {:?}\n",
        site.path("ca.pem")
    ));
    let said = |site: &Site| {
        let is_it =
            |line: &&Value| line["action"] == "alarm.raise" && line["subject"].as_str().unwrap().contains("vault.ca");
        site.audit().iter().filter(is_it).count()
    };
    let problem = |site: &Site| {
        let problems = site.status()["problems"].as_array().unwrap().clone();
        problems.iter().any(|problem| problem["part"] == "vault.ca").then_some(())
    };
    let daemon = site.start();
    until("it stands in the status", || problem(&site));
    until("it is said", || (said(&site) == 1).then_some(()));
    let address = site.status()["metrics"].as_str().unwrap().to_owned();
    let text = ureq::get(address).call().unwrap().body_mut().read_to_string().unwrap();
    assert!(text.contains("clawgate_expires_seconds{what=\"vault.ca\"} "), "{text}");
    let doctor = site.run(&["doctor", "--config", site.config().to_str().unwrap()]).out;
    assert!(doctor.contains("the CA of the vault"), "{doctor}");
    drop(daemon);
    let _daemon = site.start();
    until("it stands in the status", || problem(&site));
    assert_eq!(said(&site), 1);
}
