//! The one table: error kind → gRPC code and HTTP status.

use http::StatusCode;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use crate::domain::error::{Error, ErrorKind};

/// Domain of every ErrorInfo.
const DOMAIN: &str = "keyward";

/// What a kind of error is on the wire.
fn table(kind: ErrorKind) -> (Code, StatusCode) {
    match kind {
        ErrorKind::InvalidArgument => (Code::InvalidArgument, StatusCode::BAD_REQUEST),
        ErrorKind::Unauthenticated => (Code::Unauthenticated, StatusCode::UNAUTHORIZED),
        ErrorKind::PermissionDenied => (Code::PermissionDenied, StatusCode::FORBIDDEN),
        ErrorKind::NotFound => (Code::NotFound, StatusCode::NOT_FOUND),
        ErrorKind::FailedPrecondition => (Code::FailedPrecondition, StatusCode::CONFLICT),
        ErrorKind::ResourceExhausted => (Code::ResourceExhausted, StatusCode::TOO_MANY_REQUESTS),
        ErrorKind::Unavailable => (Code::Unavailable, StatusCode::SERVICE_UNAVAILABLE),
        // Over REST the server, not the caller, set the time: to be tried again.
        ErrorKind::DeadlineExceeded => (Code::DeadlineExceeded, StatusCode::SERVICE_UNAVAILABLE),
        ErrorKind::Internal => (Code::Internal, StatusCode::INTERNAL_SERVER_ERROR),
    }
}

/// The HTTP status of an error.
pub fn http(error: &Error) -> StatusCode {
    table(error.kind).1
}

/// The gRPC status of an error, with ErrorInfo and, where they apply, BadRequest and RetryInfo.
pub fn grpc(error: &Error) -> Status {
    let mut details = ErrorDetails::with_error_info(error.reason, DOMAIN, []);
    if !error.fields.is_empty() {
        let violations = error.fields.iter().map(|bad| FieldViolation::new(&*bad.field, &bad.description));
        details.set_bad_request(violations.collect::<Vec<_>>());
    }
    if let Some(wait) = error.retry_after {
        details.set_retry_info(Some(wait));
    }
    Status::with_error_details(table(error.kind).0, error.message.clone(), details)
}
