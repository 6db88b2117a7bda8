//! Ports that come, go, or cannot be had.
