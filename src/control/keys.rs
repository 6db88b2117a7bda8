//! The gateway's own keys: list them, and a new one in place of an old one. A key itself never leaves the daemon.

use axum::extract::{Path, State};
use axum::{Extension, Json};

use super::api::{Key, KeyRotated, RotateKeyRequest};
use super::failure::Failure;
use super::role::Caller;
use super::routes::Body;
use crate::daemon::{Gateway, KeyKind};

pub(super) async fn list(State(gateway): State<Gateway>) -> Result<Json<Vec<Key>>, Failure> {
    gateway.keys().await.map(Json)
}

pub(super) async fn rotate(
    State(gateway): State<Gateway>,
    Extension(caller): Extension<Caller>,
    Path(kind): Path<String>,
    Body(request): Body<RotateKeyRequest>,
) -> Result<Json<KeyRotated>, Failure> {
    let kind = KeyKind::of(&kind)?;
    gateway.rotate_key(kind, &request, caller.actor()).await.map(Json)
}
