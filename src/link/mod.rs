//! Links: paths to sensors. Bytes become messages here, and nothing of a message is understood here.

pub mod state;
#[cfg(test)]
pub(crate) mod testing;
pub mod uart;

pub use state::{Found, FoundState, LineCondition, PortCondition, PortState};
