//! Look-ups of keys that memory does not hold: bounded, and gathered into few statements.

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
        gather::{Bounds, Gather, Unasked},
    },
};

/// Look-ups that wait for a statement, at most; more are refused at once.
pub const MAX_IN_FLIGHT: usize = 4_096;
/// Statements under way at once.
const STATEMENTS: usize = 2;
/// Digests in one statement, at most.
const GATHERED: usize = 512;

/// What a look-up found, and the moment before its statement was sent.
#[derive(Debug, Clone)]
pub struct Found {
    /// The key; none if there is no such key.
    pub entry: Option<Arc<CachedKey>>,
    /// Answers whether a change has overtaken the look-up since.
    pub seq: ChangeSeq,
}

type Answer = std::result::Result<Found, StoreError>;

/// Gathers look-ups. Each takes its row only from a statement that is sent after it asked.
pub struct Lookups {
    gather: Gather<Digest, Answer>,
}

impl Lookups {
    /// Starts the gathering task on `runtime`.
    pub fn start(store: Arc<dyn Store>, cache: Arc<KeyCache>, registry: Arc<Registry>, runtime: &Handle) -> Self {
        let bounds = Bounds { waiting: MAX_IN_FLIGHT, statements: STATEMENTS, together: GATHERED };
        let reader = Arc::new(Reader { store, cache, registry });
        Self { gather: Gather::start(bounds, runtime, move |digests| Arc::clone(&reader).look_up(digests)) }
    }

    /// Reads one key from the store. Whoever stops waiting does not stop the statement.
    pub async fn find(&self, digest: Digest) -> Result<Found> {
        match self.gather.ask(digest).await {
            Ok(answer) => Ok(answer?),
            Err(Unasked::Full) => Err(Error::unavailable("too many look-ups in flight")),
            Err(Unasked::GivenUp) => Err(Error::unavailable("the look-up was given up")),
        }
    }
}

struct Reader {
    store: Arc<dyn Store>,
    cache: Arc<KeyCache>,
    registry: Arc<Registry>,
}

impl Reader {
    fn entry(&self, row: &KeyFacts) -> CachedKey {
        CachedKey::new(row, self.registry.index(&row.keyspace))
            .limited_to(self.registry.allowed_keyspaces(&row.keyspaces))
    }

    async fn look_up(self: Arc<Self>, asked: Vec<Digest>) -> Vec<Answer> {
        let mut digests = asked.clone();
        digests.sort_unstable();
        digests.dedup();
        match self.read(digests).await {
            // One row that cannot be read must not cost the others their answers.
            Err(StoreError::Row(_)) if asked.len() > 1 => {
                let mut each = Vec::with_capacity(asked.len());
                for digest in asked {
                    each.push(self.read(vec![digest]).await.map(|found| found.of(&digest)));
                }
                each
            }
            Err(error) => vec![Err(error); asked.len()],
            Ok(found) => asked.iter().map(|digest| Ok(found.of(digest))).collect(),
        }
    }

    async fn read(&self, digests: Vec<Digest>) -> std::result::Result<Read, StoreError> {
        let seq = self.cache.current_seq();
        let rows = self.store.find_by_digests(digests).await?;
        let entries: Entries = rows.iter().map(|row| (row.digest, Arc::new(self.entry(row)))).collect();
        self.cache.fill(seq, entries.iter());
        Ok(Read { entries, seq })
    }
}

type Entries = HashMap<Digest, Arc<CachedKey>, DigestHasher>;

/// What one statement found.
struct Read {
    entries: Entries,
    seq: ChangeSeq,
}

impl Read {
    fn of(&self, digest: &Digest) -> Found {
        Found { entry: self.entries.get(digest).cloned(), seq: self.seq }
    }
}
