//! Permits that a replica takes from a shared window ahead of need, and spends by itself.
//!
//! The window counts a permit from when it was taken, in that moment's bucket, until the bucket is a window old. So a
//! permit is spent before its bucket ends or not at all: then it is counted for as long as if it had been taken when it
//! was spent, and no span of one window holds more than the limit. What is left over goes back with the next request.
//! At any moment a replica has one lease of one key at most, and that is all by which too few may be admitted.

use super::{RateLimit, RateState};
use crate::domain::clock::{Micros, SECOND};

/// One part of what is free is taken ahead, out of so many: the last permits are given out one by one.
pub const SHARE: u32 = 16;
/// The longest that a lease is good. Buckets may be longer, but clocks drift apart.
const LONGEST: Micros = 10 * SECOND;
/// Clocks may differ in rate by one part of so many.
const DRIFT: Micros = 1_000;

/// Says where permits came from, so that they go back to there and nowhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrantOrigin {
    /// The bucket that they are counted in.
    pub bucket: i64,
    /// Number of the window: one that was lost and made anew has another.
    pub window: i64,
}

/// What a shared window gave beyond the cost of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// How many permits.
    pub permits: u32,
    /// For how long after the giving their bucket lasts.
    pub left: Micros,
    /// Where they came from.
    pub origin: GrantOrigin,
}

/// Permits to spend without asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PermitLease {
    limit: RateLimit,
    /// When the permits end, on the replica's own clock.
    until: Micros,
    permits: u32,
    /// What was free besides them when they were given.
    shared_remaining: u32,
    reset_at: Micros,
    origin: GrantOrigin,
}

impl PermitLease {
    /// What came of a request that was sent at `sent` by the replica's own clock. `told` is the window's state
    /// afterwards, its `reset_at` on the wall clock.
    pub fn new(limit: RateLimit, sent: Micros, told: RateState, grant: Grant) -> Self {
        // Counted from the sending: the giving came later, so the bucket ends no earlier than this.
        let good = grant.left.min(LONGEST);
        Self {
            limit,
            until: sent.saturating_add(good - good / DRIFT - 1),
            permits: grant.permits,
            shared_remaining: told.remaining,
            reset_at: told.reset_at,
            origin: grant.origin,
        }
    }

    /// Spends `cost` at `now` by the replica's own clock; the state afterwards. None if it takes a request.
    pub fn spend(&mut self, limit: RateLimit, now: Micros, cost: u32) -> Option<RateState> {
        if limit != self.limit || now >= self.until {
            return None;
        }
        self.permits = self.permits.checked_sub(cost)?;
        let remaining = self.shared_remaining.saturating_add(self.permits);
        Some(RateState { limit: limit.limit, remaining, reset_at: self.reset_at, retry_after: None })
    }

    /// What was not spent, to be given back; none if there is nothing.
    pub fn unspent(&self) -> Option<(u32, GrantOrigin)> {
        (self.permits > 0).then_some((self.permits, self.origin))
    }

    /// Whether there is something to give back that still counts.
    pub fn is_live(&self, now: Micros) -> bool {
        self.permits > 0 && now < self.until.saturating_add(self.limit.window)
    }
}

/// A refusal that holds until its time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownRefusal {
    limit: RateLimit,
    cost: u32,
    /// When the cost will be admitted, on the replica's own clock.
    until: Micros,
    remaining: u32,
    reset_at: Micros,
}

impl KnownRefusal {
    /// A refusal of `cost` that arrived at `now` by the replica's own clock; none if no time was told.
    pub fn new(limit: RateLimit, now: Micros, told: RateState, cost: u32) -> Option<Self> {
        let until = now.saturating_add(told.retry_after?);
        Some(Self { limit, cost, until, remaining: told.remaining, reset_at: told.reset_at })
    }

    /// The same refusal, if it is the same cost and still too early. What others give back meanwhile is not heard of.
    pub fn again(&self, limit: RateLimit, now: Micros, cost: u32) -> Option<RateState> {
        let wait = self.until - now;
        (limit == self.limit && cost == self.cost && wait > 0).then_some(RateState {
            limit: limit.limit,
            remaining: self.remaining,
            reset_at: self.reset_at,
            retry_after: Some(wait),
        })
    }

    /// Whether it still holds for somebody.
    pub fn is_live(&self, now: Micros) -> bool {
        now < self.until
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::rate_limit::{BUCKETS, COUNTED, SlidingWindow, bucket};

    /// The shared side, as `window.lua` does it.
    struct Shared {
        window: SlidingWindow,
        limit: RateLimit,
    }

    impl Shared {
        fn request(
            &mut self,
            now: Micros,
            cost: u32,
            ask: u32,
            back: Option<(u32, GrantOrigin)>,
        ) -> (bool, RateState, Grant) {
            self.window.roll(bucket(self.limit, now));
            if let Some((permits, origin)) = back
                && let Ok(age) = usize::try_from(self.window.newest - origin.bucket)
                && age < COUNTED
            {
                self.window.counts[age] -= permits;
            }
            let mut spent = self.window.spend(self.limit, now, cost);
            let ends = ((i128::from(self.window.newest) + 1) * i128::from(self.limit.window)).div_euclid(12);
            let left = i64::try_from(ends).unwrap() - now;
            let permits = if spent.admitted && left > 0 { ask.min(spent.state.remaining / SHARE) } else { 0 };
            self.window.counts[0] += permits;
            spent.state.remaining -= permits;
            let origin = GrantOrigin { bucket: self.window.newest, window: 0 };
            (spent.admitted, spent.state, Grant { permits, left, origin })
        }
    }

    #[derive(Debug, Clone)]
    struct Step {
        /// Since the step before, in 10,000ths of a window.
        gap: i64,
        replica: usize,
        cost: u32,
        /// Of the request and of its answer, in microseconds.
        on_the_way: (i64, i64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let gap = prop_oneof![4 => 0_i64..20, 1 => 0_i64..2_000];
        let step = (gap, 0_usize..3, 1_u32..4, (0_i64..5_000, 0_i64..5_000));
        let step = step.prop_map(|(gap, replica, cost, on_the_way)| Step { gap, replica, cost, on_the_way });
        prop::collection::vec(step, 1..400)
    }

    fn limits() -> impl Strategy<Value = RateLimit> {
        (1_u32..=400, prop_oneof![Just(60 * SECOND), SECOND..=100 * SECOND])
            .prop_map(|(limit, window)| RateLimit { limit, window })
    }

    proptest! {
        /// Three replicas, whose clocks show anything, spend by lease and by request: never more than the limit in any
        /// span, and what the window counts is what was spent and what the replicas hold, to the last permit.
        #[test]
        fn leases_keep_the_limit_and_lose_no_more_than_they_hold(
            limit in limits(), start in 1_i64 << 49..1_i64 << 50, batch in 1_u32..40,
            offsets in [0_i64..1 << 40, 0_i64..1 << 40, 0_i64..1 << 40], steps in steps(),
        ) {
            let mut shared = Shared { window: SlidingWindow::empty(limit, start), limit };
            let mut held: [Option<PermitLease>; 3] = [None; 3];
            let (mut now, mut log) = (start, Vec::<(Micros, u32)>::new());
            for Step { gap, replica, cost, on_the_way } in steps {
                now += gap * limit.window / 10_000;
                let own = |now: Micros| now + offsets[replica];
                let by_lease = held[replica].as_mut().and_then(|lease| lease.spend(limit, own(now), cost));
                if by_lease.is_some() {
                    log.push((now, cost));
                } else {
                    let sent = own(now);
                    now += on_the_way.0;
                    let back = held[replica].take().and_then(|lease| lease.unspent());
                    let (admitted, told, grant) = shared.request(now, cost, batch, back);
                    if admitted {
                        log.push((now, cost));
                    }
                    now += on_the_way.1;
                    held[replica] = (grant.permits > 0).then(|| PermitLease::new(limit, sent, told, grant));
                }
                let within: u32 = log.iter().filter(|(at, _)| now - at < limit.window).map(|(_, cost)| cost).sum();
                prop_assert!(within <= limit.limit, "{within} within one window");

                shared.window.roll(bucket(limit, now));
                let counts = |bucket: i64| (0..=BUCKETS).contains(&(shared.window.newest - bucket));
                let spent: u32 = log.iter().filter(|(at, _)| counts(bucket(limit, *at))).map(|(_, cost)| cost).sum();
                let rests = held.iter().flatten().filter_map(PermitLease::unspent).filter(|(_, origin)| counts(origin.bucket));
                let rests: u32 = rests.map(|(permits, _)| permits).sum();
                prop_assert_eq!(shared.window.used(), u64::from(spent + rests));
                prop_assert!(rests <= 3 * batch.min(limit.limit / SHARE));
            }
        }
    }

    const LIMIT: RateLimit = RateLimit { limit: 1_000, window: 60 * SECOND };
    const TOLD: RateState = RateState { limit: 1_000, remaining: 900, reset_at: 7, retry_after: None };

    fn lease(left: Micros) -> PermitLease {
        PermitLease::new(LIMIT, 100, TOLD, Grant { permits: 5, left, origin: GrantOrigin { bucket: 3, window: 4 } })
    }

    #[test]
    fn a_lease_says_what_is_left_and_ends_in_time() {
        let mut lease = lease(SECOND);
        let told = |remaining| Some(RateState { remaining, ..TOLD });
        assert_eq!(lease.spend(LIMIT, 100, 0), told(905));
        assert_eq!(lease.spend(LIMIT, 200, 2), told(903));
        assert_eq!(lease.spend(LIMIT, 200, 4), None, "more than it has");
        assert_eq!(lease.spend(RateLimit { limit: 999, ..LIMIT }, 200, 1), None, "another limit");
        assert_eq!(lease.spend(LIMIT, SECOND - SECOND / DRIFT + 99, 1), None, "its bucket may be over");
        assert_eq!(lease.spend(LIMIT, SECOND - SECOND / DRIFT + 98, 1), told(902));
        assert_eq!(lease.unspent(), Some((2, GrantOrigin { bucket: 3, window: 4 })));
        assert!(lease.is_live(60 * SECOND) && !lease.is_live(62 * SECOND));
    }

    #[test]
    fn no_lease_is_longer_than_clocks_can_be_trusted() {
        let mut lease = lease(30 * 86_400 * SECOND);
        assert!(lease.spend(LIMIT, LONGEST - LONGEST / DRIFT - 1, 1).is_some());
        assert_eq!(lease.spend(LIMIT, LONGEST, 1), None);
    }

    #[test]
    fn a_refusal_holds_for_its_cost_until_its_time() {
        let told = RateState { remaining: 1, retry_after: Some(SECOND), ..TOLD };
        let refusal = KnownRefusal::new(LIMIT, 50, told, 2).unwrap();
        assert_eq!(refusal.again(LIMIT, 60, 2).unwrap().retry_after, Some(SECOND - 10));
        assert_eq!(refusal.again(LIMIT, 60, 1), None);
        assert_eq!(refusal.again(LIMIT, SECOND + 50, 2), None);
        assert_eq!(KnownRefusal::new(LIMIT, 50, RateState { retry_after: None, ..told }, 2_000), None);
    }
}
