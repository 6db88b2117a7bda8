//! The configuration in force, and the way back from what commands laid over the files.

use axum::Json;
use axum::extract::State;

use super::api::{Configuration, Unset, UnsetRequest};
use super::exchange::{Answer, Body, By};
use super::failure::Failure;
use crate::daemon::Gateway;

pub(super) async fn show(State(gateway): State<Gateway>) -> Answer<Configuration> {
    gateway.configured().await.map(Json)
}

pub(super) async fn unset(
    State(gateway): State<Gateway>,
    By(actor): By,
    Body(request): Body<UnsetRequest>,
) -> Answer<Unset> {
    let key = match (request.key.as_deref(), request.all) {
        (Some(key), false) => Some(key),
        (None, true) => None,
        _ => return Err(Failure::usage("A key is wanted, or all of them.", "")),
    };
    gateway.unset(key, actor).await.map(|unset| Json(Unset { unset }))
}
