//! Answers in OAuth's words (RFC 6749, sections 5.1 and 5.2).

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;

/// A refusal. The description says no more than the code to whoever is not known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused {
    status: StatusCode,
    code: &'static str,
    description: &'static str,
}

impl Refused {
    /// The request is malformed.
    pub(super) const fn request(description: &'static str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code: "invalid_request", description }
    }

    /// The client is not known or did not prove who it is. One answer for all reasons.
    pub(super) const fn client() -> Self {
        let description = "the client is not registered or its assertion is not good";
        Self { status: StatusCode::UNAUTHORIZED, code: "invalid_client", description }
    }

    /// The client is known and may not have that.
    pub(super) const fn because(code: &'static str, description: &'static str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code, description }
    }

    /// The server cannot now.
    pub(super) const fn unavailable(description: &'static str) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, code: "temporarily_unavailable", description }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let body = json!({ "error": self.code, "error_description": self.description });
        not_stored((self.status, Json(body)))
    }
}

/// A token answer, never to be kept by a cache.
pub(super) fn token(answer: &impl Serialize) -> Response {
    not_stored(Json(answer))
}

fn not_stored(answer: impl IntoResponse) -> Response {
    let mut response = answer.into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
