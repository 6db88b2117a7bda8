//! Brings a device into service: token, relay, first reading confirmed. Pairing calls it once the keys stand;
//! the start calls the same for every device that is known.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::disk::Disk;
use super::turns::{Turn, Turns};
use crate::audit::{Action, Actor, Audit, Event};
use crate::blocking::blocking;
use crate::config::Config;
use crate::ids::DeviceId;
use crate::pairing::{BoxFuture, Commission, CommissionError, Wait};
use crate::relay::{Relay, RelayDevice};
use crate::spool::Spool;
use crate::store::{Decision, Device, Store, StoreError};
use crate::token::keeper::{Grant, KeeperError, TokenKeeper};
use crate::token::scope::Scope;
use crate::token::{AccessToken, Stage, TokenHandle, TokenState};

/// Time for the first token of a device.
const TOKEN_TIME: Duration = Duration::from_secs(20);
/// Time for the sensor's first reading to arrive.
const READING_TIME: Duration = Duration::from_secs(30);
/// Time for the broker to confirm it.
const CONFIRM_TIME: Duration = Duration::from_secs(20);

/// How soon a refused reading is noticed.
const LOOK: Duration = Duration::from_millis(250);

/// What a device needs to be in service.
#[derive(Clone)]
pub(super) struct Service {
    store: Store,
    spool: Spool,
    keeper: TokenKeeper,
    relay: Arc<Relay>,
    /// Of tokens; a reload may change it.
    life: Arc<ArcSwap<Duration>>,
    /// How long a pairing shows that it waits for a decision; a reload may change it.
    decision_time: Arc<ArcSwap<Duration>>,
    audience: String,
    stage: Stage,
    audit: Audit,
    turns: Turns,
    /// Held from a look into the registry until the keeper knows what was seen there.
    pub(super) admission: Arc<Mutex<()>>,
}

impl Service {
    pub(super) fn new(disk: &Disk, keeper: TokenKeeper, relay: Arc<Relay>, config: &Config) -> Self {
        let Disk { store, spool, audit, .. } = disk.clone();
        let life = Arc::new(ArcSwap::from_pointee(config.issuer.life));
        let decision_time = Arc::new(ArcSwap::from_pointee(config.pairing.approval_time));
        let (audience, stage) = (config.audience().to_owned(), config.gateway.stage);
        let (turns, admission) = (Turns::default(), Arc::default());
        Self { store, spool, keeper, relay, life, decision_time, audience, stage, audit, turns, admission }
    }

    /// Attaches a device to token and relay; never waits for the cloud.
    pub(super) fn attach(&self, device: &Device) -> Result<TokenHandle, CommissionError> {
        let pairing = device.pairing().ok_or_else(|| failed("it has no key", "Pair it again."))?;
        let grant = self.grant(device);
        let retry = format!("Try again: clawgate token rotate {}", device.id);
        let added = match (&device.revoked, self.held(device)) {
            (Some(why), _) => self.keeper.add_revoked(&device.id, grant, why),
            (None, Some(why)) => self.keeper.hold(&device.id, grant, &why),
            (None, None) => self.keeper.add(&device.id, grant),
        };
        let token = added.map_err(|error| failed(&error.to_string(), &retry))?;
        let description = json!({
            "name": device.info.sensor_name,
            "firmware": device.info.firmware,
            "capabilities": device.info.capabilities,
        });
        let known = RelayDevice { id: device.id.clone(), pairing, description };
        self.relay.attach(known, self.spool.lane(pairing), token.clone());
        Ok(token)
    }

    /// Why a device that is paired gets no token yet.
    fn held(&self, device: &Device) -> Option<String> {
        let (id, info) = (&device.id, &device.info);
        if info.stage != self.stage {
            let (paired, own) = (info.stage, self.stage);
            return Some(format!(
                "it was paired for the stage {paired}, and this gateway is of {own}: pair it again here, or serve it at a \
                 gateway of {paired}"
            ));
        }
        matches!(info.decision, Decision::Waiting { .. })
            .then(|| format!("it waits for the backend: clawgate devices approve {id}, or reject {id}"))
    }

    /// Waits until nobody else unpairs, renames, decides about or brings that device into service.
    pub(super) async fn turn(&self, id: &DeviceId) -> Turn {
        self.turns.of(id).await
    }

    /// The same for two names.
    pub(super) async fn turns(&self, one: &DeviceId, other: &DeviceId) -> (Turn, Option<Turn>) {
        self.turns.of_both(one, other).await
    }

    /// Attaches a device anew as the registry has it now. Whoever calls has its turn.
    pub(super) async fn attach_again(&self, id: &DeviceId) -> Result<TokenHandle, CommissionError> {
        self.relay.detach(id).await;
        let _admission = self.admission.lock().await;
        self.attach(&self.device(id).await?)
    }

    /// A device that was held gets its token, if nothing else keeps it from that. Whoever calls has its turn.
    pub(super) async fn admit(&self, id: &DeviceId) -> Result<(), CommissionError> {
        let _admission = self.admission.lock().await;
        let device = self.device(id).await?;
        if let Some(why) = &device.revoked {
            let text = format!("it was revoked meanwhile ({why}), and gets no token");
            return Err(failed(&text, &format!("To let it back in, pair it again: clawgate pair {id}")));
        }
        if let Some(why) = self.held(&device) {
            return Err(failed(&why, ""));
        }
        let retry = format!("Try again: clawgate token rotate {id}");
        let added = self.keeper.add(id, self.grant(&device));
        added.map(drop).map_err(|error| failed(&error.to_string(), &retry))
    }

    /// Cuts a device off, on the disk first: neither a restart nor whoever admits it at this moment gives it another
    /// token. Then the issuer is told; what came of that.
    pub(super) async fn revoke(&self, id: &DeviceId, why: &str) -> Result<Result<(), KeeperError>, StoreError> {
        let told = {
            let _admission = self.admission.lock().await;
            let (store, device, reason) = (self.store.clone(), id.clone(), why.to_owned());
            blocking(move || store.revoke_device(&device, &reason)).await?;
            self.keeper.revoke(id, why)
        };
        Ok(told.await)
    }

    /// Another time that pairings show that they wait.
    pub(super) fn set_decision_time(&self, time: Duration) {
        self.decision_time.store(Arc::new(time));
    }

    fn grant(&self, device: &Device) -> Grant {
        Grant {
            scope: scopes_of(device),
            life: **self.life.load(),
            audience: self.audience.clone(),
            limits: device.info.limits.clone(),
        }
    }

    /// Another life of tokens: every device that has one gets a new one.
    pub(super) fn set_life(&self, life: Duration) {
        self.life.store(Arc::new(life));
        for device in self.keeper.set_life(life) {
            tracing::warn!(%device, "the device keeps its token's old life: too much is asked of it at a time");
        }
    }

    async fn first_token(&self, id: &DeviceId, tell: &(dyn Fn(Wait) + Send + Sync)) -> Result<String, CommissionError> {
        let handle = {
            let _turn = self.turn(id).await;
            // Paired again, it has another lane.
            self.attach_again(id).await?
        };
        match settled(&handle, **self.decision_time.load(), tell).await {
            TokenState::Valid(token) => {
                self.note_issue(id, &token).await;
                Ok(token.claims().scope.clone())
            }
            TokenState::Quarantined { reason } | TokenState::Revoked { reason } => {
                Err(failed(&reason, &format!("Mend that, then: clawgate token rotate {id}")))
            }
            TokenState::Held { reason } => {
                let next = "It stays paired, its readings are kept, and it goes into service with the yes.";
                Err(failed(&reason, next))
            }
            TokenState::Waiting { last_error, .. } => {
                let none = || format!("the issuer gave no token within {} s", TOKEN_TIME.as_secs());
                Err(failed(&last_error.unwrap_or_else(none), "It is asked again by itself; see clawgate token ls."))
            }
        }
    }

    /// The first token of a pairing; those after it are listed together.
    async fn note_issue(&self, id: &DeviceId, token: &AccessToken) {
        let claims = token.claims();
        let details = json!({ "jti": token.jti(), "scope": claims.scope, "life_s": token.life().as_secs() });
        let event = Event::done(Actor::Daemon, Action::TokenIssue, id.as_str()).with(details);
        self.audit.note(event).await;
    }

    async fn await_first_reading(&self, id: &DeviceId, arrives: BoxFuture<'_, ()>) -> Result<(), CommissionError> {
        // Asked first of all: what is confirmed from here on is seen.
        let mut confirmed =
            self.relay.confirmed(id).ok_or_else(|| failed("it was removed meanwhile", "Pair it again."))?;
        let before = *confirmed.borrow_and_update();
        let known = self.device(id).await?;
        let pairing = known.pairing().ok_or_else(|| failed("it has no key", "Pair it again."))?;
        let lane = self.spool.lane(pairing);
        // Readings of an older pairing that still wait go out first.
        let earlier: u64 = lane.serve(id).iter().rev().skip(1).map(|lane| self.spool.waiting(lane.pairing())).sum();
        // Not the lane's numbers: a sensor that is paired again goes on in its own, without a reading yet.
        if tokio::time::timeout(READING_TIME, arrives).await.is_err() {
            let text = format!("no reading came from the sensor within {} s", READING_TIME.as_secs());
            return Err(failed(&text, "Look at the sensor; its session: clawgate status."));
        }
        // The first one may have been confirmed before anybody counted: then nothing waits, and nothing was refused.
        let is_through =
            |count: u64| count > before + earlier || (self.spool.waiting(pairing) == 0 && self.refused(id) == 0);
        let heard = tokio::time::timeout(CONFIRM_TIME, async {
            tokio::select! {
                heard = confirmed.wait_for(|count| is_through(*count)) => heard.is_ok(),
                () = self.refusal(id) => false,
            }
        });
        if matches!(heard.await, Ok(true)) {
            return Ok(());
        }
        let letters = if self.refused(id) > 0 { self.spool.dead_letters(1).await } else { Ok(Vec::new()) };
        if let Some(letter) = letters.unwrap_or_default().first().filter(|letter| letter.id.pairing == pairing) {
            let next = format!("Mend that, then: clawgate dead-letters replay {id}");
            return Err(failed(&format!("the broker refused its reading: {}", letter.reason), &next));
        }
        let reason = self.relay.device_status(id).and_then(|status| status.last_error);
        let none = || format!("the broker confirmed no reading within {} s", CONFIRM_TIME.as_secs());
        Err(failed(
            &reason.unwrap_or_else(none),
            "Readings are kept and go out by themselves when the broker answers; see clawgate status.",
        ))
    }

    /// Ends when a reading of the device stands among the dead letters.
    async fn refusal(&self, id: &DeviceId) {
        while self.refused(id) == 0 || self.spool.status().dead_letters == 0 {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Readings of a device that the broker refused since it was attached.
    fn refused(&self, id: &DeviceId) -> u64 {
        self.relay.device_status(id).map_or(0, |status| status.refused)
    }

    async fn device(&self, id: &DeviceId) -> Result<Device, CommissionError> {
        let (store, wanted) = (self.store.clone(), id.clone());
        match blocking(move || store.device(&wanted)).await {
            Ok(Some(device)) => Ok(device),
            Ok(None) => Err(failed("it is not in the registry", "Pair it again.")),
            Err(error) => Err(failed(&error.to_string(), "See clawgate status.")),
        }
    }
}

/// The state of a token when it is no longer waited for, or no longer worth waiting for.
async fn settled(handle: &TokenHandle, decision_time: Duration, tell: &(dyn Fn(Wait) + Send + Sync)) -> TokenState {
    let mut states = handle.watch();
    let mut deadline = Instant::now() + TOKEN_TIME;
    let (mut told, mut held) = (None, false);
    loop {
        let state = states.borrow_and_update().clone();
        match &state {
            TokenState::Waiting { approval: Some(approval), .. } if told.as_ref() != Some(&approval.code) => {
                deadline = Instant::now() + Duration::from_secs(approval.left_s) + TOKEN_TIME;
                told = Some(approval.code.clone());
                tell(Wait::Approval(approval.clone()));
            }
            TokenState::Held { .. } if !held => {
                deadline = Instant::now() + decision_time;
                held = true;
                tell(Wait::Decision { within: decision_time });
            }
            TokenState::Waiting { .. } if held => {
                deadline = Instant::now() + TOKEN_TIME;
                held = false;
            }
            TokenState::Waiting { .. } | TokenState::Held { .. } => {}
            TokenState::Valid(_) | TokenState::Quarantined { .. } | TokenState::Revoked { .. } => return state,
        }
        if !matches!(tokio::time::timeout_at(deadline, states.changed()).await, Ok(Ok(()))) {
            return state;
        }
    }
}

fn failed(message: &str, next_step: &str) -> CommissionError {
    CommissionError { message: message.to_owned(), next_step: next_step.to_owned() }
}

/// What the operator granted; telemetry, where nothing was said.
pub(super) fn scopes_of(device: &Device) -> Vec<Scope> {
    if device.info.scopes.is_empty() { vec![Scope::TelemetryWrite] } else { device.info.scopes.clone() }
}

impl Commission for Service {
    fn token<'a>(
        &'a self,
        device: &'a DeviceId,
        tell: &'a (dyn Fn(Wait) + Send + Sync),
    ) -> BoxFuture<'a, Result<String, CommissionError>> {
        Box::pin(self.first_token(device, tell))
    }

    fn first_reading<'a>(
        &'a self,
        device: &'a DeviceId,
        arrives: BoxFuture<'a, ()>,
    ) -> BoxFuture<'a, Result<(), CommissionError>> {
        Box::pin(self.await_first_reading(device, arrives))
    }
}
