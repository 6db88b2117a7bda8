//! Pairing machines of both ends.
