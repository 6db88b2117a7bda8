//! The client against a vault that answers everything it can answer.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::{Arc, Mutex};

use super::*;
use crate::secret_source::SourceError;

const TOKEN: &str = "hvs.canary-token";
const SECRET_ID: &str = "canary-secret-id";
const LOGIN: &str = r#"{"auth":{"client_token":"hvs.of-the-login","lease_duration":60,"renewable":true}}"#;
const SECRET: &str = r#"{"data":{"data":{"key":"-----BEGIN\n x","port":7},"metadata":{"version":3}}}"#;

/// A request as the server got it: its first line, its headers, its body.
type Seen = Arc<Mutex<Vec<(String, String, String)>>>;

/// Serves each connection by `answer`, until the test ends.
struct Server {
    url: String,
    seen: Seen,
    folder: tempfile::TempDir,
}

impl Server {
    fn start(answer: impl Fn(&str, &mut TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Seen::default();
        let kept = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let Some(request) = read(&stream) else { continue };
                let line = request.0.clone();
                kept.lock().unwrap().push(request);
                answer(&line, &mut stream);
            }
        });
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in [("token", format!("{TOKEN}\n")), ("secret-id", SECRET_ID.to_owned())] {
            let file = File::options().write(true).create_new(true).mode(0o600).open(folder.path().join(name));
            file.unwrap().write_all(content.as_bytes()).unwrap();
        }
        Self { url, seen, folder }
    }

    /// One that gives the same answer to all.
    fn saying(status: u16, header: &'static str, body: &str) -> Self {
        let body = body.to_owned();
        Self::start(move |_, stream| reply(stream, status, header, &body))
    }

    fn with_token(&self) -> VaultConfig {
        let token = Some(SecretSource::File(self.folder.path().join("token")));
        VaultConfig { url: Some(self.url.clone()), namespace: Some("site".to_owned()), token, ..VaultConfig::default() }
    }

    fn with_role(&self) -> VaultConfig {
        let secret_id = Some(SecretSource::File(self.folder.path().join("secret-id")));
        let role_id = Some("gateway".to_owned());
        VaultConfig { url: Some(self.url.clone()), role_id, secret_id, ..VaultConfig::default() }
    }

    fn requests(&self) -> Vec<(String, String, String)> {
        self.seen.lock().unwrap().clone()
    }
}

fn read(stream: &TcpStream) -> Option<(String, String, String)> {
    let mut reader = BufReader::new(stream);
    let (mut first, mut headers) = (String::new(), String::new());
    reader.read_line(&mut first).ok()?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        headers.push_str(&line.to_lowercase());
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((first.trim().to_owned(), headers, String::from_utf8(body).ok()?))
}

fn reply(stream: &mut TcpStream, status: u16, header: &str, body: &str) {
    let length = body.len();
    let _ =
        write!(stream, "HTTP/1.1 {status} X\r\nconnection: close\r\n{header}content-length: {length}\r\n\r\n{body}");
}

fn ask(config: &VaultConfig) -> Result<Secret<Vec<u8>>, SourceError> {
    let secrets = Secrets::new(config, Clock::manual(Duration::from_secs(1_795_298_400)));
    secrets.read(&"vault:sites/roof#key".parse().unwrap())
}

/// The refusal, and that no secret of ours is in its words.
fn refusal(config: &VaultConfig) -> (VaultError, String) {
    let error = ask(config).unwrap_err();
    let said = error.to_string();
    for secret in [TOKEN, SECRET_ID, "BEGIN", "hvs."] {
        assert!(!said.contains(secret), "{said}");
    }
    assert!(said.len() < 600 && said.is_ascii(), "{said}");
    match error {
        SourceError::Vault(error) => (error, said),
        other => panic!("{other}"),
    }
}

#[test]
fn a_field_is_read_with_a_token_from_a_file() {
    let server = Server::saying(200, "", SECRET);
    assert_eq!(ask(&server.with_token()).unwrap().expose(), b"-----BEGIN\n x");
    let (first, headers, _) = server.requests().remove(0);
    assert_eq!(first, "GET /v1/secret/data/sites/roof HTTP/1.1");
    assert!(headers.contains(&format!("x-vault-token: {TOKEN}\r\n")), "{headers}");
    assert!(headers.contains("x-vault-namespace: site\r\n"), "{headers}");
    // Whoever renews the token in its file is followed.
    std::fs::write(server.folder.path().join("token"), "hvs.newer").unwrap();
    ask(&server.with_token()).unwrap();
    assert!(server.requests()[1].1.contains("x-vault-token: hvs.newer\r\n"));
}

#[test]
fn a_login_by_role_is_used_once_and_given_back() {
    let server = Server::start(|line, stream| match line {
        line if line.contains("/auth/approle/login") => reply(stream, 200, "", LOGIN),
        line if line.contains("revoke-self") => reply(stream, 204, "", ""),
        _ => reply(stream, 200, "", SECRET),
    });
    ask(&server.with_role()).unwrap();
    let seen = server.requests();
    let lines: Vec<_> = seen.iter().map(|(line, _, _)| line.as_str()).collect();
    assert_eq!(
        lines,
        [
            "POST /v1/auth/approle/login HTTP/1.1",
            "GET /v1/secret/data/sites/roof HTTP/1.1",
            "POST /v1/auth/token/revoke-self HTTP/1.1"
        ]
    );
    assert_eq!(seen[0].2, format!(r#"{{"role_id":"gateway","secret_id":"{SECRET_ID}"}}"#));
    assert!(seen[1].1.contains("x-vault-token: hvs.of-the-login\r\n") && seen[2].1.contains("hvs.of-the-login"));
}

#[test]
fn every_refusal_says_what_and_what_to_do_and_shows_no_secret() {
    let echo = format!(r#"{{"errors":["permission denied for {TOKEN} \u001b[2J{}"]}}"#, "x".repeat(5000));
    for (status, header, body, says, heals) in [
        (403, "", echo.as_str(), "policy with read", false),
        (401, "", "{}", "policy with read", false),
        (404, "", r#"{"errors":[]}"#, "check the path", false),
        (429, "retry-after: 7\r\n", "{}", "ask again later", true),
        (500, "", "<html>oops", "ask again later", true),
        (503, "", r#"{"errors":["Vault is sealed"]}"#, "Vault is sealed; it is sealed or on standby: unseal it", true),
        (302, "location: http://127.0.0.1:1/\r\n", "", "HTTP status 302", true),
        (200, "", "garbage", "not the JSON", true),
        (200, "", "{}", "not the JSON", true),
        (200, "", r#"{"data":{"data":{"port":7}}}"#, "no field \"key\"", false),
        (200, "", r#"{"data":{"data":{"key":7}}}"#, "no field \"key\"", false),
    ] {
        let (error, said) = refusal(&Server::saying(status, header, body).with_token());
        assert!(said.contains(says), "{status} {body:.40}: {said}");
        assert_eq!(error.heals(), heals, "{said}");
        assert_eq!(error.retry_after(), (status == 429).then_some(Duration::from_secs(7)), "{said}");
    }
}

#[test]
fn a_login_that_is_refused_is_told_from_a_token_that_may_not_read() {
    for status in [400, 403] {
        let body = format!(r#"{{"errors":["invalid secret id {SECRET_ID}"]}}"#);
        let (error, said) = refusal(&Server::saying(status, "", &body).with_role());
        assert!(matches!(error, VaultError::Login { .. }), "{said}");
        assert!(said.contains("[redacted]") && said.contains("make a new secret id"), "{said}");
    }
    let bad = r#"{"auth":{"client_token":"a\r\nb"}}"#;
    assert!(matches!(refusal(&Server::saying(200, "", bad).with_role()).0, VaultError::Answer { .. }));
}

#[test]
fn an_answer_without_an_end_is_bounded_in_size() {
    let server = Server::start(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 10000000\r\n\r\n");
        for _ in 0..10_000 {
            if stream.write_all(&[b'x'; 1000]).is_err() {
                return;
            }
        }
    });
    let (error, said) = refusal(&server.with_token());
    assert!(matches!(error, VaultError::Answer { .. }) && said.contains("more than 262144 bytes"), "{said}");
}

#[test]
fn a_vault_that_hangs_or_is_not_there_is_given_up() {
    // Held open, so that only the time ends it.
    let held = Mutex::new(Vec::new());
    let hangs = Server::start(move |_, stream| held.lock().unwrap().push(stream.try_clone().unwrap()));
    let (error, said) = refusal(&hangs.with_token());
    assert!(matches!(error, VaultError::Unreachable { .. }) && error.heals(), "{said}");
    // Nobody listens on the first of all ports.
    let (error, _) = refusal(&VaultConfig { url: Some("http://127.0.0.1:1".to_owned()), ..hangs.with_token() });
    assert!(matches!(error, VaultError::Unreachable { .. }));
}

#[test]
fn a_configuration_that_contradicts_itself_is_refused_with_the_key() {
    let server = Server::saying(200, "", SECRET);
    let good = server.with_token();
    assert!(good.check().is_ok() && server.with_role().check().is_ok() && VaultConfig::default().check().is_ok());
    let file = || Some(SecretSource::File("/x".into()));
    for (bad, key) in [
        (VaultConfig { url: None, ..good.clone() }, "vault.url"),
        (VaultConfig { url: Some("http://vault.example".to_owned()), ..good.clone() }, "vault.url"),
        (VaultConfig { token: None, ..good.clone() }, "vault.token"),
        (VaultConfig { secret_id: file(), ..good.clone() }, "vault.token"),
        (VaultConfig { token: Some("env:X".parse().unwrap()), ..good.clone() }, "vault.token"),
        (VaultConfig { token: Some("vault:a#b".parse().unwrap()), ..good.clone() }, "vault.token"),
        (VaultConfig { mount: "a/../b?".to_owned(), ..good.clone() }, "vault.mount"),
    ] {
        assert_eq!(bad.check().unwrap_err().0, key, "{bad:?}");
    }
}
