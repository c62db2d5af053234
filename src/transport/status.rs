//! The one table: error kind → gRPC code and HTTP status.

use http::StatusCode;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use crate::domain::error::{Error, ErrorKind};

/// `domain` of every ErrorInfo.
const DOMAIN: &str = "keyward";

/// Maps a kind of error to the codes of both transports.
fn table(kind: ErrorKind) -> (Code, StatusCode) {
    match kind {
        ErrorKind::InvalidArgument => (Code::InvalidArgument, StatusCode::BAD_REQUEST),
        ErrorKind::Unauthenticated => (Code::Unauthenticated, StatusCode::UNAUTHORIZED),
        ErrorKind::PermissionDenied => (Code::PermissionDenied, StatusCode::FORBIDDEN),
        ErrorKind::NotFound => (Code::NotFound, StatusCode::NOT_FOUND),
        ErrorKind::FailedPrecondition => (Code::FailedPrecondition, StatusCode::CONFLICT),
        ErrorKind::ResourceExhausted => (Code::ResourceExhausted, StatusCode::TOO_MANY_REQUESTS),
        ErrorKind::Unavailable => (Code::Unavailable, StatusCode::SERVICE_UNAVAILABLE),
        // Over REST the server chose the deadline, not the caller: the call is to be retried.
        ErrorKind::DeadlineExceeded => (Code::DeadlineExceeded, StatusCode::SERVICE_UNAVAILABLE),
        ErrorKind::Internal => (Code::Internal, StatusCode::INTERNAL_SERVER_ERROR),
    }
}

/// Returns the HTTP status of an error.
pub(crate) fn http(error: &Error) -> StatusCode {
    table(error.kind).1
}

/// Returns the gRPC code of an error.
pub(crate) fn code(error: &Error) -> Code {
    table(error.kind).0
}

/// Returns the gRPC status of an error, with ErrorInfo and, if they apply, BadRequest and RetryInfo.
pub(crate) fn grpc(error: &Error) -> Status {
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
