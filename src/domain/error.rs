//! One error for every transport. What the public sees and what the log sees are separate fields.

use std::{borrow::Cow, fmt, time::Duration};

use super::{key::KeyId, rate_limit::RateState};

/// What went wrong, as a caller can act on it. `transport/status.rs` maps each to its codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// A field is bad; the request can't succeed as it is.
    InvalidArgument,
    /// No credential, or not a good one.
    Unauthenticated,
    /// A good credential that may not do this.
    PermissionDenied,
    /// No such thing, or none that the caller may see.
    NotFound,
    /// The thing is not in a state that allows this.
    FailedPrecondition,
    /// A limit is spent.
    ResourceExhausted,
    /// It could not be decided now; trying again may help.
    Unavailable,
    /// The caller's time ran out.
    DeadlineExceeded,
    /// A defect of ours.
    Internal,
}

/// A field and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldViolation {
    /// The field's name as the proto spells it.
    pub field: Cow<'static, str>,
    /// A sentence without the value.
    pub description: String,
}

/// An error that any transport can show.
#[derive(Debug, Clone)]
pub struct Error {
    /// What a caller can act on.
    pub kind: ErrorKind,
    /// Stable, UPPER_SNAKE; REST shows it in lower case as `code`.
    pub reason: &'static str,
    /// A sentence for the public: never SQL, driver text or a secret.
    pub message: Cow<'static, str>,
    /// The bad fields, for [`ErrorKind::InvalidArgument`].
    pub fields: Vec<FieldViolation>,
    /// When trying again makes sense.
    pub retry_after: Option<Duration>,
    /// The limit that was spent, for [`ErrorKind::ResourceExhausted`].
    pub rate: Option<RateState>,
    /// The key whose secret was presented and is not good, for the log only.
    pub presented: Option<KeyId>,
    /// For the log only.
    pub internal: Option<String>,
}

/// The result of a use case.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error with no details.
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

    /// One bad field. The description must not hold the value.
    pub fn invalid(field: impl Into<Cow<'static, str>>, description: impl Into<String>) -> Self {
        Self::invalid_fields(vec![FieldViolation { field: field.into(), description: description.into() }])
    }

    /// Several bad fields; the message names them all.
    pub fn invalid_fields(fields: Vec<FieldViolation>) -> Self {
        let message = fields.iter().map(|f| format!("{}: {}", f.field, f.description)).collect::<Vec<_>>().join("; ");
        Self { fields, ..Self::new(ErrorKind::InvalidArgument, "INVALID_ARGUMENT", message) }
    }

    /// No credential that counts.
    pub fn missing_credential() -> Self {
        Self::new(ErrorKind::Unauthenticated, "MISSING_CREDENTIAL", "No authentication provided")
    }

    /// A good credential that may not do this.
    pub fn forbidden(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::PermissionDenied, "FORBIDDEN", message)
    }

    /// A key without a scope that it needs.
    pub fn insufficient_scope(scope: &str) -> Self {
        let message = format!("API key does not have '{scope}' scope");
        Self::new(ErrorKind::PermissionDenied, "INSUFFICIENT_SCOPE", message)
    }

    /// An unknown id, or a foreign one: the two must not differ in any way.
    pub fn no_such_key() -> Self {
        Self::new(ErrorKind::NotFound, "NOT_FOUND", "No such API key")
    }

    /// It could not be decided; `internal` says why, for the log.
    pub fn unavailable(internal: impl Into<String>) -> Self {
        Self {
            retry_after: Some(Duration::from_secs(1)),
            internal: Some(internal.into()),
            ..Self::new(ErrorKind::Unavailable, "UNAVAILABLE", "Try again")
        }
    }

    /// A defect of ours; `internal` says which, for the log.
    pub fn internal(internal: impl Into<String>) -> Self {
        Self { internal: Some(internal.into()), ..Self::new(ErrorKind::Internal, "INTERNAL", "Internal error") }
    }

    /// The caller's time ran out before there was an answer.
    pub fn deadline_exceeded() -> Self {
        Self::new(ErrorKind::DeadlineExceeded, "DEADLINE_EXCEEDED", "The deadline passed before there was an answer")
    }

    /// A revocation that is committed, but not yet certain on every replica.
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
