//! Access tokens: list, rotate, revoke. A token itself never leaves the daemon.

use axum::Json;
use axum::extract::State;

use super::api::{Done, Token};
use super::exchange::{Answer, By, Name, Named, Why, done};
use super::failure::Failure;
use crate::daemon::{Gateway, view};
use crate::ids::DeviceId;

/// Who has a token: a device, or the gateway itself.
pub(super) struct Holder(DeviceId);

impl Name for Holder {
    fn named(text: &str) -> Result<Self, Failure> {
        DeviceId::principal(text).map(Self).map_err(|_| Failure::unknown_device(text))
    }
}

pub(super) async fn list(State(gateway): State<Gateway>) -> Json<Vec<Token>> {
    Json(view::tokens(&gateway))
}

pub(super) async fn rotate(
    State(gateway): State<Gateway>,
    Named(Holder(id)): Named<Holder>,
    By(actor): By,
) -> Answer<Done> {
    let life = gateway.rotate_token(&id, actor).await?;
    Ok(done(format!("{id} has a new token; it lives {life} s.")))
}

pub(super) async fn revoke(
    State(gateway): State<Gateway>,
    Named(id): Named<DeviceId>,
    By(actor): By,
    Why(why): Why,
) -> Answer<Done> {
    gateway.revoke_token(&id, &why, actor).await?;
    Ok(done(format!("The token of {id} is revoked and the device cut off; pairing it again lets it back in.")))
}
