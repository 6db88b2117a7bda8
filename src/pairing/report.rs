//! How a pairing tells its operator where it is, and the audit log how it failed. Nobody has to listen.

use std::time::Duration;

use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;

use clawgate_protocol::pairing::Ceremony;

use super::event::{Cause, PairEvent, PairFailure, Stage};
use crate::audit::{Action, Actor, Audit, Event, Outcome};

/// One pairing's line to its operator.
#[derive(Debug)]
pub(crate) struct Report {
    events: Option<mpsc::Sender<PairEvent>>,
    about: About,
    stage: Stage,
    since: Instant,
}

/// What the audit log says of a pairing that fails.
#[derive(Debug)]
pub(crate) struct About {
    pub(crate) audit: Audit,
    pub(crate) actor: Actor,
    /// The sensor or device, by the best name that is known.
    pub(crate) subject: String,
    pub(crate) ceremony: Ceremony,
}

impl Report {
    /// Reports to `events`, or to nobody.
    pub(crate) fn new(about: About, events: Option<mpsc::Sender<PairEvent>>) -> Self {
        Self { events, about, stage: Stage::Connect, since: Instant::now() }
    }

    /// A better name is known.
    pub(crate) fn is_about(&mut self, subject: &str) {
        subject.clone_into(&mut self.about.subject);
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

    /// Ends in failure, which stands in the audit log before the operator hears of it.
    pub(crate) async fn fail(&self, failure: PairFailure) {
        let About { audit, actor, subject, ceremony } = &self.about;
        tracing::warn!(sensor = %subject, stage = %failure.stage, cause = failure.cause.name(), "{}", failure.message);
        let action = match failure.stage {
            Stage::Connect | Stage::KeyExchange | Stage::Confirm => Action::DevicePair,
            // Its keys stand.
            Stage::Token | Stage::FirstReading => Action::DeviceCommission,
        };
        let details = json!({ "stage": failure.stage, "cause": failure.cause, "ceremony": ceremony.name() });
        let event = Event::done(actor.clone(), action, subject).ended(Outcome::Failed);
        audit.note(event.because(&failure.message).with(details)).await;
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
