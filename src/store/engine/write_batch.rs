//! Batches concurrent writes of one kind: one statement or transaction writes many of them and commits once.

use std::sync::Arc;

use sqlx::Database;

use super::{
    attempts::{Attempts, Job, JobKind},
    batch::{BatchError, BatchLimits, Batcher},
    connection::{Executor, PooledConnection},
};
use crate::{
    domain::key::{KeyId, KeyRecord},
    store::{
        error::{Result, StoreError},
        keys::Revocation,
    },
};

/// Maximum number of writes that wait for a statement.
const MAX_WAITING: usize = 4_096;

/// The writes that arrive many at once.
pub struct BatchedWrites {
    pub(crate) creations: WriteBatcher<KeyRecord, ()>,
    /// Creations, each with the number of live keys that its organization may have. The result is whether the key was
    /// written.
    pub(crate) bounded_creations: WriteBatcher<(KeyRecord, u32), bool>,
    pub(crate) revocations: WriteBatcher<(KeyId, Revocation), Option<KeyRecord>>,
}

/// A job that makes several writes at once and returns the result of each.
pub(crate) type BatchJob<DB, Q, A> = Job<DB, Vec<Q>, Vec<Result<A>>>;

/// Batches writes of one kind.
pub struct WriteBatcher<Q, A> {
    batcher: Batcher<Q, Result<A>>,
}

impl<Q, A> WriteBatcher<Q, A>
where
    Q: Send + Sync + 'static,
    A: Clone + Send + 'static,
{
    /// Starts batching: at most `max_concurrent` statements in flight, with at most `max_batch` writes in each.
    pub(crate) fn start<DB, X>(
        attempts: &Arc<Attempts<DB, X>>,
        max_concurrent: usize,
        max_batch: usize,
        job: BatchJob<DB, Q, A>,
    ) -> Self
    where
        DB: Database,
        X: Send + Sync + 'static,
        PooledConnection<DB>: Executor,
    {
        let limits = BatchLimits { max_waiting: MAX_WAITING, max_concurrent, max_batch };
        let runtime = attempts.runtime().clone();
        let attempts = Arc::clone(attempts);
        Self { batcher: Batcher::start(limits, &runtime, move |batch| write_all(Arc::clone(&attempts), batch, job)) }
    }

    /// Makes one write, together with those that arrive at the same time.
    pub async fn write(&self, write: Q) -> Result<A> {
        self.batcher.submit(write).await.unwrap_or_else(|error| {
            Err(StoreError::Unavailable(match error {
                BatchError::Full => "too many writes in flight".into(),
                BatchError::Abandoned => "the write ended without a result".into(),
            }))
        })
    }
}

async fn write_all<DB, X, Q, A>(
    attempts: Arc<Attempts<DB, X>>,
    batch: Vec<Q>,
    job: BatchJob<DB, Q, A>,
) -> Vec<Result<A>>
where
    DB: Database,
    X: Send + Sync + 'static,
    Q: Send + Sync + 'static,
    A: Clone + Send + 'static,
    PooledConnection<DB>: Executor,
{
    match attempts.run(JobKind::Write, &batch, job).await {
        // One write that the database refuses must not fail the others: make each on its own.
        Err(StoreError::Row(_)) if batch.len() > 1 => {
            let mut results = Vec::with_capacity(batch.len());
            for write in batch {
                let alone = attempts.run(JobKind::Write, &vec![write], job).await;
                let missing = || Err(StoreError::Broken("a write has no result".to_owned()));
                results.push(alone.and_then(|mut results| results.pop().unwrap_or_else(missing)));
            }
            results
        }
        Err(error) => vec![Err(error); batch.len()],
        Ok(results) => results,
    }
}
