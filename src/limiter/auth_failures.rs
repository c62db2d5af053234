//! Failed authentications by client address, in a table of a fixed size: addresses that share a place share what is
//! known of them. All that this can do to a client is to tell it of a failure in another way.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
};

use parking_lot::Mutex;

use super::Subject;
use crate::domain::{
    backoff::Backoff,
    clock::{Clock, Micros},
    rate_limit::RateLimit,
};

/// Places: about half a megabyte.
const PLACES: usize = 1 << 14;

/// What is known of those who failed.
pub struct AuthFailures {
    places: Box<[Mutex<Backoff>]>,
    hasher: RandomState,
    limit: RateLimit,
    clock: Arc<dyn Clock>,
}

impl AuthFailures {
    /// Nobody has failed yet.
    pub fn new(limit: RateLimit, clock: Arc<dyn Clock>) -> Self {
        Self { places: (0..PLACES).map(|_| Mutex::default()).collect(), hasher: RandomState::new(), limit, clock }
    }

    /// Counts a failure of a client; how long it has to wait, if it is one too many.
    pub fn fail(&self, client: Subject) -> Option<Micros> {
        let place = usize::try_from(self.hasher.hash_one(client) % PLACES as u64).unwrap_or(0);
        let mut backoff = self.places[place].lock();
        // Under the lock, so that no failure is counted before an earlier one.
        backoff.fail(self.limit, self.clock.monotonic())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::clock::{SECOND, SystemClock};

    #[test]
    fn clients_are_told_apart_and_there_is_room_for_any_number() {
        let failures = AuthFailures::new(RateLimit { limit: 3, window: 60 * SECOND }, Arc::new(SystemClock));
        let of = |n: u32| Subject::address(std::net::IpAddr::from(n.to_be_bytes()));
        assert!((0..3).all(|_| failures.fail(of(1)).is_none()));
        assert!(failures.fail(of(1)).is_some_and(|wait| wait <= SECOND));
        assert!(failures.fail(of(2)).is_none());
        for n in 0..200_000 {
            failures.fail(of(n));
        }
        assert_eq!(failures.places.len(), PLACES);
    }
}
