//! The verbs about events and deliveries, the same for every database.

use async_trait::async_trait;
use uuid::Uuid;

use super::{
    Result, StoreError,
    event_rows::{ClaimRow, DeliveryRow, EventRow},
    event_sql as sql,
    events::{
        Claim, ClaimedDelivery, Delivery, DeliveryState, Disabling, EventQuery, EventStore, ExpiringKey, ExpiryQuery,
        NewEvent, Outbox, Settlement,
    },
    failure::Outcome,
    session::{Session, Value},
    sql::{FIND_SETTING, PROPOSE_SETTING},
    verbs::{Backend, Kind, tell},
};
use crate::domain::{
    clock::Micros,
    event::{Event, EventId, EventType, SYSTEM},
    key::KeyId,
};

/// Bytes of an answer that are kept.
const RESPONSE: usize = 1_024;

#[async_trait]
impl<B: Backend> EventStore for B {
    async fn disable_webhook(&self, id: KeyId, disabling: Disabling) -> Result<bool> {
        self.run(Kind::Write, (id, disabling), |session, (id, disabling)| {
            Box::pin(disable_webhook(session, *id, disabling))
        })
        .await
    }

    async fn list_events(&self, query: EventQuery) -> Result<Vec<Event>> {
        self.run(Kind::Read, query, |session, query| Box::pin(list_events(session, query))).await
    }

    async fn find_event(&self, id: EventId) -> Result<Option<Event>> {
        self.run(Kind::Read, id, |session, id| Box::pin(find_event(session, *id))).await
    }

    async fn add_events(&self, kind: EventType, events: Vec<NewEvent>, at: Micros) -> Result<u64> {
        if events.is_empty() {
            return Ok(0);
        }
        self.run(Kind::Write, (kind, events, at), |session, (kind, events, at)| {
            Box::pin(async move { Ok(session.add_events(*kind, events, *at).await?) })
        })
        .await
    }

    async fn expiring_keys(&self, query: ExpiryQuery) -> Result<Vec<ExpiringKey>> {
        self.run(Kind::Read, query, |session, query| Box::pin(expiring_keys(session, query))).await
    }

    async fn delete_events(&self, below: EventId, limit: u32) -> Result<u64> {
        self.run(Kind::Write, (below, limit), |session, (below, limit)| {
            Box::pin(async move { Ok(session.delete_events(below.0, i64::from(*limit)).await?) })
        })
        .await
    }

    async fn claim_deliveries(&self, claim: Claim) -> Result<Vec<ClaimedDelivery>> {
        self.run(Kind::Write, claim, |session, claim| Box::pin(claim_deliveries(session, claim))).await
    }

    async fn settle_delivery(&self, settlement: Settlement) -> Result<bool> {
        self.run(Kind::Write, settlement, |session, settlement| Box::pin(settle_delivery(session, settlement))).await
    }

    async fn release_delivery(&self, event: EventId, claim: i64, due_at: Micros) -> Result<bool> {
        self.run(Kind::Write, (event, claim, due_at), |session, (event, claim, due_at)| {
            Box::pin(release_delivery(session, *event, *claim, *due_at))
        })
        .await
    }

    async fn find_delivery(&self, event: EventId) -> Result<Option<Delivery>> {
        self.run(Kind::Read, event, |session, event| Box::pin(find_delivery(session, *event))).await
    }

    async fn deliveries_of_key(&self, key: KeyId, before: Option<EventId>, limit: u32) -> Result<Vec<Delivery>> {
        self.run(Kind::Read, (key, before, limit), |session, (key, before, limit)| {
            Box::pin(deliveries_of_key(session, *key, *before, *limit))
        })
        .await
    }

    async fn redeliver(&self, event: EventId, now: Micros) -> Result<Option<Delivery>> {
        self.run(Kind::Write, (event, now), |session, (event, now)| Box::pin(redeliver(session, *event, *now))).await
    }

    async fn outbox(&self) -> Result<Outbox> {
        self.run(Kind::Read, (), |session, ()| Box::pin(outbox(session))).await
    }

    async fn advance_watermark(&self, name: String, to: i64) -> Result<i64> {
        self.run(Kind::Write, (name, to), |session, (name, to)| Box::pin(advance_watermark(session, name, *to))).await
    }

    async fn watermark(&self, name: String) -> Result<Option<i64>> {
        self.run(Kind::Read, name, |session, name| Box::pin(watermark(session, name))).await
    }

    async fn try_acquire_job_lease(&self, name: &'static str, now: Micros, until: Micros) -> Result<bool> {
        self.run(Kind::Write, (name, now, until), |session, (name, now, until)| {
            Box::pin(try_acquire_job_lease(session, name, *now, *until))
        })
        .await
    }
}

async fn disable_webhook(session: &mut dyn Session, id: KeyId, disabling: &Disabling) -> Outcome<bool> {
    let Disabling { url, at, event } = disabling;
    let own = [Value::Id(id.0), Value::Text(url), Value::Int(*at)];
    tell(session, EventType::WebhookDisabled, id, &own, (*event, SYSTEM, *at)).await
}

async fn list_events(session: &mut dyn Session, query: &EventQuery) -> Outcome<Vec<Event>> {
    let below = query.before.map_or(Uuid::max(), |id| id.0);
    let from = query.from.map_or(Uuid::nil(), |id| id.0);
    let mut values = vec![
        Value::Id(below),
        Value::Id(from),
        Value::MaybeText(query.keyspace.as_deref()),
        Value::MaybeText(query.organization.as_deref()),
        Value::MaybeText(query.instance.as_deref()),
        Value::MaybeText(query.environment.as_deref()),
        Value::MaybeText(query.kind.map(EventType::name)),
        Value::MaybeText(query.actor.as_deref()),
    ];
    values.extend(query.key.map(|key| Value::Id(key.0)));
    values.push(Value::Int(i64::from(query.limit)));
    events(session.events(sql::events_for(query), &values).await?)
}

async fn find_event(session: &mut dyn Session, id: EventId) -> Outcome<Option<Event>> {
    Ok(events(session.events(sql::FIND_EVENT, &[Value::Id(id.0)]).await?)?.pop())
}

async fn find_delivery(session: &mut dyn Session, event: EventId) -> Outcome<Option<Delivery>> {
    Ok(deliveries(session.deliveries(sql::FIND_DELIVERY, &[Value::Id(event.0)]).await?)?.pop())
}

async fn deliveries_of_key(
    session: &mut dyn Session,
    key: KeyId,
    before: Option<EventId>,
    limit: u32,
) -> Outcome<Vec<Delivery>> {
    let below = before.map_or(Uuid::max(), |id| id.0);
    let values = [Value::Id(key.0), Value::Id(below), Value::Int(i64::from(limit))];
    deliveries(session.deliveries(sql::DELIVERIES_BY_KEY, &values).await?)
}

async fn claim_deliveries(session: &mut dyn Session, claim: &Claim) -> Outcome<Vec<ClaimedDelivery>> {
    let rows: Vec<ClaimRow> = session.claim(claim).await?;
    Ok(rows.into_iter().map(ClaimedDelivery::try_from).collect::<Result<_>>()?)
}

async fn settle_delivery(session: &mut dyn Session, settlement: &Settlement) -> Outcome<bool> {
    let Settlement { event, claim, at, state, next_attempt_at, status, error, response } = settlement;
    let settled_at = (*state != DeliveryState::Pending).then_some(*at);
    let values = [
        Value::Id(event.0),
        Value::Int(*claim),
        Value::Int(*at),
        Value::Text(state.name()),
        Value::Int(*next_attempt_at),
        Value::MaybeInt(status.map(i64::from)),
        Value::Text(&kept(error)),
        Value::Text(&kept(response)),
        Value::MaybeInt(settled_at),
    ];
    Ok(session.execute(sql::SETTLE_DELIVERY, &values).await? == 1)
}

async fn release_delivery(session: &mut dyn Session, event: EventId, claim: i64, due_at: Micros) -> Outcome<bool> {
    let values = [Value::Id(event.0), Value::Int(claim), Value::Int(due_at)];
    Ok(session.execute(sql::RELEASE_DELIVERY, &values).await? == 1)
}

/// What can be kept of a foreign text: its beginning, and without NUL, which Postgres refuses.
fn kept(text: &str) -> String {
    let mut end = text.len().min(RESPONSE);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].replace('\0', " ")
}

async fn redeliver(session: &mut dyn Session, event: EventId, now: Micros) -> Outcome<Option<Delivery>> {
    if session.redeliver(event.0, now).await? { find_delivery(session, event).await } else { Ok(None) }
}

async fn expiring_keys(session: &mut dyn Session, query: &ExpiryQuery) -> Outcome<Vec<ExpiringKey>> {
    let values = [
        Value::Int(query.after.at),
        Value::Id(query.after.key.0),
        Value::Int(query.until),
        Value::Text(query.kind.name()),
        Value::Int(query.once),
        Value::Int(i64::from(query.limit)),
    ];
    Ok(session.expiring(sql::EXPIRING_KEYS, &values).await?.into_iter().map(ExpiringKey::from).collect())
}

async fn outbox(session: &mut dyn Session) -> Outcome<Outbox> {
    let pending = session.numbers(sql::PENDING).await?.first().copied().unwrap_or(0);
    let first_due = session.numbers(sql::FIRST_DUE).await?.first().copied();
    Ok(Outbox { pending, first_due })
}

async fn advance_watermark(session: &mut dyn Session, name: &str, to: i64) -> Outcome<i64> {
    let text = to.to_string();
    let values = [Value::Text(name), Value::Text(&text)];
    if session.execute(PROPOSE_SETTING, &values).await? == 0 {
        session.execute(sql::RAISE_SETTING, &values).await?;
    }
    watermark(session, name).await?.ok_or_else(|| unreadable(name).into())
}

async fn watermark(session: &mut dyn Session, name: &str) -> Outcome<Option<i64>> {
    let Some(text) = session.text(FIND_SETTING, &[Value::Text(name)]).await? else { return Ok(None) };
    Ok(Some(text.parse().map_err(|_| unreadable(name))?))
}

fn unreadable(name: &str) -> StoreError {
    StoreError::Broken(format!("the setting {name} cannot be read"))
}

async fn try_acquire_job_lease(session: &mut dyn Session, name: &str, now: Micros, until: Micros) -> Outcome<bool> {
    let text = until.to_string();
    if session.execute(PROPOSE_SETTING, &[Value::Text(name), Value::Text(&text)]).await? == 1 {
        return Ok(true);
    }
    // A turn that seems to end far in the future was taken by a clock that was ahead.
    let far = now.saturating_add((until - now).saturating_mul(2));
    let values = [Value::Text(name), Value::Text(&text), Value::Int(now), Value::Int(far)];
    Ok(session.execute(sql::TAKE_TURN, &values).await? == 1)
}

fn events(rows: Vec<EventRow>) -> Outcome<Vec<Event>> {
    Ok(rows.into_iter().map(Event::try_from).collect::<Result<_>>()?)
}

fn deliveries(rows: Vec<DeliveryRow>) -> Outcome<Vec<Delivery>> {
    Ok(rows.into_iter().map(Delivery::try_from).collect::<Result<_>>()?)
}
