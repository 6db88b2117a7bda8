//! The backend's word on a pairing that waits for it: by an admin at the control socket, or by a signed command.

use super::Gateway;
use crate::audit::{Action, Actor, Event};
use crate::control::failure::{Failure, blocking};
use crate::ids::DeviceId;
use crate::store::Decision;

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It gets its token.
    Approve,
    /// It is unpaired.
    Reject,
}

impl Gateway {
    /// Decides about a device that waits for it. What is on disk survives a restart; said twice, a yes is a yes.
    ///
    /// # Errors
    /// `not_found`, `bad_request` where it waits for nothing, or what the registry said.
    pub(crate) async fn decide(&self, id: &DeviceId, verdict: Verdict, why: &str, actor: Actor) -> Result<(), Failure> {
        let (mut known, pairing) = self.lane_of(id).await?;
        match (&known.info.decision, verdict) {
            (Decision::Waiting { .. }, _) => {}
            (Decision::Approved { .. }, Verdict::Approve) => return Ok(()),
            (Decision::Approved { by, .. }, Verdict::Reject) => {
                let text = format!("{id} was approved by {by}.");
                return Err(Failure::usage(text, format!("To take it out of service: clawgate unpair {id}")));
            }
            (Decision::NotNeeded, _) => {
                let text = format!("{id} waits for nobody's decision.");
                return Err(Failure::usage(text, "Which devices do: clawgate devices ls"));
            }
        }
        if verdict == Verdict::Reject {
            self.record(Event::done(actor.clone(), Action::DeviceReject, id.as_str()).because(why)).await;
            return self.unpair(id, actor).await.map(drop);
        }
        let at_ms = self.clock().wall_ms();
        let yes = Decision::Approved { at_ms, by: actor.clone(), why: why.chars().take(256).collect() };
        let (store, wanted, decision) = (self.store().clone(), id.clone(), yes.clone());
        blocking(move || store.decide(&wanted, pairing, &decision)).await?;
        self.record(Event::done(actor, Action::DeviceApprove, id.as_str()).because(why)).await;
        known.info.decision = yes;
        self.0.service.admit(&known).map_err(|error| Failure::internal(&error))
    }
}
