//! The verbs about keys in SQLite's own SQL.

use async_trait::async_trait;
use data_encoding::HEXLOWER;
use sqlx::Sqlite as Driver;
use uuid::Uuid;

use super::transaction::{EventToWrite, require_written};
use crate::{
    domain::{
        event::EventType,
        key::{Digest, KeyId},
    },
    store::{
        engine::{
            connection::{Executor as _, PooledConnection, Value},
            insert::NewKey,
            ops::keys::{ChangeEvent, KeyDialect},
            rows::keys::{FactsRow, KeyRow},
            sql::keys::{DISABLE_WEBHOOK, FIND_BY_ID, REVOKE_KEY, SET_WEBHOOK, fact_columns, new_columns, new_values},
        },
        keys::{Revocation, Usage},
    },
};

/// The digests are a JSON array; SQLite has no array parameters.
const FIND_BY_DIGESTS: &str = concat!(
    "SELECT ",
    fact_columns!(),
    " FROM keyward_keys k WHERE k.digest IN (SELECT unhex(value) FROM json_each($1))"
);

/// SQLite has no INSERT inside a WITH, so the first key takes two statements in a transaction.
const TAKE_FIRST_KEY: &str = "INSERT INTO keyward_settings (name, value) SELECT 'first_root_key', hex($1) \
     WHERE NOT EXISTS (SELECT 1 FROM keyward_keys) ON CONFLICT DO NOTHING";
const WRITE_FIRST_KEY: &str = concat!("INSERT INTO keyward_keys (", new_columns!(), ") VALUES (", new_values!(), ")");

/// The uses are a JSON array of arrays; SQLite has no array parameters. Its `max` of two values is Postgres's `GREATEST`.
const ADD_USAGE: &str = "INSERT INTO keyward_usage (key_id, last_used_at, count) \
     SELECT k.id, n.value ->> 1, n.value ->> 2 FROM json_each($1) AS n \
     JOIN keyward_keys k ON k.id = unhex(n.value ->> 0) WHERE TRUE \
     ON CONFLICT (key_id) DO UPDATE SET last_used_at = max(keyward_usage.last_used_at, excluded.last_used_at), \
     count = keyward_usage.count + excluded.count";

/// Writes a new key unless its id or its digest exists. SQLite has no array parameters, so each key is a statement.
const CREATE_KEY: &str =
    concat!("INSERT INTO keyward_keys (", new_columns!(), ") VALUES (", new_values!(), ") ON CONFLICT DO NOTHING");

/// Each statement of this file, by name, for the test that prepares them.
pub(super) const STATEMENTS: &[(&str, &str)] = &[
    ("FIND_BY_DIGESTS", FIND_BY_DIGESTS),
    ("TAKE_FIRST_KEY", TAKE_FIRST_KEY),
    ("WRITE_FIRST_KEY", WRITE_FIRST_KEY),
    ("ADD_USAGE", ADD_USAGE),
    ("CREATE_KEY", CREATE_KEY),
];

#[async_trait]
impl KeyDialect for PooledConnection<Driver> {
    async fn first_key(&mut self, key: &NewKey<'_>) -> sqlx::Result<bool> {
        self.begin().await?;
        let written = self.first_key_in_transaction(key).await;
        self.end(written).await
    }

    async fn create_keys(&mut self, keys: &[NewKey<'_>]) -> sqlx::Result<Vec<Uuid>> {
        self.begin().await?;
        let written = self.create_in_transaction(keys).await;
        self.end(written).await
    }

    async fn begin_counting(&mut self, _organizations: &[String]) -> sqlx::Result<()> {
        // There is one transaction that writes at a time.
        self.begin().await
    }

    async fn create_counted_keys(&mut self, keys: &[NewKey<'_>]) -> sqlx::Result<Vec<Uuid>> {
        self.create_in_transaction(keys).await
    }

    async fn end_counting(&mut self, commit: bool) -> sqlx::Result<()> {
        self.execute(if commit { "COMMIT" } else { "ROLLBACK" }, &[]).await.map(drop)
    }

    async fn facts_of_digests(&mut self, digests: &[Digest]) -> sqlx::Result<Vec<FactsRow>> {
        let digests: Vec<String> = digests.iter().map(|digest| HEXLOWER.encode(&digest.0)).collect();
        let digests = serde_json::Value::from(digests).to_string();
        self.fetch(FIND_BY_DIGESTS, &[Value::Text(&digests)]).await
    }

    async fn keys_of_ids(&mut self, ids: &[Uuid]) -> sqlx::Result<Vec<KeyRow>> {
        let mut rows = Vec::with_capacity(ids.len());
        for id in ids {
            rows.append(&mut self.fetch(FIND_BY_ID, &[Value::Id(*id)]).await?);
        }
        Ok(rows)
    }

    async fn revoke_keys(&mut self, revocations: &[(KeyId, Revocation)]) -> sqlx::Result<()> {
        self.begin().await?;
        let revoked = self.revoke_in_transaction(revocations).await;
        self.end(revoked).await
    }

    async fn set_webhook(&mut self, values: &[Value<'_>], event: &ChangeEvent<'_>) -> sqlx::Result<bool> {
        self.change(SET_WEBHOOK, values, event).await
    }

    async fn disable_webhook(&mut self, values: &[Value<'_>], event: &ChangeEvent<'_>) -> sqlx::Result<bool> {
        self.change(DISABLE_WEBHOOK, values, event).await
    }

    async fn add_usage(&mut self, usage: &[Usage]) -> sqlx::Result<()> {
        let rows = usage
            .iter()
            .map(|one| serde_json::json!([HEXLOWER.encode(one.id.0.as_bytes()), one.last_used_at, one.count]));
        let rows = rows.collect::<serde_json::Value>().to_string();
        self.execute(ADD_USAGE, &[Value::Text(&rows)]).await?;
        Ok(())
    }
}

impl PooledConnection<Driver> {
    async fn first_key_in_transaction(&mut self, new: &NewKey<'_>) -> sqlx::Result<bool> {
        let values = new.values();
        let claimed = self.execute(TAKE_FIRST_KEY, &values[..1]).await? == 1;
        let written = claimed && self.execute(WRITE_FIRST_KEY, &values).await? == 1;
        if written {
            self.write_event(&creation(new)).await?;
        }
        Ok(written)
    }

    async fn create_in_transaction(&mut self, keys: &[NewKey<'_>]) -> sqlx::Result<Vec<Uuid>> {
        let mut written = Vec::new();
        for new in keys {
            if self.execute(CREATE_KEY, &new.values()).await? == 1 {
                require_written(self.write_event(&creation(new)).await?)?;
                written.push(new.key.id.0);
            }
        }
        Ok(written)
    }

    async fn revoke_in_transaction(&mut self, revocations: &[(KeyId, Revocation)]) -> sqlx::Result<()> {
        for (id, Revocation { at, reason, by, event }) in revocations {
            let values = [Value::Id(id.0), Value::Int(*at), Value::Text(reason), Value::Text(by)];
            if self.execute(REVOKE_KEY, &values).await? == 1 {
                let event = ChangeEvent { id: event.0, kind: EventType::KeyRevoked, key: id.0, actor: by, at: *at };
                require_written(self.write_event(&change(&event)).await?)?;
            }
        }
        Ok(())
    }

    /// Runs an UPDATE of one key, and writes the event if the key changed.
    async fn change(
        &mut self,
        update: &'static str,
        values: &[Value<'_>],
        event: &ChangeEvent<'_>,
    ) -> sqlx::Result<bool> {
        self.begin().await?;
        let changed = self.change_in_transaction(update, values, event).await;
        self.end(changed).await
    }

    async fn change_in_transaction(
        &mut self,
        update: &'static str,
        values: &[Value<'_>],
        event: &ChangeEvent<'_>,
    ) -> sqlx::Result<bool> {
        let changed = self.execute(update, values).await? == 1;
        if changed {
            require_written(self.write_event(&change(event)).await?)?;
        }
        Ok(changed)
    }
}

/// The event of a creation. Its id is the key's.
fn creation<'a>(new: &NewKey<'a>) -> EventToWrite<'a> {
    let key = new.key;
    let id = key.id.0;
    EventToWrite { id, kind: EventType::KeyCreated, once: None, actor: &key.created_by, key: id, at: key.created_at }
}

fn change<'a>(event: &ChangeEvent<'a>) -> EventToWrite<'a> {
    let &ChangeEvent { id, kind, key, actor, at } = event;
    EventToWrite { id, kind, once: None, actor, key, at }
}
