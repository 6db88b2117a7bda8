//! The issuer that lives here: standalone mode and `clawgate issuer serve`.

mod deny;
mod issuer;
mod ring;
mod time;

pub use deny::{DenyError, DenyList};
pub use issuer::{LocalIssuer, Mint};
pub(crate) use ring::KeySource;
pub use ring::{KeyBook, KeyRing, RingError, RingState};
pub use time::IssuerTime;
