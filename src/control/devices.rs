//! Paired devices: list, show, rename, decide about, unpair.

use axum::Json;
use axum::extract::State;

use super::api::{Device, Done, RenameRequest};
use super::exchange::{Answer, Body, By, Name, Named, Why, done};
use super::failure::{Failure, blocking};
use crate::daemon::{Gateway, Verdict, view};
use crate::ids::{DeviceId, IdError};

impl Name for DeviceId {
    fn named(text: &str) -> Result<Self, Failure> {
        text.parse().map_err(|_| Failure::unknown_device(text))
    }
}

pub(super) async fn list(State(gateway): State<Gateway>) -> Answer<Vec<Device>> {
    blocking(move || view::devices(&gateway)).await.map(Json)
}

pub(super) async fn show(State(gateway): State<Gateway>, Named(id): Named<DeviceId>) -> Answer<Device> {
    let known = gateway.known(&id).await?;
    Ok(Json(view::device(&gateway, &known)))
}

pub(super) async fn unpair(State(gateway): State<Gateway>, Named(id): Named<DeviceId>, By(actor): By) -> Answer<Done> {
    let told = gateway.unpair(&id, actor).await?;
    let sensor =
        if told { "the sensor erased its key too" } else { "the sensor could not be told; reset it by its button" };
    Ok(done(format!("{id} is unpaired; {sensor}.")))
}

pub(super) async fn rename(
    State(gateway): State<Gateway>,
    Named(id): Named<DeviceId>,
    By(actor): By,
    Body(request): Body<RenameRequest>,
) -> Answer<Done> {
    let name = new_id(&request.name)?;
    gateway.rename(&id, &name, actor).await?;
    Ok(done(format!("{id} is {name} now; its topics and its token changed with it.")))
}

pub(super) async fn approve(
    State(gateway): State<Gateway>,
    Named(id): Named<DeviceId>,
    By(actor): By,
    Why(why): Why,
) -> Answer<Done> {
    gateway.decide(&id, Verdict::Approve, &why, actor).await?;
    Ok(done(format!("{id} is approved; its token is asked for now.")))
}

pub(super) async fn reject(
    State(gateway): State<Gateway>,
    Named(id): Named<DeviceId>,
    By(actor): By,
    Why(why): Why,
) -> Answer<Done> {
    gateway.decide(&id, Verdict::Reject, &why, actor).await?;
    Ok(done(format!("{id} is rejected and unpaired.")))
}

/// A name that a device shall get.
pub(super) fn new_id(text: &str) -> Result<DeviceId, Failure> {
    text.parse().map_err(|error: IdError| Failure::usage(format!("{error}."), ""))
}
