//! The Postgres backend: any number of replicas over one primary.

use std::{
    sync::{Arc, LazyLock, atomic::AtomicU64},
    time::Duration,
};

use async_trait::async_trait;
use sqlx::{
    Arguments as _, AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, PgConnection,
    Postgres as Driver,
    migrate::Migrator,
    postgres::{PgArguments, PgConnectOptions},
};
use tokio::{runtime::Handle, time::Instant};
use uuid::Uuid;

pub use super::feed_postgres as change_feed;
use super::{
    PoolGauge, ReplicaRow, Result, Usage,
    event_postgres::FIRST_KEY,
    event_rows::{ClaimRow, DeliveryRow, EventRow, ExpiringRow},
    failure::{Class, Failure, Outcome},
    migrate::{self, OpenError},
    pool::{Pool, Rules},
    session::{Job, Link, Session, Statements, Value, in_own_task, statements, within},
    sql::{FactsRow, KeyRow, columns, facts, shown},
    verbs::{self, Backend, Gathered, Kind},
    writes::Writer,
};
use crate::domain::key::{Digest, KeyRecord};

static MIGRATOR: LazyLock<Migrator> = LazyLock::new(|| migrate::migrator(migrate::POSTGRES));

/// An array parameter: SQLite has none.
const FIND_BY_DIGESTS: &str = concat!("SELECT ", facts!(), " FROM keyward_keys k WHERE k.digest = ANY($1)");

/// An array parameter: SQLite has none.
const FIND_BY_IDS: &str = concat!("SELECT ", shown!(), " WHERE k.id = ANY($1)");

/// Array parameters: SQLite has none. One such statement at a time, by a lock of its own: an UPDATE locks rows in
/// whatever order its plan finds them, and two replicas with different plans would deadlock. Nearly every key that is
/// used was used before, so a row is updated first; only where there was none the key is looked for and the row made.
/// No reply waits for this, so neither does it wait for the disk.
const ADD_USAGE: &str = "WITH n AS MATERIALIZED (SELECT n.* \
     FROM (SELECT set_config('synchronous_commit', 'off', TRUE), \
     pg_advisory_xact_lock(hashtextextended('keyward_usage', 0))) AS lazily_and_alone, \
     unnest($1::uuid[], $2::bigint[], $3::bigint[]) AS n (id, last_used_at, count)), \
     known AS (UPDATE keyward_usage u SET last_used_at = GREATEST(u.last_used_at, n.last_used_at), \
     count = u.count + n.count FROM n WHERE u.key_id = n.id RETURNING u.key_id) \
     INSERT INTO keyward_usage (key_id, last_used_at, count) \
     SELECT k.id, n.last_used_at, n.count FROM n JOIN keyward_keys k ON k.id = n.id \
     WHERE NOT EXISTS (SELECT FROM known WHERE known.key_id = n.id) ORDER BY k.id \
     ON CONFLICT (key_id) DO UPDATE SET last_used_at = GREATEST(keyward_usage.last_used_at, EXCLUDED.last_used_at), \
     count = keyward_usage.count + EXCLUDED.count";

/// Nothing writes this table on SQLite.
const REPLICAS: &str = "SELECT id, step, lease_ms, seen_revision FROM keyward_replicas";

/// A standby answers from the past, and a failover may have made one of the server that was the primary.
const WRITABLE: &str = "SELECT NOT pg_is_in_recovery() AND current_setting('transaction_read_only') = 'off'";

const HAS_MIGRATIONS: &str = "SELECT to_regclass('keyward_migrations') IS NOT NULL";

/// The statements that only Postgres understands, by name, for the test that prepares each.
pub const OWN_STATEMENTS: &[(&str, &str)] = &[
    ("FIND_BY_DIGESTS", FIND_BY_DIGESTS),
    ("FIND_BY_IDS", FIND_BY_IDS),
    ("ADD_USAGE", ADD_USAGE),
    ("REPLICAS", REPLICAS),
    ("WRITABLE", WRITABLE),
    ("HAS_MIGRATIONS", HAS_MIGRATIONS),
];

/// Statements of one kind that write what was gathered, at once.
const STATEMENTS: usize = 2;

/// How often a statement that crossed with another one is tried again.
const CONFLICTS: u32 = 5;

/// How long the server's own bound is waited for past it: an answer shows that the connection is alive.
const GRACE: Duration = Duration::from_millis(250);

/// How to reach Postgres, and how long to wait for it. It holds a password, and so does not print.
#[derive(Clone)]
pub struct PostgresOptions {
    /// `postgres://user:password@host:port/database`.
    pub url: String,
    /// The same database without a pooler between, for migrations; they take a lock of the session.
    pub migrate_url: Option<String>,
    /// Whether a transaction pooler such as PgBouncer stands between: each call is then a transaction of its own, and
    /// nothing is kept on a connection.
    pub pooler: bool,
    /// Connections at most.
    pub max_connections: u32,
    /// How long a call waits for a connection.
    pub acquire_timeout: Duration,
    /// How long a call waits for the database.
    pub statement_timeout: Duration,
    /// Where calls run.
    pub runtime: Handle,
}

impl PostgresOptions {
    /// The defaults.
    pub fn new(url: impl Into<String>, runtime: Handle) -> Self {
        Self {
            url: url.into(),
            migrate_url: None,
            pooler: false,
            max_connections: 16,
            acquire_timeout: Duration::from_secs(2),
            statement_timeout: Duration::from_secs(5),
            runtime,
        }
    }
}

/// The backend.
pub struct Postgres {
    shared: Arc<Shared>,
    gathered: Gathered,
}

/// What a call's own task needs.
struct Shared {
    pool: Arc<Pool<Driver>>,
    options: PostgresOptions,
    connect: PgConnectOptions,
    /// How a call begins, where a pooler stands between.
    begin: Option<String>,
    lookups: AtomicU64,
}

impl Postgres {
    /// Connects once, so that a wrong URL shows at once, and makes the pool. Migrations are not applied.
    pub async fn open(options: PostgresOptions) -> std::result::Result<Arc<Self>, OpenError> {
        let connect = connect_options(&options.url, &options)?;
        let runtime = options.runtime.clone();
        in_own_task(&runtime, async move {
            let first = direct(&connect, options.acquire_timeout).await?;
            first.close().await?;
            let runtime = options.runtime.clone();
            let shared = Arc::new(Shared::new(options, connect));
            let gathered = Gathered::start(&shared, STATEMENTS, &runtime);
            Ok(Arc::new(Self { shared, gathered }))
        })
        .await
    }

    /// Applies pending migrations. Safe with many replicas at once: they take turns, and the second finds nothing to do.
    pub async fn migrate(&self) -> std::result::Result<(), OpenError> {
        let behind_pooler = self.shared.options.pooler && self.shared.options.migrate_url.is_none();
        if behind_pooler {
            return match self.migrations_pending().await? {
                0 => Ok(()),
                _ => Err(OpenError::NeedsDirectUrl),
            };
        }
        let shared = Arc::clone(&self.shared);
        in_own_task(&self.shared.options.runtime, async move {
            let options = &shared.options;
            let url = options.migrate_url.as_deref().unwrap_or(&options.url);
            let connect: PgConnectOptions = url.parse().map_err(not_a_url)?;
            // No bound on statements: an index over many keys takes its time. No notices that a table is there already.
            let connect = connect.application_name("keyward").options([("client_min_messages", "warning")]);
            let mut conn = direct(&connect, options.acquire_timeout).await?;
            migrate::apply(&MIGRATOR, &mut conn).await?;
            Ok(conn.close().await?)
        })
        .await
    }

    /// How many migrations are yet to be applied; an error when the database is newer than the program.
    pub async fn migrations_pending(&self) -> std::result::Result<usize, OpenError> {
        migrate::pending(&MIGRATOR, &verbs::applied_migrations(self).await?)
    }

    /// How many statements have looked up digests.
    pub fn queries(&self) -> u64 {
        self.shared.lookups.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// How to open a connection of one's own, past the pool.
    pub fn connect_options(&self) -> PgConnectOptions {
        self.shared.connect.clone()
    }
}

fn not_a_url(error: sqlx::Error) -> OpenError {
    match error {
        sqlx::Error::Configuration(reason) => OpenError::Url(reason.to_string()),
        other => OpenError::Url(other.to_string()),
    }
}

fn connect_options(url: &str, options: &PostgresOptions) -> std::result::Result<PgConnectOptions, OpenError> {
    let connect: PgConnectOptions = url.parse().map_err(not_a_url)?;
    // No floats are read. PgBouncer refuses the parameter.
    let connect = connect.application_name("keyward").extra_float_digits(None).disable_statement_logging();
    Ok(if options.pooler {
        // A prepared statement would stay on a server connection that the next call does not get; `options` are
        // refused by PgBouncer before 1.20.
        connect.statement_cache_capacity(0)
    } else {
        connect.options([
            ("statement_timeout", options.statement_timeout.as_millis().to_string().as_str()),
            // A database may have been given another default, under which changes would cross and be tried again.
            ("default_transaction_isolation", "read committed"),
        ])
    })
}

/// One connection outside the pool.
async fn direct(connect: &PgConnectOptions, bound: Duration) -> std::result::Result<PgConnection, OpenError> {
    let connected = tokio::time::timeout(bound, async {
        let mut conn = connect.connect().await?;
        refuse_standby(&mut conn).await?;
        Ok::<_, sqlx::Error>(conn)
    });
    match connected.await {
        Ok(conn) => Ok(conn?),
        Err(_) => Err(OpenError::Unavailable("no answer within the bound".to_owned())),
    }
}

/// A standby's answers are from the past: a revoked key would be good there.
async fn refuse_standby(conn: &mut PgConnection) -> sqlx::Result<()> {
    // A simple query, so that it works through a pooler.
    let row = conn.fetch_one(sqlx::raw_sql("SELECT pg_is_in_recovery()")).await?;
    if sqlx::Row::try_get_unchecked::<bool, _>(&row, 0)? {
        return Err(sqlx::Error::Io(std::io::Error::other("the server is a standby")));
    }
    Ok(())
}

impl Shared {
    fn new(options: PostgresOptions, connect: PgConnectOptions) -> Self {
        let rules = Rules {
            most: options.max_connections,
            acquire_timeout: options.acquire_timeout,
            // Firewalls forget connections that are quiet for long, and servers' memory of old ones grows.
            idle: Some(Duration::from_secs(60)),
            lifetime: Some(Duration::from_secs(1_800)),
            admit: |conn| Box::pin(refuse_standby(conn)),
            runtime: options.runtime.clone(),
        };
        let pool = Pool::new(connect.clone(), rules);
        let begin = options.pooler.then(|| {
            let bound = options.statement_timeout.as_millis();
            // READ WRITE is refused by a standby. A replica that is paused between a statement and its COMMIT holds the
            // statement's locks, which every other writer waits for: the server ends the transaction.
            format!(
                "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL statement_timeout = {bound}; \
                 SET LOCAL idle_in_transaction_session_timeout = {bound}"
            )
        });
        Self { pool, options, connect, begin, lookups: AtomicU64::new(0) }
    }

    /// One attempt on one connection.
    async fn attempt<I: Sync, T: Send>(&self, deadline: Instant, input: &I, job: Job<I, T>) -> Outcome<T> {
        let conn = self.pool.take().await.map_err(Failure::Unreachable)?;
        let bound = Instant::now() + self.options.statement_timeout + GRACE;
        let mut link = Link { conn, persistent: !self.options.pooler };
        let outcome = within(bound.min(deadline), self.transact(&mut link, input, job)).await;
        link.settle(outcome)
    }

    /// Runs a job: bare, so that each of its statements commits by itself; behind a pooler, in a transaction, without
    /// which the parts of one statement may reach different servers.
    async fn transact<I: Sync, T: Send>(&self, link: &mut Link<Driver>, input: &I, job: Job<I, T>) -> Outcome<T> {
        let Some(begin) = &self.begin else { return job(link, input).await };
        // A server that has become a standby refuses it.
        link.conn.execute(sqlx::raw_sql(AssertSqlSafe(begin.clone()))).await.map_err(Failure::Unreachable)?;
        let outcome = job(link, input).await;
        let end = if outcome.is_ok() { "COMMIT" } else { "ROLLBACK" };
        link.conn.execute(sqlx::raw_sql(end)).await?;
        outcome
    }

    /// Attempts until one gives an answer, or trying again would not help.
    async fn run<I: Sync, T: Send>(&self, input: &I, job: Job<I, T>) -> Result<T> {
        let deadline = Instant::now() + self.options.acquire_timeout + self.options.statement_timeout + GRACE;
        let mut lost = false;
        let mut conflicts = 0;
        loop {
            let failure = match self.attempt(deadline, input, job).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let class = failure.class();
            if class == Class::Lost || matches!(failure, Failure::TimedOut) {
                // The server went away, and every connection to it with it.
                self.pool.suspect_all();
            }
            match class {
                Class::Lost if !lost => lost = true,
                Class::Conflict if conflicts < CONFLICTS => conflicts += 1,
                _ => return Err(failure.into()),
            }
            if Instant::now() >= deadline {
                return Err(failure.into());
            }
        }
    }
}

impl Writer for Shared {
    async fn write<I: Send + Sync, T: Send>(&self, input: &I, job: Job<I, T>) -> Result<T> {
        self.run(input, job).await
    }
}

impl Backend for Postgres {
    async fn run<I, T>(&self, _: Kind, input: I, job: Job<I, T>) -> Result<T>
    where
        I: Send + Sync + 'static,
        T: Send + 'static,
    {
        let shared = Arc::clone(&self.shared);
        in_own_task(&self.shared.options.runtime, async move { shared.run(&input, job).await }).await
    }

    fn gathered(&self) -> &Gathered {
        &self.gathered
    }

    fn lookups(&self) -> &AtomicU64 {
        &self.shared.lookups
    }

    fn gauge(&self) -> PoolGauge {
        self.shared.pool.gauge()
    }

    async fn end(&self) {
        self.shared.pool.close().await;
    }
}

statements!(Driver, PgArguments);

#[async_trait]
impl Session for Link<Driver> {
    async fn facts_of_digests(&mut self, digests: &[Digest]) -> sqlx::Result<Vec<FactsRow>> {
        let digests: Vec<&[u8]> = digests.iter().map(|digest| digest.0.as_slice()).collect();
        let query = sqlx::query_as(FIND_BY_DIGESTS).persistent(self.persistent).bind(digests);
        query.fetch_all(&mut *self.conn).await
    }

    async fn keys_of_ids(&mut self, ids: &[Uuid]) -> sqlx::Result<Vec<KeyRow>> {
        sqlx::query_as(FIND_BY_IDS).persistent(self.persistent).bind(ids).fetch_all(&mut *self.conn).await
    }

    async fn first_key(&mut self, _: &KeyRecord, values: &[Value<'_>]) -> sqlx::Result<bool> {
        Ok(self.execute(FIRST_KEY, values).await? == 1)
    }

    async fn add_usage(&mut self, usage: &[Usage]) -> sqlx::Result<()> {
        let ids: Vec<Uuid> = usage.iter().map(|one| one.id.0).collect();
        let times: Vec<i64> = usage.iter().map(|one| one.last_used_at).collect();
        let counts: Vec<i64> = usage.iter().map(|one| one.count).collect();
        let query = sqlx::query(ADD_USAGE).persistent(self.persistent).bind(ids).bind(times).bind(counts);
        query.execute(&mut *self.conn).await?;
        Ok(())
    }

    async fn replicas(&mut self) -> sqlx::Result<Vec<ReplicaRow>> {
        let query = sqlx::query_as(REPLICAS).persistent(self.persistent);
        let rows: Vec<(Uuid, i64, i64, i64)> = query.fetch_all(&mut *self.conn).await?;
        let row = |(id, step, lease_ms, seen_revision)| ReplicaRow { id, step, lease_ms, seen_revision };
        Ok(rows.into_iter().map(row).collect())
    }

    async fn writable(&mut self) -> sqlx::Result<bool> {
        sqlx::query_scalar(WRITABLE).persistent(self.persistent).fetch_one(&mut *self.conn).await
    }

    async fn applied(&mut self) -> sqlx::Result<Vec<i64>> {
        if sqlx::query_scalar(HAS_MIGRATIONS).persistent(self.persistent).fetch_one(&mut *self.conn).await? {
            self.numbers(migrate::APPLIED).await
        } else {
            Ok(Vec::new())
        }
    }
}
