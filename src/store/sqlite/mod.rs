//! The SQLite backend: one process, one file.

mod database;
mod events;
mod keys;
mod lock;
mod transaction;

use std::{
    fs::File,
    path::Path,
    sync::{Arc, LazyLock, atomic::AtomicU64},
    time::Duration,
};

use sqlx::{
    ConnectOptions as _, Sqlite as Driver,
    migrate::Migrator,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};
use tokio::{runtime::Handle, sync::Semaphore};

use self::lock::create_and_lock;
use super::{
    engine::{
        attempts::{AttemptRules, Attempts, max_scans, run_in_task},
        backend::Backend,
        migrate,
        ops::{database::applied_migrations, keys::batched_writes},
        pool::{Pool, PoolRules},
        write_history::WriteHistory,
    },
    error::OpenError,
};

static MIGRATOR: LazyLock<Migrator> = LazyLock::new(|| migrate::migrator(migrate::SQLITE));

/// The statements that only SQLite understands, by noun and name, for the test that prepares each.
pub const OWN_STATEMENTS: [&[(&str, &str)]; 4] =
    [keys::STATEMENTS, events::STATEMENTS, transaction::STATEMENTS, database::STATEMENTS];

/// How long the probe waits for the lock of a writer.
const PROBE_TIMEOUT: Duration = Duration::from_millis(100);

/// Where the file is, and how long to wait for it.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// `sqlite://PATH`. The file is created if it is missing.
    pub url: String,
    /// Number of connections that read.
    pub readers: u32,
    /// How long a verb waits for a connection.
    pub acquire_timeout: Duration,
    /// How long a verb waits for the database.
    pub statement_timeout: Duration,
    /// Where verbs run.
    pub runtime: Handle,
}

impl SqliteOptions {
    /// The defaults.
    pub fn new(url: impl Into<String>, runtime: Handle) -> Self {
        Self {
            url: url.into(),
            readers: 4,
            acquire_timeout: Duration::from_secs(2),
            statement_timeout: Duration::from_secs(5),
            runtime,
        }
    }
}

/// State of the SQLite backend alone. The lock is released when the last task that uses the backend has ended.
pub struct FileLock {
    _lock: File,
}

/// The SQLite backend.
pub type Sqlite = Backend<Driver, FileLock>;

impl Sqlite {
    /// Creates the file if it is missing, and locks it for this process. Migrations are not applied.
    ///
    /// # Errors
    ///
    /// Why the database cannot be used; [`OpenError::InUse`] if another process has it open.
    pub async fn open(options: SqliteOptions) -> Result<Arc<Self>, OpenError> {
        let runtime = options.runtime.clone();
        run_in_task(&runtime, async move {
            let (path, lock) = create_and_lock(&options.url)?;
            let attempts = Arc::new(attempts(options, &path, lock));
            // The first connection turns the journal into a WAL before a reader connects. A file that cannot be opened
            // fails here.
            attempts.writers.acquire().await?.release();
            // There is one connection that writes, and so one transaction at a time.
            let batches = batched_writes(&attempts, 1);
            Ok(Arc::new(Self::new(attempts, batches)))
        })
        .await
    }

    /// Applies pending migrations. If nothing is pending, nothing is written.
    ///
    /// # Errors
    ///
    /// Why they cannot be applied.
    pub async fn migrate(&self) -> Result<(), OpenError> {
        if self.migrations_pending().await? == 0 {
            return Ok(());
        }
        let attempts = Arc::clone(&self.attempts);
        run_in_task(self.attempts.runtime(), async move {
            let mut connection = attempts.writers.acquire().await?;
            migrate::apply(&MIGRATOR, &mut *connection).await?;
            connection.release();
            Ok(())
        })
        .await
    }

    /// Counts the pending migrations.
    ///
    /// # Errors
    ///
    /// [`OpenError::NewerDatabase`] if a newer program migrated the database, or why it cannot be read.
    pub async fn migrations_pending(&self) -> Result<usize, OpenError> {
        migrate::pending(&MIGRATOR, &applied_migrations(self).await?)
    }
}

fn attempts(options: SqliteOptions, path: &Path, lock: File) -> Attempts<Driver, FileLock> {
    let connect = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .journal_mode(SqliteJournalMode::Wal)
        // A commit is on the disk before it is acknowledged.
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(options.statement_timeout)
        .foreign_keys(true)
        .disable_statement_logging();
    let pool_rules = |max_connections| PoolRules {
        max_connections,
        acquire_timeout: options.acquire_timeout,
        // An open file costs nothing and cannot become stale.
        idle_timeout: None,
        max_lifetime: None,
        after_connect: |_| Box::pin(std::future::ready(Ok(()))),
        runtime: options.runtime.clone(),
    };
    // SQLite allows one writer at a time. With one connection, writers wait for it in their order.
    let writers = Pool::new(connect.clone(), pool_rules(1));
    let readers = Pool::new(connect.clone().pragma("query_only", "ON"), pool_rules(options.readers));
    let probe = Pool::new(connect.busy_timeout(PROBE_TIMEOUT), pool_rules(1));
    let rules = AttemptRules {
        acquire_timeout: options.acquire_timeout,
        attempt_timeout: options.statement_timeout,
        // Within one process, no connection breaks and no transaction conflicts in a way that a retry could resolve.
        max_conflicts: None,
        begin: None,
        persistent: true,
        runtime: options.runtime,
    };
    let scans = Semaphore::new(max_scans(options.readers, 2));
    Attempts {
        writers,
        readers: Some(readers),
        probe: Some(probe),
        writes: WriteHistory::default(),
        scans,
        rules,
        statements: AtomicU64::new(0),
        own: FileLock { _lock: lock },
    }
}
