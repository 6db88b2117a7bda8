//! A refusal as the control socket says it: what, why, what to do, and the exit code of the command line.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use crate::cli::exit::Exit;

/// The body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message} {next_step}")]
pub struct Failure {
    /// For programs: a fixed snake_case text.
    pub code: String,
    /// What happened and why, for people.
    pub message: String,
    /// What a person does now; empty where nothing can be done.
    pub next_step: String,
    /// Exit code of the command line.
    pub exit_code: u8,
}

impl Failure {
    /// Puts a refusal into words.
    pub(crate) fn new(exit: Exit, code: &str, message: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), next_step: next_step.into(), exit_code: exit.code() }
    }

    /// The request itself is wrong.
    pub(crate) fn usage(message: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self::new(Exit::Usage, "bad_request", message, next_step)
    }

    /// Nothing goes by that name.
    pub(crate) fn not_found(message: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self::new(Exit::NotFound, "not_found", message, next_step)
    }

    /// Something of ours failed; the reason is in the log too.
    pub(crate) fn internal(error: &impl ToString) -> Self {
        Self::new(Exit::Failed, "internal", error.to_string(), "See the log of clawgate (journalctl -u clawgate).")
    }

    fn status(&self) -> StatusCode {
        match self.code.as_str() {
            "forbidden" => StatusCode::FORBIDDEN,
            "too_large" => StatusCode::PAYLOAD_TOO_LARGE,
            "too_slow" => StatusCode::REQUEST_TIMEOUT,
            "no_route" => StatusCode::NOT_FOUND,
            "internal" => StatusCode::INTERNAL_SERVER_ERROR,
            _ => match Exit::of(self.exit_code) {
                Exit::NotFound => StatusCode::NOT_FOUND,
                Exit::Usage => StatusCode::BAD_REQUEST,
                Exit::Cloud | Exit::Degraded => StatusCode::SERVICE_UNAVAILABLE,
                _ => StatusCode::CONFLICT,
            },
        }
    }
}

/// Runs what reads a disk where that does not hold others up.
pub(crate) async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, Failure>
where
    T: Send + 'static,
    E: Into<Failure> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(Into::into),
        Err(error) => Err(Failure::internal(&error)),
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = (self.status(), Json(&self)).into_response();
        // For the audit log.
        response.extensions_mut().insert(self);
        response
    }
}
