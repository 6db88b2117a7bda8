//! Links: paths to sensors. Bytes become messages here; one task owns each path and lends it to pairing or
//! runs the session of the paired device behind it.

mod attend;
pub mod ble;
mod duplex;
mod lend;
mod links;
mod order;
mod pace;
mod port;
mod sensor;
pub mod state;
#[cfg(test)]
pub(crate) mod testing;
pub mod uart;
mod view;

pub use ble::RadioState;
pub(crate) use duplex::Link;
pub use duplex::LinkEnd;
pub(crate) use links::Handle;
pub use links::{LinkParts, Links, TargetError};
pub(crate) use order::Order;
pub(crate) use sensor::printable;
pub use state::{Found, FoundState, LineCondition, PortCondition, PortState};
