//! The verbs about keys in Postgres's own SQL. A change, its event and its delivery are one statement.

use async_trait::async_trait;
use sqlx::Postgres as Driver;
use uuid::Uuid;

use super::change::{insert_delivery, lock_revision, with_event};
use crate::{
    domain::key::{Digest, KeyId},
    store::{
        engine::{
            connection::{Executor as _, PooledConnection, Value},
            insert::NewKey,
            ops::keys::{ChangeEvent, KeyDialect},
            rows::keys::{FactsRow, KeyRow},
            sql::{
                events::{insert_event, key_snapshot},
                keys::{
                    disable_webhook, fact_columns, key_columns, key_with_usage, new_columns, new_values, set_webhook,
                },
            },
        },
        keys::{Revocation, Usage},
    },
};

/// SQLite has no array parameters.
const FIND_BY_DIGESTS: &str = concat!("SELECT ", fact_columns!(), " FROM keyward_keys k WHERE k.digest = ANY($1)");

/// SQLite has no array parameters.
const FIND_BY_IDS: &str = concat!("SELECT ", key_with_usage!(), " WHERE k.id = ANY($1)");

/// SQLite has no array parameters. An advisory lock lets one such statement run at a time: an UPDATE locks rows in the
/// order in which its plan finds them, and two replicas with different plans would deadlock. Nearly every used key was
/// used before, so rows are updated first, and inserted only where there was none. The commit does not wait for the
/// disk, because no caller waits for it.
const ADD_USAGE: &str = "WITH n AS MATERIALIZED (SELECT n.* \
     FROM (SELECT set_config('synchronous_commit', 'off', TRUE), \
     pg_advisory_xact_lock(hashtextextended('keyward_usage', 0))) AS asynchronous_and_alone, \
     unnest($1::uuid[], $2::bigint[], $3::bigint[]) AS n (id, last_used_at, count)), \
     known AS (UPDATE keyward_usage u SET last_used_at = GREATEST(u.last_used_at, n.last_used_at), \
     count = u.count + n.count FROM n WHERE u.key_id = n.id RETURNING u.key_id) \
     INSERT INTO keyward_usage (key_id, last_used_at, count) \
     SELECT k.id, n.last_used_at, n.count FROM n JOIN keyward_keys k ON k.id = n.id \
     WHERE NOT EXISTS (SELECT FROM known WHERE known.key_id = n.id) ORDER BY k.id \
     ON CONFLICT (key_id) DO UPDATE SET last_used_at = GREATEST(keyward_usage.last_used_at, EXCLUDED.last_used_at), \
     count = keyward_usage.count + EXCLUDED.count";

/// SQLite has no array parameters. An id or a digest that exists raises no error, because a database that logs failed
/// statements would log the digest.
const CREATE_KEYS: &str = concat!(
    with_event!(
        concat!(
            "WITH k AS (INSERT INTO keyward_keys (",
            new_columns!(),
            ") SELECT * FROM unnest($1::uuid[], $2::text[], $3::bytea[], $4::text[], $5::text[], $6::text[], $7::text[], \
             $8::text[], $9::text[], $10::bigint[], $11::bigint[], $12::text[], $13::text[], $14::bigint[], $15::text[], \
             $16::bigint[], $17::bigint[], $18::text[], $19::text[]) ON CONFLICT DO NOTHING"
        ),
        "k.id",
        "'key.created'",
        "k.created_by",
        "k.created_at"
    ),
    " RETURNING key_id"
);
/// Revokes keys `$1` at `$2` for reasons `$3` by `$4`, unless they are revoked, with events `$5`. Of two revocations of one
/// key in the arrays, one is made.
const REVOKE_KEYS: &str = with_event!(
    concat!(
        lock_revision!(),
        "n AS (SELECT n.* FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::uuid[]) \
         AS n (id, at, reason, by, event), head), \
         k AS (UPDATE keyward_keys t SET revoked_at = n.at, revoke_reason = n.reason, revoked_by = n.by FROM n \
         WHERE t.id = n.id AND t.revoked_at IS NULL RETURNING t.*, n.event"
    ),
    all,
    "k.event",
    "'key.revoked'",
    "k.revoked_by",
    "k.revoked_at"
);
const SET_WEBHOOK: &str = with_event!(
    // A retry whose first reply was lost finds its event, and changes nothing.
    concat!(
        lock_revision!(),
        "k AS (",
        set_webhook!(" FROM head"),
        " AND NOT EXISTS (SELECT 1 FROM keyward_events e WHERE e.id = $8)"
    ),
    "CAST($8 AS UUID)",
    "CAST($10 AS TEXT)",
    "CAST($9 AS TEXT)",
    "CAST($3 AS BIGINT)"
);
const DISABLE_WEBHOOK: &str = with_event!(
    concat!(lock_revision!(), "k AS (", disable_webhook!(" FROM head")),
    "CAST($4 AS UUID)",
    "'webhook.disabled'",
    "CAST($5 AS TEXT)",
    "CAST($3 AS BIGINT)"
);

/// Claims the setting and writes the key in one statement; SQLite has no INSERT inside a WITH. A second caller waits
/// for the first one's setting row, and then writes nothing.
const FIRST_KEY: &str = with_event!(
    concat!(
        "WITH first AS (INSERT INTO keyward_settings (name, value) SELECT 'first_root_key', CAST($1::uuid AS TEXT) \
         WHERE NOT EXISTS (SELECT 1 FROM keyward_keys) ON CONFLICT DO NOTHING RETURNING name), \
         k AS (INSERT INTO keyward_keys (",
        new_columns!(),
        ") SELECT ",
        new_values!(),
        " FROM first"
    ),
    "k.id",
    "'key.created'",
    "k.created_by",
    "k.created_at"
);

/// Begins a transaction that counts keys. Behind a transaction pooler each attempt is in one anyway, and nothing stays
/// prepared. A replica that is paused in the transaction holds the lock of the organization; then the server ends it.
const BEGIN_COUNTING: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; \
     SET LOCAL idle_in_transaction_session_timeout = '5s'";
/// Waits until nobody else counts the keys of organization `$1`. The next statement then reads their writes. SQLite
/// does not need this, because it has one writer.
const LOCK_ORGANIZATION: &str =
    "SELECT CAST(pg_advisory_xact_lock(hashtextextended($1, hashtext('keyward_organization'))) AS TEXT)";

/// Each statement of this file, by name, for the test that prepares them.
pub(super) const STATEMENTS: &[(&str, &str)] = &[
    ("FIND_BY_DIGESTS", FIND_BY_DIGESTS),
    ("FIND_BY_IDS", FIND_BY_IDS),
    ("ADD_USAGE", ADD_USAGE),
    ("CREATE_KEYS", CREATE_KEYS),
    ("LOCK_ORGANIZATION", LOCK_ORGANIZATION),
    ("REVOKE_KEYS", REVOKE_KEYS),
    ("SET_WEBHOOK", SET_WEBHOOK),
    ("DISABLE_WEBHOOK", DISABLE_WEBHOOK),
    ("FIRST_KEY", FIRST_KEY),
];

/// Collects one field of each row as an array parameter.
fn column<'a, R, T>(rows: &'a [R], field: impl Fn(&'a R) -> T) -> Vec<T> {
    rows.iter().map(field).collect()
}

/// The parameters of a change followed by those of its event.
fn with_event_values<'a>(values: &[Value<'a>], event: &ChangeEvent<'a>) -> Vec<Value<'a>> {
    [values, &[Value::Id(event.id), Value::Text(event.actor)]].concat()
}

#[async_trait]
impl KeyDialect for PooledConnection<Driver> {
    async fn first_key(&mut self, key: &NewKey<'_>) -> sqlx::Result<bool> {
        Ok(self.execute(FIRST_KEY, &key.values()).await? == 1)
    }

    async fn create_keys(&mut self, keys: &[NewKey<'_>]) -> sqlx::Result<Vec<Uuid>> {
        sqlx::query_scalar(CREATE_KEYS)
            .persistent(self.persistent)
            .bind(column(keys, |new| new.key.id.0))
            .bind(column(keys, |new| new.key.keyspace.as_str()))
            .bind(column(keys, |new| new.key.digest.0.as_slice()))
            .bind(column(keys, |new| new.key.prefix.as_str()))
            .bind(column(keys, |new| new.key.binding.organization.as_str()))
            .bind(column(keys, |new| new.key.binding.instance.as_str()))
            .bind(column(keys, |new| new.key.binding.environment.as_str()))
            .bind(column(keys, |new| new.key.name.as_str()))
            .bind(column(keys, |new| new.scopes.as_str()))
            .bind(column(keys, |new| new.key.created_at))
            .bind(column(keys, |new| new.key.expires_at))
            .bind(column(keys, |new| new.key.created_by.as_str()))
            .bind(column(keys, |new| new.key.webhook_url.as_str()))
            .bind(column(keys, |new| new.key.webhook_version))
            .bind(column(keys, |new| new.metadata.as_str()))
            .bind(column(keys, |new| new.rate_limit))
            .bind(column(keys, |new| new.rate_window))
            .bind(column(keys, |new| new.keyspaces.as_str()))
            .bind(column(keys, |new| new.webhook_host.as_str()))
            .fetch_all(self.driver())
            .await
    }

    async fn revoke_keys(&mut self, revocations: &[(KeyId, Revocation)]) -> sqlx::Result<()> {
        let query = sqlx::query(REVOKE_KEYS)
            .persistent(self.persistent)
            .bind(column(revocations, |(id, _)| id.0))
            .bind(column(revocations, |(_, one)| one.at))
            .bind(column(revocations, |(_, one)| one.reason.as_str()))
            .bind(column(revocations, |(_, one)| one.by.as_str()))
            .bind(column(revocations, |(_, one)| one.event.0));
        query.execute(self.driver()).await?;
        Ok(())
    }

    async fn begin_counting(&mut self, organizations: &[String]) -> sqlx::Result<()> {
        if self.persistent {
            self.execute_script(BEGIN_COUNTING).await?;
        }
        for name in organizations {
            self.execute(LOCK_ORGANIZATION, &[Value::Text(name)]).await?;
        }
        Ok(())
    }

    async fn create_counted_keys(&mut self, keys: &[NewKey<'_>]) -> sqlx::Result<Vec<Uuid>> {
        self.create_keys(keys).await
    }

    async fn end_counting(&mut self, commit: bool) -> sqlx::Result<()> {
        if self.persistent { self.execute_script(if commit { "COMMIT" } else { "ROLLBACK" }).await } else { Ok(()) }
    }

    async fn facts_of_digests(&mut self, digests: &[Digest]) -> sqlx::Result<Vec<FactsRow>> {
        let digests: Vec<&[u8]> = digests.iter().map(|digest| digest.0.as_slice()).collect();
        let query = sqlx::query_as(FIND_BY_DIGESTS).persistent(self.persistent).bind(digests);
        query.fetch_all(self.driver()).await
    }

    async fn keys_of_ids(&mut self, ids: &[Uuid]) -> sqlx::Result<Vec<KeyRow>> {
        sqlx::query_as(FIND_BY_IDS).persistent(self.persistent).bind(ids).fetch_all(self.driver()).await
    }

    async fn set_webhook(&mut self, values: &[Value<'_>], event: &ChangeEvent<'_>) -> sqlx::Result<bool> {
        let values = with_event_values(values, event);
        Ok(self.execute(SET_WEBHOOK, &[&values[..], &[Value::Text(event.kind.name())]].concat()).await? == 1)
    }

    async fn disable_webhook(&mut self, values: &[Value<'_>], event: &ChangeEvent<'_>) -> sqlx::Result<bool> {
        Ok(self.execute(DISABLE_WEBHOOK, &with_event_values(values, event)).await? == 1)
    }

    async fn add_usage(&mut self, usage: &[Usage]) -> sqlx::Result<()> {
        let ids: Vec<Uuid> = usage.iter().map(|one| one.id.0).collect();
        let times: Vec<i64> = usage.iter().map(|one| one.last_used_at).collect();
        let counts: Vec<i64> = usage.iter().map(|one| one.count).collect();
        let query = sqlx::query(ADD_USAGE).persistent(self.persistent).bind(ids).bind(times).bind(counts);
        query.execute(self.driver()).await?;
        Ok(())
    }
}
