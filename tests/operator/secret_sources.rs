//! Secrets from elsewhere, with the whole daemon: OpenBao as it is in the field, a systemd credential, the environment, a
//! file. What is there is used, what is not there is said with what to do, and what is secret is nowhere to be found.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::openbao::{OpenBao, SECRET_ID, private};
use crate::secrets::contents;
use crate::site::{Ended, Site, end, until};
use crate::support::Mosquitto;

const PASSPHRASE: &str = "canary horse battery";

/// `clawgate issuer serve`, which knows one gateway; ended when dropped.
struct Issuer {
    process: Child,
    url: String,
}

impl Drop for Issuer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A gateway between an OAuth server and a broker, which both are somebody else's.
struct Edge {
    site: Site,
    issuer: Issuer,
    broker: Mosquitto,
    /// What the gateway proves itself with at the OAuth server, PEM.
    key: String,
}

impl Edge {
    fn new(broker: Mosquitto) -> Self {
        let site = Site::standalone("");
        let key = site.path("client.pem");
        let public = end(Command::new(env!("CARGO_BIN_EXE_clawgate")).args(["issuer", "key"]).arg(&key)).ok().out;
        fs::write(site.path("gateway.pub"), public).unwrap();
        let clients = "[clients.gateway]\npublic_key = \"gateway.pub\"\ntenant = \"default\"\n";
        fs::write(site.path("issuer.toml"), format!("listen = \"127.0.0.1:0\"\n{clients}")).unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_clawgate"))
            .args(["--json", "issuer", "serve", "--config"])
            .arg(site.path("issuer.toml"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = serde_json::from_str::<Value>(&line).unwrap()["issuer"].as_str().unwrap().to_owned();
        let key = fs::read_to_string(key).unwrap();
        Self { issuer: Issuer { process, url }, site, broker, key }
    }

    /// With its key for the OAuth server at `place`, and its broker without TLS.
    fn configure(&self, place: &str, more: &str) {
        let broker = format!("[broker]\nurl = \"mqtt://127.0.0.1:{}\"\n", self.broker.port());
        self.configure_with(place, &(broker + more));
    }

    fn configure_with(&self, place: &str, more: &str) {
        let line = self.site.line("line1");
        self.site.configure(&format!("mode = \"relay\"\n{line}{more}[log]\nlevel = \"trace\"\n"));
        // A table that every site has already.
        let issuer = format!("[issuer]\nkind = \"oauth\"\nurl = {:?}\nclient_key = {place:?}\n", self.issuer.url);
        fs::create_dir_all(self.site.path("conf.d")).unwrap();
        fs::write(self.site.path("conf.d/issuer.toml"), issuer).unwrap();
    }

    fn device(&self) -> Value {
        self.site.status()["devices"][0].clone()
    }

    fn confirmed(&self) -> u64 {
        self.device()["relay"]["confirmed"].as_u64().unwrap_or_default()
    }

    /// The state of a token and what is said of it, as soon as something is.
    fn token(&self, device: &str) -> (String, String) {
        until("something is said of the token", || {
            let all = self.site.run(&["token", "ls", "--json"]).ok().json();
            let token = all.as_array().unwrap().iter().find(|token| token["device"] == device)?.clone();
            let word = |key: &str| token[key].as_str().map(str::to_owned);
            if token["state"] == "valid" {
                Some(("valid".to_owned(), String::new()))
            } else {
                word("state").zip(word("reason"))
            }
        })
    }

    fn check(&self, environment: &[(&str, &Path)]) -> Ended {
        let config = self.site.config();
        let args = ["config", "check", "--config", config.to_str().unwrap()];
        let mut command = self.site.command(Path::new(env!("CARGO_BIN_EXE_clawgate")), &args);
        end(command.env_remove("CREDENTIALS_DIRECTORY").envs(environment.iter().copied()))
    }

    /// Looks for a secret in everything that was said or written, but where it belongs.
    fn shows_nothing_of(&self, secrets: &[&[u8]]) {
        let mut seen = vec![("log".to_owned(), self.site.log().into_bytes())];
        contents(&self.site.path("state"), &mut seen);
        if UnixStream::connect(self.site.socket()).is_ok() {
            for verb in [["status", "--json"], ["token", "ls"], ["devices", "ls"], ["audit", "export"]] {
                seen.push((verb.join(" "), self.site.run(&verb).out.into_bytes()));
            }
        }
        let doctor = self.site.run(&["doctor", "--config", self.site.config().to_str().unwrap()]);
        seen.push(("doctor".to_owned(), (doctor.out + &doctor.err).into_bytes()));
        for (place, bytes) in &seen {
            for secret in secrets {
                let found = bytes.windows(secret.len()).any(|window| window == *secret);
                assert!(!found, "{:?} stands in {place}", String::from_utf8_lossy(secret));
            }
        }
    }
}

/// The bytes of a key in PEM, and its text.
fn der_of(pem: &str) -> (Vec<u8>, String) {
    let text: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    // The first bytes of every such key are the same.
    (BASE64.decode(&text).unwrap()[40..60].to_vec(), text[60..80].to_owned())
}

/// Pairs a sensor, which the cloud must have confirmed the first reading of.
fn pair(edge: &Edge) -> crate::site::Sensor {
    let mut sensor = edge.site.thermometer("line1", &[]);
    edge.site.pair("line1", &mut sensor).ok();
    sensor
}

fn delivers(edge: &Edge) {
    let before = edge.confirmed();
    until("readings go on", || (edge.confirmed() > before + 3).then_some(()));
}

#[test]
fn a_key_in_a_vault_is_fetched_by_role_and_a_vault_that_is_away_keeps_no_sensor_waiting() {
    let edge = Edge::new(Mosquitto::start());
    let folder = edge.site.path("bao");
    let bao = OpenBao::start(&folder);
    bao.keep(&json!({ "client_key": edge.key }));
    edge.configure("vault:sites/roof#client_key", &bao.table());
    // Only there from now on.
    fs::remove_file(edge.site.path("client.pem")).unwrap();
    let (der, text) = der_of(&edge.key);
    let secrets = [&der[..], text.as_bytes(), SECRET_ID.as_bytes()];

    let daemon = edge.site.start();
    let _sensor = pair(&edge);
    assert!(edge.broker.log().contains("'claw/v1/default/gateway/line1/up/telemetry'"), "{}", edge.broker.log());
    until("the login's token is given back", || (bao.tokens() == 1).then_some(()));
    let environment = fs::read(format!("/proc/{}/environ", daemon.id())).unwrap_or_default();
    assert!(!environment.windows(SECRET_ID.len()).any(|window| window == SECRET_ID.as_bytes()));
    edge.shows_nothing_of(&secrets);
    assert_eq!(daemon.stop(), 0);

    // The vault is away: sensors are served, what they say is kept, and why it waits is said.
    let port = bao.port();
    drop(bao);
    let _daemon = edge.site.start();
    let kept = until("readings are kept", || edge.device()["waiting"].as_u64().filter(|waiting| *waiting > 5));
    let (state, reason) = edge.token("line1");
    assert_eq!(state, "waiting");
    let names = format!("issuer.client_key: the vault at https://127.0.0.1:{port} did not answer");
    assert!(reason.contains(&names) && reason.contains("check the network, vault.url and vault.ca"), "{reason}");
    assert_eq!(edge.confirmed(), 0);
    let doctor = edge.site.run(&["doctor", "--config", edge.site.config().to_str().unwrap()]).out;
    assert!(doctor.contains("issuer.client_key") && doctor.contains("did not answer"), "{doctor}");

    let bao = OpenBao::start_at(&folder, port);
    bao.keep(&json!({ "client_key": edge.key }));
    until("what was kept is confirmed", || (edge.confirmed() > kept).then_some(()));
    assert_eq!(edge.site.status()["spool"]["dropped"], 0);
    edge.shows_nothing_of(&secrets);
}

#[test]
fn a_vault_that_refuses_is_quoted_with_what_to_do_and_heals_when_it_is_done() {
    let edge = Edge::new(Mosquitto::start());
    let bao = OpenBao::start(&edge.site.path("bao"));
    let (der, text) = der_of(&edge.key);
    let secrets = [&der[..], text.as_bytes(), SECRET_ID.as_bytes()];
    bao.keep(&json!({ "client_key": edge.key }));
    bao.allow(false);
    edge.configure("vault:sites/roof#client_key", &bao.table());
    let daemon = edge.site.start();
    // The gateway itself asks for a token first of all.
    let (state, reason) = edge.token("_gateway");
    assert_eq!(state, "waiting");
    assert!(
        reason.contains("refused to read secret/data/sites/roof (") && reason.contains("permission denied"),
        "{reason}"
    );
    assert!(reason.contains("the token needs a policy with read on it"), "{reason}");
    assert!(daemon.log().contains("needs a policy with read"), "{}", daemon.log());
    edge.shows_nothing_of(&secrets);
    bao.allow(true);
    until("the token came", || (edge.token("_gateway").0 == "valid").then_some(()));
    assert_eq!(daemon.stop(), 0);

    // Another secret id than the role's.
    private(&edge.site.path("bao/secret-id"), "canary-of-another-role");
    let daemon = edge.site.start();
    let (_, reason) = edge.token("_gateway");
    assert!(reason.contains("refused the login (400: ") && reason.contains("make a new secret id"), "{reason}");
    edge.shows_nothing_of(&[&secrets[..], &[b"canary-of-another-role"]].concat());
    assert_eq!(daemon.stop(), 0);

    // No such field, and no key in it; a token may stand in place of a role.
    for (place, says) in [
        ("vault:sites/roof#key", "the secret secret/data/sites/roof has no field \"key\""),
        ("vault:sites/nowhere#key", "has no secret at secret/data/sites/nowhere"),
        ("vault:sites/roof#note", "vault:sites/roof#note holds no P-256 private key"),
    ] {
        bao.keep(&json!({ "client_key": edge.key, "note": "canary-of-a-note" }));
        edge.configure(place, &bao.table_with_token());
        let daemon = edge.site.start();
        let (_, reason) = edge.token("_gateway");
        assert!(reason.contains(says), "{reason}");
        edge.shows_nothing_of(&[&secrets[..], &[b"canary-of-a-note", b"canary-root-token"]].concat());
        assert_eq!(daemon.stop(), 0);
    }
}

#[test]
fn a_key_that_is_changed_in_the_vault_and_at_the_server_is_followed_without_a_restart() {
    let edge = Edge::new(Mosquitto::start());
    let bao = OpenBao::start(&edge.site.path("bao"));
    bao.keep(&json!({ "client_key": edge.key }));
    edge.configure("vault:sites/roof#client_key", &bao.table());
    let daemon = edge.site.start();
    let _sensor = pair(&edge);
    let newer = edge.site.path("newer.pem");
    let public = end(Command::new(env!("CARGO_BIN_EXE_clawgate")).args(["issuer", "key"]).arg(&newer)).ok().out;
    let newer = fs::read_to_string(newer).unwrap();
    bao.keep(&json!({ "client_key": newer }));
    fs::write(edge.site.path("gateway.pub"), public).unwrap();
    let server = edge.issuer.process.id().to_string();
    assert!(Command::new("kill").args(["-HUP", &server]).status().unwrap().success());
    until("the newer key is used", || {
        edge.site.run(&["token", "rotate", "line1"]);
        daemon.log().contains("a newer one was in its place").then_some(())
    });
    edge.site.run(&["token", "rotate", "line1"]).ok();
    delivers(&edge);
    let (der, text) = der_of(&newer);
    edge.shows_nothing_of(&[&der, text.as_bytes()]);
}

/// A broker that lets nobody in without a certificate of its CA.
fn strict_broker() -> Mosquitto {
    let folder = tempfile::tempdir().unwrap();
    crate::authority::authority(folder.path(), "site", |_| ());
    let tls = "certfile {dir}/site-leaf.pem\nkeyfile {dir}/site-leaf.key\ncafile {dir}/site.pem\n";
    Mosquitto::start_in(folder, &format!("allow_anonymous true\n{tls}require_certificate true\n"))
}

#[test]
fn the_key_of_the_client_certificate_comes_from_a_vault_that_opens_while_the_daemon_starts() {
    let edge = Edge::new(strict_broker());
    let bao = OpenBao::start(&edge.site.path("bao"));
    let tls = edge.broker.folder().to_owned();
    let key = fs::read_to_string(tls.join("site-leaf.key")).unwrap();
    let (der, text) = der_of(&key);
    bao.keep(&json!({ "broker_key": key }));
    let configure = |place: &str| {
        let (ca, leaf) = (tls.join("site.pem"), tls.join("site-leaf.pem"));
        let files = format!("ca = {ca:?}\nclient_cert = {leaf:?}\nclient_key = {place:?}\n");
        let broker = format!("[broker]\nurl = \"mqtts://localhost:{}\"\n{files}", edge.broker.port());
        edge.configure_with(edge.site.path("client.pem").to_str().unwrap(), &(broker + &bao.table()));
    };
    configure("vault:sites/roof#broker_key");
    bao.seal();
    let (mut daemon, mut begun) = (edge.site.start_with(|_| {}), Instant::now());
    until("the daemon waits for the vault", || daemon.log().contains("is asked for again").then_some(()));
    assert!(daemon.log().contains("Vault is sealed") && daemon.log().contains("unseal it"), "{}", daemon.log());
    bao.unseal();
    until("the daemon answers", || {
        // It waits for half a minute. Where the machine is so slow, it is started again, as systemd would.
        if daemon.is_over() {
            assert!(begun.elapsed() >= Duration::from_secs(30), "it gave up: {}", daemon.log());
            (daemon, begun) = (edge.site.start_with(|_| {}), Instant::now());
        }
        UnixStream::connect(edge.site.socket()).ok()
    });
    let _sensor = pair(&edge);
    assert!(edge.broker.log().contains("'claw/v1/default/gateway/line1/up/telemetry'"), "{}", edge.broker.log());
    edge.shows_nothing_of(&[&der[..], text.as_bytes(), SECRET_ID.as_bytes()]);
    assert_eq!(daemon.stop(), 0);

    // What time does not mend ends the start at once.
    for (place, may_read, says) in [
        ("vault:sites/roof#other", true, "broker.client_key: the secret secret/data/sites/roof has no field \"other\""),
        ("vault:sites/roof#broker_key", false, "the token needs a policy with read on it"),
    ] {
        bao.allow(may_read);
        configure(place);
        let mut daemon = edge.site.start_with(|_| {});
        assert_eq!(daemon.ended(), 1);
        assert!(daemon.log().contains(says) && !daemon.log().contains("asked for again"), "{}", daemon.log());
    }
    edge.shows_nothing_of(&[&der[..], text.as_bytes(), SECRET_ID.as_bytes()]);
}

#[test]
fn the_same_key_comes_from_a_file_a_credential_or_the_environment() {
    let edge = Edge::new(Mosquitto::start());
    let file = edge.site.path("client.pem");
    let credentials = edge.site.path("credentials");
    fs::create_dir(&credentials).unwrap();
    fs::copy(&file, credentials.join("oauth")).unwrap();
    edge.configure(file.to_str().unwrap(), "");
    let daemon = edge.site.start();
    let _sensor = pair(&edge);
    assert_eq!(daemon.stop(), 0);
    let handed: [(&str, &str, String); 2] = [
        ("credential:oauth", "CREDENTIALS_DIRECTORY", credentials.display().to_string()),
        ("env:CANARY_KEY", "CANARY_KEY", edge.key.clone()),
    ];
    for (place, variable, value) in handed {
        edge.configure(place, "");
        let daemon = edge.site.start_with(|command| {
            command.env(variable, value);
        });
        until("the daemon answers", || UnixStream::connect(edge.site.socket()).ok());
        delivers(&edge);
        let (der, text) = der_of(&edge.key);
        edge.shows_nothing_of(&[&der, text.as_bytes()]);
        assert_eq!(daemon.stop(), 0);
        // What it was not started with, it will never have.
        let mut without = edge.site.start_with(|command| {
            command.env_remove(variable);
        });
        assert_eq!(without.ended(), 1);
        let said = without.log();
        assert!(said.contains(&format!("issuer.client_key: {place}: ")) && said.contains("the unit"), "{said}");
    }
}

#[test]
fn a_source_that_cannot_work_is_found_before_the_daemon_starts() {
    let edge = Edge::new(strict_broker());
    let (tls, path) = (edge.broker.folder().to_owned(), |name: &str| edge.site.path(name));
    let write = |name: &str, text: &str| {
        private(&path(name), text);
        path(name)
    };
    let key = path("client.pem").display().to_string();
    let exposed = write("exposed", "canary-word");
    fs::set_permissions(&exposed, fs::Permissions::from_mode(0o644)).unwrap();
    let (empty, word) = (write("empty", "\n"), write("word", "canary-word\n"));
    let ca = tls.join("site.pem");
    let refused = |place: &str, more: &str, environment: &[(&str, &Path)], says: [&str; 2]| {
        edge.configure(place, more);
        let found = edge.check(environment);
        assert_eq!(found.code, 78, "{more}: {found:?}");
        assert!(says.iter().all(|words| found.err.contains(words)), "{says:?}: {found:?}");
        assert!(!found.err.contains("canary"), "{found:?}");
    };

    // The vault and how the gateway proves itself there.
    let vault = |login: String| format!("[vault]\nurl = \"https://127.0.0.1:1\"\n{login}");
    let role = |file: &Path| vault(format!("role_id = \"r\"\nsecret_id = {file:?}\n"));
    let open = "[vault]\nurl = \"http://vault.example:8200\"\ntoken = \"/x\"\n";
    refused(&key, open, &[], ["vault.url", "an https URL is wanted"]);
    refused(&key, &vault(format!("secret_id = {word:?}\n")), &[], ["vault.token", "both of vault.role_id and"]);
    refused(&key, &role(&path("nowhere")), &[], ["vault.secret_id: ", "check that it is there"]);
    refused(&key, &role(&exposed), &[], ["vault.secret_id: ", "chmod o-rwx"]);
    refused(&key, &role(&empty), &[], ["vault.secret_id: ", "one line of plain ASCII is wanted"]);
    refused(
        &key,
        &vault("token = \"credential:t\"\n".into()),
        &[("CREDENTIALS_DIRECTORY", &tls)],
        ["vault.token: ", "check that it is there"],
    );
    refused(&key, &(role(&word) + &format!("ca = {word:?}\n")), &[], ["vault.ca: ", "no certificate in it"]);
    refused("vault:a#b", "", &[], ["issuer.client_key: vault:a#b is in a vault", "write vault.url"]);

    // The key of the OAuth client.
    refused("/nowhere/key", "", &[], ["issuer.client_key: key file /nowhere/key", "check that it is there"]);
    refused("credential:k", "", &[("CREDENTIALS_DIRECTORY", &tls)], ["issuer.client_key: ", "check that it is there"]);
    refused("env:KEY", "", &[("KEY", Path::new("canary"))], ["issuer.client_key: env:KEY", "P-256"]);
    refused(
        "credential:exposed",
        "",
        &[("CREDENTIALS_DIRECTORY", &path("."))],
        ["issuer.client_key: credential:exposed", "P-256"],
    );

    // The key of the client certificate.
    let broker = |ca: &Path, place: &str| {
        let leaf = tls.join("site-leaf.pem");
        let files = format!("ca = {ca:?}\nclient_cert = {leaf:?}\nclient_key = {place:?}\n");
        edge.configure_with(&key, &format!("[broker]\nurl = \"mqtts://localhost\"\n{files}"));
        edge.check(&[])
    };
    let leaf_key = tls.join("site-leaf.key");
    fs::set_permissions(&leaf_key, fs::Permissions::from_mode(0o644)).unwrap();
    for (ca, place, says) in [
        (&ca, PathBuf::from("/nowhere/key"), ["broker.client_key: ", "check that it is there"]),
        (&ca, leaf_key.clone(), ["broker.client_key: ", "chmod o-rwx"]),
        (&ca, word.clone(), ["broker.client_key: ", "private key"]),
        (&word, word.clone(), ["broker.ca: ", "certificate"]),
    ] {
        let found = broker(ca, place.to_str().unwrap());
        assert!(found.code == 78 && says.iter().all(|words| found.err.contains(words)), "{says:?}: {found:?}");
    }
    fs::set_permissions(&leaf_key, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(broker(&ca, leaf_key.to_str().unwrap()).ok().err, "");

    // What only the daemon is handed is not judged, and said so.
    for (place, says) in [
        ("credential:k", "issuer.client_key: credential:k is handed to the unit alone"),
        ("env:CANARY_NOT_SET", "issuer.client_key: env:CANARY_NOT_SET is not set here"),
        ("vault:a#b", "issuer.client_key: vault:a#b was not asked for; clawgate doctor does"),
    ] {
        edge.configure(place, &role(&word));
        let found = edge.check(&[]).ok();
        assert!(found.err.contains(says) && found.out.contains(": ok"), "{found:?}");
    }
    // An issuer over an open network would be shown to everybody on it.
    let more = fs::read_to_string(path("conf.d/issuer.toml")).unwrap().replace("http://127.0.0.1", "http://id.example");
    fs::write(path("conf.d/issuer.toml"), more).unwrap();
    let found = edge.check(&[]);
    assert!(found.code == 78 && found.err.contains("issuer.url: ") && found.err.contains("https"), "{found:?}");
}

#[test]
fn a_backup_takes_its_passphrase_from_the_same_places() {
    let site = Site::standalone("");
    assert_eq!(site.start().stop(), 0);
    let bao = OpenBao::start(&site.path("bao"));
    bao.keep(&json!({ "backup": PASSPHRASE, "short": "canary" }));
    let standalone = "mode = \"standalone\"\n[standalone]\nlisten = \"127.0.0.1:0\"\n";
    site.configure(&(standalone.to_owned() + &bao.table()));
    private(&site.path("phrase"), &format!("{PASSPHRASE}\n"));
    let backup = |verb: &str, file: &str, place: &str| {
        let (file, config) = (site.path(file), site.config());
        let args =
            ["backup", verb, file.to_str().unwrap(), "--config", config.to_str().unwrap(), "--passphrase", place];
        let mut command = site.command(Path::new(env!("CARGO_BIN_EXE_clawgate")), &args);
        let done = end(command.env("CREDENTIALS_DIRECTORY", site.path(".")).env("CANARY_PHRASE", PASSPHRASE));
        assert!(!(done.out.clone() + &done.err).contains("canary"), "{done:?}");
        done
    };
    let file = site.path("phrase").display().to_string();
    let places = [file.as_str(), "credential:phrase", "env:CANARY_PHRASE", "vault:sites/roof#backup"];
    for (number, place) in places.into_iter().enumerate() {
        backup("create", &format!("{number}.clawbak"), place).ok();
    }
    // They all are the one passphrase, and that one only.
    for (number, _) in places.iter().enumerate() {
        let place = places[places.len() - 1 - number];
        backup("restore", &format!("{number}.clawbak"), place).ok();
    }
    bao.keep(&json!({ "backup": "canary of another gateway", "short": "canary" }));
    let other = backup("restore", "0.clawbak", "vault:sites/roof#backup");
    assert!(other.code != 0 && other.err.contains("does not open"), "{other:?}");

    for (place, says) in [
        ("vault:sites/roof#short", "12 characters or more"),
        ("vault:sites/roof#none", "has no field \"none\""),
        ("credential:none", "check that it is there"),
        ("env:NOT_SET_HERE", "the variable is not set"),
        ("/nowhere/phrase", "check that it is there"),
    ] {
        let refused = backup("create", "none.clawbak", place);
        assert!(refused.code != 0 && refused.err.contains(says), "{place}: {refused:?}");
        assert!(!site.path("none.clawbak").exists());
    }
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let refused = backup("create", "none.clawbak", &file);
    assert!(refused.code != 0 && refused.err.contains("chmod o-rwx"), "{refused:?}");
}
