//! A database that implements the store's verbs: the parts that both databases share.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use sqlx::Database;

use super::{
    attempts::{Attempts, Job, JobKind, run_in_task},
    connection::{Executor, PooledConnection},
    rows::readable::{Readable, ScannedRows, Unreadable},
    write_batch::BatchedWrites,
};
use crate::store::{database::PoolGauge, error::Result, page::RowPage};

/// A database. `X` is state of only this kind of database, such as its options or its lock.
pub struct Backend<DB: Database, X> {
    pub(crate) attempts: Arc<Attempts<DB, X>>,
    batches: BatchedWrites,
    lookups: AtomicU64,
    unreadable: AtomicU64,
}

impl<DB: Database, X: Send + Sync + 'static> Backend<DB, X>
where
    PooledConnection<DB>: Executor,
{
    /// Puts the parts together.
    pub(crate) fn new(attempts: Arc<Attempts<DB, X>>, batches: BatchedWrites) -> Self {
        Self { attempts, batches, lookups: AtomicU64::new(0), unreadable: AtomicU64::new(0) }
    }

    /// Runs a job on a connection, in a task of its own, so that it ends even when its caller stops waiting.
    pub(crate) async fn run<I, T>(&self, kind: JobKind, input: I, job: Job<DB, I, T>) -> Result<T>
    where
        I: Send + Sync + 'static,
        T: Send + 'static,
    {
        let attempts = Arc::clone(&self.attempts);
        run_in_task(self.attempts.runtime(), async move { attempts.run(kind, &input, job).await }).await
    }

    /// Runs a job that changes nothing.
    pub(crate) async fn read<I, T>(&self, input: I, job: Job<DB, I, T>) -> Result<T>
    where
        I: Send + Sync + 'static,
        T: Send + 'static,
    {
        self.run(JobKind::Read, input, job).await
    }

    /// Runs a job that changes nothing and may read many rows.
    pub(crate) async fn scan<I, T>(&self, input: I, job: Job<DB, I, T>) -> Result<T>
    where
        I: Send + Sync + 'static,
        T: Send + 'static,
    {
        self.run(JobKind::Scan, input, job).await
    }

    /// Runs a job that may change something.
    pub(crate) async fn write<I, T>(&self, input: I, job: Job<DB, I, T>) -> Result<T>
    where
        I: Send + Sync + 'static,
        T: Send + 'static,
    {
        self.run(JobKind::Write, input, job).await
    }

    pub(crate) fn batches(&self) -> &BatchedWrites {
        &self.batches
    }

    pub(crate) fn count_lookup(&self) {
        self.lookups.fetch_add(1, Ordering::Relaxed);
    }

    /// Number of statements that looked up digests.
    pub fn queries(&self) -> u64 {
        self.lookups.load(Ordering::Relaxed)
    }

    /// Number of statements of all verbs.
    pub fn statements(&self) -> u64 {
        self.attempts.statements.load(Ordering::Relaxed)
    }

    /// Counts and logs rows that could not be read, in one line for each call. Returns the others.
    pub(crate) fn report_unreadable<T>(&self, what: &'static str, read: Readable<T>) -> Vec<T> {
        if let Some(Unreadable { id, why }) = read.unreadable.first() {
            let count = read.unreadable.len();
            self.unreadable.fetch_add(count as u64, Ordering::Relaxed);
            tracing::error!(what, first = %id, %why, count, "rows that cannot be read are skipped");
        }
        read.rows
    }

    pub(crate) fn unreadable(&self) -> u64 {
        self.unreadable.load(Ordering::Relaxed)
    }

    pub(crate) fn gauge(&self) -> PoolGauge {
        let writers = self.attempts.writers.gauge();
        let readers = self.attempts.readers.as_ref().map(|readers| readers.gauge()).unwrap_or_default();
        PoolGauge { open: writers.open + readers.open, idle: writers.idle + readers.idle }
    }

    /// A page of which those rows that could not be read are counted and logged.
    pub(crate) fn page<T>(&self, what: &'static str, page: ScannedRows<T>) -> RowPage<T> {
        RowPage { rows: self.report_unreadable(what, page.read), ended_at: page.ended_at }
    }

    pub(crate) async fn close_pools(&self) {
        // Close the readers first: the last connection to a SQLite file checkpoints the WAL, which only a writer may
        // do.
        for others in [&self.attempts.readers, &self.attempts.probe].into_iter().flatten() {
            others.close().await;
        }
        self.attempts.writers.close().await;
    }
}
