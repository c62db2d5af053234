//! Tests of SQLite alone: the file's lock, its permissions, and recovery after a crash.

use std::{os::unix::fs::PermissionsExt as _, time::Duration};

use keyward::store::{
    KeyStore as _, OpenError, StoreError,
    sqlite::{Sqlite, SqliteOptions},
};
use sqlx::Executor as _;
use tempfile::TempDir;
use tokio::runtime::Handle;

use crate::{
    change::revocation,
    fixture::{everything, key, key_with, open_sqlite, raw_sqlite, sqlite, sqlite_options},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_is_refused() {
    let dir = TempDir::new().unwrap();
    let first = open_sqlite(&dir).await;
    // By its own name, and by a symbolic link.
    let other_name = dir.path().join("other.db");
    std::os::unix::fs::symlink(dir.path().join("keyward.db"), &other_name).unwrap();
    let other = SqliteOptions::new(format!("sqlite://{}", other_name.display()), Handle::current());
    for options in [sqlite_options(&dir), other] {
        let refused = Sqlite::open(options).await.err().unwrap();
        assert!(matches!(refused, OpenError::InUse(_)), "{refused}");
        let text = refused.to_string();
        assert!(text.ends_with("keyward.db is in use by another keyward process"), "{text}");
    }
    first.create_key(key()).await.unwrap();
    drop(first);
    open_sqlite(&dir).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_dropped_without_close_opens_again() {
    let dir = TempDir::new().unwrap();
    let made = key();
    let store = open_sqlite(&dir).await;
    store.create_key(made.clone()).await.unwrap();
    drop(store);
    assert_eq!(open_sqlite(&dir).await.list_keys(everything()).await.unwrap().rows, [made]);
}

/// Copies the files as a crash of the machine would leave them: the store has not been closed.
#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_writes_survive_a_crash() {
    let dir = TempDir::new().unwrap();
    let store = open_sqlite(&dir).await;
    let mut expected = Vec::new();
    for round in 0..20 {
        let made = key();
        store.create_key(made.clone()).await.unwrap();
        let made = store.revoke_key(made.id, revocation(&format!("round {round}"))).await.unwrap().unwrap();
        expected.insert(0, made);
    }
    let left = TempDir::new().unwrap();
    for name in ["keyward.db", "keyward.db-wal"] {
        std::fs::copy(dir.path().join(name), left.path().join(name)).unwrap();
    }
    let after = open_sqlite(&left).await;
    assert_eq!(after.list_keys(everything()).await.unwrap().rows, expected);
    assert_eq!(after.revoke_key(expected[0].id, revocation("again")).await.unwrap().unwrap(), expected[0]);
}

/// The file holds digests.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_file_is_readable_by_its_owner_alone() {
    let dir = TempDir::new().unwrap();
    let store = open_sqlite(&dir).await;
    store.create_key(key()).await.unwrap();
    for name in ["keyward.db", "keyward.db-wal", "keyward.db-shm", "keyward.db.lock"] {
        let mode = std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name} is {mode:o}");
    }
}

#[tokio::test]
async fn a_url_that_names_no_file_is_refused() {
    for url in ["sqlite::memory:", "sqlite://:memory:", "sqlite://", "sqlite://a.db?mode=memory", "keyward.db", ""] {
        let refused = Sqlite::open(SqliteOptions::new(url, Handle::current())).await.err().unwrap();
        assert!(matches!(refused, OpenError::Url(_)), "{url}: {refused}");
    }
    let missing = SqliteOptions::new("sqlite:///no/such/folder/keyward.db", Handle::current());
    let refused = Sqlite::open(missing).await.err().unwrap();
    assert!(matches!(refused, OpenError::Refused(_)), "{refused}");
    assert!(refused.to_string().contains("/no/such/folder/keyward.db"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn migrations_apply_once_and_a_newer_database_is_refused() {
    let dir = TempDir::new().unwrap();
    let store = Sqlite::open(sqlite_options(&dir)).await.unwrap();
    assert!(store.migrations_pending().await.unwrap() > 0);
    for _ in 0..2 {
        store.migrate().await.unwrap();
        assert_eq!(store.migrations_pending().await.unwrap(), 0);
    }
    let mut raw = raw_sqlite(&dir).await;
    raw.execute(
        "INSERT INTO keyward_migrations (version, description, success, checksum, execution_time) \
         VALUES (9999, 'later', TRUE, x'00', 1)",
    )
    .await
    .unwrap();
    for refused in [store.migrate().await.unwrap_err(), store.migrations_pending().await.unwrap_err()] {
        assert!(matches!(refused, OpenError::NewerDatabase(9999)), "{refused}");
    }
}

/// An operator's own connection may have the setting on. Even then the trigger must not fire itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_one_revision_under_recursive_triggers_too() {
    let dir = TempDir::new().unwrap();
    let store = open_sqlite(&dir).await;
    let made = key();
    store.create_key(made.clone()).await.unwrap();
    let mut raw = raw_sqlite(&dir).await;
    raw.execute("PRAGMA recursive_triggers = ON; UPDATE keyward_keys SET name = 'renamed'").await.unwrap();
    assert_eq!(store.find_by_id(made.id).await.unwrap().unwrap().revision, 1);
}

/// When the second statement of the transaction fails, the connection must not stay inside it.
#[tokio::test(flavor = "multi_thread")]
async fn a_first_root_key_that_fails_leaves_nothing_open() {
    let dir = TempDir::new().unwrap();
    let store = open_sqlite(&dir).await;
    let mut raw = raw_sqlite(&dir).await;
    let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON keyward_keys BEGIN SELECT RAISE(ABORT, 'refused'); END";
    raw.execute(refuse).await.unwrap();
    let refused = store.first_root_key(key()).await;
    assert!(matches!(refused, Err(StoreError::Row(_))), "{refused:?}");
    raw.execute("DROP TRIGGER refuse").await.unwrap();
    assert!(store.first_root_key(key()).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_do_not_wait_for_a_writer() {
    let dir = TempDir::new().unwrap();
    let store = open_sqlite(&dir).await;
    let made = key();
    store.create_key(made.clone()).await.unwrap();
    let mut raw = raw_sqlite(&dir).await;
    raw.execute("BEGIN IMMEDIATE; UPDATE keyward_keys SET name = 'not yet'").await.unwrap();
    let read = tokio::time::timeout(Duration::from_secs(1), store.find_by_id(made.id)).await.unwrap();
    assert_eq!(read.unwrap(), Some(made));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_look_ups_of_digests_are_counted() {
    let dir = TempDir::new().unwrap();
    let store = open_sqlite(&dir).await;
    crate::postgres_only::count_look_ups(store.as_ref(), || store.queries()).await;
}

/// A column of SQLite holds values of any type. One of a wrong type fails its own row alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_column_of_a_wrong_type_spoils_one_row() {
    let dir = TempDir::new().unwrap();
    let store = open_sqlite(&dir).await;
    let (good, bad) = (key(), key());
    for key in [&good, &bad] {
        store.create_key(key.clone()).await.unwrap();
    }
    let mut raw = raw_sqlite(&dir).await;
    let spoil = sqlx::query("UPDATE keyward_keys SET created_at = 'soon' WHERE id = $1").bind(bad.id.0);
    spoil.execute(&mut raw).await.unwrap();
    let page = store.list_keys(crate::fixture::everything()).await.unwrap().rows;
    assert_eq!(page.iter().map(|key| key.id).collect::<Vec<_>>(), [good.id]);
    // Look-ups that arrive together are then made one by one.
    let both = store.find_by_digests(vec![good.digest, bad.digest]).await;
    assert!(matches!(both, Err(StoreError::Row(_))), "{both:?}");
}

/// SQLite checks neither types nor encodings. A column that cannot be read spoils its own row alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_cannot_be_read_spoils_its_own_row_alone() {
    let mut f = sqlite().await;
    let (first, second) = (key(), key());
    let bad = key_with(|key| "bad".clone_into(&mut key.name));
    for key in [&first, &bad, &second] {
        f.store.create_key(key.clone()).await.unwrap();
    }
    f.raw.execute("UPDATE keyward_keys SET name = CAST(x'ff' AS TEXT) WHERE name = 'bad'").await.unwrap();
    let page = f.store.list_keys(everything()).await.unwrap().rows;
    assert_eq!(page.iter().map(|key| key.id).collect::<Vec<_>>(), [second.id, first.id]);
    assert!(f.store.unreadable_rows() > 0);
    // Asked for alone, it is an error and not a key that does not exist.
    assert!(matches!(f.store.find_by_id(bad.id).await, Err(StoreError::Row(_))));
}
