//! The gateway as its operator meets it: the daemon as a process, its command line, its control socket.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends")]

mod audit;
mod audit_walk;
mod commands;
mod control;
mod keys;
mod lifecycle;
mod pairing;
mod policy;
mod scripts;
mod secrets;
mod siem;
mod site;
