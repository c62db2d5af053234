//! Where spent limits are kept. The state is apart from the key cache: no invalidation or eviction resets a limit.

pub mod auth_failures;
pub mod memory;
pub mod permit_leases;
pub mod redis;
mod sharded_map;

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use self::{memory::MemoryLimiter, redis::SharedLimiter};
use crate::domain::{
    key::KeyId,
    rate_limit::{RateLimit, SpendResult},
};

/// Limits in memory, or shared by many replicas with memory to fall back on.
pub struct Limiter {
    memory: MemoryLimiter,
    shared: Option<Arc<SharedLimiter>>,
    /// Spendings that should have been shared and were not.
    fallbacks: AtomicU64,
}

impl Limiter {
    /// Limits of one replica; with `shared`, of all that share it.
    pub fn new(memory: MemoryLimiter, shared: Option<Arc<SharedLimiter>>) -> Self {
        Self { memory, shared, fallbacks: AtomicU64::new(0) }
    }

    /// Spends at once; none if that takes a round trip.
    pub fn spend_local(&self, subject: Subject, limit: RateLimit, cost: u32) -> Option<SpendResult> {
        match &self.shared {
            None => Some(self.memory.spend(subject, limit, cost)),
            Some(shared) if !shared.is_up() => Some(self.fall_back(subject, limit, cost)),
            Some(shared) => shared.spend_local(subject, limit, cost),
        }
    }

    /// Spends `cost` of a subject's limit if it fits; 0 only reads. `reset_at` is on the wall clock. A shared server
    /// that is away never refuses: this replica then limits by itself.
    pub async fn spend(&self, subject: Subject, limit: RateLimit, cost: u32) -> SpendResult {
        if let Some(spent) = self.spend_local(subject, limit, cost) {
            return spent;
        }
        let spent = match &self.shared {
            Some(shared) => shared.spend(subject, limit, cost).await,
            None => None,
        };
        spent.unwrap_or_else(|| self.fall_back(subject, limit, cost))
    }

    fn fall_back(&self, subject: Subject, limit: RateLimit, cost: u32) -> SpendResult {
        self.fallbacks.fetch_add(1, Ordering::Relaxed);
        self.memory.spend(subject, limit, cost)
    }

    /// Forgets the subjects that have nothing spent any more.
    pub fn sweep(&self) {
        self.memory.sweep();
        if let Some(shared) = &self.shared {
            shared.sweep();
        }
    }

    /// Subjects in this replica's memory.
    pub fn subjects(&self) -> usize {
        self.memory.len() + self.shared.as_ref().map_or(0, |shared| shared.subjects())
    }

    /// Whether limits are shared now; none where they never are.
    pub fn is_shared(&self) -> Option<bool> {
        self.shared.as_ref().map(|shared| shared.is_up())
    }

    /// Spendings that should have been shared and were not.
    pub fn fallbacks(&self) -> u64 {
        self.fallbacks.load(Ordering::Relaxed)
    }
}

/// Whose limit it is: 128 bits as two words, which need no wider alignment than what is kept beside them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Subject(u64, u64);

impl Subject {
    /// A key's own limit.
    pub fn key(id: KeyId) -> Self {
        let (high, low) = id.0.as_u64_pair();
        Self(high, low)
    }

    /// A client address's limit; IPv6 by its /64, since one client has all of it. Key ids are UUIDv7, whose version
    /// bits no address of these two forms has, so the two kinds never meet.
    pub fn address(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self(4 << 56, u64::from(u32::from(v4))),
            IpAddr::V6(v6) => Self(6 << 56, (u128::from(v6) >> 64) as u64),
        }
    }
}
