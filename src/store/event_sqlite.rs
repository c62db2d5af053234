//! Events on SQLite: a change, its event and its delivery are one transaction.

use std::io;

use async_trait::async_trait;
use sqlx::Sqlite as Driver;
use uuid::Uuid;

use super::{
    Revocation,
    event_rows::ClaimRow,
    event_sql::{claim_columns, event_columns, event_of_key, insert_event},
    events::{Claim, NewEvent},
    failure::describe,
    new_key::NewKey,
    session::{Change, EventSession, Link, Statements as _, Value},
    sql::{DISABLE_WEBHOOK, REVOKE_KEY, SET_WEBHOOK, new_columns, new_values},
};
use crate::domain::{
    clock::Micros,
    event::{EventType, SYSTEM},
    key::KeyId,
};

/// A new key is not written if its id or its digest is there. SQLite has no array parameters: one statement for each key.
const CREATE_KEY: &str =
    concat!("INSERT INTO keyward_keys (", new_columns!(), ") VALUES (", new_values!(), ") ON CONFLICT DO NOTHING");

/// Writes the event `$1` of type `$2` by `$3`, `$4`, of key `$5`, unless it is there. Postgres makes JSON by another name.
const WRITE_EVENT: &str = concat!(
    insert_event!(),
    " SELECT $1, $2, $3, k.id, k.keyspace, k.organization, k.instance, k.environment, $4, ",
    event_of_key!("json_object"),
    " FROM keyward_keys k WHERE k.id = $5 ON CONFLICT DO NOTHING"
);

/// What stands between `://` and the next slash, in lower case: SQLite has no `split_part`.
macro_rules! insert_delivery {
    ($event:literal) => {
        concat!(
            "INSERT INTO keyward_deliveries (event_id, key_id, host, next_attempt_at) SELECT ",
            $event,
            ", k.id, lower(substr(substr(k.webhook_url, instr(k.webhook_url, '://') + 3), 1, \
             instr(substr(k.webhook_url, instr(k.webhook_url, '://') + 3) || '/', '/') - 1)), $2"
        )
    };
}

/// Writes the delivery of event `$1`, due at `$2`, if its key `$3` has a webhook.
const WRITE_DELIVERY: &str =
    concat!(insert_delivery!("$1"), " FROM keyward_keys k WHERE k.id = $3 AND k.webhook_url <> ''");

const IS_REVOKED: &str = "SELECT 'revoked' FROM keyward_keys WHERE id = $1 AND revoked_at IS NOT NULL";

/// A JSON array: SQLite has no array parameters. Nobody else takes any meanwhile: there is one writer.
const DUE: &str = concat!(
    "SELECT ",
    claim_columns!("d.attempts + 1"),
    " FROM keyward_deliveries d JOIN keyward_events e ON e.id = d.event_id JOIN keyward_keys k ON k.id = e.key_id \
     WHERE d.state = 'pending' AND d.next_attempt_at <= $1 AND d.host NOT IN (SELECT value FROM json_each($3)) \
     ORDER BY d.next_attempt_at LIMIT $2"
);
const TAKE: &str = "UPDATE keyward_deliveries SET next_attempt_at = $2, attempts = attempts + 1 WHERE event_id = $1";

const REDELIVER: &str = concat!(
    insert_delivery!("e.id"),
    " FROM keyward_events e JOIN keyward_keys k ON k.id = e.key_id WHERE e.id = $1 AND k.webhook_url <> '' \
     ON CONFLICT (event_id) DO UPDATE SET state = 'pending', host = excluded.host, settled_at = NULL, \
     attempts_before = keyward_deliveries.attempts, next_attempt_at = excluded.next_attempt_at"
);

/// The ids of what may be deleted, the same for both tables.
macro_rules! old {
    () => {
        "(SELECT e.id FROM keyward_events e WHERE e.id < $1 AND NOT EXISTS (SELECT 1 FROM keyward_deliveries d \
         WHERE d.event_id = e.id AND d.state = 'pending') ORDER BY e.id LIMIT $2)"
    };
}
const DELETE_DELIVERIES: &str = concat!("DELETE FROM keyward_deliveries WHERE event_id IN ", old!());
const DELETE_EVENTS: &str = concat!("DELETE FROM keyward_events WHERE id IN ", old!());

/// The statements that only SQLite understands, by name, for the test that prepares each.
pub const OWN_STATEMENTS: &[(&str, &str)] = &[
    ("CREATE_KEY", CREATE_KEY),
    ("WRITE_EVENT", WRITE_EVENT),
    ("WRITE_DELIVERY", WRITE_DELIVERY),
    ("IS_REVOKED", IS_REVOKED),
    ("DUE", DUE),
    ("TAKE", TAKE),
    ("REDELIVER", REDELIVER),
    ("DELETE_DELIVERIES", DELETE_DELIVERIES),
    ("DELETE_EVENTS", DELETE_EVENTS),
];

/// Begins a transaction. A writer's: two that began by reading would both fail to go on to write.
const BEGIN: &str = "BEGIN IMMEDIATE";

impl Link<Driver> {
    /// Ends a transaction. A failed statement leaves it open, but for some, such as on a full disk, which end it
    /// themselves: then the end fails, too. It is the first failure that is told, as one after which the connection is
    /// used no more: it may still be inside the transaction.
    pub(super) async fn end<T>(&mut self, outcome: sqlx::Result<T>) -> sqlx::Result<T> {
        let lost = |error: &sqlx::Error| sqlx::Error::Io(io::Error::other(describe(error)));
        match outcome {
            Ok(done) => match self.execute("COMMIT", &[]).await {
                Ok(_) => Ok(done),
                Err(error) => Err(lost(&error)),
            },
            Err(error) => match self.execute("ROLLBACK", &[]).await {
                Ok(_) => Err(error),
                Err(_) => Err(lost(&error)),
            },
        }
    }

    /// Writes an event and its delivery; says whether the event was not there yet.
    pub(super) async fn tell(
        &mut self,
        event: (Uuid, EventType, Option<i64>),
        actor: &str,
        key: Uuid,
        at: Micros,
    ) -> sqlx::Result<bool> {
        let (id, kind, once) = event;
        let values =
            [Value::Id(id), Value::Text(kind.name()), Value::Text(actor), Value::MaybeInt(once), Value::Id(key)];
        let written = self.execute(WRITE_EVENT, &values).await? == 1;
        if written {
            self.execute(WRITE_DELIVERY, &[Value::Id(id), Value::Int(at), Value::Id(key)]).await?;
        }
        Ok(written)
    }

    async fn create(&mut self, keys: &[NewKey<'_>]) -> sqlx::Result<Vec<Uuid>> {
        let mut written = Vec::new();
        for new in keys {
            let (id, by, at) = (new.key.id.0, &new.key.created_by, new.key.created_at);
            if self.execute(CREATE_KEY, &new.values()).await? == 1 {
                told(self.tell((id, EventType::KeyCreated, None), by, id, at).await?)?;
                written.push(id);
            }
        }
        Ok(written)
    }

    async fn revoke(&mut self, revocations: &[(KeyId, Revocation)]) -> sqlx::Result<()> {
        for (id, Revocation { at, reason, by, event }) in revocations {
            let values = [Value::Id(id.0), Value::Int(*at), Value::Text(reason), Value::Text(by)];
            if self.execute(REVOKE_KEY, &values).await? == 1 {
                told(self.tell((event.0, EventType::KeyRevoked, None), by, id.0, *at).await?)?;
            }
        }
        Ok(())
    }

    async fn make(&mut self, change: &Change<'_>) -> sqlx::Result<bool> {
        let statement = match change.kind {
            EventType::WebhookDisabled => DISABLE_WEBHOOK,
            _ => SET_WEBHOOK,
        };
        let made = self.execute(statement, change.own()).await? == 1;
        if made {
            told(self.tell((change.event, change.kind, None), change.actor, change.key, change.at).await?)?;
        }
        Ok(made)
    }

    async fn add(&mut self, kind: EventType, events: &[NewEvent], at: Micros) -> sqlx::Result<u64> {
        let mut written = 0;
        for event in events {
            let revoked = self.text(IS_REVOKED, &[Value::Id(event.key.0)]).await?.is_some();
            if !revoked && self.tell((event.id.0, kind, Some(event.once)), SYSTEM, event.key.0, at).await? {
                written += 1;
            }
        }
        Ok(written)
    }

    async fn take(&mut self, claim: &Claim) -> sqlx::Result<Vec<ClaimRow>> {
        let busy = serde_json::Value::from(claim.busy_hosts.clone()).to_string();
        let values = [Value::Int(claim.now), Value::Int(i64::from(claim.limit)), Value::Text(&busy)];
        let due = self.claims(DUE, &values).await?;
        for row in &due {
            self.execute(TAKE, &[Value::Id(row.event_id()), Value::Int(claim.until)]).await?;
        }
        Ok(due)
    }

    async fn delete(&mut self, below: Uuid, limit: i64) -> sqlx::Result<u64> {
        let values = [Value::Id(below), Value::Int(limit)];
        self.execute(DELETE_DELIVERIES, &values).await?;
        self.execute(DELETE_EVENTS, &values).await
    }
}

/// Another event has the id: rather no change than one that nobody is told of.
fn told(written: bool) -> sqlx::Result<()> {
    let taken = || sqlx::Error::InvalidArgument("the id of an event is taken".to_owned());
    written.then_some(()).ok_or_else(taken)
}

#[async_trait]
impl EventSession for Link<Driver> {
    async fn create_keys(&mut self, keys: &[NewKey<'_>]) -> sqlx::Result<Vec<Uuid>> {
        self.execute(BEGIN, &[]).await?;
        let written = self.create(keys).await;
        self.end(written).await
    }

    async fn revoke_keys(&mut self, revocations: &[(KeyId, Revocation)]) -> sqlx::Result<()> {
        self.execute(BEGIN, &[]).await?;
        let revoked = self.revoke(revocations).await;
        self.end(revoked).await
    }

    async fn change(&mut self, change: &Change<'_>) -> sqlx::Result<bool> {
        self.execute(BEGIN, &[]).await?;
        let made = self.make(change).await;
        self.end(made).await
    }

    async fn add_events(&mut self, kind: EventType, events: &[NewEvent], at: Micros) -> sqlx::Result<u64> {
        self.execute(BEGIN, &[]).await?;
        let written = self.add(kind, events, at).await;
        self.end(written).await
    }

    async fn claim(&mut self, claim: &Claim) -> sqlx::Result<Vec<ClaimRow>> {
        self.execute(BEGIN, &[]).await?;
        let taken = self.take(claim).await;
        self.end(taken).await
    }

    async fn redeliver(&mut self, event: Uuid, at: Micros) -> sqlx::Result<bool> {
        Ok(self.execute(REDELIVER, &[Value::Id(event), Value::Int(at)]).await? == 1)
    }

    async fn delete_events(&mut self, below: Uuid, limit: i64) -> sqlx::Result<u64> {
        self.execute(BEGIN, &[]).await?;
        let deleted = self.delete(below, limit).await;
        self.end(deleted).await
    }
}
