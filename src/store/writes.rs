//! Writes, gathered: what many callers write at once is written by few statements, which commit once each.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::{
    Result, StoreError,
    batch::{BatchError, BatchLimits, Batcher},
    session::Job,
};

/// Writes that wait, at most.
const MAX_WAITING: usize = 4_096;

/// What writes.
pub(super) trait Writer: Send + Sync + 'static {
    /// Runs a job on a connection that writes, within the bounds.
    fn write<I: Send + Sync, T: Send>(&self, input: &I, job: Job<I, T>) -> impl Future<Output = Result<T>> + Send;
}

/// A job that writes several things at once, and tells what came of each.
pub(super) type Jobs<Q, A> = Job<Vec<Q>, Vec<Result<A>>>;

/// Gathers writes of one kind.
pub struct Writes<Q, A> {
    batcher: Batcher<Q, Result<A>>,
}

impl<Q, A> Writes<Q, A>
where
    Q: Send + Sync + 'static,
    A: Clone + Send + 'static,
{
    /// Starts gathering on `runtime`: so many statements at once, of so many writes each, at most.
    pub(super) fn start(
        writer: &Arc<impl Writer>,
        statements: usize,
        together: usize,
        runtime: &Handle,
        job: Jobs<Q, A>,
    ) -> Self {
        let writer = Arc::clone(writer);
        let limits = BatchLimits { max_waiting: MAX_WAITING, max_concurrent: statements, max_batch: together };
        Self { batcher: Batcher::start(limits, runtime, move |all| write(Arc::clone(&writer), all, job)) }
    }

    /// Writes one, with others that are written at the same time.
    pub async fn write(&self, one: Q) -> Result<A> {
        self.batcher.submit(one).await.unwrap_or_else(|why| {
            Err(StoreError::Unavailable(match why {
                BatchError::Full => "too many writes wait".to_owned(),
                BatchError::Abandoned => "the write was given up".to_owned(),
            }))
        })
    }
}

async fn write<Q, A>(writer: Arc<impl Writer>, all: Vec<Q>, job: Jobs<Q, A>) -> Vec<Result<A>>
where
    Q: Send + Sync + 'static,
    A: Clone + Send + 'static,
{
    match writer.write(&all, job).await {
        // One that the database does not take must not keep the others out.
        Err(StoreError::Row(_)) if all.len() > 1 => {
            let mut each = Vec::with_capacity(all.len());
            for one in all {
                let alone = writer.write(&vec![one], job).await;
                let none = || Err(StoreError::Broken("a write told nothing".to_owned()));
                each.push(alone.and_then(|mut told| told.pop().unwrap_or_else(none)));
            }
            each
        }
        Err(error) => vec![Err(error); all.len()],
        Ok(told) => told,
    }
}
