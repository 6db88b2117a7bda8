//! The issuer that lives here: standalone mode and `clawgate issuer serve`.

mod deny;
mod issuer;
mod time;

pub use deny::{DenyError, DenyList};
pub use issuer::{LocalIssuer, Mint};
pub use time::IssuerTime;
