//! The issuer that lives here: standalone mode and `clawgate issuer serve`.

mod deny;
mod handed;
mod issuer;
mod key_file;
mod public_file;
mod ring;
mod time;

pub use deny::{DenyError, DenyList};
pub(crate) use handed::{Deed, Handed};
pub use issuer::{LocalIssuer, Mint};
pub use key_file::{KeyFile, KeyFileError};
pub use public_file::PublicFile;
pub(crate) use public_file::replace;
pub(crate) use ring::KeySource;
pub use ring::{KeyBook, KeyRing, RingError, RingState};
pub use time::IssuerTime;
