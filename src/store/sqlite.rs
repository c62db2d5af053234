//! The SQLite backend: one process, one file.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use data_encoding::HEXLOWER;
use sqlx::{
    Arguments as _, ConnectOptions as _, Sqlite as Driver,
    migrate::Migrator,
    sqlite::{SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};
use tokio::{runtime::Handle, time::Instant};
use uuid::Uuid;

use super::{
    PoolGauge, ReplicaRow, Result, Usage,
    event_rows::{ClaimRow, DeliveryRow, EventRow, ExpiringRow},
    failure::{Failure, Outcome},
    migrate::{self, OpenError},
    pool::{Pool, Rules},
    session::{Job, Link, Session, Statements, Value, in_own_task, statements, within},
    sql::{FIND_BY_ID, FactsRow, KeyRow, facts, new_columns, new_values},
    verbs::{self, Backend, Gathered, Kind},
    writes::Writer,
};
use crate::domain::{
    event::EventType,
    key::{Digest, KeyRecord},
};

static MIGRATOR: LazyLock<Migrator> = LazyLock::new(|| migrate::migrator(migrate::SQLITE));

/// A JSON array: SQLite has no array parameters.
const FIND_BY_DIGESTS: &str =
    concat!("SELECT ", facts!(), " FROM keyward_keys k WHERE k.digest IN (SELECT unhex(value) FROM json_each($1))");

/// SQLite knows no INSERT inside a WITH, so the first key takes two statements in a transaction.
const TAKE_FIRST_KEY: &str = "INSERT INTO keyward_settings (name, value) SELECT 'first_root_key', hex($1) \
     WHERE NOT EXISTS (SELECT 1 FROM keyward_keys) ON CONFLICT DO NOTHING";
const WRITE_FIRST_KEY: &str = concat!("INSERT INTO keyward_keys (", new_columns!(), ") VALUES (", new_values!(), ")");

/// A JSON array of arrays: SQLite has no array parameters. Its `max` of two is Postgres's `GREATEST`.
const ADD_USAGE: &str = "INSERT INTO keyward_usage (key_id, last_used_at, count) \
     SELECT k.id, n.value ->> 1, n.value ->> 2 FROM json_each($1) AS n \
     JOIN keyward_keys k ON k.id = unhex(n.value ->> 0) WHERE TRUE \
     ON CONFLICT (key_id) DO UPDATE SET last_used_at = max(keyward_usage.last_used_at, excluded.last_used_at), \
     count = keyward_usage.count + excluded.count";

const HAS_MIGRATIONS: &str = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'keyward_migrations'";

/// The statements that only SQLite understands, by name, for the test that prepares each.
pub const OWN_STATEMENTS: &[(&str, &str)] = &[
    ("FIND_BY_DIGESTS", FIND_BY_DIGESTS),
    ("TAKE_FIRST_KEY", TAKE_FIRST_KEY),
    ("WRITE_FIRST_KEY", WRITE_FIRST_KEY),
    ("ADD_USAGE", ADD_USAGE),
    ("HAS_MIGRATIONS", HAS_MIGRATIONS),
];

/// Where the file is, and how long to wait for it.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// `sqlite://PATH`; the file is made if it is missing.
    pub url: String,
    /// Connections that read.
    pub readers: u32,
    /// How long a call waits for a connection.
    pub acquire_timeout: Duration,
    /// How long a call waits for the database.
    pub statement_timeout: Duration,
    /// Where calls run.
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

/// The backend.
pub struct Sqlite {
    shared: Arc<Shared>,
    gathered: Gathered,
}

/// What a call's own task needs. The lock is released when the last of them is dropped.
struct Shared {
    writer: Arc<Pool<Driver>>,
    readers: Arc<Pool<Driver>>,
    options: SqliteOptions,
    lookups: AtomicU64,
    _lock: File,
}

impl Sqlite {
    /// Makes the file if it is missing, and locks it for this process. Migrations are not applied.
    pub async fn open(options: SqliteOptions) -> std::result::Result<Arc<Self>, OpenError> {
        let runtime = options.runtime.clone();
        in_own_task(&runtime, async move {
            let (path, lock) = claim(&options.url)?;
            let shared = Arc::new(Shared::new(options, &path, lock));
            // Turns the journal into a WAL before a reader comes, and shows at once what cannot be opened.
            shared.writer.take().await?.give_back();
            // One transaction at a time: there is one writer.
            let gathered = Gathered::start(&shared, 1, &shared.options.runtime);
            Ok(Arc::new(Self { shared, gathered }))
        })
        .await
    }

    /// Applies pending migrations.
    pub async fn migrate(&self) -> std::result::Result<(), OpenError> {
        let shared = Arc::clone(&self.shared);
        in_own_task(&self.shared.options.runtime, async move {
            let mut conn = shared.writer.take().await?;
            migrate::apply(&MIGRATOR, &mut *conn).await?;
            conn.give_back();
            Ok(())
        })
        .await
    }

    /// How many migrations are yet to be applied; an error when the database is newer than the program.
    pub async fn migrations_pending(&self) -> std::result::Result<usize, OpenError> {
        migrate::pending(&MIGRATOR, &verbs::applied_migrations(self).await?)
    }

    /// How many statements have looked up digests.
    pub fn queries(&self) -> u64 {
        self.shared.lookups.load(Ordering::Relaxed)
    }
}

/// Makes the file readable by its owner alone (it holds digests), and takes the lock beside it: a second process would
/// answer from memory what this one has revoked.
fn claim(url: &str) -> std::result::Result<(PathBuf, File), OpenError> {
    let refused_url = |reason: &str| OpenError::Url(format!("{reason}: must be such as sqlite://keyward.db"));
    let body = url.strip_prefix("sqlite:").ok_or_else(|| refused_url("not a SQLite URL"))?;
    if body.contains('?') {
        return Err(refused_url("takes no parameters"));
    }
    // Each connection would have a database of its own.
    if matches!(body.trim_start_matches('/'), "" | ":memory:") {
        return Err(refused_url("names no file"));
    }
    let parsed: SqliteConnectOptions = url.parse().map_err(|error: sqlx::Error| refused_url(&error.to_string()))?;
    let named = parsed.get_filename();
    let refused = |path: &Path, error: &io::Error| OpenError::Refused(format!("{}: {error}", path.display()));
    let private = |options: &mut OpenOptions, path: &Path| options.mode(0o600).open(path);
    match private(OpenOptions::new().write(true).create_new(true), named) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(refused(named, &error)),
        _ => {}
    }
    // Two names of one file must find one lock.
    let path = named.canonicalize().map_err(|error| refused(named, &error))?;
    let mut beside = path.clone().into_os_string();
    beside.push(".lock");
    let beside = PathBuf::from(beside);
    let lock = private(OpenOptions::new().write(true).create(true).truncate(false), &beside)
        .map_err(|error| refused(&beside, &error))?;
    match lock.try_lock() {
        Ok(()) => Ok((path, lock)),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse(path.display().to_string())),
        Err(TryLockError::Error(error)) => Err(refused(&beside, &error)),
    }
}

impl Shared {
    fn new(options: SqliteOptions, path: &Path, lock: File) -> Self {
        let connect = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(false)
            .journal_mode(SqliteJournalMode::Wal)
            // A commit is on the disk before it is acknowledged.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(options.statement_timeout)
            .foreign_keys(true)
            .disable_statement_logging();
        // Nothing is gained by closing a connection to a file.
        let rules = |most| Rules {
            most,
            acquire_timeout: options.acquire_timeout,
            idle: None,
            lifetime: None,
            admit: |_| Box::pin(std::future::ready(Ok(()))),
            runtime: options.runtime.clone(),
        };
        // One writer: SQLite has one at a time, and whoever waits for it here waits in turn.
        let writer = Pool::new(connect.clone(), rules(1));
        let readers = Pool::new(connect.pragma("query_only", "ON"), rules(options.readers));
        Self { writer, readers, options, lookups: AtomicU64::new(0), _lock: lock }
    }

    async fn run<I: Sync, T: Send>(&self, kind: Kind, input: &I, job: Job<I, T>) -> Outcome<T> {
        let pool = if kind == Kind::Read { &self.readers } else { &self.writer };
        let conn = pool.take().await.map_err(Failure::Unreachable)?;
        let deadline = Instant::now() + self.options.statement_timeout;
        let mut link = Link { conn, persistent: true };
        let outcome = within(deadline, job(&mut link, input)).await;
        link.settle(outcome)
    }
}

impl Writer for Shared {
    async fn write<I: Send + Sync, T: Send>(&self, input: &I, job: Job<I, T>) -> Result<T> {
        Ok(self.run(Kind::Write, input, job).await?)
    }
}

impl Backend for Sqlite {
    async fn run<I, T>(&self, kind: Kind, input: I, job: Job<I, T>) -> Result<T>
    where
        I: Send + Sync + 'static,
        T: Send + 'static,
    {
        let shared = Arc::clone(&self.shared);
        in_own_task(&self.shared.options.runtime, async move { Ok(shared.run(kind, &input, job).await?) }).await
    }

    fn gathered(&self) -> &Gathered {
        &self.gathered
    }

    fn lookups(&self) -> &AtomicU64 {
        &self.shared.lookups
    }

    fn gauge(&self) -> PoolGauge {
        let (writer, readers) = (self.shared.writer.gauge(), self.shared.readers.gauge());
        PoolGauge { open: writer.open + readers.open, idle: writer.idle + readers.idle }
    }

    async fn end(&self) {
        // The readers first: the last connection to close takes the WAL into the file.
        self.shared.readers.close().await;
        self.shared.writer.close().await;
    }
}

statements!(Driver, SqliteArguments);

async fn take_first_key(link: &mut Link<Driver>, key: &KeyRecord, values: &[Value<'_>]) -> sqlx::Result<bool> {
    let taken = link.execute(TAKE_FIRST_KEY, &values[..1]).await? == 1;
    let written = taken && link.execute(WRITE_FIRST_KEY, values).await? == 1;
    if written {
        link.tell((key.id.0, EventType::KeyCreated, None), &key.created_by, key.id.0, key.created_at).await?;
    }
    Ok(written)
}

#[async_trait]
impl Session for Link<Driver> {
    async fn facts_of_digests(&mut self, digests: &[Digest]) -> sqlx::Result<Vec<FactsRow>> {
        let digests: Vec<String> = digests.iter().map(|digest| HEXLOWER.encode(&digest.0)).collect();
        let digests = serde_json::Value::from(digests).to_string();
        self.facts(FIND_BY_DIGESTS, &[Value::Text(&digests)]).await
    }

    async fn keys_of_ids(&mut self, ids: &[Uuid]) -> sqlx::Result<Vec<KeyRow>> {
        let mut rows = Vec::with_capacity(ids.len());
        for id in ids {
            rows.append(&mut self.keys(FIND_BY_ID, &[Value::Id(*id)]).await?);
        }
        Ok(rows)
    }

    async fn first_key(&mut self, key: &KeyRecord, values: &[Value<'_>]) -> sqlx::Result<bool> {
        self.execute("BEGIN IMMEDIATE", &[]).await?;
        let written = take_first_key(self, key, values).await;
        self.end(written).await
    }

    async fn add_usage(&mut self, usage: &[Usage]) -> sqlx::Result<()> {
        let rows = usage
            .iter()
            .map(|one| serde_json::json!([HEXLOWER.encode(one.id.0.as_bytes()), one.last_used_at, one.count]));
        let rows = rows.collect::<serde_json::Value>().to_string();
        self.execute(ADD_USAGE, &[Value::Text(&rows)]).await?;
        Ok(())
    }

    async fn replicas(&mut self) -> sqlx::Result<Vec<ReplicaRow>> {
        Ok(Vec::new())
    }

    async fn writable(&mut self) -> sqlx::Result<bool> {
        // Takes the lock of a writer, and writes nothing.
        self.execute("BEGIN IMMEDIATE", &[]).await?;
        self.execute("ROLLBACK", &[]).await?;
        Ok(true)
    }

    async fn applied(&mut self) -> sqlx::Result<Vec<i64>> {
        match self.numbers(HAS_MIGRATIONS).await?.as_slice() {
            [1] => self.numbers(migrate::APPLIED).await,
            _ => Ok(Vec::new()),
        }
    }
}
