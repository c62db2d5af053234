//! Backoff after failed authentications: some are allowed without a wait, then each further one doubles the wait.

use super::{
    clock::{Micros, SECOND},
    rate_limit::RateLimit,
};

/// The first wait; each further one is twice as long.
const FIRST_WAIT: Micros = SECOND;
const MAX_WAIT: Micros = 300 * SECOND;

/// The failures of one client. The default has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backoff {
    /// Failures that count, in units of [`FAILURE`]. It decays over time.
    level: i64,
    /// When `level` was computed.
    at: Micros,
    /// The end of the current wait.
    until: Micros,
    /// Waits since the last window without failures.
    waits: u32,
}

/// One failure, as `level` counts it.
const FAILURE: i64 = 1_000_000;

impl Backoff {
    /// Counts a failure, and returns how long the client must wait if it has failed too often. `limit.limit` failures are
    /// forgiven in each `limit.window`. Each further failure doubles the wait, until a window has passed without one. A
    /// failure within a wait does not prolong it.
    pub fn fail(&mut self, limit: RateLimit, now: Micros) -> Option<Micros> {
        if now < self.until {
            return Some(self.until - now);
        }
        let quiet = now.saturating_sub(self.until.max(self.at));
        if quiet >= limit.window {
            self.waits = 0;
        }
        let forgiven = i128::from(now.saturating_sub(self.at).max(0)) * i128::from(limit.limit) * i128::from(FAILURE)
            / i128::from(limit.window.max(1));
        self.level =
            self.level.saturating_sub(i64::try_from(forgiven).unwrap_or(i64::MAX)).max(0).saturating_add(FAILURE);
        self.at = now;
        if self.level <= i64::from(limit.limit) * FAILURE {
            return None;
        }
        let wait =
            FIRST_WAIT.checked_shl(self.waits).filter(|wait| (FIRST_WAIT..MAX_WAIT).contains(wait)).unwrap_or(MAX_WAIT);
        self.waits = self.waits.saturating_add(1).min(32);
        self.until = now.saturating_add(wait);
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: RateLimit = RateLimit { limit: 10, window: 60 * SECOND };

    #[test]
    fn waits_double_until_a_window_passes_without_failures() {
        let mut backoff = Backoff::default();
        let mut now = 1_000 * SECOND;
        assert!((0..10).all(|_| backoff.fail(LIMIT, now).is_none()));
        let mut waits = Vec::new();
        for _ in 0..12 {
            // Fail until a wait is imposed.
            let wait = std::iter::repeat_with(|| backoff.fail(LIMIT, now)).flatten().next().unwrap();
            assert_eq!(backoff.fail(LIMIT, now), Some(wait), "a failure within a wait does not prolong it");
            waits.push(wait / SECOND);
            now += wait;
        }
        assert_eq!(waits[..8], [1, 2, 4, 8, 16, 32, 64, 128]);
        assert_eq!(waits[8..], [256, 300, 300, 300]);
        now += LIMIT.window;
        assert!((0..10).all(|_| backoff.fail(LIMIT, now).is_none()));
        assert_eq!(backoff.fail(LIMIT, now), Some(SECOND));
    }

    #[test]
    fn failures_below_the_limit_are_always_forgiven() {
        let mut backoff = Backoff::default();
        assert!((0..10_000).all(|n| backoff.fail(LIMIT, n * 6 * SECOND).is_none()));
    }

    proptest! {
        /// In any window at most the limit is allowed, plus the failures that decayed meanwhile.
        #[test]
        fn failures_without_a_wait_are_bounded(gaps in prop::collection::vec(0_i64..20_000_000, 1..400)) {
            let mut backoff = Backoff::default();
            let (mut now, mut passed) = (0, Vec::new());
            for gap in gaps {
                now += gap;
                if backoff.fail(LIMIT, now).is_none() {
                    passed.push(now);
                }
            }
            for (at, start) in passed.iter().enumerate() {
                let within = passed[at..].iter().filter(|end| **end < start + LIMIT.window).count();
                prop_assert!(within <= 2 * LIMIT.limit as usize, "{} in a window", within);
            }
        }
    }
}
