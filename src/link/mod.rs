//! Links: paths to sensors. Bytes become messages here; one task owns each path and lends it to pairing or
//! runs the session of the paired device behind it.

mod duplex;
mod links;
pub mod state;
#[cfg(test)]
pub(crate) mod testing;
pub mod uart;

pub use duplex::LinkEnd;
pub use links::{LinkParts, Links, TargetError};
pub use state::{Found, FoundState, LineCondition, PortCondition, PortState};
