//! What standalone mode adds: a broker inside this process that enforces every token, and the issuer's endpoints.
//!
//! The broker keeps what it holds in memory: it is for one machine, for trials and for sites whose consumers stay
//! connected. Past that an existing broker takes its place; the tokens stay the same.

#[cfg(feature = "standalone")]
mod broker;
pub mod issuer_server;

#[cfg(feature = "standalone")]
pub use broker::{Broker, BrokerError, BrokerOptions, OffList, TlsFiles};
