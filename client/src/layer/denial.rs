//! Why a request is not let through, as a JSON response and as a gRPC status: the same table as Keyward's own.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::body::{BoxError, GuardedBody};
use crate::{
    ended::{EndReason, NotWatched},
    error::{Error, ErrorKind},
    rate_limit::RateLimit,
    reason::Reason,
    verdict::Refusal,
};

/// `domain` of every ErrorInfo.
const DOMAIN: &str = "keyward";

/// Why a request is not let through.
#[derive(Debug)]
pub(super) enum Denial {
    /// It has no secret in the header that the keyspace uses.
    MissingCredential,
    /// It has two.
    SeveralCredentials,
    /// What it has is not text, and so no secret.
    NotText,
    /// Two readers of its path could disagree.
    AmbiguousPath,
    /// No rule fits it.
    NoRoute,
    /// The key is not valid for it. The first scope that the key lacks, if it lacks one.
    Refused(Refusal, Option<String>),
    /// There is no verdict.
    Undecided(Error),
    /// It was let through, and its key has ended.
    Ended(EndReason),
    /// It was let through, and its key cannot be watched.
    NotWatched(NotWatched),
}

/// The content of an answer, which both of its forms render.
struct DenialAnswer {
    status: StatusCode,
    code: Code,
    reason: &'static str,
    message: String,
    retry_after: Option<Duration>,
}

impl DenialAnswer {
    fn new(status: StatusCode, code: Code, reason: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, reason, message: message.into(), retry_after: None }
    }

    /// The answer to a request whose key is refused for this reason.
    fn refused(reason: Reason, missing_scope: Option<&str>) -> Self {
        match (reason, missing_scope) {
            (Reason::InsufficientScope, scope) => {
                let message = match scope {
                    Some(scope) => format!("API key does not have '{scope}' scope"),
                    None => "API key does not have a required scope".to_owned(),
                };
                Self::new(StatusCode::FORBIDDEN, Code::PermissionDenied, "INSUFFICIENT_SCOPE", message)
            }
            (Reason::RateLimited, _) => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, Code::ResourceExhausted, "RATE_LIMITED", "Rate limit exceeded")
            }
            (reason, _) => Self::unauthorized(reason.name()),
        }
    }

    fn unauthorized(reason: &'static str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, Code::Unauthenticated, reason, "Invalid or expired API key")
    }

    fn undecided() -> Self {
        Self {
            retry_after: Some(Duration::from_secs(1)),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, "UNAVAILABLE", "Try again")
        }
    }
}

impl Denial {
    fn answer(&self) -> DenialAnswer {
        use StatusCode as Http;
        match self {
            Self::MissingCredential => DenialAnswer {
                message: "No authentication provided".to_owned(),
                ..DenialAnswer::unauthorized("MISSING_CREDENTIAL")
            },
            Self::SeveralCredentials => {
                let message = "authorization: two credentials count in this request; send one";
                DenialAnswer::new(Http::BAD_REQUEST, Code::InvalidArgument, "INVALID_ARGUMENT", message)
            }
            Self::NotText => DenialAnswer::unauthorized(Reason::Malformed.name()),
            Self::AmbiguousPath => {
                let message = "The path can be read in two ways";
                DenialAnswer::new(Http::BAD_REQUEST, Code::InvalidArgument, "AMBIGUOUS_PATH", message)
            }
            Self::NoRoute => {
                DenialAnswer::new(Http::FORBIDDEN, Code::PermissionDenied, "NO_ROUTE", "No rule allows this request")
            }
            Self::Refused(refusal, missing) => DenialAnswer {
                retry_after: refusal.rate_limit().and_then(|state| state.retry_after),
                ..DenialAnswer::refused(refusal.reason(), missing.as_deref())
            },
            Self::Ended(EndReason::Refused(reason)) => DenialAnswer::refused(*reason, None),
            // The layer's own settings assert something that no key can have: a retry would fail, too.
            Self::Undecided(error) if error.kind() == ErrorKind::InvalidArgument => {
                DenialAnswer::new(Http::INTERNAL_SERVER_ERROR, Code::Internal, "INTERNAL", "Internal error")
            }
            Self::Undecided(_) | Self::Ended(_) | Self::NotWatched(_) => DenialAnswer::undecided(),
        }
    }

    /// The response, with the refusal or the error as an extension.
    pub(super) fn into_response<B>(self, grpc: bool) -> Response<GuardedBody<B>> {
        let answer = self.answer();
        let mut response = if grpc { grpc_response(answer) } else { rest_response(&answer) };
        match self {
            Self::Refused(refusal, _) => {
                if let Some(state) = refusal.rate_limit() {
                    rate_limit_headers(response.headers_mut(), state);
                }
                response.extensions_mut().insert(refusal);
            }
            Self::Undecided(error) => drop(response.extensions_mut().insert(error)),
            Self::Ended(reason) => {
                response.extensions_mut().insert(reason);
            }
            Self::NotWatched(why) => {
                response.extensions_mut().insert(why);
            }
            _ => {}
        }
        response
    }

    /// The end of a gRPC stream that has begun.
    pub(super) fn into_trailers(self) -> HeaderMap {
        let mut trailers = grpc_response::<()>(self.answer()).into_parts().0.headers;
        trailers.remove(header::CONTENT_TYPE);
        trailers
    }

    /// The end of a body that has begun.
    pub(super) fn into_error(self) -> BoxError {
        match self {
            Self::Ended(reason) => Box::new(reason),
            Self::NotWatched(why) => Box::new(why),
            other => other.answer().message.into(),
        }
    }
}

fn rest_response<B>(answer: &DenialAnswer) -> Response<GuardedBody<B>> {
    let error = answer.status.canonical_reason().unwrap_or("Error");
    // Nothing in these texts needs an escape: scopes were checked when the layer was built.
    let text = format!(
        r#"{{"error":"{error}","message":"{}","code":"{}"}}"#,
        answer.message,
        answer.reason.to_ascii_lowercase()
    );
    let mut response = Response::new(GuardedBody::refusal(text));
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if answer.status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"keyward\""));
    }
    if let Some(wait) = answer.retry_after {
        // Whole seconds, rounded up: a request made then is admitted.
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    }
    response
}

fn grpc_response<B>(answer: DenialAnswer) -> Response<GuardedBody<B>> {
    let mut details = ErrorDetails::with_error_info(answer.reason, DOMAIN, []);
    if let Some(wait) = answer.retry_after {
        details.set_retry_info(Some(wait));
    }
    if answer.reason == "INVALID_ARGUMENT"
        && let Some((field, why)) = answer.message.split_once(": ")
    {
        details.add_bad_request_violation(field, why);
    }
    let status = Status::with_error_details(answer.code, answer.message, details);
    status.into_http::<()>().map(|()| GuardedBody::refusal(String::new()))
}

/// Adds the state of a key's rate limit.
pub(super) fn rate_limit_headers(headers: &mut HeaderMap, state: RateLimit) {
    // Rounded up: `remaining` must have grown by then.
    let reset = state.reset.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let reset = u64::try_from(reset.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX);
    headers.insert(HeaderName::from_static("x-ratelimit-limit"), HeaderValue::from(state.limit));
    headers.insert(HeaderName::from_static("x-ratelimit-remaining"), HeaderValue::from(state.remaining));
    headers.insert(HeaderName::from_static("x-ratelimit-reset"), HeaderValue::from(reset));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_work_is_refused_as_its_key_would_be_and_a_lost_lease_as_no_verdict() {
        let ended = |reason| Denial::Ended(EndReason::Refused(reason));
        for (denial, status, code, reason) in [
            (ended(Reason::Revoked), 401, Code::Unauthenticated, "REVOKED"),
            (ended(Reason::Expired), 401, Code::Unauthenticated, "EXPIRED"),
            (ended(Reason::NotFound), 401, Code::Unauthenticated, "NOT_FOUND"),
            (ended(Reason::WrongOrganization), 401, Code::Unauthenticated, "WRONG_ORGANIZATION"),
            (ended(Reason::InsufficientScope), 403, Code::PermissionDenied, "INSUFFICIENT_SCOPE"),
            (Denial::Ended(EndReason::LeaseLost), 503, Code::Unavailable, "UNAVAILABLE"),
            (Denial::NotWatched(NotWatched::NotAttached), 503, Code::Unavailable, "UNAVAILABLE"),
            (Denial::NotWatched(NotWatched::TooManyKeys), 503, Code::Unavailable, "UNAVAILABLE"),
        ] {
            let answer = denial.answer();
            assert_eq!((answer.status.as_u16(), answer.code, answer.reason), (status, code, reason), "{denial:?}");
            assert_eq!(answer.retry_after.is_some(), status == 503, "{denial:?}");
            let trailers = denial.into_trailers();
            let status = Status::from_header_map(&trailers).unwrap();
            assert_eq!((status.code(), status.get_details_error_info().unwrap().reason.as_str()), (code, reason));
            assert!(!trailers.contains_key(header::CONTENT_TYPE), "that of a stream that has begun is sent");
        }
    }
}
