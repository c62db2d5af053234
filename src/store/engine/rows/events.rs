//! The rows of events and deliveries.

use serde::Deserialize;
use uuid::Uuid;

use super::{from_row::from_row, keys::KeyRow};
use crate::{
    domain::{
        event::{Event, EventId, EventType},
        key::KeyId,
        webhook::FormerSecrets,
    },
    store::{
        error::StoreError,
        events::{ClaimedDelivery, Delivery, DeliveryState, ExpiringKey, ExpiryPosition},
    },
};

/// A row of `keyward_events`.
pub struct EventRow {
    id: Uuid,
    kind: String,
    actor: String,
    key_id: Uuid,
    keyspace: String,
    organization: String,
    instance: String,
    environment: String,
    once: Option<i64>,
    record: String,
    details: String,
}

from_row!(EventRow {
    id,
    kind = "type",
    actor,
    key_id,
    keyspace,
    organization,
    instance,
    environment,
    once,
    record,
    details
});

/// The JSON that `key_snapshot!` writes. Lists and metadata are JSON in a string, like the key's own columns.
#[derive(Deserialize)]
struct KeySnapshot {
    prefix: String,
    name: String,
    scopes: String,
    created_at: i64,
    expires_at: Option<i64>,
    revoked_at: Option<i64>,
    revoke_reason: String,
    created_by: String,
    revoked_by: String,
    webhook_url: String,
    metadata: String,
    rate_limit: Option<i64>,
    rate_window: Option<i64>,
    keyspaces: String,
}

impl TryFrom<EventRow> for Event {
    type Error = StoreError;

    fn try_from(row: EventRow) -> Result<Self, StoreError> {
        let id = EventId(row.id);
        let unreadable = |what: &str| StoreError::Row(format!("the {what} of {id} cannot be read"));
        let kind = EventType::of_name(&row.kind).ok_or_else(|| unreadable("type"))?;
        let details = serde_json::from_str(&row.details).map_err(|_| unreadable("details"))?;
        if row.key_id.is_nil() {
            return Ok(Self { id, kind, actor: row.actor, once: row.once, key: None, details });
        }
        let snapshot: KeySnapshot = serde_json::from_str(&row.record).map_err(|_| unreadable("record"))?;
        let key = KeyRow {
            id: row.key_id,
            keyspace: row.keyspace,
            digest: vec![0; 32],
            prefix: snapshot.prefix,
            organization: row.organization,
            instance: row.instance,
            environment: row.environment,
            name: snapshot.name,
            scopes: snapshot.scopes,
            created_at: snapshot.created_at,
            expires_at: snapshot.expires_at,
            revoked_at: snapshot.revoked_at,
            revoke_reason: snapshot.revoke_reason,
            created_by: snapshot.created_by,
            revoked_by: snapshot.revoked_by,
            webhook_url: snapshot.webhook_url,
            webhook_version: 0,
            metadata: snapshot.metadata,
            revision: 0,
            rate_limit: snapshot.rate_limit,
            rate_window: snapshot.rate_window,
            keyspaces: snapshot.keyspaces,
            last_used_at: None,
        };
        Ok(Self { id, kind, actor: row.actor, once: row.once, key: Some(key.try_into()?), details })
    }
}

/// A row of `keyward_deliveries`.
pub struct DeliveryRow {
    event_id: Uuid,
    key_id: Uuid,
    host: String,
    state: String,
    attempts: i64,
    next_attempt_at: i64,
    attempted_at: Option<i64>,
    settled_at: Option<i64>,
    last_status: Option<i64>,
    last_error: String,
    last_response: String,
}

from_row!(DeliveryRow {
    event_id,
    key_id,
    host,
    state,
    attempts,
    next_attempt_at,
    attempted_at,
    settled_at,
    last_status,
    last_error,
    last_response
});

impl TryFrom<DeliveryRow> for Delivery {
    type Error = StoreError;

    fn try_from(row: DeliveryRow) -> Result<Self, StoreError> {
        let event = EventId(row.event_id);
        let state = DeliveryState::of_name(&row.state)
            .ok_or_else(|| StoreError::Row(format!("the delivery of {event} cannot be read")))?;
        Ok(Self {
            event,
            key: KeyId(row.key_id),
            host: row.host,
            state,
            attempts: row.attempts,
            next_attempt_at: row.next_attempt_at,
            attempted_at: row.attempted_at,
            settled_at: row.settled_at,
            last_status: row.last_status,
            last_error: row.last_error,
            last_response: row.last_response,
        })
    }
}

/// A claimed delivery with its event.
pub struct ClaimRow {
    event: EventRow,
    /// Empty if the webhook was set by a version that did not store its host.
    pub host: String,
    /// The current URL of the webhook.
    pub webhook_url: String,
    webhook_version: i64,
    webhook_former_version: i64,
    webhook_former_until: i64,
    attempts: i64,
    attempts_before: i64,
    claim: i64,
}

from_row!(ClaimRow {
    host,
    webhook_url,
    webhook_version,
    webhook_former_version,
    webhook_former_until,
    attempts,
    attempts_before,
    claim;
    event
});

impl ClaimRow {
    /// The event's id.
    pub fn event_id(&self) -> Uuid {
        self.event.id
    }

    /// Whether this version supports the type of the event. Newer versions may have added types.
    pub fn has_known_type(&self) -> bool {
        EventType::of_name(&self.event.kind).is_some()
    }
}

impl TryFrom<ClaimRow> for ClaimedDelivery {
    type Error = StoreError;

    fn try_from(row: ClaimRow) -> Result<Self, StoreError> {
        Ok(Self {
            key: KeyId(row.event.key_id),
            event: row.event.try_into()?,
            host: row.host,
            url: row.webhook_url,
            webhook_version: row.webhook_version,
            former: (row.webhook_former_version != 0)
                .then_some(FormerSecrets { version: row.webhook_former_version, until: row.webhook_former_until }),
            attempt: row.attempts - row.attempts_before,
            claim: row.claim,
        })
    }
}

/// A row of `EXPIRING_KEYS`.
pub struct ExpiringRow {
    id: Uuid,
    expires_at: i64,
    created_at: i64,
    written: i64,
}

from_row!(ExpiringRow { id, expires_at, created_at, written });

impl From<ExpiringRow> for ExpiringKey {
    fn from(row: ExpiringRow) -> Self {
        Self {
            position: ExpiryPosition { at: row.expires_at, key: KeyId(row.id) },
            created_at: row.created_at,
            written: row.written != 0,
        }
    }
}
