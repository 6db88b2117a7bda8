//! Messages: one type byte and a CBOR map.

pub mod pairing;
