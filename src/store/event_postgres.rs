//! Events on Postgres: a change, its event and its delivery are one statement, which commits by itself.

use async_trait::async_trait;
use sqlx::Postgres as Driver;
use uuid::Uuid;

use super::{
    Revocation,
    event_rows::ClaimRow,
    event_sql::{claim_columns, event_columns, event_of_key, insert_event},
    events::{Claim, NewEvent},
    new_key::NewKey,
    session::{Change, EventSession, Link, Statements as _, Value},
    sql::{disable_webhook, new_columns, new_values, set_webhook},
};
use crate::domain::{
    clock::Micros,
    event::{EventType, SYSTEM},
    key::KeyId,
};

/// Begins the writing of a delivery; the parameters are the event's id and when it is due.
macro_rules! insert_delivery {
    ($event:literal, $at:literal) => {
        concat!(
            "INSERT INTO keyward_deliveries (event_id, key_id, host, next_attempt_at) SELECT ",
            $event,
            ", k.id, lower(split_part(k.webhook_url, '/', 3)), ",
            $at
        )
    };
}

/// Whoever changes a key first takes the row that gives revisions, which the trigger would take later: so that of two
/// that change the same keys none holds what the other waits for.
macro_rules! in_turn {
    () => {
        "WITH head AS MATERIALIZED (SELECT value FROM keyward_revision FOR UPDATE), "
    };
}

/// The rest of a statement whose WITH gives the changed keys as `k`. The event is the statement's own: its count of rows
/// tells how many changes there were.
macro_rules! told {
    ($change:expr, $event:literal, $kind:literal, $actor:literal, $at:literal) => {
        told!(concat!($change, " RETURNING *"), all, $event, $kind, $actor, $at)
    };
    ($change:expr, all, $event:literal, $kind:literal, $actor:literal, $at:literal) => {
        concat!(
            $change,
            "), delivery AS (",
            insert_delivery!($event, $at),
            " FROM k WHERE k.webhook_url <> '') ",
            insert_event!(),
            " SELECT ",
            $event,
            ", '",
            $kind,
            "', ",
            $actor,
            ", k.id, k.keyspace, k.organization, k.instance, k.environment, NULL, ",
            event_of_key!("json_build_object"),
            " FROM k"
        )
    };
}

/// Array parameters: SQLite has none. No error is raised for an id or a digest that is there, so that a database which
/// logs failed statements logs no digest.
const CREATE_KEYS: &str = concat!(
    told!(
        concat!(
            "WITH k AS (INSERT INTO keyward_keys (",
            new_columns!(),
            ") SELECT * FROM unnest($1::uuid[], $2::text[], $3::bytea[], $4::text[], $5::text[], $6::text[], $7::text[], \
             $8::text[], $9::text[], $10::bigint[], $11::bigint[], $12::text[], $13::text[], $14::bigint[], $15::text[], \
             $16::bigint[], $17::bigint[], $18::text[]) ON CONFLICT DO NOTHING"
        ),
        "k.id",
        "key.created",
        "k.created_by",
        "k.created_at"
    ),
    " RETURNING key_id"
);
/// Revokes keys `$1` at `$2` for reasons `$3` by `$4`, unless they are revoked, with events `$5`. Of two revocations of
/// one key one is made.
const REVOKE_KEYS: &str = told!(
    concat!(
        in_turn!(),
        "n AS (SELECT n.* FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::uuid[]) \
         AS n (id, at, reason, by, event), head), \
         k AS (UPDATE keyward_keys t SET revoked_at = n.at, revoke_reason = n.reason, revoked_by = n.by FROM n \
         WHERE t.id = n.id AND t.revoked_at IS NULL RETURNING t.*, n.event"
    ),
    all,
    "k.event",
    "key.revoked",
    "k.revoked_by",
    "k.revoked_at"
);
const SET_WEBHOOK: &str = told!(
    // Sent again after its reply was lost, it finds its event, and changes nothing.
    concat!(
        in_turn!(),
        "k AS (",
        set_webhook!(" FROM head"),
        " AND NOT EXISTS (SELECT 1 FROM keyward_events e WHERE e.id = $7)"
    ),
    "CAST($7 AS UUID)",
    "webhook.updated",
    "CAST($8 AS TEXT)",
    "CAST($3 AS BIGINT)"
);
const DISABLE_WEBHOOK: &str = told!(
    concat!(in_turn!(), "k AS (", disable_webhook!(" FROM head")),
    "CAST($4 AS UUID)",
    "webhook.disabled",
    "CAST($5 AS TEXT)",
    "CAST($3 AS BIGINT)"
);

/// The setting is taken and the key written in one statement: SQLite knows no INSERT inside a WITH. Whoever comes
/// second waits for the first one's row, and then writes nothing.
pub(super) const FIRST_KEY: &str = told!(
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
    "key.created",
    "k.created_by",
    "k.created_at"
);

/// Array parameters: SQLite has none. In the order of keys: two replicas that wait for each other's rows in opposite
/// orders would deadlock.
const ADD_EVENTS: &str = concat!(
    "WITH event AS (",
    insert_event!(),
    " SELECT n.event, CAST($4 AS TEXT), CAST($5 AS TEXT), k.id, k.keyspace, k.organization, k.instance, k.environment, \
     n.once, ",
    event_of_key!("json_build_object"),
    " FROM unnest($1::uuid[], $2::uuid[], $3::bigint[]) AS n (event, key, once) JOIN keyward_keys k ON k.id = n.key \
     WHERE k.revoked_at IS NULL ORDER BY k.id, n.once ON CONFLICT DO NOTHING RETURNING id, key_id), delivery AS (",
    insert_delivery!("event.id", "CAST($6 AS BIGINT)"),
    " FROM event JOIN keyward_keys k ON k.id = event.key_id WHERE k.webhook_url <> '') SELECT count(*) FROM event"
);

/// SQLite knows no SKIP LOCKED, and needs none. Materialized, so that the rows are picked once; by an array, since a plan
/// made for any limit takes a tenth of all rows to be due, and would read whole tables to join so many.
const CLAIM: &str = concat!(
    "WITH due AS MATERIALIZED (SELECT event_id FROM keyward_deliveries WHERE state = 'pending' \
     AND next_attempt_at <= $1 AND host <> ALL($4) ORDER BY next_attempt_at LIMIT $3 FOR UPDATE SKIP LOCKED), \
     d AS (UPDATE keyward_deliveries t SET next_attempt_at = $2, attempts = t.attempts + 1 \
     WHERE t.event_id = ANY(ARRAY(SELECT event_id FROM due)) RETURNING t.event_id, t.host, t.attempts, t.attempts_before) SELECT ",
    claim_columns!("d.attempts"),
    " FROM d JOIN keyward_events e ON e.id = d.event_id JOIN keyward_keys k ON k.id = e.key_id"
);

/// How the host is cut from the URL differs.
const REDELIVER: &str = concat!(
    insert_delivery!("e.id", "CAST($2 AS BIGINT)"),
    " FROM keyward_events e JOIN keyward_keys k ON k.id = e.key_id WHERE e.id = $1 AND k.webhook_url <> '' \
     ON CONFLICT (event_id) DO UPDATE SET state = 'pending', host = EXCLUDED.host, settled_at = NULL, \
     attempts_before = keyward_deliveries.attempts, next_attempt_at = EXCLUDED.next_attempt_at"
);

/// In one statement: SQLite takes a transaction for it. By arrays for the reason above. A redelivery that was asked for
/// while its event was deleted would be pending for ever: nobody could attempt it.
const DELETE_EVENTS: &str = "WITH stray AS (DELETE FROM keyward_deliveries d USING unnest(ARRAY( \
     SELECT event_id FROM keyward_deliveries WHERE event_id < $1 ORDER BY event_id LIMIT $2)) AS oldest (id) \
     WHERE d.event_id = oldest.id AND NOT EXISTS (SELECT 1 FROM keyward_events e WHERE e.id = d.event_id)), \
     old AS MATERIALIZED (SELECT e.id FROM keyward_events e WHERE e.id < $1 \
     AND NOT EXISTS (SELECT 1 FROM keyward_deliveries d WHERE d.event_id = e.id AND d.state = 'pending') \
     ORDER BY e.id LIMIT $2), gone AS (DELETE FROM keyward_deliveries \
     WHERE event_id = ANY(ARRAY(SELECT id FROM old))) \
     DELETE FROM keyward_events WHERE id = ANY(ARRAY(SELECT id FROM old))";

/// The statements that only Postgres understands, by name, for the test that prepares each.
pub const OWN_STATEMENTS: &[(&str, &str)] = &[
    ("CREATE_KEYS", CREATE_KEYS),
    ("REVOKE_KEYS", REVOKE_KEYS),
    ("SET_WEBHOOK", SET_WEBHOOK),
    ("DISABLE_WEBHOOK", DISABLE_WEBHOOK),
    ("FIRST_KEY", FIRST_KEY),
    ("ADD_EVENTS", ADD_EVENTS),
    ("CLAIM", CLAIM),
    ("REDELIVER", REDELIVER),
    ("DELETE_EVENTS", DELETE_EVENTS),
];

/// One field of each, as an array.
fn column<'a, R, T>(rows: &'a [R], of: impl Fn(&'a R) -> T) -> Vec<T> {
    rows.iter().map(of).collect()
}

#[async_trait]
impl EventSession for Link<Driver> {
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
            .fetch_all(&mut *self.conn)
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
        query.execute(&mut *self.conn).await?;
        Ok(())
    }

    async fn change(&mut self, change: &Change<'_>) -> sqlx::Result<bool> {
        let statement = match change.kind {
            EventType::WebhookDisabled => DISABLE_WEBHOOK,
            _ => SET_WEBHOOK,
        };
        Ok(self.execute(statement, change.values).await? == 1)
    }

    async fn add_events(&mut self, kind: EventType, events: &[NewEvent], at: Micros) -> sqlx::Result<u64> {
        let ids: Vec<Uuid> = events.iter().map(|event| event.id.0).collect();
        let keys: Vec<Uuid> = events.iter().map(|event| event.key.0).collect();
        let once: Vec<i64> = events.iter().map(|event| event.once).collect();
        let query = sqlx::query_scalar(ADD_EVENTS).persistent(self.persistent).bind(ids).bind(keys).bind(once);
        let written: i64 = query.bind(kind.name()).bind(SYSTEM).bind(at).fetch_one(&mut *self.conn).await?;
        Ok(u64::try_from(written).unwrap_or(0))
    }

    async fn claim(&mut self, claim: &Claim) -> sqlx::Result<Vec<ClaimRow>> {
        let query = sqlx::query_as(CLAIM).persistent(self.persistent).bind(claim.now).bind(claim.until);
        query.bind(i64::from(claim.limit)).bind(&claim.busy_hosts).fetch_all(&mut *self.conn).await
    }

    async fn redeliver(&mut self, event: Uuid, at: Micros) -> sqlx::Result<bool> {
        Ok(self.execute(REDELIVER, &[Value::Id(event), Value::Int(at)]).await? == 1)
    }

    async fn delete_events(&mut self, below: Uuid, limit: i64) -> sqlx::Result<u64> {
        self.execute(DELETE_EVENTS, &[Value::Id(below), Value::Int(limit)]).await
    }
}
