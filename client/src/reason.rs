//! Why a key is refused.

use crate::{error::Error, proto};

/// Why a key is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The text is not a secret of this installation.
    Malformed,
    /// There is no such key in the keyspace that the check names.
    NotFound,
    /// The key is revoked.
    Revoked,
    /// The key has expired.
    Expired,
    /// The key is bound to another environment, or to none.
    WrongEnvironment,
    /// The key is bound to another organization, or to none.
    WrongOrganization,
    /// The key is bound to another instance, or to none.
    WrongInstance,
    /// The key lacks a scope that the check requires.
    InsufficientScope,
    /// The key has exhausted its rate limit.
    RateLimited,
}

impl Reason {
    /// The reason of a code; none for VALID.
    pub(crate) fn of(code: proto::Code) -> Result<Option<Self>, Error> {
        Ok(Some(match code {
            proto::Code::Valid => return Ok(None),
            proto::Code::Malformed => Self::Malformed,
            proto::Code::NotFound => Self::NotFound,
            proto::Code::Revoked => Self::Revoked,
            proto::Code::Expired => Self::Expired,
            proto::Code::WrongEnvironment => Self::WrongEnvironment,
            proto::Code::WrongOrganization => Self::WrongOrganization,
            proto::Code::WrongInstance => Self::WrongInstance,
            proto::Code::InsufficientScope => Self::InsufficientScope,
            proto::Code::RateLimited => Self::RateLimited,
            proto::Code::Unspecified => return Err(Error::not_understood("a verdict of an unknown code")),
        }))
    }

    /// The name that errors carry as their reason, such as `INSUFFICIENT_SCOPE`. REST writes it in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "MALFORMED",
            Self::NotFound => "NOT_FOUND",
            Self::Revoked => "REVOKED",
            Self::Expired => "EXPIRED",
            Self::WrongEnvironment => "WRONG_ENVIRONMENT",
            Self::WrongOrganization => "WRONG_ORGANIZATION",
            Self::WrongInstance => "WRONG_INSTANCE",
            Self::InsufficientScope => "INSUFFICIENT_SCOPE",
            Self::RateLimited => "RATE_LIMITED",
        }
    }
}
