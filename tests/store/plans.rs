//! Each statement can be prepared, and each frequent one uses its index, on both databases.

use keyward::store::{
    engine::sql::{database, events, keys as sql, sessions},
    postgres::{self, change_feed},
    sqlite,
};
use sqlx::{AssertSqlSafe, Executor as _, PgConnection, Row as _, SqlSafeStr as _, SqliteConnection};
use tempfile::TempDir;

use crate::fixture::{open_postgres, open_sqlite, postgres_options, raw_postgres, raw_sqlite};

pub async fn postgres() -> PgConnection {
    let options = postgres_options().await;
    let conn = raw_postgres(&options.url).await;
    open_postgres(options).await;
    conn
}

pub async fn sqlite() -> (TempDir, SqliteConnection) {
    let dir = TempDir::new().unwrap();
    open_sqlite(&dir).await;
    let conn = raw_sqlite(&dir).await;
    (dir, conn)
}

#[tokio::test]
async fn every_statement_prepares_on_postgres() {
    let mut conn = postgres().await;
    for (name, text) in
        [sql::ALL, events::ALL, database::ALL, sessions::ALL].into_iter().chain(postgres::OWN_STATEMENTS).flatten()
    {
        conn.prepare(text.into_sql_str()).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[tokio::test]
async fn every_statement_prepares_on_sqlite() {
    let (_dir, mut conn) = sqlite().await;
    for (name, text) in
        [sql::ALL, events::ALL, database::ALL, sessions::ALL].into_iter().chain(sqlite::OWN_STATEMENTS).flatten()
    {
        conn.prepare(text.into_sql_str()).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

/// A statement that a busy service runs often.
struct Hot {
    text: &'static str,
    /// The types of its parameters, and the values that match most keys, which is the worst case.
    parameters: (&'static str, &'static str),
    /// The index that it must use.
    index: &'static str,
}

const fn hot(text: &'static str, parameters: (&'static str, &'static str), index: &'static str) -> Hot {
    Hot { text, parameters, index }
}

const LIST: &str = "uuid, text, text, text, text, text, bigint, bigint, bigint, uuid";
const SEARCH: &str = "text, text, text, text, text, bigint, bigint, bigint, text, text";
const SEARCH_PREFIX: &str = "text, text, text, text, text, bigint, bigint, bigint, text";
const ID: &str = "'00000000-0000-0000-0000-000000012345'";
const HOT: &[Hot] = &[
    hot(sql::FIND_BY_DIGEST, ("bytea", "sha256('1')"), "keyward_keys_digest"),
    hot(sql::SEARCH_BY_NAME, (SEARCH, "NULL, NULL, NULL, NULL, NULL, NULL, 0, 50, 'n', 'o'"), "keyward_keys_name"),
    hot(
        sql::SEARCH_BY_PREFIX,
        (SEARCH_PREFIX, "NULL, NULL, NULL, NULL, NULL, NULL, 0, 50, 'nrx_12345678'"),
        "keyward_keys_prefix",
    ),
    hot(sql::FIND_BY_ID, ("uuid", ID), "keyward_keys_pkey"),
    hot(
        sql::LIST_BY_ORGANIZATION,
        (
            LIST,
            "'ffffffff-ffff-ffff-ffff-ffffffffffff', NULL, 'big', NULL, NULL, NULL, NULL, 0, 51, '00000000-0000-0000-0000-000000000000'",
        ),
        "keyward_keys_organization",
    ),
    hot(
        sql::LIST_BY_CREATED_BY,
        (
            LIST,
            "'ffffffff-ffff-ffff-ffff-ffffffffffff', NULL, NULL, NULL, NULL, 'root', NULL, 0, 51, '00000000-0000-0000-0000-000000000000'",
        ),
        "keyward_keys_created_by",
    ),
    hot(
        sql::LIST_BY_KEYSPACE,
        (
            LIST,
            "'ffffffff-ffff-ffff-ffff-ffffffffffff', 'k1', NULL, NULL, NULL, NULL, NULL, 0, 51, '00000000-0000-0000-0000-000000000000'",
        ),
        "keyward_keys_keyspace",
    ),
    hot(
        sql::LIST_ALL,
        (
            LIST,
            "'ffffffff-ffff-ffff-ffff-ffffffffffff', NULL, NULL, NULL, NULL, NULL, NULL, 0, 51, '00000000-0000-0000-0000-000000000000'",
        ),
        "keyward_keys_pkey",
    ),
    hot(sql::REVOKE_KEY, ("uuid, bigint, text, text", ID_AND_3), "keyward_keys_pkey"),
    hot(sql::SET_WEBHOOK, ("uuid, text, bigint, bigint, bigint, bigint, text", ID_AND_6), "keyward_keys_pkey"),
];
const ID_AND_3: &str = "'00000000-0000-0000-0000-000000012345', 1, '', ''";
const ID_AND_6: &str = "'00000000-0000-0000-0000-000000012345', '', 1, 1, 1, 1, ''";

/// The look-up of several digests, in each database's own SQL.
fn several<const N: usize>(own: [&[(&str, &'static str)]; N]) -> Hot {
    let text = own.into_iter().flatten().find(|(name, _)| *name == "FIND_BY_DIGESTS").expect("the statement").1;
    hot(text, ("bytea[]", "ARRAY[sha256('1'), sha256('2')]"), "keyward_keys_digest")
}

/// 100,000 keys of 500 organizations, 2,000 creators and 3 keyspaces; one in a hundred was changed. One organization and
/// one creator have a third of them, so that averages mislead the planner.
pub const FILL_POSTGRES: &str = "
    ALTER TABLE keyward_keys DISABLE TRIGGER USER;
    INSERT INTO keyward_keys (id, keyspace, digest, organization, created_by, created_at, revision)
    SELECT CAST(lpad(to_hex(n), 32, '0') AS UUID), 'k' || n % 3, sha256(CAST(n::text AS BYTEA)),
        CASE WHEN n % 3 = 0 THEN 'big' ELSE 'o' || n % 500 END, CASE WHEN n % 3 = 1 THEN 'root' ELSE 'u' || n % 2000 END, n,
        CASE WHEN n % 100 = 0 THEN n ELSE 0 END
    FROM generate_series(1, 100000) AS n;
    INSERT INTO keyward_usage (key_id, last_used_at) SELECT id, 1 FROM keyward_keys;
    ALTER TABLE keyward_keys ENABLE TRIGGER USER;
    ANALYZE";

pub const FILL_SQLITE: &str = "
    INSERT INTO keyward_keys (id, keyspace, digest, organization, created_by, created_at, revision)
    WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 100000)
    SELECT unhex(printf('%032x', n)), 'k' || n % 3, unhex(printf('%064x', n * 7919)),
        CASE WHEN n % 3 = 0 THEN 'big' ELSE 'o' || n % 500 END, CASE WHEN n % 3 = 1 THEN 'root' ELSE 'u' || n % 2000 END, n,
        CASE WHEN n % 100 = 0 THEN n ELSE 0 END
    FROM numbers;
    INSERT INTO keyward_usage (key_id, last_used_at) SELECT id, 1 FROM keyward_keys";

/// The plan of a statement on Postgres.
pub async fn postgres_plan(conn: &mut PgConnection, text: &str, types: &str, values: &str) -> String {
    let bracketed = |list: &str| if list.is_empty() { String::new() } else { format!("({list})") };
    let (types, values) = (bracketed(types), bracketed(values));
    conn.execute(AssertSqlSafe(format!("PREPARE hot {types} AS {text}"))).await.unwrap();
    let rows = conn.fetch_all(AssertSqlSafe(format!("EXPLAIN EXECUTE hot {values}"))).await.unwrap();
    conn.execute("DEALLOCATE hot").await.unwrap();
    rows.iter().map(|row| row.get::<String, _>(0)).collect::<Vec<_>>().join("\n")
}

/// The plan of a statement on SQLite.
pub async fn sqlite_plan(conn: &mut SqliteConnection, text: &str) -> String {
    let rows = conn.fetch_all(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {text}"))).await.unwrap();
    rows.iter().map(|row| row.get::<String, _>("detail")).collect::<Vec<_>>().join("\n")
}

/// A statement that stays prepared has a generic plan, which does not know the parameters. No plan may read and sort
/// all keys of an organization.
#[tokio::test]
async fn hot_statements_use_their_index_on_postgres() {
    let mut conn = postgres().await;
    conn.execute(FILL_POSTGRES).await.unwrap();
    for mode in ["force_generic_plan", "force_custom_plan"] {
        conn.execute(AssertSqlSafe(format!("SET plan_cache_mode = {mode}"))).await.unwrap();
        for Hot { text, parameters: (types, values), index } in HOT.iter().chain([&several(postgres::OWN_STATEMENTS)]) {
            let plan = postgres_plan(&mut conn, text, types, values).await;
            assert!(plan.contains(index), "{mode}: {text}\n{plan}");
            assert!(!plan.contains("Seq Scan") && !plan.contains("Sort"), "{mode}: {text}\n{plan}");
        }
    }
    let plan = postgres_plan(&mut conn, &change_feed::changes(99_000), "", "").await;
    assert!(plan.contains("keyward_keys_revision") && !plan.contains("Sort"), "{plan}");
}

#[tokio::test]
async fn hot_statements_use_their_index_on_sqlite() {
    let (_dir, mut conn) = sqlite().await;
    conn.execute(FILL_SQLITE).await.unwrap();
    // With and without statistics: an operator may never run ANALYZE.
    for analyzed in [false, true] {
        if analyzed {
            conn.execute("ANALYZE").await.unwrap();
        }
        for Hot { text, index, .. } in HOT.iter().chain([&several(sqlite::OWN_STATEMENTS)]) {
            let plan = sqlite_plan(&mut conn, text).await;
            let index = if *index == "keyward_keys_pkey" { "sqlite_autoindex_keyward_keys_1" } else { index };
            let search = |table: &str| plan.contains(&format!("SEARCH {table} USING INDEX {index} ("));
            assert!(search("k") || search("keyward_keys"), "{text}\n{plan}");
            assert!(!plan.contains("SCAN k") && !plan.contains("TEMP B-TREE"), "{text}\n{plan}");
        }
    }
}
