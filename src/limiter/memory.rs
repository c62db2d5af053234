//! Limits of one replica, in memory: exact under concurrency, and bounded by sweeping idle subjects.

use std::sync::Arc;

use super::{sharded_map::ShardedMap, subject::Subject};
use crate::domain::{
    clock::{Clock, Micros},
    rate_limit::{RateLimit, SlidingWindow, SpendResult},
};

/// The state of one subject. It is stored inline in the table, because a box would cost a second cache miss for a
/// subject that is not in the CPU cache.
struct SubjectWindow {
    window: SlidingWindow,
    length: Micros,
}

impl SubjectWindow {
    fn new(limit: RateLimit, now: Micros) -> Self {
        Self { window: SlidingWindow::empty(limit, now), length: limit.window }
    }
}

/// Enforces limits in memory.
pub struct MemoryLimiter {
    clock: Arc<dyn Clock>,
    subjects: ShardedMap<SubjectWindow>,
}

impl MemoryLimiter {
    /// A limiter whose windows are all empty.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, subjects: ShardedMap::default() }
    }

    /// Spends `cost` of a subject's limit if it fits; a cost of 0 only reads. `reset_at` is on the wall clock.
    pub fn spend(&self, subject: Subject, limit: RateLimit, cost: u32) -> SpendResult {
        let mut entry = self.subjects.lock(subject);
        // Read the clock under the lock, so that a window sees its calls in the order of their times.
        let now = self.clock.monotonic();
        let state = entry.or_insert_with(|| SubjectWindow::new(limit, now));
        if state.length != limit.window {
            // The window's length changed. Buckets of different lengths cannot be compared, so start with an empty window.
            *state = SubjectWindow::new(limit, now);
        }
        let spent = state.window.spend(limit, now, cost);
        drop(entry);
        SpendResult { state: spent.state.on_clock(now, self.clock.wall()), ..spent }
    }

    /// The time on the wall clock.
    pub(super) fn wall(&self) -> Micros {
        self.clock.wall()
    }

    /// Drops the subjects whose windows are empty.
    pub fn sweep(&self) {
        self.subjects.sweep(|| self.clock.monotonic(), |state, now| !state.window.is_idle(state.length, now));
    }

    /// Number of subjects.
    pub fn len(&self) -> usize {
        self.subjects.len()
    }

    /// Whether there is no subject.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

    use super::*;
    use crate::domain::clock::{SECOND, SystemClock};

    /// A clock that tests set by hand.
    struct ManualClock(AtomicI64);
    impl Clock for ManualClock {
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
        let clock = Arc::new(ManualClock(AtomicI64::new(0)));
        let limiter = MemoryLimiter::new(Arc::clone(&clock) as Arc<dyn Clock>);
        for n in 0..10_000 {
            limiter.spend(subject(n), LIMIT, 1);
        }
        clock.0.store(2_000 * SECOND, Ordering::SeqCst);
        limiter.spend(subject(0), LIMIT, 1_000 - 1);
        clock.0.store(3_910 * SECOND, Ordering::SeqCst);
        limiter.sweep();
        assert_eq!(limiter.len(), 1);
        assert!(
            !limiter.spend(subject(0), LIMIT, 2).admitted,
            "the sweep dropped a subject that has calls in its window"
        );
    }

    #[test]
    fn reset_at_is_on_the_wall_clock() {
        let limiter = MemoryLimiter::new(Arc::new(ManualClock(AtomicI64::new(0))));
        let spent = limiter.spend(subject(1), LIMIT, 1);
        assert_eq!(spent.state.reset_at, 1_000_000 * SECOND + 3_900 * SECOND);
    }
}
