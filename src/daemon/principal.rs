//! The gateway itself at the broker: what it says, and when. Every part of it may fail; readings flow on.

use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use super::{Gateway, commands, view};
use crate::clock::Clock;
use crate::config::{CloudStatus, Config, Mode};
use crate::ids::DeviceId;
use crate::principal::{Facts, Principal};
use crate::relay::{RelayError, RelayOptions};
use crate::token::keeper::{Grant, TokenKeeper};
use crate::token::scope::Scope;
use crate::token::{Limits, TokenHandle};

/// How often the picture is compared with what was said.
const LOOK: Duration = Duration::from_secs(5);
/// A checkpoint is published at most so often: each line of the audit log makes one.
const CHECKPOINT_REST: Duration = Duration::from_secs(5);
/// After a panic in a part of this, so long until it begins anew.
const REST: Duration = Duration::from_secs(5);

/// Whether this configuration has the gateway speak for itself.
pub(super) fn is_wanted(config: &Config) -> bool {
    match config.cloud.status {
        CloudStatus::On => true,
        CloudStatus::Off => false,
        // In standalone mode nobody but this machine would hear it.
        CloudStatus::Auto => config.mode == Mode::Relay || !config.cloud.command_keys.is_empty(),
    }
}

/// The principal with its token, if the configuration has one.
pub(super) fn open(
    config: &Config,
    options: RelayOptions,
    keeper: &TokenKeeper,
    clock: &Clock,
) -> Result<Option<(Principal, TokenHandle)>, RelayError> {
    if !is_wanted(config) || !options.profile.takes_principal() {
        return Ok(None);
    }
    let principal = Principal::new(options, clock.clone())?;
    match keeper.add(&DeviceId::gateway(), grant(config)) {
        Ok(token) => Ok(Some((principal, token))),
        Err(error) => {
            tracing::error!(%error, "the gateway itself gets no token");
            Ok(None)
        }
    }
}

/// Other lives of tokens, or commands where there were none: another token.
pub(super) fn renew(gateway: &Gateway, config: &Config) {
    if gateway.0.principal.is_some()
        && let Err(error) = gateway.keeper().add(&DeviceId::gateway(), grant(config))
    {
        tracing::warn!(%error, "the gateway itself keeps its token until it is refreshed");
    }
}

/// What the gateway itself may do: commands are heard only where somebody may give them, alarms where that is wanted.
fn grant(config: &Config) -> Grant {
    let more = [
        (!config.cloud.command_keys.is_empty()).then_some(Scope::CommandRead),
        config.cloud.broker_alarms.then_some(Scope::AlarmRead),
    ];
    Grant {
        scope: [Scope::StatusWrite].into_iter().chain(more.into_iter().flatten()).collect(),
        life: config.issuer.life,
        audience: config.audience().to_owned(),
        limits: Limits::default(),
    }
}

/// Speaks and listens until `stop`. A panic begins it anew and ends nobody else.
pub(super) async fn run(gateway: Gateway, principal: Principal, token: TokenHandle, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let (inbox, inbox_rx) = Principal::inbox();
        let ending = stop.child_token();
        let speaking = {
            let (principal, token, ending) = (principal.clone(), token.clone(), ending.clone());
            async move { principal.connect(token, inbox, ending).await }
        };
        let mut parts = tokio::task::JoinSet::new();
        parts.spawn(speaking);
        parts.spawn(tell_status(gateway.clone(), principal.clone(), ending.clone()));
        parts.spawn(tell_checkpoints(gateway.clone(), principal.clone(), ending.clone()));
        parts.spawn(tell_alarms(gateway.clone(), principal.clone(), ending.clone()));
        parts.spawn(commands::obey(gateway.clone(), principal.clone(), inbox_rx, ending.clone()));
        let Some(Err(error)) = parts.join_next().await.filter(|_| !stop.is_cancelled()) else {
            while parts.join_next().await.is_some() {}
            return;
        };
        tracing::error!(%error, "the gateway's own connection is begun anew");
        ending.cancel();
        while parts.join_next().await.is_some() {}
        let _ = stop.run_until_cancelled(tokio::time::sleep(REST)).await;
    }
}

/// Says how the gateway is: when it changes, and every so often.
async fn tell_status(gateway: Gateway, principal: Principal, stop: CancellationToken) {
    let mut said: Option<Facts> = None;
    let mut due = gateway.clock().boot();
    loop {
        let reader = gateway.clone();
        match tokio::task::spawn_blocking(move || view::status(&reader)).await {
            Ok(Ok(status)) => {
                let now = gateway.clock().boot();
                if now >= due {
                    due = now + gateway.config().cloud.status_every;
                    said = None;
                }
                let at = view::rfc3339(gateway.clock().wall_ms());
                let commands = gateway.0.command_keys.load().commands();
                said = Some(principal.say_status(&status, &at, &commands, said.as_ref()));
            }
            Ok(Err(error)) => tracing::debug!(%error, "the status cannot be read now"),
            Err(error) => tracing::error!(%error, "the status could not be made"),
        }
        if stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_none() {
            return;
        }
    }
}

/// Says each signed checkpoint, or the newest of several.
async fn tell_checkpoints(gateway: Gateway, principal: Principal, stop: CancellationToken) {
    let mut checkpoints = gateway.audit().checkpoints();
    loop {
        let text = serde_json::to_string(&*checkpoints.borrow_and_update());
        match text {
            Ok(text) => principal.say_checkpoint(Bytes::from(text)),
            Err(error) => tracing::error!(%error, "a checkpoint cannot be written as JSON"),
        }
        let next = async {
            tokio::time::sleep(CHECKPOINT_REST).await;
            checkpoints.changed().await
        };
        if !matches!(stop.run_until_cancelled(next).await, Some(Ok(()))) {
            return;
        }
    }
}

/// Says each alarm. One that is lost here because too many came at once stands in the log and in the audit log.
async fn tell_alarms(gateway: Gateway, principal: Principal, stop: CancellationToken) {
    let mut alarms = gateway.alarms().subscribe();
    loop {
        match stop.run_until_cancelled(alarms.recv()).await {
            Some(Ok(alarm)) => {
                let at = view::rfc3339(gateway.clock().wall_ms());
                let said = json!({
                    "at": at, "kind": alarm.kind, "subject": alarm.subject, "words": alarm.words,
                    "next_step": alarm.next_step,
                });
                principal.say_alarm(said.to_string().into());
            }
            Some(Err(RecvError::Lagged(_))) => {}
            Some(Err(RecvError::Closed)) | None => return,
        }
    }
}
