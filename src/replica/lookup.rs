//! Look-ups of keys that memory does not hold: bounded, and gathered into few statements.

use std::{collections::HashMap, sync::Arc};

use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc, oneshot},
};

use super::{
    cache::{KeyCache, Mark},
    entry::Entry,
};
use crate::{
    domain::{
        error::{Error, Result},
        key::{Digest, KeyRecord},
        keyspace::Registry,
    },
    store::{Store, StoreError},
};

/// Look-ups that wait or are under way, at most; more are refused at once.
pub const IN_FLIGHT: usize = 4_096;
/// Statements under way at once.
const STATEMENTS: usize = 4;
/// Digests in one statement, at most.
const GATHERED: usize = 512;

/// What a look-up found, and the moment before its statement was sent.
#[derive(Debug, Clone)]
pub struct Found {
    /// The key; none if there is no such key.
    pub entry: Option<Arc<Entry>>,
    /// Answers whether a change has overtaken the look-up since.
    pub mark: Mark,
}

type Reply = oneshot::Sender<std::result::Result<Found, StoreError>>;

/// Gathers look-ups. Each takes its row only from a statement that is sent after it asked.
pub struct Lookups {
    queue: mpsc::Sender<(Digest, Reply)>,
}

impl Lookups {
    /// Starts the gathering task on `runtime`.
    pub fn start(store: Arc<dyn Store>, cache: Arc<KeyCache>, registry: Arc<Registry>, runtime: &Handle) -> Self {
        let (queue, waiting) = mpsc::channel(IN_FLIGHT);
        runtime.spawn(Gatherer { store, cache, registry }.run(waiting));
        Self { queue }
    }

    /// Reads one key from the store. Whoever stops waiting does not stop the statement.
    pub async fn find(&self, digest: Digest) -> Result<Found> {
        let (reply, answer) = oneshot::channel();
        self.queue.try_send((digest, reply)).map_err(|_| Error::unavailable("too many look-ups in flight"))?;
        match answer.await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(Error::unavailable("the look-up was given up")),
        }
    }
}

#[derive(Clone)]
struct Gatherer {
    store: Arc<dyn Store>,
    cache: Arc<KeyCache>,
    registry: Arc<Registry>,
}

impl Gatherer {
    async fn run(self, mut waiting: mpsc::Receiver<(Digest, Reply)>) {
        let slots = Arc::new(Semaphore::new(STATEMENTS));
        // The slot comes first: what arrives while every slot is taken gathers in the queue.
        while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
            let mut batch = Vec::new();
            if waiting.recv_many(&mut batch, GATHERED).await == 0 {
                return;
            }
            let gatherer = self.clone();
            tokio::spawn(async move {
                gatherer.look_up(batch).await;
                drop(slot);
            });
        }
    }

    fn entry(&self, row: &KeyRecord) -> Entry {
        Entry::new(row, self.registry.index(&row.keyspace)).reaching(self.registry.reach(&row.keyspaces))
    }

    async fn look_up(&self, batch: Vec<(Digest, Reply)>) {
        let mut digests: Vec<Digest> = batch.iter().map(|(digest, _)| *digest).collect();
        digests.sort_unstable();
        digests.dedup();
        let mark = self.cache.mark();
        let rows = match self.store.find_by_digests(digests).await {
            Ok(rows) => rows,
            Err(error) => {
                for (_, reply) in batch {
                    let _ = reply.send(Err(error.clone()));
                }
                return;
            }
        };
        let found: HashMap<Digest, Arc<Entry>> =
            rows.iter().map(|row| (row.digest, Arc::new(self.entry(row)))).collect();
        self.cache.fill(mark, found.iter());
        for (digest, reply) in batch {
            let _ = reply.send(Ok(Found { entry: found.get(&digest).cloned(), mark }));
        }
    }
}
