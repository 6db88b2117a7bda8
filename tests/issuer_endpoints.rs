//! The issuer's endpoints as OAuth clients meet them: our own client, and one that lies.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed test says where by panicking")]

#[path = "support/fixtures.rs"]
mod fixtures;
#[path = "support/issuer_front.rs"]
mod issuer_front;
mod support;

use std::io::Write as _;
use std::net::TcpListener;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use clawgate::clock::Clock;
use clawgate::standalone::issuer_server::{Client, Clients, IssuerListener, IssuerServer, Rights, ServerOptions};
use clawgate::token::key::{Jwks, SigningKey};
use clawgate::token::local::{DenyList, LocalIssuer};
use clawgate::token::oauth::{OauthIssuer, OauthOptions};
use clawgate::token::scope::Action;
use clawgate::token::{Issuer, IssuerError, Limits, Remedy, Stage, Thumbprint, TokenRequest};
use serde_json::{Value, json};

const READ: &str = "claw/v1/default/+/+/up/#";

struct Bed {
    server: IssuerServer,
    issuer: LocalIssuer,
    url: String,
    gateway_key: SigningKey,
    dash_key: SigningKey,
}

impl Bed {
    async fn start() -> Self {
        let listener = IssuerListener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let url = format!("http://{}", listener.addr());
        let key = SigningKey::generate().unwrap();
        let issuer = LocalIssuer::new(&url, key, DenyList::in_memory(), Clock::system());
        let (gateway_key, dash_key) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        let clients = [
            Client {
                id: "gw-1".to_owned(),
                key: gateway_key.public().clone(),
                rights: Rights::Gateway { tenant: "default".to_owned() },
            },
            Client {
                id: "dash".to_owned(),
                key: dash_key.public().clone(),
                rights: Rights::Subscriber { topics: vec![READ.to_owned()], commands: vec![] },
            },
        ];
        let options = ServerOptions { audience: "claw".to_owned(), life: Duration::from_secs(60), url: None };
        let server = IssuerServer::start(listener, issuer.clone(), Clients::new(clients, None).unwrap(), options);
        Self { server, issuer, url, gateway_key, dash_key }
    }

    fn client(&self, id: &str, key: &SigningKey) -> OauthIssuer {
        client(&self.url, id, key)
    }

    fn gateway(&self) -> OauthIssuer {
        self.client("gw-1", &self.gateway_key)
    }

    /// A plain RFC 7009 request; its status.
    async fn post_revoke(&self, client: &str, key: &SigningKey, token: &str) -> u16 {
        let now = Clock::system().wall().as_secs();
        let jti = format!("{:?}", Instant::now());
        let claims = json!({ "iss": client, "sub": client, "aud": self.url, "exp": now + 60, "jti": jti });
        let assertion = key.sign("JWT", &claims).unwrap();
        let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer".to_owned();
        let form = vec![("token", token.to_owned()), ("client_assertion_type", kind), ("client_assertion", assertion)];
        post(format!("{}/revoke", self.url), form).await.0
    }

    /// A client assertion of the gateway with some claims replaced.
    fn assertion(&self, changes: &Value) -> String {
        let now = Clock::system().wall().as_secs();
        let mut claims = json!({
            "iss": "gw-1", "sub": "gw-1", "aud": self.url, "iat": now, "exp": now + 60, "jti": format!("{:?}", Instant::now()),
        });
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        self.gateway_key.sign("JWT", &claims).unwrap()
    }
}

fn client(url: &str, id: &str, key: &SigningKey) -> OauthIssuer {
    let options =
        OauthOptions { url: url.to_owned(), client_id: id.to_owned(), key: key.clone(), ca: None, certificate: None };
    OauthIssuer::new(options, Clock::system()).unwrap()
}

fn request(gateway: &str, device: &str) -> TokenRequest {
    fixtures::request(gateway, device, 30)
}

/// A raw POST: status and body.
async fn post(url: String, form: Vec<(&'static str, String)>) -> (u16, Value) {
    tokio::task::spawn_blocking(move || {
        let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
        let mut answer = agent.post(&url).send_form(form.iter().map(|(name, value)| (*name, value.as_str()))).unwrap();
        (answer.status().as_u16(), answer.body_mut().read_json().unwrap_or(Value::Null))
    })
    .await
    .unwrap()
}

async fn get(url: String) -> String {
    tokio::task::spawn_blocking(move || ureq::get(&url).call().unwrap().body_mut().read_to_string().unwrap())
        .await
        .unwrap()
}

fn token_form(assertion: &str) -> Vec<(&'static str, String)> {
    let details = r#"[{"type":"clawgate_device","tenant":"default","gateway":"gw-1","device":"pump-3"}]"#;
    vec![
        ("grant_type", "client_credentials".to_owned()),
        ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer".to_owned()),
        ("client_assertion", assertion.to_owned()),
        ("scope", "telemetry:write".to_owned()),
        ("authorization_details", details.to_owned()),
    ]
}

#[tokio::test]
async fn a_gateway_gets_tokens_of_its_devices_that_verify_with_the_published_key() {
    let bed = Bed::start().await;
    let token = bed.gateway().issue(&request("gw-1", "pump-3")).await.unwrap();
    assert_eq!(token.claims().exp - token.claims().iat, 30);
    // What it took to come is gone of it.
    assert!(token.life() <= Duration::from_secs(30) && token.life() > Duration::from_secs(15), "{:?}", token.life());
    assert!(token.allows("claw/v1/default/gw-1/pump-3/up/telemetry", Action::Publish));
    assert_eq!(bed.issuer.verifier("claw").unwrap().verify(token.bearer().as_bytes()).unwrap(), *token.claims());
    let jwks: Jwks = serde_json::from_str(&get(format!("{}/jwks", bed.url)).await).unwrap();
    assert_eq!(jwks, bed.issuer.jwks());
    bed.server.stop().await;
}

#[tokio::test]
async fn a_gateway_with_a_certificate_gets_tokens_that_are_bound_to_it() {
    let bed = Bed::start().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let made = rcgen::generate_simple_self_signed(["gw-1".to_owned()]).unwrap();
    std::fs::write(file.path(), made.cert.pem()).unwrap();
    let certificate = Thumbprint::of_file(file.path()).unwrap();
    let options = OauthOptions {
        url: bed.url.clone(),
        client_id: "gw-1".to_owned(),
        key: bed.gateway_key.clone(),
        ca: None,
        certificate: Some(certificate.clone().into()),
    };
    let gateway = OauthIssuer::new(options, Clock::system()).unwrap();
    let token = gateway.issue(&request("gw-1", "pump-3")).await.unwrap();
    assert_eq!(token.claims().cnf, Some(certificate.into()));
    bed.server.stop().await;
}

#[tokio::test]
async fn a_gateway_gets_nothing_for_another_gateways_devices() {
    let bed = Bed::start().await;
    let refused = bed.gateway().issue(&request("gw-2", "pump-3")).await.unwrap_err();
    assert!(
        matches!(&refused, IssuerError::Refused { code, .. } if code == "invalid_authorization_details"),
        "{refused}"
    );
    let elsewhere = TokenRequest { audience: "other".to_owned(), ..request("gw-1", "pump-3") };
    let refused = bed.gateway().issue(&elsewhere).await.unwrap_err();
    assert!(matches!(&refused, IssuerError::Refused { code, .. } if code == "invalid_target"), "{refused}");
    assert_eq!(refused.remedy(), Remedy::Quarantine);
}

#[tokio::test]
async fn limits_come_as_they_were_asked_and_another_stage_has_another_issuer() {
    let bed = Bed::start().await;
    let limits = Limits::new(vec!["192.0.2.0/24".parse().unwrap()], NonZeroU32::new(5)).unwrap();
    let asked = TokenRequest { limits: limits.clone(), ..request("gw-1", "pump-3") };
    let token = bed.gateway().issue(&asked).await.unwrap();
    assert_eq!((token.claims().limits(), token.claims().claw_stage), (limits, Some(Stage::Prod)));
    let dev = TokenRequest { stage: Stage::Dev, ..request("gw-1", "pump-3") };
    let refused = bed.gateway().issue(&dev).await.unwrap_err();
    assert!(matches!(&refused, IssuerError::Refused { code, .. } if code == "invalid_target"), "{refused}");
    assert!(bed.issuer.issue(&dev).await.is_err(), "nor in this process");
    bed.server.stop().await;
}

#[tokio::test]
async fn a_subscriber_gets_its_own_token_to_read_and_no_devices() {
    let bed = Bed::start().await;
    let dash = bed.client("dash", &bed.dash_key);
    let token = dash.own_token("claw").await.unwrap();
    assert!(token.allows(READ, Action::Subscribe));
    assert!(!token.allows("claw/v1/default/gw-1/pump-3/up/telemetry", Action::Publish));
    let refused = dash.issue(&request("dash", "pump-3")).await.unwrap_err();
    assert!(matches!(&refused, IssuerError::Refused { code, .. } if code == "invalid_scope"), "{refused}");
}

#[tokio::test]
async fn who_cannot_prove_who_it_is_gets_one_answer() {
    let bed = Bed::start().await;
    let url = format!("{}/token", bed.url);
    let now = Clock::system().wall().as_secs();
    let stranger = bed.client("gw-1", &SigningKey::generate().unwrap());
    let refused = stranger.issue(&request("gw-1", "pump-3")).await.unwrap_err();
    assert!(
        matches!(&refused, IssuerError::Refused { status: 401, code, .. } if code == "invalid_client"),
        "{refused}"
    );
    let mut answers = Vec::new();
    for lie in [
        json!({ "iss": "nobody", "sub": "nobody" }),
        json!({ "sub": "dash" }),
        json!({ "iss": "dash", "sub": "dash" }),
        json!({ "aud": "https://other.example" }),
        json!({ "exp": now - 1 }),
        json!({ "exp": now + 3600 }),
        json!({ "jti": "" }),
    ] {
        answers.push(post(url.clone(), token_form(&bed.assertion(&lie))).await);
    }
    answers.push(post(url.clone(), token_form("garbage")).await);
    answers.push(post(url, vec![("grant_type", "client_credentials".to_owned())]).await);
    assert_eq!(answers[0].0, 401);
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
}

#[tokio::test]
async fn an_assertion_is_good_once() {
    let bed = Bed::start().await;
    let form = token_form(&bed.assertion(&json!({})));
    let url = format!("{}/token", bed.url);
    assert_eq!(post(url.clone(), form.clone()).await.0, 200);
    assert_eq!(post(url, form).await.0, 401);
}

#[tokio::test]
async fn revoking_a_token_denies_the_device_and_no_other() {
    let bed = Bed::start().await;
    let gateway = bed.gateway();
    let (asked, other) = (request("gw-1", "pump-3"), request("gw-1", "pump-4"));
    let (token, others) = (gateway.issue(&asked).await.unwrap(), gateway.issue(&other).await.unwrap());
    // Another client's word changes nothing.
    bed.client("dash", &bed.dash_key).revoke(&asked, Some(&token), "test").await.unwrap_err();
    assert_eq!(bed.post_revoke("dash", &bed.dash_key, token.bearer()).await, 200);
    let verifier = bed.issuer.verifier("claw").unwrap();
    verifier.verify(token.bearer().as_bytes()).unwrap();
    gateway.revoke(&asked, Some(&token), "test").await.unwrap();
    verifier.verify(token.bearer().as_bytes()).unwrap_err();
    verifier.verify(others.bearer().as_bytes()).unwrap();
    assert!(get(format!("{}/denylist", bed.url)).await.contains("sub gw-1 pump-3 "));
}

#[tokio::test]
async fn a_device_is_revoked_with_an_expired_token_and_with_none() {
    let bed = Bed::start().await;
    let gateway = bed.gateway();
    let verifier = bed.issuer.verifier("claw").unwrap();
    let short = async |life_s| {
        gateway.issue(&TokenRequest { life: Duration::from_secs(life_s), ..request("gw-1", "pump-3") }).await.ok()
    };
    let expired = fixtures::before_it_ends(short).await;
    support::until("it expires", || verifier.verify(expired.bearer().as_bytes()).is_err()).await;
    let stolen = gateway.issue(&request("gw-1", "pump-3")).await.unwrap();
    verifier.verify(stolen.bearer().as_bytes()).unwrap();
    assert_eq!(bed.post_revoke("gw-1", &bed.gateway_key, expired.bearer()).await, 200);
    verifier.verify(stolen.bearer().as_bytes()).unwrap_err();

    let stolen = gateway.issue(&request("gw-1", "pump-4")).await.unwrap();
    verifier.verify(stolen.bearer().as_bytes()).unwrap();
    gateway.revoke(&request("gw-1", "pump-4"), None, "test").await.unwrap();
    verifier.verify(stolen.bearer().as_bytes()).unwrap_err();
}

#[tokio::test]
async fn clients_change_while_the_server_runs() {
    let bed = Bed::start().await;
    bed.server.replace_clients(Clients::default());
    let refused = bed.gateway().issue(&request("gw-1", "pump-3")).await.unwrap_err();
    assert!(matches!(&refused, IssuerError::Refused { code, .. } if code == "invalid_client"), "{refused}");
}

#[tokio::test]
async fn a_huge_body_is_refused() {
    let bed = Bed::start().await;
    let huge = vec![("scope", "x".repeat(100_000))];
    assert_eq!(post(format!("{}/token", bed.url), huge).await.0, 413);
}

#[tokio::test]
async fn it_listens_on_this_machine_only() {
    assert!(IssuerListener::bind("0.0.0.0:0".parse().unwrap()).await.is_err());
}

/// A server that answers every connection with the same bytes.
fn faulty_server(answer: impl Fn(&str) -> Vec<u8> + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let base = url.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            // To its end: what is closed with bytes unread takes the answer with it.
            let Ok((head, _)) = issuer_front::read(&mut stream) else { continue };
            if head.contains("well-known") {
                let metadata = json!({ "issuer": base, "token_endpoint": format!("{base}/token") }).to_string();
                let _ = stream.write_all(&http(200, "", metadata.as_bytes()));
            } else {
                let _ = stream.write_all(&answer(&head));
            }
        }
    });
    url
}

fn http(status: u16, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n");
    [head.as_bytes(), body].concat()
}

#[tokio::test]
async fn a_faulty_server_costs_a_retry_and_never_more() {
    let key = SigningKey::generate().unwrap();
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let location = format!("location: http://{}/\r\n", elsewhere.local_addr().unwrap());
    let answers: [(&str, Vec<u8>, Option<u64>); 6] = [
        ("500", http(500, "", b"\x1b[2Joops"), None),
        ("429", http(429, "retry-after: 77\r\n", b"{}"), Some(77)),
        ("garbage", http(200, "", b"<html>"), None),
        ("not HTTP", b"\0\0\0\0garbage\r\n\r\n".to_vec(), None),
        ("10 MB", http(200, "", &vec![b' '; 10 << 20]), None),
        ("a redirect", http(302, &location, b""), None),
    ];
    for (what, answer, retry_after) in answers {
        let url = faulty_server(move |_| answer.clone());
        let error = client(&url, "gw-1", &key).issue(&request("gw-1", "pump-3")).await.unwrap_err();
        assert_eq!(error.remedy(), Remedy::Retry(retry_after.map(Duration::from_secs)), "{what}: {error}");
        let shown = error.to_string();
        assert_eq!(what == "10 MB", shown.contains("more than"), "it is not read to its end: {shown}");
        assert!(shown.contains(&url) && !shown.contains('\u{1b}') && shown.len() < 600, "{what}: {shown}");
    }
    assert!(elsewhere.accept().is_err(), "it went where it was redirected to");
}

#[tokio::test]
async fn a_dead_or_a_lying_server_is_told_apart() {
    let key = SigningKey::generate().unwrap();
    let dead = client(&format!("http://127.0.0.1:{}", support::free_port()), "gw-1", &key);
    let error = dead.issue(&request("gw-1", "pump-3")).await.unwrap_err();
    assert!(matches!(error, IssuerError::Unreachable { .. }), "{error}");

    // It answers 200 with a good token: of another device.
    let bed = Bed::start().await;
    let others = bed.gateway().issue(&request("gw-1", "pump-4")).await.unwrap();
    let body = json!({ "access_token": others.bearer(), "token_type": "Bearer", "expires_in": 30 }).to_string();
    let url = faulty_server(move |_| http(200, "", body.as_bytes()));
    let error = client(&url, "gw-1", &key).issue(&request("gw-1", "pump-3")).await.unwrap_err();
    assert!(matches!(error, IssuerError::Mismatch { .. }), "{error}");
    assert_eq!(error.remedy(), Remedy::Quarantine);
}
