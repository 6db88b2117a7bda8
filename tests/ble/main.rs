//! The gateway over BLE: the real daemon, simulated sensors as processes of their own, and between them a BlueZ
//! that does what it is told on a bus of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

mod bluez;
#[path = "../support/daemon.rs"]
mod daemon;
mod rig;

/// Under a name of its own: these tests wait more than they work, and `tests/run` has many of them wait at once.
#[path = ""]
mod on_the_air {
    mod everyday;
    mod faults;
    mod missing;
    mod recovery;
}
