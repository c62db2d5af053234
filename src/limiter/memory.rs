//! Limits of one replica, in memory: exact under concurrency, bounded by sweeping what is idle.

use std::sync::Arc;

use super::{Subject, sharded_map::ShardedMap};
use crate::domain::{
    clock::{Clock, Micros},
    rate_limit::{RateLimit, SlidingWindow, SpendResult},
};

/// Kept in the table itself: one that was spent of long ago is in no cache of the processor, and a box would be another
/// line to wait for.
struct Spending {
    window: SlidingWindow,
    length: Micros,
}

impl Spending {
    fn new(limit: RateLimit, now: Micros) -> Self {
        Self { window: SlidingWindow::empty(limit, now), length: limit.window }
    }
}

/// Limits in memory.
pub struct MemoryLimiter {
    clock: Arc<dyn Clock>,
    spendings: ShardedMap<Spending>,
}

impl MemoryLimiter {
    /// Nothing spent yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, spendings: ShardedMap::default() }
    }

    /// Spends `cost` of a subject's limit if it fits; 0 only reads. `reset_at` is on the wall clock.
    pub fn spend(&self, subject: Subject, limit: RateLimit, cost: u32) -> SpendResult {
        let mut place = self.spendings.lock(subject);
        // Read under the lock, so that a window never sees its calls out of order.
        let now = self.clock.monotonic();
        let spending = place.or_insert_with(|| Spending::new(limit, now));
        if spending.length != limit.window {
            // The setting changed: buckets of another length cannot be compared.
            *spending = Spending::new(limit, now);
        }
        let spent = spending.window.spend(limit, now, cost);
        drop(place);
        SpendResult { state: spent.state.on_clock(now, self.clock.wall()), ..spent }
    }

    /// Forgets the subjects that have nothing spent any more.
    pub fn sweep(&self) {
        self.spendings.sweep(|| self.clock.monotonic(), |spending, now| !spending.window.idle(spending.length, now));
    }

    /// Subjects held.
    pub fn len(&self) -> usize {
        self.spendings.len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

    use super::*;
    use crate::domain::clock::{SECOND, SystemClock};

    struct Hand(AtomicI64);
    impl Clock for Hand {
        fn wall(&self) -> Micros {
            self.boottime() + 1_000_000 * SECOND
        }
        fn boottime(&self) -> Micros {
            self.0.load(Ordering::SeqCst)
        }
    }

    const LIMIT: RateLimit = RateLimit { limit: 1_000, window: 3_600 * SECOND };

    fn subject(number: u64) -> Subject {
        Subject(0, number)
    }

    #[test]
    fn many_threads_together_get_exactly_the_limit() {
        let limiter = MemoryLimiter::new(Arc::new(SystemClock));
        let admitted = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        if limiter.spend(subject(1), LIMIT, 1).admitted {
                            admitted.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(admitted.into_inner(), 1_000);
    }

    #[test]
    fn idle_subjects_are_swept_and_busy_ones_stay() {
        let clock = Arc::new(Hand(AtomicI64::new(0)));
        let limiter = MemoryLimiter::new(Arc::clone(&clock) as Arc<dyn Clock>);
        for n in 0..10_000 {
            limiter.spend(subject(n), LIMIT, 1);
        }
        clock.0.store(2_000 * SECOND, Ordering::SeqCst);
        limiter.spend(subject(0), LIMIT, 1_000 - 1);
        clock.0.store(3_910 * SECOND, Ordering::SeqCst);
        limiter.sweep();
        assert_eq!(limiter.len(), 1);
        assert!(!limiter.spend(subject(0), LIMIT, 2).admitted, "the sweep forgot what was spent");
    }

    #[test]
    fn reset_is_told_on_the_wall_clock() {
        let limiter = MemoryLimiter::new(Arc::new(Hand(AtomicI64::new(0))));
        let spent = limiter.spend(subject(1), LIMIT, 1);
        assert_eq!(spent.state.reset_at, 1_000_000 * SECOND + 3_900 * SECOND);
    }

    #[test]
    fn a_client_has_one_limit_for_its_whole_ipv6_network() {
        let of = |text: &str| Subject::address(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}
