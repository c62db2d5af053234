//! The verbs about events in SQLite's own SQL.

use async_trait::async_trait;
use sqlx::Sqlite as Driver;
use uuid::Uuid;

use super::transaction::{EventToWrite, insert_delivery};
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

const IS_REVOKED: &str = "SELECT 'revoked' FROM keyward_keys WHERE id = $1 AND revoked_at IS NOT NULL";

/// The hosts are a JSON array; SQLite has no array parameters. There is one writer, so nobody else claims any meanwhile.
const DUE: &str = concat!(
    "SELECT ",
    claim_columns!("d.attempts + 1", "d.claim + 1"),
    " FROM keyward_deliveries d JOIN keyward_events e ON e.id = d.event_id JOIN keyward_keys k ON k.id = e.key_id \
     WHERE d.state = 'pending' AND d.next_attempt_at <= $1 AND d.host NOT IN (SELECT value FROM json_each($3)) \
     ORDER BY d.next_attempt_at LIMIT $2"
);
const CLAIM: &str = "UPDATE keyward_deliveries SET next_attempt_at = $2, attempts = attempts + 1, claim = claim + 1 \
     WHERE event_id = $1";

const REDELIVER: &str = concat!(
    insert_delivery!("e.id"),
    " FROM keyward_events e JOIN keyward_keys k ON k.id = e.key_id WHERE e.id = $1 AND k.webhook_url <> '' \
     ON CONFLICT (event_id) DO UPDATE SET state = 'pending', host = excluded.host, settled_at = NULL, \
     attempts_before = keyward_deliveries.attempts, next_attempt_at = excluded.next_attempt_at"
);

/// Writes the event `$4` of type `$2`, caused by `$3`: event `$1` was delivered again. It has the details `$5`.
const WRITE_REDELIVERED: &str = concat!(
    insert_event!(with details),
    " SELECT $4, $2, $3, k.id, k.keyspace, k.organization, k.instance, k.environment, NULL, ",
    key_snapshot!("json_object"),
    ", $5 FROM keyward_events e JOIN keyward_keys k ON k.id = e.key_id WHERE e.id = $1 ON CONFLICT DO NOTHING"
);

/// The ids of the events that may be deleted, the same for both tables.
macro_rules! deletable {
    () => {
        "(SELECT e.id FROM keyward_events e WHERE e.id < $1 AND NOT EXISTS (SELECT 1 FROM keyward_deliveries d \
         WHERE d.event_id = e.id AND d.state = 'pending') ORDER BY e.id LIMIT $2)"
    };
}
const DELETE_DELIVERIES: &str = concat!("DELETE FROM keyward_deliveries WHERE event_id IN ", deletable!());
const DELETE_EVENTS: &str = concat!("DELETE FROM keyward_events WHERE id IN ", deletable!());

/// Each statement of this file, by name, for the test that prepares them.
pub(super) const STATEMENTS: &[(&str, &str)] = &[
    ("IS_REVOKED", IS_REVOKED),
    ("DUE", DUE),
    ("CLAIM", CLAIM),
    ("REDELIVER", REDELIVER),
    ("WRITE_REDELIVERED", WRITE_REDELIVERED),
    ("DELETE_DELIVERIES", DELETE_DELIVERIES),
    ("DELETE_EVENTS", DELETE_EVENTS),
];

#[async_trait]
impl EventDialect for PooledConnection<Driver> {
    async fn add_events(&mut self, kind: EventType, events: &[NewEvent], at: Micros) -> sqlx::Result<u64> {
        self.begin().await?;
        let written = self.add_in_transaction(kind, events, at).await;
        self.end(written).await
    }

    async fn claim(&mut self, claim: &Claim) -> sqlx::Result<Vec<RowResult<ClaimRow>>> {
        self.begin().await?;
        let claimed = self.claim_in_transaction(claim).await;
        self.end(claimed).await
    }

    async fn redeliver(&mut self, event: Uuid, redelivery: &Redelivery, details: &str) -> sqlx::Result<bool> {
        self.begin().await?;
        let redelivered = self.redeliver_in_transaction(event, redelivery, details).await;
        self.end(redelivered).await
    }

    async fn delete_events(&mut self, below: Uuid, limit: i64) -> sqlx::Result<u64> {
        self.begin().await?;
        let deleted = self.delete_in_transaction(below, limit).await;
        self.end(deleted).await
    }
}

impl PooledConnection<Driver> {
    async fn add_in_transaction(&mut self, kind: EventType, events: &[NewEvent], at: Micros) -> sqlx::Result<u64> {
        let mut written = 0;
        for event in events {
            let (id, key) = (event.id.0, event.key.0);
            let revoked = !self.fetch::<(String,)>(IS_REVOKED, &[Value::Id(key)]).await?.is_empty();
            let event = EventToWrite { id, kind, once: Some(event.once), actor: SYSTEM, key, at };
            if !revoked && self.write_event(&event).await? {
                written += 1;
            }
        }
        Ok(written)
    }

    async fn claim_in_transaction(&mut self, claim: &Claim) -> sqlx::Result<Vec<RowResult<ClaimRow>>> {
        let busy_hosts = serde_json::Value::from(claim.busy_hosts.clone()).to_string();
        let values = [Value::Int(claim.now), Value::Int(i64::from(claim.limit)), Value::Text(&busy_hosts)];
        let due: Vec<RowResult<ClaimRow>> = self.fetch(DUE, &values).await?;
        // Without its id a row cannot be claimed.
        for id in due.iter().filter_map(|row| row.id().ok()) {
            self.execute(CLAIM, &[Value::Id(id), Value::Int(claim.until)]).await?;
        }
        Ok(due)
    }

    async fn redeliver_in_transaction(
        &mut self,
        event: Uuid,
        redelivery: &Redelivery,
        details: &str,
    ) -> sqlx::Result<bool> {
        let Redelivery { at, by, event: own } = redelivery;
        let kind = EventType::EventRedelivered.name();
        let values = [Value::Id(event), Value::Text(kind), Value::Text(by), Value::Id(own.0), Value::Text(details)];
        Ok(self.execute(REDELIVER, &[Value::Id(event), Value::Int(*at)]).await? == 1
            && self.execute(WRITE_REDELIVERED, &values).await? == 1)
    }

    async fn delete_in_transaction(&mut self, below: Uuid, limit: i64) -> sqlx::Result<u64> {
        let values = [Value::Id(below), Value::Int(limit)];
        self.execute(DELETE_DELIVERIES, &values).await?;
        self.execute(DELETE_EVENTS, &values).await
    }
}
