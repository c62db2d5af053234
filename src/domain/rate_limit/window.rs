//! A strict sliding window: no span of one window ever holds more than the limit.
//!
//! A window is divided into 12 buckets. A call counts until its whole bucket is one window old, so 13 buckets count at
//! any moment: those of a window, and the newest one. A call therefore leaves the window at most a twelfth of the window
//! late, and the state is a handful of integers.

use super::limit::{RateLimit, RateState, SpendResult};
use crate::domain::clock::Micros;

/// Number of buckets in a window.
pub(super) const BUCKETS: i64 = 12;
/// Number of buckets that count: those of a window, and the newest one.
pub(super) const COUNTED: usize = 13;
/// [`COUNTED`], for arithmetic with bucket numbers.
const SPAN: i64 = 13;

/// What one subject has spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlidingWindow {
    /// Number of the newest bucket, counted from the clock's zero.
    pub(super) newest: i64,
    /// Count of each bucket, newest first.
    pub(super) counts: [u32; COUNTED],
}

impl SlidingWindow {
    /// An empty window at `now`.
    pub fn empty(limit: RateLimit, now: Micros) -> Self {
        Self { newest: bucket(limit, now), counts: [0; COUNTED] }
    }

    /// Spends `cost` if it fits; a cost of 0 only reads. `now` should be on a monotonic clock. If it steps back, no call
    /// leaves the window early, and none stays for longer than a window and two buckets.
    pub fn spend(&mut self, limit: RateLimit, now: Micros, cost: u32) -> SpendResult {
        self.roll(bucket(limit, now));
        let used = self.used();
        // `used` can exceed the limit only if the limit was lowered.
        let free = u64::from(limit.limit).saturating_sub(used);
        let admitted = u64::from(cost) <= free;
        if admitted {
            self.counts[0] += cost;
        }
        let remaining = if admitted { free - u64::from(cost) } else { free };
        let state = RateState {
            limit: limit.limit,
            remaining: u32::try_from(remaining).unwrap_or(u32::MAX),
            reset_at: self.oldest().map_or(now, |age| self.leaves_at(limit, age)),
            retry_after: (!admitted).then(|| self.wait(limit, now, cost)).flatten(),
        };
        SpendResult { admitted, state }
    }

    /// Whether nothing counts at `now`, so that the window may be dropped.
    pub(crate) fn is_idle(mut self, limit_window: Micros, now: Micros) -> bool {
        self.roll(bucket(RateLimit { limit: 1, window: limit_window }, now));
        self.used() == 0
    }

    pub(super) fn used(&self) -> u64 {
        self.counts.iter().map(|count| u64::from(*count)).sum()
    }

    /// Makes `bucket` the newest one.
    pub(super) fn roll(&mut self, bucket: i64) {
        match usize::try_from(bucket.saturating_sub(self.newest)) {
            Ok(0) => {}
            Ok(steps) if steps < COUNTED => {
                self.counts.rotate_right(steps);
                self.counts[..steps].fill(0);
            }
            Ok(_) => self.counts = [0; COUNTED],
            // The clock stepped back, to an unknown position within its bucket. Every count moves to a bucket one younger,
            // so that each call still counts for at least a whole window of the new time.
            Err(_) => {
                self.counts[0] = self.counts[0].saturating_add(self.counts[1]);
                self.counts.copy_within(2.., 1);
                self.counts[COUNTED - 1] = 0;
            }
        }
        self.newest = bucket;
    }

    /// Age in buckets of the oldest count.
    fn oldest(&self) -> Option<usize> {
        self.counts.iter().rposition(|count| *count > 0)
    }

    /// When the bucket of this age leaves the window: the first microsecond of the 13th bucket after it.
    fn leaves_at(&self, limit: RateLimit, age: usize) -> Micros {
        let age = i64::try_from(age).unwrap_or(SPAN);
        let bucket = self.newest.saturating_add(SPAN - age);
        match bucket.checked_mul(limit.window) {
            // The ceiling, as the negative of the floor of the negative.
            Some(scaled) => -(-scaled).div_euclid(BUCKETS),
            None => Micros::MAX,
        }
    }

    /// How long until `cost` fits; `None` if it exceeds the limit.
    fn wait(&self, limit: RateLimit, now: Micros, cost: u32) -> Option<Micros> {
        let room = u64::from(limit.limit.checked_sub(cost)?);
        let mut left = self.used();
        for age in (0..COUNTED).rev() {
            left -= u64::from(self.counts[age]);
            if self.counts[age] > 0 && left <= room {
                return Some(self.leaves_at(limit, age) - now);
            }
        }
        None
    }
}

/// Number of the bucket that `now` is in: the exact floor of `12 * now / window`. A clock reaches the saturation bound
/// only after 24,000 years.
pub(super) fn bucket(limit: RateLimit, now: Micros) -> i64 {
    now.saturating_mul(BUCKETS).div_euclid(limit.window).min(i64::MAX - SPAN)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{
        clock::SECOND,
        rate_limit::limit::{MAX_LIMIT, WINDOW_RANGE},
    };

    fn limits() -> impl Strategy<Value = RateLimit> {
        (1_u32..=40, prop_oneof![Just(60 * SECOND), SECOND..=100 * SECOND])
            .prop_map(|(limit, window)| RateLimit { limit, window })
    }

    proptest! {
        #[test]
        fn no_span_of_one_window_holds_more_than_the_limit(
            limit in limits(), start in 0..1_i64 << 50, schedule in prop::collection::vec((0_i64..2_000, 1_u32..4), 1..400),
        ) {
            let mut window = SlidingWindow::empty(limit, start);
            let (mut now, mut log) = (start, Vec::new());
            for (gap, cost) in schedule {
                now += gap * limit.window / 10_000;
                if window.spend(limit, now, cost).admitted {
                    log.push((now, cost));
                }
                let within: u32 = log.iter().filter(|(at, _)| now - at < limit.window).map(|(_, cost)| cost).sum();
                prop_assert!(within <= limit.limit, "{within} within one window");
            }
        }

        #[test]
        fn a_call_leaves_the_window_at_most_a_twelfth_of_it_late(limit in limits(), start in 0..1_i64 << 50, into: i32) {
            let start = start + i64::from(into).rem_euclid(limit.window);
            let mut window = SlidingWindow::empty(limit, start);
            prop_assert!(window.spend(limit, start, limit.limit).admitted);
            let late = start + limit.window + (limit.window + 11) / 12;
            prop_assert!(window.spend(limit, late, limit.limit).admitted);
        }

        #[test]
        fn calls_spaced_at_twelve_thirteenths_of_the_rate_always_pass(limit in limits(), start in 0..1_i64 << 50) {
            let mut window = SlidingWindow::empty(limit, start);
            for call in 0..i64::from(limit.limit) * 40 {
                // The exact time of each call, rounded up, so that rounding does not accumulate.
                let at = start + (call * limit.window * 13 + i64::from(limit.limit) * 12 - 1) / (i64::from(limit.limit) * 12);
                prop_assert!(window.spend(limit, at, 1).admitted, "call {call}");
            }
        }

        #[test]
        fn reset_and_retry_after_are_exact(
            limit in limits(), start in 0..1_i64 << 50, gaps in prop::collection::vec(0_i64..2_000, 1..200), cost in 1_u32..50,
        ) {
            let mut window = SlidingWindow::empty(limit, start);
            let mut now = start;
            for gap in gaps {
                now += gap * limit.window / 10_000;
                window.spend(limit, now, 1);
            }
            let state = window.spend(limit, now, 0).state;
            if state.remaining < limit.limit {
                let grown = window.clone_at(limit, state.reset_at);
                prop_assert!(grown > state.remaining);
                prop_assert_eq!(window.clone_at(limit, state.reset_at - 1), state.remaining);
            } else {
                prop_assert_eq!(state.reset_at, now);
            }
            let refused = { window }.spend(limit, now, cost);
            match refused.state.retry_after {
                Some(wait) => {
                    prop_assert!(!refused.admitted && wait > 0);
                    prop_assert!(window.clone().spend(limit, now + wait, cost).admitted);
                    prop_assert!(!window.clone().spend(limit, now + wait - 1, cost).admitted);
                }
                None => prop_assert!(refused.admitted || cost > limit.limit),
            }
        }

        #[test]
        fn a_clock_that_steps_back_neither_frees_calls_early_nor_keeps_them_for_ever(
            limit in limits(), start in 1_i64 << 49..1_i64 << 50, back in 0_i64..1 << 48, after in 0_i64..24_000,
        ) {
            let mut window = SlidingWindow::empty(limit, start);
            prop_assert!(window.spend(limit, start, limit.limit).admitted);
            // The clock steps back while no true time passes.
            let stepped = start - back;
            let first = window.spend(limit, stepped, 1);
            prop_assert!(!first.admitted);
            let elapsed = after * limit.window / 10_000;
            let admitted = window.spend(limit, stepped + elapsed, 1).admitted;
            if elapsed < limit.window {
                prop_assert!(!admitted, "admitted after {elapsed}");
            }
            if elapsed > limit.window + limit.window / 6 {
                prop_assert!(admitted, "still refused after {elapsed}");
            }
        }

        #[test]
        fn arithmetic_does_not_overflow_at_the_bounds(now: i64, next: i64, cost: u32, limit in 1..=MAX_LIMIT) {
            for window in [*WINDOW_RANGE.start(), *WINDOW_RANGE.end()] {
                let limit = RateLimit { limit, window };
                let mut state = SlidingWindow::empty(limit, now);
                state.spend(limit, now, cost);
                state.spend(limit, next, cost);
                state.spend(limit, now, u32::MAX);
            }
        }
    }

    impl SlidingWindow {
        fn clone_at(self, limit: RateLimit, at: Micros) -> u32 {
            { self }.spend(limit, at, 0).state.remaining
        }
    }

    #[test]
    fn a_cost_above_the_limit_spends_nothing_and_has_no_retry_after() {
        let limit = RateLimit { limit: 5, window: SECOND };
        let mut window = SlidingWindow::empty(limit, 0);
        let refused = window.spend(limit, 0, 6);
        assert!(!refused.admitted);
        assert_eq!((refused.state.remaining, refused.state.retry_after), (5, None));
        assert!(window.spend(limit, 0, 5).admitted);
    }

    #[test]
    fn windows_roll_under_steady_traffic() {
        let limit = RateLimit { limit: 100, window: 60 * SECOND };
        let mut window = SlidingWindow::empty(limit, 0);
        // Two calls a second for an hour: at most 100 a minute are admitted, and hardly fewer.
        let admitted = (0..7_200_i64).filter(|n| window.spend(limit, n * SECOND / 2, 1).admitted).count();
        assert!((5_400..=6_000).contains(&admitted), "{admitted}");
        assert!(!window.is_idle(limit.window, 3_600 * SECOND));
        assert!(window.is_idle(limit.window, 3_665 * SECOND));
    }
}
