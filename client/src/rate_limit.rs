//! Rate limits of keys.

use std::time::{Duration, SystemTime};

use crate::{error::Error, proto, timestamp::system_time};

/// The state of a key's rate limit: never more than `limit` in any span of one window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// The limit in any span of one window.
    pub limit: u32,
    /// How much is left.
    pub remaining: u32,
    /// When `remaining` grows next.
    pub reset: SystemTime,
    /// How long until the same cost would be admitted; none if it was admitted, or can never be.
    pub retry_after: Option<Duration>,
}

impl RateLimit {
    /// The state in a message.
    ///
    /// # Errors
    ///
    /// A time that is out of range.
    pub(crate) fn of(state: &proto::RateLimitState) -> Result<Self, Error> {
        let bad = || Error::not_understood("a rate limit with a time that is out of range");
        Ok(Self {
            limit: state.limit,
            remaining: state.remaining,
            reset: system_time(state.reset_time.ok_or_else(bad)?)?,
            retry_after: state.retry_after.map(|wait| Duration::try_from(wait).map_err(|_| bad())).transpose()?,
        })
    }
}
