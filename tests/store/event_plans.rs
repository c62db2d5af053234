//! Each statement about events and deliveries uses its index, on both databases.

use keyward::store::{engine::sql::events as sql, postgres, sqlite};
use sqlx::{AssertSqlSafe, Executor as _};

use crate::plans::{postgres, postgres_plan, sqlite, sqlite_plan};

/// A statement, its parameters' types and values, and the indexes that it must use.
struct Hot {
    text: &'static str,
    parameters: (&'static str, &'static str),
    indexes: &'static [&'static str],
}

const fn hot(text: &'static str, parameters: (&'static str, &'static str), indexes: &'static [&'static str]) -> Hot {
    Hot { text, parameters, indexes }
}

const EVENTS: &str = "uuid, uuid, text, text, text, text, text, text, bigint";
const ID: &str = "'00000000-0000-0000-0000-000000012345'";

/// Statements that both databases share. The values match most events, which is the worst case.
const SHARED: &[Hot] = &[
    hot(
        sql::EVENTS_BY_KEY,
        (
            "uuid, uuid, text, text, text, text, text, text, uuid, bigint",
            "'ffffffff-ffff-ffff-ffff-ffffffffffff', '00000000-0000-0000-0000-000000000000', NULL, NULL, NULL, NULL, \
             NULL, NULL, '00000000-0000-0000-0000-000000012345', 51",
        ),
        &["keyward_events_key", "keyward_events_pkey"],
    ),
    hot(
        sql::EVENTS_BY_ORGANIZATION,
        (
            EVENTS,
            "'ffffffff-ffff-ffff-ffff-ffffffffffff', '00000000-0000-0000-0000-000000000000', NULL, 'big', NULL, NULL, \
             NULL, NULL, 51",
        ),
        &["keyward_events_organization"],
    ),
    hot(
        sql::EVENTS_BY_ACTOR,
        (
            EVENTS,
            "'ffffffff-ffff-ffff-ffff-ffffffffffff', '00000000-0000-0000-0000-000000000000', NULL, NULL, NULL, NULL, \
             NULL, 'root', 51",
        ),
        &["keyward_events_actor"],
    ),
    hot(
        sql::EVENTS_BY_TYPE,
        (
            EVENTS,
            "'ffffffff-ffff-ffff-ffff-ffffffffffff', '00000000-0000-0000-0000-000000000000', NULL, NULL, NULL, NULL, \
             'key.revoked', NULL, 51",
        ),
        &["keyward_events_type"],
    ),
    hot(
        sql::EVENTS_ALL,
        (
            EVENTS,
            "'ffffffff-ffff-ffff-ffff-ffffffffffff', '00000000-0000-0000-0000-000000000000', NULL, NULL, NULL, NULL, \
             NULL, NULL, 51",
        ),
        &["keyward_events_pkey"],
    ),
    hot(sql::FIND_EVENT, ("uuid", ID), &["keyward_events_pkey"]),
    hot(sql::FIND_DELIVERY, ("uuid", ID), &["keyward_deliveries_pkey"]),
    hot(
        sql::DELIVERIES_BY_KEY,
        ("uuid, uuid, bigint", "'00000000-0000-0000-0000-000000012345', 'ffffffff-ffff-ffff-ffff-ffffffffffff', 51"),
        &["keyward_deliveries_key"],
    ),
    hot(
        sql::SETTLE_DELIVERY,
        (
            "uuid, bigint, bigint, text, bigint, bigint, text, text, bigint",
            "'00000000-0000-0000-0000-000000012345', 1, 1, 'failed', 1, 1, '', '', 1",
        ),
        &["keyward_deliveries_pkey"],
    ),
    hot(
        sql::EXPIRING_KEYS,
        (
            "bigint, uuid, bigint, text, bigint, bigint",
            "50000, '00000000-0000-0000-0000-000000012345', 60000, 'key.expired', 0, 500",
        ),
        &["keyward_keys_expiry", "keyward_events_once"],
    ),
    hot(sql::PENDING, ("bigint", "1"), &["keyward_deliveries_due"]),
    hot(sql::FIRST_DUE, ("bigint", "1"), &["keyward_deliveries_due"]),
];

/// Statements of Postgres alone. None may read a whole table for a few rows.
fn of_postgres() -> Vec<Hot> {
    let own =
        |name| postgres::OWN_STATEMENTS.into_iter().flatten().find(|(own, _)| *own == name).expect("the statement").1;
    vec![
        hot(
            own("CLAIM"),
            ("bigint, bigint, bigint, text[]", "1, 2, 50, '{}'"),
            &["keyward_deliveries_due", "keyward_deliveries_pkey", "keyward_events_pkey", "keyward_keys_pkey"],
        ),
        hot(
            own("DELETE_EVENTS"),
            ("uuid, bigint", "'00000000-0000-0000-0000-000000012345', 500"),
            &["keyward_events_pkey", "keyward_deliveries_pkey"],
        ),
        hot(
            own("ADD_EVENTS"),
            (
                "uuid[], uuid[], bigint[], text, text, bigint",
                "ARRAY['00000000-0000-0000-0000-000000999999']::uuid[], \
                 ARRAY['00000000-0000-0000-0000-000000012345']::uuid[], '{0}', 'key.expired', 'keyward', 1",
            ),
            &["keyward_keys_pkey"],
        ),
        hot(
            own("REDELIVER"),
            (
                "uuid, bigint, uuid, text, text, text",
                "'00000000-0000-0000-0000-000000012345', 1, '00000000-0000-0000-0000-000000999999', '', '', '{}'",
            ),
            &["keyward_events_pkey", "keyward_keys_pkey"],
        ),
        hot(
            own("REVOKE_KEYS"),
            (
                "uuid[], bigint[], text[], text[], uuid[]",
                "ARRAY['00000000-0000-0000-0000-000000012345']::uuid[], '{1}', '{none}', '{root}', \
                 ARRAY['00000000-0000-0000-0000-000000999999']::uuid[]",
            ),
            &["keyward_keys_pkey"],
        ),
        hot(
            own("SET_WEBHOOK"),
            (
                "uuid, text, bigint, bigint, bigint, bigint, text, uuid, text, text",
                "'00000000-0000-0000-0000-000000012345', '', 1, 1, 1, 1, '', '00000000-0000-0000-0000-000000999999', '', ''",
            ),
            &["keyward_keys_pkey"],
        ),
    ]
}

/// 100,000 keys with the event of their creation; one in ten has two more events. One organization and one actor have a
/// third of them. Each event has a delivery, and every other one is pending.
macro_rules! fill {
    ($keys:literal, $id:literal, $other:literal, $third:literal) => {
        concat!(
            $keys,
            "INSERT INTO keyward_events (id, type, actor, key_id, keyspace, organization, instance, environment, once, record)
            SELECT id, 'key.created', created_by, id, keyspace, organization, '', '', NULL, '{}' FROM keyward_keys;
            INSERT INTO keyward_events (id, type, actor, key_id, keyspace, organization, instance, environment, once, record)
            SELECT ", $other, ", 'key.expired', 'keyward', id, keyspace, organization, '', '', 0, '{}'
            FROM keyward_keys WHERE created_at % 10 = 0;
            INSERT INTO keyward_events (id, type, actor, key_id, keyspace, organization, instance, environment, once, record)
            SELECT ", $third, ", 'key.revoked', 'root', id, keyspace, organization, '', '', NULL, '{}'
            FROM keyward_keys WHERE created_at % 10 = 0;
            INSERT INTO keyward_deliveries (event_id, key_id, host, state, next_attempt_at)
            SELECT id, id, 'h', CASE WHEN created_at % 2 = 0 THEN 'pending' ELSE 'delivered' END, created_at FROM keyward_keys"
        )
    };
}

const FILL_POSTGRES: &str = fill!(
    "ALTER TABLE keyward_keys DISABLE TRIGGER USER;
    INSERT INTO keyward_keys (id, keyspace, digest, organization, created_by, created_at, expires_at)
    SELECT CAST(lpad(to_hex(n), 32, '0') AS UUID), 'k' || n % 3, sha256(CAST(n::text AS BYTEA)),
        CASE WHEN n % 3 = 0 THEN 'big' ELSE 'o' || n % 500 END, CASE WHEN n % 3 = 1 THEN 'root' ELSE 'u' || n % 2000 END,
        n, CASE WHEN n % 2 = 0 THEN n ELSE NULL END
    FROM generate_series(1, 100000) AS n;",
    "id",
    "CAST(lpad(to_hex(created_at + 200000), 32, '0') AS UUID)",
    "CAST(lpad(to_hex(created_at + 400000), 32, '0') AS UUID)"
);

const FILL_SQLITE: &str = fill!(
    "INSERT INTO keyward_keys (id, keyspace, digest, organization, created_by, created_at, expires_at)
    WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 100000)
    SELECT unhex(printf('%032x', n)), 'k' || n % 3, unhex(printf('%064x', n * 7919)),
        CASE WHEN n % 3 = 0 THEN 'big' ELSE 'o' || n % 500 END, CASE WHEN n % 3 = 1 THEN 'root' ELSE 'u' || n % 2000 END,
        n, CASE WHEN n % 2 = 0 THEN n ELSE NULL END
    FROM numbers;",
    "id",
    "unhex(printf('%032x', created_at + 200000))",
    "unhex(printf('%032x', created_at + 400000))"
);

/// As with the keys: with a generic plan as well as with these values, no plan may sort the rows that match a filter. Only
/// the statement of a key's events sorts, one page.
#[tokio::test]
async fn event_statements_use_their_indexes_on_postgres() {
    let mut conn = postgres().await;
    conn.execute(FILL_POSTGRES).await.unwrap();
    conn.execute("ANALYZE").await.unwrap();
    for mode in ["force_generic_plan", "force_custom_plan"] {
        conn.execute(AssertSqlSafe(format!("SET plan_cache_mode = {mode}"))).await.unwrap();
        for Hot { text, parameters: (types, values), indexes } in SHARED.iter().chain(&of_postgres()) {
            // A statement without parameters has no values.
            let (types, values) = if text.contains('$') { (*types, *values) } else { ("bigint", "1") };
            let plan = postgres_plan(&mut conn, text, types, values).await;
            for index in *indexes {
                assert!(plan.contains(index), "{mode}: {text}\nwithout {index}\n{plan}");
            }
            let sorts = plan.contains("Sort") && *text != sql::EVENTS_BY_KEY && !text.contains("unnest");
            // The table has one row.
            let reads = plan.replace("Seq Scan on keyward_revision", "").contains("Seq Scan");
            assert!(!reads && !sorts, "{mode}: {text}\n{plan}");
        }
    }
}

#[tokio::test]
async fn event_statements_use_their_indexes_on_sqlite() {
    let (_dir, mut conn) = sqlite().await;
    conn.execute(FILL_SQLITE).await.unwrap();
    let own =
        |name| sqlite::OWN_STATEMENTS.into_iter().flatten().find(|(own, _)| *own == name).expect("the statement").1;
    let of_sqlite = [
        hot(own("DUE"), ("", ""), &["keyward_deliveries_due", "keyward_events_pkey", "keyward_keys_pkey"]),
        hot(own("DELETE_EVENTS"), ("", ""), &["keyward_events_pkey", "keyward_deliveries_pkey"]),
        hot(own("DELETE_DELIVERIES"), ("", ""), &["keyward_events_pkey", "keyward_deliveries_pkey"]),
        hot(own("REDELIVER"), ("", ""), &["keyward_events_pkey", "keyward_keys_pkey"]),
        hot(own("WRITE_EVENT"), ("", ""), &["keyward_keys_pkey"]),
    ];
    for analyzed in [false, true] {
        if analyzed {
            conn.execute("ANALYZE").await.unwrap();
        }
        for Hot { text, indexes, .. } in SHARED.iter().chain(&of_sqlite) {
            let plan = sqlite_plan(&mut conn, text).await;
            for index in *indexes {
                let name = match index.strip_suffix("_pkey") {
                    Some(table) => format!("sqlite_autoindex_{table}_1"),
                    None => (*index).to_owned(),
                };
                assert!(plan.contains(&format!("INDEX {name}")), "{text}\nwithout {name}\n{plan}");
            }
            let whole = plan.lines().any(|line| {
                ["SCAN k", "SCAN e", "SCAN d", "SCAN keyward"].iter().any(|scan| line.starts_with(scan))
                    && !line.contains("INDEX keyward_deliveries_due")
            });
            let sorts = plan.contains("TEMP B-TREE") && *text != sql::EVENTS_BY_KEY;
            assert!(!whole && !sorts, "analyzed {analyzed}: {text}\n{plan}");
        }
    }
}
