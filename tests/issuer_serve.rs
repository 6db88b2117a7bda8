//! `clawgate issuer` as a process of its own: keys, tokens, clients read again, revocations kept over a restart.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed test says where by panicking")]

#[path = "support/fixtures.rs"]
mod fixtures;
#[path = "support/ports.rs"]
mod ports;
#[path = "issuer_serve/rotation.rs"]
mod rotation;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clawgate::clock::Clock;
use clawgate::token::key::{Jwks, SigningKey};
use clawgate::token::local::{DenyList, IssuerTime};
use clawgate::token::oauth::{OauthIssuer, OauthOptions};
use clawgate::token::verify::Verifier;
use clawgate::token::{AccessToken, Issuer, TokenRequest};
use ports::free_port;

struct Site {
    dir: tempfile::TempDir,
}

/// A running `issuer serve`; ended when dropped.
struct Serving {
    process: Child,
    url: String,
}

impl Site {
    fn new(port: u16) -> Self {
        let site = Self { dir: tempfile::tempdir().unwrap() };
        for client in ["gw-1", "dash"] {
            let shown = clawgate(&["issuer", "key", site.path(&format!("{client}.pem")).to_str().unwrap()]);
            fs::write(site.path(&format!("{client}.pub")), shown).unwrap();
        }
        site.write_config(port, "[clients.gw-1]\npublic_key = \"gw-1.pub\"\ntenant = \"default\"\n");
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write_config(&self, port: u16, clients: &str) {
        fs::write(self.path("issuer.toml"), format!("listen = \"127.0.0.1:{port}\"\n{clients}")).unwrap();
    }

    fn serve(&self) -> Serving {
        let mut process = Command::new(env!("CARGO_BIN_EXE_clawgate"))
            .args(["--json", "issuer", "serve", "--config"])
            .arg(self.path("issuer.toml"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said: serde_json::Value = serde_json::from_str(&line).unwrap();
        Serving { process, url: said["issuer"].as_str().unwrap().to_owned() }
    }
}

impl Serving {
    fn gateway(&self, site: &Site) -> OauthIssuer {
        let key = SigningKey::load(&site.path("gw-1.pem")).unwrap();
        let options =
            OauthOptions { url: self.url.clone(), client_id: "gw-1".to_owned(), key, ca: None, certificate: None };
        OauthIssuer::new(options, Clock::system()).unwrap()
    }

    fn signal(&self, name: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    /// Whether `token` is good by this issuer's published key and its deny list file.
    fn verifies(&self, site: &Site, token: &AccessToken) -> bool {
        let body = ureq::get(format!("{}/jwks", self.url)).call().unwrap().body_mut().read_to_string().unwrap();
        let jwks: Jwks = serde_json::from_str(&body).unwrap();
        let deny = DenyList::open(&site.path("denylist")).unwrap();
        let time = IssuerTime::starting_at(0, Clock::system());
        Verifier::new(&jwks, &self.url, "claw", deny, time).unwrap().verify(token.bearer().as_bytes()).is_ok()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn clawgate(args: &[&str]) -> Vec<u8> {
    let done = Command::new(env!("CARGO_BIN_EXE_clawgate")).args(args).output().unwrap();
    assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    done.stdout
}

fn request() -> TokenRequest {
    fixtures::request("gw-1", "pump-3", 300)
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata(path).unwrap().mode() & 0o777
}

#[tokio::test]
async fn tokens_and_revocations_survive_a_restart_of_the_issuer() {
    let site = Site::new(free_port());
    let mut serving = site.serve();
    assert_eq!(mode(&site.path("issuer.pem")), 0o600);
    let gateway = serving.gateway(&site);
    let (first, revoked) =
        (gateway.issue(&request()).await.unwrap(), TokenRequest { device: "pump-4".parse().unwrap(), ..request() });
    let token = gateway.issue(&revoked).await.unwrap();
    gateway.revoke(&revoked, Some(&token), "test").await.unwrap();
    serving.signal("-TERM");
    assert!(serving.process.wait().unwrap().success(), "an orderly end");
    let serving = site.serve();
    assert!(serving.verifies(&site, &first));
    assert!(!serving.verifies(&site, &token));
}

#[tokio::test]
async fn a_subscriber_that_is_added_later_gets_its_token_by_the_command_line() {
    let port = free_port();
    let site = Site::new(port);
    let serving = site.serve();
    let key = site.path("dash.pem");
    let ask = ["issuer", "token", "--url", &serving.url, "--client", "dash", "--key", key.to_str().unwrap()];
    let refused = Command::new(env!("CARGO_BIN_EXE_clawgate")).args(ask).output().unwrap();
    assert_eq!(refused.status.code(), Some(7));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("invalid_client"), "{refused:?}");

    site.write_config(port, "[clients.dash]\npublic_key = \"dash.pub\"\ntopics = [\"claw/v1/default/#\"]\n");
    serving.signal("-HUP");
    let deadline = Instant::now() + Duration::from_secs(60);
    let token = loop {
        let done = Command::new(env!("CARGO_BIN_EXE_clawgate")).args(ask).output().unwrap();
        if done.status.success() {
            break String::from_utf8(done.stdout).unwrap();
        }
        assert!(Instant::now() < deadline, "{done:?}");
    };
    let token = AccessToken::received(token.trim().to_owned(), &Clock::system()).unwrap();
    assert_eq!(token.claims().sub, "dash");
}

#[test]
fn a_file_that_is_wrong_exits_78_with_its_line() {
    let site = Site::new(0);
    site.write_config(0, "lifes = \"10m\"\n");
    let done = Command::new(env!("CARGO_BIN_EXE_clawgate"))
        .args(["issuer", "serve", "--config", site.path("issuer.toml").to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(done.status.code(), Some(78));
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(said.contains("issuer.toml: line 2: unknown field `lifes`"), "{said}");
}
