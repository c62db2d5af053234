//! How one replica answers Verify from its cache without ever answering VALID for a revoked key.
//!
//! The protocol is described in `docs/consistency.md`. In short: the [`follower`] renews the [`lease`] and applies
//! changes to the [`cache`]; Verify reads the cache only while the lease holds; Revoke waits ([`revocation_wait`]) until
//! no replica can answer from an older state.

pub mod attach;
pub mod cache;
pub mod cached_key;
pub mod fault_injection;
pub mod follower;
pub mod follower_thread;
pub mod lease;
pub mod lookup;
mod membership;
mod peers;
pub(crate) mod rate_limit_events;
mod revocation_wait;
pub(crate) mod usage;

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::Notify,
    time::{Instant, timeout_at},
};

use self::{
    attach::{AttachRules, Attachments},
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
        clock::{Clock, Micros},
        error::{Error, Result},
        key::Digest,
        keyspace::Registry,
    },
    store::{Store, StoreError, change_feed::Notification},
};

/// Timeout of one look-up, including the wait for its statement. It is shorter than the store's own timeout, because the
/// caller has a request to answer.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);

/// The state of one replica: its cache, and the lease under which the cache may answer.
pub struct Replica {
    /// Cached keys.
    pub cache: Arc<KeyCache>,
    /// Until when the cache may answer.
    pub lease: Arc<Lease>,
    /// Why the follower cannot join or renew; `None` while it can.
    pub membership_error: Arc<Mutex<Option<StoreError>>>,
    /// Uses of keys that are not flushed to the database yet.
    pub usage: UsageLog,
    /// Refusals by rate limits that are not in the audit log yet.
    pub rate_limit_events: RateLimitEventLog,
    /// Clients that hold keys in their own memory.
    pub attachments: Arc<Attachments>,
    /// Wakes this replica's follower, because there may be changes to read.
    pub follower_wake: Arc<Notify>,
    clock: Arc<dyn Clock>,
    lookups: Lookups,
    /// `None` if a single process owns the database.
    revocation_wait: Option<RevocationWait>,
}

/// Whether other replicas may answer from the same database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerMode {
    /// No: a single process owns it.
    SingleProcess,
    /// Yes: any number of replicas.
    Replicated,
}

/// Permission to read the cache at one moment. It can only be obtained by checking the lease, so that the lease is
/// always checked before the cache is read. In the other order, an entry could be older than the lease.
pub struct CacheGuard<'a> {
    replica: &'a Replica,
    seq: ChangeSeq,
    /// The wall clock at that moment.
    pub now: Micros,
}

impl CacheGuard<'_> {
    /// The cached key of a digest.
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

/// Delays a cache read, so that a test can act between the lease check and the read.
fn inject_delay() {
    if fault_injection::disabled("slow_cache_read") {
        std::thread::sleep(2 * fault_injection::INJECTED_DELAY);
    }
}

/// A key, and the position in the sequence of changes at which it was known to be current.
#[derive(Debug, Clone)]
pub struct KeySnapshot {
    /// The key.
    pub entry: Arc<CachedKey>,
    /// The position before the key was read.
    pub seq: ChangeSeq,
}

impl Replica {
    /// A replica whose lease has not started.
    pub fn new(
        store: Arc<dyn Store>,
        registry: Arc<Registry>,
        clock: Arc<dyn Clock>,
        cache_bytes: u64,
        peers: PeerMode,
        runtime: &Handle,
    ) -> Self {
        let cache = Arc::new(KeyCache::new(cache_bytes));
        let revocation_wait = (peers == PeerMode::Replicated).then(|| RevocationWait::new(Arc::clone(&store)));
        let lease = Arc::new(Lease::new(Arc::clone(&clock)));
        let attachments =
            Attachments::new(Arc::clone(&clock), Arc::clone(&cache), Arc::clone(&lease), AttachRules::default());
        Self {
            clock,
            lookups: Lookups::start(store, Arc::clone(&cache), registry, runtime),
            cache,
            lease,
            attachments: Arc::new(attachments),
            membership_error: Arc::default(),
            usage: UsageLog::default(),
            rate_limit_events: RateLimitEventLog::default(),
            follower_wake: Arc::default(),
            revocation_wait,
        }
    }

    /// The replica with other bounds of attached clients.
    #[must_use]
    pub fn with_attach_rules(mut self, rules: AttachRules) -> Self {
        let attachments =
            Attachments::new(Arc::clone(&self.clock), Arc::clone(&self.cache), Arc::clone(&self.lease), rules);
        self.attachments = Arc::new(attachments);
        self
    }

    /// Applies a change that this process has committed: clears its own memory of the key. If there is no follower,
    /// also notifies attached clients.
    pub(crate) fn apply_own_change(&self, digest: &Digest) {
        self.cache.invalidate(digest);
        if !self.has_peers() {
            self.attachments.apply(digest);
        }
    }

    /// Reads the replicas' rows for Revokes that wait. Never returns. It must run wherever there may be other replicas:
    /// without it no Revoke completes.
    pub async fn read_replicas(&self) {
        match &self.revocation_wait {
            Some(wait) => wait.read().await,
            None => std::future::pending().await,
        }
    }

    /// Permission to read the cache, if the lease holds. Call this after the request was received, and drop the guard
    /// before the first `await`: what it reads is valid for the moment of this call.
    pub fn cache_guard(&self) -> Option<CacheGuard<'_>> {
        (fault_injection::disabled("lease_first") || self.lease.holds()).then(|| CacheGuard {
            replica: self,
            seq: self.cache.current_seq(),
            now: self.clock.wall(),
        })
    }

    /// Reads a key from the store, by a statement that is sent after this call began.
    ///
    /// # Errors
    ///
    /// UNAVAILABLE if the store does not answer in time; DEADLINE_EXCEEDED if the caller's deadline was the earlier one
    /// and the lease holds.
    pub async fn look_up(&self, digest: Digest, deadline: Instant) -> Result<Option<KeySnapshot>> {
        let timeout = Instant::now() + LOOKUP_TIMEOUT;
        loop {
            let found = timeout_at(deadline.min(timeout), self.lookups.find(digest)).await;
            let found = found.map_err(|_| self.lookup_timed_out(deadline < timeout))??;
            // A change that was applied during the look-up may be newer than the row: look up again.
            if fault_injection::disabled("recheck") || self.cache.unchanged_since(found.seq, &digest) {
                return Ok(found.entry.map(|entry| KeySnapshot { entry, seq: found.seq }));
            }
        }
    }

    /// The error of a look-up that timed out; `by_caller` if the caller's deadline was the earlier one.
    fn lookup_timed_out(&self, by_caller: bool) -> Error {
        if by_caller && self.lease.holds() {
            return Error::deadline_exceeded();
        }
        Error::unavailable("the database did not answer in time")
    }

    /// Whether other replicas may answer from the same database.
    pub(crate) fn has_peers(&self) -> bool {
        self.revocation_wait.is_some()
    }

    /// Waits until no replica, and no client of one, can answer from a state before `revision`. Call this after the change
    /// was committed and applied. Returns how many replicas there are.
    pub(crate) async fn wait_for_replicas(&self, revision: i64) -> usize {
        let Some(revocation_wait) = &self.revocation_wait else {
            // Wait for a repeated Revoke, too: the clients may not be done with the first one.
            self.attachments.wait().await;
            return 1;
        };
        self.follower_wake.notify_one();
        revocation_wait.wait(revision).await
    }

    /// Handles a notification from the database, or the possibility that one was missed.
    pub(crate) fn on_notification(&self, notification: Notification) {
        if notification != Notification::Seen {
            self.follower_wake.notify_one();
        }
        if let Some(revocation_wait) = &self.revocation_wait
            && notification != Notification::Change
        {
            revocation_wait.on_progress();
        }
    }

    /// Whether no change to this key has been applied since the snapshot. Check again after each `await`.
    pub(crate) fn is_current(&self, snapshot: &KeySnapshot, digest: &Digest) -> bool {
        fault_injection::disabled("recheck") || self.cache.unchanged_since(snapshot.seq, digest)
    }
}
