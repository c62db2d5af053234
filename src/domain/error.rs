//! The error of every use case. Text for clients and text for the log are separate fields.

use std::{borrow::Cow, fmt, time::Duration};

use super::{key::KeyId, rate_limit::RateState};

/// The sentence for an invalid credential, whatever the reason; the code names it.
pub(crate) const INVALID_CREDENTIAL: &str = "Invalid or expired API key";
/// The sentence for an exhausted rate limit.
pub(crate) const RATE_LIMIT_EXCEEDED: &str = "Rate limit exceeded";

/// The sentence for a key without a scope.
pub(crate) fn lacks_scope(scope: &str) -> String {
    format!("API key does not have '{scope}' scope")
}

/// The kind of an error. `transport/status.rs` maps each kind to a gRPC code and an HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// A field is invalid. Repeating the request cannot succeed.
    InvalidArgument,
    /// The credential is missing or invalid.
    Unauthenticated,
    /// The credential is valid but does not allow this.
    PermissionDenied,
    /// The object does not exist, or the caller may not see it.
    NotFound,
    /// The state of the object does not allow this.
    FailedPrecondition,
    /// A rate limit is exhausted.
    ResourceExhausted,
    /// A dependency is unavailable. Repeating the request may succeed.
    Unavailable,
    /// The caller's deadline passed.
    DeadlineExceeded,
    /// A defect of the service.
    Internal,
}

/// An invalid field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldViolation {
    /// The field's name as the proto spells it.
    pub field: Cow<'static, str>,
    /// What is wrong with it, without its value.
    pub description: String,
}

/// An error that every transport can render.
#[derive(Debug, Clone)]
pub struct Error {
    /// The kind, which determines the status code.
    pub kind: ErrorKind,
    /// Stable machine-readable reason in UPPER_SNAKE_CASE. REST shows it in lower case as `code`.
    pub reason: &'static str,
    /// Message for the client. Never contains SQL, driver text or a secret.
    pub message: Cow<'static, str>,
    /// The invalid fields, for [`ErrorKind::InvalidArgument`].
    pub fields: Vec<FieldViolation>,
    /// How long the client should wait before it retries.
    pub retry_after: Option<Duration>,
    /// The state of the exhausted limit, for [`ErrorKind::ResourceExhausted`].
    pub rate: Option<RateState>,
    /// The key whose secret was presented and refused. For the log only.
    pub presented: Option<KeyId>,
    /// Details for the log only.
    pub internal: Option<String>,
}

/// The result of a use case.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error without details.
    pub fn new(kind: ErrorKind, reason: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            reason,
            message: message.into(),
            fields: Vec::new(),
            retry_after: None,
            rate: None,
            presented: None,
            internal: None,
        }
    }

    /// One invalid field. The description must not contain the value.
    pub fn invalid(field: impl Into<Cow<'static, str>>, description: impl Into<String>) -> Self {
        Self::invalid_fields(vec![FieldViolation { field: field.into(), description: description.into() }])
    }

    /// Several invalid fields; the message names them all.
    pub(crate) fn invalid_fields(fields: Vec<FieldViolation>) -> Self {
        let message = fields.iter().map(|f| format!("{}: {}", f.field, f.description)).collect::<Vec<_>>().join("; ");
        Self { fields, ..Self::new(ErrorKind::InvalidArgument, "INVALID_ARGUMENT", message) }
    }

    /// The request has no credential.
    pub fn missing_credential() -> Self {
        Self::new(ErrorKind::Unauthenticated, "MISSING_CREDENTIAL", "No authentication provided")
    }

    /// Whether a credential was presented and is invalid, as in an attempt to guess one. A request without a credential
    /// does not count.
    pub fn refuses_credential(&self) -> bool {
        self.kind == ErrorKind::Unauthenticated && self.reason != "MISSING_CREDENTIAL"
    }

    /// The credential is valid but does not allow this.
    pub fn forbidden(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::PermissionDenied, "FORBIDDEN", message)
    }

    /// The credential is not valid.
    pub(crate) fn invalid_credential(reason: &'static str) -> Self {
        Self::new(ErrorKind::Unauthenticated, reason, INVALID_CREDENTIAL)
    }

    /// The caller's key lacks a scope.
    pub fn insufficient_scope(scope: &str) -> Self {
        Self::new(ErrorKind::PermissionDenied, "INSUFFICIENT_SCOPE", lacks_scope(scope))
    }

    /// The id is unknown or foreign. The two must not differ in any way, or ids could be probed.
    pub(crate) fn no_such_key() -> Self {
        Self::new(ErrorKind::NotFound, "NOT_FOUND", "No such API key")
    }

    /// A dependency is unavailable; `internal` holds the reason for the log.
    pub fn unavailable(internal: impl Into<String>) -> Self {
        Self {
            retry_after: Some(Duration::from_secs(1)),
            internal: Some(internal.into()),
            ..Self::new(ErrorKind::Unavailable, "UNAVAILABLE", "Try again")
        }
    }

    /// A defect of the service; `internal` describes it for the log.
    pub fn internal(internal: impl Into<String>) -> Self {
        Self { internal: Some(internal.into()), ..Self::new(ErrorKind::Internal, "INTERNAL", "Internal error") }
    }

    /// The caller's deadline passed before there was an answer.
    pub(crate) fn deadline_exceeded() -> Self {
        Self::new(ErrorKind::DeadlineExceeded, "DEADLINE_EXCEEDED", "The deadline passed before there was an answer")
    }

    /// The revocation is committed, but a replica may still answer from an older state.
    pub fn revocation_pending() -> Self {
        Self {
            retry_after: Some(Duration::from_secs(1)),
            ..Self::new(
                ErrorKind::DeadlineExceeded,
                "REVOCATION_PENDING",
                "The key is revoked, but not yet certain on every replica; repeat the call",
            )
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.message)?;
        self.internal.as_ref().map_or(Ok(()), |internal| write!(f, " ({internal})"))
    }
}

impl std::error::Error for Error {}
