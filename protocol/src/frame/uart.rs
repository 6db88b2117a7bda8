//! Frames of a serial line.
