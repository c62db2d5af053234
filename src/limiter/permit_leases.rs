//! What a replica may spend of shared limits without asking, and what it knows to be refused.

use std::sync::Arc;

use super::{Subject, sharded_map::ShardedMap};
use crate::domain::{
    clock::{Clock, Micros},
    rate_limit::{
        RateLimit, SpendResult,
        lease::{Grant, GrantOrigin, KnownRefusal, PermitLease},
    },
};

/// The leases of one replica.
pub struct PermitLeases {
    clock: Arc<dyn Clock>,
    batch: u32,
    held: ShardedMap<Box<SubjectState>>,
}

#[derive(Default)]
struct SubjectState {
    /// A request is under way that brings the next lease. Only one is: so a replica holds one lease of a key at most.
    asking: bool,
    known: LocalState,
}

#[derive(Default)]
enum LocalState {
    #[default]
    Nothing,
    Lease(PermitLease),
    Refusal(KnownRefusal),
}

impl LocalState {
    fn spend(&mut self, limit: RateLimit, now: Micros, cost: u32) -> Option<SpendResult> {
        let (admitted, state) = match self {
            Self::Nothing => return None,
            Self::Lease(lease) => (true, lease.spend(limit, now, cost)),
            Self::Refusal(refusal) => (false, refusal.again(limit, now, cost)),
        };
        state.map(|state| SpendResult { admitted, state })
    }
}

impl PermitLeases {
    /// No lease yet. One request takes at most `batch` permits, that of its own call included.
    pub fn new(clock: Arc<dyn Clock>, batch: u32) -> Self {
        Self { clock, batch, held: ShardedMap::default() }
    }

    /// Spends without asking; none if that takes a request.
    pub fn spend(&self, subject: Subject, limit: RateLimit, cost: u32) -> Option<SpendResult> {
        let mut place = self.held.lock(subject);
        let held = place.get_mut()?;
        // Read under the lock, as late as can be: a lease must not be spent past its end, also after a suspension.
        held.known.spend(limit, self.clock.boottime(), cost)
    }

    /// Spends, or begins a request; of those for one subject only the first brings a lease.
    pub fn spend_or_request(&self, subject: Subject, limit: RateLimit, cost: u32) -> SpendStart<'_> {
        // Before it is sent, whatever comes between.
        let sent = self.clock.boottime();
        let mut asking = PermitRequest { leases: self, subject, limit, cost, first: false, ask: 0, back: None, sent };
        // What only reads takes nothing.
        if cost > 0 {
            let mut place = self.held.lock(subject);
            let held = place.or_insert_with(Box::default);
            if let Some(spent) = held.known.spend(limit, self.clock.boottime(), cost) {
                return SpendStart::Done(spent);
            }
            if !held.asking {
                held.asking = true;
                asking.first = true;
                asking.ask = self.batch.saturating_sub(cost);
                if let LocalState::Lease(lease) = std::mem::take(&mut held.known) {
                    asking.back = lease.unspent();
                }
            }
        }
        SpendStart::Request(asking)
    }

    /// Forgets what no longer matters.
    pub fn sweep(&self) {
        self.held.sweep(
            || self.clock.boottime(),
            |held, now| {
                held.asking
                    || match &held.known {
                        LocalState::Nothing => false,
                        LocalState::Lease(lease) => lease.is_live(now),
                        LocalState::Refusal(refusal) => refusal.is_live(now),
                    }
            },
        );
    }

    /// Subjects held.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What a spending begins with.
pub enum SpendStart<'a> {
    /// It was done without a request.
    Done(SpendResult),
    /// It takes one.
    Request(PermitRequest<'a>),
}

/// A request under way. However it ends, the next one may bring a lease: one that was sent and whose answer is lost
/// costs what it had taken, which the window counts as spent.
pub struct PermitRequest<'a> {
    leases: &'a PermitLeases,
    subject: Subject,
    limit: RateLimit,
    cost: u32,
    first: bool,
    /// How many permits to ask for beyond the cost.
    pub ask: u32,
    /// What goes back.
    pub back: Option<(u32, GrantOrigin)>,
    sent: Micros,
}

impl PermitRequest<'_> {
    /// What came of it; the same, with the permits that this replica now has told as remaining.
    pub fn settle(self, mut spent: SpendResult, grant: Option<Grant>) -> SpendResult {
        let now = self.leases.clock.boottime();
        let grant = grant.filter(|grant| self.first && grant.permits > 0);
        let known = match grant {
            Some(grant) => Some(LocalState::Lease(PermitLease::new(self.limit, self.sent, spent.state, grant))),
            None if spent.admitted => None,
            None => KnownRefusal::new(self.limit, now, spent.state, self.cost).map(LocalState::Refusal),
        };
        if let Some(known) = known {
            let mut place = self.leases.held.lock(self.subject);
            let held = place.or_insert_with(Box::default);
            // Whoever came second does not put a refusal in a lease's place.
            if self.first || matches!(held.known, LocalState::Nothing) {
                held.known = known;
            }
        }
        spent.state.remaining += grant.map_or(0, |grant| grant.permits);
        spent
    }
}

impl Drop for PermitRequest<'_> {
    fn drop(&mut self) {
        if self.first
            && let Some(held) = self.leases.held.lock(self.subject).get_mut()
        {
            held.asking = false;
        }
    }
}
