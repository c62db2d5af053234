//! How one replica may answer from memory, and never wrongly.

pub mod cache;
pub mod cached_key;
pub mod fault_injection;
pub mod follower;
pub mod lease;
pub mod lookup;
pub mod rate_limit_events;
pub mod revocation_wait;
pub mod usage;

use std::{sync::Arc, time::Duration};

use tokio::{
    runtime::Handle,
    sync::Notify,
    time::{Instant, timeout_at},
};

use self::{
    cache::{ChangeSeq, KeyCache},
    cached_key::CachedKey,
    lease::Lease,
    lookup::Lookups,
    rate_limit_events::RateLimitEventLog,
    revocation_wait::RevocationWait,
    usage::UsageLog,
};
use crate::{
    domain::{
        clock::Clock,
        error::{Error, Result},
        key::Digest,
        keyspace::Registry,
    },
    store::{Store, feed::Hint},
};

/// How long a look-up may take, its turn included. The store itself waits longer, but whoever asks for a verdict has a
/// request of its own to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The memory of one replica, and its right to answer from it.
pub struct Replica {
    /// Keys held.
    pub cache: Arc<KeyCache>,
    /// Until when they may be used.
    pub lease: Arc<Lease>,
    /// Uses not written down yet.
    pub usage: UsageLog,
    /// Refusals by rate limits, not told of yet.
    pub rate_limit_events: RateLimitEventLog,
    /// Wakes this replica's own follower.
    pub follower_wake: Arc<Notify>,
    lookups: Lookups,
    /// None where one process owns the database.
    revocation_wait: Option<Arc<RevocationWait>>,
}

/// Whether other replicas may answer from the same database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerMode {
    /// One process owns it.
    SingleProcess,
    /// Any number.
    Replicated,
}

/// The right to read from memory at one moment. Who has it has looked at the lease first: the other way round, an entry
/// could be older than the lease.
pub struct CacheGuard<'a> {
    replica: &'a Replica,
    seq: ChangeSeq,
}

impl CacheGuard<'_> {
    /// A key, if memory holds it.
    pub fn get(&self, digest: &Digest) -> Option<KeySnapshot> {
        if fault_injection::disabled("lease_first") {
            let early = self.replica.cache.get(digest);
            inject_delay();
            return early.filter(|_| self.replica.lease.holds()).map(|entry| KeySnapshot { entry, seq: self.seq });
        }
        inject_delay();
        self.replica.cache.get(digest).map(|entry| KeySnapshot { entry, seq: self.seq })
    }
}

/// Makes room for whatever may happen in the middle, where a test wants it.
fn inject_delay() {
    if fault_injection::disabled("slow_recall") {
        std::thread::sleep(2 * fault_injection::INJECTED_DELAY);
    }
}

/// A key and the moment up to which it is known to be current.
#[derive(Debug, Clone)]
pub struct KeySnapshot {
    /// The key.
    pub entry: Arc<CachedKey>,
    /// Taken before the key was read.
    pub seq: ChangeSeq,
}

impl Replica {
    /// A replica whose lease does not hold yet.
    pub fn new(
        store: Arc<dyn Store>,
        registry: Arc<Registry>,
        clock: Arc<dyn Clock>,
        cache_bytes: u64,
        peers: PeerMode,
        runtime: &Handle,
    ) -> Self {
        let cache = Arc::new(KeyCache::new(cache_bytes));
        let revocation_wait =
            (peers == PeerMode::Replicated).then(|| RevocationWait::start(Arc::clone(&store), runtime));
        Self {
            lookups: Lookups::start(store, Arc::clone(&cache), registry, runtime),
            cache,
            lease: Arc::new(Lease::new(clock)),
            usage: UsageLog::default(),
            rate_limit_events: RateLimitEventLog::default(),
            follower_wake: Arc::default(),
            revocation_wait,
        }
    }

    /// The right to read from memory, while the lease holds. To be asked for once the message is received, and given up
    /// at the first wait: what is read by it is as old as the moment of asking, at the most.
    pub fn cache_guard(&self) -> Option<CacheGuard<'_>> {
        (fault_injection::disabled("lease_first") || self.lease.holds())
            .then(|| CacheGuard { replica: self, seq: self.cache.current_seq() })
    }

    /// A key from the store, by a statement sent after this call began.
    ///
    /// # Errors
    ///
    /// UNAVAILABLE; DEADLINE_EXCEEDED where only the caller's own time ran out.
    pub async fn look_up(&self, digest: Digest, deadline: Instant) -> Result<Option<KeySnapshot>> {
        let patience = Instant::now() + PATIENCE;
        loop {
            let found = timeout_at(deadline.min(patience), self.lookups.find(digest)).await;
            let found = found.map_err(|_| self.late(deadline < patience))??;
            // A change that was applied while this waited may be newer than the row.
            if fault_injection::disabled("recheck") || self.cache.unchanged_since(found.seq, &digest) {
                return Ok(found.entry.map(|entry| KeySnapshot { entry, seq: found.seq }));
            }
        }
    }

    /// What a caller hears whose look-up had no answer in time; `hasty` if its own time was the shorter one.
    fn late(&self, hasty: bool) -> Error {
        if hasty && self.lease.holds() {
            return Error::deadline_exceeded();
        }
        Error::unavailable("the database did not answer in time")
    }

    /// Whether other replicas may answer from the same database.
    pub fn has_peers(&self) -> bool {
        self.revocation_wait.is_some()
    }

    /// Waits until no replica answers from a state before `revision`, whose change is committed.
    pub async fn wait_for_replicas(&self, revision: i64) {
        if let Some(revocation_wait) = &self.revocation_wait {
            self.follower_wake.notify_one();
            revocation_wait.wait(revision).await;
        }
    }

    /// A notification came from the database, or may have been missed.
    pub fn on_notification(&self, hint: Hint) {
        if hint != Hint::Seen {
            self.follower_wake.notify_one();
        }
        if let Some(revocation_wait) = &self.revocation_wait
            && hint != Hint::Change
        {
            revocation_wait.tell();
        }
    }

    /// Whether nothing was applied to this key since it was read: asked again after each wait.
    pub fn is_current(&self, held: &KeySnapshot, digest: &Digest) -> bool {
        fault_injection::disabled("recheck") || self.cache.unchanged_since(held.seq, digest)
    }
}
