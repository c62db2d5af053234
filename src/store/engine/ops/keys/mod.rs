//! The verbs about keys. `create` has those that create, `find` those that read one, `list` those that read many.

mod create;
mod dialect;
mod find;
mod list;

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use sqlx::Database;
use uuid::Uuid;

pub use self::dialect::{ChangeEvent, KeyDialect};
pub(super) use self::list::scan_end;
use self::{
    create::{MAX_BOUNDED_CREATIONS, MAX_CREATIONS, create_bounded_keys, create_keys},
    find::{find_by_digests, find_by_id, keys_of_ids},
    list::{count_keys, list_keys, search_keys},
};
use crate::{
    domain::{
        egress::host_of,
        event::{EventType, SYSTEM},
        key::{Digest, KeyFacts, KeyId, KeyRecord},
    },
    store::{
        engine::{
            attempts::Attempts,
            backend::Backend,
            classify::AttemptResult,
            connection::{PooledConnection, Value},
            insert::NewKey,
            rows::events::EventRow,
            sql::events::FIND_EVENT,
            write_batch::{BatchedWrites, WriteBatcher},
        },
        error::Result,
        keys::{
            CountQuery, FoundKeys, KeyCounts, KeyStore, ListQuery, Revocation, SearchQuery, SecretChange, Usage,
            WebhookChange, WebhookRemoval, WebhookUpdate,
        },
        page::RowPage,
    },
};

/// Maximum number of revocations in one statement. Each updates the single `keyward_revision` row and leaves a dead tuple
/// behind, which later revocations in the same statement must scan past.
const MAX_REVOCATIONS: usize = 64;

/// Starts to batch the writes that arrive many at once, with at most `max_concurrent` statements of a kind in flight.
pub(crate) fn batched_writes<DB, X>(attempts: &Arc<Attempts<DB, X>>, max_concurrent: usize) -> BatchedWrites
where
    DB: Database,
    X: Send + Sync + 'static,
    PooledConnection<DB>: KeyDialect,
{
    BatchedWrites {
        creations: WriteBatcher::start(attempts, max_concurrent, MAX_CREATIONS, |db, keys| {
            Box::pin(create_keys(db, keys))
        }),
        bounded_creations: WriteBatcher::start(attempts, 1, MAX_BOUNDED_CREATIONS, |db, creations| {
            Box::pin(create_bounded_keys(db, creations))
        }),
        revocations: WriteBatcher::start(attempts, max_concurrent, MAX_REVOCATIONS, |db, revocations| {
            Box::pin(revoke_keys(db, revocations))
        }),
    }
}

#[async_trait]
impl<DB, X> KeyStore for Backend<DB, X>
where
    DB: Database,
    X: Send + Sync + 'static,
    PooledConnection<DB>: KeyDialect,
{
    async fn first_root_key(&self, key: KeyRecord) -> Result<bool> {
        self.write(key, |db, key| Box::pin(first_root_key(db, key))).await
    }

    async fn create_key(&self, key: KeyRecord) -> Result<()> {
        self.batches().creations.write(key).await
    }

    async fn create_key_within(&self, key: KeyRecord, max: u32) -> Result<bool> {
        self.batches().bounded_creations.write((key, max)).await
    }

    async fn find_by_digests(&self, digests: Vec<Digest>) -> Result<Vec<KeyFacts>> {
        if digests.is_empty() {
            return Ok(Vec::new());
        }
        self.count_lookup();
        self.read(digests, |db, digests| Box::pin(find_by_digests(db, digests))).await
    }

    async fn find_by_id(&self, id: KeyId) -> Result<Option<KeyRecord>> {
        self.read(id, |db, id| Box::pin(find_by_id(db, *id))).await
    }

    async fn list_keys(&self, query: ListQuery) -> Result<RowPage<KeyRecord>> {
        let page = self.scan(query, |db, query| Box::pin(list_keys(db, query))).await?;
        Ok(self.page("key", page))
    }

    async fn search_keys(&self, query: SearchQuery) -> Result<FoundKeys> {
        let (found, is_whole) = self.scan(query, |db, query| Box::pin(search_keys(db, query))).await?;
        Ok(FoundKeys { keys: self.report_unreadable("key", found), is_whole })
    }

    async fn count_keys(&self, query: CountQuery) -> Result<KeyCounts> {
        self.scan(query, |db, query| Box::pin(count_keys(db, query))).await
    }

    async fn revoke_key(&self, id: KeyId, revocation: Revocation) -> Result<Option<KeyRecord>> {
        self.batches().revocations.write((id, revocation)).await
    }

    async fn set_webhook(&self, id: KeyId, update: WebhookUpdate) -> Result<Option<WebhookChange>> {
        self.write((id, update), |db, (id, update)| Box::pin(set_webhook(db, *id, update))).await
    }

    async fn disable_webhook(&self, id: KeyId, removal: WebhookRemoval) -> Result<bool> {
        self.write((id, removal), |db, (id, removal)| Box::pin(disable_webhook(db, *id, removal))).await
    }

    async fn record_usage(&self, usage: Vec<Usage>) -> Result<()> {
        let usage = merge(usage);
        if usage.is_empty() {
            return Ok(());
        }
        self.write(usage, |db, usage| Box::pin(async move { Ok(db.add_usage(usage).await?) })).await
    }
}

async fn first_root_key(db: &mut impl KeyDialect, key: &KeyRecord) -> AttemptResult<bool> {
    if db.first_key(&NewKey::of(key)?).await? {
        return Ok(true);
    }
    // The key exists if this is a retry and the reply to the attempt that wrote it was lost.
    Ok(find_by_id(db, key.id).await?.is_some())
}

/// Revokes keys and returns each as it is afterwards.
async fn revoke_keys(
    db: &mut impl KeyDialect,
    revocations: &[(KeyId, Revocation)],
) -> AttemptResult<Vec<Result<Option<KeyRecord>>>> {
    db.revoke_keys(revocations).await?;
    // Read the keys back, because SQLite's RETURNING does not include the revision that its trigger sets. No other
    // change can happen in between, because a revoked key never changes.
    let ids: Vec<Uuid> = revocations.iter().map(|(id, _)| id.0).collect();
    let keys = keys_of_ids(db, &ids).await?;
    Ok(ids.iter().map(|id| keys.get(id).cloned().transpose()).collect())
}

async fn set_webhook(
    db: &mut impl KeyDialect,
    id: KeyId,
    update: &WebhookUpdate,
) -> AttemptResult<Option<WebhookChange>> {
    let WebhookUpdate { url, secret: SecretChange { from, to, former_until }, at, by, event, kind } = update;
    let host = host_of(url);
    let values = [
        Value::Id(id.0),
        Value::Text(url),
        Value::Int(*at),
        Value::Int(*from),
        Value::Int(*to),
        Value::Int(*former_until),
        Value::Text(&host),
    ];
    let change = ChangeEvent { id: event.0, kind: *kind, key: id.0, actor: by, at: *at };
    let changed = db.set_webhook(&values, &change).await?;
    // The event exists if this is a retry and the reply to the attempt that made the change was lost.
    let applied = changed || !db.fetch::<EventRow>(FIND_EVENT, &[Value::Id(event.0)]).await?.is_empty();
    let key = find_by_id(db, id).await?;
    Ok(key.map(|key| WebhookChange { key, applied }))
}

async fn disable_webhook(db: &mut impl KeyDialect, id: KeyId, removal: &WebhookRemoval) -> AttemptResult<bool> {
    let WebhookRemoval { url, at, event } = removal;
    let values = [Value::Id(id.0), Value::Text(url), Value::Int(*at)];
    let change = ChangeEvent { id: event.0, kind: EventType::WebhookDisabled, key: id.0, actor: SYSTEM, at: *at };
    Ok(db.disable_webhook(&values, &change).await?)
}

/// Merges the uses of each key: a statement may not update a row twice.
fn merge(usage: Vec<Usage>) -> Vec<Usage> {
    let mut merged = BTreeMap::<KeyId, Usage>::new();
    for one in usage {
        merged
            .entry(one.id)
            .and_modify(|sum| {
                sum.last_used_at = sum.last_used_at.max(one.last_used_at);
                sum.count = sum.count.saturating_add(one.count);
            })
            .or_insert(one);
    }
    merged.into_values().collect()
}
