//! Permits that a replica takes from a shared window ahead of need, and spends by itself.
//!
//! The window counts a permit in the bucket in which it was granted, until that bucket is a window old. A replica must
//! therefore spend a permit before its bucket ends, or not at all: then the permit counts for as long as if it had been
//! granted when it was spent, and no span of one window holds more than the limit. Unspent permits are returned with the
//! next request. A replica holds at most one lease of a key at a time, so the permits of these leases are the most by
//! which too few calls may be admitted.

use super::limit::{RateLimit, RateState};
use crate::domain::clock::{Micros, SECOND};

/// At most one part in this many of the remaining limit is granted ahead of need. The last permits are granted one by
/// one.
pub const SHARE: u32 = 16;
/// Maximum duration of a lease. Buckets may be longer, but over a longer time clocks drift too far apart.
const MAX_DURATION: Micros = 10 * SECOND;
/// The rates of two clocks may differ by one part in this many.
const DRIFT: Micros = 1_000;

/// Where permits were granted, so that unspent ones are returned to the same bucket of the same window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrantOrigin {
    /// The bucket that counts them.
    pub bucket: i64,
    /// Number of the window. A window that was lost and created again has another number.
    pub window: i64,
}

/// Permits that a shared window granted beyond the cost of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// Number of permits.
    pub permits: u32,
    /// Time from the grant to the end of their bucket.
    pub left: Micros,
    /// Where they were granted.
    pub origin: GrantOrigin,
}

/// Permits to spend without a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PermitLease {
    limit: RateLimit,
    /// When the permits expire, on the replica's own clock.
    until: Micros,
    permits: u32,
    /// What remained in the shared window when the permits were granted.
    shared_remaining: u32,
    reset_at: Micros,
    origin: GrantOrigin,
}

impl PermitLease {
    /// The lease of a request that was sent at `sent` on the replica's own clock. `state` is the window's state after the
    /// request, its `reset_at` on the wall clock.
    pub fn new(limit: RateLimit, sent: Micros, state: RateState, grant: Grant) -> Self {
        // The lease counts from the sending. The grant came later, so the bucket does not end before the lease.
        let duration = grant.left.min(MAX_DURATION);
        Self {
            limit,
            until: sent.saturating_add(duration - duration / DRIFT - 1),
            permits: grant.permits,
            shared_remaining: state.remaining,
            reset_at: state.reset_at,
            origin: grant.origin,
        }
    }

    /// Spends `cost` at `now` on the replica's own clock, and returns the state after that. `None` if a request is
    /// needed.
    pub fn spend(&mut self, limit: RateLimit, now: Micros, cost: u32) -> Option<RateState> {
        if limit != self.limit || now >= self.until {
            return None;
        }
        self.permits = self.permits.checked_sub(cost)?;
        let remaining = self.shared_remaining.saturating_add(self.permits);
        Some(RateState { limit: limit.limit, remaining, reset_at: self.reset_at, retry_after: None })
    }

    /// Unspent permits, to be returned; `None` if there are none.
    pub fn unspent(&self) -> Option<(u32, GrantOrigin)> {
        (self.permits > 0).then_some((self.permits, self.origin))
    }

    /// Whether there are unspent permits that the window still counts.
    pub(crate) fn is_live(&self, now: Micros) -> bool {
        self.permits > 0 && now < self.until.saturating_add(self.limit.window)
    }
}

/// A refusal that remains valid until a known time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CachedRefusal {
    limit: RateLimit,
    cost: u32,
    /// When the cost fits again, on the replica's own clock.
    until: Micros,
    remaining: u32,
    reset_at: Micros,
}

impl CachedRefusal {
    /// A refusal of `cost` that arrived at `now` on the replica's own clock; `None` if the cost never fits.
    pub fn new(limit: RateLimit, now: Micros, state: RateState, cost: u32) -> Option<Self> {
        let until = now.saturating_add(state.retry_after?);
        Some(Self { limit, cost, until, remaining: state.remaining, reset_at: state.reset_at })
    }

    /// Repeats the refusal for the same cost until it expires. Permits that other replicas return in the meantime are
    /// not seen.
    pub fn repeat(&self, limit: RateLimit, now: Micros, cost: u32) -> Option<RateState> {
        let wait = self.until - now;
        (limit == self.limit && cost == self.cost && wait > 0).then_some(RateState {
            limit: limit.limit,
            remaining: self.remaining,
            reset_at: self.reset_at,
            retry_after: Some(wait),
        })
    }

    /// Whether the refusal is still valid.
    pub(crate) fn is_live(&self, now: Micros) -> bool {
        now < self.until
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::rate_limit::window::{BUCKETS, COUNTED, SlidingWindow, bucket};

    /// The shared window, with the logic of `window.lua`.
    struct SharedWindow {
        window: SlidingWindow,
        limit: RateLimit,
    }

    impl SharedWindow {
        fn request(
            &mut self,
            now: Micros,
            cost: u32,
            extra_permits: u32,
            returned: Option<(u32, GrantOrigin)>,
        ) -> (bool, RateState, Grant) {
            self.window.roll(bucket(self.limit, now));
            if let Some((permits, origin)) = returned
                && let Ok(age) = usize::try_from(self.window.newest - origin.bucket)
                && age < COUNTED
            {
                self.window.counts[age] -= permits;
            }
            let mut spent = self.window.spend(self.limit, now, cost);
            let ends = ((i128::from(self.window.newest) + 1) * i128::from(self.limit.window)).div_euclid(12);
            let left = i64::try_from(ends).unwrap() - now;
            let permits = if spent.admitted && left > 0 { extra_permits.min(spent.state.remaining / SHARE) } else { 0 };
            self.window.counts[0] += permits;
            spent.state.remaining -= permits;
            let origin = GrantOrigin { bucket: self.window.newest, window: 0 };
            (spent.admitted, spent.state, Grant { permits, left, origin })
        }
    }

    #[derive(Debug, Clone)]
    struct Step {
        /// Time since the previous step, in 10,000ths of a window.
        gap: i64,
        replica: usize,
        cost: u32,
        /// Network delay of the request and of its answer, in microseconds.
        delays: (i64, i64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let gap = prop_oneof![4 => 0_i64..20, 1 => 0_i64..2_000];
        let step = (gap, 0_usize..3, 1_u32..4, (0_i64..5_000, 0_i64..5_000));
        let step = step.prop_map(|(gap, replica, cost, delays)| Step { gap, replica, cost, delays });
        prop::collection::vec(step, 1..400)
    }

    fn limits() -> impl Strategy<Value = RateLimit> {
        (1_u32..=400, prop_oneof![Just(60 * SECOND), SECOND..=100 * SECOND])
            .prop_map(|(limit, window)| RateLimit { limit, window })
    }

    proptest! {
        /// Three replicas with arbitrary clocks spend by lease and by request. No span of one window holds more than the
        /// limit, and the window counts exactly the permits that were spent and those that the replicas hold.
        #[test]
        fn leases_keep_the_limit_and_withhold_no_more_permits_than_they_hold(
            limit in limits(), start in 1_i64 << 49..1_i64 << 50, batch in 1_u32..40,
            offsets in [0_i64..1 << 40, 0_i64..1 << 40, 0_i64..1 << 40], steps in steps(),
        ) {
            let mut shared = SharedWindow { window: SlidingWindow::empty(limit, start), limit };
            let mut leases: [Option<PermitLease>; 3] = [None; 3];
            let (mut now, mut log) = (start, Vec::<(Micros, u32)>::new());
            for Step { gap, replica, cost, delays } in steps {
                now += gap * limit.window / 10_000;
                let own = |now: Micros| now + offsets[replica];
                let by_lease = leases[replica].as_mut().and_then(|lease| lease.spend(limit, own(now), cost));
                if by_lease.is_some() {
                    log.push((now, cost));
                } else {
                    let sent = own(now);
                    now += delays.0;
                    let returned = leases[replica].take().and_then(|lease| lease.unspent());
                    let (admitted, state, grant) = shared.request(now, cost, batch, returned);
                    if admitted {
                        log.push((now, cost));
                    }
                    now += delays.1;
                    leases[replica] = (grant.permits > 0).then(|| PermitLease::new(limit, sent, state, grant));
                }
                let within: u32 = log.iter().filter(|(at, _)| now - at < limit.window).map(|(_, cost)| cost).sum();
                prop_assert!(within <= limit.limit, "{within} within one window");

                shared.window.roll(bucket(limit, now));
                let counts = |bucket: i64| (0..=BUCKETS).contains(&(shared.window.newest - bucket));
                let spent: u32 = log.iter().filter(|(at, _)| counts(bucket(limit, *at))).map(|(_, cost)| cost).sum();
                let unspent = leases.iter().flatten().filter_map(PermitLease::unspent).filter(|(_, origin)| counts(origin.bucket));
                let unspent: u32 = unspent.map(|(permits, _)| permits).sum();
                prop_assert_eq!(shared.window.used(), u64::from(spent + unspent));
                prop_assert!(unspent <= 3 * batch.min(limit.limit / SHARE));
            }
        }
    }

    const LIMIT: RateLimit = RateLimit { limit: 1_000, window: 60 * SECOND };
    const STATE: RateState = RateState { limit: 1_000, remaining: 900, reset_at: 7, retry_after: None };

    fn lease(left: Micros) -> PermitLease {
        PermitLease::new(LIMIT, 100, STATE, Grant { permits: 5, left, origin: GrantOrigin { bucket: 3, window: 4 } })
    }

    #[test]
    fn a_lease_reports_the_remaining_limit_and_expires_in_time() {
        let mut lease = lease(SECOND);
        let state = |remaining| Some(RateState { remaining, ..STATE });
        assert_eq!(lease.spend(LIMIT, 100, 0), state(905));
        assert_eq!(lease.spend(LIMIT, 200, 2), state(903));
        assert_eq!(lease.spend(LIMIT, 200, 4), None, "more than it holds");
        assert_eq!(lease.spend(RateLimit { limit: 999, ..LIMIT }, 200, 1), None, "another limit");
        assert_eq!(lease.spend(LIMIT, SECOND - SECOND / DRIFT + 99, 1), None, "its bucket may have ended");
        assert_eq!(lease.spend(LIMIT, SECOND - SECOND / DRIFT + 98, 1), state(902));
        assert_eq!(lease.unspent(), Some((2, GrantOrigin { bucket: 3, window: 4 })));
        assert!(lease.is_live(60 * SECOND) && !lease.is_live(62 * SECOND));
    }

    #[test]
    fn a_lease_is_no_longer_than_the_maximum_duration() {
        let mut lease = lease(30 * 86_400 * SECOND);
        assert!(lease.spend(LIMIT, MAX_DURATION - MAX_DURATION / DRIFT - 1, 1).is_some());
        assert_eq!(lease.spend(LIMIT, MAX_DURATION, 1), None);
    }

    #[test]
    fn a_refusal_is_valid_for_its_cost_until_its_time() {
        let state = RateState { remaining: 1, retry_after: Some(SECOND), ..STATE };
        let refusal = CachedRefusal::new(LIMIT, 50, state, 2).unwrap();
        assert_eq!(refusal.repeat(LIMIT, 60, 2).unwrap().retry_after, Some(SECOND - 10));
        assert_eq!(refusal.repeat(LIMIT, 60, 1), None);
        assert_eq!(refusal.repeat(LIMIT, SECOND + 50, 2), None);
        assert_eq!(CachedRefusal::new(LIMIT, 50, RateState { retry_after: None, ..state }, 2_000), None);
    }
}
