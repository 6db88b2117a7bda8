//! Encrypted records: counters, the replay window, the AEAD.

/// The bytes a record adds to its plaintext: type, session index, counter, tag.
pub const RECORD_OVERHEAD: usize = 1 + 1 + 4 + 16;
