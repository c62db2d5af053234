//! Events and their deliveries: what the store takes and returns, and its verbs.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::{error::Result, page::RowPage};
use crate::domain::{
    clock::Micros,
    event::{Event, EventId, EventType},
    key::{Binding, KeyId},
    webhook::FormerSecrets,
};

/// The filters and the position of a page of events. `None` does not filter; `Some("")` finds events of keys without a
/// value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventQuery {
    /// Keyspace of the key.
    pub keyspace: Option<String>,
    /// Organization of the key.
    pub organization: Option<String>,
    /// Instance of the key.
    pub instance: Option<String>,
    /// Environment of the key.
    pub environment: Option<String>,
    /// The key.
    pub key: Option<KeyId>,
    /// Type of the event.
    pub kind: Option<EventType>,
    /// Who caused it.
    pub actor: Option<String>,
    /// Only ids from this one on.
    pub from: Option<EventId>,
    /// Only ids below this one: the end of the requested time, or the last id of the previous page.
    pub before: Option<EventId>,
    /// Maximum number of events.
    pub limit: u32,
}

/// An event that is written only once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewEvent {
    /// Id of the event.
    pub id: EventId,
    /// The key that it is about.
    pub key: KeyId,
    /// Identifies the event together with the key and the type. Of two such events only the first is written.
    pub once: i64,
}

/// An event that is about no key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRecord {
    /// Id of the event.
    pub id: EventId,
    /// Its type.
    pub kind: EventType,
    /// Who caused it.
    pub actor: String,
    /// The keyspace whose managers may see it; empty: operators alone.
    pub keyspace: String,
    /// The organization, instance and environment whose managers may see it.
    pub binding: Binding,
    /// Details.
    pub details: BTreeMap<String, String>,
}

/// A delivery to make again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redelivery {
    /// When it is due.
    pub at: Micros,
    /// Who requested it.
    pub by: String,
    /// The id of the event that is written with it.
    pub event: EventId,
}

/// A position among keys ordered by expiry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExpiryPosition {
    /// The expiry.
    pub at: Micros,
    /// Orders keys with the same expiry.
    pub key: KeyId,
}

/// A page of keys ordered by expiry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpiryQuery {
    /// Only keys after this position.
    pub after: ExpiryPosition,
    /// Only keys that expire at this time or before.
    pub until: Micros,
    /// Type of the event to look for; see [`ExpiringKey::written`].
    pub kind: EventType,
    /// [`NewEvent::once`] of that event.
    pub once: i64,
    /// Maximum number of keys.
    pub limit: u32,
}

/// A key that is not revoked and that expires or has expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpiringKey {
    /// The key and its expiry.
    pub position: ExpiryPosition,
    /// When the key was created.
    pub created_at: Micros,
    /// Whether the event of the query has been written.
    pub written: bool,
}

/// A request for deliveries to attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Deliveries that are due at this time are claimed.
    pub now: Micros,
    /// When the claim ends. Another worker may then claim what was not settled.
    pub until: Micros,
    /// Maximum number of deliveries.
    pub limit: u32,
    /// Hosts to skip, in the form of [`ClaimedDelivery::host`].
    pub busy_hosts: Vec<String>,
}

/// A delivery that the worker holding the claim must attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimedDelivery {
    /// The event to deliver.
    pub event: Event,
    /// The key that it is about.
    pub key: KeyId,
    /// The host of the webhook when the event was written, as [`host_of`](crate::domain::egress::host_of) gives it.
    pub host: String,
    /// The current URL of the webhook; empty if it was removed since.
    pub url: String,
    /// The current version of the key's signing secret.
    pub webhook_version: i64,
    /// The versions before the last rotation, while they still sign.
    pub former: Option<FormerSecrets>,
    /// Number of this attempt, from 1. A redelivery counts from 1 again.
    pub attempt: i64,
    /// Identifies the claim when it is settled. A claim that another worker has taken over settles nothing.
    pub claim: i64,
}

/// The state of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryState {
    /// Due, or being attempted.
    Pending,
    /// The receiver has accepted it.
    Delivered,
    /// No further attempt is made.
    Failed,
}

impl DeliveryState {
    /// The name in the API and in the database.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
        }
    }

    /// Returns the state with this name.
    pub fn of_name(name: &str) -> Option<Self> {
        [Self::Pending, Self::Delivered, Self::Failed].into_iter().find(|state| state.name() == name)
    }
}

/// The result of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// The event.
    pub event: EventId,
    /// [`ClaimedDelivery::claim`].
    pub claim: i64,
    /// When the attempt ended.
    pub at: Micros,
    /// The new state of the delivery.
    pub state: DeliveryState,
    /// When to attempt again, if the delivery is still pending.
    pub next_attempt_at: Micros,
    /// The HTTP status, if there was a response.
    pub status: Option<u16>,
    /// Why the attempt failed, in words for the operator; empty if it did not.
    pub error: String,
    /// The beginning of the response's body. Only the first KiB is kept.
    pub response: String,
}

/// A delivery as the database has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The event that is delivered.
    pub event: EventId,
    /// The event's key.
    pub key: KeyId,
    /// The host of the webhook when the event was written, with its port if that is not the scheme's own. Empty until the
    /// first claim if a version that did not store hosts set the webhook.
    pub host: String,
    /// State of the delivery.
    pub state: DeliveryState,
    /// Number of attempts begun, including those before a redelivery.
    pub attempts: i64,
    /// If it is pending: when the next attempt is due, or when the claim of the current attempt ends.
    pub next_attempt_at: Micros,
    /// When the last attempt ended.
    pub attempted_at: Option<Micros>,
    /// When it was delivered or failed.
    pub settled_at: Option<Micros>,
    /// HTTP status of the last attempt.
    pub last_status: Option<i64>,
    /// Why the last attempt failed; empty if it did not.
    pub last_error: String,
    /// The beginning of the last response's body.
    pub last_response: String,
}

/// The deliveries that are pending.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outbox {
    /// Number of pending deliveries.
    pub pending: i64,
    /// When the first of them is due. A time in the distant past means that deliveries are delayed.
    pub first_due: Option<Micros>,
}

/// The verbs about events and their deliveries. The rules of [`Store`](super::Store) apply.
#[async_trait]
pub trait EventStore {
    /// Reads a page of events, newest (highest id) first (case `every_event_filter_shape`). A page reads a bounded
    /// number of rows (case `a_page_of_events_reads_a_bounded_number_of_rows`).
    async fn list_events(&self, query: EventQuery) -> Result<RowPage<Event>>;

    /// Reads one event.
    async fn find_event(&self, id: EventId) -> Result<Option<Event>>;

    /// Writes those of these events that have not been written yet, for keys that exist and are not revoked, with
    /// deliveries that are due at `at`. Returns how many were written. Of concurrent calls with the same event, one MUST
    /// write it (case `an_event_that_happens_once_is_written_once`).
    async fn add_events(&self, kind: EventType, events: Vec<NewEvent>, at: Micros) -> Result<u64>;

    /// Writes events that are about no key, each once (case `events_without_a_key_are_written_once`).
    async fn record_events(&self, records: Vec<AuditRecord>) -> Result<()>;

    /// Reads a page of keys that are not revoked, ordered by expiry, soonest first (case `keys_by_their_expiry`).
    async fn expiring_keys(&self, query: ExpiryQuery) -> Result<Vec<ExpiringKey>>;

    /// Deletes at most `limit` events with ids below `below`, oldest first, with their deliveries. Returns how many. An
    /// event whose delivery is pending MUST stay (case `a_pending_delivery_keeps_its_event`).
    async fn delete_events(&self, below: EventId, limit: u32) -> Result<u64>;

    /// Claims due deliveries until [`Claim::until`]. Two callers MUST never hold the same delivery (case
    /// `a_delivery_is_claimed_by_one`). A delivery that is not settled MUST become due again (case
    /// `an_unsettled_claim_becomes_due_again`). Deliveries to busy hosts MUST not delay others (case
    /// `busy_hosts_are_skipped`), and all spellings of a host MUST be one host (case
    /// `each_spelling_of_a_host_is_one_host`). A delivery without a host MUST get it (case
    /// `a_delivery_without_a_host_gets_it_with_its_first_claim`).
    async fn claim_deliveries(&self, claim: Claim) -> Result<Vec<ClaimedDelivery>>;

    /// Writes the result of an attempt. Returns whether the claim still held. A claim that was taken over MUST change
    /// nothing (case `a_lost_claim_settles_nothing`).
    async fn settle_delivery(&self, settlement: Settlement) -> Result<bool>;

    /// Releases a claim without an attempt. The delivery is due at `due_at` and MUST be as if it had not been claimed
    /// (case `a_released_claim_counts_no_attempt`). Returns whether the claim still held.
    async fn release_delivery(&self, event: EventId, claim: i64, due_at: Micros) -> Result<bool>;

    /// Reads the delivery of an event; `None` if it has none.
    async fn find_delivery(&self, event: EventId) -> Result<Option<Delivery>>;

    /// Reads at most `limit` deliveries of a key, for events below `before`, newest first.
    async fn deliveries_of_key(&self, key: KeyId, before: Option<EventId>, limit: u32) -> Result<Vec<Delivery>>;

    /// Makes the delivery of an event due now, whatever its state (case `a_redelivery_counts_attempts_anew`), and
    /// writes an event of the request (case `a_redelivery_is_an_event_without_a_delivery`). `None` if there is no such
    /// event, or its key has no webhook now.
    async fn redeliver(&self, event: EventId, redelivery: Redelivery) -> Result<Option<Delivery>>;

    /// Counts the pending deliveries.
    async fn outbox(&self) -> Result<Outbox>;
}
