//! Permits of shared limits that this replica holds, and refusals that it caches: both let it answer without a round
//! trip.

use std::sync::Arc;

use super::{sharded_map::ShardedMap, subject::Subject};
use crate::domain::{
    clock::{Clock, Micros},
    rate_limit::{
        RateLimit, SpendResult,
        permit_lease::{CachedRefusal, Grant, GrantOrigin, PermitLease},
    },
};

/// The permit leases of one replica.
pub struct PermitLeases {
    clock: Arc<dyn Clock>,
    batch: u32,
    subjects: ShardedMap<Box<SubjectState>>,
}

#[derive(Default)]
struct SubjectState {
    /// A request that may bring the next lease is in flight. Only one may be, so that a replica holds at most one lease
    /// of a subject.
    requesting: bool,
    local: LocalState,
}

/// What this replica can answer without a request.
#[derive(Default)]
enum LocalState {
    #[default]
    Nothing,
    Lease(PermitLease),
    Refusal(CachedRefusal),
}

impl LocalState {
    fn spend(&mut self, limit: RateLimit, now: Micros, cost: u32) -> Option<SpendResult> {
        let (admitted, state) = match self {
            Self::Nothing => return None,
            Self::Lease(lease) => (true, lease.spend(limit, now, cost)),
            Self::Refusal(refusal) => (false, refusal.repeat(limit, now, cost)),
        };
        state.map(|state| SpendResult { admitted, state })
    }
}

impl PermitLeases {
    /// No leases yet. One request takes at most `batch` permits, including the cost of its own call.
    pub fn new(clock: Arc<dyn Clock>, batch: u32) -> Self {
        Self { clock, batch, subjects: ShardedMap::default() }
    }

    /// Spends without a request; `None` if one is needed.
    pub fn spend(&self, subject: Subject, limit: RateLimit, cost: u32) -> Option<SpendResult> {
        let mut entry = self.subjects.lock(subject);
        let state = entry.get_mut()?;
        // Read the clock under the lock, as late as possible. It keeps running while the machine is suspended, so a
        // lease is never spent after its end.
        state.local.spend(limit, self.clock.boottime(), cost)
    }

    /// Spends without a request if possible, and prepares a request otherwise. Of several requests for one subject,
    /// only the first requests a lease.
    pub fn spend_or_request(&self, subject: Subject, limit: RateLimit, cost: u32) -> SpendStart<'_> {
        // The lease counts from before the request is sent, whatever delays it.
        let sent = self.clock.boottime();
        let mut request =
            PermitRequest { leases: self, subject, limit, cost, first: false, extra_permits: 0, returned: None, sent };
        // A call that only reads takes no permits.
        if cost > 0 {
            let mut entry = self.subjects.lock(subject);
            let state = entry.or_insert_with(Box::default);
            if let Some(spent) = state.local.spend(limit, self.clock.boottime(), cost) {
                return SpendStart::Done(spent);
            }
            if !state.requesting {
                state.requesting = true;
                request.first = true;
                request.extra_permits = self.batch.saturating_sub(cost);
                if let LocalState::Lease(lease) = std::mem::take(&mut state.local) {
                    request.returned = lease.unspent();
                }
            }
        }
        SpendStart::Request(request)
    }

    /// Drops state that has expired.
    pub fn sweep(&self) {
        self.subjects.sweep(
            || self.clock.boottime(),
            |state, now| {
                state.requesting
                    || match &state.local {
                        LocalState::Nothing => false,
                        LocalState::Lease(lease) => lease.is_live(now),
                        LocalState::Refusal(refusal) => refusal.is_live(now),
                    }
            },
        );
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

/// How a call begins to spend.
pub enum SpendStart<'a> {
    /// It is done, without a request.
    Done(SpendResult),
    /// It needs this request.
    Request(PermitRequest<'a>),
}

/// A request in flight. When it ends, in whatever way, the next request may obtain a lease. If its answer is lost, so
/// are the permits it took: the window counts them as spent.
pub struct PermitRequest<'a> {
    leases: &'a PermitLeases,
    subject: Subject,
    limit: RateLimit,
    cost: u32,
    first: bool,
    /// Number of permits to request, beyond the cost.
    pub extra_permits: u32,
    /// Unspent permits to return.
    pub returned: Option<(u32, GrantOrigin)>,
    sent: Micros,
}

impl PermitRequest<'_> {
    /// Stores the answer. Returns it with the permits that this replica now holds counted as remaining.
    pub fn complete(self, mut spent: SpendResult, grant: Option<Grant>) -> SpendResult {
        let now = self.leases.clock.boottime();
        let grant = grant.filter(|grant| self.first && grant.permits > 0);
        let local = match grant {
            Some(grant) => Some(LocalState::Lease(PermitLease::new(self.limit, self.sent, spent.state, grant))),
            None if spent.admitted => None,
            None => CachedRefusal::new(self.limit, now, spent.state, self.cost).map(LocalState::Refusal),
        };
        if let Some(local) = local {
            let mut entry = self.leases.subjects.lock(self.subject);
            let state = entry.or_insert_with(Box::default);
            // A request that was not the first must not replace a lease with a refusal.
            if self.first || matches!(state.local, LocalState::Nothing) {
                state.local = local;
            }
        }
        spent.state.remaining += grant.map_or(0, |grant| grant.permits);
        spent
    }
}

impl Drop for PermitRequest<'_> {
    fn drop(&mut self) {
        if self.first
            && let Some(state) = self.leases.subjects.lock(self.subject).get_mut()
        {
            state.requesting = false;
        }
    }
}
