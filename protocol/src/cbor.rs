//! Strict deterministic CBOR.
