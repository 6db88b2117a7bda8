//! The audit log: who did what, when and why, so that a later change of it shows.

mod event;

pub use event::{Actor, Event, Outcome};
