//! The gateway registers its key at its server, once; and every way in which that comes to nothing says so.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use clawgate::clock::Clock;
use clawgate::token::key::SigningKey;
use clawgate::token::oauth::{OauthIssuer, OauthOptions};
use clawgate::token::{Issuer as _, TokenRequest};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};

use super::authority::authority;
use super::server::{AUDIENCE, Site, request};
use super::support;

/// `clawgate enroll --json` at this server, with this added to `[issuer]`, and this initial access token.
fn enroll(folder: &Path, url: &str, issuer: &str, token: Option<&str>) -> (bool, Value) {
    let config = format!(
        "state_dir = \"{}\"\n[gateway]\nid = \"gw-9\"\n[broker]\nurl = \"mqtt://127.0.0.1\"\n\
         [issuer]\nkind = \"oauth\"\nurl = {url:?}\naudience = {AUDIENCE:?}\nclient_key = \"{}\"\n{issuer}\n",
        folder.join("state").display(),
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
    let (ok, shown) = enroll(folder.path(), &site.url, "", None);
    assert!(ok && shown["registered"] == "no" && shown["thumbprint"] == shown["jwk"]["kid"], "{shown}");
    let (ok, refused) = enroll(folder.path(), &site.url, "", Some("wrong"));
    assert!(!ok && refused["message"].as_str().unwrap().contains("invalid_token"), "{refused}");
    let (ok, first) = enroll(folder.path(), &site.url, "", Some("initial-canary-7c1f"));
    assert!(ok, "{first}");
    assert_eq!((&first["registered"], &first["configured"]), (&json!("now"), &json!(false)), "{first}");
    let (_, again) = enroll(folder.path(), &site.url, "", Some("initial-canary-7c1f"));
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

/// A refusal with these words of what happened and of what to do.
#[track_caller]
fn says(refused: &(bool, Value), message: &str, next_step: &str) {
    let text = |field: &str| refused.1[field].as_str().unwrap_or_default().to_owned();
    assert!(!refused.0 && refused.1["exit_code"] == 7, "{refused:?}");
    assert!(text("message").contains(message), "{refused:?}");
    assert!(text("next_step").contains(next_step), "{refused:?}");
    assert!(!refused.1.to_string().contains("canary"), "{refused:?}");
}

#[tokio::test]
async fn who_cannot_register_is_told_why_and_whether_the_server_knows_the_key_now() {
    const TOKEN: &str = "initial-canary-7c1f";
    let site = Site::with_registration(TOKEN);
    let folder = tempfile::tempdir().unwrap();
    let at = |url: &str, issuer: &str, token: &str| enroll(folder.path(), url, issuer, Some(token));
    says(
        &at(&site.url, "", "wrong-canary"),
        "refused the registration: 401 invalid_token",
        "another initial access token",
    );
    let closed = Site::start();
    says(&at(&closed.url, "", TOKEN), "offers no registration", "by hand");

    let away = format!("http://127.0.0.1:{}", support::free_port());
    says(&at(&away, "", TOKEN), "did not answer", "Nothing was registered. See that it runs");

    // A server whose certificate comes from elsewhere.
    for ca in ["ours", "theirs"] {
        authority(folder.path(), ca, |_| {});
    }
    let port = over_tls(folder.path(), "theirs");
    let ca = format!("ca = {:?}", folder.path().join("ours.pem").display().to_string());
    says(&at(&format!("https://localhost:{port}"), &ca, TOKEN), "certificate", "does not come from issuer.ca");

    // One that hears the registration and never answers.
    let answers = |head: &'static str, body: &'static str| {
        let port = one_that_registers(head, body);
        at(&format!("http://127.0.0.1:{port}"), "", TOKEN)
    };
    says(&answers("", ""), "/reg did not answer", "It may have registered this key");
    // One that answers, and registers nobody.
    let metadata = r#"{"error":"invalid_client_metadata","error_description":"no such method"}"#;
    says(
        &answers("400 Bad Request", metadata),
        "400 invalid_client_metadata: no such method",
        "private_key_jwt and ES256",
    );
    says(&answers("429 Too Many Requests", "slowly"), "429", "enroll again later");
    says(&answers("200 OK", "<html>welcome</html>"), "/reg", "names an OAuth server");

    // Through all of it the key is one, and where nothing was registered it still can be; once it is, no server is asked.
    let (ok, now) = at(&site.url, "", TOKEN);
    assert!(ok && now["registered"] == "now", "{now}");
    let url = site.url.clone();
    drop(site);
    let (ok, before) = at(&url, "", TOKEN);
    assert!(ok && before["registered"] == "before" && before["client_id"] == now["client_id"], "{before}");
    assert_eq!(before["thumbprint"], now["thumbprint"]);
}

/// Shakes hands with the certificate of this authority's leaf, and no more.
fn over_tls(folder: &Path, ca: &str) -> u16 {
    let chain = vec![CertificateDer::from_pem_file(folder.join(format!("{ca}-leaf.pem"))).unwrap()];
    let key = PrivateKeyDer::from_pem_file(folder.join(format!("{ca}-leaf.key"))).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap());
    serve(move |mut stream| {
        let mut tls = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
        let _ = tls.complete_io(&mut stream);
    })
}

/// Says where a client registers, and answers who does with this; without a head it hangs up.
fn one_that_registers(head: &'static str, body: &'static str) -> u16 {
    serve(move |stream| {
        let port = stream.local_addr().unwrap().port();
        let mut reader = BufReader::new(&stream);
        let mut lines = reader.by_ref().lines().map_while(Result::ok);
        let asked = lines.next().unwrap_or_default();
        let length = |line: &String| line.to_lowercase().strip_prefix("content-length: ")?.parse::<u64>().ok();
        let sent = lines.by_ref().take_while(|line| !line.is_empty()).filter_map(|line| length(&line)).sum::<u64>();
        let answer = |head: &str, body: &str| {
            let _ = write!(
                &stream,
                "HTTP/1.1 {head}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
        };
        if !asked.starts_with("GET") {
            if !head.is_empty() {
                // Heard to the end: who hangs up before that is one that did not answer.
                let _ = std::io::copy(&mut reader.by_ref().take(sent), &mut std::io::sink());
                answer(head, body);
            }
            return;
        }
        let url = format!("http://127.0.0.1:{port}");
        let metadata = json!({
            "issuer": url, "token_endpoint": format!("{url}/token"), "registration_endpoint": format!("{url}/reg"),
        });
        answer("200 OK", &metadata.to_string());
    })
}

/// Every connection to a port on loopback, for the rest of the test.
fn serve(each: impl Fn(TcpStream) + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || listener.incoming().map_while(Result::ok).for_each(each));
    port
}
