//! Access tokens: list, rotate, revoke. A token itself never leaves the daemon.

use axum::extract::{Path, State};
use axum::{Extension, Json};

use super::api::{Done, Token, WhyRequest};
use super::devices::known_id;
use super::failure::Failure;
use super::role::Caller;
use super::routes::Body;
use crate::daemon::{Gateway, view};
use crate::ids::{DeviceId, GATEWAY_PRINCIPAL};

pub(super) async fn list(State(gateway): State<Gateway>) -> Json<Vec<Token>> {
    Json(view::tokens(&gateway))
}

pub(super) async fn rotate(
    State(gateway): State<Gateway>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<Done>, Failure> {
    let id = if id == GATEWAY_PRINCIPAL { DeviceId::gateway() } else { known_id(&id)? };
    let life = gateway.rotate_token(&id, caller.actor()).await?;
    Ok(Json(Done { done: format!("{id} has a new token; it lives {life} s.") }))
}

pub(super) async fn revoke(
    State(gateway): State<Gateway>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Body(request): Body<WhyRequest>,
) -> Result<Json<Done>, Failure> {
    let id = known_id(&id)?;
    gateway.revoke_token(&id, request.reason(), caller.actor()).await?;
    Ok(Json(Done {
        done: format!("The token of {id} is revoked and the device cut off; pairing it again lets it back in."),
    }))
}
