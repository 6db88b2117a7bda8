//! clawgate.
fn main() {}
