//! `clawgate enroll`: a gateway registers itself (RFC 7591).

use std::process::{Command, Stdio};

use clawgate::clock::Clock;
use clawgate::token::key::SigningKey;
use clawgate::token::oauth::{OauthIssuer, OauthOptions};
use clawgate::token::{Issuer as _, TokenRequest};
use serde_json::{Value, json};

use super::server::{AUDIENCE, Site, request};

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
