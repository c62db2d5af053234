//! What a call does when the database is slow, silent, unavailable or back, and when its caller stops waiting.

use std::time::{Duration, Instant};

use futures::poll;
use keyward::store::{KeyStore as _, Store as _, StoreError, Usage, postgres::PostgresOptions};
use sqlx::Executor as _;
use tempfile::TempDir;

use crate::{
    change::{revocation, webhook},
    database::Database,
    fixture::{
        Fixture, Raw, eventually, key, now, open_postgres, open_sqlite, postgres_options, raw_postgres, raw_sqlite,
        sqlite_options, write,
    },
    proxy::Proxy,
    support,
};

/// Timeout of a call: short enough for a test, and long enough for calls that must succeed on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Far longer than the timeout, yet short of waiting for ever.
const LONG: Duration = Duration::from_secs(20);

fn unavailable<T: std::fmt::Debug>(answer: &Result<T, StoreError>) {
    assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
}

/// Keeps every writer waiting until the transaction ends.
async fn block(raw: &mut Raw) {
    let block = match raw {
        Raw::Postgres(_) => "BEGIN; LOCK TABLE keyward_keys IN SHARE MODE",
        Raw::Sqlite(_) => "BEGIN IMMEDIATE",
    };
    raw.execute(block).await.unwrap();
}

/// As when a request is cancelled: the change must not depend on a caller waiting for it.
pub async fn a_dropped_callers_write_still_lands(f: Fixture) {
    let mut f = f;
    let id = write(&f.store, [key()]).await[0];
    block(&mut f.raw).await;
    {
        let mut call = f.store.revoke_key(id, revocation("stolen"));
        assert!(poll!(call.as_mut()).is_pending());
    }
    f.raw.execute("COMMIT").await.unwrap();
    eventually("the key is revoked", async || f.store.find_by_id(id).await.unwrap().unwrap().revoked_at.is_some())
        .await;
}

pub async fn a_closed_store_is_unavailable(f: Fixture) {
    let id = write(&f.store, [key()]).await[0];
    f.store.close().await;
    assert_eq!(f.store.pool().open, 0);
    unavailable(&f.store.find_by_id(id).await);
    unavailable(&f.store.ping().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_call_that_times_out_closes_its_connection() {
    for pooler in [false, true] {
        let mut options = postgres_options().await;
        options.statement_timeout = TIMEOUT;
        options.pooler = pooler;
        options.migrate_url = Some(options.url.clone());
        let mut raw = raw_postgres(&options.url).await;
        let store = open_postgres(options).await;
        let made = key();
        store.create_key(made.clone()).await.unwrap();
        raw.execute("BEGIN; LOCK TABLE keyward_keys IN ACCESS EXCLUSIVE MODE").await.unwrap();
        let started = Instant::now();
        unavailable(&store.revoke_key(made.id, revocation("")).await);
        unavailable(&store.find_by_digests(vec![made.digest]).await);
        assert!(started.elapsed() < LONG, "{:?}", started.elapsed());
        eventually("the connections are closed", async || store.pool().open == 0).await;
        eventually("the server has cancelled the statements, too", async || {
            let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                 AND wait_event_type = 'Lock'";
            sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut raw).await.unwrap() == 0
        })
        .await;
        raw.execute("COMMIT").await.unwrap();
        assert_eq!(store.find_by_id(made.id).await.unwrap().unwrap().revoked_at, None);
    }
}

/// Behind a pooler a change is a transaction. A replica that is stopped inside one holds the lock on the row that every
/// change needs. The test stops it by keeping its only thread busy.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_stops_inside_a_transaction_does_not_stop_the_others() {
    let thread = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (proxy, stopped) = behind_proxy(|options| {
        options.statement_timeout = TIMEOUT;
        options.pooler = true;
        options.migrate_url = Some(options.url.clone());
        options.runtime = thread.handle().clone();
    })
    .await;
    let others = open_postgres(PostgresOptions::new(url_of(&stopped), tokio::runtime::Handle::current())).await;
    let (held_key, other_key) = (key(), key());
    others.create_key(held_key.clone()).await.unwrap();
    others.create_key(other_key.clone()).await.unwrap();
    proxy.hold_replies_to(b"held back");
    let held = tokio::spawn(async move { stopped.revoke_key(held_key.id, revocation("held back")).await });
    proxy.holds_a_reply().await;
    let (resume, paused) = std::sync::mpsc::channel::<()>();
    thread.spawn(async move { paused.recv().is_err() });
    // Its own timeout is far longer than that of the stopped replica.
    assert!(others.revoke_key(other_key.id, revocation("")).await.unwrap().unwrap().revoked_at.is_some());
    assert_eq!(
        others.find_by_id(held_key.id).await.unwrap().unwrap().revoked_at,
        None,
        "the held change is rolled back"
    );
    drop(resume);
    proxy.release();
    let _ = held.await.unwrap();
    thread.shutdown_background();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sqlite_call_that_times_out_closes_its_connection() {
    let dir = TempDir::new().unwrap();
    drop(open_sqlite(&dir).await);
    let mut options = sqlite_options(&dir);
    options.statement_timeout = TIMEOUT;
    let store = crate::fixture::reopen_sqlite(options).await;
    let made = key();
    store.create_key(made.clone()).await.unwrap();
    let mut raw = raw_sqlite(&dir).await;
    raw.execute("BEGIN IMMEDIATE").await.unwrap();
    let open = store.pool().open;
    let started = Instant::now();
    unavailable(&store.revoke_key(made.id, revocation("")).await);
    assert!(started.elapsed() < LONG, "{:?}", started.elapsed());
    eventually("the writer is closed", async || store.pool().open < open).await;
    // Readers are not affected.
    assert_eq!(store.find_by_digests(vec![made.digest]).await.unwrap().len(), 1);
    raw.execute("COMMIT").await.unwrap();
    assert!(store.revoke_key(made.id, revocation("")).await.unwrap().unwrap().revoked_at.is_some());
}

/// A store behind a proxy, with one key and only idle connections.
async fn behind_proxy(
    change: impl FnOnce(&mut PostgresOptions),
) -> (Proxy, std::sync::Arc<keyward::store::postgres::Postgres>) {
    let server = support::server();
    let (before, address) = server.rsplit_once('@').unwrap();
    let proxy = Proxy::start(address.parse().unwrap()).await;
    let mut options = postgres_options().await;
    options.url = options.url.replace(&server, &format!("{before}@{}", proxy.address()));
    change(&mut options);
    let store = open_postgres(options).await;
    store.create_key(key()).await.unwrap();
    until_idle(&store).await;
    (proxy, store)
}

async fn until_idle(store: &keyward::store::postgres::Postgres) {
    eventually("every connection is idle", async || store.pool().idle == store.pool().open).await;
}

/// Opens several connections, as under load.
async fn open_several(store: &std::sync::Arc<keyward::store::postgres::Postgres>) {
    eventually("several connections are open", async || {
        futures::future::join_all((0..8).map(|_| store.ping())).await;
        store.pool().open >= 4
    })
    .await;
    until_idle(store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_reply_is_lost_is_retried() {
    // One connection, so that a statement prepared by one call is prepared for the next.
    let (proxy, store) = behind_proxy(|options| options.max_connections = 1).await;
    let made = key();
    proxy.lose_next_reply();
    store.create_key(made.clone()).await.unwrap();
    proxy.lost_a_reply().await;
    // Prepares the statement on the new connection, so that the lost reply is that of the change itself.
    store.revoke_key(key().id, revocation("")).await.unwrap();
    until_idle(&store).await;
    proxy.lose_next_reply();
    let revoked = store.revoke_key(made.id, revocation("")).await.unwrap().unwrap();
    proxy.lost_a_reply().await;
    assert_eq!(revoked.revision, 1, "a change is made once");
}

/// Counts of uses are approximate: a write that may have happened is repeated, so that the last use is not lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_usage_write_whose_reply_is_lost_is_retried() {
    // One connection, so that a statement prepared by one call is prepared for the next.
    let (proxy, store) = behind_proxy(|options| options.max_connections = 1).await;
    let id = store.list_keys(crate::fixture::everything()).await.unwrap().rows[0].id;
    store.record_usage(vec![Usage { id, last_used_at: 1, count: 1 }]).await.unwrap();
    until_idle(&store).await;
    proxy.lose_next_reply();
    store.record_usage(vec![Usage { id, last_used_at: 7, count: 1 }]).await.unwrap();
    proxy.lost_a_reply().await;
    let mut raw = raw_postgres(&url_of(&store)).await;
    let row = sqlx::query_as("SELECT last_used_at, count FROM keyward_usage").fetch_one(&mut raw).await;
    let (last, count): (i64, i64) = row.unwrap();
    assert!(last == 7 && (2..=3).contains(&count), "{last} {count}");
}

/// The secret is shown only in this answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_whose_reply_is_lost_is_set_once_and_reported_as_set() {
    let (proxy, store) = behind_proxy(|options| options.max_connections = 1).await;
    let made = key();
    store.create_key(made.clone()).await.unwrap();
    store.set_webhook(made.id, webhook("https://a.example/", now())).await.unwrap();
    until_idle(&store).await;
    proxy.lose_next_reply();
    let update = webhook("https://b.example/", now());
    let change = store.set_webhook(made.id, update).await.unwrap().unwrap();
    proxy.lost_a_reply().await;
    assert!(change.applied);
    assert_eq!((change.key.webhook_url.as_str(), change.key.revision), ("https://b.example/", 2));
    let mut raw = raw_postgres(&url_of(&store)).await;
    let written = "SELECT count(*) FROM keyward_events WHERE type = 'webhook.updated'";
    assert_eq!(sqlx::query_scalar::<_, i64>(written).fetch_one(&mut raw).await.unwrap(), 2);
}

fn url_of(store: &keyward::store::postgres::Postgres) -> String {
    let options = store.connect_options();
    format!("{}/{}", support::server(), options.get_database().unwrap())
}

/// As after a restart of the database: every pooled connection is broken, and no call fails because of that.
#[tokio::test(flavor = "multi_thread")]
async fn recovery_after_a_restart_is_immediate() {
    let (proxy, store) = behind_proxy(|_| ()).await;
    open_several(&store).await;
    proxy.cut();
    let made = key();
    store.create_key(made.clone()).await.unwrap();
    open_several(&store).await;
    proxy.cut();
    assert_eq!(store.find_by_digests(vec![made.digest]).await.unwrap().len(), 1);
    open_several(&store).await;
    // Closed with an error from the server instead of a closed socket.
    let mut raw = raw_postgres(&url_of(&store)).await;
    raw.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    .await
    .unwrap();
    assert!(store.revoke_key(made.id, revocation("")).await.unwrap().is_some());
}

/// A call during the server's restart waits for it, within the timeout.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_waits_for_a_restart() {
    let database = tokio::task::block_in_place(|| Database::start(""));
    let store = open_postgres(PostgresOptions::new(database.url(), tokio::runtime::Handle::current())).await;
    let made = key();
    store.create_key(made.clone()).await.unwrap();
    tokio::task::block_in_place(|| database.crash());
    let reader = std::sync::Arc::clone(&store);
    let found = tokio::spawn(async move { reader.find_by_id(made.id).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!found.is_finished());
    tokio::task::block_in_place(|| database.restart());
    assert!(found.await.unwrap().unwrap().is_some());
}

/// A network that drops everything: calls time out, and the store recovers with the network.
#[tokio::test(flavor = "multi_thread")]
async fn calls_on_a_silent_network_time_out() {
    let (proxy, store) = behind_proxy(|options| {
        options.statement_timeout = TIMEOUT;
        options.acquire_timeout = TIMEOUT;
    })
    .await;
    open_several(&store).await;
    proxy.silence(true);
    let started = Instant::now();
    unavailable(&store.ping().await);
    // Later calls open new connections, and that is bounded, too.
    unavailable(&store.ping().await);
    assert!(started.elapsed() < LONG, "{:?}", started.elapsed());
    proxy.silence(false);
    eventually("the store is back", async || store.ping().await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_database_does_not_ping() {
    let options = postgres_options().await;
    let url = options.url.clone();
    let store = open_postgres(options).await;
    store.ping().await.unwrap();
    let mut raw = raw_postgres(&url).await;
    raw.execute(
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database()); \
         END $$; SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    .await
    .unwrap();
    unavailable(&store.ping().await);
    unavailable(&store.create_key(key()).await);
}
