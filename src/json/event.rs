//! Events in JSON.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{Object, RefOr, Schema},
};

use super::{
    key::{OwnRateLimit, Status, own_rate_limit},
    one_of, text,
    time::Rfc3339,
};
use crate::domain::event::{self, EventType};

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Event<'a> {
    /// Also the webhook-id of its delivery.
    id: String,
    #[schema(schema_with = event_type)]
    r#type: &'static str,
    #[schema(value_type = String, format = DateTime)]
    timestamp: Rfc3339,
    /// `root`, `key:<id>`, `user:<subject>`, `san:<name>`, `system:<user>`, `public`, or `keyward` for what it does by itself.
    actor: &'a str,
    /// Null for an event that is about no key.
    #[schema(required)]
    key_id: Option<String>,
    /// Null for an event that is about no key.
    #[schema(required)]
    data: Option<EventKey<'a>>,
    /// What the event says in addition to the key.
    details: &'a BTreeMap<String, String>,
}

impl<'a> Event<'a> {
    pub(crate) fn new(event: &'a event::Event) -> Self {
        Self {
            id: event.id.to_string(),
            r#type: event.kind.name(),
            timestamp: Rfc3339(event.id.at()),
            actor: &event.actor,
            key_id: event.key.as_ref().map(|key| key.id.to_string()),
            data: EventKey::of(event),
            details: &event.details,
        }
    }
}

/// The key as it was right after the change, in the form that its webhook receives.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct EventKey<'a> {
    id: String,
    keyspace: &'a str,
    #[schema(required)]
    name: Option<&'a str>,
    prefix: &'a str,
    scopes: &'a [String],
    #[schema(inline)]
    status: Status,
    #[schema(required, value_type = Option<String>, format = DateTime)]
    expires_at: Option<Rfc3339>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Rfc3339,
    #[schema(required)]
    created_by: Option<&'a str>,
    #[schema(required, value_type = Option<String>, format = DateTime)]
    revoked_at: Option<Rfc3339>,
    #[schema(required)]
    revoked_by: Option<&'a str>,
    #[schema(required)]
    revoke_reason: Option<&'a str>,
    #[schema(required)]
    org_id: Option<&'a str>,
    #[schema(required)]
    instance_id: Option<&'a str>,
    #[schema(required)]
    environment: Option<&'a str>,
    #[schema(required)]
    webhook: Option<&'a str>,
    metadata: &'a BTreeMap<String, String>,
    #[schema(required, schema_with = own_rate_limit)]
    rate_limit: Option<OwnRateLimit>,
    /// The keyspaces that a service is limited to; left out for any other key.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    #[schema(required = false, min_items = 1)]
    keyspaces: &'a [String],
}

impl<'a> EventKey<'a> {
    /// The key of an event, if it is about one. It has no `lastUsedAt`: the last use is no part of what the event recorded.
    pub(crate) fn of(event: &'a event::Event) -> Option<Self> {
        let key = event.key.as_ref()?;
        Some(Self {
            id: key.id.to_string(),
            keyspace: &key.keyspace,
            name: text(&key.name),
            prefix: &key.prefix,
            scopes: &key.scopes,
            status: Status::of(key, event.id.at()),
            expires_at: key.expires_at.map(Rfc3339),
            created_at: Rfc3339(key.created_at),
            created_by: text(&key.created_by),
            revoked_at: key.revoked_at.map(Rfc3339),
            revoked_by: text(&key.revoked_by),
            revoke_reason: text(&key.revoke_reason),
            org_id: text(&key.binding.organization),
            instance_id: text(&key.binding.instance),
            environment: text(&key.binding.environment),
            webhook: text(&key.webhook_url),
            metadata: &key.metadata,
            rate_limit: key.rate_limit.map(OwnRateLimit::from),
            keyspaces: &key.keyspaces,
        })
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct EventPage<'a> {
    /// Newest first.
    pub(crate) events: Vec<Event<'a>>,
    /// Gives the next page; null on the last one.
    #[schema(required)]
    pub(crate) next_cursor: Option<&'a str>,
}

/// An event's type, as a parameter of a query.
pub(crate) struct TypeName;

impl PartialSchema for TypeName {
    fn schema() -> RefOr<Schema> {
        event_type().into()
    }
}

impl ToSchema for TypeName {}

fn event_type() -> Object {
    one_of(EventType::ALL.map(EventType::name), None)
}
