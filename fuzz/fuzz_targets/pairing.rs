//! A pairing run on a line that an attacker owns.
#![no_main]

#[path = "../../protocol/tests/bodies/mod.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    bodies::machines::pairing(bytes);
});
