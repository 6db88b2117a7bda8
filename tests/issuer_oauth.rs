//! The issuer is a standard OAuth server (npm's oidc-provider): every way to ask it for a device's token, and every
//! answer it gives.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed test says where by panicking")]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/plugin.rs"]
mod plugin;
mod support;

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clawgate::clock::Clock;
use clawgate::ids::DeviceId;
use clawgate::secret::Secret;
use clawgate::token::keeper::{self, KeeperError, KeeperOptions, TokenKeeper};
use clawgate::token::key::{Jwks, SigningKey};
use clawgate::token::local::{DenyList, IssuerTime};
use clawgate::token::oauth::{Families, Grant, OauthIssuer, OauthOptions, RefreshToken};
use clawgate::token::scope::{Action, Scope};
use clawgate::token::verify::Verifier;
use clawgate::token::{
    AccessToken, Approval, Issuer as _, IssuerError, Limits, Remedy, Stage, TokenRequest, TokenState,
};
use daemon::{Daemon, Sensor, quoted};
use serde_json::{Value, json};
use support::Mosquitto;

const AUDIENCE: &str = "urn:claw:test-broker";
const SOON: Duration = Duration::from_secs(60);

/// A server of a site with two gateways, and the keys of the first.
struct Site {
    server: Child,
    /// The server ends when this is closed.
    _alive: ChildStdin,
    url: String,
    jwks: Jwks,
    key: SigningKey,
}

impl Site {
    fn start() -> Self {
        Self::with_life(300)
    }

    fn with_life(life_s: u64) -> Self {
        Self::with(SigningKey::generate().unwrap(), life_s, None)
    }

    /// A server that lets a gateway register itself with this token.
    fn with_registration(token: &str) -> Self {
        Self::with(SigningKey::generate().unwrap(), 300, Some(token))
    }

    /// The first gateway has this key.
    fn of(key: SigningKey, life_s: u64) -> Self {
        Self::with(key, life_s, None)
    }

    fn with(key: SigningKey, life_s: u64, registration: Option<&str>) -> Self {
        let other = SigningKey::generate().unwrap();
        let site = json!({
            "clients": {
                "gw-1": { "jwk": key.public(), "devices": ["pump-3", "pump-4", "_gateway"] },
                "gw-2": { "jwk": other.public(), "devices": ["fan-1"] },
            },
            "audience": AUDIENCE,
            "life_s": life_s,
            "registration": registration,
            "registered_devices": ["pump-9", "_gateway"],
        });
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/oauth-server");
        let own_node = format!("{folder}/node_modules/.bin/node");
        let node = if std::path::Path::new(&own_node).exists() { own_node } else { "node".to_owned() };
        let mut server = Command::new(node)
            .args(["server.mjs", &site.to_string()])
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("node; tests/run installs what this test needs");
        let mut line = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said: Value = serde_json::from_str(&line).expect("the server did not start; run tests/run, it installs it");
        let url = said["url"].as_str().unwrap().to_owned();
        let jwks = serde_json::from_value(said["jwks"].clone()).unwrap();
        Self { _alive: server.stdin.take().unwrap(), server, url, jwks, key }
    }

    fn client(&self, grant: Grant, families: &Arc<Shelf>) -> OauthIssuer {
        let options = OauthOptions {
            url: self.url.clone(),
            client_id: "gw-1".to_owned(),
            key: self.key.clone(),
            ca: None,
            certificate: None,
        };
        OauthIssuer::with_grant(options, grant, families.clone(), Clock::system()).unwrap()
    }

    /// What a person does at the server's page.
    async fn person(&self, does: &str) {
        let url = format!("{}/test/{does}", self.url);
        tokio::task::spawn_blocking(move || ureq::get(&url).call().map(drop)).await.unwrap().unwrap();
    }

    /// Good at a broker that knows only this server's keys.
    fn good_at_the_broker(&self, token: &AccessToken) -> bool {
        let time = IssuerTime::starting_at(0, Clock::system());
        let verifier = Verifier::new(&self.jwks, &self.url, AUDIENCE, DenyList::in_memory(), time).unwrap();
        verifier.verify(token.bearer().as_bytes()).is_ok()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Refresh tokens as a disk keeps them.
#[derive(Default)]
struct Shelf {
    kept: Mutex<HashMap<DeviceId, String>>,
    full: Mutex<bool>,
}

impl Families for Shelf {
    fn load(&self, device: &DeviceId) -> Result<Option<Secret<String>>, String> {
        Ok(self.kept.lock().unwrap().get(device).cloned().map(Secret::new))
    }

    fn keep(&self, device: &DeviceId, token: &RefreshToken) -> Result<(), String> {
        if *self.full.lock().unwrap() {
            return Err("no space left on device".to_owned());
        }
        self.kept.lock().unwrap().insert(device.clone(), token.token.expose().clone());
        Ok(())
    }

    fn forget(&self, device: &DeviceId) -> Result<(), String> {
        self.kept.lock().unwrap().remove(device);
        Ok(())
    }
}

fn refresh_token(text: String) -> RefreshToken {
    RefreshToken { token: Secret::new(text), life: None }
}

fn pump() -> DeviceId {
    "pump-3".parse().unwrap()
}

fn request(device: &str) -> TokenRequest {
    TokenRequest {
        tenant: "default".to_owned(),
        gateway: "gw-1".to_owned(),
        device: device.parse().unwrap(),
        scope: vec![Scope::TelemetryWrite],
        life: Duration::from_secs(300),
        audience: AUDIENCE.to_owned(),
        limits: Limits::default(),
        stage: Stage::default(),
    }
}

/// The approval that the issuer waits for.
fn approval(answer: Result<AccessToken, IssuerError>) -> Approval {
    match answer {
        Err(IssuerError::Approval { approval, .. }) => approval,
        other => panic!("no approval was asked for: {other:?}"),
    }
}

/// A client whose device a person has approved.
async fn approved(site: &Site, shelf: &Arc<Shelf>) -> OauthIssuer {
    let client = site.client(Grant::DeviceCode, shelf);
    let asked = approval(client.issue(&request("pump-3")).await);
    site.person(&format!("approve?user_code={}", asked.code)).await;
    client.issue(&request("pump-3")).await.unwrap();
    client
}

#[tokio::test]
async fn a_gateway_gets_a_token_of_its_device_by_its_own_rights_and_by_its_word() {
    let site = Site::start();
    for grant in [Grant::ClientCredentials, Grant::TokenExchange] {
        let token = site.client(grant, &Arc::default()).issue(&request("pump-3")).await.unwrap();
        let claims = token.claims();
        assert_eq!((claims.sub.as_str(), claims.aud.as_str(), claims.client_id.as_str()), ("pump-3", AUDIENCE, "gw-1"));
        assert!(token.allows("claw/v1/default/gw-1/pump-3/up/telemetry", Action::Publish));
        assert!(!token.allows("claw/v1/default/gw-1/pump-4/up/telemetry", Action::Publish));
        assert!(token.life() <= Duration::from_secs(300) && token.life() > Duration::from_secs(290));
        assert!(site.good_at_the_broker(&token), "{grant:?}");
        let acts = claims.act.as_ref().map(|act| act.sub.as_str());
        assert_eq!(acts, (grant == Grant::TokenExchange).then_some("gw-1"), "who acts is said, {grant:?}");
    }
}

#[tokio::test]
async fn another_gateways_device_an_unknown_audience_and_an_unknown_scope_are_refused_with_the_servers_words() {
    let site = Site::start();
    for grant in [Grant::ClientCredentials, Grant::TokenExchange, Grant::DeviceCode] {
        let client = site.client(grant, &Arc::default());
        let refused = client.issue(&request("fan-1")).await.unwrap_err();
        assert_eq!(refused.remedy(), Remedy::Quarantine, "{grant:?}: {refused}");
        assert!(refused.to_string().contains(&site.url), "{refused}");
        let elsewhere = TokenRequest { audience: "urn:claw:other".to_owned(), ..request("pump-3") };
        if grant != Grant::TokenExchange {
            let refused = client.issue(&elsewhere).await.unwrap_err();
            assert!(refused.to_string().contains("invalid_target"), "{grant:?}: {refused}");
        }
    }
    // A server that grants less than was asked says so with 200: what came is compared.
    let client = site.client(Grant::ClientCredentials, &Arc::default());
    let more = TokenRequest { scope: vec![Scope::TelemetryWrite, Scope::CommandRead], ..request("pump-3") };
    assert!(client.issue(&more).await.is_ok());
}

#[tokio::test]
async fn a_person_approves_a_device_once_and_its_refresh_tokens_rotate() {
    let (site, shelf) = (Site::start(), Arc::<Shelf>::default());
    let client = site.client(Grant::DeviceCode, &shelf);
    let asked = approval(client.issue(&request("pump-3")).await);
    assert!(asked.url.starts_with(&site.url) && asked.left_s > 500, "{asked:?}");
    assert!(asked.complete_url.as_ref().is_some_and(|url| url.contains(&asked.code)));
    assert_eq!(approval(client.issue(&request("pump-3")).await).code, asked.code, "one request for one device");

    site.person(&format!("approve?user_code={}", asked.code)).await;
    let token = client.issue(&request("pump-3")).await.unwrap();
    assert_eq!(token.claims().sub, "pump-3", "the token stands for the device, not for the person");
    assert!(site.good_at_the_broker(&token));

    let mut seen = vec![shelf.kept.lock().unwrap()[&pump()].clone()];
    for _ in 0..3 {
        let next = client.issue(&request("pump-3")).await.unwrap();
        assert_ne!(next.jti(), token.jti());
        let refresh = shelf.kept.lock().unwrap()[&pump()].clone();
        assert!(!seen.contains(&refresh), "a refresh token was used twice");
        seen.push(refresh);
    }
    // After a restart it goes on without a person.
    site.client(Grant::DeviceCode, &shelf).issue(&request("pump-3")).await.unwrap();
}

#[tokio::test]
async fn a_person_who_says_no_pauses_the_device_until_it_is_asked_again() {
    let site = Site::start();
    let client = site.client(Grant::DeviceCode, &Arc::default());
    let asked = approval(client.issue(&request("pump-3")).await);
    site.person(&format!("deny?user_code={}", asked.code)).await;
    let refused = client.issue(&request("pump-3")).await.unwrap_err();
    assert!(matches!(refused, IssuerError::NotApproved { .. }), "{refused}");
    assert!(refused.remedy() == Remedy::Quarantine && refused.to_string().contains("a person said no"), "{refused}");
    let again = approval(client.issue(&request("pump-3")).await);
    assert_ne!(again.code, asked.code, "asking again asks a person again");
}

#[tokio::test]
async fn a_stolen_refresh_token_ends_the_family_and_the_device_waits_for_a_person() {
    let (site, shelf) = (Site::start(), Arc::<Shelf>::default());
    let client = approved(&site, &shelf).await;
    let stolen = shelf.kept.lock().unwrap()[&pump()].clone();
    client.issue(&request("pump-3")).await.unwrap();

    // The thief uses what was replaced: the server ends the whole family.
    let thiefs = Arc::<Shelf>::default();
    thiefs.keep(&pump(), &refresh_token(stolen)).unwrap();
    let refused = site.client(Grant::DeviceCode, &thiefs).issue(&request("pump-3")).await.unwrap_err();
    assert!(matches!(refused, IssuerError::ApprovalEnded { .. }), "{refused}");

    let ended = client.issue(&request("pump-3")).await.unwrap_err();
    assert!(matches!(ended, IssuerError::ApprovalEnded { .. }), "{ended}");
    assert_eq!(ended.remedy(), Remedy::Quarantine);
    assert!(shelf.kept.lock().unwrap().is_empty(), "a dead refresh token is kept");
    approval(client.issue(&request("pump-3")).await);
}

#[tokio::test]
async fn a_refresh_token_that_the_disk_does_not_take_is_used_all_the_same_and_kept_later() {
    let (site, shelf) = (Site::start(), Arc::<Shelf>::default());
    let client = approved(&site, &shelf).await;
    *shelf.full.lock().unwrap() = true;
    client.issue(&request("pump-3")).await.unwrap();
    let stale = shelf.kept.lock().unwrap()[&pump()].clone();
    client.issue(&request("pump-3")).await.expect("the one on disk was used, which ends the family");
    *shelf.full.lock().unwrap() = false;
    client.issue(&request("pump-3")).await.unwrap();
    assert_ne!(shelf.kept.lock().unwrap()[&pump()], stale);
}

#[tokio::test]
async fn after_a_crash_between_the_servers_answer_and_the_disk_a_person_is_asked_once() {
    let (site, shelf) = (Site::start(), Arc::<Shelf>::default());
    let client = approved(&site, &shelf).await;
    *shelf.full.lock().unwrap() = true;
    client.issue(&request("pump-3")).await.unwrap();
    drop(client);
    *shelf.full.lock().unwrap() = false;

    // Started again, it has only what was replaced, and the server takes that for a theft.
    let client = site.client(Grant::DeviceCode, &shelf);
    let ended = client.issue(&request("pump-3")).await.unwrap_err();
    assert!(matches!(ended, IssuerError::ApprovalEnded { .. }), "{ended}");
    assert_eq!(ended.remedy(), Remedy::Quarantine);
    let asked = approval(client.issue(&request("pump-3")).await);
    site.person(&format!("approve?user_code={}", asked.code)).await;
    client.issue(&request("pump-3")).await.unwrap();
    client.issue(&request("pump-3")).await.expect("the new family is kept and rotates");
}

#[tokio::test]
async fn revoking_a_device_ends_its_family_at_the_server() {
    let (site, shelf) = (Site::start(), Arc::<Shelf>::default());
    let client = approved(&site, &shelf).await;
    let family = shelf.kept.lock().unwrap()[&pump()].clone();
    client.revoke(&request("pump-3"), None, "sold").await.unwrap();
    assert!(shelf.kept.lock().unwrap().is_empty());
    let other = Arc::<Shelf>::default();
    other.keep(&pump(), &refresh_token(family)).unwrap();
    let refused = site.client(Grant::DeviceCode, &other).issue(&request("pump-3")).await.unwrap_err();
    assert!(matches!(refused, IssuerError::ApprovalEnded { .. }), "{refused}");
}

#[tokio::test]
async fn a_server_that_cannot_revoke_access_tokens_is_named_and_not_asked_again() {
    let site = Site::start();
    let client = site.client(Grant::ClientCredentials, &Arc::default());
    let token = client.issue(&request("pump-3")).await.unwrap();
    let problem = client.revoke(&request("pump-3"), Some(&token), "sold").await.unwrap_err();
    assert!(matches!(problem, IssuerError::CannotRevoke { .. }), "{problem}");

    let keeper = keeper(&site, Grant::ClientCredentials);
    let handle = keeper.add(&pump(), grant()).unwrap();
    until(&handle, |state| matches!(state, TokenState::Valid(_))).await;
    assert!(matches!(keeper.revoke(&pump(), "sold").await, Err(KeeperError::NotAtIssuer(_))));
    assert!(matches!(*handle.watch().borrow(), TokenState::Revoked { .. }), "cut off here whatever the server says");
    assert_eq!(keeper.status(&pump()).unwrap().next_request_in_s, None);
}

#[tokio::test]
async fn the_keeper_shows_what_a_person_must_do_and_goes_on_when_it_is_done() {
    let site = Site::start();
    let keeper = keeper(&site, Grant::DeviceCode);
    let handle = keeper.add(&pump(), grant()).unwrap();
    let waiting = until(&handle, |state| matches!(state, TokenState::Waiting { approval: Some(_), .. })).await;
    let TokenState::Waiting { approval: Some(asked), .. } = waiting else { panic!("{waiting:?}") };
    let status = keeper.status(&pump()).unwrap();
    assert_eq!((status.state.as_str(), status.failures), ("waiting", 0), "waiting for a person is no failure");
    assert!(status.reason.unwrap().contains(&asked.code), "token ls says what to do");
    site.person(&format!("approve?user_code={}", asked.code)).await;
    until(&handle, |state| matches!(state, TokenState::Valid(_))).await;
}

#[tokio::test]
async fn a_device_that_the_site_takes_away_is_paused_and_its_neighbour_goes_on() {
    let site = Site::with_life(5);
    let keeper = keeper(&site, Grant::ClientCredentials);
    let short = || keeper::Grant { life: Duration::from_secs(5), ..grant() };
    let pump_3 = keeper.add(&pump(), short()).unwrap();
    let pump_4 = keeper.add(&"pump-4".parse().unwrap(), short()).unwrap();
    for handle in [&pump_3, &pump_4] {
        until(handle, |state| matches!(state, TokenState::Valid(_))).await;
    }
    site.person("forget?device=pump-3").await;
    let paused = until(&pump_3, |state| matches!(state, TokenState::Quarantined { .. })).await;
    let TokenState::Quarantined { reason } = paused else { panic!("{paused:?}") };
    assert!(reason.contains("gw-1 has no device pump-3") && reason.contains(&site.url), "{reason}");
    let before = keeper.status(pump_4.device()).unwrap().refreshes;
    let refreshed = async {
        while keeper.status(pump_4.device()).unwrap().refreshes < before + 2 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(SOON, refreshed).await.expect("the neighbour's token was not refreshed");
}

fn grant() -> keeper::Grant {
    keeper::Grant {
        scope: vec![Scope::TelemetryWrite],
        life: Duration::from_secs(300),
        audience: AUDIENCE.to_owned(),
        limits: Limits::default(),
    }
}

fn keeper(site: &Site, grant: Grant) -> TokenKeeper {
    let options = KeeperOptions { tenant: "default".to_owned(), gateway: "gw-1".to_owned(), stage: Stage::default() };
    TokenKeeper::new(Arc::new(site.client(grant, &Arc::default())), options, Clock::system())
}

async fn until(handle: &clawgate::token::TokenHandle, wanted: impl Fn(&TokenState) -> bool) -> TokenState {
    let mut states = handle.watch();
    let state = tokio::time::timeout(SOON, states.wait_for(|state| wanted(state))).await;
    state.expect("that never happened").unwrap().clone()
}

#[tokio::test]
async fn a_gateway_gets_a_token_of_its_own_by_its_own_rights_however_it_gets_its_devices() {
    let site = Site::start();
    let own = TokenRequest {
        device: DeviceId::gateway(),
        scope: vec![Scope::StatusWrite, Scope::CommandRead],
        ..request("pump-3")
    };
    for grant in [Grant::ClientCredentials, Grant::TokenExchange, Grant::DeviceCode] {
        let token = site.client(grant, &Arc::default()).issue(&own).await.unwrap();
        assert_eq!(token.claims().sub, "_gateway", "{grant:?}");
        assert!(token.allows("claw/v1/default/gw-1/_gateway/up/status", Action::Publish));
        assert!(token.allows("claw/v1/default/gw-1/_gateway/down/cmd/+", Action::Subscribe));
        assert!(!token.allows("claw/v1/default/gw-1/pump-3/up/telemetry", Action::Publish));
        assert!(site.good_at_the_broker(&token), "{grant:?}");
    }
}

/// `clawgate enroll --json` with this initial access token.
fn enroll(folder: &std::path::Path, site: &Site, token: Option<&str>) -> (bool, Value) {
    let config = format!(
        "state_dir = \"{}\"\n[gateway]\nid = \"gw-9\"\n[broker]\nurl = \"mqtt://127.0.0.1\"\n\
         [issuer]\nkind = \"oauth\"\nurl = {:?}\naudience = {AUDIENCE:?}\nclient_key = \"{}\"\n",
        folder.join("state").display(),
        site.url,
        folder.join("gw.pem").display(),
    );
    std::fs::write(folder.join("clawgate.toml"), config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_clawgate"));
    command.args(["enroll", "--json", "--config"]).arg(folder.join("clawgate.toml")).stdin(Stdio::null());
    command.env_remove("OPENCLAW_ENROLL_TOKEN").envs(token.map(|token| ("OPENCLAW_ENROLL_TOKEN", token)));
    let done = command.output().unwrap();
    (done.status.success(), serde_json::from_slice(&done.stdout).unwrap())
}

#[tokio::test]
async fn a_gateway_registers_itself_once_and_gets_tokens_under_the_id_it_was_given() {
    let site = Site::with_registration("initial-canary-7c1f");
    let folder = tempfile::tempdir().unwrap();
    let (ok, shown) = enroll(folder.path(), &site, None);
    assert!(ok && shown["registered"] == "no" && shown["thumbprint"] == shown["jwk"]["kid"], "{shown}");
    let (ok, refused) = enroll(folder.path(), &site, Some("wrong"));
    assert!(!ok && refused["message"].as_str().unwrap().contains("invalid_token"), "{refused}");
    let (ok, first) = enroll(folder.path(), &site, Some("initial-canary-7c1f"));
    assert!(ok, "{first}");
    assert_eq!((&first["registered"], &first["configured"]), (&json!("now"), &json!(false)), "{first}");
    let (_, again) = enroll(folder.path(), &site, Some("initial-canary-7c1f"));
    assert_eq!((&again["registered"], &again["client_id"]), (&json!("before"), &first["client_id"]), "{again}");
    assert!(!first.to_string().contains("canary"));
    for file in ["gw.pem", "gw.pem.registration"] {
        use std::os::unix::fs::MetadataExt as _;
        assert_eq!(std::fs::metadata(folder.path().join(file)).unwrap().mode() & 0o777, 0o600, "{file}");
    }
    let options = OauthOptions {
        url: site.url.clone(),
        client_id: first["client_id"].as_str().unwrap().to_owned(),
        key: SigningKey::load(&folder.path().join("gw.pem")).unwrap(),
        ca: None,
        certificate: None,
    };
    let client = OauthIssuer::new(options, Clock::system()).unwrap();
    let asked = TokenRequest { gateway: "gw-9".to_owned(), ..request("pump-9") };
    let token = client.issue(&asked).await.unwrap();
    assert_eq!(token.claims().sub, "pump-9");
}

/// The daemon, a site's server and mosquitto with the plugin: a person says yes where `pair` says, and what the sensor
/// measures goes through.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_a_person_approves_while_it_is_paired_delivers_its_first_reading() {
    let folder = tempfile::tempdir().unwrap();
    let key_file = folder.path().join("gw-1.pem");
    let made = Command::new(env!("CARGO_BIN_EXE_clawgate")).args(["issuer", "key"]).arg(&key_file).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let site = Site::of(SigningKey::load(&key_file).unwrap(), 300);
    let broker_folder = tempfile::tempdir().unwrap();
    std::fs::write(broker_folder.path().join("jwks"), serde_json::to_string(&site.jwks).unwrap()).unwrap();
    DenyList::open(&broker_folder.path().join("denylist")).unwrap();
    let rules = plugin::config(&site.url);
    let rules = rules.replace("plugin_opt_audience claw", &format!("plugin_opt_audience {AUDIENCE}"));
    let broker = Mosquitto::start_in(broker_folder, &rules);
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
