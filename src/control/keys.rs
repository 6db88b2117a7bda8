//! The gateway's own keys: list them, and a new one in place of an old one. A key itself never leaves the daemon.

use axum::Json;
use axum::extract::State;

use super::api::{Key, KeyRotated, RotateKeyRequest};
use super::exchange::{Answer, Body, By, Name, Named};
use super::failure::Failure;
use crate::daemon::{Gateway, KeyKind};

impl Name for KeyKind {
    fn named(text: &str) -> Result<Self, Failure> {
        Self::of(text)
    }
}

pub(super) async fn list(State(gateway): State<Gateway>) -> Answer<Vec<Key>> {
    gateway.keys().await.map(Json)
}

pub(super) async fn rotate(
    State(gateway): State<Gateway>,
    Named(kind): Named<KeyKind>,
    By(actor): By,
    Body(request): Body<RotateKeyRequest>,
) -> Answer<KeyRotated> {
    gateway.rotate_key(kind, &request, actor).await.map(Json)
}
