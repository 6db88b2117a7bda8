//! Any bytes as a message, a record's plaintext, a SenML pack, a code.
#![no_main]

#[path = "../../protocol/tests/bodies/mod.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bodies::message(bytes));
