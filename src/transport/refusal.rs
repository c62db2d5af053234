//! An error as an HTTP response, which REST sends to its clients, and gateways to theirs.

use std::{borrow::Cow, time::Duration};

use http::StatusCode;
use serde::Serialize;
use utoipa::{
    ToSchema,
    openapi::{Object, ObjectBuilder, Type},
};

use super::status;
use crate::domain::{
    error::{Error, ErrorKind},
    rate_limit::RateState,
};

/// `WWW-Authenticate` of every 401.
pub(crate) const CHALLENGE: &str = "Bearer realm=\"keyward\"";

/// Every error has this one shape.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Error)]
pub(crate) struct ErrorBody<'a> {
    /// The status in words.
    error: &'a str,
    /// A sentence; for a bad field, its name and why.
    message: &'a str,
    #[schema(schema_with = code_schema)]
    code: &'a str,
}

/// Every `code` of an error.
const CODES: [&str; 21] = [
    "missing_credential",
    "malformed",
    "not_found",
    "expired",
    "revoked",
    "wrong_environment",
    "wrong_organization",
    "wrong_instance",
    "insufficient_scope",
    "forbidden",
    "no_route",
    "ambiguous_path",
    "no_such_path",
    "method_not_allowed",
    "invalid_argument",
    "rate_limited",
    "conflict",
    "key_limit_reached",
    "unavailable",
    "revocation_pending",
    "internal",
];

fn code_schema() -> Object {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some("Machine-readable and stable."))
        .enum_values(Some(CODES))
        .build()
}

/// An error as an HTTP response.
pub(crate) struct HttpRefusal {
    /// The status.
    pub(crate) status: StatusCode,
    /// The body: JSON.
    pub(crate) body: Vec<u8>,
    /// The seconds in `Retry-After`, if it is sent.
    pub(crate) retry_after: Option<u64>,
}

impl HttpRefusal {
    /// The response to a use case's error.
    pub(crate) fn of(error: &Error) -> Self {
        Self::with_status(error, status::http(error))
    }

    /// The response to an error with another status than its kind has.
    pub(crate) fn with_status(error: &Error, status: StatusCode) -> Self {
        let name = match status {
            // The standard's newer name is "Content Too Large".
            StatusCode::PAYLOAD_TOO_LARGE => "Payload Too Large",
            _ => status.canonical_reason().unwrap_or("Error"),
        };
        let body = ErrorBody { error: name, message: &message(error), code: &code(error) };
        // Every 503 says when to retry, even if only the server's own deadline passed.
        let retry = error.retry_after.or((status == StatusCode::SERVICE_UNAVAILABLE).then_some(Duration::from_secs(1)));
        // Whole seconds, rounded up: a call made then is admitted.
        let retry_after = retry.map(|wait| (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1));
        // Only a map whose keys are no strings could fail, and the body has none.
        Self { status, body: serde_json::to_vec(&body).unwrap_or_default(), retry_after }
    }
}

/// The headers that show the state of a rate limit.
pub(crate) fn rate_headers(rate: RateState) -> [(&'static str, i64); 3] {
    [
        ("x-ratelimit-limit", rate.limit.into()),
        ("x-ratelimit-remaining", rate.remaining.into()),
        // In milliseconds, rounded up: `remaining` must have grown by then.
        ("x-ratelimit-reset", rate.reset_at.saturating_add(999).div_euclid(1_000)),
    ]
}

fn code(error: &Error) -> Cow<'static, str> {
    match error.kind {
        // The server chose the deadline, so the caller can only retry.
        ErrorKind::DeadlineExceeded if error.reason != "REVOCATION_PENDING" => "unavailable".into(),
        _ => error.reason.to_ascii_lowercase().into(),
    }
}

/// The public sentence.
fn message(error: &Error) -> Cow<'static, str> {
    match error.kind {
        ErrorKind::InvalidArgument => {
            let fields = error.fields.iter().map(|bad| format!("{}: {}", bad.field, bad.description));
            fields.collect::<Vec<_>>().join("; ").into()
        }
        ErrorKind::DeadlineExceeded => "Try again".into(),
        _ => error.message.clone(),
    }
}
