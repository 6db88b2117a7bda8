//! Every route with the least role it needs. `openapi.json` describes the same; a test compares them.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::handler::Handler as _;
use axum::http::Method;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};
use axum::{Extension, Router};
use tokio_util::task::TaskTracker;

use super::calls::Calls;
use super::ending::{Ending, to_its_end};
use super::failure::Failure;
use super::once::Once;
use super::permitted::while_allowed;
use super::reads::Reads;
use super::role::Caller;
use super::role::Role::{self, Admin, Operator, Viewer};
use super::{MAX_BODY_BYTES, audit, codes, configuration, dead_letters, devices, keys, links, system, tokens};
use crate::cli::exit::Exit;
use crate::daemon::Gateway;
use crate::metrics::Reason;

/// One operation of the API.
pub struct Route {
    /// HTTP method.
    pub method: Method,
    /// Path, with `{id}` where a name stands.
    pub path: &'static str,
    /// The least role.
    pub role: Role,
    handler: MethodRouter<Gateway>,
}

/// All operations.
#[must_use]
pub fn routes() -> Vec<Route> {
    let get = |path, role, handler| Route { method: Method::GET, path, role, handler };
    let post = |path, role, handler| Route { method: Method::POST, path, role, handler };
    let delete = |path, role, handler| Route { method: Method::DELETE, path, role, handler };
    vec![
        get("/v1/status", Viewer, self::get(system::status)),
        get("/v1/watch", Viewer, self::get(system::watch)),
        get("/v1/openapi.json", Viewer, self::get(system::openapi)),
        get("/metrics", Viewer, self::get(system::metrics)),
        get("/v1/scan", Viewer, self::get(links::scan)),
        post("/v1/identify", Operator, self::post(links::identify)),
        post("/v1/pair", Operator, self::post(links::pair)),
        get("/v1/devices", Viewer, self::get(devices::list)),
        get("/v1/devices/{id}", Viewer, self::get(devices::show)),
        delete("/v1/devices/{id}", Operator, self::delete(devices::unpair)),
        post("/v1/devices/{id}/rename", Operator, self::post(devices::rename)),
        post("/v1/devices/{id}/approve", Admin, self::post(devices::approve)),
        post("/v1/devices/{id}/reject", Admin, self::post(devices::reject)),
        get("/v1/codes", Viewer, self::get(codes::list)),
        post("/v1/codes", Operator, self::post(codes::new)),
        get("/v1/codes/{id}", Viewer, self::get(codes::explain)),
        post("/v1/codes/{id}/revoke", Operator, self::post(codes::revoke)),
        get("/v1/tokens", Viewer, self::get(tokens::list)),
        post("/v1/tokens/{id}/rotate", Admin, self::post(tokens::rotate)),
        get("/v1/dead-letters", Viewer, self::get(dead_letters::list)),
        post("/v1/dead-letters/{id}/replay", Operator, self::post(dead_letters::replay)),
        post("/v1/dead-letters/{id}/drop", Operator, self::post(dead_letters::discard)),
        get("/v1/audit", Viewer, self::get(audit::tail)),
        get("/v1/audit/export", Admin, self::get(audit::export)),
        post("/v1/tokens/{id}/revoke", Admin, self::post(tokens::revoke)),
        get("/v1/keys", Viewer, self::get(keys::list)),
        post("/v1/keys/{kind}/rotate", Admin, self::post(keys::rotate)),
        get("/v1/config", Viewer, self::get(configuration::show)),
        post("/v1/config/unset", Admin, self::post(configuration::unset)),
    ]
}

/// The API as a service.
pub(super) fn router(gateway: &Gateway, calls: &Arc<Calls>, reads: &Arc<Reads>, tasks: &TaskTracker) -> Router {
    let gate = |path, needed| Gate {
        gateway: gateway.clone(),
        path,
        needed,
        calls: Arc::clone(calls),
        reads: Arc::clone(reads),
    };
    let mut router = Router::new();
    for route in routes() {
        let gate = middleware::from_fn_with_state(gate(route.path, route.role), pass);
        router = router.route(route.path, route.handler.layer(gate));
    }
    // Who tries what there is not stands in the log too.
    let no_route = (|| async { no_route() }).layer(middleware::from_fn_with_state(gate("no operation", Viewer), pass));
    let ending = Ending { tasks: tasks.clone(), metrics: gateway.metrics().clone() };
    router
        .layer(middleware::from_fn_with_state(ending, to_its_end))
        .fallback(no_route.clone())
        .method_not_allowed_fallback(no_route)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(Extension(Arc::new(Once::default())))
        .with_state(gateway.clone())
}

fn no_route() -> Failure {
    Failure::new(Exit::Usage, "no_route", "There is no such operation.", "GET /v1/openapi.json lists them all.")
}

/// What stands before one route.
#[derive(Clone)]
struct Gate {
    gateway: Gateway,
    path: &'static str,
    needed: Role,
    calls: Arc<Calls>,
    reads: Arc<Reads>,
}

/// Lets a request pass that its user may make. One that came to nothing stands in the audit log, if its user may not make
/// it or it would have changed something; one that only looks is counted for it.
async fn pass(
    State(Gate { gateway, path, needed, calls, reads }): State<Gate>,
    Extension(caller): Extension<Caller>,
    request: Request,
    next: Next,
) -> Response {
    gateway.metrics().control.requests.inc();
    let changes = request.method() != Method::GET;
    let call = format!("{} {}", request.method(), request.uri().path());
    let note = async |failure: &Failure| {
        if let Some(event) = calls.event(&caller, &call, failure, gateway.clock().boot()) {
            gateway.record(event).await;
        }
    };
    if let Err(failure) = caller.require(needed, &gateway.config().control.roles) {
        tracing::info!(uid = caller.uid, %needed, "a control request was refused for its role");
        note(&failure).await;
        gateway.metrics().control.refused.get_or_create(&Reason { reason: "role" }).inc();
        return failure.into_response();
    }
    if !changes {
        reads.count(&caller, path);
    }
    let response = next.run(request).await;
    if let Some(failure) = response.extensions().get::<Failure>().filter(|_| changes) {
        note(failure).await;
    }
    while_allowed(response, move || caller.require(needed, &gateway.config().control.roles).is_ok())
}
