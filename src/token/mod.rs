//! Access tokens: what a device may do at the broker, who issues it, and how it stays fresh.
//!
//! A token enters the daemon's pipeline only at the MQTT connection: the relay holds a [`TokenHandle`] a device
//! and connects with what [`TokenState::Valid`] carries. Topics are derived from scopes in one place, [`scope`].

use std::time::Duration;

mod access;
pub mod azure;
mod binding;
mod handle;
mod issuer;
mod journal;
pub mod keeper;
pub mod key;
mod limits;
pub mod local;
pub mod oauth;
pub mod scope;
mod stage;
mod vendor;
pub mod verify;

pub use access::{AccessToken, Actor, Claims, TokenError};
pub use binding::{BindingError, ClientCertificate, Confirmation, Thumbprint};
pub use handle::{TokenFeed, TokenHandle, TokenState, TokenWish};
pub use issuer::{Approval, Issuer, IssuerError, Remedy, TokenFuture, TokenRequest};
pub use keeper::TokenKeeper;
pub use limits::{AddressRange, LimitError, Limits, MOST_ADDRESSES};
pub use stage::{Stage, UnknownStage};
pub use vendor::ClaimForm;

use issuer::clocks;

/// More than this between the clocks is told as the likely cause of a refusal.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(30);

/// A longer token is refused unread; one of ours has about 500 bytes.
const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Authentication method of MQTT v5's enhanced authentication: the token is its data.
pub const AUTH_METHOD: &str = "OAUTH2-JWT";
