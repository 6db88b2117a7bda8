//! The profiles of brokers and clouds: a real RabbitMQ, and for the clouds what goes over the wire.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends")]

#[path = "../support/back_half.rs"]
mod back_half;
#[path = "../support/daemon.rs"]
mod daemon;
#[path = "../support/fixtures.rs"]
mod fixtures;
mod gateway;
#[path = "../support/line.rs"]
mod line;
mod node;
mod rabbitmq;
#[path = "../support/mod.rs"]
mod support;
mod wire;
