//! Pairing: runs the protocol's machine over a link, keeps its persistence points, and says why it failed.

pub mod code;
pub mod code_book;
pub mod code_explain;
mod code_id;
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

pub use commission::{BoxFuture, Commission, CommissionError, Wait};
pub use engine::PairingPolicy;
pub use event::{Cause, Ceremony, PairEvent, PairFailure, PairRequest, Stage};
pub(crate) use random::OsRandom;

use crate::blocking::blocking;
use crate::link::{Handle, Links, Order, TargetError, printable};
use crate::store::Device;
use engine::{Engine, LabelJob};
use report::Report;

/// Longest target that the audit log quotes, in characters.
const MAX_SUBJECT: usize = 64;

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
        tokio::spawn(start(self.links.clone(), request, events));
        receiver
    }
}

async fn start(links: Links, mut request: PairRequest, events: mpsc::Sender<PairEvent>) {
    let engine = links.engine();
    let ceremony = request.ceremony.kind();
    let subject: String = printable(&request.target).chars().take(MAX_SUBJECT).collect();
    let report = Report::new(engine.about(request.actor.clone(), &subject, ceremony), Some(events.clone()));
    let handle = match find(&links, &mut request, &report).await {
        Ok(handle) => handle,
        Err(failure) => return report.fail(failure).await,
    };
    match request.ceremony {
        Ceremony::Label(code) => {
            let PairRequest { name, scopes, limits, actor, .. } = request;
            handle.order(Order::Pair(Box::new(LabelJob { code, name, scopes, limits, actor, report }))).await;
        }
        Ceremony::Issued { ttl } => issue::issue(links, handle, request, ttl, events, report).await,
    }
}

/// The sensor that is meant. A device's own that was reset shows nothing of the pairing: it is found by its own id.
async fn find(links: &Links, request: &mut PairRequest, report: &Report) -> Result<Handle, PairFailure> {
    let error = match links.find(&request.target).await {
        Err(error @ TargetError::NotFound(_)) => error,
        found => return found.map_err(|error| unreached(report, &error)),
    };
    let Some(known) = known(links.engine(), &request.target).await else { return Err(unreached(report, &error)) };
    if let Ok(handle) = links.resolve(&known.hardware_id) {
        // Whoever else goes by that id is no such device.
        request.name.get_or_insert(known.id);
        return Ok(handle);
    }
    let text = format!("{} is paired, but its sensor answers on no line now.", known.id);
    Err(report.failure(Cause::NoAnswer, text, "Check its power and its line; what is in reach: clawgate scan"))
}

async fn known(engine: &Engine, target: &str) -> Option<Device> {
    let (store, id) = (engine.parts().store.clone(), target.parse().ok()?);
    blocking(move || store.device(&id)).await.ok()?
}

fn unreached(report: &Report, error: &TargetError) -> PairFailure {
    match error {
        TargetError::Unreachable { .. } => {
            report.failure(Cause::Port, format!("{error}."), "See the port's state: clawgate status")
        }
        TargetError::NotFound(target) => {
            let text = format!("No sensor, port or device goes by {target:?}.");
            report.failure(Cause::NotFound, text, "List what is in reach: clawgate scan")
        }
        TargetError::Ambiguous { .. } => report.failure(Cause::NotFound, format!("{error}."), ""),
    }
}

/// The port of a request, for [`issue`].
type Port = Handle;
