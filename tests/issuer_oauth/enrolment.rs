//! The gateway registers its key at its server, once; and every way in which that comes to nothing says so.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use clawgate::clock::Clock;
use clawgate::ids::DeviceId;
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
    run(folder, &["enroll"], token)
}

/// A verb that reads that configuration, with `--json`.
fn run(folder: &Path, verb: &[&str], token: Option<&str>) -> (bool, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clawgate"));
    command.args(verb).args(["--json", "--config"]).arg(folder.join("clawgate.toml")).stdin(Stdio::null());
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

/// Whether the server takes this key for the client.
async fn takes(url: &str, client_id: &str, key: &SigningKey) -> bool {
    let (client_id, key) = (client_id.to_owned(), key.clone());
    let options = OauthOptions { url: url.to_owned(), client_id, key, ca: None, certificate: None };
    let asked = TokenRequest { device: DeviceId::gateway(), ..request("pump-3") };
    match OauthIssuer::new(options, Clock::system()).unwrap().issue(&asked).await {
        Ok(_) => true,
        Err(refused) => {
            assert!(refused.to_string().contains("invalid_client"), "{refused}");
            false
        }
    }
}

#[tokio::test]
async fn the_key_is_changed_at_a_server_that_lets_its_clients_and_the_old_one_is_good_until_then() {
    const TOKEN: &str = "initial-canary-7c1f";
    let site = Site::with_registration(TOKEN);
    let folder = tempfile::tempdir().unwrap();
    let (file, kept) = (folder.path().join("gw.pem"), folder.path().join("gw.pem.registration"));
    let id = enroll(folder.path(), &site.url, "", Some(TOKEN)).1["client_id"].as_str().unwrap().to_owned();
    let rotate = || run(folder.path(), &["key", "rotate", "client"], None);
    let (ok, other) = rotate();
    assert!(!ok && other["message"].as_str().unwrap().contains(&id), "the configuration names another client: {other}");
    enroll(folder.path(), &site.url, &format!("client_id = {id:?}"), None);
    let first = SigningKey::load(&file).unwrap();
    let registration = || -> Value { serde_json::from_str(&std::fs::read_to_string(&kept).unwrap()).unwrap() };
    let access = registration()["registration_access_token"].clone();

    let mut keys = vec![first.clone()];
    for _ in 0..2 {
        let (ok, rotated) = rotate();
        assert!(ok && rotated["in_use"] == true, "{rotated}");
        let key = SigningKey::load(&file).unwrap();
        assert!(rotated["thumbprint"] == key.public().kid && registration()["thumbprint"] == key.public().kid);
        assert!(!rotated.to_string().contains(registration()["registration_access_token"].as_str().unwrap()));
        assert!(takes(&site.url, &id, &key).await, "the server does not know the new key");
        for old in &keys {
            assert!(!takes(&site.url, &id, old).await, "the server still takes an old key");
        }
        keys.push(key);
    }
    assert_ne!(registration()["registration_access_token"], access, "this server gives another one each time");
    assert!(!folder.path().join("gw.pem.next").exists());

    // It lets this gateway change nothing any more: the key in use stays.
    let mut spoilt = registration();
    spoilt["registration_access_token"] = json!("spoilt-canary");
    std::fs::write(&kept, spoilt.to_string()).unwrap();
    let refused = rotate();
    says(&refused, "401", "have its administrator put the key there");
    assert!(refused.1["message"].as_str().unwrap().contains("The old key is in use as before"), "{refused:?}");
    assert_eq!(SigningKey::load(&file).unwrap().public().kid, keys.last().unwrap().public().kid);
    assert!(takes(&site.url, &id, keys.last().unwrap()).await);
}

/// Cut off after the server gave another registration access token with its answer, and before that was on the disk.
#[tokio::test]
async fn a_change_whose_answer_was_lost_is_finished_and_what_is_left_to_a_person_is_said() {
    const TOKEN: &str = "initial-canary-7c1f";
    let site = Site::with_registration(TOKEN);
    let folder = tempfile::tempdir().unwrap();
    let (file, kept) = (folder.path().join("gw.pem"), folder.path().join("gw.pem.registration"));
    let id = enroll(folder.path(), &site.url, "", Some(TOKEN)).1["client_id"].as_str().unwrap().to_owned();
    enroll(folder.path(), &site.url, &format!("client_id = {id:?}"), None);
    let old = SigningKey::load(&file).unwrap();
    let registration = || -> Value { serde_json::from_str(&std::fs::read_to_string(&kept).unwrap()).unwrap() };
    let rotate = || run(folder.path(), &["key", "rotate", "client"], None);

    let mut through = registration();
    let place = through["registration_client_uri"].as_str().unwrap().to_owned();
    let (_, path) = place.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let port = one_that_swallows_what_follows_a_change(&site.url, &kept);
    through["registration_client_uri"] = json!(format!("http://127.0.0.1:{port}/{path}"));
    std::fs::write(&kept, through.to_string()).unwrap();
    says(&rotate(), "did not answer", "Run clawgate key rotate client again later");
    assert_eq!(SigningKey::load(&file).unwrap().public().kid, old.public().kid, "the old key is in use as before");
    assert_eq!(registration()["unanswered"], true);
    let new = SigningKey::load(&folder.path().join("gw.pem.next")).unwrap();
    assert!(takes(&site.url, &id, &old).await && takes(&site.url, &id, &new).await, "it has both");

    let mut straight = registration();
    straight["registration_client_uri"] = json!(place);
    std::fs::write(&kept, straight.to_string()).unwrap();
    let finished = rotate();
    says(&finished, "401", &format!("take the old key ({}) out of the client {id}", old.public().kid));
    let message = finished.1["message"].as_str().unwrap();
    assert!(message.contains("cut off before the server's answer"), "{message}");
    assert!(message.contains("The new key is in use"), "{message}");
    assert_eq!(SigningKey::load(&file).unwrap().public().kid, new.public().kid);
    assert_eq!(registration()["thumbprint"], new.public().kid);
    assert!(!folder.path().join("gw.pem.next").exists());

    // The next change is not hidden behind it, either.
    says(&rotate(), "cut off before the server's answer", "have its administrator put the key there");
    assert_eq!(SigningKey::load(&file).unwrap().public().kid, new.public().kid);
}

#[tokio::test]
async fn where_a_person_changes_the_key_the_new_one_waits_until_the_server_takes_it() {
    let folder = tempfile::tempdir().unwrap();
    let client = "client_id = \"gw-1\"";
    let before = Site::start();
    let file = folder.path().join("gw.pem");
    enroll(folder.path(), &before.url, client, None);
    let old = SigningKey::load(&file).unwrap().public().kid.clone();
    let rotate = || run(folder.path(), &["key", "rotate", "client"], None);
    let (ok, waits) = rotate();
    assert!(ok && waits["in_use"] == false && waits["thumbprint"] != old.as_str(), "{waits}");
    let next_step = waits["next_step"].as_str().unwrap();
    assert!(
        next_step.contains("client gw-1 at ") && next_step.contains("run clawgate key rotate client again"),
        "{waits}"
    );
    assert!(waits["jwk"]["kid"] == waits["thumbprint"] && waits["public_pem"].as_str().unwrap().contains("PUBLIC KEY"));
    let (_, again) = rotate();
    assert_eq!(again["thumbprint"], waits["thumbprint"], "there is one new key, however often it is asked for");
    assert_eq!(SigningKey::load(&file).unwrap().public().kid, old, "nothing has changed");

    // A person put it there.
    let after = Site::of(SigningKey::load(&folder.path().join("gw.pem.next")).unwrap(), 300);
    enroll(folder.path(), &after.url, client, None);
    let (ok, taken) = rotate();
    assert!(ok && taken["in_use"] == true && taken["thumbprint"] == waits["thumbprint"], "{taken}");
    assert!(taken["next_step"].as_str().unwrap().contains(&format!("Take the old key ({old}) out")), "{taken}");
    assert!(takes(&after.url, "gw-1", &SigningKey::load(&file).unwrap()).await);
    assert!(!folder.path().join("gw.pem.next").exists());
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
    let silent = format!("http://127.0.0.1:{}", one_that_registers("", ""));
    says(&at(&silent, "", TOKEN), "/reg did not answer", "It may have registered this key");
    // Nor is it asked again, as if it had not: a second client would be nobody's.
    let mark = folder.path().join("gw.pem.enrolling");
    says(&at(&silent, "", TOKEN), "was asked to register this key", &format!("remove {}", mark.display()));
    let (ok, shown) = enroll(folder.path(), &silent, "", None);
    assert!(ok && shown["registered"] == "no", "the key can be shown all the same: {shown}");
    // What cannot be noted is not begun.
    std::fs::create_dir(folder.path().join("gw.pem.enrolling.new")).unwrap();
    let (ok, refused) = at(&site.url, "", TOKEN);
    assert!(!ok && refused["message"].as_str().unwrap().contains("Nothing was registered"), "{refused}");
    std::fs::remove_dir(folder.path().join("gw.pem.enrolling.new")).unwrap();
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
    assert!(!mark.exists(), "who was told no, or yes, is not held up");
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

/// Passes requests on to the server at `url`, and hangs up in place of the answer to a change. That one is awaited stands
/// in the file `kept` then.
fn one_that_swallows_what_follows_a_change(url: &str, kept: &Path) -> u16 {
    let (server, kept) = (url.strip_prefix("http://").unwrap().to_owned(), kept.to_owned());
    serve(move |stream| {
        let mut reader = BufReader::new(&stream);
        let mut lines = reader.by_ref().lines().map_while(Result::ok);
        let asked = lines.next().unwrap_or_default();
        let mut head = format!("{asked}\r\nhost: {server}\r\nconnection: close\r\n");
        let mut length = 0;
        for line in lines.by_ref().take_while(|line| !line.is_empty()) {
            let (name, value) = line.split_once(": ").unwrap();
            match name.to_lowercase().as_str() {
                "host" | "connection" => continue,
                "content-length" => length = value.parse().unwrap(),
                _ => {}
            }
            head.push_str(&line);
            head.push_str("\r\n");
        }
        let mut onward = TcpStream::connect(&server).unwrap();
        write!(onward, "{head}\r\n").unwrap();
        std::io::copy(&mut reader.by_ref().take(length), &mut onward).unwrap();
        let mut answer = Vec::new();
        onward.read_to_end(&mut answer).unwrap();
        if asked.starts_with("GET") {
            // It names the server's own place for the next request.
            let answer = String::from_utf8(answer).unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            let port = stream.local_addr().unwrap().port();
            let body = body.replace(&format!("http://{server}"), &format!("http://127.0.0.1:{port}"));
            let is_length = |line: &&str| !line.to_lowercase().starts_with("content-length: ");
            let head: Vec<_> = head.split("\r\n").filter(is_length).collect();
            let _ = write!(&stream, "{}\r\ncontent-length: {}\r\n\r\n{body}", head.join("\r\n"), body.len());
        } else {
            assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
            let noted: Value = serde_json::from_str(&std::fs::read_to_string(&kept).unwrap()).unwrap();
            assert_eq!(noted["unanswered"], true, "it was asked before that was on the disk");
        }
    })
}

/// Every connection to a port on loopback, for the rest of the test.
fn serve(each: impl Fn(TcpStream) + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || listener.incoming().map_while(Result::ok).for_each(each));
    port
}
