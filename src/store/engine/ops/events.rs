//! The verbs about events and deliveries.

use std::collections::BTreeMap;

use async_trait::async_trait;
use sqlx::Database;
use uuid::Uuid;

use super::keys::scan_end;

use crate::{
    domain::{
        clock::{Micros, SECOND},
        egress::host_of,
        event::{Event, EventId, EventType},
        key::KeyId,
    },
    store::{
        engine::{
            backend::Backend,
            classify::AttemptResult,
            connection::{Executor, PooledConnection, Value},
            insert::to_json,
            rows::{
                events::{ClaimRow, DeliveryRow, EventRow, ExpiringRow},
                readable::{NextRows, PageReader, Readable, RowResult, ScannedRows, Unreadable},
            },
            sql::events as sql,
        },
        error::{Result, StoreError},
        events::{
            AuditRecord, Claim, ClaimedDelivery, Delivery, DeliveryState, EventQuery, EventStore, ExpiringKey,
            ExpiryQuery, NewEvent, Outbox, Redelivery, Settlement,
        },
        page::RowPage,
    },
};

/// Maximum number of bytes that are kept of a response or an error.
const MAX_RESPONSE_BYTES: usize = 1_024;

/// When a delivery with an event type of a newer version is due again: a replica of that version may claim it then.
const UNKNOWN_TYPE_DELAY: Micros = 30 * SECOND;

/// What the verbs about events need of a database in its own SQL. Each method is atomic.
#[async_trait]
pub trait EventDialect: Executor {
    /// Writes those events that do not exist yet, for keys that are not revoked, and their deliveries, due at `at`. Returns
    /// how many.
    async fn add_events(&mut self, kind: EventType, events: &[NewEvent], at: Micros) -> sqlx::Result<u64>;
    /// Claims deliveries that are due, and skips those that another worker claims at the same time.
    async fn claim(&mut self, claim: &Claim) -> sqlx::Result<Vec<RowResult<ClaimRow>>>;
    /// Makes the delivery of an event due, even if it was settled, and writes the event of the redelivery with
    /// `details`. Returns whether the event exists and its key has a webhook, and nothing was written before.
    async fn redeliver(&mut self, event: Uuid, redelivery: &Redelivery, details: &str) -> sqlx::Result<bool>;
    /// Deletes at most `limit` events below an id, except those whose delivery is pending, and their deliveries. Returns
    /// how many.
    async fn delete_events(&mut self, below: Uuid, limit: i64) -> sqlx::Result<u64>;
}

#[async_trait]
impl<DB, X> EventStore for Backend<DB, X>
where
    DB: Database,
    X: Send + Sync + 'static,
    PooledConnection<DB>: EventDialect,
{
    async fn list_events(&self, query: EventQuery) -> Result<RowPage<Event>> {
        let page = self.scan(query, |db, query| Box::pin(list_events(db, query))).await?;
        Ok(self.page("event", page))
    }

    async fn find_event(&self, id: EventId) -> Result<Option<Event>> {
        self.read(id, |db, id| Box::pin(find_event(db, *id))).await
    }

    async fn add_events(&self, kind: EventType, events: Vec<NewEvent>, at: Micros) -> Result<u64> {
        if events.is_empty() {
            return Ok(0);
        }
        self.write((kind, events, at), |db, (kind, events, at)| {
            Box::pin(async move { Ok(db.add_events(*kind, events, *at).await?) })
        })
        .await
    }

    async fn record_events(&self, records: Vec<AuditRecord>) -> Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        self.write(records, |db, records| Box::pin(record_events(db, records))).await
    }

    async fn expiring_keys(&self, query: ExpiryQuery) -> Result<Vec<ExpiringKey>> {
        self.read(query, |db, query| Box::pin(expiring_keys(db, query))).await
    }

    async fn delete_events(&self, below: EventId, limit: u32) -> Result<u64> {
        self.write((below, limit), |db, (below, limit)| {
            Box::pin(async move { Ok(db.delete_events(below.0, i64::from(*limit)).await?) })
        })
        .await
    }

    async fn claim_deliveries(&self, claim: Claim) -> Result<Vec<ClaimedDelivery>> {
        let claimed = self.write(claim, |db, claim| Box::pin(claim_deliveries(db, claim))).await?;
        Ok(self.report_unreadable("event to deliver", claimed))
    }

    async fn settle_delivery(&self, settlement: Settlement) -> Result<bool> {
        self.write(settlement, |db, settlement| Box::pin(settle_delivery(db, settlement))).await
    }

    async fn release_delivery(&self, event: EventId, claim: i64, due_at: Micros) -> Result<bool> {
        self.write((event, claim, due_at), |db, (event, claim, due_at)| {
            Box::pin(release_delivery(db, *event, *claim, *due_at))
        })
        .await
    }

    async fn find_delivery(&self, event: EventId) -> Result<Option<Delivery>> {
        self.read(event, |db, event| Box::pin(find_delivery(db, *event))).await
    }

    async fn deliveries_of_key(&self, key: KeyId, before: Option<EventId>, limit: u32) -> Result<Vec<Delivery>> {
        let page = self.scan((key, before, limit), |db, (key, before, limit)| {
            Box::pin(deliveries_of_key(db, *key, *before, *limit))
        });
        Ok(self.report_unreadable("delivery", page.await?))
    }

    async fn redeliver(&self, event: EventId, redelivery: Redelivery) -> Result<Option<Delivery>> {
        self.write((event, redelivery), |db, (event, redelivery)| Box::pin(redeliver(db, *event, redelivery))).await
    }

    async fn outbox(&self) -> Result<Outbox> {
        self.read((), |db, ()| Box::pin(outbox(db))).await
    }
}

async fn list_events(db: &mut impl Executor, query: &EventQuery) -> AttemptResult<ScannedRows<Event>> {
    let listing = sql::events_for(query);
    let before = query.before.map_or(Uuid::max(), |id| id.0);
    let from = query.from.map_or(Uuid::nil(), |id| id.0);
    // An end below the requested time does not shorten the page.
    let end = scan_end(db, &listing, before).await?.filter(|end| *end > from);
    let mut page = PageReader::new(query.limit);
    while let Some(NextRows { after, limit }) = page.next() {
        let values = event_values(query, after.unwrap_or(before), end.unwrap_or(from), limit);
        page.add::<EventRow>(db.fetch(listing.rows, &values).await?)?;
    }
    Ok(page.finish_at(end))
}

fn event_values(query: &EventQuery, before: Uuid, from: Uuid, limit: u32) -> Vec<Value<'_>> {
    let mut values = vec![
        Value::Id(before),
        Value::Id(from),
        Value::MaybeText(query.keyspace.as_deref()),
        Value::MaybeText(query.organization.as_deref()),
        Value::MaybeText(query.instance.as_deref()),
        Value::MaybeText(query.environment.as_deref()),
        Value::MaybeText(query.kind.map(EventType::name)),
        Value::MaybeText(query.actor.as_deref()),
    ];
    values.extend(query.key.map(|key| Value::Id(key.0)));
    values.push(Value::Int(i64::from(limit)));
    values
}

async fn find_event(db: &mut impl Executor, id: EventId) -> AttemptResult<Option<Event>> {
    Ok(events(db.fetch(sql::FIND_EVENT, &[Value::Id(id.0)]).await?)?.pop())
}

async fn find_delivery(db: &mut impl Executor, event: EventId) -> AttemptResult<Option<Delivery>> {
    Ok(deliveries(db.fetch(sql::FIND_DELIVERY, &[Value::Id(event.0)]).await?)?.pop())
}

async fn deliveries_of_key(
    db: &mut impl Executor,
    key: KeyId,
    before: Option<EventId>,
    limit: u32,
) -> AttemptResult<Readable<Delivery>> {
    let mut page = PageReader::new(limit);
    while let Some(NextRows { after, limit }) = page.next() {
        let below = after.or(before.map(|id| id.0)).unwrap_or(Uuid::max());
        let values = [Value::Id(key.0), Value::Id(below), Value::Int(i64::from(limit))];
        page.add::<DeliveryRow>(db.fetch(sql::DELIVERIES_BY_KEY, &values).await?)?;
    }
    Ok(page.finish())
}

/// Claims deliveries. A delivery that cannot be read is failed: a retry would fail in the same way. One whose event has
/// a type that this version does not know is released for the newer version that wrote it.
async fn claim_deliveries(db: &mut impl EventDialect, claim: &Claim) -> AttemptResult<Readable<ClaimedDelivery>> {
    let mut claimed = Readable::default();
    for row in db.claim(claim).await? {
        let id = row.id()?;
        let unread = [Value::Id(id), Value::Int(claim.until)];
        let why = match row.read() {
            Ok(row) if !row.has_known_type() => {
                let due = Value::Int(claim.now.saturating_add(UNKNOWN_TYPE_DELAY));
                db.execute(sql::RELEASE_UNREAD_DELIVERY, &[unread[0], unread[1], due]).await?;
                claimed.unreadable.push(Unreadable { id, why: StoreError::Row("unknown event type".to_owned()) });
                continue;
            }
            Ok(row) => match with_host(db, row).await?.try_into() {
                Ok(delivery) => {
                    claimed.rows.push(delivery);
                    continue;
                }
                Err(why) => why,
            },
            Err(why) => why,
        };
        db.execute(sql::FAIL_UNREAD_DELIVERY, &[unread[0], unread[1], Value::Int(claim.now)]).await?;
        claimed.unreadable.push(Unreadable { id, why });
    }
    Ok(claimed)
}

/// Completes a delivery whose webhook was set by a version that did not store its host.
async fn with_host(db: &mut impl Executor, mut row: ClaimRow) -> AttemptResult<ClaimRow> {
    if row.host.is_empty() {
        row.host = host_of(&row.webhook_url);
        db.execute(sql::SET_DELIVERY_HOST, &[Value::Id(row.event_id()), Value::Text(&row.host)]).await?;
    }
    Ok(row)
}

async fn settle_delivery(db: &mut impl Executor, settlement: &Settlement) -> AttemptResult<bool> {
    let Settlement { event, claim, at, state, next_attempt_at, status, error, response } = settlement;
    let settled_at = (*state != DeliveryState::Pending).then_some(*at);
    let values = [
        Value::Id(event.0),
        Value::Int(*claim),
        Value::Int(*at),
        Value::Text(state.name()),
        Value::Int(*next_attempt_at),
        Value::MaybeInt(status.map(i64::from)),
        Value::Text(&storable(error)),
        Value::Text(&storable(response)),
        Value::MaybeInt(settled_at),
    ];
    Ok(db.execute(sql::SETTLE_DELIVERY, &values).await? == 1)
}

async fn release_delivery(db: &mut impl Executor, event: EventId, claim: i64, due_at: Micros) -> AttemptResult<bool> {
    let values = [Value::Id(event.0), Value::Int(claim), Value::Int(due_at)];
    Ok(db.execute(sql::RELEASE_DELIVERY, &values).await? == 1)
}

/// Returns the part of a foreign text that can be stored: its beginning, without NUL, which Postgres refuses.
fn storable(text: &str) -> String {
    let mut end = text.len().min(MAX_RESPONSE_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].replace('\0', " ")
}

async fn redeliver(
    db: &mut impl EventDialect,
    event: EventId,
    redelivery: &Redelivery,
) -> AttemptResult<Option<Delivery>> {
    let details = to_json(&BTreeMap::from([("event", event.to_string())]))?;
    let done = db.redeliver(event.0, redelivery, &details).await?
        // The event exists if this is a retry and the reply to the attempt that made the change was lost.
        || find_event(db, redelivery.event).await?.is_some();
    if done { find_delivery(db, event).await } else { Ok(None) }
}

async fn record_events(db: &mut impl Executor, records: &[AuditRecord]) -> AttemptResult<()> {
    for record in records {
        let AuditRecord { id, kind, actor, keyspace, binding, details } = record;
        let details = to_json(details)?;
        let values = [
            Value::Id(id.0),
            Value::Text(kind.name()),
            Value::Text(actor),
            Value::Id(Uuid::nil()),
            Value::Text(keyspace),
            Value::Text(&binding.organization),
            Value::Text(&binding.instance),
            Value::Text(&binding.environment),
            Value::Text(&details),
        ];
        db.execute(sql::RECORD_EVENT, &values).await?;
    }
    Ok(())
}

async fn expiring_keys(db: &mut impl Executor, query: &ExpiryQuery) -> AttemptResult<Vec<ExpiringKey>> {
    let values = [
        Value::Int(query.after.at),
        Value::Id(query.after.key.0),
        Value::Int(query.until),
        Value::Text(query.kind.name()),
        Value::Int(query.once),
        Value::Int(i64::from(query.limit)),
    ];
    let rows: Vec<ExpiringRow> = db.fetch(sql::EXPIRING_KEYS, &values).await?;
    Ok(rows.into_iter().map(ExpiringKey::from).collect())
}

async fn outbox(db: &mut impl Executor) -> AttemptResult<Outbox> {
    let pending: Vec<(i64,)> = db.fetch(sql::PENDING, &[]).await?;
    let first_due: Vec<(i64,)> = db.fetch(sql::FIRST_DUE, &[]).await?;
    Ok(Outbox {
        pending: pending.first().map_or(0, |(count,)| *count),
        first_due: first_due.first().map(|(due,)| *due),
    })
}

fn events(rows: Vec<EventRow>) -> AttemptResult<Vec<Event>> {
    Ok(rows.into_iter().map(Event::try_from).collect::<Result<_>>()?)
}

fn deliveries(rows: Vec<DeliveryRow>) -> AttemptResult<Vec<Delivery>> {
    Ok(rows.into_iter().map(Delivery::try_from).collect::<Result<_>>()?)
}
