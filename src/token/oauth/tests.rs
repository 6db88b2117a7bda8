//! The client against a server whose answers wait until they may go.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Condvar;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::ids::DeviceId;
use crate::secret::Secret;
use crate::token::Remedy;
use crate::token::local::{DenyList, LocalIssuer};
use crate::token::scope::Scope;

/// Whatever must come, comes within this time.
const DEADLINE: Duration = Duration::from_secs(60);
/// What must not come is waited for so long; a slow machine makes the test weaker, never false.
const MOMENT: Duration = Duration::from_millis(300);

/// The server: refresh tokens `r1`, `r2`, ... , each good once.
struct Server {
    url: String,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Refresh tokens in the order in which they were shown, and those that were revoked.
    used: Vec<String>,
    revoked: Vec<String>,
    /// Access tokens to be given.
    tokens: VecDeque<String>,
    /// Whether answers of the token endpoint may go.
    open: bool,
    /// Refuses, and quotes what it was sent.
    quotes: bool,
    /// So many revocations find it busy.
    busy: usize,
    /// It has no endpoint for them.
    takes_none_back: bool,
}

impl Server {
    fn start() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = Arc::new(Self { url, state: Mutex::default(), changed: Condvar::new() });
        let serving = Arc::clone(&server);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let serving = Arc::clone(&serving);
                std::thread::spawn(move || serving.serve(stream).ok());
            }
        });
        server
    }

    fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        let (mut bytes, mut part) = (Vec::new(), [0; 4096]);
        let (head, form) = loop {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head
                    .lines()
                    .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
                if body.len() >= length.unwrap_or(0_usize) {
                    break (head.to_owned(), body.to_owned());
                }
            }
            match client.read(&mut part)? {
                0 => return Ok(()),
                some => bytes.extend_from_slice(&part[..some]),
            }
        };
        let value = |name: &str| {
            let value = form.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
            value.unwrap_or_default().to_owned()
        };
        let shown = head.lines().find(|line| line.starts_with("authorization: "));
        let (status, body) = if shown.is_some() {
            (403, serde_json::json!({ "error": "access_denied", "error_description": shown }))
        } else if head.starts_with("GET ") {
            let url = &self.url;
            let revocation = (!self.state().takes_none_back).then(|| format!("{url}/revoke"));
            (
                200,
                serde_json::json!({
                    "issuer": url, "token_endpoint": format!("{url}/token"), "revocation_endpoint": revocation,
                }),
            )
        } else if head.starts_with("POST /revoke") {
            let mut state = self.state();
            state.revoked.push(value("token"));
            let is_busy = state.busy > 0;
            state.busy = state.busy.saturating_sub(1);
            (if is_busy { 503 } else { 200 }, serde_json::json!({}))
        } else {
            self.token(&value("refresh_token"), &value("client_assertion"))
        };
        let body = body.to_string();
        let length = body.len();
        write!(client, "HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}")
    }

    fn token(&self, shown: &str, assertion: &str) -> (u16, serde_json::Value) {
        let mut state = self.state();
        state.used.push(shown.to_owned());
        let next = format!("r{}-canary", state.used.len() + 1);
        self.changed.notify_all();
        let (mut state, _) = self.changed.wait_timeout_while(state, DEADLINE, |state| !state.open).unwrap();
        if state.quotes {
            let words = format!("refresh_token={shown} client_assertion={assertion}");
            return (400, serde_json::json!({ "error": "invalid_request", "error_description": words }));
        }
        match state.tokens.pop_front() {
            Some(token) => {
                (200, serde_json::json!({ "access_token": token, "token_type": "Bearer", "refresh_token": next }))
            }
            None => (500, serde_json::json!({})),
        }
    }

    /// Until so many have asked for a token.
    fn asked(&self, times: usize) {
        let (state, _) =
            self.changed.wait_timeout_while(self.state(), DEADLINE, |state| state.used.len() < times).unwrap();
        assert_eq!(state.used.len(), times);
    }

    fn open(&self) {
        self.state().open = true;
        self.changed.notify_all();
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

/// The refresh token of the one device there is.
struct One(Mutex<Option<String>>, AtomicBool);

impl Families for One {
    fn load(&self, _: &DeviceId) -> Result<Option<Secret<String>>, String> {
        Ok(self.0.lock().unwrap().clone().map(Secret::new))
    }

    fn keep(&self, _: &DeviceId, token: &RefreshToken) -> Result<(), String> {
        *self.0.lock().unwrap() = Some(token.token.expose().clone());
        Ok(())
    }

    fn forget(&self, _: &DeviceId) -> Result<(), String> {
        if self.1.load(Ordering::Relaxed) {
            return Err("no space left on device".to_owned());
        }
        *self.0.lock().unwrap() = None;
        Ok(())
    }
}

fn request() -> TokenRequest {
    TokenRequest {
        tenant: "t".to_owned(),
        gateway: "g".to_owned(),
        device: "pump-3".parse().unwrap(),
        scope: vec![Scope::TelemetryWrite],
        life: Duration::from_secs(600),
        audience: "claw".to_owned(),
        limits: Limits::default(),
        stage: Stage::default(),
    }
}

/// A client with the refresh token `r1`, and a server that has two tokens to give.
async fn bed() -> (Arc<Server>, OauthIssuer, Arc<One>) {
    let server = Server::start();
    let key = || SigningKey::generate().unwrap();
    let made = LocalIssuer::new(&server.url, key(), DenyList::in_memory(), Clock::system());
    for _ in 0..2 {
        let token = made.issue(&request()).await.unwrap().bearer().to_owned();
        server.state().tokens.push_back(token);
    }
    let kept = Arc::new(One(Mutex::new(Some("r1-canary".to_owned())), AtomicBool::new(false)));
    let (url, client_id) = (server.url.clone(), "g".to_owned());
    let options = OauthOptions { url, client_id, key: key(), ca: None, certificate: None };
    let families: Arc<dyn Families> = Arc::<One>::clone(&kept);
    let issuer = OauthIssuer::with_grant(options, Grant::DeviceCode, families, Clock::system()).unwrap();
    (server, issuer, kept)
}

fn issue(issuer: &OauthIssuer) -> tokio::task::JoinHandle<Result<AccessToken, IssuerError>> {
    let issuer = issuer.clone();
    tokio::spawn(async move { issuer.issue(&request()).await })
}

/// A refresh that is under way, and for which nobody waits any more.
async fn left_alone(server: &Arc<Server>, issuer: &OauthIssuer) {
    let first = issue(issuer);
    let asked = Arc::clone(server);
    tokio::task::spawn_blocking(move || asked.asked(1)).await.unwrap();
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
}

#[tokio::test]
async fn a_revocation_ends_the_refresh_token_that_was_on_its_way_meanwhile() {
    let (server, issuer, kept) = bed().await;
    left_alone(&server, &issuer).await;
    let mut revoking = tokio::spawn({
        let issuer = issuer.clone();
        async move { issuer.revoke(&request(), None, "stolen").await }
    });
    assert!(tokio::time::timeout(MOMENT, &mut revoking).await.is_err(), "it did not wait for the refresh");
    server.open();
    tokio::time::timeout(DEADLINE, revoking).await.unwrap().unwrap().unwrap();
    assert_eq!(server.state().revoked, ["r2-canary"]);
    assert_eq!(*kept.0.lock().unwrap(), None, "nothing is left to come back with");
}

#[tokio::test]
async fn a_refresh_that_nobody_waits_for_is_not_shown_its_token_again_by_the_next() {
    let (server, issuer, kept) = bed().await;
    left_alone(&server, &issuer).await;
    let mut second = issue(&issuer);
    assert!(tokio::time::timeout(MOMENT, &mut second).await.is_err());
    // A third is given up before its turn: it is never begun.
    let third = issue(&issuer);
    third.abort();
    let _ = third.await;
    server.open();
    tokio::time::timeout(DEADLINE, second).await.unwrap().unwrap().unwrap();
    assert_eq!(server.state().used, ["r1-canary", "r2-canary"]);
    assert_eq!(kept.0.lock().unwrap().as_deref(), Some("r3-canary"));
}

#[tokio::test]
async fn a_server_that_quotes_what_it_was_sent_is_not_quoted() {
    let (server, issuer, _) = bed().await;
    server.state().quotes = true;
    server.open();
    let said = issuer.issue(&request()).await.unwrap_err().to_string();
    assert!(said.contains("refresh_token=[redacted]") && said.contains("invalid_request"), "{said}");
    assert!(!said.contains("canary") && !said.contains("eyJ"), "{said}");
}

#[tokio::test]
async fn a_server_that_is_busy_is_told_of_the_same_refresh_token_again() {
    let (server, issuer, kept) = bed().await;
    server.state().busy = 2;
    for _ in 0..2 {
        let later = issuer.revoke(&request(), None, "stolen").await.unwrap_err();
        assert!(matches!(later, IssuerError::Busy { .. }), "{later}");
        assert_eq!(*kept.0.lock().unwrap(), None, "it is good here no more");
    }
    issuer.revoke(&request(), None, "stolen").await.unwrap();
    issuer.revoke(&request(), None, "stolen").await.unwrap();
    assert_eq!(server.state().revoked, ["r1-canary"; 3], "until it was taken, and no more");
}

#[tokio::test]
async fn a_full_disk_keeps_no_server_from_being_told_of_a_revocation() {
    let (server, issuer, kept) = bed().await;
    kept.1.store(true, Ordering::Relaxed);
    let said = issuer.revoke(&request(), None, "stolen").await.unwrap_err();
    assert!(said.to_string().contains("no space left") && said.remedy() == Remedy::Retry(None), "{said}");
    assert_eq!(server.state().revoked, ["r1-canary"]);
    kept.1.store(false, Ordering::Relaxed);
    issuer.revoke(&request(), None, "stolen").await.unwrap();
    assert_eq!(*kept.0.lock().unwrap(), None);
}

#[tokio::test]
async fn a_server_without_an_endpoint_for_revocations_is_not_asked_again() {
    let (server, issuer, kept) = bed().await;
    server.state().takes_none_back = true;
    let said = issuer.revoke(&request(), None, "stolen").await.unwrap_err();
    assert!(matches!(said, IssuerError::CannotRevoke { .. }) && said.remedy() == Remedy::Quarantine, "{said}");
    assert_eq!(*kept.0.lock().unwrap(), None);
}

#[tokio::test]
async fn a_server_that_quotes_the_access_token_of_a_registration_is_not_quoted() {
    let server = Server::start();
    let registered = Registered {
        client_id: "g".to_owned(),
        registration_client_uri: Some(format!("{}/reg", server.url)),
        registration_access_token: Some("registration-canary".to_owned()),
    };
    let mut managed = Managed::of(registered, &server.url, None).ok().flatten().unwrap();
    let said = tokio::task::spawn_blocking(move || managed.look().err().unwrap().to_string()).await.unwrap();
    assert!(said.contains("access_denied") && !said.contains("canary"), "{said}");
}
