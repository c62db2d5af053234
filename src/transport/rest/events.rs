//! `/api/events`: the audit log, and what became of telling webhooks.

use http::StatusCode;
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    Body,
    api_keys::{Query, manager},
    body::{self, Fields},
    request::RequestContext,
    response::{RestError, RestResponse, rest_names},
};
use crate::{
    domain::{
        clock::Micros,
        error::{Error, ErrorKind, Result},
        event::Event,
        key::Binding,
        validation::Violations,
    },
    json,
    service::audit::{Delivery, DeliveryState, DeliverySubject, ListEvents},
};

/// `GET`: a page of events.
pub async fn list(exchange: &mut RequestContext<'_>) -> std::result::Result<RestResponse, RestError> {
    let caller = manager(exchange).await?;
    let request = request(exchange.parts.uri.query().unwrap_or_default())?;
    let page = exchange.service.audit.list_events(&caller, request, exchange.context).await.map_err(names)?;
    let events: Vec<_> = page.events.iter().map(event).collect();
    Ok(RestResponse::json(StatusCode::OK, &json!({"events": events, "nextCursor": page.next})))
}

/// `GET` of an event's deliveries.
pub async fn deliveries(exchange: &mut RequestContext<'_>, id: &str) -> std::result::Result<RestResponse, RestError> {
    let caller = manager(exchange).await?;
    let subject = DeliverySubject::Event(id.to_owned());
    let listed = exchange.service.audit.list_deliveries(&caller, &subject, 0, "", exchange.context).await;
    let deliveries: Vec<_> = unknown_if_unreadable(listed)?.deliveries.iter().map(delivery).collect();
    Ok(RestResponse::json(StatusCode::OK, &json!({"deliveries": deliveries})))
}

/// `POST`: tells the webhook again. There is nothing to say in a body.
pub async fn redeliver(
    exchange: &mut RequestContext<'_>,
    id: &str,
    body: &mut Body,
) -> std::result::Result<RestResponse, RestError> {
    let caller = manager(exchange).await?;
    Fields::read(&exchange.parts.headers, body, exchange.context.deadline).await?.finish()?;
    let due = unknown_if_unreadable(exchange.service.audit.redeliver(&caller, id, exchange.context).await)?;
    exchange.key = due.key.to_string();
    Ok(RestResponse::json(StatusCode::OK, &delivery(&due)))
}

fn request(query: &str) -> Result<ListEvents> {
    let mut violations = Violations::default();
    let mut query = Query::read(query, &mut violations);
    let time = |violations: &mut Violations, query: &mut Query, name: &'static str| -> Option<Micros> {
        let text = query.take(name);
        if text.is_empty() {
            return None;
        }
        let read = OffsetDateTime::parse(&text, &Rfc3339).ok().map(body::micros);
        violations.check(read.is_some(), name, "must be a time in RFC 3339, such as 2026-01-31T00:00:00Z");
        read
    };
    let (start, end) = (time(&mut violations, &mut query, "since"), time(&mut violations, &mut query, "until"));
    let request = ListEvents {
        keyspace: query.take("keyspace"),
        binding: Binding {
            organization: query.take("orgId"),
            instance: query.take("instanceId"),
            environment: query.take("environment"),
        },
        key: query.take("keyId"),
        kind: query.take("type"),
        actor: query.take("actor"),
        start,
        end,
        page_size: query.limit(&mut violations),
        page_token: query.take("cursor"),
    };
    query.finish(&mut violations);
    violations.finish()?;
    Ok(request)
}

fn event(event: &Event) -> Value {
    json!({
        "id": event.id.to_string(),
        "type": event.kind.name(),
        "timestamp": json::rfc3339(event.id.at()),
        "actor": event.actor,
        "keyId": event.key.id.to_string(),
        "data": json::told(event),
    })
}

fn delivery(delivery: &Delivery) -> Value {
    let pending = delivery.state == DeliveryState::Pending;
    json!({
        "eventId": delivery.event.to_string(),
        "keyId": delivery.key.to_string(),
        "host": delivery.host,
        "state": delivery.state.name(),
        "attempts": delivery.attempts,
        "nextAttemptAt": pending.then(|| json::rfc3339(delivery.next_attempt_at)),
        "lastAttemptAt": delivery.attempted_at.map(json::rfc3339),
        "settledAt": delivery.settled_at.map(json::rfc3339),
        "lastStatus": delivery.last_status,
        "lastError": json::text(&delivery.last_error),
        "lastResponse": json::text(&delivery.last_response),
    })
}

/// A path segment that is no id at all names no event either.
fn unknown_if_unreadable<T>(result: Result<T>) -> Result<T> {
    result.map_err(|error| match error.fields.as_slice() {
        [only] if only.field == "event_id" => Error::new(ErrorKind::NotFound, "NOT_FOUND", "No such event"),
        _ => error,
    })
}

fn names(mut error: Error) -> Error {
    for bad in &mut error.fields {
        match &*bad.field {
            "key_id" => bad.field = "keyId".into(),
            "end_time" => bad.field = "until".into(),
            _ => {}
        }
    }
    rest_names(error)
}
