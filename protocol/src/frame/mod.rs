//! Frames of a link.

pub mod uart;
