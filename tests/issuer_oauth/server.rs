//! npm's oidc-provider as a process of its own, and what the tests ask it for.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clawgate::clock::Clock;
use clawgate::ids::DeviceId;
use clawgate::secret::Secret;
use clawgate::token::keeper::{self, KeeperOptions, TokenKeeper};
use clawgate::token::key::{Jwks, SigningKey};
use clawgate::token::local::{DenyList, IssuerTime};
use clawgate::token::oauth::{Families, Grant, OauthIssuer, OauthOptions, RefreshToken};
use clawgate::token::scope::Scope;
use clawgate::token::verify::Verifier;
use clawgate::token::{AccessToken, Approval, Issuer as _, IssuerError, Limits, Stage, TokenRequest, TokenState};
use serde_json::{Value, json};
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::fixtures;

pub(crate) const AUDIENCE: &str = "urn:claw:test-broker";
pub(crate) const SOON: Duration = Duration::from_secs(120);

/// A server of a site with two gateways, and the keys of the first.
pub(crate) struct Site {
    server: Child,
    /// The server ends when this is closed.
    _alive: ChildStdin,
    pub(crate) url: String,
    pub(crate) jwks: Jwks,
    pub(crate) key: SigningKey,
    /// The CA that its certificate is of.
    ca: Option<PathBuf>,
}

impl Site {
    pub(crate) fn start() -> Self {
        Self::with_life(300)
    }

    pub(crate) fn with_life(life_s: u64) -> Self {
        Self::with(SigningKey::generate().unwrap(), life_s, None)
    }

    /// A server that lets a gateway register itself with this token.
    pub(crate) fn with_registration(token: &str) -> Self {
        Self::with(SigningKey::generate().unwrap(), 300, Some(token))
    }

    /// The first gateway has this key.
    pub(crate) fn of(key: SigningKey, life_s: u64) -> Self {
        Self::with(key, life_s, None)
    }

    fn with(key: SigningKey, life_s: u64, registration: Option<&str>) -> Self {
        Self::that(key, &json!({ "life_s": life_s, "registration": registration }))
    }

    /// With these keys in its configuration, as server.mjs knows them.
    pub(crate) fn that(key: SigningKey, is: &Value) -> Self {
        let other = SigningKey::generate().unwrap();
        let mut site = json!({
            "clients": {
                "gw-1": { "jwk": key.public(), "devices": ["pump-3", "pump-4", "_gateway"] },
                "gw-2": { "jwk": other.public(), "devices": ["fan-1"] },
            },
            "audience": AUDIENCE,
            "life_s": 300,
            "registered_devices": ["pump-9", "_gateway"],
        });
        for (name, value) in is.as_object().unwrap() {
            site[name] = value.clone();
        }
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/oauth-server");
        let own_node = format!("{folder}/node_modules/.bin/node");
        let node = if Path::new(&own_node).exists() { own_node } else { "node".to_owned() };
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
        Self { _alive: server.stdin.take().unwrap(), server, url, jwks, key, ca: None }
    }

    pub(crate) fn client(&self, grant: Grant, families: &Arc<Shelf>) -> OauthIssuer {
        OauthIssuer::with_grant(self.options(), grant, families.clone(), Clock::system()).unwrap()
    }

    /// How the first gateway reaches it, and as whom.
    pub(crate) fn options(&self) -> OauthOptions {
        OauthOptions {
            url: self.url.clone(),
            client_id: "gw-1".to_owned(),
            key: self.key.clone(),
            ca: self.ca.clone(),
            certificate: None,
        }
    }

    /// Its certificate is of this CA.
    pub(crate) fn trusted_by(mut self, ca: &Path) -> Self {
        self.ca = Some(ca.to_owned());
        self
    }

    /// A token of one of the first gateway's devices.
    pub(crate) async fn token(&self, device: &str) -> AccessToken {
        self.client(Grant::ClientCredentials, &Arc::default()).issue(&request(device)).await.unwrap()
    }

    /// What a person does at the server's page.
    pub(crate) async fn person(&self, does: &str) {
        let url = format!("{}/test/{does}", self.url);
        let ca = self.ca.as_ref().map(|path| Certificate::from_pem(&std::fs::read(path).unwrap()).unwrap());
        let roots = ca.map_or(RootCerts::WebPki, |ca| RootCerts::new_with_certs(&[ca]));
        let tls = TlsConfig::builder().root_certs(roots).build();
        let agent = ureq::Agent::config_builder().tls_config(tls).build().new_agent();
        tokio::task::spawn_blocking(move || agent.get(&url).call().map(drop)).await.unwrap().unwrap();
    }

    /// Good at a broker that knows only this server's keys.
    pub(crate) fn good_at_the_broker(&self, token: &AccessToken) -> bool {
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
pub(crate) struct Shelf {
    pub(crate) kept: Mutex<HashMap<DeviceId, String>>,
    pub(crate) full: Mutex<bool>,
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

pub(crate) fn refresh_token(text: String) -> RefreshToken {
    RefreshToken { token: Secret::new(text), life: None }
}

pub(crate) fn pump() -> DeviceId {
    "pump-3".parse().unwrap()
}

pub(crate) fn request(device: &str) -> TokenRequest {
    TokenRequest { audience: AUDIENCE.to_owned(), ..fixtures::request("gw-1", device, 300) }
}

/// The approval that the issuer waits for.
pub(crate) fn approval(answer: Result<AccessToken, IssuerError>) -> Approval {
    match answer {
        Err(IssuerError::Approval { approval, .. }) => approval,
        other => panic!("no approval was asked for: {other:?}"),
    }
}

/// A client whose device a person has approved.
pub(crate) async fn approved(site: &Site, shelf: &Arc<Shelf>) -> OauthIssuer {
    let client = site.client(Grant::DeviceCode, shelf);
    let asked = approval(client.issue(&request("pump-3")).await);
    site.person(&format!("approve?user_code={}", asked.code)).await;
    client.issue(&request("pump-3")).await.unwrap();
    client
}

pub(crate) fn grant() -> keeper::Grant {
    keeper::Grant {
        scope: vec![Scope::TelemetryWrite],
        life: Duration::from_secs(300),
        audience: AUDIENCE.to_owned(),
        limits: Limits::default(),
    }
}

pub(crate) fn keeper(site: &Site, grant: Grant) -> TokenKeeper {
    let options = KeeperOptions { tenant: "default".to_owned(), gateway: "gw-1".to_owned(), stage: Stage::default() };
    TokenKeeper::new(Arc::new(site.client(grant, &Arc::default())), options, Clock::system())
}

pub(crate) async fn until(handle: &clawgate::token::TokenHandle, wanted: impl Fn(&TokenState) -> bool) -> TokenState {
    let mut states = handle.watch();
    let state = tokio::time::timeout(SOON, states.wait_for(|state| wanted(state))).await;
    state.expect("that never happened").unwrap().clone()
}
