//! The whole sensor against a gateway of the same machines, on a virtual line and a virtual clock.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

#[path = "../desk/mod.rs"]
mod desk;
mod keys;
mod readings;
mod table;
