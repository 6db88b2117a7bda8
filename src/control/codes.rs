//! Pairing codes made here: new, list, revoke, explain. A code itself is told once, when it is made.

use axum::extract::{Path, State};
use axum::{Extension, Json};

use super::api::{CodeExplanation, CodeRecord, Done, NewCode, NewCodeRequest, WhyRequest};
use super::devices::new_id;
use super::failure::Failure;
use super::links::{scopes, ttl};
use super::role::Caller;
use super::routes::Body;
use crate::cli::exit::Exit;
use crate::daemon::{Gateway, view};
use crate::pairing::code::{self, CodeId, CodeRequest};
use crate::pairing::code_book::CodeError;
use crate::token::scope::Scope;
use crate::token::{Limits, Stage, UnknownStage};

/// Longest label, in characters.
const MAX_LABEL: usize = 64;

pub(super) async fn new(
    State(gateway): State<Gateway>,
    Extension(caller): Extension<Caller>,
    Body(asked): Body<NewCodeRequest>,
) -> Result<Json<NewCode>, Failure> {
    let scopes = scopes(&asked.scopes)?;
    if asked.label.as_ref().is_some_and(|label| label.chars().count() > MAX_LABEL) {
        return Err(Failure::usage(format!("A label has at most {MAX_LABEL} characters."), ""));
    }
    let request = CodeRequest {
        label: asked.label,
        stage: stage(asked.stage.as_deref())?,
        hardware_id: asked.sensor,
        device: asked.device.as_deref().map(new_id).transpose()?,
        scopes: if scopes.is_empty() { vec![Scope::TelemetryWrite] } else { scopes },
        limits: Limits::default(),
        ttl: ttl(&gateway, asked.ttl_s)?,
        max_attempts: gateway.config().pairing.attempts,
    };
    let (record, code) = book(gateway, move |gateway| gateway.codes().new_code(request, caller.actor())).await?;
    Ok(Json(NewCode {
        id: record.id.to_string(),
        code: code.to_string(),
        qr: code.qr(record.request.hardware_id.as_deref()).to_string(),
        ttl_s: record.request.ttl.as_secs(),
        attempts: record.request.max_attempts,
    }))
}

pub(super) async fn list(State(gateway): State<Gateway>) -> Result<Json<Vec<CodeRecord>>, Failure> {
    let clock = gateway.clock().clone();
    let records = book(gateway, |gateway| gateway.codes().list()).await?;
    Ok(Json(records.iter().map(|code| record(code, &clock)).collect()))
}

pub(super) async fn revoke(
    State(gateway): State<Gateway>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Body(request): Body<WhyRequest>,
) -> Result<Json<Done>, Failure> {
    let id = known_id(&id)?;
    let record = book(gateway, move |gateway| gateway.codes().revoke(&id, caller.actor(), request.reason())).await?;
    Ok(Json(Done { done: format!("{} is revoked.", record.id) }))
}

pub(super) async fn explain(
    State(gateway): State<Gateway>,
    Path(id): Path<String>,
) -> Result<Json<CodeExplanation>, Failure> {
    let id = known_id(&id)?;
    let told = book(gateway, move |gateway| gateway.codes().explain(&id)).await?;
    Ok(Json(CodeExplanation {
        id: told.id.to_string(),
        state: told.state.as_str().to_owned(),
        explanation: told.sentence,
        next_step: told.next_step.unwrap_or_default(),
    }))
}

fn stage(text: Option<&str>) -> Result<Stage, Failure> {
    text.map_or(Ok(Stage::default()), |text| {
        text.parse().map_err(|error: UnknownStage| Failure::usage(format!("{error}."), ""))
    })
}

fn known_id(text: &str) -> Result<CodeId, Failure> {
    text.parse().map_err(|_| Failure::not_found(format!("There is no code {text:?}."), "List them: clawgate code ls"))
}

fn record(code: &code::CodeRecord, clock: &crate::clock::Clock) -> CodeRecord {
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
    }
}

async fn book<T: Send + 'static>(
    gateway: Gateway,
    work: impl FnOnce(&Gateway) -> Result<T, CodeError> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(move || work(&gateway)).await {
        Ok(result) => result.map_err(|error| failure(&error)),
        Err(error) => Err(Failure::internal(&error)),
    }
}

fn failure(error: &CodeError) -> Failure {
    match error {
        CodeError::Unknown(id) => Failure::not_found(format!("There is no code {id}."), "List them: clawgate code ls"),
        CodeError::NotUsable(told) => Failure::new(
            Exit::WrongCode,
            "code_not_usable",
            told.sentence.clone(),
            told.next_step.clone().unwrap_or_default(),
        ),
        CodeError::Ttl(_) | CodeError::Attempts(_) | CodeError::TooMany => Failure::usage(format!("{error}."), ""),
        _ => Failure::internal(error),
    }
}
