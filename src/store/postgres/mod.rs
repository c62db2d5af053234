//! The Postgres backend: any number of replicas on one primary.

mod change;
pub mod change_feed;
mod connect;
mod database;
mod events;
mod keys;
mod options;
mod pinned;

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicI32, AtomicU64, Ordering},
    },
    time::Duration,
};

use self::change_feed::PostgresChangeFeed;
use self::connect::{check_server, connect_once, connect_options, migrate_options};
pub use self::options::PostgresOptions;
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
use sqlx::{Connection as _, Postgres as Driver, migrate::Migrator, postgres::PgConnectOptions};
use tokio::sync::Semaphore;

static MIGRATOR: LazyLock<Migrator> = LazyLock::new(|| migrate::migrator(migrate::POSTGRES));

/// The statements that only Postgres understands, by noun and name, for the test that prepares each.
pub const OWN_STATEMENTS: [&[(&str, &str)]; 3] = [keys::STATEMENTS, events::STATEMENTS, database::STATEMENTS];

/// Maximum number of statements in flight that write a batch of one kind.
const MAX_BATCHES: usize = 2;

/// How often a statement that conflicted with another one is retried.
const MAX_CONFLICTS: u32 = 5;

/// How much longer than the server's own timeout an attempt waits. An answer, even that of a timeout, shows that the
/// connection is alive.
const TIMEOUT_GRACE: Duration = Duration::from_millis(250);

/// State of the Postgres backend alone.
pub struct PostgresConfig {
    options: PostgresOptions,
    connect: PgConnectOptions,
    /// The server's version at the start, as in `server_version_num`.
    version: Option<u32>,
    /// The server's process that applies migrations; 0 while there is none.
    migrating: AtomicI32,
}

/// The Postgres backend.
pub type Postgres = Backend<Driver, PostgresConfig>;

impl Postgres {
    /// Connects once, so that a wrong URL fails at once, and makes the pool. Migrations are not applied.
    ///
    /// # Errors
    ///
    /// Why the database cannot be used.
    pub async fn open(options: PostgresOptions) -> Result<Arc<Self>, OpenError> {
        let connect = connect_options(&options, None)?;
        let runtime = options.runtime.clone();
        run_in_task(&runtime, async move {
            let connection = connect_once(&connect, options.acquire_timeout).await?;
            let version = connection.server_version_num();
            connection.close().await?;
            let connect = connect_options(&options, version)?;
            let attempts = Arc::new(attempts(options, connect, version));
            let batches = batched_writes(&attempts, MAX_BATCHES);
            Ok(Arc::new(Self::new(attempts, batches)))
        })
        .await
    }

    /// Applies pending migrations. Safe with many replicas at once: a lock lets one of them migrate, and the others then
    /// find nothing pending. If nothing is pending, nothing is locked, created or altered, and `migrate_url` is not used.
    ///
    /// # Errors
    ///
    /// Why they cannot be applied.
    pub async fn migrate(&self) -> Result<(), OpenError> {
        if self.migrations_pending().await? == 0 {
            return Ok(());
        }
        let options = &self.attempts.own.options;
        if options.pooler && options.migrate_url.is_none() {
            return Err(OpenError::NeedsDirectUrl);
        }
        let attempts = Arc::clone(&self.attempts);
        run_in_task(self.attempts.runtime(), async move {
            let PostgresConfig { options, version, migrating, .. } = &attempts.own;
            let mut connection = connect_once(&migrate_options(options, *version)?, options.acquire_timeout).await?;
            migrating.store(database::backend_pid(&mut connection).await?, Ordering::SeqCst);
            let applied = migrate::apply(&MIGRATOR, &mut connection).await;
            migrating.store(0, Ordering::SeqCst);
            applied?;
            Ok(connection.close().await?)
        })
        .await
    }

    /// The sessions that hold a lock which the migration waits for, each by its process and its application.
    ///
    /// # Errors
    ///
    /// Why they cannot be read.
    pub async fn migration_blockers(&self) -> Result<Vec<String>, OpenError> {
        match self.attempts.own.migrating.load(Ordering::SeqCst) {
            0 => Ok(Vec::new()),
            process => Ok(self.read(process, |db, process| Box::pin(database::blockers(db, *process))).await?),
        }
    }

    /// Counts the pending migrations.
    ///
    /// # Errors
    ///
    /// [`OpenError::NewerDatabase`] if a newer program migrated the database, or why it cannot be read.
    pub async fn migrations_pending(&self) -> Result<usize, OpenError> {
        migrate::pending(&MIGRATOR, &applied_migrations(self).await?)
    }

    /// Makes a change feed on this database that is not connected, whose statements take at most `statement_timeout`.
    pub fn change_feed(&self, statement_timeout: Duration) -> PostgresChangeFeed {
        let PostgresConfig { options, connect, version, .. } = &self.attempts.own;
        let pool = Arc::clone(&self.attempts.writers);
        // When the server is full, the pool releases idle connections to the follower. The lease has priority over
        // calls: without it, each call reads the database.
        let feed = PostgresChangeFeed::new(connect.clone(), statement_timeout).when_full(move || pool.release_idle());
        if options.pooler { feed.begin_with(pinned::in_transaction(options.statement_timeout, *version)) } else { feed }
    }

    /// Returns how to open a connection outside the pool.
    pub fn connect_options(&self) -> PgConnectOptions {
        self.attempts.own.connect.clone()
    }
}

fn attempts(
    options: PostgresOptions,
    connect: PgConnectOptions,
    version: Option<u32>,
) -> Attempts<Driver, PostgresConfig> {
    let pool_rules = PoolRules {
        max_connections: options.max_connections,
        acquire_timeout: options.acquire_timeout,
        // Firewalls drop connections that are idle for long.
        idle_timeout: Some(Duration::from_secs(60)),
        // The memory of a server's process grows with the age of its connection.
        max_lifetime: Some(Duration::from_secs(1_800)),
        after_connect: |connection| Box::pin(check_server(connection)),
        runtime: options.runtime.clone(),
    };
    let begin = options.pooler.then(|| {
        // A standby refuses READ WRITE.
        format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE, NOT DEFERRABLE; {}",
            pinned::in_transaction(options.statement_timeout, version)
        )
    });
    let rules = AttemptRules {
        acquire_timeout: options.acquire_timeout,
        attempt_timeout: options.statement_timeout + TIMEOUT_GRACE,
        max_conflicts: Some(MAX_CONFLICTS),
        begin,
        persistent: !options.pooler,
        runtime: options.runtime.clone(),
    };
    let scans = Semaphore::new(max_scans(options.max_connections, 4));
    let writers = Pool::new(connect.clone(), pool_rules);
    Attempts {
        writers,
        readers: None,
        probe: None,
        writes: WriteHistory::default(),
        scans,
        rules,
        statements: AtomicU64::new(0),
        own: PostgresConfig { options, connect, version, migrating: AtomicI32::new(0) },
    }
}
