//! Brings a device into service: token, relay, first reading confirmed. Pairing calls it once the keys stand;
//! the start calls the same for every device that is known.

use std::time::Duration;

use crate::config::Config;
use crate::ids::DeviceId;
use crate::pairing::{BoxFuture, Commission, CommissionError, FirstReading};
use crate::store::{Device, Store};
use crate::token::TokenState;
use crate::token::keeper::{Grant, TokenKeeper};
use crate::token::scope::Scope;

/// Time for the first token of a device.
const TOKEN_TIME: Duration = Duration::from_secs(20);

/// What a device needs to be in service.
#[derive(Clone)]
pub(super) struct Service {
    pub(super) store: Store,
    pub(super) keeper: TokenKeeper,
    pub(super) life: Duration,
    pub(super) audience: String,
}

impl Service {
    pub(super) fn new(store: Store, keeper: TokenKeeper, config: &Config) -> Self {
        Self { store, keeper, life: config.issuer.life, audience: config.issuer.audience.clone() }
    }

    /// Attaches a device to token and relay; never waits for the cloud.
    pub(super) fn attach(&self, device: &Device) -> Result<(), CommissionError> {
        let grant = Grant { scope: scopes_of(device), life: self.life, audience: self.audience.clone() };
        let _token = self.keeper.add(&device.id, grant).map_err(|error| CommissionError {
            message: error.to_string(),
            next_step: "Try again: clawgate token rotate.".to_owned(),
        })?;
        Ok(())
    }

    async fn first_token(&self, id: &DeviceId) -> Result<String, CommissionError> {
        let known = self.device(id).await?;
        self.attach(&known)?;
        let handle =
            self.keeper.handle(id).ok_or_else(|| failed("the device was removed meanwhile", "Pair it again."))?;
        let mut states = handle.watch();
        let valid = states.wait_for(|state| !matches!(state, TokenState::Waiting { .. }));
        match tokio::time::timeout(TOKEN_TIME, valid).await {
            Ok(Ok(state)) => match &*state {
                TokenState::Valid(token) => Ok(token.claims().scope.clone()),
                TokenState::Quarantined { reason } | TokenState::Revoked { reason } => {
                    Err(failed(reason, &format!("Mend that, then: clawgate token rotate {id}.")))
                }
                TokenState::Waiting { .. } => Err(failed("there is no token yet", "See clawgate status.")),
            },
            _ => {
                let reason = match &*handle.watch().borrow() {
                    TokenState::Waiting { last_error: Some(error), .. } => error.clone(),
                    _ => format!("the issuer gave no token within {} s", TOKEN_TIME.as_secs()),
                };
                Err(failed(&reason, "It is asked again by itself; see clawgate token ls."))
            }
        }
    }

    async fn device(&self, id: &DeviceId) -> Result<Device, CommissionError> {
        let (store, id) = (self.store.clone(), id.clone());
        let found = tokio::task::spawn_blocking(move || store.device(&id)).await;
        match found {
            Ok(Ok(Some(device))) => Ok(device),
            Ok(Ok(None)) => Err(failed("the device is not in the registry", "Pair it again.")),
            Ok(Err(error)) => Err(failed(&error.to_string(), "See clawgate status.")),
            Err(error) => Err(failed(&error.to_string(), "See the log of clawgate.")),
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
    fn token<'a>(&'a self, device: &'a DeviceId) -> BoxFuture<'a, Result<String, CommissionError>> {
        Box::pin(self.first_token(device))
    }

    fn first_reading<'a>(&'a self, _device: &'a DeviceId) -> BoxFuture<'a, Result<FirstReading, CommissionError>> {
        Box::pin(async { Err(failed("there is no relay", "Wait for it.")) })
    }
}
