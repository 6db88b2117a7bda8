//! How a pairing tells its operator where it is. Nobody has to listen.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::event::{Cause, PairEvent, PairFailure, Stage};

/// One pairing's line to its operator.
#[derive(Debug)]
pub(crate) struct Report {
    events: Option<mpsc::Sender<PairEvent>>,
    stage: Stage,
    since: Instant,
}

impl Report {
    /// Reports to `events`, or to nobody.
    pub(crate) fn to(events: Option<mpsc::Sender<PairEvent>>) -> Self {
        Self { events, stage: Stage::Connect, since: Instant::now() }
    }

    /// The stage that runs.
    pub(crate) fn stage(&self) -> Stage {
        self.stage
    }

    /// The running stage ended well; the next one begins.
    pub(crate) fn passed(&mut self, next: Stage, detail: Option<String>) {
        let elapsed = self.finished();
        self.send(PairEvent::Stage { stage: self.stage, elapsed, detail });
        self.stage = next;
    }

    /// The last stage ended well.
    pub(crate) fn done(&mut self, detail: Option<String>) {
        let elapsed = self.finished();
        self.send(PairEvent::Stage { stage: self.stage, elapsed, detail });
    }

    /// Anything but a stage.
    pub(crate) fn send(&self, event: PairEvent) {
        if let Some(events) = &self.events {
            // There is room for every event of a pairing; a full queue has no reader.
            let _ = events.try_send(event);
        }
    }

    /// A failure in the running stage.
    pub(crate) fn failure(
        &self,
        cause: Cause,
        message: impl Into<String>,
        next_step: impl Into<String>,
    ) -> PairFailure {
        PairFailure::new(self.stage, cause, message, next_step)
    }

    /// Ends in failure.
    pub(crate) fn fail(&self, failure: PairFailure) {
        self.send(PairEvent::Failed(failure));
    }

    /// Whether nobody listens any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.events.as_ref().is_none_or(mpsc::Sender::is_closed)
    }

    /// Ends when nobody listens any more.
    pub(crate) async fn abandoned(&self) {
        if let Some(events) = &self.events {
            events.closed().await;
        }
    }

    fn finished(&mut self) -> Duration {
        let now = Instant::now();
        now.saturating_duration_since(std::mem::replace(&mut self.since, now))
    }
}
