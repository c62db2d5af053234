//! The store's verbs, the same for every database: which statements, in which order.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use uuid::Uuid;

use super::{
    InstallationRow, ListQuery, PoolGauge, ReplicaRow, Result, Revocation, Store, StoreError, Usage, WebhookChange,
    event_sql::FIND_EVENT,
    events::{SecretChange, WebhookUpdate},
    failure::Outcome,
    new_key::NewKey,
    session::{Change, Job, Session, Value},
    sql,
    writes::{Writer, Writes},
};
use crate::domain::{
    clock::Micros,
    event::{EventId, EventType},
    key::{Digest, KeyFacts, KeyId, KeyRecord},
};

/// What kind of call a verb is: which connection it needs. Either is sent again when its connection broke: done twice,
/// each leaves the database as done once, but for counts of uses and of attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Changes nothing.
    Read,
    /// May change something.
    Write,
}

/// The writes that come many at once.
pub struct Gathered {
    creations: Writes<KeyRecord, ()>,
    revocations: Writes<(KeyId, Revocation), Option<KeyRecord>>,
}

impl Gathered {
    /// Starts gathering on `runtime`, for so many statements of a kind at once.
    pub(super) fn start(writer: &Arc<impl Writer>, statements: usize, runtime: &Handle) -> Self {
        Self {
            creations: Writes::start(writer, statements, 256, runtime, |session, keys| {
                Box::pin(create_keys(session, keys))
            }),
            // Each takes its revision by another version of one row, all of which the next one must pass.
            revocations: Writes::start(writer, statements, 64, runtime, |session, all| {
                Box::pin(revoke_keys(session, all))
            }),
        }
    }
}

/// A database behind the verbs.
pub trait Backend: Send + Sync + 'static {
    /// Runs a job on a connection, in a task of its own and within the bounds.
    fn run<I, T>(&self, kind: Kind, input: I, job: Job<I, T>) -> impl Future<Output = Result<T>> + Send
    where
        I: Send + Sync + 'static,
        T: Send + 'static;

    /// Where writes are gathered.
    fn gathered(&self) -> &Gathered;

    /// Counts the statements that looked up digests.
    fn lookups(&self) -> &AtomicU64;

    /// Connections now.
    fn gauge(&self) -> PoolGauge;

    /// Ends every connection; calls in flight end first.
    fn end(&self) -> impl Future<Output = ()> + Send;
}

#[async_trait]
impl<B: Backend> Store for B {
    async fn installation(&self, proposed: InstallationRow) -> Result<InstallationRow> {
        self.run(Kind::Write, proposed, |session, row| Box::pin(installation(session, row))).await
    }

    async fn move_installation(&self, from: InstallationRow, to: InstallationRow) -> Result<InstallationRow> {
        self.run(Kind::Write, (from, to), |session, (from, to)| Box::pin(move_installation(session, from, to))).await
    }

    async fn first_root_key(&self, key: KeyRecord) -> Result<bool> {
        self.run(Kind::Write, key, |session, key| Box::pin(first_root_key(session, key))).await
    }

    async fn create_key(&self, key: KeyRecord) -> Result<()> {
        self.gathered().creations.write(key).await
    }

    async fn find_by_digests(&self, digests: Vec<Digest>) -> Result<Vec<KeyFacts>> {
        if digests.is_empty() {
            return Ok(Vec::new());
        }
        self.lookups().fetch_add(1, Ordering::Relaxed);
        self.run(Kind::Read, digests, |session, digests| Box::pin(find_by_digests(session, digests))).await
    }

    async fn find_by_id(&self, id: KeyId) -> Result<Option<KeyRecord>> {
        self.run(Kind::Read, id, |session, id| Box::pin(find_by_id(session, *id))).await
    }

    async fn list_keys(&self, query: ListQuery) -> Result<Vec<KeyRecord>> {
        self.run(Kind::Read, query, |session, query| Box::pin(list_keys(session, query))).await
    }

    async fn revoke_key(&self, id: KeyId, revocation: Revocation) -> Result<Option<KeyRecord>> {
        self.gathered().revocations.write((id, revocation)).await
    }

    async fn set_webhook(&self, id: KeyId, update: WebhookUpdate) -> Result<Option<WebhookChange>> {
        self.run(Kind::Write, (id, update), |session, (id, update)| Box::pin(set_webhook(session, *id, update))).await
    }

    async fn record_usage(&self, usage: Vec<Usage>) -> Result<()> {
        let usage = merge(usage);
        if usage.is_empty() {
            return Ok(());
        }
        self.run(Kind::Write, usage, |session, usage| Box::pin(async move { Ok(session.add_usage(usage).await?) }))
            .await
    }

    async fn replicas(&self) -> Result<Vec<ReplicaRow>> {
        self.run(Kind::Read, (), |session, ()| Box::pin(async move { Ok(session.replicas().await?) })).await
    }

    async fn ping(&self) -> Result<()> {
        // Not a read: it must find the connection that writes.
        self.run(Kind::Write, (), |session, ()| Box::pin(ping(session))).await
    }

    fn pool(&self) -> PoolGauge {
        self.gauge()
    }

    async fn close(&self) {
        self.end().await;
    }
}

/// The versions of the migrations that were applied.
pub(super) async fn applied_migrations<B: Backend>(backend: &B) -> Result<Vec<i64>> {
    backend.run(Kind::Read, (), |session, ()| Box::pin(async move { Ok(session.applied().await?) })).await
}

/// How [`InstallationRow`] is kept: one value, so that it is written whole or not at all.
#[derive(Serialize, Deserialize)]
struct StoredInstallation {
    fingerprint: String,
    key: Option<String>,
    /// Left out while empty, as it was before there was such a thing: a row is exchanged by its text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    earlier: Vec<String>,
}

const INSTALLATION: &str = "installation";

fn stored(row: &InstallationRow) -> Result<String> {
    let InstallationRow { fingerprint, key, earlier } = row.clone();
    to_json(&StoredInstallation { fingerprint, key, earlier })
}

async fn installation(session: &mut dyn Session, proposed: &InstallationRow) -> Outcome<InstallationRow> {
    let text = stored(proposed)?;
    session.execute(sql::PROPOSE_SETTING, &[Value::Text(INSTALLATION), Value::Text(&text)]).await?;
    kept_installation(session).await
}

async fn move_installation(
    session: &mut dyn Session,
    from: &InstallationRow,
    to: &InstallationRow,
) -> Outcome<InstallationRow> {
    let (from, to) = (stored(from)?, stored(to)?);
    let values = [Value::Text(INSTALLATION), Value::Text(&from), Value::Text(&to)];
    session.execute(sql::EXCHANGE_SETTING, &values).await?;
    kept_installation(session).await
}

async fn kept_installation(session: &mut dyn Session) -> Outcome<InstallationRow> {
    let kept = session.text(sql::FIND_SETTING, &[Value::Text(INSTALLATION)]).await?;
    let kept: StoredInstallation = kept
        .and_then(|text| serde_json::from_str(&text).ok())
        .ok_or_else(|| StoreError::Broken("the installation setting cannot be read".to_owned()))?;
    Ok(InstallationRow { fingerprint: kept.fingerprint, key: kept.key, earlier: kept.earlier })
}

async fn first_root_key(session: &mut dyn Session, key: &KeyRecord) -> Outcome<bool> {
    if session.first_key(key, &NewKey::of(key)?.values()).await? {
        return Ok(true);
    }
    // A second attempt of the call that wrote it: the reply to the first was lost.
    Ok(find_by_id(session, key.id).await?.is_some())
}

/// Writes keys; what came of each.
async fn create_keys(session: &mut dyn Session, keys: &[KeyRecord]) -> Outcome<Vec<Result<()>>> {
    let new = keys.iter().map(NewKey::of).collect::<Result<Vec<_>>>()?;
    let written: HashSet<Uuid> = session.create_keys(&new).await?.into_iter().collect();
    let mut places = HashMap::<KeyId, usize>::new();
    for key in keys {
        *places.entry(key.id).or_default() += 1;
    }
    // Of two with one id, `written` does not tell which of them it was.
    let doubtful = |key: &KeyRecord| !written.contains(&key.id.0) || places[&key.id] > 1;
    let ids: Vec<Uuid> = keys.iter().filter(|key| doubtful(key)).map(|key| key.id.0).collect();
    let there = keys_of_ids(session, &ids).await?;
    Ok(keys.iter().map(|key| if doubtful(key) { kept(key, there.get(&key.id.0)) } else { Ok(()) }).collect())
}

/// What came of a creation, by what is there now.
fn kept(key: &KeyRecord, there: Option<&Result<KeyRecord>>) -> Result<()> {
    match there {
        // Or a retry: the reply to the first attempt was lost.
        Some(Ok(kept)) if kept.digest == key.digest => Ok(()),
        Some(Ok(_)) => Err(StoreError::Row(format!("the id {} is another key's", key.id))),
        Some(Err(error)) => Err(error.clone()),
        None => Err(StoreError::DigestCollision),
    }
}

/// Keys by their ids; one that cannot be read is alone with that.
async fn keys_of_ids(session: &mut dyn Session, ids: &[Uuid]) -> Outcome<HashMap<Uuid, Result<KeyRecord>>> {
    let rows = if ids.is_empty() { Vec::new() } else { session.keys_of_ids(ids).await? };
    Ok(rows.into_iter().map(|row| (row.id, row.try_into())).collect())
}

async fn find_by_digests(session: &mut dyn Session, digests: &[Digest]) -> Outcome<Vec<KeyFacts>> {
    let rows = match digests {
        [digest] => session.facts(sql::FIND_BY_DIGEST, &[Value::Bytes(&digest.0)]).await?,
        _ => session.facts_of_digests(digests).await?,
    };
    Ok(rows.into_iter().map(sql::read_facts).collect::<Result<_>>()?)
}

async fn find_by_id(session: &mut dyn Session, id: KeyId) -> Outcome<Option<KeyRecord>> {
    Ok(records(session.keys(sql::FIND_BY_ID, &[Value::Id(id.0)]).await?)?.pop())
}

async fn list_keys(session: &mut dyn Session, query: &ListQuery) -> Outcome<Vec<KeyRecord>> {
    let before = query.before.map_or(uuid::Uuid::max(), |id| id.0);
    let values = [
        Value::Id(before),
        Value::MaybeText(query.keyspace.as_deref()),
        Value::MaybeText(query.organization.as_deref()),
        Value::MaybeText(query.instance.as_deref()),
        Value::MaybeText(query.environment.as_deref()),
        Value::MaybeText(query.created_by.as_deref()),
        Value::MaybeInt(query.status.map(sql::status_number)),
        Value::Int(query.now),
        Value::Int(i64::from(query.limit)),
    ];
    records(session.keys(sql::list_for(query), &values).await?)
}

/// Revokes keys; each as it now stands.
async fn revoke_keys(
    session: &mut dyn Session,
    revocations: &[(KeyId, Revocation)],
) -> Outcome<Vec<Result<Option<KeyRecord>>>> {
    session.revoke_keys(revocations).await?;
    // Read back rather than returned by the change: SQLite's RETURNING does not see the revision that its trigger
    // gives. Nothing changes a key that is revoked, so no other change can come between.
    let ids: Vec<Uuid> = revocations.iter().map(|(id, _)| id.0).collect();
    let keys = keys_of_ids(session, &ids).await?;
    Ok(ids.iter().map(|id| keys.get(id).cloned().transpose()).collect())
}

async fn set_webhook(session: &mut dyn Session, id: KeyId, update: &WebhookUpdate) -> Outcome<Option<WebhookChange>> {
    let WebhookUpdate { url, secret: SecretChange { from, to, former_until }, at, by, event } = update;
    let own = [
        Value::Id(id.0),
        Value::Text(url),
        Value::Int(*at),
        Value::Int(*from),
        Value::Int(*to),
        Value::Int(*former_until),
    ];
    let changed = tell(session, EventType::WebhookUpdated, id, &own, (*event, by, *at)).await?;
    // Its event is there if it was made before, and the reply was lost.
    let applied = changed || !session.events(FIND_EVENT, &[Value::Id(event.0)]).await?.is_empty();
    let key = find_by_id(session, id).await?;
    Ok(key.map(|key| WebhookChange { key, applied }))
}

/// Makes a change to a key that is there, with its event; says whether it was made.
pub(super) async fn tell(
    session: &mut dyn Session,
    kind: EventType,
    key: KeyId,
    own: &[Value<'_>],
    (event, actor, at): (EventId, &str, Micros),
) -> Outcome<bool> {
    let values = [own, &[Value::Id(event.0), Value::Text(actor)]].concat();
    let change = Change { kind, values: &values, event: event.0, key: key.0, actor, at };
    Ok(session.change(&change).await?)
}

async fn ping(session: &mut dyn Session) -> Outcome<()> {
    if session.writable().await? {
        Ok(())
    } else {
        Err(StoreError::Unavailable("the database takes no writes: a standby, or read-only".to_owned()).into())
    }
}

/// Each key once: a statement may not touch a row twice.
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

fn records(rows: Vec<sql::KeyRow>) -> Outcome<Vec<KeyRecord>> {
    Ok(rows.into_iter().map(KeyRecord::try_from).collect::<Result<_>>()?)
}

pub(super) fn to_json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| StoreError::Broken(format!("cannot be written as JSON: {error}")))
}
