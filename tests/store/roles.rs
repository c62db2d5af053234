//! The role of the service may read and write rows, and create or alter nothing.

use std::time::Duration;

use futures::future::join_all;
use keyward::store::{
    EventStore as _, KeyStore as _, OpenError, SessionStore as _, Store as _, StoreError, UnavailableCause, Usage,
    change_feed::ChangeFeed as _,
    events::{Claim, EventQuery},
    postgres::{Postgres, PostgresOptions, change_feed::PostgresChangeFeed},
};
use sqlx::{Executor as _, migrate::Migrate as _};
use tokio::runtime::Handle;

use crate::{
    change::{revocation, webhook},
    fixture::{event_id, eventually, everything, key, now, open_postgres, postgres_options, raw_postgres},
    sessions::session,
    support::role_of_the_service,
};

/// Another process may hold the lock of migrations for long. A start with nothing pending does not wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_with_the_grants_of_the_guide_opens_a_migrated_database_without_a_lock() {
    let owner = postgres_options().await;
    open_postgres(owner.clone()).await;
    let url = role_of_the_service(&owner.url).await;
    let mut raw = raw_postgres(&owner.url).await;
    raw.lock().await.unwrap();
    for pooler in [false, true] {
        let options = PostgresOptions { pooler, ..PostgresOptions::new(&url, Handle::current()) };
        let store = Postgres::open(options).await.unwrap();
        tokio::time::timeout(Duration::from_secs(20), store.migrate()).await.expect("it waits for no lock").unwrap();
    }
    // Where a direct URL for migrations is set, it is not used either: nobody listens there.
    let options = PostgresOptions {
        migrate_url: Some("postgres://127.0.0.1:1/none".to_owned()),
        ..PostgresOptions::new(&url, Handle::current())
    };
    Postgres::open(options).await.unwrap().migrate().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_with_the_grants_of_the_guide_may_call_every_verb() {
    let owner = postgres_options().await;
    open_postgres(owner.clone()).await;
    let options = PostgresOptions::new(role_of_the_service(&owner.url).await, Handle::current());
    let store = open_postgres(options).await;
    assert!(store.first_root_key(key()).await.unwrap());
    let made = key();
    store.create_key(made.clone()).await.unwrap();
    store.find_by_digests(vec![made.digest]).await.unwrap();
    assert_eq!(store.list_keys(everything()).await.unwrap().rows.len(), 2);
    store.set_webhook(made.id, webhook("https://a.example/", now())).await.unwrap();
    store.record_usage(vec![Usage { id: made.id, last_used_at: 1, count: 1 }]).await.unwrap();
    store.record_usage(vec![Usage { id: made.id, last_used_at: 2, count: 1 }]).await.unwrap();
    store.advance_watermark("mark".to_owned(), 1).await.unwrap();
    store.advance_watermark("mark".to_owned(), 2).await.unwrap();
    store.try_acquire_job_lease("job", 1, 2).await.unwrap();
    let claim = Claim { now: now(), until: now(), limit: 10, busy_hosts: Vec::new() };
    let claimed = store.claim_deliveries(claim).await.unwrap().remove(0);
    store.release_delivery(claimed.event.id, claimed.claim, now()).await.unwrap();
    store.redeliver(claimed.event.id, crate::deliveries::redelivery()).await.unwrap();
    store.revoke_key(made.id, revocation("")).await.unwrap();
    store.delete_events(event_id(), 10).await.unwrap();
    store.list_events(EventQuery { limit: 10, ..Default::default() }).await.unwrap();
    let session = session("root", now());
    store.create_session(session.clone()).await.unwrap();
    store.touch_session(session.id, now() + 1, now() + 2).await.unwrap();
    assert!(store.end_session(session.id, "root".to_owned()).await.unwrap());
    store.ping().await.unwrap();
    let mut feed = PostgresChangeFeed::new(store.connect_options(), Duration::from_secs(5));
    feed.connect().await.unwrap();
    let id = uuid::Uuid::from_u128(7);
    let seen = feed.join(id, 1_000).await.unwrap();
    assert!(feed.renew(id, 0, 1).await.unwrap());
    feed.read(seen).await.unwrap();
    feed.report(id, seen).await.unwrap();
    feed.remove(id, None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_not_create_reports_who_must_migrate() {
    let owner = postgres_options().await;
    open_postgres(owner.clone()).await;
    let url = role_of_the_service(&owner.url).await;
    let mut raw = raw_postgres(&owner.url).await;
    raw.execute("DELETE FROM keyward_migrations WHERE version = 5").await.unwrap();
    let store = Postgres::open(PostgresOptions::new(url, Handle::current())).await.unwrap();
    let refused = store.migrate().await.unwrap_err();
    assert!(matches!(&refused, OpenError::MayNotMigrate(_)), "{refused}");
    assert!(refused.to_string().contains("keyward migrate"), "{refused}");
}

/// As many calls as the pool has permits, with one connection for all of them.
#[tokio::test(flavor = "multi_thread")]
async fn calls_wait_for_the_pools_connection_when_the_server_allows_no_more() {
    let owner = postgres_options().await;
    open_postgres(owner.clone()).await;
    let url = role_of_the_service(&owner.url).await;
    limit_connections(&owner.url, &url, 1).await;
    let mut options = PostgresOptions::new(url, Handle::current());
    // On a busy machine forty calls in a row take a while.
    options.acquire_timeout = Duration::from_secs(20);
    let store = open_postgres(options).await;
    store.ping().await.unwrap();
    let pages = join_all((0..40).map(|_| store.list_keys(everything()))).await;
    assert!(pages.iter().all(Result::is_ok), "{:?}", pages.iter().find(|page| page.is_err()));
    assert_eq!(store.pool().open, 1);
}

/// The pool has two of the three connections that the server allows, and the lease needs two.
#[tokio::test(flavor = "multi_thread")]
async fn the_pool_leaves_its_idle_connections_to_the_lease_when_the_server_allows_no_more() {
    let owner = postgres_options().await;
    open_postgres(owner.clone()).await;
    let url = role_of_the_service(&owner.url).await;
    limit_connections(&owner.url, &url, 3).await;
    let store = open_postgres(PostgresOptions::new(url, Handle::current())).await;
    eventually("the pool has two connections", async || {
        join_all((0..8).map(|_| store.ping())).await;
        store.pool().open >= 2
    })
    .await;
    let mut feed = store.change_feed(Duration::from_secs(5));
    eventually("the lease has two connections", async || feed.connect().await.is_ok()).await;
    store.ping().await.unwrap();
}

/// Sets how many connections the role of a URL may have.
async fn limit_connections(owner: &str, url: &str, limit: u32) {
    let role = url.split(['/', '@']).nth(2).unwrap();
    let limit = format!("ALTER ROLE {role} CONNECTION LIMIT {limit}");
    raw_postgres(owner).await.execute(sqlx::AssertSqlSafe(limit)).await.unwrap();
}

/// What a transaction pooler makes of prepared statements, with and without one of that name on the connection.
#[tokio::test(flavor = "multi_thread")]
async fn errors_of_prepared_statements_name_the_setting_of_the_pooler() {
    for (code, refuse) in [
        (
            "26000",
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'prepared' USING ERRCODE = '26000'; END $$",
        ),
        (
            "42P05",
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'prepared' USING ERRCODE = '42P05'; END $$",
        ),
    ] {
        let options = postgres_options().await;
        let mut raw = raw_postgres(&options.url).await;
        let store = open_postgres(options).await;
        raw.execute(refuse).await.unwrap();
        raw.execute("CREATE TRIGGER refuse BEFORE INSERT ON keyward_keys FOR EACH ROW EXECUTE FUNCTION refuse()")
            .await
            .unwrap();
        let refused = store.create_key(key()).await.unwrap_err();
        assert!(refused.to_string().contains("set database.pooler"), "{code}: {refused}");
        assert!(matches!(refused, StoreError::Unavailable(why) if why.cause == UnavailableCause::PoolerNotSet));
    }
}
