//! Elligator2 over curve25519.
