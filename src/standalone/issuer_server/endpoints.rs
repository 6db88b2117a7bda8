//! The endpoints themselves.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Form, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tracing::{error, info};

use super::Site;
use super::assertion::authenticate;
use super::clients::{Client, Rights};
use super::reply::{self, Refused};
use crate::ids::DeviceId;
use crate::token::Limits;
use crate::token::local::Mint;
use crate::token::oauth::{DETAIL_TYPE, DeviceDetail};
use crate::token::scope::{Action, Scope, TELEMETRY_READ, Topics, to_claim};

/// A request has an assertion and some words.
const MAX_BODY: usize = 16 * 1024;

type Shared = State<Arc<Site>>;

/// All endpoints.
pub(super) fn routes(site: Arc<Site>) -> Router {
    let mut router = Router::new();
    // An issuer whose name has a path is looked for there (RFC 8414, section 3.1).
    if let Some(path) = path_of(site.issuer.name()) {
        router = router.route(&format!("/.well-known/oauth-authorization-server/{path}"), get(metadata));
    }
    router
        .route("/token", post(token))
        .route("/revoke", post(revoke))
        .route("/jwks", get(jwks))
        .route("/denylist", get(deny_list))
        .route("/.well-known/oauth-authorization-server", get(metadata))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(site)
}

/// The path of an issuer's name, where it has a plain one.
fn path_of(issuer: &str) -> Option<&str> {
    let (_, path) = issuer.split_once("://")?.1.split_once('/')?;
    let path = path.trim_end_matches('/');
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    (!path.is_empty() && path.chars().all(plain)).then_some(path)
}

#[derive(Deserialize)]
struct TokenForm {
    grant_type: Option<String>,
    client_assertion_type: Option<String>,
    client_assertion: Option<String>,
    scope: Option<String>,
    resource: Option<String>,
    authorization_details: Option<String>,
}

#[derive(Serialize)]
struct TokenAnswer {
    access_token: String,
    token_type: &'static str,
    expires_in: u64,
    scope: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    authorization_details: Option<[DeviceDetail; 1]>,
}

async fn token(State(site): Shared, Form(form): Form<TokenForm>) -> Result<Response, Refused> {
    let client = authenticate(&site, form.client_assertion_type.as_deref(), form.client_assertion.as_deref())?;
    if form.grant_type.as_deref() != Some("client_credentials") {
        return Err(Refused::because("unsupported_grant_type", "only client_credentials is served here"));
    }
    if form.resource.as_ref().is_some_and(|resource| *resource != site.audience) {
        return Err(Refused::because("invalid_target", "tokens for that resource are not issued here"));
    }
    let (wanted, detail) = match &client.rights {
        Rights::Gateway { .. } => of_device(&site, &client, &form)?,
        Rights::Subscriber { topics, commands } => (of_subscriber(&site, &client, (topics, commands), &form)?, None),
    };
    let (scope, life) = (wanted.scope.clone(), wanted.life);
    let access_token = site.issuer.hand_out(wanted).map_err(|problem| {
        error!(error = %problem, "no token could be made");
        Refused::unavailable("no token could be made")
    })?;
    Ok(reply::token(&TokenAnswer {
        access_token,
        token_type: "Bearer",
        expires_in: life.as_secs(),
        scope,
        authorization_details: detail.map(|detail| [detail]),
    }))
}

const BAD_DETAILS: Refused =
    Refused::because("invalid_authorization_details", "one clawgate_device of this gateway is wanted");

/// The device that a gateway means, if it is one of its own.
fn own_device(site: &Site, client: &Client, details: Option<&str>) -> Result<(DeviceId, DeviceDetail), Refused> {
    let Rights::Gateway { tenant } = &client.rights else { return Err(BAD_DETAILS) };
    let Ok([detail]) = serde_json::from_str::<[DeviceDetail; 1]>(details.unwrap_or_default()) else {
        return Err(BAD_DETAILS);
    };
    if detail.kind != DETAIL_TYPE || detail.gateway != client.id || detail.tenant != *tenant {
        return Err(BAD_DETAILS);
    }
    if detail.stage.is_some_and(|stage| stage != site.issuer.stage()) {
        return Err(Refused::because("invalid_target", "that stage has another issuer"));
    }
    Ok((DeviceId::principal(&detail.device).map_err(|_| BAD_DETAILS)?, detail))
}

/// A token of one of the gateway's own devices.
fn of_device(site: &Site, client: &Client, form: &TokenForm) -> Result<(Mint, Option<DeviceDetail>), Refused> {
    let (device, detail) = own_device(site, client, form.authorization_details.as_deref())?;
    let scopes: Vec<Scope> = form
        .scope
        .as_deref()
        .unwrap_or_default()
        .split_ascii_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()
        .map_err(|_| {
            Refused::because("invalid_scope", "telemetry:write, command:read, status:write and alarm:read are known")
        })?;
    if !scopes.iter().all(|scope| scope.suits(&device)) {
        return Err(Refused::because(
            "invalid_scope",
            "status:write and alarm:read are the gateway's own, telemetry:write a device's",
        ));
    }
    if scopes.is_empty() {
        return Err(Refused::because("invalid_scope", "a scope is wanted"));
    }
    let certificate = detail.cnf.as_ref().and_then(|cnf| cnf.certificate.clone());
    if detail.cnf.is_some() && certificate.is_none() {
        return Err(Refused::because("invalid_authorization_details", "cnf: x5t#S256 is known"));
    }
    let asked = detail.life_s.map_or(site.life(), Duration::from_secs);
    let wanted = Mint {
        sub: device.to_string(),
        client_id: client.id.clone(),
        audience: site.audience.clone(),
        scope: to_claim(&scopes),
        topics: Topics::of_device(&detail.tenant, &client.id, &device, &scopes),
        life: asked.min(site.life()),
        limits: detail.limits.clone(),
        certificate,
    };
    Ok((wanted, Some(detail)))
}

/// A token of the subscriber itself.
fn of_subscriber(
    site: &Site,
    client: &Client,
    (topics, commands): (&[String], &[String]),
    form: &TokenForm,
) -> Result<Mint, Refused> {
    if form.scope.as_deref().is_some_and(|scope| scope != TELEMETRY_READ) {
        return Err(Refused::because("invalid_scope", "a subscriber has telemetry:read"));
    }
    let reads = topics.iter().map(|filter| (filter.clone(), vec![Action::Subscribe]));
    let topics = reads.chain(commands.iter().map(|filter| (filter.clone(), vec![Action::Publish]))).collect();
    Ok(Mint {
        sub: client.id.clone(),
        client_id: client.id.clone(),
        audience: site.audience.clone(),
        scope: TELEMETRY_READ.to_owned(),
        topics: Topics::new(topics),
        life: site.life(),
        limits: Limits::default(),
        certificate: None,
    })
}

#[derive(Deserialize)]
struct RevokeForm {
    client_assertion_type: Option<String>,
    client_assertion: Option<String>,
    token: Option<String>,
    authorization_details: Option<String>,
}

/// Revokes every token that its owner was given until now: a device whose token leaked is not saved by revoking one.
async fn revoke(State(site): Shared, Form(form): Form<RevokeForm>) -> Result<Response, Refused> {
    let client = authenticate(&site, form.client_assertion_type.as_deref(), form.client_assertion.as_deref())?;
    let unavailable = Refused::unavailable("the revocation could not be kept");
    let subject = if form.authorization_details.is_some() {
        own_device(&site, &client, form.authorization_details.as_deref())?.0.to_string()
    } else {
        let token = form.token.ok_or(Refused::request("the token to revoke is missing"))?;
        let verifier = site.issuer.verifier(&site.audience).map_err(|_| unavailable)?;
        // An expired token still names its owner, whose other tokens may live. What is none of this client's business
        // is not told from what is no token at all (RFC 7009, section 2.2).
        match verifier.authentic(token.as_bytes()) {
            Ok(claims) if claims.client_id == client.id => claims.sub,
            _ => return Ok(reply::token(&json!({}))),
        }
    };
    let (issuer, owner, denied) = (site.issuer.clone(), client.id.clone(), subject.clone());
    // The list is fsynced: off the async threads.
    let kept = tokio::task::spawn_blocking(move || issuer.take_back(&owner, &denied)).await;
    match kept {
        Ok(Ok(())) => {
            info!(client = client.id, subject, "tokens revoked");
            Ok(reply::token(&json!({})))
        }
        Ok(Err(problem)) => {
            error!(error = %problem, "revocation not kept");
            Err(unavailable)
        }
        Err(_) => Err(unavailable),
    }
}

async fn jwks(State(site): Shared) -> impl IntoResponse {
    Json(site.issuer.jwks())
}

async fn deny_list(State(site): Shared) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], site.issuer.deny_list().render())
}

async fn metadata(State(site): Shared) -> impl IntoResponse {
    let url = &site.url;
    Json(json!({
        "issuer": site.issuer.name(),
        "token_endpoint": format!("{url}/token"),
        "revocation_endpoint": format!("{url}/revoke"),
        "jwks_uri": format!("{url}/jwks"),
        "scopes_supported": [
            Scope::TelemetryWrite.as_str(), Scope::CommandRead.as_str(), Scope::StatusWrite.as_str(), Scope::AlarmRead.as_str(),
            TELEMETRY_READ,
        ],
        "response_types_supported": [],
        "grant_types_supported": ["client_credentials"],
        "token_endpoint_auth_methods_supported": ["private_key_jwt"],
        "token_endpoint_auth_signing_alg_values_supported": ["ES256"],
        "revocation_endpoint_auth_methods_supported": ["private_key_jwt"],
        "authorization_details_types_supported": [DETAIL_TYPE],
    }))
}
