//! Serial ports: which are ours, opening one with a reason when it cannot be had, hot-plug, frames on the line.

mod hotplug;
mod line;
mod meter;
mod open;
mod options;

pub(crate) use hotplug::Hotplug;
pub(crate) use line::start;
pub(crate) use meter::Meter;
pub(crate) use open::{look, open};
pub(crate) use options::Port;
pub use options::{PortOptions, UartOptions};
