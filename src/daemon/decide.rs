//! The backend's word on a pairing that waits for it: by an admin at the control socket, or by a signed command.

use serde_json::json;

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
        let _turn = self.0.service.turn(id).await;
        let (known, pairing) = self.lane_of(id).await?;
        if let (Some(why), Verdict::Approve) = (&known.revoked, verdict) {
            let text = format!("{id} was revoked ({why}): a yes gives it no token.");
            return Err(Failure::usage(text, format!("To let it back in, pair it again: clawgate pair {id}")));
        }
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
            let forgotten = self.forget(&known, actor.clone()).await;
            let mut event = Event::done(actor, Action::DeviceReject, id.as_str()).because(why);
            if let Err(failure) = &forgotten {
                event = event.ended(failure.outcome()).with(json!({ "error": failure.message }));
            }
            self.record(event).await;
            return forgotten.map(drop);
        }
        let at_ms = self.clock().wall_ms();
        let yes = Decision::Approved { at_ms, by: actor.clone(), why: why.chars().take(256).collect() };
        let (store, wanted) = (self.store().clone(), id.clone());
        blocking(move || store.decide(&wanted, pairing, &yes)).await?;
        self.record(Event::done(actor, Action::DeviceApprove, id.as_str()).because(why)).await;
        self.0.service.admit(id).await.map_err(|error| Failure::internal(&error))
    }
}
