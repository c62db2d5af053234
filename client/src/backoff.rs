//! Delays between attempts: exponential backoff with jitter, so that clients that failed at the same time do not all
//! retry at the same time.

use std::{
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

/// Growing delays with jitter.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    /// Delays from about `first`, doubling up to about `max`.
    pub(crate) fn new(first: Duration, max: Duration) -> Self {
        Self { next: first, max }
    }

    /// The next delay: between half of the nominal one and all of it.
    pub(crate) fn delay(&mut self) -> Duration {
        let nominal = self.next;
        self.next = (nominal * 2).min(self.max);
        nominal / 2 + jitter(nominal / 2)
    }
}

/// A delay of about this length: up to a quarter shorter.
pub(crate) fn spread(length: Duration) -> Duration {
    length.saturating_sub(jitter(length / 4))
}

/// A random duration below `bound`.
fn jitter(bound: Duration) -> Duration {
    // Each state has keys of its own, which the operating system's randomness has seeded.
    let random = RandomState::new().hash_one(());
    let bound = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(if bound == 0 { 0 } else { random % bound })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_longest_one_and_differ() {
        let (first, max) = (Duration::from_millis(10), Duration::from_millis(80));
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..32 {
            let mut backoff = Backoff::new(first, max);
            for nominal in [10, 20, 40, 80, 80].map(Duration::from_millis) {
                let delay = backoff.delay();
                assert!(delay >= nominal / 2 && delay < nominal, "{delay:?} of {nominal:?}");
                seen.insert(delay);
            }
        }
        assert!(seen.len() > 100, "only {} of 160 delays are different", seen.len());
    }
}
