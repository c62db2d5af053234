//! How often somebody may fail, and how long then not even that.

use super::{
    clock::{Micros, SECOND},
    rate_limit::RateLimit,
};

/// The first wait; each further one is twice as long.
const FIRST: Micros = SECOND;
/// The longest wait.
const LONGEST: Micros = 300 * SECOND;

/// What is known of somebody's failures. It starts with none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backoff {
    /// Failures that are not forgiven yet, in millionths.
    level: i64,
    /// When the level was right.
    at: Micros,
    /// Failures before this moment are too many.
    until: Micros,
    /// Waits since it was last quiet.
    waits: u32,
}

/// A failure, in the level's own measure.
const ONE: i64 = 1_000_000;

impl Backoff {
    /// Counts a failure; how long to wait, if it is one too many. `limit.limit` failures are forgiven in each
    /// `limit.window`. Who goes on past that waits, each time for twice as long, until it has been quiet for a window.
    pub fn fail(&mut self, limit: RateLimit, now: Micros) -> Option<Micros> {
        if now < self.until {
            return Some(self.until - now);
        }
        let quiet = now.saturating_sub(self.until.max(self.at));
        if quiet >= limit.window {
            self.waits = 0;
        }
        let forgiven = i128::from(now.saturating_sub(self.at).max(0)) * i128::from(limit.limit) * i128::from(ONE)
            / i128::from(limit.window.max(1));
        self.level = self.level.saturating_sub(i64::try_from(forgiven).unwrap_or(i64::MAX)).max(0).saturating_add(ONE);
        self.at = now;
        if self.level <= i64::from(limit.limit) * ONE {
            return None;
        }
        let wait = FIRST.checked_shl(self.waits).filter(|wait| (FIRST..LONGEST).contains(wait)).unwrap_or(LONGEST);
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
    fn waits_double_while_failures_go_on_and_end_with_a_quiet_window() {
        let mut backoff = Backoff::default();
        let mut now = 1_000 * SECOND;
        assert!((0..10).all(|_| backoff.fail(LIMIT, now).is_none()));
        let mut waits = Vec::new();
        for _ in 0..12 {
            // As soon as it may, until it may not.
            let wait = std::iter::repeat_with(|| backoff.fail(LIMIT, now)).flatten().next().unwrap();
            assert_eq!(backoff.fail(LIMIT, now), Some(wait), "a failure meanwhile makes no wait longer");
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
    fn who_fails_now_and_then_is_forgiven_for_ever() {
        let mut backoff = Backoff::default();
        assert!((0..10_000).all(|n| backoff.fail(LIMIT, n * 6 * SECOND).is_none()));
    }

    proptest! {
        /// However failures are spread, there are no more than the limit in a window and what is forgiven meanwhile.
        #[test]
        fn failures_that_pass_are_bounded(gaps in prop::collection::vec(0_i64..20_000_000, 1..400)) {
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
