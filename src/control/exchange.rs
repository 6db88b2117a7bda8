//! One exchange over the socket as a handler sees it: who asks, about what, in which words; and the answer.
//!
//! What cannot be read is refused in our words here, before a handler sees it.

use std::collections::HashMap;

use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::{Extension, Json};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::MAX_BODY_BYTES;
use super::api::{Done, NO_REASON, WhyRequest};
use super::failure::Failure;
use super::role::Caller;
use crate::audit::Actor;
use crate::cli::exit::Exit;

/// What a handler answers.
pub(super) type Answer<T> = Result<Json<T>, Failure>;

/// The answer of a handler that did what was asked.
pub(super) fn done(what: impl Into<String>) -> Json<Done> {
    Json(Done { done: what.into() })
}

/// Who asks, as the audit log names the user.
pub(super) struct By(pub(super) Actor);

impl<S: Send + Sync> FromRequestParts<S> for By {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let caller = Extension::<Caller>::from_request_parts(parts, state).await;
        caller.map(|Extension(caller)| Self(caller.actor())).map_err(|error| Failure::internal(&error))
    }
}

/// What can be named, in a path or by a signed command.
pub(crate) trait Name: Sized {
    /// The thing of that name; a text that nothing could go by is as good as unknown.
    ///
    /// # Errors
    /// `not_found`.
    fn named(text: &str) -> Result<Self, Failure>;
}

/// The one thing that a path names.
pub(super) struct Named<T>(pub(super) T);

impl<T: Name, S: Send + Sync> FromRequestParts<S> for Named<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let text = Path::<String>::from_request_parts(parts, state).await;
        T::named(&text.map_err(|error| not_understood(&error.body_text()))?).map(Self)
    }
}

/// A JSON body.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        // An object first: serde takes an array for a struct too.
        let object = match Json::<Map<String, Value>>::from_request(request, state).await {
            Ok(Json(object)) => object,
            Err(error) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                let text = format!("The request is larger than {MAX_BODY_BYTES} bytes.");
                return Err(Failure::new(Exit::Usage, "too_large", text, ""));
            }
            Err(JsonRejection::MissingJsonContentType(_)) => {
                return Err(Failure::usage("The request is not application/json.", "Set the content-type header."));
            }
            Err(error) => return Err(not_understood(&error.body_text())),
        };
        serde_json::from_value(Value::Object(object)).map(Self).map_err(|error| not_understood(&error.to_string()))
    }
}

/// A body that says why, for the audit log.
pub(super) struct Why(pub(super) String);

impl<S: Send + Sync> FromRequest<S> for Why {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let Body(WhyRequest { why }) = Body::from_request(request, state).await?;
        Ok(Self(if why.is_empty() { NO_REASON.to_owned() } else { why }))
    }
}

/// Parameters behind the `?`.
pub(super) type Query = axum::extract::Query<HashMap<String, String>>;

/// A number behind the `?`, within bounds.
pub(super) fn number(query: &Query, name: &str, default: u64, most: u64) -> Result<u64, Failure> {
    match query.get(name).map(|text| text.parse::<u64>()) {
        None => Ok(default),
        Some(Ok(number)) if number <= most => Ok(number),
        Some(_) => Err(Failure::usage(format!("{name} is a number from 0 to {most}."), "")),
    }
}

fn not_understood(why: &str) -> Failure {
    Failure::usage(format!("The request was not understood: {why}."), "GET /v1/openapi.json says what is taken.")
}
