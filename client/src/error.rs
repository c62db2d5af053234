//! Why there is no verdict.

use std::fmt;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// The kind of an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Keyward could not decide, or could not be reached. Repeating the call may succeed.
    Unavailable,
    /// The deadline passed before there was an answer.
    DeadlineExceeded,
    /// This client's own credential is missing or not valid.
    Unauthenticated,
    /// This client's own credential does not allow the call.
    PermissionDenied,
    /// The check asserts something that no key can have, such as a scope with a space.
    InvalidArgument,
    /// Keyward refuses this client for the number of its calls.
    ResourceExhausted,
    /// Something else: a defect, or a version of Keyward that this client does not support.
    Internal,
}

/// Why there is no verdict. A verdict that refuses a key is no error, see [`Verdict`](crate::Verdict).
#[derive(Debug, Clone)]
pub struct Error {
    kind: ErrorKind,
    reason: String,
    message: String,
    fields: Vec<(String, String)>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, reason: &str, message: impl Into<String>) -> Self {
        Self { kind, reason: reason.to_owned(), message: message.into(), fields: Vec::new() }
    }

    pub(crate) fn deadline_exceeded() -> Self {
        let message = "the deadline passed before there was an answer";
        Self::new(ErrorKind::DeadlineExceeded, "DEADLINE_EXCEEDED", message)
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unavailable, "UNAVAILABLE", message)
    }

    /// An answer that this version of the client does not understand. It must never count as a success.
    pub(crate) fn not_understood(message: &str) -> Self {
        Self::new(ErrorKind::Internal, "NOT_UNDERSTOOD", message)
    }

    /// The error of a call.
    pub(crate) fn of(status: &Status) -> Self {
        let details = status.get_error_details();
        let kind = match status.code() {
            _ if is_transport(status) => ErrorKind::Unavailable,
            Code::Unavailable => ErrorKind::Unavailable,
            Code::DeadlineExceeded | Code::Cancelled => ErrorKind::DeadlineExceeded,
            Code::Unauthenticated => ErrorKind::Unauthenticated,
            Code::PermissionDenied => ErrorKind::PermissionDenied,
            Code::InvalidArgument | Code::OutOfRange => ErrorKind::InvalidArgument,
            Code::ResourceExhausted => ErrorKind::ResourceExhausted,
            _ => ErrorKind::Internal,
        };
        let reason = details.error_info().map(|info| info.reason.clone());
        let fields = details
            .bad_request()
            .map(|bad| bad.field_violations.iter().map(|bad| (bad.field.clone(), bad.description.clone())).collect());
        Self {
            kind,
            reason: reason
                .unwrap_or_else(|| if kind == ErrorKind::Unavailable { "UNAVAILABLE".into() } else { String::new() }),
            message: status.message().to_owned(),
            fields: fields.unwrap_or_default(),
        }
    }

    /// What kind of error it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The stable reason that Keyward gives, such as `UNAVAILABLE`; empty if it gave none.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// A sentence for the log. It may name hosts, and is not for the callers of your service.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The invalid fields, and why each is, for [`ErrorKind::InvalidArgument`].
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|(field, why)| (field.as_str(), why.as_str()))
    }
}

/// Whether a status was made by this client, because the connection failed, and not by the server.
pub(crate) fn is_transport(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&*self.reason, &*self.message) {
            ("", message) => f.write_str(message),
            (reason, "") => f.write_str(reason),
            (reason, message) => write!(f, "{reason}: {message}"),
        }
    }
}

impl std::error::Error for Error {}

/// Why a client, or a layer, cannot be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildError {
    setting: &'static str,
    why: &'static str,
}

impl BuildError {
    pub(crate) fn new(setting: &'static str, why: &'static str) -> Self {
        Self { setting, why }
    }

    /// The name of the invalid setting.
    pub fn setting(&self) -> &'static str {
        self.setting
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.setting, self.why)
    }
}

impl std::error::Error for BuildError {}
