//! A store to test, and a connection to its rows without the store.

use std::{collections::BTreeMap, sync::Arc};

use keyward::{
    domain::{
        clock::{Clock as _, Entropy as _, Micros, SECOND, SystemClock, SystemEntropy},
        event::EventId,
        key::{Binding, Digest, KeyFacts, KeyId, KeyIdGenerator, KeyRecord},
        rate_limit::RateLimit,
    },
    store::{
        ListQuery, OpenError, Store,
        postgres::{Postgres, PostgresOptions},
        sqlite::{Sqlite, SqliteOptions},
    },
};
use sqlx::{
    ConnectOptions as _, PgConnection, SqliteConnection, postgres::PgConnectOptions, sqlite::SqliteConnectOptions,
};
use tempfile::TempDir;
use tokio::runtime::Handle;

use crate::support::fresh_database;

/// A migrated store on an empty database of its own.
pub struct Fixture {
    pub store: Arc<dyn Store>,
    pub raw: Raw,
    _dir: Option<TempDir>,
}

/// A connection to the database without the store.
pub enum Raw {
    Postgres(PgConnection),
    Sqlite(SqliteConnection),
}

impl Raw {
    /// Reads one number.
    pub async fn number(&mut self, sql: &'static str) -> i64 {
        match self {
            Self::Postgres(conn) => sqlx::query_scalar(sql).fetch_one(conn).await.expect("a number"),
            Self::Sqlite(conn) => sqlx::query_scalar(sql).fetch_one(conn).await.expect("a number"),
        }
    }

    /// Runs statements.
    pub async fn execute(&mut self, sql: &'static str) -> sqlx::Result<()> {
        match self {
            Self::Postgres(conn) => sqlx::raw_sql(sql).execute(conn).await.map(drop),
            Self::Sqlite(conn) => sqlx::raw_sql(sql).execute(conn).await.map(drop),
        }
    }
}

/// The options of a Postgres store on an empty database.
pub async fn postgres_options() -> PostgresOptions {
    PostgresOptions::new(fresh_database().await, Handle::current())
}

/// An open and migrated Postgres store.
pub async fn open_postgres(options: PostgresOptions) -> Arc<Postgres> {
    let store = Postgres::open(options).await.expect("the store opens");
    store.migrate().await.expect("the migrations apply");
    store
}

/// The options of a SQLite store in a folder.
pub fn sqlite_options(dir: &TempDir) -> SqliteOptions {
    SqliteOptions::new(format!("sqlite://{}", dir.path().join("keyward.db").display()), Handle::current())
}

/// An open and migrated SQLite store.
pub async fn open_sqlite(dir: &TempDir) -> Arc<Sqlite> {
    reopen_sqlite(sqlite_options(dir)).await
}

/// The same with other options. A dropped store releases its lock when its last call has ended, so this waits for the lock.
pub async fn reopen_sqlite(options: SqliteOptions) -> Arc<Sqlite> {
    let mut opened = None;
    eventually("the lock is free", async || match Sqlite::open(options.clone()).await {
        Ok(store) => {
            opened = Some(store);
            true
        }
        Err(OpenError::InUse(_)) => false,
        Err(error) => panic!("the store opens: {error}"),
    })
    .await;
    let store = opened.expect("a store");
    store.migrate().await.expect("the migrations apply");
    store
}

/// Opens a connection to a Postgres database.
pub async fn raw_postgres(url: &str) -> PgConnection {
    let options: PgConnectOptions = url.parse().expect("a URL");
    options.connect().await.expect("the database answers")
}

/// Opens a connection to a SQLite file.
pub async fn raw_sqlite(dir: &TempDir) -> SqliteConnection {
    SqliteConnectOptions::new()
        .filename(dir.path().join("keyward.db"))
        .busy_timeout(std::time::Duration::from_secs(5))
        .connect()
        .await
        .expect("the file opens")
}

/// A fixture on Postgres.
pub async fn postgres() -> Fixture {
    let options = postgres_options().await;
    let raw = Raw::Postgres(raw_postgres(&options.url).await);
    Fixture { store: open_postgres(options).await, raw, _dir: None }
}

/// A fixture on Postgres as behind a pooler. `KEYWARD_TEST_POOLER` (`HOST:PORT`) puts a real one between.
pub async fn pooled_postgres() -> Fixture {
    let mut options = postgres_options().await;
    let raw = Raw::Postgres(raw_postgres(&options.url).await);
    options.pooler = true;
    options.migrate_url = Some(options.url.clone());
    if let Ok(pooler) = std::env::var("KEYWARD_TEST_POOLER") {
        let address = crate::support::server().rsplit_once('@').expect("a user").1.to_owned();
        options.url = options.url.replace(&address, &pooler);
    }
    Fixture { store: open_postgres(options).await, raw, _dir: None }
}

/// A fixture on SQLite.
pub async fn sqlite() -> Fixture {
    let dir = TempDir::new().expect("a folder");
    let store = open_sqlite(&dir).await;
    let raw = Raw::Sqlite(raw_sqlite(&dir).await);
    Fixture { store, raw, _dir: Some(dir) }
}

/// The wall clock.
pub fn now() -> Micros {
    SystemClock.wall()
}

/// The id of an event that happens now.
pub fn event_id() -> EventId {
    EventId(IDS.next(&SystemClock, &SystemEntropy).0)
}

static IDS: std::sync::LazyLock<KeyIdGenerator> = std::sync::LazyLock::new(KeyIdGenerator::default);

/// A new key with a digest of its own and a value in every column.
pub fn key() -> KeyRecord {
    let mut digest = [0; 32];
    SystemEntropy.fill(&mut digest);
    KeyRecord {
        id: IDS.next(&SystemClock, &SystemEntropy),
        keyspace: "norrix".to_owned(),
        digest: Digest(digest),
        prefix: "nrx_AbCdEfGh".to_owned(),
        binding: Binding {
            organization: "acme".to_owned(),
            instance: "eu-1".to_owned(),
            environment: "production".to_owned(),
        },
        name: "build machine".to_owned(),
        scopes: vec!["build".to_owned(), "submit".to_owned()],
        created_at: now(),
        expires_at: Some(now() + 3600 * SECOND),
        revoked_at: None,
        revoke_reason: String::new(),
        created_by: "root".to_owned(),
        revoked_by: String::new(),
        webhook_url: "https://example.com/hook".to_owned(),
        webhook_version: 1,
        metadata: BTreeMap::from([("team".to_owned(), "compilers".to_owned())]),
        rate_limit: Some(RateLimit { limit: 7, window: 90 * SECOND }),
        keyspaces: vec!["norrix".to_owned(), "noro".to_owned()],
        revision: 0,
        last_used_at: None,
    }
}

/// The part of a key that a look-up reads.
pub fn facts(key: &KeyRecord) -> KeyFacts {
    key.into()
}

/// A key with some of its parts changed.
pub fn key_with(change: impl FnOnce(&mut KeyRecord)) -> KeyRecord {
    let mut key = key();
    change(&mut key);
    key
}

/// Adds 100,000 keys as the tests of plans do.
pub async fn fill(raw: &mut Raw) {
    match raw {
        Raw::Postgres(_) => raw.execute(crate::plans::FILL_POSTGRES).await.expect("keys"),
        Raw::Sqlite(_) => raw.execute(crate::plans::FILL_SQLITE).await.expect("keys"),
    }
}

/// Every key, up to a page of 1,000.
pub fn everything() -> ListQuery {
    ListQuery {
        keyspace: None,
        organization: None,
        instance: None,
        environment: None,
        status: None,
        created_by: None,
        before: None,
        limit: 1_000,
        now: now(),
    }
}

/// Writes keys and returns their ids, newest first, like a list.
pub async fn write(store: &Arc<dyn Store>, keys: impl IntoIterator<Item = KeyRecord>) -> Vec<KeyId> {
    let mut ids = Vec::new();
    for key in keys {
        ids.insert(0, key.id);
        store.create_key(key).await.expect("the key is written");
    }
    ids
}

/// The ids of a page.
pub async fn ids(store: &Arc<dyn Store>, query: ListQuery) -> Vec<KeyId> {
    store.list_keys(query).await.expect("a page").rows.into_iter().map(|key| key.id).collect()
}

/// Waits until something holds; it fails when it does not within half a minute.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !holds().await {
        assert!(std::time::Instant::now() < deadline, "not within 30 s: {what}");
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}
