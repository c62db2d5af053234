//! Errors as REST responses.

use std::{borrow::Cow, time::Duration};

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use utoipa::{
    ToSchema,
    openapi::{Object, ObjectBuilder, Type},
};

use super::response::RestResponse;
use crate::{
    domain::error::{Error, ErrorKind},
    transport::status,
};

/// What a handler returns.
pub(crate) type RestResult = Result<RestResponse, RestError>;

/// Why a request fails.
#[derive(Debug)]
pub(crate) enum RestError {
    /// An error of a use case, or of what a request says.
    Service(Error),
    /// There is no such path.
    NoSuchPath,
    /// The path has no such method. axum adds `Allow` with the methods that it has.
    MethodNotAllowed,
    /// The body is larger than 1 MiB.
    BodyTooLarge,
    /// The body's type is not JSON.
    NotJson,
    /// The body is compressed.
    Compressed,
}

impl From<Error> for RestError {
    fn from(error: Error) -> Self {
        Self::Service(error)
    }
}

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
const CODES: [&str; 18] = [
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
    "no_such_path",
    "method_not_allowed",
    "invalid_argument",
    "rate_limited",
    "conflict",
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

impl RestError {
    fn status(&self) -> StatusCode {
        match self {
            Self::Service(error) => status::http(error),
            Self::NoSuchPath => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NotJson | Self::Compressed => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        }
    }

    /// The same as a service's error, which is what is logged.
    fn into_error(self) -> Error {
        match self {
            Self::Service(error) => error,
            Self::NoSuchPath => Error::new(ErrorKind::NotFound, "NO_SUCH_PATH", "There is no such path"),
            Self::MethodNotAllowed => {
                Error::new(ErrorKind::NotFound, "METHOD_NOT_ALLOWED", "There is no such method here")
            }
            Self::BodyTooLarge => Error::invalid("body", "must be at most 1 MiB"),
            Self::NotJson => Error::invalid("body", "Content-Type must be application/json"),
            Self::Compressed => Error::invalid("body", "must not be compressed"),
        }
    }
}

impl IntoResponse for RestError {
    /// The response carries the [`Error`] as an extension: the layers log it and may replace the response.
    fn into_response(self) -> Response {
        let (status, compressed) = (self.status(), matches!(self, Self::Compressed));
        let error = self.into_error();
        let name = match status {
            // The standard's newer name is "Content Too Large".
            StatusCode::PAYLOAD_TOO_LARGE => "Payload Too Large",
            _ => status.canonical_reason().unwrap_or("Error"),
        };
        let body = ErrorBody { error: name, message: &message(&error), code: &code(&error) };
        let mut response = RestResponse::json(status, &body).into_response();
        let headers = response.headers_mut();
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"keyward\""));
        }
        if compressed {
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        // Every 503 says when to retry, also if only the server's own time ran out.
        let retry = error.retry_after.or((status == StatusCode::SERVICE_UNAVAILABLE).then_some(Duration::from_secs(1)));
        if let Some(wait) = retry {
            // Whole seconds, rounded up: a call made then is admitted.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        response.extensions_mut().insert(error);
        response
    }
}

fn code(error: &Error) -> Cow<'static, str> {
    match error.kind {
        // The server chose the deadline: all that the caller can do is to retry.
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

/// Renames the fields of a use case's error as the routes for keys name them. Errors of the route itself must not come
/// here: in a body, `organization` may be an unknown field.
pub(crate) fn rest_names(mut error: Error) -> Error {
    for bad in &mut error.fields {
        bad.field = Cow::Borrowed(match &*bad.field {
            "organization" => "orgId",
            "instance" => "instanceId",
            "webhook_url" => "webhook",
            "rotate_secret" => "rotateSecret",
            "ttl" => "expiresInDays",
            "expire_time" => "expiresAt",
            "page_size" => "limit",
            "page_token" => "cursor",
            "created_by" => "createdBy",
            "rate_limit.limit" => "rateLimit.limit",
            "rate_limit.window" => "rateLimit.windowMs",
            _ => continue,
        });
    }
    error
}
