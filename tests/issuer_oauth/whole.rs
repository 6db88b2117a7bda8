//! The daemon, this server and mosquitto with the plugin.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;

use clawgate::token::key::SigningKey;
use clawgate::token::local::DenyList;

use super::binding::Papers;
use super::daemon::{Daemon, Sensor, quoted};
use super::plugin;
use super::server::{AUDIENCE, Site};
use super::support::Mosquitto;

/// The gateway's.
fn new_key(folder: &Path) -> PathBuf {
    let file = folder.join("gw-1.pem");
    let made = Command::new(env!("CARGO_BIN_EXE_clawgate")).args(["issuer", "key"]).arg(&file).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    file
}

/// A mosquitto that takes the site's tokens, with this beside.
fn broker(site: &Site, more: &str) -> Mosquitto {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("jwks"), serde_json::to_string(&site.jwks).unwrap()).unwrap();
    DenyList::open(&folder.path().join("denylist")).unwrap();
    let rules = plugin::config(&site.url);
    let rules = rules.replace("plugin_opt_audience claw", &format!("plugin_opt_audience {AUDIENCE}"));
    Mosquitto::start_in(folder, &format!("{more}{rules}"))
}

/// A person says yes where `pair` says, and what the sensor
/// measures goes through.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_a_person_approves_while_it_is_paired_delivers_its_first_reading() {
    let folder = tempfile::tempdir().unwrap();
    let key_file = new_key(folder.path());
    let site = Site::of(SigningKey::load(&key_file).unwrap(), 300);
    let broker = broker(&site, "");
    let mut sensor = Sensor::start(&folder.path().join("sensor"), &["--every", "200ms"]);
    let config = format!(
        "mode = \"relay\"\n[gateway]\nid = \"gw-1\"\n[metrics]\nlisten = \"off\"\n[broker]\nurl = \"mqtt://127.0.0.1:{}\"\n\
         [issuer]\nkind = \"oauth\"\ngrant = \"device_code\"\nurl = {:?}\naudience = {AUDIENCE:?}\nclient_key = {}\n\
         [uart.ports.p1]\npath = {}\n",
        broker.port(),
        site.url,
        quoted(&key_file),
        quoted(&sensor.line()),
    );
    let own = folder.path().join("daemon");
    std::fs::create_dir(&own).unwrap();
    let daemon = Daemon::start(&own, &config);

    let mut pairing = daemon.pairing("p1", &mut sensor, "pump-3");
    let mut said = Vec::new();
    let mut lines = BufReader::new(pairing.stderr.take().unwrap()).lines().map_while(Result::ok);
    for line in lines.by_ref() {
        said.push(line);
        if said.last().is_some_and(|line| line.contains("Approve the device at")) {
            break;
        }
    }
    let approve = said.last().unwrap_or_else(|| panic!("nothing was said: {}", daemon.log()));
    assert!(approve.contains(&format!("{}/device", site.url)), "{said:?}");
    assert!(said.iter().any(|line| line.contains('█')), "no QR: {said:?}");
    let is_code = |line: &&str| line.len() > 6 && line.chars().all(|c| c.is_ascii_uppercase() || c == '-');
    let code =
        said.iter().map(|line| line.trim()).find(is_code).unwrap_or_else(|| panic!("no code: {said:?}")).to_owned();
    // Nothing goes to the broker before a person has decided, and `token ls` says where.
    let token = || {
        let all = daemon.json(&["token", "ls"]).remove(0);
        all.as_array().unwrap().iter().find(|token| token["device"] == "pump-3").unwrap().clone()
    };
    let waiting = token();
    assert_eq!(waiting["state"], "waiting", "{waiting}");
    assert!(waiting["reason"].as_str().is_some_and(|reason| reason.contains(&code)), "{waiting}");
    assert!(!broker.log().contains("gw-1.pump-3"), "{}", broker.log());

    site.person(&format!("approve?user_code={code}")).await;
    let rest: Vec<String> = tokio::task::spawn_blocking(move || lines.collect()).await.unwrap();
    let ended = pairing.wait_with_output().unwrap();
    assert!(ended.status.success(), "{said:?} {rest:?} {}", daemon.log());
    assert!(rest.iter().any(|line| line.contains("first reading") && line.contains("ok")), "{rest:?}");
    let topic = "'claw/v1/default/gw-1/pump-3/up/telemetry'";
    let published = |line: &str| line.contains("Received PUBLISH from gw-1.pump-3") && line.contains(topic);
    assert!(broker.log().lines().any(published), "{}", broker.log());
    // The person is asked once: the next token comes by the refresh token that is kept.
    let done = daemon.cli(&["token", "rotate", "pump-3"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(token()["state"], "valid");
}

/// The gateway shows one certificate to the server and to the broker, and its devices' tokens are good with no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bound_token_goes_with_the_gateways_certificate_and_is_listed_as_such() {
    let (folder, papers) = (tempfile::tempdir().unwrap(), Papers::make());
    let key_file = new_key(folder.path());
    let site = papers.site(SigningKey::load(&key_file).unwrap(), None);
    let file = |name: &str| papers.path(name).display().to_string();
    let (ca, certificate, key) = (file("ca.pem"), file("server.pem"), file("server.key"));
    let tls = format!("cafile {ca}\ncertfile {certificate}\nkeyfile {key}\nrequire_certificate true\n");
    let broker = broker(&site, &tls);
    let mut sensor = Sensor::start(&folder.path().join("sensor"), &["--every", "200ms"]);
    let config = format!(
        "mode = \"relay\"\n[gateway]\nid = \"gw-1\"\n[metrics]\nlisten = \"off\"\n\
         [broker]\nurl = \"mqtts://localhost:{}\"\nca = {ca:?}\nclient_cert = {:?}\nclient_key = {:?}\n\
         [issuer]\nkind = \"oauth\"\nurl = {:?}\nca = {ca:?}\naudience = {AUDIENCE:?}\nclient_key = {}\n\
         [uart.ports.p1]\npath = {}\n",
        broker.port(),
        file("ours.pem"),
        file("ours.key"),
        site.url,
        quoted(&key_file),
        quoted(&sensor.line()),
    );
    let own = folder.path().join("daemon");
    std::fs::create_dir(&own).unwrap();
    let daemon = Daemon::start(&own, &config);
    // Its first reading is at the broker when this returns.
    daemon.pair("p1", &mut sensor, "pump-3");
    let ours = papers.thumbprint("ours");
    let all = daemon.json(&["token", "ls"]).remove(0);
    let token = all.as_array().unwrap().iter().find(|token| token["device"] == "pump-3").unwrap();
    assert_eq!(token["bound_to"], ours.as_str(), "{token}");
    let shown = |args: &[&str]| String::from_utf8(daemon.cli(args).stdout).unwrap();
    assert!(shown(&["token", "ls"]).contains(&format!("certificate {:.8}...", ours.as_str())));
    let device = shown(&["devices", "show", "pump-3"]);
    assert!(device.contains(ours.as_str()) && device.contains("token left"), "{device}");
}

/// Who changed the key that the gateway proves itself with, and which is in use, wherever it was changed.
#[test]
fn another_client_key_is_gone_over_to_listed_and_in_the_audit_log() {
    const TOKEN: &str = "initial-canary-7c1f";
    let folder = tempfile::tempdir().unwrap();
    let site = Site::with_registration(TOKEN);
    let file = folder.path().join("gw.pem");
    let config = |client_id: &str| {
        format!(
            "mode = \"relay\"\n[gateway]\nid = \"gw-9\"\n[metrics]\nlisten = \"off\"\n[broker]\nurl = \"mqtt://127.0.0.1:1\"\n\
             [issuer]\nkind = \"oauth\"\nurl = {:?}\naudience = {AUDIENCE:?}\nclient_id = {client_id:?}\nclient_key = {}\n",
            site.url,
            quoted(&file),
        )
    };
    let enrolled = {
        let at = folder.path().join("enroll.toml");
        std::fs::write(&at, config("gw-9")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_clawgate"));
        let done = command.args(["enroll", "--json", "--config"]).arg(&at).env("OPENCLAW_ENROLL_TOKEN", TOKEN).output();
        serde_json::from_slice::<serde_json::Value>(&done.unwrap().stdout).unwrap()
    };
    let old = enrolled["thumbprint"].as_str().unwrap().to_owned();
    let own = folder.path().join("daemon");
    std::fs::create_dir(&own).unwrap();
    let its_config = own.join("clawgate.toml").display().to_string();
    let rotate = ["key", "rotate", "client", "--config", &its_config];
    let mut daemon = Daemon::start(&own, &config(enrolled["client_id"].as_str().unwrap()));
    let listed = |daemon: &Daemon| -> Vec<(String, bool)> {
        let keys = daemon.json(&["key", "ls"]).remove(0);
        let ours = keys.as_array().unwrap().iter().filter(|key| key["kind"] == "client");
        ours.map(|key| (key["id"].as_str().unwrap().to_owned(), key["protection"] == quoted(&file).trim_matches('"')))
            .collect()
    };
    // Lines about this key: the action, who, the key, the one before.
    let told = |daemon: &Daemon| -> Vec<(String, bool, String, String)> {
        let lines = daemon.json(&["audit", "tail", "-n", "1000"]).remove(0);
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let about = lines.as_array().unwrap().iter().filter(|line| line["subject"] == "client");
        // Who changed it and that it is used are two tasks' lines, in any order.
        let mut about: Vec<_> = about
            .map(|line| {
                let by_person = line["actor"]["uid"].is_number();
                (text(&line["action"]), by_person, text(&line["details"]["id"]), text(&line["details"]["before"]))
            })
            .collect();
        about.sort();
        about
    };
    let line = |action: &str, by_person: bool, id: &str, before: &str| {
        (action.to_owned(), by_person, id.to_owned(), before.to_owned())
    };
    daemon.wait("the first key is told of", |daemon| told(daemon) == [line("key.in_use", false, &old, "")]);
    assert_eq!(listed(&daemon), [(old.clone(), true)]);
    // Which one was told of is on the disk: what is cut off before that tells of it again.
    let kept = |daemon: &Daemon| {
        let keys = daemon.json(&["key", "ls"]).remove(0);
        keys.as_array().unwrap().iter().any(|key| key["kind"] == "client" && key["made_at"].is_string())
    };

    let rotated = daemon.json(&rotate).remove(0);
    let new = rotated["thumbprint"].as_str().unwrap().to_owned();
    assert!(new != old && rotated["in_use"] == true, "{rotated}");
    assert!(rotated["daemon"].as_str().unwrap().starts_with("The daemon uses it"), "{rotated}");
    assert_eq!(listed(&daemon), [(new.clone(), true)], "at once, with no refusal in between");
    let mut all = vec![line("key.in_use", false, &old, ""), line("key.rotate", true, &new, "")];
    all.push(line("key.in_use", false, &new, &old));
    all.sort();
    daemon.wait("the change is told of", |daemon| told(daemon).len() >= all.len());
    assert_eq!(told(&daemon), all);

    daemon.wait("it is kept", kept);
    // While it is away: who did it is not known then, and the change is.
    daemon.stop();
    let rotated = daemon.json(&rotate).remove(0);
    let newest = rotated["thumbprint"].as_str().unwrap().to_owned();
    assert!(rotated["daemon"].as_str().unwrap().starts_with("The daemon was not told"), "{rotated}");
    daemon.resume();
    daemon.wait("the change is told of", |daemon| told(daemon).len() > all.len());
    assert!(told(&daemon).contains(&line("key.in_use", false, &newest, &new)), "{:?}", told(&daemon));
    assert_eq!(listed(&daemon), [(newest.clone(), true)]);
    // It is told of once, over restarts too.
    daemon.wait("it is kept", kept);
    daemon.kill();
    daemon.resume();
    let last = daemon.json(&rotate).remove(0)["thumbprint"].as_str().unwrap().to_owned();
    all.extend([line("key.in_use", false, &newest, &new), line("key.rotate", true, &last, "")]);
    all.push(line("key.in_use", false, &last, &newest));
    all.sort();
    daemon.wait("the change is told of", |daemon| told(daemon).len() >= all.len());
    assert_eq!(told(&daemon), all);
}
