//! What the server's answers mean: plain functions over bytes.

use std::time::Duration;

use serde::Deserialize;

use super::DETAIL_TYPE;
use super::approval::Asked;
use super::grant::RefreshToken;
use super::register::Registered;
use crate::clock::Clock;
use crate::http_client::Reply;
pub(super) use crate::http_client::plain;
use crate::secret::Secret;
use crate::token::{AccessToken, CLOCK_TOLERANCE, IssuerError};

/// How often to ask whether a person has approved, where the server does not say (RFC 8628, section 3.2).
const DEFAULT_POLL_S: u64 = 5;
const SHORTEST_POLL: Duration = Duration::from_secs(1);
const LONGEST_POLL: Duration = Duration::from_secs(60);
/// No person takes longer.
const LONGEST_APPROVAL: Duration = Duration::from_secs(3600);
/// A longer URL makes no QR that a phone reads.
const MAX_SHOWN: usize = 512;

/// Where to ask, from the server's metadata (RFC 8414).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoints {
    pub(super) token: String,
    /// Where it binds a token to the certificate that it is shown (RFC 8705); none where it does not.
    pub(super) binding_token: Option<String>,
    pub(super) revocation: Option<String>,
    /// For the approval of a person (RFC 8628, section 4).
    pub(super) device_authorization: Option<String>,
    /// For clients that register themselves (RFC 7591).
    pub(super) registration: Option<String>,
    /// Whether it can be told of a device instead of a token.
    pub(super) knows_devices: bool,
}

#[derive(Deserialize)]
struct Metadata {
    issuer: String,
    token_endpoint: String,
    revocation_endpoint: Option<String>,
    device_authorization_endpoint: Option<String>,
    registration_endpoint: Option<String>,
    #[serde(default)]
    authorization_details_types_supported: Vec<String>,
    #[serde(default)]
    tls_client_certificate_bound_access_tokens: bool,
    #[serde(default)]
    mtls_endpoint_aliases: Aliases,
}

/// The endpoints at which it asks for a certificate, where those are others (RFC 8705, section 5).
#[derive(Deserialize, Default)]
struct Aliases {
    token_endpoint: Option<String>,
}

#[derive(Deserialize)]
struct TokenAnswer {
    access_token: String,
    token_type: String,
    expires_in: Option<u64>,
    refresh_token: Option<String>,
    /// Its life in seconds: no standard names it, two names are usual. What is no number says nothing.
    refresh_expires_in: Option<serde_json::Value>,
    refresh_token_expires_in: Option<serde_json::Value>,
}

impl TokenAnswer {
    /// How long the refresh token is good; 0 says that it has no end.
    fn refresh_life(&self) -> Option<Duration> {
        let told = self.refresh_expires_in.as_ref().or(self.refresh_token_expires_in.as_ref());
        told.and_then(serde_json::Value::as_u64).filter(|seconds| *seconds > 0).map(Duration::from_secs)
    }
}

/// What a token request brought.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) token: AccessToken,
    /// In place of the one that was used.
    pub(super) refresh: Option<RefreshToken>,
}

/// RFC 8628, section 3.2.
#[derive(Deserialize)]
struct DeviceAnswer {
    device_code: String,
    user_code: String,
    verification_uri: String,
    verification_uri_complete: Option<String>,
    expires_in: u64,
    interval: Option<u64>,
}

#[derive(Deserialize)]
struct ErrorAnswer {
    error: String,
    #[serde(default)]
    error_description: String,
}

/// The metadata's URL: the well-known part stands before the issuer's path (RFC 8414, section 3.1).
pub(super) fn metadata_url(issuer: &str) -> String {
    let path_at = issuer.find("://").and_then(|at| issuer[at + 3..].find('/').map(|slash| at + 3 + slash));
    let (base, path) = issuer.split_at(path_at.unwrap_or(issuer.len()));
    format!("{base}/.well-known/oauth-authorization-server{path}")
}

/// The endpoints, if the metadata speaks for the issuer that we mean (RFC 8414, section 3.3).
pub(super) fn endpoints(at: &str, issuer: &str, reply: &Reply) -> Result<Endpoints, IssuerError> {
    if reply.status != 200 {
        return Err(failure(at, reply, None));
    }
    let metadata: Metadata = parse(at, reply)?;
    if metadata.issuer.trim_end_matches('/') != issuer {
        let reason = format!("it speaks for issuer {:?}, not {issuer:?}: correct issuer.url", plain(&metadata.issuer));
        return Err(IssuerError::Answer { endpoint: at.to_owned(), reason });
    }
    let binds = metadata.tls_client_certificate_bound_access_tokens;
    let alias = metadata.mtls_endpoint_aliases.token_endpoint;
    let knows_devices = metadata.authorization_details_types_supported.iter().any(|kind| kind == DETAIL_TYPE);
    Ok(Endpoints {
        binding_token: binds.then(|| alias.unwrap_or_else(|| metadata.token_endpoint.clone())),
        token: metadata.token_endpoint,
        revocation: metadata.revocation_endpoint,
        device_authorization: metadata.device_authorization_endpoint,
        registration: metadata.registration_endpoint,
        knows_devices,
    })
}

/// The token in an answer, or what went wrong.
pub(super) fn token(endpoint: &str, reply: &Reply, clock: &Clock) -> Result<Granted, IssuerError> {
    if reply.status != 200 {
        return Err(failure(endpoint, reply, Some(clock)));
    }
    let answer: TokenAnswer = parse(endpoint, reply)?;
    if !answer.token_type.eq_ignore_ascii_case("bearer") {
        let reason = format!("the token is of type {:?}, wanted is Bearer", plain(&answer.token_type));
        return Err(IssuerError::Answer { endpoint: endpoint.to_owned(), reason });
    }
    let life = answer.refresh_life();
    let mut token = AccessToken::received(answer.access_token, clock)
        .map_err(|source| IssuerError::Token { endpoint: endpoint.to_owned(), source })?;
    if let Some(seconds) = answer.expires_in {
        // A server may hand out a token that has lived a while.
        token = token.living_at_most(Duration::from_secs(seconds));
    }
    if token.life().is_zero() {
        // Taken as good it would be refreshed at once, without an end.
        let reason = "the token that it gave is expired already (expires_in is 0)".to_owned();
        return Err(IssuerError::Answer { endpoint: endpoint.to_owned(), reason });
    }
    let refresh = |text| RefreshToken { token: Secret::new(text), life };
    Ok(Granted { token, refresh: answer.refresh_token.map(refresh) })
}

/// Who we are there from now on (RFC 7591, section 3.2.1).
pub(super) fn registered(endpoint: &str, reply: &Reply) -> Result<Registered, IssuerError> {
    if !matches!(reply.status, 200 | 201) {
        return Err(failure(endpoint, reply, None));
    }
    parse::<Registered>(endpoint, reply)?.check(endpoint)
}

/// The approval that was asked for.
pub(super) fn device_authorization(endpoint: &str, reply: &Reply, clock: &Clock) -> Result<Asked, IssuerError> {
    if reply.status != 200 {
        return Err(failure(endpoint, reply, Some(clock)));
    }
    let answer: DeviceAnswer = parse(endpoint, reply)?;
    let shown = [Some(&answer.user_code), Some(&answer.verification_uri), answer.verification_uri_complete.as_ref()];
    if !shown.into_iter().flatten().all(|text| may_be_shown(text)) {
        let reason = "its code or its URL is not for a person's eyes: too long, or not plain ASCII".to_owned();
        return Err(IssuerError::Answer { endpoint: endpoint.to_owned(), reason });
    }
    Ok(Asked {
        device_code: Secret::new(answer.device_code),
        url: answer.verification_uri,
        complete_url: answer.verification_uri_complete,
        user_code: answer.user_code,
        poll: Duration::from_secs(answer.interval.unwrap_or(DEFAULT_POLL_S)).clamp(SHORTEST_POLL, LONGEST_POLL),
        until: clock.boot().saturating_add(Duration::from_secs(answer.expires_in).min(LONGEST_APPROVAL)),
    })
}

/// As it goes to a terminal and into a QR.
fn may_be_shown(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_SHOWN && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Whether a revocation was taken.
pub(super) fn revoked(endpoint: &str, reply: &Reply, clock: &Clock) -> Result<(), IssuerError> {
    if reply.status == 200 {
        return Ok(());
    }
    match failure(endpoint, reply, Some(clock)) {
        IssuerError::Refused { endpoint, code, .. } if code == "unsupported_token_type" => {
            Err(IssuerError::CannotRevoke { endpoint })
        }
        other => Err(other),
    }
}

fn failure(endpoint: &str, reply: &Reply, clock: Option<&Clock>) -> IssuerError {
    let endpoint = endpoint.to_owned();
    let status = reply.status;
    let said: Option<ErrorAnswer> = serde_json::from_slice(&reply.body).ok();
    let words = match &said {
        Some(said) => plain(&said.error_description),
        // Said to be a success: a token may stand in it.
        None if (200..300).contains(&status) => "what it said is not shown".to_owned(),
        None => plain(&String::from_utf8_lossy(&reply.body)),
    };
    let code = said.map(|said| said.error);
    let later = matches!(code.as_deref(), Some("temporarily_unavailable" | "server_error"));
    if status == 429 || status >= 500 || later {
        return IssuerError::Busy { endpoint, status, words, retry_after: reply.retry_after(clock) };
    }
    match code {
        // An assertion that is not of the server's time is refused like one with a bad signature.
        Some(code) if let Some(seconds) = clock.and_then(|clock| clock_off(reply, clock)) => {
            IssuerError::ClockOff { endpoint, status, code: plain(&code), words, seconds }
        }
        Some(code) => IssuerError::Refused { endpoint, status, code: plain(&code), words },
        None => IssuerError::Answer { endpoint, reason: format!("HTTP status {status}: {words}") },
    }
}

/// Server's time minus ours, when that is too much.
fn clock_off(reply: &Reply, clock: &Clock) -> Option<i64> {
    let theirs = reply.server_time()?;
    let ours = clock.wall().as_secs();
    if theirs.abs_diff(ours) <= CLOCK_TOLERANCE.as_secs() {
        return None;
    }
    Some(theirs.cast_signed().saturating_sub(ours.cast_signed()))
}

pub(super) fn parse<'a, T: Deserialize<'a>>(endpoint: &str, reply: &'a Reply) -> Result<T, IssuerError> {
    serde_json::from_slice(&reply.body).map_err(|error| IssuerError::Answer {
        endpoint: endpoint.to_owned(),
        reason: format!("not the JSON that was expected: {}", plain(&error.to_string())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::Remedy;
    use crate::token::key::SigningKey;

    fn reply(status: u16, body: &str) -> Reply {
        Reply { status, retry_after: None, date: None, body: body.as_bytes().to_vec().into() }
    }

    fn clock() -> Clock {
        // 2026-11-21 22:00:00 UTC
        Clock::manual(Duration::from_secs(1_795_298_400))
    }

    #[test]
    fn the_well_known_part_stands_before_the_path() {
        let known = "/.well-known/oauth-authorization-server";
        assert_eq!(metadata_url("https://id.example"), format!("https://id.example{known}"));
        assert_eq!(metadata_url("https://id.example/a/b"), format!("https://id.example{known}/a/b"));
    }

    #[test]
    fn metadata_of_another_issuer_is_not_used() {
        let body = r#"{"issuer":"https://evil.example","token_endpoint":"https://evil.example/t"}"#;
        assert!(matches!(endpoints("m", "https://id.example", &reply(200, body)), Err(IssuerError::Answer { .. })));
    }

    #[test]
    fn every_kind_of_trouble_has_its_remedy() {
        let retry = Remedy::Retry(None);
        for (status, body, remedy) in [
            (500, "<html>oops", retry),
            (503, r#"{"error":"temporarily_unavailable"}"#, retry),
            (400, r#"{"error":"invalid_grant"}"#, Remedy::Quarantine),
            (400, r#"{"error":"invalid_scope"}"#, Remedy::Quarantine),
            (401, r#"{"error":"invalid_client"}"#, retry),
            (404, "not found", retry),
            (302, "", retry),
            (200, "garbage", retry),
            (200, "{}", retry),
            (200, r#"{"access_token":"a.b.c","token_type":"Bearer"}"#, retry),
        ] {
            let error = token("e", &reply(status, body), &clock()).unwrap_err();
            assert_eq!(error.remedy(), remedy, "{status} {body}: {error}");
        }
    }

    #[test]
    fn a_token_that_is_expired_already_is_a_failure_to_be_waited_after() {
        let now = clock().wall().as_secs();
        let claims = serde_json::json!({
            "iss": "i", "sub": "pump-3", "aud": "claw", "client_id": "g", "jti": "x", "iat": now, "exp": now + 60,
        });
        let jwt = SigningKey::generate().unwrap().sign("at+jwt", &claims).unwrap();
        let answer = |expires_in: u64| {
            let body = serde_json::json!({ "access_token": jwt, "token_type": "Bearer", "expires_in": expires_in });
            token("e", &reply(200, &body.to_string()), &clock())
        };
        assert_eq!(answer(1).unwrap().token.life(), Duration::from_secs(1));
        let error = answer(0).unwrap_err();
        assert!(error.remedy() == Remedy::Retry(None) && error.to_string().contains("expired already"), "{error}");
    }

    #[test]
    fn an_answer_that_may_hold_a_token_is_not_shown() {
        let body = r#"{"refresh_token":"canary","access_token":"canary"}"#;
        for status in [200, 201, 202, 204] {
            let error = token("e", &reply(status, body), &clock()).unwrap_err().to_string();
            assert!(!error.contains("canary"), "{error}");
        }
    }

    #[test]
    fn the_life_of_a_refresh_token_is_read_where_a_server_tells_it() {
        let life = |extra: &str| {
            let body = format!(r#"{{"access_token":"a","token_type":"Bearer"{extra}}}"#);
            serde_json::from_str::<TokenAnswer>(&body).unwrap().refresh_life()
        };
        let hour = Some(Duration::from_secs(3600));
        assert_eq!(life(r#","refresh_expires_in":3600"#), hour);
        assert_eq!(life(r#","refresh_token_expires_in":3600"#), hour);
        for nothing in
            ["", r#","refresh_expires_in":0"#, r#","refresh_expires_in":-1"#, r#","refresh_expires_in":"soon""#]
        {
            assert_eq!(life(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn an_approval_is_for_a_persons_eyes_and_bounded() {
        let answer = |uri: &str, extra: &str| {
            let body = format!(r#"{{"device_code":"d","user_code":"AB-CD","verification_uri":"{uri}"{extra}}}"#);
            device_authorization("e", &reply(200, &body), &clock())
        };
        let asked = answer("https://id.example/d", r#","expires_in":99999999,"interval":0"#).unwrap();
        assert_eq!((asked.poll, asked.until.saturating_sub(clock().boot())), (SHORTEST_POLL, LONGEST_APPROVAL));
        assert_eq!(answer("https://id.example/d", r#","expires_in":600"#).unwrap().poll, Duration::from_secs(5));
        for nasty in ["", r"https://x/\u001b[2J", r"https://x/\u202e", &"x".repeat(600)] {
            assert!(answer(nasty, r#","expires_in":600"#).is_err(), "{nasty}");
        }
    }

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date() {
        let mut busy = reply(429, "");
        for (header, wait) in
            [("120", 120), ("Sat, 21 Nov 2026 22:01:30 GMT", 90), ("Sat, 21 Nov 2026 21:00:00 GMT", 0)]
        {
            busy.retry_after = Some(header.to_owned());
            let error = token("e", &busy, &clock()).unwrap_err();
            assert_eq!(error.remedy(), Remedy::Retry(Some(Duration::from_secs(wait))), "{header}");
        }
        busy.retry_after = Some("soon".to_owned());
        assert_eq!(token("e", &busy, &clock()).unwrap_err().remedy(), Remedy::Retry(None));
    }

    #[test]
    fn a_refusal_with_a_wrong_clock_is_named_after_the_clock() {
        let mut refused = reply(401, r#"{"error":"invalid_client"}"#);
        refused.date = Some("Sun, 22 Nov 2026 22:00:00 GMT".to_owned());
        match token("e", &refused, &clock()).unwrap_err() {
            off @ IssuerError::ClockOff { seconds: 86_400, .. } => {
                let words = off.to_string();
                assert!(words.starts_with("e answered 401 invalid_client"), "{words}");
                assert!(words.contains("the clock here is 86400 s behind the issuer's: set the time"), "{words}");
            }
            other => panic!("{other}"),
        }
        refused.date = Some("Sat, 21 Nov 2026 22:00:30 GMT".to_owned());
        assert!(matches!(token("e", &refused, &clock()).unwrap_err(), IssuerError::Refused { .. }));
    }

    #[test]
    fn a_servers_words_cannot_reach_a_terminal_unescaped_or_without_end() {
        let nasty = format!("\u{1b}[2J\u{202e}{}", "x".repeat(10_000));
        let body = serde_json::json!({ "error": "invalid_grant", "error_description": nasty }).to_string();
        let shown = token("e", &reply(400, &body), &clock()).unwrap_err().to_string();
        assert!(shown.len() < 500 && shown.is_ascii() && !shown.contains('\u{1b}'), "{shown}");
    }
}
