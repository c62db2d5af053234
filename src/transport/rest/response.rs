//! Answers and faults, in the one shape that each has.

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::{
    domain::error::{Error, ErrorKind},
    transport::status,
};

/// A good answer.
pub struct RestResponse {
    status: StatusCode,
    content_type: &'static str,
    body: Bytes,
}

impl RestResponse {
    /// JSON.
    pub fn json(status: StatusCode, value: &Value) -> Self {
        Self { status, content_type: "application/json", body: value.to_string().into() }
    }

    /// Text of another type.
    pub fn text(content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self { status: StatusCode::OK, content_type, body: body.into() }
    }

    /// The response, which nothing may cache: most answers tell a secret, a verdict or a record.
    pub fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

/// Why there is no good answer.
#[derive(Debug)]
pub enum RestError {
    /// The service's error.
    Error(Error),
    /// No such path.
    NoSuchPath,
    /// No such method there; the ones that there are.
    NoSuchMethod(&'static str),
    /// The body is too large.
    TooLarge,
    /// The body is not JSON by its type.
    NotJson,
}

impl From<Error> for RestError {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl RestError {
    /// The same as an error, which the call's line tells too.
    pub fn error(&self) -> Cow<'_, Error> {
        match self {
            Self::Error(error) => Cow::Borrowed(error),
            Self::NoSuchPath => Cow::Owned(Error::new(ErrorKind::NotFound, "NO_SUCH_PATH", "There is no such path")),
            Self::NoSuchMethod(_) => {
                Cow::Owned(Error::new(ErrorKind::NotFound, "METHOD_NOT_ALLOWED", "There is no such method here"))
            }
            Self::TooLarge => Cow::Owned(Error::invalid("body", "must be at most 1 MiB")),
            Self::NotJson => Cow::Owned(Error::invalid("body", "Content-Type must be application/json")),
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Error(error) => status::http(error),
            Self::NoSuchPath => StatusCode::NOT_FOUND,
            Self::NoSuchMethod(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NotJson => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        }
    }

    /// The response.
    pub fn into_response(self) -> Response<Full<Bytes>> {
        let (status, error) = (self.status(), self.error());
        let name = match status {
            // The standard's newer name is "Content Too Large".
            StatusCode::PAYLOAD_TOO_LARGE => "Payload Too Large",
            _ => status.canonical_reason().unwrap_or("Error"),
        };
        let value = json!({"error": name, "message": message(&error), "code": code(&error)});
        let mut response = RestResponse::json(status, &value).into_response();
        let headers = response.headers_mut();
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"keyward\""));
        }
        if let Self::NoSuchMethod(methods) = self {
            headers.insert(header::ALLOW, HeaderValue::from_static(methods));
        }
        // Whoever is told to try again is told when, also where only the server's own time ran out.
        let again = error.retry_after.or((status == StatusCode::SERVICE_UNAVAILABLE).then_some(Duration::from_secs(1)));
        if let Some(wait) = again {
            // Whole seconds, rounded up: a call made then is admitted.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        response
    }
}

fn code(error: &Error) -> Cow<'static, str> {
    match error.kind {
        // The server set the time: for the caller it is a matter of trying again.
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
        ErrorKind::DeadlineExceeded | ErrorKind::Unavailable => "Try again".into(),
        _ => error.message.clone(),
    }
}

/// A use case's error with its fields under the names that the routes for keys give them. What a route itself finds
/// bad has its own name already: there `organization` may well be a field that does not exist.
pub fn rest_names(mut error: Error) -> Error {
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
