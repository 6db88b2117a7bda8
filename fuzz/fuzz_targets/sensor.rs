//! The whole sensor under any messages at any time.
#![no_main]

#[path = "../../protocol/tests/bodies/mod.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bodies::machines::sensor(bytes));
