//! Access tokens: what a device may do at the broker, who issues it, and how it stays fresh.
//!
//! A token enters the daemon's pipeline only at the MQTT connection: the relay holds a [`TokenHandle`] a device
//! and connects with what [`TokenState::Valid`] carries. Topics are derived from scopes in one place, [`scope`].

mod access;
mod handle;
mod issuer;
pub mod scope;

pub use access::{AccessToken, Claims, TokenError};
pub use handle::{TokenFeed, TokenHandle, TokenState, TokenWish};
pub use issuer::{Issuer, IssuerError, Remedy, TokenFuture, TokenRequest};
