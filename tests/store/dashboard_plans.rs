//! Each statement of the dashboard's pages uses its index, on both databases.

use keyward::store::engine::sql::{keys as sql, sessions};
use sqlx::Executor as _;

use crate::plans::{postgres, postgres_plan, sqlite, sqlite_plan};

/// A statement, its parameters' types and values, and the index that it must use.
struct Page {
    text: &'static str,
    parameters: (&'static str, &'static str),
    index: &'static str,
}

const fn page(text: &'static str, parameters: (&'static str, &'static str), index: &'static str) -> Page {
    Page { text, parameters, index }
}

/// The values of searches match most rows, which is the worst case. Those of counts match few: a count of most rows may as
/// well read the first ones of the table; and an organization that has most keys has most of those that expire, too.
const PAGES: &[Page] = &[
    page(
        sql::SEARCH_BY_NAME_FILTERED,
        (
            "text, text, text, text, text, bigint, bigint, bigint, text, text, bigint",
            "NULL, 'big', NULL, NULL, NULL, NULL, 0, 50, '', 'o', 10000",
        ),
        "keyward_keys_name",
    ),
    page(sql::COUNT_BY_NAME, ("text, text, bigint", "'n11', 'n12', 10001"), "keyward_keys_name"),
    page(
        sql::SEARCH_BY_EXPIRY,
        (
            "text, text, text, text, text, bigint, bigint, bigint, bigint",
            "NULL, NULL, NULL, NULL, NULL, NULL, 0, 50, 19999",
        ),
        "keyward_keys_expiry",
    ),
    page(
        sql::SEARCH_BY_EXPIRY_FILTERED,
        (
            "text, text, text, text, text, bigint, bigint, bigint, bigint, bigint",
            "NULL, 'big', NULL, NULL, NULL, NULL, 0, 50, 19999, 10000",
        ),
        "keyward_keys_expiry",
    ),
    page(
        sql::SEARCH_BY_EXPIRY_OF_ORGANIZATION,
        (
            "text, text, text, text, text, bigint, bigint, bigint, bigint, bigint",
            "'k0', 'o11', NULL, NULL, NULL, NULL, 0, 50, 19999, 10000",
        ),
        "keyward_keys_live",
    ),
    page(
        sql::COUNT_BY_EXPIRY_OF_ORGANIZATION,
        ("text, text, bigint, bigint, bigint", "'o11', 'k0', 100, 600, 10001"),
        "keyward_keys_live",
    ),
    page(sql::COUNT_BY_EXPIRY, ("bigint, bigint, bigint", "100, 600, 10001"), "keyward_keys_expiry"),
    page(sessions::FIND_SESSION, ("bytea", "sha256('1')"), "keyward_sessions_pkey"),
    page(sessions::SESSIONS_OF, ("text, bigint, bigint", "'root', 50000, 50"), "keyward_sessions_actor"),
    page(sessions::DELETE_ENDED_SESSIONS, ("bigint, bigint", "15000, 20"), "keyward_sessions_idle"),
];

/// 20,000 keys that expire, and 20,000 sessions. A third are of one organization, and of one actor.
macro_rules! fill {
    ($numbers:literal, $id:literal, $digest:literal) => {
        concat!(
            "INSERT INTO keyward_keys (id, keyspace, digest, organization, name, created_by, created_at, expires_at)
            ",
            $numbers,
            " SELECT ",
            $id,
            ", 'k0', ",
            $digest,
            ", CASE WHEN n % 3 = 0 THEN 'big' ELSE 'o' || (n % 500) END,
                'n' || n, 'root', n, n FROM numbers;
            INSERT INTO keyward_usage (key_id, last_used_at) SELECT id, 1 FROM keyward_keys;
            INSERT INTO keyward_sessions (id, actor, created_at, last_seen_at, idle_at, ends_at)
            ",
            $numbers,
            " SELECT ",
            $digest,
            ", CASE WHEN n % 3 = 0 THEN 'root' ELSE 'user:' || (n % 200) END, n, n, n + 10,
                n + 90 FROM numbers"
        )
    };
}

const FILL_POSTGRES: &str = fill!(
    "WITH numbers AS (SELECT n FROM generate_series(1, 20000) AS n)",
    "CAST(lpad(to_hex(n), 32, '0') AS UUID)",
    "sha256(CAST(n::text AS BYTEA))"
);

const FILL_SQLITE: &str = fill!(
    "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 20000)",
    "unhex(printf('%032x', n))",
    "unhex(printf('%064x', n * 7919))"
);

/// A statement that stays prepared has a generic plan, which does not know the values. None reads a whole table, or sorts
/// what a filter fits.
#[tokio::test]
async fn statements_of_the_dashboard_use_their_index_on_postgres() {
    let mut conn = postgres().await;
    conn.execute(FILL_POSTGRES).await.unwrap();
    conn.execute("ANALYZE").await.unwrap();
    conn.execute("SET plan_cache_mode = force_generic_plan").await.unwrap();
    for Page { text, parameters: (types, values), index } in PAGES {
        let plan = postgres_plan(&mut conn, text, types, values).await;
        assert!(plan.contains(index), "{text}\n{plan}");
        // That index has no ids: the rows of the bounded sub-select are sorted.
        let sorts = *index == "keyward_keys_live";
        assert!(sorts || !plan.contains("Sort"), "{text}\n{plan}");
        // A generic plan takes a limit that it does not know for a tenth of the rows. For a deletion, Postgres therefore
        // goes on making plans with the value.
        assert!(text.starts_with("DELETE") || !plan.contains("Seq Scan"), "{text}\n{plan}");
    }
}

#[tokio::test]
async fn statements_of_the_dashboard_use_their_index_on_sqlite() {
    let (_dir, mut conn) = sqlite().await;
    conn.execute(FILL_SQLITE).await.unwrap();
    // With and without statistics: an operator may never run ANALYZE.
    for analyzed in [false, true] {
        if analyzed {
            conn.execute("ANALYZE").await.unwrap();
        }
        for Page { text, index, .. } in PAGES {
            let plan = sqlite_plan(&mut conn, text).await;
            let index = if *index == "keyward_sessions_pkey" { "sqlite_autoindex_keyward_sessions_1" } else { index };
            assert!(plan.contains(&format!("INDEX {index} (")), "{text}\n{plan}");
            // The rows of a bounded sub-select are scanned, and no table is.
            assert!(!plan.contains("SCAN keyward") && plan.matches("SCAN").count() <= 1, "{text}\n{plan}");
        }
    }
}
