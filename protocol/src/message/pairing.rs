//! M1 to M6.
