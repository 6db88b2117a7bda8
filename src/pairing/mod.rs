//! Pairing: runs the protocol's machine over a link, keeps its persistence points, and says why it failed.

pub mod code;
pub mod code_book;
pub mod code_explain;
mod commission;
pub(crate) mod engine;
pub(crate) mod event;
pub(crate) mod follow;
mod issue;
mod random;
pub(crate) mod report;
pub(crate) mod run;
pub(crate) mod words;

use tokio::sync::mpsc;

pub use commission::{BoxFuture, Commission, CommissionError, FirstReading};
pub use event::{Cause, Ceremony, PairEvent, PairFailure, PairRequest, Stage};
pub(crate) use random::OsRandom;

use crate::link::{Handle, Links, Order, TargetError};
use engine::LabelJob;
use report::Report;

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
        let report = Report::to(Some(events.clone()));
        match self.links.resolve(&request.target) {
            Err(error) => report.fail(not_found(&report, &error)),
            Ok(handle) => match request.ceremony {
                Ceremony::Label(code) => {
                    let PairRequest { name, scopes, actor, .. } = request;
                    let job = LabelJob { code, name, scopes, actor, report };
                    tokio::spawn(async move { handle.order(Order::Pair(Box::new(job))).await });
                }
                Ceremony::Issued { ttl } => {
                    tokio::spawn(issue::issue(self.links.clone(), handle, request, ttl, events));
                }
            },
        }
        receiver
    }
}

fn not_found(report: &Report, error: &TargetError) -> PairFailure {
    let cause = match error {
        TargetError::Unreachable { .. } => Cause::Port,
        _ => Cause::NotFound,
    };
    report.failure(cause, format!("{}.", printed(error)), "")
}

fn printed(error: &TargetError) -> String {
    match error {
        TargetError::NotFound(target) => {
            format!("No sensor, port or device goes by {target:?}; clawgate scan lists what is in reach")
        }
        other => other.to_string(),
    }
}

/// The port of a request, for [`issue`].
type Port = Handle;
