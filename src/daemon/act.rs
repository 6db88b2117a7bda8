//! What an operator does to a device that touches several parts at once, in the order that leaves no ghost.

use super::{Gateway, view};
use crate::audit::{Action, Actor, Event, Outcome};
use crate::control::api::NO_REASON;
use crate::control::failure::{Failure, blocking};
use crate::ids::{DeviceId, PairingId};
use crate::spool::DeadLetter;
use crate::store::Device;
use crate::token::keeper::KeeperError;

impl Gateway {
    /// Forgets a device everywhere: session and sensor first, then token, relay and spool, the registry last.
    /// Whether the sensor confirmed that it erased its key.
    ///
    /// # Errors
    /// `not_found`, or what the registry said.
    pub(crate) async fn unpair(&self, id: &DeviceId, actor: Actor) -> Result<bool, Failure> {
        let _turn = self.0.service.turn(id).await;
        let known = self.known(id).await?;
        self.forget(&known, actor).await
    }

    /// Forgets these pairings of a device: one that is made meanwhile stays. Whoever calls has its turn.
    pub(super) async fn forget(&self, known: &Device, actor: Actor) -> Result<bool, Failure> {
        let id = &known.id;
        let told = self.links().unpair(known).await;
        self.0.relay.detach(id).await;
        let revoked = self.keeper().remove(id, "unpaired").await;
        if let Err(error) = &revoked {
            tracing::warn!(device = %id, %error, "the token of an unpaired device could not be revoked at the issuer");
        }
        let (store, gone) = (self.store().clone(), known.clone());
        blocking(move || store.remove_device(&gone)).await?;
        let mut lost = 0;
        for pairing in known.pairings() {
            match self.0.spool.purge(pairing).await {
                Ok(count) => lost += count,
                Err(error) => {
                    tracing::warn!(device = %id, %error, "readings of an unpaired device are still in the spool");
                }
            }
        }
        let details = serde_json::json!({ "sensor": known.hardware_id, "sensor_told": told, "readings_lost": lost, "token_revoked": revoked.is_ok() });
        self.record(Event::done(actor, Action::DeviceUnpair, id.as_str()).with(details)).await;
        Ok(told)
    }

    /// Gives a device another name.
    ///
    /// # Errors
    /// `not_found`, a name that is taken, or what the registry said.
    pub(crate) async fn rename(&self, id: &DeviceId, name: &DeviceId, actor: Actor) -> Result<(), Failure> {
        let _turns = self.0.service.turns(id, name).await;
        let (store, from, to) = (self.store().clone(), id.clone(), name.clone());
        blocking(move || store.rename_device(&from, &to)).await?;
        // The old name's topics and token end; what waits goes out under the new name.
        self.0.relay.detach(id).await;
        let revoked = self.keeper().remove(id, "renamed").await;
        if let Err(error) = &revoked {
            tracing::warn!(device = %id, %error, "the token of the old name could not be revoked at the issuer");
        }
        // It has its name, whatever comes of the rest.
        let details = serde_json::json!({ "to": name, "token_revoked": revoked.is_ok() });
        self.record(Event::done(actor, Action::DeviceRename, id.as_str()).with(details)).await;
        self.0.service.attach_again(name).await.map_err(|error| Failure::internal(&error))?;
        self.links().renamed(id).await;
        Ok(())
    }

    /// What the broker refused for good, the newest first.
    ///
    /// # Errors
    /// What the spool said.
    pub(crate) async fn dead_letters(&self, most: usize) -> Result<Vec<DeadLetter>, Failure> {
        Ok(self.0.spool.dead_letters(most).await?)
    }

    /// Sends the dead letters of a device to the broker again; how many.
    ///
    /// # Errors
    /// `not_found`, or what the spool said.
    pub(crate) async fn replay_dead_letters(&self, id: &DeviceId, actor: Actor) -> Result<u64, Failure> {
        let _turn = self.0.service.turn(id).await;
        let (_, pairing) = self.lane_of(id).await?;
        let count = self.0.spool.replay_dead_letters(pairing).await?;
        let details = serde_json::json!({ "messages": count });
        self.record(Event::done(actor, Action::DeadLettersReplay, id.as_str()).with(details)).await;
        if count > 0 && self.0.spool.lane(pairing).serve(id).len() > 1 {
            // Some are of an earlier pairing, whose lane the connection has done with.
            self.0.service.attach_again(id).await.map_err(|error| Failure::internal(&error))?;
        }
        Ok(count)
    }

    /// Forgets the dead letters of a device; how many.
    ///
    /// # Errors
    /// `not_found`, or what the spool said.
    pub(crate) async fn drop_dead_letters(&self, id: &DeviceId, why: &str, actor: Actor) -> Result<u64, Failure> {
        let (_, pairing) = self.lane_of(id).await?;
        let count = self.0.spool.drop_dead_letters(pairing).await?;
        let details = serde_json::json!({ "messages": count });
        self.record(Event::done(actor, Action::DeadLettersDrop, id.as_str()).because(why).with(details)).await;
        Ok(count)
    }

    /// A device that is paired.
    ///
    /// # Errors
    /// `not_found`, or what the registry said.
    pub(crate) async fn known(&self, id: &DeviceId) -> Result<Device, Failure> {
        let (store, wanted) = (self.store().clone(), id.clone());
        blocking(move || store.device(&wanted)).await?.ok_or_else(|| Failure::unknown_device(id.as_str()))
    }

    /// A device, and the pairing that its readings come under.
    pub(super) async fn lane_of(&self, id: &DeviceId) -> Result<(Device, PairingId), Failure> {
        let known = self.known(id).await?;
        let pairing = known.pairing();
        let pairing = pairing.ok_or_else(|| Failure::usage(format!("{id} has no key."), "Pair it again."))?;
        Ok((known, pairing))
    }

    /// Gets a new token now; its life in seconds.
    ///
    /// # Errors
    /// `not_found`, or why no token came.
    pub(crate) async fn rotate_token(&self, id: &DeviceId, actor: Actor) -> Result<u64, Failure> {
        let status = self.keeper().rotate(id).await.map_err(|error| {
            let standing = self.keeper().status(id).filter(|_| matches!(error, KeeperError::Issuer(_)));
            match standing.map(|status| view::next_step(&status)).filter(|next| !next.is_empty()) {
                Some(next_step) => Failure { next_step, ..Failure::from(error) },
                None => Failure::from(error),
            }
        })?;
        let details = serde_json::json!({ "jti": status.jti });
        self.record(Event::done(actor, Action::TokenRotate, id.as_str()).with(details)).await;
        Ok(status.expires_in_s.unwrap_or_default())
    }

    /// Ends a device's token now and gives it no other.
    ///
    /// # Errors
    /// `not_found`, or why the issuer was not told.
    pub(crate) async fn revoke_token(&self, id: &DeviceId, why: &str, actor: Actor) -> Result<(), Failure> {
        let given = why;
        // Who asks again and gives no reason does not take away the one that stands.
        let standing = self.known(id).await?.revoked.filter(|_| given == NO_REASON);
        let why = standing.as_deref().unwrap_or(given);
        let revoked = self.0.service.revoke(id, why).await?;
        let mut event = Event::done(actor, Action::TokenRevoke, id.as_str()).because(given);
        if let Err(error) = &revoked {
            event = event.ended(Outcome::Failed).with(serde_json::json!({ "error": error.to_string() }));
        }
        self.record(event).await;
        Ok(revoked?)
    }
}

#[cfg(test)]
mod tests;
