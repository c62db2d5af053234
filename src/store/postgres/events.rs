//! The verbs about events in Postgres's own SQL.

use async_trait::async_trait;
use sqlx::Postgres as Driver;
use uuid::Uuid;

use super::change::insert_delivery;
use crate::{
    domain::{
        clock::Micros,
        event::{EventType, SYSTEM},
    },
    store::{
        engine::{
            connection::{Executor as _, PooledConnection, Value},
            ops::events::EventDialect,
            rows::{events::ClaimRow, readable::RowResult},
            sql::events::{claim_columns, event_columns, insert_event, key_snapshot},
        },
        events::{Claim, NewEvent, Redelivery},
    },
};

/// SQLite has no array parameters. The events are written in the order of their keys, because two replicas that wait
/// for each other's rows in opposite orders would deadlock.
const ADD_EVENTS: &str = concat!(
    "WITH event AS (",
    insert_event!(),
    " SELECT n.event, CAST($4 AS TEXT), CAST($5 AS TEXT), k.id, k.keyspace, k.organization, k.instance, k.environment, \
     n.once, ",
    key_snapshot!("json_build_object"),
    " FROM unnest($1::uuid[], $2::uuid[], $3::bigint[]) AS n (event, key, once) JOIN keyward_keys k ON k.id = n.key \
     WHERE k.revoked_at IS NULL ORDER BY k.id, n.once ON CONFLICT DO NOTHING RETURNING id, key_id), delivery AS (",
    insert_delivery!("event.id", "CAST($6 AS BIGINT)"),
    " FROM event JOIN keyward_keys k ON k.id = event.key_id WHERE k.webhook_url <> '') SELECT count(*) FROM event"
);

/// SQLite has no SKIP LOCKED, and needs none. The CTE is materialized so that the rows are picked once. It is joined by an
/// array, because a generic plan assumes that a tenth of all rows is due, and would read whole tables to join as many.
const CLAIM: &str = concat!(
    "WITH due AS MATERIALIZED (SELECT event_id FROM keyward_deliveries WHERE state = 'pending' \
     AND next_attempt_at <= $1 AND host <> ALL($4) ORDER BY next_attempt_at LIMIT $3 FOR UPDATE SKIP LOCKED), \
     d AS (UPDATE keyward_deliveries t SET next_attempt_at = $2, attempts = t.attempts + 1, claim = t.claim + 1 \
     WHERE t.event_id = ANY(ARRAY(SELECT event_id FROM due)) RETURNING t.event_id, t.host, t.attempts, t.attempts_before, t.claim) SELECT ",
    claim_columns!("d.attempts", "d.claim"),
    " FROM d JOIN keyward_events e ON e.id = d.event_id JOIN keyward_keys k ON k.id = e.key_id"
);

/// One statement; SQLite needs a transaction of two. A retry whose first reply was lost finds its event `$3`, and changes
/// nothing.
const REDELIVER: &str = concat!(
    "WITH d AS (",
    insert_delivery!("e.id", "CAST($2 AS BIGINT)"),
    " FROM keyward_events e JOIN keyward_keys k ON k.id = e.key_id WHERE e.id = $1 AND k.webhook_url <> '' \
     AND NOT EXISTS (SELECT 1 FROM keyward_events own WHERE own.id = CAST($3 AS UUID)) \
     ON CONFLICT (event_id) DO UPDATE SET state = 'pending', host = EXCLUDED.host, settled_at = NULL, \
     attempts_before = keyward_deliveries.attempts, next_attempt_at = EXCLUDED.next_attempt_at RETURNING key_id) ",
    insert_event!(with details),
    " SELECT CAST($3 AS UUID), CAST($4 AS TEXT), CAST($5 AS TEXT), k.id, k.keyspace, k.organization, k.instance, \
     k.environment, NULL, ",
    key_snapshot!("json_build_object"),
    ", CAST($6 AS TEXT) FROM d JOIN keyward_keys k ON k.id = d.key_id"
);

/// One statement; SQLite needs a transaction of two. Arrays are used for the same reason as in [`CLAIM`]. A delivery
/// without an event is deleted, too: a redelivery that was requested while its event was deleted would stay pending for
/// ever.
const DELETE_EVENTS: &str = "WITH stray AS (DELETE FROM keyward_deliveries d USING unnest(ARRAY( \
     SELECT event_id FROM keyward_deliveries WHERE event_id < $1 ORDER BY event_id LIMIT $2)) AS oldest (id) \
     WHERE d.event_id = oldest.id AND NOT EXISTS (SELECT 1 FROM keyward_events e WHERE e.id = d.event_id)), \
     old AS MATERIALIZED (SELECT e.id FROM keyward_events e WHERE e.id < $1 \
     AND NOT EXISTS (SELECT 1 FROM keyward_deliveries d WHERE d.event_id = e.id AND d.state = 'pending') \
     ORDER BY e.id LIMIT $2), gone AS (DELETE FROM keyward_deliveries \
     WHERE event_id = ANY(ARRAY(SELECT id FROM old))) \
     DELETE FROM keyward_events WHERE id = ANY(ARRAY(SELECT id FROM old))";

/// Each statement of this file, by name, for the test that prepares them.
pub(super) const STATEMENTS: &[(&str, &str)] =
    &[("ADD_EVENTS", ADD_EVENTS), ("CLAIM", CLAIM), ("REDELIVER", REDELIVER), ("DELETE_EVENTS", DELETE_EVENTS)];

#[async_trait]
impl EventDialect for PooledConnection<Driver> {
    async fn add_events(&mut self, kind: EventType, events: &[NewEvent], at: Micros) -> sqlx::Result<u64> {
        let ids: Vec<Uuid> = events.iter().map(|event| event.id.0).collect();
        let keys: Vec<Uuid> = events.iter().map(|event| event.key.0).collect();
        let once: Vec<i64> = events.iter().map(|event| event.once).collect();
        let query = sqlx::query_scalar(ADD_EVENTS).persistent(self.persistent).bind(ids).bind(keys).bind(once);
        let written: i64 = query.bind(kind.name()).bind(SYSTEM).bind(at).fetch_one(self.driver()).await?;
        Ok(u64::try_from(written).unwrap_or(0))
    }

    async fn claim(&mut self, claim: &Claim) -> sqlx::Result<Vec<RowResult<ClaimRow>>> {
        let query = sqlx::query_as(CLAIM).persistent(self.persistent).bind(claim.now).bind(claim.until);
        query.bind(i64::from(claim.limit)).bind(&claim.busy_hosts).fetch_all(self.driver()).await
    }

    async fn redeliver(&mut self, event: Uuid, redelivery: &Redelivery, details: &str) -> sqlx::Result<bool> {
        let Redelivery { at, by, event: own } = redelivery;
        let values = [
            Value::Id(event),
            Value::Int(*at),
            Value::Id(own.0),
            Value::Text(EventType::EventRedelivered.name()),
            Value::Text(by),
            Value::Text(details),
        ];
        Ok(self.execute(REDELIVER, &values).await? == 1)
    }

    async fn delete_events(&mut self, below: Uuid, limit: i64) -> sqlx::Result<u64> {
        self.execute(DELETE_EVENTS, &[Value::Id(below), Value::Int(limit)]).await
    }
}
