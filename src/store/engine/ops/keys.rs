//! The verbs about keys.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use async_trait::async_trait;
use sqlx::Database;
use uuid::Uuid;

use crate::{
    domain::{
        clock::Micros,
        egress::host_of,
        event::SYSTEM,
        key::{Digest, KeyFacts, KeyId, KeyRecord},
    },
    store::{
        engine::{
            attempts::Attempts,
            backend::Backend,
            classify::AttemptResult,
            connection::{Executor, PooledConnection, Value},
            insert::NewKey,
            rows::{
                events::EventRow,
                keys::{FactsRow, KeyRow, read_facts},
                readable::{NextRows, PageReader, Readable},
            },
            sql::{events::FIND_EVENT, keys as sql},
            write_batch::{BatchedWrites, WriteBatcher},
        },
        error::{Result, StoreError},
        keys::{KeyStore, ListQuery, Revocation, SecretChange, Usage, WebhookChange, WebhookRemoval, WebhookUpdate},
    },
};

/// Maximum number of creations in one statement.
const MAX_CREATIONS: usize = 256;
/// Maximum number of revocations in one statement. Each updates the single `keyward_revision` row and leaves a dead tuple
/// behind, which later revocations in the same statement must scan past.
const MAX_REVOCATIONS: usize = 64;

/// The event of a change to an existing key. The database writes it with the change, and its delivery if the key then has a
/// webhook.
pub struct ChangeEvent<'a> {
    /// The event's id.
    pub id: Uuid,
    /// The key.
    pub key: Uuid,
    /// Who makes the change.
    pub actor: &'a str,
    /// When the delivery is due.
    pub at: Micros,
}

/// What the verbs about keys need of a database in its own SQL. Each method is atomic.
#[async_trait]
pub trait KeyDialect: Executor {
    /// Writes a key with its event, if there is no key and the first key was never written. Returns whether it was written.
    async fn first_key(&mut self, key: &NewKey<'_>) -> sqlx::Result<bool>;
    /// Writes those keys whose id and digest do not exist yet, with their events and deliveries. Returns the ids of the keys
    /// that were written.
    async fn create_keys(&mut self, keys: &[NewKey<'_>]) -> sqlx::Result<Vec<Uuid>>;
    /// Reads what verdicts on several digests need, in one statement.
    async fn facts_of_digests(&mut self, digests: &[Digest]) -> sqlx::Result<Vec<FactsRow>>;
    /// Reads keys by their ids, in any order.
    async fn keys_of_ids(&mut self, ids: &[Uuid]) -> sqlx::Result<Vec<KeyRow>>;
    /// Revokes those keys that are not revoked, with their events and deliveries.
    async fn revoke_keys(&mut self, revocations: &[(KeyId, Revocation)]) -> sqlx::Result<()>;
    /// Runs the UPDATE of `SET_WEBHOOK` with these values, and writes the event if it changed the key. Returns whether it
    /// did.
    async fn set_webhook(&mut self, values: &[Value<'_>], event: &ChangeEvent<'_>) -> sqlx::Result<bool>;
    /// The same with `DISABLE_WEBHOOK`.
    async fn disable_webhook(&mut self, values: &[Value<'_>], event: &ChangeEvent<'_>) -> sqlx::Result<bool>;
    /// Adds uses, with each key at most once, in one statement.
    async fn add_usage(&mut self, usage: &[Usage]) -> sqlx::Result<()>;
}

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

    async fn list_keys(&self, query: ListQuery) -> Result<Vec<KeyRecord>> {
        let page = self.read(query, |db, query| Box::pin(list_keys(db, query))).await?;
        Ok(self.report_unreadable("key", page))
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

/// Writes keys and returns the result of each.
async fn create_keys(db: &mut impl KeyDialect, keys: &[KeyRecord]) -> AttemptResult<Vec<Result<()>>> {
    let new = keys.iter().map(NewKey::of).collect::<Result<Vec<_>>>()?;
    let written: HashSet<Uuid> = db.create_keys(&new).await?.into_iter().collect();
    let mut occurrences = HashMap::<KeyId, usize>::new();
    for key in keys {
        *occurrences.entry(key.id).or_default() += 1;
    }
    // Of two keys with one id, `written` does not say which one was written.
    let in_doubt = |key: &KeyRecord| !written.contains(&key.id.0) || occurrences[&key.id] > 1;
    let ids: Vec<Uuid> = keys.iter().filter(|key| in_doubt(key)).map(|key| key.id.0).collect();
    let existing = keys_of_ids(db, &ids).await?;
    Ok(keys
        .iter()
        .map(|key| if in_doubt(key) { creation_result(key, existing.get(&key.id.0)) } else { Ok(()) })
        .collect())
}

/// Returns the result of a creation, given the key that has its id now.
fn creation_result(key: &KeyRecord, existing: Option<&Result<KeyRecord>>) -> Result<()> {
    match existing {
        // Also a retry: the reply to the attempt that wrote it was lost.
        Some(Ok(existing)) if existing.digest == key.digest => Ok(()),
        Some(Ok(_)) => Err(StoreError::Row(format!("the id {} is another key's", key.id))),
        Some(Err(error)) => Err(error.clone()),
        None => Err(StoreError::DigestCollision),
    }
}

/// Reads keys by their ids. A key that cannot be read does not fail the others.
async fn keys_of_ids(db: &mut impl KeyDialect, ids: &[Uuid]) -> AttemptResult<HashMap<Uuid, Result<KeyRecord>>> {
    let rows = if ids.is_empty() { Vec::new() } else { db.keys_of_ids(ids).await? };
    Ok(rows.into_iter().map(|row| (row.id, row.try_into())).collect())
}

async fn find_by_digests(db: &mut impl KeyDialect, digests: &[Digest]) -> AttemptResult<Vec<KeyFacts>> {
    let rows = match digests {
        [digest] => db.fetch(sql::FIND_BY_DIGEST, &[Value::Bytes(&digest.0)]).await?,
        _ => db.facts_of_digests(digests).await?,
    };
    Ok(rows.into_iter().map(read_facts).collect::<Result<_>>()?)
}

async fn find_by_id(db: &mut impl Executor, id: KeyId) -> AttemptResult<Option<KeyRecord>> {
    Ok(records(db.fetch(sql::FIND_BY_ID, &[Value::Id(id.0)]).await?)?.pop())
}

async fn list_keys(db: &mut impl Executor, query: &ListQuery) -> AttemptResult<Readable<KeyRecord>> {
    let mut page = PageReader::new(query.limit);
    while let Some(NextRows { after, limit }) = page.next() {
        let values = list_values(query, after.or(query.before.map(|id| id.0)), limit);
        page.add::<KeyRow>(db.fetch(sql::list_for(query), &values).await?)?;
    }
    Ok(page.finish())
}

fn list_values(query: &ListQuery, before: Option<Uuid>, limit: u32) -> [Value<'_>; 9] {
    [
        Value::Id(before.unwrap_or(Uuid::max())),
        Value::MaybeText(query.keyspace.as_deref()),
        Value::MaybeText(query.organization.as_deref()),
        Value::MaybeText(query.instance.as_deref()),
        Value::MaybeText(query.environment.as_deref()),
        Value::MaybeText(query.created_by.as_deref()),
        Value::MaybeInt(query.status.map(sql::status_number)),
        Value::Int(query.now),
        Value::Int(i64::from(limit)),
    ]
}

/// Revokes keys and returns each as it is afterwards.
async fn revoke_keys(
    db: &mut impl KeyDialect,
    revocations: &[(KeyId, Revocation)],
) -> AttemptResult<Vec<Result<Option<KeyRecord>>>> {
    db.revoke_keys(revocations).await?;
    // Read back instead of returned by the change: SQLite's RETURNING does not see the revision that its trigger sets.
    // Nothing changes a revoked key, so no other change can come between.
    let ids: Vec<Uuid> = revocations.iter().map(|(id, _)| id.0).collect();
    let keys = keys_of_ids(db, &ids).await?;
    Ok(ids.iter().map(|id| keys.get(id).cloned().transpose()).collect())
}

async fn set_webhook(
    db: &mut impl KeyDialect,
    id: KeyId,
    update: &WebhookUpdate,
) -> AttemptResult<Option<WebhookChange>> {
    let WebhookUpdate { url, secret: SecretChange { from, to, former_until }, at, by, event } = update;
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
    let changed = db.set_webhook(&values, &ChangeEvent { id: event.0, key: id.0, actor: by, at: *at }).await?;
    // The event exists if this is a retry and the reply to the attempt that made the change was lost.
    let applied = changed || !db.fetch::<EventRow>(FIND_EVENT, &[Value::Id(event.0)]).await?.is_empty();
    let key = find_by_id(db, id).await?;
    Ok(key.map(|key| WebhookChange { key, applied }))
}

async fn disable_webhook(db: &mut impl KeyDialect, id: KeyId, removal: &WebhookRemoval) -> AttemptResult<bool> {
    let WebhookRemoval { url, at, event } = removal;
    let values = [Value::Id(id.0), Value::Text(url), Value::Int(*at)];
    Ok(db.disable_webhook(&values, &ChangeEvent { id: event.0, key: id.0, actor: SYSTEM, at: *at }).await?)
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

fn records(rows: Vec<KeyRow>) -> AttemptResult<Vec<KeyRecord>> {
    Ok(rows.into_iter().map(KeyRecord::try_from).collect::<Result<_>>()?)
}
