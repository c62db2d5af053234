//! A rate limit, and its state as callers see it.

use crate::domain::clock::{Micros, SECOND};

/// The largest limit.
pub(crate) const MAX_LIMIT: u32 = 1_000_000_000;
/// The shortest and the longest window.
pub(crate) const WINDOW_RANGE: std::ops::RangeInclusive<Micros> = SECOND..=366 * 86_400 * SECOND;

/// At most `limit` calls in any span of `window`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// 1 to [`MAX_LIMIT`].
    pub limit: u32,
    /// Within [`WINDOW_RANGE`], in whole milliseconds.
    pub window: Micros,
}

/// Limit of failed authentications of one client address, unless configured.
pub(crate) const DEFAULT_FAILED_AUTHENTICATION_LIMIT: RateLimit = RateLimit { limit: 300, window: 60 * SECOND };
/// Limit of keys created without a credential from one client address, unless configured.
pub(crate) const DEFAULT_PUBLIC_CREATE_LIMIT: RateLimit = RateLimit { limit: 10, window: 60 * SECOND };

impl RateLimit {
    /// Whether `limit` is within its bounds.
    pub(crate) fn has_valid_limit(&self) -> bool {
        (1..=MAX_LIMIT).contains(&self.limit)
    }

    /// Whether `window` is within its bounds and in whole milliseconds, which is the unit of the shared limiter.
    pub(crate) fn has_valid_window(&self) -> bool {
        WINDOW_RANGE.contains(&self.window) && self.window % 1_000 == 0
    }
}

/// What happens to a call that the shared limiter did not answer in time although it is available.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnTimeout {
    /// It is refused. The limit holds.
    Refuse,
    /// It is admitted. The limit may be exceeded by such calls.
    Admit,
}

/// The state of a limit at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateState {
    /// The limit.
    pub limit: u32,
    /// How much may still be spent.
    pub remaining: u32,
    /// When `remaining` next grows; now, if nothing is spent. On the clock of the call that returned this.
    pub reset_at: Micros,
    /// How long until the same cost fits; `None` if it was admitted, or if it never fits.
    pub retry_after: Option<Micros>,
}

impl RateState {
    /// The same state with `reset_at` on another clock: `from` and `to` are the readings of the two clocks at the same
    /// moment.
    #[must_use]
    pub(crate) fn on_clock(self, from: Micros, to: Micros) -> Self {
        Self { reset_at: self.reset_at - from + to, ..self }
    }
}

/// The result of an attempt to spend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpendResult {
    /// Whether the cost was admitted, and thereby spent.
    pub admitted: bool,
    /// The state after the attempt.
    pub state: RateState,
}
