//! The error of a spent rate limit.

use std::time::Duration;

use crate::domain::{
    error::{Error, ErrorKind, RATE_LIMIT_EXCEEDED},
    rate_limit::RateState,
};

/// RESOURCE_EXHAUSTED, with the state of the limit and the time after which to retry, where they are known.
pub(super) fn rate_limited(rate: Option<RateState>) -> Error {
    let retry_after = rate.and_then(|state| state.retry_after).and_then(|wait| u64::try_from(wait).ok());
    Error {
        rate,
        retry_after: retry_after.map(Duration::from_micros),
        ..Error::new(ErrorKind::ResourceExhausted, "RATE_LIMITED", RATE_LIMIT_EXCEEDED)
    }
}
