//! Any stream of bytes from a serial line.
#![no_main]

#[path = "../../protocol/tests/bodies/mod.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bodies::frame(bytes));
