//! pairing.
