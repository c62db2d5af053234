//! `/api/events`: the audit log, and the deliveries of its events to webhooks.

use http::request::Parts;
use utoipa::{IntoParams, ToSchema};

use super::{
    error::{RestResult, rest_names},
    extract::{
        body::{FromFields, StrictJson},
        caller::Manager,
        fields::Fields,
        path::PathId,
        query::{FromQuery, Query, StrictQuery},
    },
    openapi,
    request::RequestContext,
    response::RestResponse,
};
use crate::{
    domain::{
        clock::Micros,
        error::{Error, ErrorKind, Result},
        key::Binding,
    },
    json::{
        self,
        delivery::{Deliveries, Delivery, State},
        event::{Event, EventPage, TypeName},
        time::Rfc3339,
    },
    service::audit::{self, DeliveryState, DeliverySubject},
};

/// A page of events, newest first
#[utoipa::path(
    get,
    path = "/api/events",
    operation_id = "listEvents",
    tag = "events",
    security(("bearer" = []), ("apiKey" = []), ("session" = []), ("sessionCookie" = [])),
    params(ListEvents),
    responses((status = 200, description = "The page.", body = EventPage))
)]
pub(crate) async fn list(
    context: RequestContext,
    Manager(caller): Manager,
    StrictQuery(query): StrictQuery<ListEvents>,
) -> RestResult {
    let page = context.service().audit.list_events(&caller, query.into(), context.call()).await.map_err(names)?;
    let encoded = context.service().bulk.run(async move {
        let events = page.events.iter().map(Event::new).collect();
        RestResponse::ok(&EventPage { events, next_cursor: page.next.as_deref() })
    });
    Ok(encoded.await?)
}

/// The deliveries of an event to the key's webhook
///
/// Empty if the key had no webhook.
#[utoipa::path(
    get,
    path = "/api/events/{id}/deliveries",
    operation_id = "listDeliveries",
    tag = "events",
    security(("bearer" = []), ("apiKey" = []), ("session" = []), ("sessionCookie" = [])),
    params(("id" = String, Path, description = "The event's id."), OwnOrganization),
    responses((status = 200, description = "At most one delivery.", body = Deliveries))
)]
pub(crate) async fn deliveries(context: RequestContext, Manager(caller): Manager, PathId(id): PathId) -> RestResult {
    let subject = DeliverySubject::Event(id);
    let listed = context.service().audit.list_deliveries(&caller, &subject, 0, "", context.call()).await;
    let listed = no_such_event_if_unreadable(listed)?;
    Ok(RestResponse::ok(&Deliveries { deliveries: listed.deliveries.iter().map(delivery).collect() }))
}

/// Deliver an event to the key's webhook again
///
/// Now and with every retry, whatever came of it before, under the same webhook-id. 409 if the key has no webhook.
#[utoipa::path(
    post,
    path = "/api/events/{id}/redeliver",
    operation_id = "redeliver",
    tag = "events",
    security(("bearer" = []), ("apiKey" = []), ("session" = []), ("sessionCookie" = [])),
    params(("id" = String, Path, description = "The event's id."), OwnOrganization),
    request_body = inline(NoFields),
    responses(
        (status = 200, description = "The delivery, due now.", body = Delivery),
        (status = 409, response = openapi::Conflict),
    )
)]
pub(crate) async fn redeliver(
    context: RequestContext,
    Manager(caller): Manager,
    PathId(id): PathId,
    StrictJson(NoFields {}): StrictJson<NoFields>,
) -> RestResult {
    let due = no_such_event_if_unreadable(context.service().audit.redeliver(&caller, &id, context.call()).await)?;
    context.set_key(due.key);
    Ok(RestResponse::ok(&delivery(&due)))
}

// A body without fields. No doc comment: it would become a description in the document.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoFields {}

impl FromFields for NoFields {
    fn from_fields(_: &mut Fields, _: &Parts) -> Self {
        Self {}
    }
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only its description is used; extractors of the caller read the parameter")]
struct OwnOrganization {
    /// May only name an organization of the caller.
    #[param(rename = "orgId", required = false)]
    org_id: String,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
pub(crate) struct ListEvents {
    /// Only events of this type.
    #[param(required = false, inline, value_type = TypeName)]
    r#type: String,
    /// Only events of this key.
    #[param(required = false)]
    key_id: String,
    /// Only events by this actor.
    #[param(required = false)]
    actor: String,
    /// Only events at this time or later.
    #[param(required = false, value_type = String, format = DateTime)]
    since: Option<Micros>,
    /// Only events before this time.
    #[param(required = false, value_type = String, format = DateTime)]
    until: Option<Micros>,
    /// nextCursor of the page before, of the same query.
    #[param(required = false)]
    cursor: String,
    /// Events on the page.
    #[param(required = false, minimum = 1, maximum = 1_000, default = 50)]
    limit: u32,
    /// May only name an organization of the caller.
    #[param(required = false)]
    org_id: String,
    /// Only events of keys of this keyspace.
    #[param(required = false)]
    keyspace: String,
    /// Only events of keys of this instance.
    #[param(required = false)]
    instance_id: String,
    /// Only events of keys of this environment.
    #[param(required = false)]
    environment: String,
}

impl FromQuery for ListEvents {
    fn from_query(query: &mut Query) -> Self {
        Self {
            since: query.time("since"),
            until: query.time("until"),
            limit: query.limit(),
            keyspace: query.text("keyspace"),
            org_id: query.text("orgId"),
            instance_id: query.text("instanceId"),
            environment: query.text("environment"),
            key_id: query.text("keyId"),
            r#type: query.text("type"),
            actor: query.text("actor"),
            cursor: query.text("cursor"),
        }
    }
}

impl From<ListEvents> for audit::ListEvents {
    fn from(query: ListEvents) -> Self {
        Self {
            keyspace: query.keyspace,
            binding: Binding {
                organization: query.org_id,
                instance: query.instance_id,
                environment: query.environment,
            },
            key: query.key_id,
            kind: query.r#type,
            actor: query.actor,
            start: query.since,
            end: query.until,
            page_size: query.limit,
            page_token: query.cursor,
        }
    }
}

fn delivery(delivery: &audit::Delivery) -> Delivery<'_> {
    let state = match delivery.state {
        DeliveryState::Pending => State::Pending,
        DeliveryState::Delivered => State::Delivered,
        DeliveryState::Failed => State::Failed,
    };
    Delivery {
        event_id: delivery.event.to_string(),
        key_id: delivery.key.to_string(),
        host: &delivery.host,
        state,
        attempts: delivery.attempts,
        next_attempt_at: (delivery.state == DeliveryState::Pending).then_some(Rfc3339(delivery.next_attempt_at)),
        last_attempt_at: delivery.attempted_at.map(Rfc3339),
        settled_at: delivery.settled_at.map(Rfc3339),
        last_status: delivery.last_status,
        last_error: json::text(&delivery.last_error),
        last_response: json::text(&delivery.last_response),
    }
}

/// Replaces the error for a malformed id by the one for an id without an event.
fn no_such_event_if_unreadable<T>(result: Result<T>) -> Result<T> {
    result.map_err(|error| match error.fields.as_slice() {
        [only] if only.field == "event_id" => Error::new(ErrorKind::NotFound, "NOT_FOUND", "No such event"),
        _ => error,
    })
}

/// The fields of an error under the names of the query's parameters.
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
