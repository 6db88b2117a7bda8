//! Paired devices: list, show, rename, unpair.

use axum::extract::{Path, State};
use axum::{Extension, Json};

use super::api::{Device, Done, RenameRequest, WhyRequest};
use super::failure::Failure;
use super::role::Caller;
use super::routes::Body;
use super::system::blocking;
use crate::daemon::{Gateway, Verdict, view};
use crate::ids::DeviceId;

pub(super) async fn list(State(gateway): State<Gateway>) -> Result<Json<Vec<Device>>, Failure> {
    blocking(move || view::devices(&gateway)).await.map(Json)
}

pub(super) async fn show(State(gateway): State<Gateway>, Path(id): Path<String>) -> Result<Json<Device>, Failure> {
    let id = known_id(&id)?;
    let found = {
        let id = id.clone();
        blocking(move || gateway.store().device(&id).map(|known| known.map(|k| view::device(&gateway, &k)))).await?
    };
    found.map(Json).ok_or_else(|| unknown(&id))
}

pub(super) async fn unpair(
    State(gateway): State<Gateway>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<Done>, Failure> {
    let id = known_id(&id)?;
    let told = gateway.unpair(&id, caller.actor()).await?;
    let sensor =
        if told { "the sensor erased its key too" } else { "the sensor could not be told; reset it by its button" };
    Ok(Json(Done { done: format!("{id} is unpaired; {sensor}.") }))
}

pub(super) async fn rename(
    State(gateway): State<Gateway>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Body(request): Body<RenameRequest>,
) -> Result<Json<Done>, Failure> {
    let id = known_id(&id)?;
    let name = new_id(&request.name)?;
    gateway.rename(&id, &name, caller.actor()).await?;
    Ok(Json(Done { done: format!("{id} is {name} now; its topics and its token changed with it.") }))
}

pub(super) async fn approve(
    State(gateway): State<Gateway>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Body(request): Body<WhyRequest>,
) -> Result<Json<Done>, Failure> {
    let id = known_id(&id)?;
    gateway.decide(&id, Verdict::Approve, request.reason(), caller.actor()).await?;
    Ok(Json(Done { done: format!("{id} is approved; its token is asked for now.") }))
}

pub(super) async fn reject(
    State(gateway): State<Gateway>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Body(request): Body<WhyRequest>,
) -> Result<Json<Done>, Failure> {
    let id = known_id(&id)?;
    gateway.decide(&id, Verdict::Reject, request.reason(), caller.actor()).await?;
    Ok(Json(Done { done: format!("{id} is rejected and unpaired.") }))
}

/// The name of a device that should exist.
pub(super) fn known_id(text: &str) -> Result<DeviceId, Failure> {
    text.parse().map_err(|_| Failure::not_found(format!("There is no device {text:?}."), LIST))
}

/// A name that a device shall get.
pub(super) fn new_id(text: &str) -> Result<DeviceId, Failure> {
    text.parse().map_err(|error: crate::ids::IdError| Failure::usage(format!("{error}."), ""))
}

/// Nothing goes by that name.
pub(super) fn unknown(id: &DeviceId) -> Failure {
    Failure::not_found(format!("There is no device {:?}.", id.as_str()), LIST)
}

const LIST: &str = "List them: clawgate devices ls";
