//! Databases that earlier versions migrated stay valid: the table of applied migrations names the same versions,
//! descriptions and checksums.

use std::path::Path;

use data_encoding::HEXLOWER;
use keyward::store::{postgres::Postgres, sqlite::Sqlite};
use sqlx::{Executor as _, migrate::Migrator};
use tempfile::TempDir;

use crate::fixture::{postgres_options, raw_postgres, raw_sqlite, sqlite_options};

/// What was released: version, description, SHA-384 of the file. Add a line for a new migration; never change one, since
/// databases in use have recorded it.
const POSTGRES: &[(i64, &str, &str)] = &[
    (1, "keys", "7dcac83ad5335bef5d1ae0b78082ad87c1805188d2e92b59179b2616aba030c767e3e812e2ee44cc8c5597e13ebb52fc"),
    (2, "limits", "c867efabca6bd60ea7fee210453d5f520b6b063715f638afc6fb4578dab059d8e2d04b052af5587bc7ef16680c9f21a9"),
    (3, "events", "c516ff598d30ea91950e89a33364df75b1a1c664e32f963d94f8ba01ec57d8af0fa578661f7eb377927bf552347ff957"),
    (
        4,
        "service keyspaces",
        "e4244d7c01fe646cd8a87bfdd8e5f88720800558ce8e652a83560abab53699e3e88bfca7b86b27920fa7bab3cfef6fad",
    ),
    (
        5,
        "webhook rotation",
        "c973da4f7c560df2dc9137e9c37564254227f5a1cd7e2459fc72304d6f3b98c2f640c39fdc5f7060e628eedeea7cfec9",
    ),
    (
        6,
        "webhook host",
        "b6c6c2ddcd444c1d701a974f45249651c072f4ebaa5f18504e96843177e87d8d9a39bb9447ebe4ae375f179faa66e767",
    ),
    (
        7,
        "delivery claims",
        "bb75df942dc327bfb8029859f18568ac7bcd04a248d2fc5273bee0ff4474fbc9d034a20b92c50863fd704f44166aec7b",
    ),
    (8, "tenants", "7e0d293e385fcca8a21cf77e521496f25f3c0a367bc03b33413378367f0bdccc9906cbeb2fbfd914f3b947a7fd03e5f0"),
    (
        9,
        "dashboard",
        "dd3207b5177a405787b831294680ad144a2a173960725120f91d9414ec833e0b80235480e2e4d44302a39c925b3576eb",
    ),
];
const SQLITE: &[(i64, &str, &str)] = &[
    (1, "keys", "560091685d77494ae5a34934946e46d7895f4e28a19fcad8e814c29ced7cd559b04c86fb4acea8ee8e8991c8dd0830a4"),
    (2, "limits", "01f52ebe9fa9cb4c292a8b4c52abc209340148bf1bf7d3ca9d7535a4a6e6d0b07c6e787c9d3300e6cc19a7f2aa928df0"),
    (3, "events", "3782585c0296dceda0e9fd2feb4d6304be0dbe9f1ff1d6f989bd9580bb7b9969add7b029e5abc85242231c76cce0428e"),
    (
        4,
        "service keyspaces",
        "3f0e0b8d0205c338aa17d6a4d61acfeb85727111ae09e4c24ac566bc9f70065c67001b6386a56d03a74218b96a0e71d1",
    ),
    (
        5,
        "webhook rotation",
        "f6886a24c518817a1536cb5afcd6a42c82784b8f6aa94bcb7be84377f084462966076a3d1537a14f1deee6a2772559ff",
    ),
    (
        6,
        "webhook host",
        "f201a00e9a4e4812a50f6c67c05ca334c8f1287af810ce9628615da2616804b47e5a9a3836ee9a88e2af3f146416ab84",
    ),
    (
        7,
        "delivery claims",
        "bb75df942dc327bfb8029859f18568ac7bcd04a248d2fc5273bee0ff4474fbc9d034a20b92c50863fd704f44166aec7b",
    ),
    (8, "tenants", "87a12272929267c0ba35137d99e1dad014629195751d32228d40c1624bba2a54a536c78e04f90a31b89bba8f073c5b62"),
    (
        9,
        "dashboard",
        "2e6387b1670d651a076b8fa2f837f8057112f1945160e93f87ed5b730852c026d5131efd8b6eba3d7f859a415281a731",
    ),
];

const APPLIED: &str = "SELECT version, description, checksum FROM keyward_migrations ORDER BY version";

/// As the database has recorded them.
fn recorded(rows: Vec<(i64, String, Vec<u8>)>) -> Vec<(i64, String, String)> {
    rows.into_iter().map(|(version, description, sum)| (version, description, HEXLOWER.encode(&sum))).collect()
}

fn released(migrations: &[(i64, &str, &str)]) -> Vec<(i64, String, String)> {
    migrations.iter().map(|&(version, name, sum)| (version, name.to_owned(), sum.to_owned())).collect()
}

/// sqlx's own reader of migration files, by which version 0.1.0 and its predecessors embedded them.
async fn read_by_sqlx(folder: &str) -> Migrator {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(folder);
    let mut migrator = Migrator::new(folder.as_path()).await.unwrap();
    migrator.dangerous_set_table_name("keyward_migrations");
    migrator
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_database_migrated_by_sqlx_has_nothing_pending() {
    let options = postgres_options().await;
    let mut raw = raw_postgres(&options.url).await;
    read_by_sqlx("postgres").await.run_direct(None, &mut raw, false).await.unwrap();
    assert_eq!(recorded(sqlx::query_as(APPLIED).fetch_all(&mut raw).await.unwrap()), released(POSTGRES));
    let store = Postgres::open(options).await.unwrap();
    assert_eq!(store.migrations_pending().await.unwrap(), 0);
    store.migrate().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sqlite_database_migrated_by_sqlx_has_nothing_pending() {
    let dir = TempDir::new().unwrap();
    let store = Sqlite::open(sqlite_options(&dir)).await.unwrap();
    let mut raw = raw_sqlite(&dir).await;
    read_by_sqlx("sqlite").await.run_direct(None, &mut raw, false).await.unwrap();
    assert_eq!(recorded(sqlx::query_as(APPLIED).fetch_all(&mut raw).await.unwrap()), released(SQLITE));
    assert_eq!(store.migrations_pending().await.unwrap(), 0);
    store.migrate().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_migrations_are_recorded_as_released() {
    let options = postgres_options().await;
    Postgres::open(options.clone()).await.unwrap().migrate().await.unwrap();
    let mut raw = raw_postgres(&options.url).await;
    assert_eq!(recorded(sqlx::query_as(APPLIED).fetch_all(&mut raw).await.unwrap()), released(POSTGRES));

    let dir = TempDir::new().unwrap();
    Sqlite::open(sqlite_options(&dir)).await.unwrap().migrate().await.unwrap();
    let mut raw = raw_sqlite(&dir).await;
    assert_eq!(recorded(sqlx::query_as(APPLIED).fetch_all(&mut raw).await.unwrap()), released(SQLITE));
}

/// The checksum is what notices an edit: a database that recorded another one is refused.
#[tokio::test(flavor = "multi_thread")]
async fn an_edited_migration_is_refused() {
    let dir = TempDir::new().unwrap();
    let store = Sqlite::open(sqlite_options(&dir)).await.unwrap();
    store.migrate().await.unwrap();
    let mut raw = raw_sqlite(&dir).await;
    raw.execute("UPDATE keyward_migrations SET checksum = x'00' WHERE version = 3").await.unwrap();
    let refused = store.migrate().await.unwrap_err().to_string();
    assert!(refused.contains("migration 3 was previously applied but has been modified"), "{refused}");
}
