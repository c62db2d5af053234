//! What only Postgres can show: replicas at once, the order of commits, durability, and which servers are refused.

use std::sync::Arc;

use futures::future::join_all;
use keyward::{
    domain::{event::EventId, key::KeyId},
    store::{
        EventStore as _, KeyStore as _, OpenError, Store, StoreError, Usage,
        postgres::{Postgres, PostgresOptions},
    },
};
use sqlx::{Executor as _, PgConnection, postgres::PgListener};
use tokio::runtime::Handle;

use crate::{
    change::revocation,
    database::Database,
    fixture::{eventually, everything, key, open_postgres, postgres_options, raw_postgres},
    support,
};

#[tokio::test(flavor = "multi_thread")]
async fn eight_replicas_migrate_an_empty_database_at_once() {
    let options = postgres_options().await;
    let replicas = join_all((0..8).map(|_| Postgres::open(options.clone()))).await;
    let replicas: Vec<_> = replicas.into_iter().map(Result::unwrap).collect();
    for migrated in join_all(replicas.iter().map(|replica| replica.migrate())).await {
        migrated.unwrap();
    }
    for replica in &replicas {
        assert_eq!(replica.migrations_pending().await.unwrap(), 0);
        replica.create_key(key()).await.unwrap();
    }
    let mut raw = raw_postgres(&options.url).await;
    let foreign: Vec<String> = sqlx::query_scalar(
        "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' AND tablename NOT LIKE 'keyward\\_%'",
    )
    .fetch_all(&mut raw)
    .await
    .unwrap();
    assert!(foreign.is_empty(), "{foreign:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn migrations_apply_once_and_a_newer_database_is_refused() {
    let options = postgres_options().await;
    let store = Postgres::open(options.clone()).await.unwrap();
    // The lock that migrations take would not hold behind a pooler.
    let pooled = Postgres::open(PostgresOptions { pooler: true, ..options.clone() }).await.unwrap();
    assert!(store.migrations_pending().await.unwrap() > 0);
    assert!(matches!(pooled.migrate().await, Err(OpenError::NeedsDirectUrl)));
    for _ in 0..2 {
        store.migrate().await.unwrap();
        assert_eq!(store.migrations_pending().await.unwrap(), 0);
    }
    pooled.migrate().await.unwrap();
    let mut raw = raw_postgres(&options.url).await;
    raw.execute(
        "INSERT INTO keyward_migrations (version, description, success, checksum, execution_time) \
         VALUES (9999, 'later', TRUE, '', 1)",
    )
    .await
    .unwrap();
    for refused in [store.migrate().await.unwrap_err(), store.migrations_pending().await.unwrap_err()] {
        assert!(matches!(refused, OpenError::NewerDatabase(9999)), "{refused}");
    }
}

/// The deterministic half of `revision_order`: a later revision cannot become visible before an earlier one.
#[tokio::test(flavor = "multi_thread")]
async fn a_later_change_waits_until_the_earlier_one_is_committed() {
    let options = postgres_options().await;
    let mut raw = raw_postgres(&options.url).await;
    let store = open_postgres(options.clone()).await;
    let (first, second) = (key(), key());
    for key in [&first, &second] {
        store.create_key(key.clone()).await.unwrap();
    }
    sqlx::query("BEGIN").execute(&mut raw).await.unwrap();
    let update = sqlx::query("UPDATE keyward_keys SET name = 'renamed' WHERE id = $1").bind(first.id.0);
    update.execute(&mut raw).await.unwrap();
    let later = tokio::spawn({
        let store = store.clone();
        async move { store.revoke_key(second.id, revocation("")).await }
    });
    let mut watch = raw_postgres(&options.url).await;
    eventually("the later change waits", async || {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
             AND wait_event_type = 'Lock' AND query LIKE '%UPDATE keyward_keys%' AND pid <> pg_backend_pid()";
        sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut watch).await.unwrap() == 1
    })
    .await;
    assert!(!later.is_finished());
    raw.execute("COMMIT").await.unwrap();
    assert_eq!(later.await.unwrap().unwrap().unwrap().revision, 2);
    assert_eq!(store.find_by_id(first.id).await.unwrap().unwrap().revision, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_written_durably_whatever_the_servers_default_is() {
    let options = postgres_options().await;
    let mut raw = raw_postgres(&options.url).await;
    let store = open_postgres(options).await;
    store.create_key(key()).await.unwrap();
    let insert = "INSERT INTO keyward_keys (id, keyspace, digest, created_at) \
         VALUES (gen_random_uuid(), 'k', sha256(gen_random_uuid()::text::bytea), 1)";
    let update = "UPDATE keyward_keys SET name = 'renamed'";
    let kept = ["on", "remote_apply", "remote_write"].map(|setting| (setting, setting));
    for (default, expected) in [("off", "on"), ("local", "on")].into_iter().chain(kept) {
        for statement in [insert, update] {
            raw.execute(sqlx::AssertSqlSafe(format!("SET synchronous_commit = {default}; BEGIN; {statement}")))
                .await
                .unwrap();
            let within: String =
                sqlx::query_scalar("SELECT current_setting('synchronous_commit')").fetch_one(&mut raw).await.unwrap();
            raw.execute("ROLLBACK").await.unwrap();
            assert_eq!(within, expected, "{statement} under {default}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_notified_with_its_revision() {
    let options = postgres_options().await;
    let store = open_postgres(options.clone()).await;
    let mut listener = PgListener::connect(&options.url).await.unwrap();
    listener.listen("keyward_changes").await.unwrap();
    let made = key();
    store.create_key(made.clone()).await.unwrap();
    store.revoke_key(made.id, revocation("")).await.unwrap();
    // A creation sends no notification: the first one is that of the revocation.
    assert_eq!(listener.recv().await.unwrap().payload(), "1");
}

/// A sequence is not rolled back, and so counts attempts.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_conflicts_with_another_is_retried() {
    for pooler in [false, true] {
        let mut options = postgres_options().await;
        options.migrate_url = Some(options.url.clone());
        options.pooler = pooler;
        let mut raw = raw_postgres(&options.url).await;
        let store = open_postgres(options).await;
        let made = key();
        store.create_key(made.clone()).await.unwrap();
        raw.execute(
            "CREATE SEQUENCE attempts; \
             CREATE FUNCTION cross_over() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             IF nextval('attempts') < 3 THEN RAISE EXCEPTION 'crossed' USING ERRCODE = '40001'; END IF; \
             RETURN NEW; END $$; \
             CREATE TRIGGER crosses BEFORE UPDATE ON keyward_keys FOR EACH ROW EXECUTE FUNCTION cross_over()",
        )
        .await
        .unwrap();
        assert_eq!(store.revoke_key(made.id, revocation("")).await.unwrap().unwrap().revision, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pool_is_bounded() {
    let mut options = postgres_options().await;
    options.max_connections = 2;
    let store = open_postgres(options).await;
    let pages = join_all((0..100).map(|_| store.list_keys(everything()))).await;
    assert!(pages.iter().all(Result::is_ok));
    assert!(store.pool().open <= 2, "{:?}", store.pool());
}

/// Two replicas count at the same time.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_create_no_more_keys_together_than_an_organization_may_have() {
    for pooler in [false, true] {
        let mut options = postgres_options().await;
        options.migrate_url = Some(options.url.clone());
        options.pooler = pooler;
        let one = open_postgres(options.clone()).await;
        let other = open_postgres(options).await;
        let created =
            join_all((0..60).map(|n| if n % 2 == 0 { &one } else { &other }.create_key_within(key(), 11))).await;
        assert_eq!(created.into_iter().filter(|created| *created.as_ref().unwrap()).count(), 11, "pooler: {pooler}");
    }
}

/// Look-ups and revocations have connections that lists cannot take.
#[tokio::test(flavor = "multi_thread")]
async fn lists_that_wait_for_the_database_leave_connections_to_others() {
    let mut options = postgres_options().await;
    options.max_connections = 4;
    let mut raw = raw_postgres(&options.url).await;
    let mut watching = raw_postgres(&options.url).await;
    let store = open_postgres(options).await;
    let made = key();
    store.create_key(made.clone()).await.unwrap();
    // Lists read this table, and nothing else does here.
    raw.execute("BEGIN; LOCK TABLE keyward_usage IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let lists: Vec<_> = (0..20)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.list_keys(everything()).await })
        })
        .collect();
    let busy = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually("a list waits", async || sqlx::query_scalar::<_, i64>(busy).fetch_one(&mut watching).await.unwrap() > 0)
        .await;
    assert_eq!(store.find_by_digests(vec![made.digest]).await.unwrap().len(), 1);
    let waiting: i64 = sqlx::query_scalar(busy).fetch_one(&mut watching).await.unwrap();
    assert_eq!(waiting, 1, "of four connections lists take one");
    raw.execute("ROLLBACK").await.unwrap();
    for list in lists {
        // On a busy machine a list may have waited for too long.
        let _ = list.await.unwrap();
    }
}

/// A standby reads the past. The test shadows the function that the store calls, so that the server seems to be in
/// recovery.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_in_recovery_is_refused() {
    let mut options = postgres_options().await;
    options.acquire_timeout = std::time::Duration::from_secs(1);
    let store = open_postgres(options.clone()).await;
    store.create_key(key()).await.unwrap();
    let mut raw = raw_postgres(&options.url).await;
    raw.execute(
        "CREATE FUNCTION public.pg_is_in_recovery() RETURNS boolean LANGUAGE sql AS 'SELECT true'; \
         DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = public, pg_catalog', current_database()); \
         END $$; SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    .await
    .unwrap();
    let answer = store.list_keys(everything()).await;
    assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    let refused = Postgres::open(options).await.err().unwrap();
    assert!(matches!(refused, OpenError::Unavailable(_)) && refused.to_string().contains("standby"), "{refused}");
}

/// Behind a pooler the connection check may reach another server. The transaction that each call begins is refused instead.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_has_become_a_standby_is_unavailable() {
    let database = tokio::task::block_in_place(|| Database::start(""));
    let options = PostgresOptions::new(database.url(), Handle::current());
    let direct = open_postgres(options.clone()).await;
    let pooled = Postgres::open(PostgresOptions { pooler: true, ..options }).await.unwrap();
    let made = key();
    direct.create_key(made.clone()).await.unwrap();
    tokio::task::block_in_place(|| {
        database.crash();
        database.restart_as_standby();
    });
    for store in [&direct, &pooled] {
        let found = store.find_by_digests(vec![made.digest]).await;
        assert!(matches!(found, Err(StoreError::Unavailable(_))), "{found:?}");
        let created = join_all((0..5).map(|_| store.create_key(key()))).await;
        assert!(created.iter().all(|one| matches!(one, Err(StoreError::Unavailable(_)))), "{created:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unusable_url_has_an_error_that_says_why() {
    let open =
        |url: String| async move { Postgres::open(PostgresOptions::new(url, Handle::current())).await.err().unwrap() };
    let not_a_url = open("postgres://[".to_owned()).await;
    assert!(matches!(not_a_url, OpenError::Url(_)), "{not_a_url}");
    let no_database = open(format!("{}/no_such_database", support::server())).await;
    assert!(matches!(no_database, OpenError::Refused(_)), "{no_database}");
    // A port on which nothing listens.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nobody = open(format!("postgres://postgres:hunter2@127.0.0.1:{port}/keyward")).await;
    assert!(matches!(nobody, OpenError::Unavailable(_)), "{nobody}");
    assert!(!format!("{nobody} {nobody:?}").contains("hunter2"));
}

/// A logged error must not reveal a digest to a reader of the logs.
#[tokio::test(flavor = "multi_thread")]
async fn errors_hold_no_digest() {
    let options = postgres_options().await;
    let mut raw = raw_postgres(&options.url).await;
    let store = open_postgres(options).await;
    let made = key();
    store.create_key(made.clone()).await.unwrap();
    raw.execute("ALTER TABLE keyward_keys ADD CONSTRAINT none CHECK (digest IS NULL) NOT VALID").await.unwrap();
    for refused in
        [store.create_key(key()).await.unwrap_err(), store.revoke_key(made.id, revocation("")).await.unwrap_err()]
    {
        assert!(matches!(&refused, StoreError::Row(text) if text.contains("23514")), "{refused}");
        assert!(!refused.to_string().contains("\\x"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_look_ups_of_digests_are_counted() {
    let store = open_postgres(postgres_options().await).await;
    count_look_ups(store.as_ref(), || store.queries()).await;
}

/// Other tests use the count to show that a forged secret costs no query, so it must count all look-ups and nothing else.
pub async fn count_look_ups(store: &dyn Store, queries: impl Fn() -> u64) {
    let made = key();
    store.create_key(made.clone()).await.unwrap();
    store.find_by_id(made.id).await.unwrap();
    store.find_by_digests(vec![]).await.unwrap();
    assert_eq!(queries(), 0);
    store.find_by_digests(vec![made.digest]).await.unwrap();
    store.find_by_digests(vec![made.digest, key().digest]).await.unwrap();
    assert_eq!(queries(), 2);
}

/// As when a redelivery was requested while its event was deleted: no worker could ever attempt or settle it.
#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_without_its_event_is_deleted() {
    let options = postgres_options().await;
    let mut raw = raw_postgres(&options.url).await;
    let store = open_postgres(options).await;
    let (kept, lost) = (key(), key());
    store.create_key(kept.clone()).await.unwrap();
    store.create_key(lost.clone()).await.unwrap();
    let delete = sqlx::query("DELETE FROM keyward_events WHERE id = $1").bind(lost.id.0);
    delete.execute(&mut raw).await.unwrap();
    assert_eq!(store.outbox().await.unwrap().pending, 2);
    assert_eq!(
        store.delete_events(EventId(uuid::Uuid::max()), 10).await.unwrap(),
        0,
        "an event with a pending delivery stays"
    );
    assert_eq!(store.outbox().await.unwrap().pending, 1);
    assert!(store.find_delivery(EventId(kept.id.0)).await.unwrap().is_some());
}

/// Each page keeps room for the next version of its rows (fillfactor), so that repeated updates do not grow the table.
/// The test has a Postgres of its own: a version is removed only when no transaction of the whole server can see it.
#[tokio::test(flavor = "multi_thread")]
async fn repeated_usage_writes_do_not_grow_the_table() {
    let database = tokio::task::block_in_place(|| Database::start("-c autovacuum=off"));
    let mut raw = database.connect().await;
    let store = open_postgres(PostgresOptions::new(database.url(), Handle::current())).await;
    let ids = fill_with_keys(&mut raw).await;
    let mut pages = Vec::new();
    for at in 1..=6 {
        store.record_usage(used(&ids, at)).await.unwrap();
        let size = "SELECT pg_relation_size('keyward_usage') / 8192";
        pages.push(sqlx::query_scalar::<_, i64>(size).fetch_one(&mut raw).await.unwrap());
    }
    assert!(pages[5] <= pages[0] + pages[0] / 4, "{pages:?}");
}

/// One replica's plan may find the rows by their ids, another's by their position in the table, which is the opposite order
/// here. If both locked rows at the same time, they would deadlock.
#[tokio::test(flavor = "multi_thread")]
async fn uses_written_by_plans_of_opposite_orders_do_not_deadlock() {
    let options = postgres_options().await;
    let mut raw = raw_postgres(&options.url).await;
    open_postgres(options.clone()).await;
    let mut ids = fill_with_keys(&mut raw).await;
    ids.sort_unstable_by(|one, other| other.cmp(one));
    for id in ids.iter().take(500) {
        let row = sqlx::query("INSERT INTO keyward_usage (key_id, last_used_at) VALUES ($1, 0)").bind(id);
        row.execute(&mut raw).await.unwrap();
    }
    let ids = &ids[..500];
    let without = |plans: [&str; 2]| {
        let off = plans.map(|plan| format!("options[enable_{plan}]=off")).join("&");
        open_postgres(PostgresOptions { url: format!("{}?{off}", options.url), ..options.clone() })
    };
    let by_table = without(["nestloop", "mergejoin"]).await;
    let by_id = without(["hashjoin", "mergejoin"]).await;
    let writers = [&by_table, &by_id].repeat(3);
    let write = async |store: &std::sync::Arc<Postgres>| {
        for at in 1..13 {
            store.record_usage(used(ids, at)).await.unwrap();
        }
    };
    join_all(writers.into_iter().map(write)).await;
    // The server publishes its counters a moment later.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    assert_eq!(sqlx::query_scalar::<_, i64>(deadlocks).fetch_one(&mut raw).await.unwrap(), 0);
    let uses: i64 =
        sqlx::query_scalar("SELECT CAST(sum(count) AS BIGINT) FROM keyward_usage").fetch_one(&mut raw).await.unwrap();
    assert_eq!(uses, 500 * 6 * 12);
}

/// Writes 4,000 keys without the store, and returns their ids.
async fn fill_with_keys(raw: &mut PgConnection) -> Vec<uuid::Uuid> {
    let fill = "ALTER TABLE keyward_keys DISABLE TRIGGER USER; \
        INSERT INTO keyward_keys (id, keyspace, digest, created_at) \
        SELECT gen_random_uuid(), 'k', sha256(CAST(n::text AS BYTEA)), 1 FROM generate_series(1, 4000) AS n; \
        ALTER TABLE keyward_keys ENABLE TRIGGER USER";
    raw.execute(fill).await.unwrap();
    sqlx::query_scalar("SELECT id FROM keyward_keys").fetch_all(raw).await.unwrap()
}

fn used(ids: &[uuid::Uuid], at: i64) -> Vec<Usage> {
    ids.iter().map(|id| Usage { id: KeyId(*id), last_used_at: at, count: 1 }).collect()
}
