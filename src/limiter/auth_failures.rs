//! Failed authentications by client address, in a table of fixed size.
//!
//! Addresses that hash to the same slot share one counter. A collision can only cause an invalid credential to be
//! answered 429 instead of 401.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
};

use parking_lot::Mutex;

use super::subject::Subject;
use crate::domain::{
    backoff::Backoff,
    clock::{Clock, Micros},
    rate_limit::RateLimit,
};

/// Number of slots: about half a megabyte.
const SLOTS: usize = 1 << 14;

/// Counts failed authentications, and limits how often a client is answered 401.
pub struct AuthFailures {
    slots: Box<[Mutex<Backoff>]>,
    hasher: RandomState,
    limit: RateLimit,
    clock: Arc<dyn Clock>,
}

impl AuthFailures {
    /// An empty table. A client is allowed `limit` failures before it has to wait.
    pub fn new(limit: RateLimit, clock: Arc<dyn Clock>) -> Self {
        Self { slots: (0..SLOTS).map(|_| Mutex::default()).collect(), hasher: RandomState::new(), limit, clock }
    }

    /// Records a failure of a client. Returns how long the client has to wait if it has exceeded the limit.
    pub fn record(&self, client: Subject) -> Option<Micros> {
        let slot = usize::try_from(self.hasher.hash_one(client) % SLOTS as u64).unwrap_or(0);
        let mut backoff = self.slots[slot].lock();
        // Read the clock under the lock, so that failures are counted in the order of their times.
        backoff.fail(self.limit, self.clock.monotonic())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::clock::{SECOND, SystemClock};

    #[test]
    fn clients_are_counted_separately_and_the_table_does_not_grow() {
        let failures = AuthFailures::new(RateLimit { limit: 3, window: 60 * SECOND }, Arc::new(SystemClock));
        let of = |n: u32| Subject::address(std::net::IpAddr::from(n.to_be_bytes()));
        assert!((0..3).all(|_| failures.record(of(1)).is_none()));
        assert!(failures.record(of(1)).is_some_and(|wait| wait <= SECOND));
        assert!(failures.record(of(2)).is_none());
        for n in 0..200_000 {
            failures.record(of(n));
        }
        assert_eq!(failures.slots.len(), SLOTS);
    }
}
