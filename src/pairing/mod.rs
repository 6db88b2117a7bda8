//! Pairing: runs the protocol's machine over a link, keeps its persistence points, and says why it failed.

mod commission;

pub use commission::{BoxFuture, Commission, CommissionError, FirstReading};
