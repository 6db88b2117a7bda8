//! The pairing code.
