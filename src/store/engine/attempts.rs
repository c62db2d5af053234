//! How the attempts of a verb are bounded and retried, and on which connections they run.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use sqlx::Database;
use tokio::{
    runtime::Handle,
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout, timeout_at},
};

use super::{
    classify::{AttemptError, AttemptResult, ErrorClass},
    connection::{Executor, PooledConnection},
    pool::Pool,
    write_history::WriteHistory,
};
use crate::store::error::{Result, StoreError};

/// What a verb needs of its connection. Every kind is retried when its connection broke, because verbs are idempotent,
/// except for the counts of uses and of attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobKind {
    /// Reads few rows.
    Read,
    /// May read many rows. Only few run concurrently, so that scans never take the connections that look-ups and writes
    /// need.
    Scan,
    /// May change something.
    Write,
    /// Finds whether writes are possible. It changes nothing, and does not wait for writes that are running.
    Probe,
}

/// What a verb does on a connection. It may be run again on another one.
pub(crate) type Job<DB, I, T> = for<'a> fn(&'a mut PooledConnection<DB>, &'a I) -> BoxFuture<'a, AttemptResult<T>>;

/// What the task of a verb needs to make attempts. `X` is state of only one kind of database, such as its options.
pub(crate) struct Attempts<DB: Database, X> {
    /// The connections that write; they also read where there are no `readers`.
    pub writers: Arc<Pool<DB>>,
    /// The connections that only read.
    pub readers: Option<Arc<Pool<DB>>>,
    /// The connection that finds whether writes are possible, where one connection writes.
    pub probe: Option<Arc<Pool<DB>>>,
    pub writes: WriteHistory,
    /// One for each scan that may run at once.
    pub scans: Semaphore,
    /// Statements that ran.
    pub statements: AtomicU64,
    pub rules: AttemptRules,
    pub own: X,
}

/// How attempts are bounded and retried.
pub(crate) struct AttemptRules {
    /// How long a verb waits for a connection.
    pub acquire_timeout: Duration,
    /// How long an attempt waits for the database.
    pub attempt_timeout: Duration,
    /// How often an attempt that conflicted with another transaction is retried. `None`: no attempt is ever retried,
    /// and one broken connection does not invalidate the others.
    pub max_conflicts: Option<u32>,
    /// Statements that begin a transaction around each attempt. `None`: each statement commits by itself.
    pub begin: Option<String>,
    /// Whether statements stay prepared on their connection.
    pub persistent: bool,
    /// Where verbs run.
    pub runtime: Handle,
}

/// How many scans may run at once on this many connections: one part of `parts`, so that they take few of the connections.
pub(crate) fn max_scans(connections: u32, parts: u32) -> usize {
    usize::try_from(connections / parts).unwrap_or(1).max(1)
}

impl<DB: Database, X> Attempts<DB, X> {
    /// Whether a write of this process is running. One that waits for the lock of another process is not.
    pub(crate) fn is_writing(&self) -> bool {
        let gauge = self.writers.gauge();
        gauge.open > gauge.idle && !self.writers.waits_for_lock()
    }

    /// Whether a test write is needed to find that the disk accepts writes. Not where replicas share a server, because
    /// their renewals are such writes.
    pub(crate) fn needs_write_probe(&self) -> bool {
        self.probe.is_some() && !self.is_writing() && !self.writes.shows_writable()
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.rules.runtime
    }
}

impl<DB: Database, X> Attempts<DB, X>
where
    PooledConnection<DB>: Executor,
{
    /// Attempts a job until one attempt succeeds, or a retry would not help.
    pub(crate) async fn run<I: Sync, T: Send>(&self, kind: JobKind, input: &I, job: Job<DB, I, T>) -> Result<T> {
        let deadline = Instant::now() + self.rules.acquire_timeout + self.rules.attempt_timeout;
        let result = self.run_until(kind, deadline, input, job).await;
        if kind == JobKind::Write {
            self.writes.note(&result);
        }
        result
    }

    async fn run_until<I: Sync, T: Send>(
        &self,
        kind: JobKind,
        deadline: Instant,
        input: &I,
        job: Job<DB, I, T>,
    ) -> Result<T> {
        let mut lost = false;
        let mut conflicts = 0;
        loop {
            let error = match self.attempt(kind, deadline, input, job).await {
                Ok(result) => return Ok(result),
                Err(error) => error,
            };
            let Some(max_conflicts) = self.rules.max_conflicts else { return Err(error.into()) };
            let class = error.class();
            if class == ErrorClass::Lost || matches!(error, AttemptError::TimedOut) {
                // The server is unreachable, so every other connection to it is broken, too.
                self.pool(kind).invalidate_all();
            }
            match class {
                ErrorClass::Lost if !lost => lost = true,
                ErrorClass::Conflict if conflicts < max_conflicts => conflicts += 1,
                _ => return Err(error.into()),
            }
            if Instant::now() >= deadline {
                return Err(error.into());
            }
        }
    }

    fn pool(&self, kind: JobKind) -> &Arc<Pool<DB>> {
        let other = match kind {
            JobKind::Read | JobKind::Scan => self.readers.as_ref(),
            JobKind::Probe => self.probe.as_ref(),
            JobKind::Write => None,
        };
        other.unwrap_or(&self.writers)
    }

    /// Waits for the permit of a scan, as long as for a connection. Other kinds need none.
    async fn scan_permit(&self, kind: JobKind) -> AttemptResult<Option<SemaphorePermit<'_>>> {
        if kind != JobKind::Scan {
            return Ok(None);
        }
        match timeout(self.rules.acquire_timeout, self.scans.acquire()).await {
            Ok(Ok(permit)) => Ok(Some(permit)),
            Ok(Err(_)) => Err(AttemptError::Unreachable(sqlx::Error::PoolClosed)),
            Err(_) => Err(AttemptError::Unreachable(sqlx::Error::PoolTimedOut)),
        }
    }

    /// Makes one attempt on one connection.
    async fn attempt<I: Sync, T: Send>(
        &self,
        kind: JobKind,
        deadline: Instant,
        input: &I,
        job: Job<DB, I, T>,
    ) -> AttemptResult<T> {
        let _permit = self.scan_permit(kind).await?;
        let checkout = self.pool(kind).acquire().await.map_err(AttemptError::Unreachable)?;
        let attempt_deadline = deadline.min(Instant::now() + self.rules.attempt_timeout);
        let mut connection = PooledConnection::new(checkout, self.rules.persistent);
        let attempt = timeout_at(attempt_deadline, self.run_on(&mut connection, input, job)).await;
        self.statements.fetch_add(connection.statements(), Ordering::Relaxed);
        connection.finish(attempt.unwrap_or(Err(AttemptError::TimedOut)))
    }

    /// Runs a job with each statement committing by itself, or in a transaction: through a transaction pooler the parts
    /// of one statement could reach different servers otherwise.
    async fn run_on<I: Sync, T: Send>(
        &self,
        connection: &mut PooledConnection<DB>,
        input: &I,
        job: Job<DB, I, T>,
    ) -> AttemptResult<T> {
        let Some(begin) = &self.rules.begin else { return job(connection, input).await };
        // A server that has become a standby refuses to begin.
        connection.execute_script(begin).await.map_err(AttemptError::Unreachable)?;
        let result = job(connection, input).await;
        connection.execute_script(if result.is_ok() { "COMMIT" } else { "ROLLBACK" }).await?;
        result
    }
}

/// Runs a call in a task of its own, so that it ends even when its caller stops waiting. A driver's future that is dropped
/// half-way would leave the state of its connection, and of the write, unknown.
pub(crate) async fn run_in_task<T, E>(
    runtime: &Handle,
    call: impl Future<Output = std::result::Result<T, E>> + Send + 'static,
) -> std::result::Result<T, E>
where
    T: Send + 'static,
    E: From<StoreError> + Send + 'static,
{
    runtime.spawn(call).await.unwrap_or_else(|error| {
        Err(E::from(if error.is_panic() {
            StoreError::Broken("a store call panicked".to_owned())
        } else {
            StoreError::Unavailable("the program is shutting down".into())
        }))
    })
}
