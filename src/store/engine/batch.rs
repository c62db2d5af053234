//! Batches concurrent requests into few statements.

use std::{
    sync::Arc,
    thread::{self, ThreadId},
};

use tokio::{
    runtime::Handle,
    sync::{
        Semaphore,
        mpsc::{self, error::TrySendError},
        oneshot,
    },
};

/// The bounds of a [`Batcher`].
#[derive(Debug, Clone, Copy)]
pub struct BatchLimits {
    /// Maximum number of requests that wait for a statement. More are refused at once.
    pub max_waiting: usize,
    /// Maximum number of statements in flight.
    pub max_concurrent: usize,
    /// Maximum number of requests in one statement.
    pub max_batch: usize,
}

/// Why a request has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchError {
    /// Too many requests wait.
    Full,
    /// The statement's task ended without a result.
    Abandoned,
}

/// Batches requests of one kind. The result of each comes from a statement that is sent after the request was submitted.
pub struct Batcher<Q, A> {
    queue: mpsc::Sender<(Q, Waiter<A>)>,
}

/// The caller of one request.
struct Waiter<A> {
    reply: oneshot::Sender<A>,
    /// The thread on which it waits.
    thread: ThreadId,
    runtime: Handle,
}

impl<Q: Send + 'static, A: Send + 'static> Batcher<Q, A> {
    /// Starts the batching task on `runtime`. It ends when the batcher is dropped.
    ///
    /// `run` runs one batch, in a task of its own, and returns the results in the order of the requests.
    pub fn start<W, F>(limits: BatchLimits, runtime: &Handle, run: W) -> Self
    where
        W: Fn(Vec<Q>) -> F + Send + 'static,
        F: Future<Output = Vec<A>> + Send + 'static,
    {
        let (queue, waiting) = mpsc::channel(limits.max_waiting);
        runtime.spawn(run_batches(limits, waiting, run));
        Self { queue }
    }

    /// Adds a request to the next batch and waits for its result. Dropping the future does not stop the statement.
    ///
    /// # Errors
    ///
    /// Why there is no result.
    pub async fn submit(&self, request: Q) -> Result<A, BatchError> {
        let (reply, result) = oneshot::channel();
        let waiter = Waiter { reply, thread: thread::current().id(), runtime: Handle::current() };
        self.queue.try_send((request, waiter)).map_err(|refused| match refused {
            TrySendError::Full(_) => BatchError::Full,
            TrySendError::Closed(_) => BatchError::Abandoned,
        })?;
        result.await.map_err(|_| BatchError::Abandoned)
    }
}

async fn run_batches<Q, A, W, F>(limits: BatchLimits, mut waiting: mpsc::Receiver<(Q, Waiter<A>)>, run: W)
where
    Q: Send + 'static,
    A: Send + 'static,
    W: Fn(Vec<Q>) -> F + Send + 'static,
    F: Future<Output = Vec<A>> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(limits.max_concurrent));
    // Take the permit before the requests: what arrives while all permits are in use joins the next batch.
    while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
        let mut batch = Vec::with_capacity(waiting.len().clamp(1, limits.max_batch));
        if waiting.recv_many(&mut batch, limits.max_batch).await == 0 {
            return;
        }
        let (requests, waiters): (Vec<Q>, Vec<Waiter<A>>) = batch.into_iter().unzip();
        let statement = run(requests);
        tokio::spawn(async move {
            let results = statement.await;
            drop(permit);
            reply_all(waiters.into_iter().zip(results));
        });
    }
}

/// Sends each result from the thread on which its caller waits. Waking another thread costs as much as sending, so each
/// thread is woken once for all of its callers.
fn reply_all<A: Send + 'static>(results: impl Iterator<Item = (Waiter<A>, A)>) {
    type Replies<A> = Vec<(oneshot::Sender<A>, A)>;
    let mut threads: Vec<(ThreadId, Handle, Replies<A>)> = Vec::new();
    for (Waiter { reply, thread, runtime }, result) in results {
        match threads.iter_mut().find(|(known, ..)| *known == thread) {
            Some((.., replies)) => replies.push((reply, result)),
            None => threads.push((thread, runtime, vec![(reply, result)])),
        }
    }
    for (_, runtime, replies) in threads {
        let send_all = move || {
            for (reply, result) in replies {
                // It fails if the caller has stopped waiting, and then nobody needs the result.
                let _ = reply.send(result);
            }
        };
        runtime.spawn(async move { send_all() });
    }
}
