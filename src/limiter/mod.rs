//! Enforces rate limits. The state is separate from the key cache: no invalidation or eviction resets a limit.

pub mod auth_failures;
pub mod memory;
pub mod permit_leases;
pub mod redis;
mod redis_call;
mod sharded_map;
mod subject;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

pub use self::subject::Subject;
use self::{
    memory::MemoryLimiter,
    redis::{SharedLimiter, SharedSpend},
};
use crate::domain::{
    clock::Micros,
    rate_limit::{RateLimit, RateState, SpendResult},
};

/// Limits in memory, or limits shared by many replicas with memory as the fallback.
pub struct Limiter {
    memory: MemoryLimiter,
    shared: Option<Arc<SharedLimiter>>,
    /// Calls that should have been counted by the shared limiter, and were counted by this replica alone.
    fallbacks: AtomicU64,
}

impl Limiter {
    /// A limiter for this replica alone, or, with `shared`, for all replicas that share it.
    pub fn new(memory: MemoryLimiter, shared: Option<Arc<SharedLimiter>>) -> Self {
        Self { memory, shared, fallbacks: AtomicU64::new(0) }
    }

    /// Spends without a round trip; `None` if one is needed.
    pub fn spend_local(&self, subject: Subject, limit: RateLimit, cost: u32) -> Option<SpendResult> {
        match &self.shared {
            None => Some(self.memory.spend(subject, limit, cost)),
            Some(shared) if !shared.is_up() => Some(self.fall_back(subject, limit, cost)),
            Some(shared) => shared.spend_local(subject, limit, cost),
        }
    }

    /// Spends `cost` of a subject's limit if it fits; a cost of 0 only reads. `reset_at` is on the wall clock. An
    /// unavailable shared limiter never causes a refusal: this replica then enforces the limit by itself.
    pub async fn spend(&self, subject: Subject, limit: RateLimit, cost: u32) -> SpendResult {
        if let Some(spent) = self.spend_local(subject, limit, cost) {
            return spent;
        }
        let spent = match &self.shared {
            Some(shared) => shared.spend(subject, limit, cost).await,
            None => SharedSpend::Unavailable,
        };
        match spent {
            SharedSpend::Counted(spent) => spent,
            SharedSpend::TimedOut { admitted, retry_after } => {
                // How much remains is unknown, so report 0 until a retry may succeed.
                let wait = Micros::try_from(retry_after.as_micros()).unwrap_or(Micros::MAX);
                let reset_at = self.memory.wall().saturating_add(wait);
                let retry_after = (!admitted).then_some(wait);
                SpendResult { admitted, state: RateState { limit: limit.limit, remaining: 0, reset_at, retry_after } }
            }
            SharedSpend::Unavailable => self.fall_back(subject, limit, cost),
        }
    }

    fn fall_back(&self, subject: Subject, limit: RateLimit, cost: u32) -> SpendResult {
        self.fallbacks.fetch_add(1, Ordering::Relaxed);
        self.memory.spend(subject, limit, cost)
    }

    /// Drops the state of subjects whose windows are empty.
    pub fn sweep(&self) {
        self.memory.sweep();
        if let Some(shared) = &self.shared {
            shared.sweep();
        }
    }

    /// Number of subjects in this replica's memory.
    pub fn subjects(&self) -> usize {
        self.memory.len() + self.shared.as_ref().map_or(0, |shared| shared.subjects())
    }

    /// Keeps the connection to the shared store; returns at once where there is none.
    pub async fn keep_connected(&self) {
        if let Some(shared) = &self.shared {
            shared.keep_connected().await;
        }
    }

    /// Whether limits are currently shared; `None` if no shared limiter is configured.
    pub fn is_shared(&self) -> Option<bool> {
        self.shared.as_ref().map(|shared| shared.is_up())
    }

    /// Number of calls that should have been counted by the shared limiter, and were counted by this replica alone.
    pub fn fallbacks(&self) -> u64 {
        self.fallbacks.load(Ordering::Relaxed)
    }

    /// Number of calls that the shared limiter did not answer in time while it was available.
    pub fn timeouts(&self) -> u64 {
        self.shared.as_ref().map_or(0, |shared| shared.timeouts())
    }
}
