//! The gateway as its operator meets it: the daemon as a process, its command line, its control socket.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends")]

mod audit;
mod audit_walk;
#[path = "../support/authority.rs"]
mod authority;
mod commands;
mod configuration;
mod control;
mod deny_list;
#[path = "../support/issuer_front.rs"]
mod issuer_front;
mod keys;
mod lifecycle;
mod openbao;
mod pairing;
mod policy;
mod scripts;
mod secret_sources;
mod secrets;
mod siem;
mod site;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/thief.rs"]
mod thief;
mod unwritable;
mod workflow;
