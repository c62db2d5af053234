//! Look-ups of keys that are not in the cache: bounded in number, and batched into few statements.

use std::{collections::HashMap, sync::Arc};

use tokio::runtime::Handle;

use super::{
    cache::{ChangeSeq, DigestHasher, KeyCache},
    cached_key::CachedKey,
};
use crate::{
    domain::{
        error::{Error, Result},
        key::{Digest, KeyFacts},
        keyspace::Registry,
    },
    store::{
        Store, StoreError,
        batch::{BatchError, BatchLimits, Batcher},
    },
};

/// Maximum number of look-ups waiting for a statement. More are refused at once.
pub(crate) const MAX_IN_FLIGHT: usize = 4_096;
/// Maximum number of statements in flight.
const MAX_STATEMENTS: usize = 2;
/// Maximum number of digests in one statement.
const MAX_DIGESTS: usize = 512;

/// The result of a look-up.
#[derive(Debug, Clone)]
pub struct LookupResult {
    /// The key; `None` if there is no such key.
    pub entry: Option<Arc<CachedKey>>,
    /// The position in the sequence of changes before the statement was sent.
    pub seq: ChangeSeq,
}

type LookupReply = std::result::Result<LookupResult, StoreError>;

/// Batches look-ups. Each look-up gets its row from a statement that is sent after the look-up began.
pub struct Lookups {
    batcher: Batcher<Digest, LookupReply>,
}

impl Lookups {
    /// Starts the batching task on `runtime`.
    pub fn start(store: Arc<dyn Store>, cache: Arc<KeyCache>, registry: Arc<Registry>, runtime: &Handle) -> Self {
        let limits = BatchLimits { max_waiting: MAX_IN_FLIGHT, max_concurrent: MAX_STATEMENTS, max_batch: MAX_DIGESTS };
        let reader = Arc::new(LookupReader { store, cache, registry });
        Self { batcher: Batcher::start(limits, runtime, move |digests| Arc::clone(&reader).look_up_all(digests)) }
    }

    /// Reads one key from the store. Dropping the future does not cancel the statement.
    pub async fn find(&self, digest: Digest) -> Result<LookupResult> {
        match self.batcher.submit(digest).await {
            Ok(answer) => Ok(answer?),
            Err(BatchError::Full) => Err(Error::unavailable("too many look-ups in flight")),
            Err(BatchError::Abandoned) => Err(Error::unavailable("the look-up ended without an answer")),
        }
    }
}

struct LookupReader {
    store: Arc<dyn Store>,
    cache: Arc<KeyCache>,
    registry: Arc<Registry>,
}

impl LookupReader {
    fn entry(&self, row: &KeyFacts) -> CachedKey {
        CachedKey::new(row, self.registry.index(&row.keyspace))
            .limited_to(self.registry.allowed_keyspaces(&row.keyspaces))
    }

    async fn look_up_all(self: Arc<Self>, requested: Vec<Digest>) -> Vec<LookupReply> {
        let mut digests = requested.clone();
        digests.sort_unstable();
        digests.dedup();
        match self.read(digests).await {
            // One unreadable row must not fail the other look-ups of the batch: read each key on its own.
            Err(StoreError::Row(_)) if requested.len() > 1 => {
                let mut each = Vec::with_capacity(requested.len());
                for digest in requested {
                    each.push(self.read(vec![digest]).await.map(|found| found.result_for(&digest)));
                }
                each
            }
            Err(error) => vec![Err(error); requested.len()],
            Ok(found) => requested.iter().map(|digest| Ok(found.result_for(digest))).collect(),
        }
    }

    async fn read(&self, digests: Vec<Digest>) -> std::result::Result<ReadRows, StoreError> {
        let seq = self.cache.current_seq();
        let rows = self.store.find_by_digests(digests).await?;
        let entries: Entries = rows.iter().map(|row| (row.digest, Arc::new(self.entry(row)))).collect();
        self.cache.fill(seq, entries.iter());
        Ok(ReadRows { entries, seq })
    }
}

type Entries = HashMap<Digest, Arc<CachedKey>, DigestHasher>;

/// The rows of one statement.
struct ReadRows {
    entries: Entries,
    seq: ChangeSeq,
}

impl ReadRows {
    fn result_for(&self, digest: &Digest) -> LookupResult {
        LookupResult { entry: self.entries.get(digest).cloned(), seq: self.seq }
    }
}
