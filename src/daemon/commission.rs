//! Brings a device into service: token, relay, first reading confirmed. Pairing calls it once the keys stand;
//! the start calls the same for every device that is known.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::config::Config;
use crate::ids::{DeviceId, PairingId};
use crate::pairing::{BoxFuture, Commission, CommissionError};
use crate::relay::{Relay, RelayDevice};
use crate::spool::Spool;
use crate::store::{Device, KeySlot, Store};
use crate::token::keeper::{Grant, TokenKeeper};
use crate::token::scope::Scope;
use crate::token::{TokenHandle, TokenState};

/// Time for the first token of a device.
const TOKEN_TIME: Duration = Duration::from_secs(20);
/// Time for the sensor's first reading to arrive.
const READING_TIME: Duration = Duration::from_secs(30);
/// Time for the broker to confirm it.
const CONFIRM_TIME: Duration = Duration::from_secs(20);

/// What a device needs to be in service.
#[derive(Clone)]
pub(super) struct Service {
    store: Store,
    spool: Spool,
    keeper: TokenKeeper,
    relay: Arc<Relay>,
    life: Duration,
    audience: String,
}

impl Service {
    pub(super) fn new(store: Store, spool: Spool, keeper: TokenKeeper, relay: Arc<Relay>, config: &Config) -> Self {
        let (life, audience) = (config.issuer.life, config.issuer.audience.clone());
        Self { store, spool, keeper, relay, life, audience }
    }

    /// Attaches a device to token and relay; never waits for the cloud.
    pub(super) fn attach(&self, device: &Device) -> Result<TokenHandle, CommissionError> {
        let slot = slot_of(device).ok_or_else(|| failed("it has no key", "Pair it again."))?;
        let grant = Grant { scope: scopes_of(device), life: self.life, audience: self.audience.clone() };
        let retry = format!("Try again: clawgate token rotate {}", device.id);
        let added = match &device.revoked {
            Some(why) => self.keeper.add_revoked(&device.id, grant, why),
            None => self.keeper.add(&device.id, grant),
        };
        let token = added.map_err(|error| failed(&error.to_string(), &retry))?;
        let description = json!({
            "name": device.info.sensor_name,
            "firmware": device.info.firmware,
            "capabilities": device.info.capabilities,
        });
        let known = RelayDevice { id: device.id.clone(), pairing: slot.pairing, description };
        self.relay.attach(known, self.spool.lane(slot.pairing), token.clone());
        Ok(token)
    }

    async fn first_token(&self, id: &DeviceId) -> Result<String, CommissionError> {
        let known = self.device(id).await?;
        // Paired again, it has another lane.
        self.relay.detach(id).await;
        let handle = self.attach(&known)?;
        let mut states = handle.watch();
        let waiting = |state: &TokenState| matches!(state, TokenState::Waiting { .. });
        let settled = tokio::time::timeout(TOKEN_TIME, states.wait_for(|state| !waiting(state))).await;
        let state = match settled {
            Ok(Ok(state)) => state.clone(),
            _ => handle.watch().borrow().clone(),
        };
        match state {
            TokenState::Valid(token) => Ok(token.claims().scope.clone()),
            TokenState::Quarantined { reason } | TokenState::Revoked { reason } => {
                Err(failed(&reason, &format!("Mend that, then: clawgate token rotate {id}")))
            }
            TokenState::Waiting { last_error, .. } => {
                let none = || format!("the issuer gave no token within {} s", TOKEN_TIME.as_secs());
                Err(failed(&last_error.unwrap_or_else(none), "It is asked again by itself; see clawgate token ls."))
            }
        }
    }

    async fn await_first_reading(&self, id: &DeviceId) -> Result<(), CommissionError> {
        // Asked first of all: what is confirmed from here on is seen.
        let mut confirmed =
            self.relay.confirmed(id).ok_or_else(|| failed("it was removed meanwhile", "Pair it again."))?;
        let before = *confirmed.borrow_and_update();
        let known = self.device(id).await?;
        let slot = slot_of(&known).ok_or_else(|| failed("it has no key", "Pair it again."))?;
        let lane = self.spool.lane(slot.pairing);
        // Readings of an older pairing that still wait go out first.
        let earlier: u64 = lane.serve(id).iter().rev().skip(1).map(|lane| self.waiting(lane.pairing())).sum();
        let mut progress = lane.progress();
        let came = tokio::time::timeout(READING_TIME, progress.wait_for(|progress| progress.next > 1));
        let came = matches!(came.await, Ok(Ok(_)));
        if !came {
            let text = format!("no reading came from the sensor within {} s", READING_TIME.as_secs());
            return Err(failed(&text, "Look at the sensor; its session: clawgate status."));
        }
        // The first one may have been confirmed before anybody counted: then nothing waits, and nothing was refused.
        let is_through =
            |count: u64| count > before + earlier || (self.waiting(slot.pairing) == 0 && self.refused(id) == 0);
        let heard = tokio::time::timeout(CONFIRM_TIME, confirmed.wait_for(|count| is_through(*count)));
        let heard = matches!(heard.await, Ok(Ok(_)));
        if heard {
            return Ok(());
        }
        let statuses = self.relay.status();
        let reason = statuses.into_iter().find(|status| status.device == *id).and_then(|status| status.last_error);
        let none = || format!("the broker confirmed no reading within {} s", CONFIRM_TIME.as_secs());
        Err(failed(
            &reason.unwrap_or_else(none),
            "Readings are kept and go out by themselves when the broker answers; see clawgate status.",
        ))
    }

    /// Readings of a device that the broker refused since it was attached.
    fn refused(&self, id: &DeviceId) -> u64 {
        self.relay.status().iter().find(|status| status.device == *id).map_or(0, |status| status.refused)
    }

    /// Entries of one lane that the broker has not confirmed.
    fn waiting(&self, pairing: PairingId) -> u64 {
        self.spool.status().lanes.iter().find(|lane| lane.pairing == pairing).map_or(0, |lane| lane.depth)
    }

    async fn device(&self, id: &DeviceId) -> Result<Device, CommissionError> {
        let (store, wanted) = (self.store.clone(), id.clone());
        match tokio::task::spawn_blocking(move || store.device(&wanted)).await {
            Ok(Ok(Some(device))) => Ok(device),
            Ok(Ok(None)) => Err(failed("it is not in the registry", "Pair it again.")),
            Ok(Err(error)) => Err(failed(&error.to_string(), "See clawgate status.")),
            Err(error) => Err(failed(&error.to_string(), "See the log of clawgate.")),
        }
    }
}

fn failed(message: &str, next_step: &str) -> CommissionError {
    CommissionError { message: message.to_owned(), next_step: next_step.to_owned() }
}

/// The key that readings come under: the proven one, else the one to be proven.
pub(super) fn slot_of(device: &Device) -> Option<&KeySlot> {
    device.current.as_ref().or(device.pending.as_ref().map(|pending| &pending.key))
}

/// What the operator granted; telemetry, where nothing was said.
pub(super) fn scopes_of(device: &Device) -> Vec<Scope> {
    if device.info.scopes.is_empty() { vec![Scope::TelemetryWrite] } else { device.info.scopes.clone() }
}

impl Commission for Service {
    fn token<'a>(&'a self, device: &'a DeviceId) -> BoxFuture<'a, Result<String, CommissionError>> {
        Box::pin(self.first_token(device))
    }

    fn first_reading<'a>(&'a self, device: &'a DeviceId) -> BoxFuture<'a, Result<(), CommissionError>> {
        Box::pin(self.await_first_reading(device))
    }
}
