//! Pairing codes made here: new, list, revoke, explain. A code itself is told once, when it is made.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::{Extension, Json};

use clawgate_protocol::code::Code;

use super::api::{CodeExplanation, CodeRecord, Done, NewCode, NewCodeRequest};
use super::devices::new_id;
use super::exchange::{Answer, Body, By, Name, Named, Why, done};
use super::failure::{Failure, blocking};
use super::links::{limits, scopes, ttl};
use super::once::{Once, Outcome};
use crate::audit::Actor;
use crate::clock::Clock;
use crate::daemon::{Gateway, view};
use crate::ids::DeviceId;
use crate::pairing::code::{self, CodeId, CodeRequest, CodeState};
use crate::pairing::code_book::CodeError;
use crate::token::scope::Scope;
use crate::token::{Stage, UnknownStage};

/// Longest label, in characters.
const MAX_LABEL: usize = 64;

impl Name for CodeId {
    fn named(text: &str) -> Result<Self, Failure> {
        text.parse().map_err(|_| Failure::unknown_code(text))
    }
}

pub(super) async fn new(
    State(gateway): State<Gateway>,
    By(actor): By,
    Extension(once): Extension<Arc<Once>>,
    Body(asked): Body<NewCodeRequest>,
) -> Answer<NewCode> {
    let (key, request) = (asked.idempotency_key.clone(), wished(&gateway, asked)?);
    let (ttl_s, attempts) = (request.ttl.as_secs(), request.max_attempts);
    let idle_s = request.idle.map(|idle| idle.as_secs());
    let (again, creator) = (request.clone(), actor.clone());
    let make = async || {
        let (record, code) = blocking(move || gateway.codes().new_code(again, creator)).await?;
        let (text, qr) = (code.to_string(), code.qr(record.request.hardware_id.as_deref()).to_string());
        let id = record.id.to_string();
        Ok((record.id, NewCode { id, made: true, code: Some(text), qr: Some(qr), ttl_s, idle_s, attempts }))
    };
    let told = match key {
        None => make().await?.1,
        Some(key) => match once.make(&actor, &key, &request, make).await? {
            Outcome::Now(told) => told,
            Outcome::Before(id) => {
                NewCode { id: id.to_string(), made: false, code: None, qr: None, ttl_s, idle_s, attempts }
            }
        },
    };
    Ok(Json(told))
}

/// Makes a code for whoever may: the same rules for an operator here and a command from the cloud.
pub(crate) async fn mint(
    gateway: &Gateway,
    asked: NewCodeRequest,
    actor: Actor,
) -> Result<(code::CodeRecord, Code), Failure> {
    let (codes, request) = (gateway.codes().clone(), wished(gateway, asked)?);
    blocking(move || codes.new_code(request, actor)).await
}

/// What is asked for, if it may be.
fn wished(gateway: &Gateway, asked: NewCodeRequest) -> Result<CodeRequest, Failure> {
    let scopes = scopes(gateway, &asked.scopes)?;
    if asked.label.as_ref().is_some_and(|label| label.chars().count() > MAX_LABEL) {
        return Err(Failure::usage(format!("A label has at most {MAX_LABEL} characters."), ""));
    }
    Ok(CodeRequest {
        label: asked.label.filter(|label| !label.is_empty()),
        stage: stage(asked.stage.as_deref(), gateway.config().gateway.stage)?,
        hardware_id: asked.sensor.map(sensor_id).transpose()?,
        device: asked.device.as_deref().map(new_id).transpose()?,
        scopes: if scopes.is_empty() { vec![Scope::TelemetryWrite] } else { scopes },
        limits: limits(&asked.addresses, asked.per_second)?,
        ttl: ttl(gateway, asked.ttl_s)?,
        idle: asked.idle_s.map(Duration::from_secs),
        max_attempts: gateway.config().pairing.attempts,
    })
}

pub(super) async fn list(State(gateway): State<Gateway>) -> Answer<Vec<CodeRecord>> {
    let codes = gateway.codes().clone();
    let records = blocking(move || codes.list()).await?;
    Ok(Json(records.iter().map(|code| record(code, gateway.clock())).collect()))
}

pub(super) async fn revoke(
    State(gateway): State<Gateway>,
    Named(id): Named<CodeId>,
    By(actor): By,
    Why(why): Why,
) -> Answer<Done> {
    let revoked = blocking(move || match gateway.codes().revoke(&id, actor, &why) {
        Ok(record) => Ok(format!("{} is revoked.", record.id)),
        // It cannot be used any more, which is what was asked for. A used one became a device: that is another thing.
        Err(CodeError::NotUsable(told)) if told.state != CodeState::Used => {
            Ok(format!("{} cannot be used any more already: it is {}.", told.id, told.state.as_str()))
        }
        Err(error) => Err(error),
    });
    Ok(done(revoked.await?))
}

pub(super) async fn explain(State(gateway): State<Gateway>, Named(id): Named<CodeId>) -> Answer<CodeExplanation> {
    let codes = gateway.codes().clone();
    let (code, told) = blocking(move || codes.explain(&id)).await?;
    Ok(Json(CodeExplanation {
        code: record(&code, gateway.clock()),
        id: told.id.to_string(),
        state: told.state.as_str().to_owned(),
        explanation: told.sentence,
        next_step: told.next_step.unwrap_or_default(),
    }))
}

/// The own id of a sensor: one that no sensor can have would make a code that nothing can claim.
fn sensor_id(text: String) -> Result<String, Failure> {
    match text.parse::<DeviceId>() {
        Ok(_) => Ok(text),
        Err(_) => Err(Failure::usage(
            format!("{text:?} is no sensor's id: 1 to 32 of a-z, 0-9, '_' and '-'."),
            "Leave it out for the first sensor to claim the code; clawgate scan shows whose window is open.",
        )),
    }
}

/// The stage that is asked for; without one the gateway's own.
fn stage(text: Option<&str>, own: Stage) -> Result<Stage, Failure> {
    text.map_or(Ok(own), |text| text.parse().map_err(|error: UnknownStage| Failure::usage(format!("{error}."), "")))
}

fn record(code: &code::CodeRecord, clock: &Clock) -> CodeRecord {
    CodeRecord {
        id: code.id.to_string(),
        state: code.state.as_str().to_owned(),
        label: code.request.label.clone(),
        device: code.request.device.as_ref().map(ToString::to_string),
        sensor: code.request.hardware_id.clone(),
        scopes: code.request.scopes.iter().map(ToString::to_string).collect(),
        made_by: code.creator.to_string(),
        made_at: view::rfc3339(code.made_ms),
        left_s: code.state.is_live().then(|| code.left(clock.boot()).as_secs()),
        attempts_taken: code.attempts,
        attempts: code.request.max_attempts,
        stage: code.request.stage.to_string(),
        addresses: code.request.limits.addresses.iter().map(ToString::to_string).collect(),
        per_second: code.request.limits.per_second.map(Into::into),
        ttl_s: code.request.ttl.as_secs(),
        idle_s: code.request.idle.map(|idle| idle.as_secs()),
        claimed_at: code.claimed_ms.map(view::rfc3339),
        ended_at: code.ending.as_ref().map(|end| view::rfc3339(end.at_ms)),
        ended_by: code.ending.as_ref().map(|end| end.by.to_string()),
        ended_why: code.ending.as_ref().map(|end| end.why.clone()),
    }
}
