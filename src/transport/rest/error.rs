//! Errors as REST responses.

use std::borrow::Cow;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};

use super::response::RestResponse;
use crate::{
    domain::error::{Error, ErrorKind},
    transport::{
        refusal::{CHALLENGE, HttpRefusal},
        status,
    },
};

/// What a handler returns.
pub(crate) type RestResult = Result<RestResponse, RestError>;

/// Why a request is refused.
#[derive(Debug)]
pub(crate) enum RestError {
    /// An error of a use case, or of the content of a request.
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

    /// Converts it to a service's error, which is what the log has.
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
        let HttpRefusal { status, body, retry_after } = HttpRefusal::with_status(&error, status);
        let mut response = RestResponse::json_bytes(status, body).into_response();
        let headers = response.headers_mut();
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE));
        }
        if compressed {
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(error);
        response
    }
}

/// Renames the fields of a use case's error as the routes for keys name them. Do not call this for errors of the route
/// itself: in a body, `organization` may be an unknown field.
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
