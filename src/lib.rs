//! clawgate: the OpenClaw pairing agent for Linux edge gateways.
//!
//! Way of a reading: [`link`] -> [`session`] -> [`spool`] -> [`relay`] -> broker.
//! Way of a code: [`control`] -> [`pairing`] -> protocol machine -> [`store`] -> [`token`].

pub mod alarm;
pub mod audit;
mod backup;
mod blocking;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod daemon;
#[cfg(feature = "demo")]
pub mod demo;
mod doctor;
mod http_client;
pub mod ids;
pub mod link;
mod lock;
pub mod logging;
pub mod metrics;
pub mod notify;
pub mod pairing;
pub mod principal;
pub mod relay;
pub mod secret;
pub mod secret_source;
pub mod session;
pub mod spool;
pub mod standalone;
pub mod store;
#[cfg(test)]
mod testing;
pub mod token;
