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
    cache::{KeyCache, Mark},
    cached_key::Entry,
    lease::Lease,
    lookup::Lookups,
    rate_limit_events::LimitedLog,
    revocation_wait::Acknowledgements,
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
    pub limited: LimitedLog,
    /// Wakes this replica's own follower.
    pub hint: Arc<Notify>,
    lookups: Lookups,
    /// None where one process owns the database.
    acknowledgements: Option<Arc<Acknowledgements>>,
}

/// Whether other replicas may answer from the same database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peers {
    /// One process owns it.
    Never,
    /// Any number.
    Possible,
}

/// The right to read from memory at one moment. Who has it has looked at the lease first: the other way round, an entry
/// could be older than the lease.
pub struct Memory<'a> {
    replica: &'a Replica,
    mark: Mark,
}

impl Memory<'_> {
    /// A key, if memory holds it.
    pub fn recall(&self, digest: &Digest) -> Option<Held> {
        if fault_injection::off("lease_first") {
            let early = self.replica.cache.get(digest);
            linger();
            return early.filter(|_| self.replica.lease.holds()).map(|entry| Held { entry, mark: self.mark });
        }
        linger();
        self.replica.cache.get(digest).map(|entry| Held { entry, mark: self.mark })
    }
}

/// Makes room for whatever may happen in the middle, where a test wants it.
fn linger() {
    if fault_injection::off("slow_recall") {
        std::thread::sleep(2 * fault_injection::LINGER);
    }
}

/// A key and the moment up to which it is known to be current.
#[derive(Debug, Clone)]
pub struct Held {
    /// The key.
    pub entry: Arc<Entry>,
    /// Taken before the key was read.
    pub mark: Mark,
}

impl Replica {
    /// A replica whose lease does not hold yet.
    pub fn new(
        store: Arc<dyn Store>,
        registry: Arc<Registry>,
        clock: Arc<dyn Clock>,
        cache_bytes: u64,
        peers: Peers,
        runtime: &Handle,
    ) -> Self {
        let cache = Arc::new(KeyCache::new(cache_bytes));
        let acknowledgements = (peers == Peers::Possible).then(|| Acknowledgements::start(Arc::clone(&store), runtime));
        Self {
            lookups: Lookups::start(store, Arc::clone(&cache), registry, runtime),
            cache,
            lease: Arc::new(Lease::new(clock)),
            usage: UsageLog::default(),
            limited: LimitedLog::default(),
            hint: Arc::default(),
            acknowledgements,
        }
    }

    /// The right to read from memory, while the lease holds. To be asked for once the message is received, and given up
    /// at the first wait: what is read by it is as old as the moment of asking, at the most.
    pub fn memory(&self) -> Option<Memory<'_>> {
        (fault_injection::off("lease_first") || self.lease.holds())
            .then(|| Memory { replica: self, mark: self.cache.mark() })
    }

    /// A key from the store, by a statement sent after this call began.
    ///
    /// # Errors
    ///
    /// UNAVAILABLE; DEADLINE_EXCEEDED where only the caller's own time ran out.
    pub async fn look_up(&self, digest: Digest, deadline: Instant) -> Result<Option<Held>> {
        let patience = Instant::now() + PATIENCE;
        loop {
            let found = timeout_at(deadline.min(patience), self.lookups.find(digest)).await;
            let found = found.map_err(|_| self.late(deadline < patience))??;
            // A change that was applied while this waited may be newer than the row.
            if fault_injection::off("recheck") || self.cache.unchanged(found.mark, &digest) {
                return Ok(found.entry.map(|entry| Held { entry, mark: found.mark }));
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
        self.acknowledgements.is_some()
    }

    /// Waits until no replica answers from a state before `revision`, whose change is committed.
    pub async fn acknowledged(&self, revision: i64) {
        if let Some(acknowledgements) = &self.acknowledgements {
            self.hint.notify_one();
            acknowledgements.wait(revision).await;
        }
    }

    /// A notification came from the database, or may have been missed.
    pub fn told(&self, hint: Hint) {
        if hint != Hint::Seen {
            self.hint.notify_one();
        }
        if let Some(acknowledgements) = &self.acknowledgements
            && hint != Hint::Change
        {
            acknowledgements.tell();
        }
    }

    /// Whether nothing was applied to this key since it was read: asked again after each wait.
    pub fn is_current(&self, held: &Held, digest: &Digest) -> bool {
        fault_injection::off("recheck") || self.cache.unchanged(held.mark, digest)
    }
}
