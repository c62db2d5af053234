//! What the store takes and gives about events and their deliveries.

use async_trait::async_trait;

use super::Result;
use crate::domain::{
    clock::Micros,
    event::{Event, EventId, EventType},
    key::KeyId,
    webhook::FormerSecrets,
};

/// Filters and a position. `None` does not filter; `Some("")` finds events of keys without.
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
    /// What happened.
    pub kind: Option<EventType>,
    /// Who did it.
    pub actor: Option<String>,
    /// Only ids from this one on.
    pub from: Option<EventId>,
    /// Only ids below this one: the end of the time asked for, or the last of the page before.
    pub before: Option<EventId>,
    /// At most so many.
    pub limit: u32,
}

/// An event that happens only once, to be written if it has not been.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewEvent {
    /// Its id.
    pub id: EventId,
    /// Whose it is.
    pub key: KeyId,
    /// With the key and the type it names the event: of two, only the first is written.
    pub once: i64,
}

/// A position among keys by their expiry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExpiryPosition {
    /// When.
    pub at: Micros,
    /// Of several at that time.
    pub key: KeyId,
}

/// Which keys to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpiryQuery {
    /// Only keys past this position.
    pub after: ExpiryPosition,
    /// Only keys whose expiry is at this time or before.
    pub until: Micros,
    /// The event that may have been written for them already.
    pub kind: EventType,
    /// What sets it apart.
    pub once: i64,
    /// At most so many.
    pub limit: u32,
}

/// A key that is not revoked, and expires or has expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpiringKey {
    /// The key and its expiry.
    pub position: ExpiryPosition,
    /// When it was made.
    pub created_at: Micros,
    /// Whether the event that was asked about is there.
    pub written: bool,
}

/// Which deliveries to take, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// What is due now is taken.
    pub now: Micros,
    /// When the worker counts as dead, and another one may take what it has not settled.
    pub until: Micros,
    /// At most so many.
    pub limit: u32,
    /// Hosts to leave alone, as [`ClaimedDelivery::host`] names them.
    pub busy_hosts: Vec<String>,
}

/// A delivery that is this worker's to attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimedDelivery {
    /// What to tell.
    pub event: Event,
    /// Whom it burdens: host and port of the webhook when the event happened, in lower case.
    pub host: String,
    /// The webhook as it is now; empty if it was removed since.
    pub url: String,
    /// The version of the key's signing secret now.
    pub webhook_version: i64,
    /// Those before its last rotation.
    pub former: Option<FormerSecrets>,
    /// Which attempt this is, from 1 on; a redelivery counts from 1 again.
    pub attempt: i64,
    /// Names this claim when it is settled: a claim that another worker has taken over settles nothing.
    pub claim: i64,
}

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryState {
    /// To be attempted, or under way.
    Pending,
    /// The receiver has taken it.
    Delivered,
    /// Given up.
    Failed,
}

impl DeliveryState {
    /// The name on the wire and in the database.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
        }
    }

    /// The state of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        [Self::Pending, Self::Delivered, Self::Failed].into_iter().find(|state| state.name() == name)
    }
}

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// The event.
    pub event: EventId,
    /// [`ClaimedDelivery::claim`].
    pub claim: i64,
    /// When the attempt ended.
    pub at: Micros,
    /// Where the delivery stands now.
    pub state: DeliveryState,
    /// When to attempt again, if it is still pending.
    pub next_attempt_at: Micros,
    /// The HTTP status, if there was an answer.
    pub status: Option<u16>,
    /// Why it failed, in words for the operator; empty if it did not.
    pub error: String,
    /// The beginning of the answer's body; more than 1 KiB of it is cut off.
    pub response: String,
}

/// A delivery as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The event that is delivered.
    pub event: EventId,
    /// Its key.
    pub key: KeyId,
    /// Host and port of the webhook when the event happened.
    pub host: String,
    /// Where it stands.
    pub state: DeliveryState,
    /// Attempts begun, those before a redelivery among them.
    pub attempts: i64,
    /// When the next attempt is due, if it is pending; while one is under way, when that is given up for lost.
    pub next_attempt_at: Micros,
    /// When the last attempt ended.
    pub attempted_at: Option<Micros>,
    /// When it was delivered or given up.
    pub settled_at: Option<Micros>,
    /// HTTP status of the last attempt.
    pub last_status: Option<i64>,
    /// Why the last attempt failed; empty if it did not.
    pub last_error: String,
    /// The beginning of the last answer's body.
    pub last_response: String,
}

/// What is on its way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outbox {
    /// Deliveries that are pending.
    pub pending: i64,
    /// When the first of them is due; that it is long past tells that deliveries fall behind.
    pub first_due: Option<Micros>,
}

/// One version of a signing secret that follows another; of two changes from the same one, only the first is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SecretChange {
    /// The version that is followed; 0 is none. A key at another one stays at it.
    pub from: i64,
    /// The version that follows.
    pub to: i64,
    /// Until when `from`, and those that still sign beside it, sign, too.
    pub former_until: Micros,
}

/// A webhook to set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookUpdate {
    /// The URL; empty removes it.
    pub url: String,
    /// What becomes of the signing secret, unless the webhook is removed.
    pub secret: SecretChange,
    /// When.
    pub at: Micros,
    /// Who.
    pub by: String,
    /// The id of the event that tells.
    pub event: EventId,
}

/// A webhook to take away because its receiver asked for that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disabling {
    /// The URL that answered so: another one stays.
    pub url: String,
    /// When.
    pub at: Micros,
    /// The id of the event that tells.
    pub event: EventId,
}

/// Where events and their deliveries are kept: the part of [`Store`](super::Store) that is about them, under the same
/// rules.
#[async_trait]
pub trait EventStore {
    /// Removes a webhook that its receiver has refused for good; says whether it was still that one. A revoked key, and a
    /// webhook that was changed meanwhile, MUST stay as they are (case `only_the_webhook_that_refused_is_disabled`).
    async fn disable_webhook(&self, id: KeyId, disabling: Disabling) -> Result<bool>;

    /// A page of events, newest (highest id) first (case `every_event_filter_shape`).
    async fn list_events(&self, query: EventQuery) -> Result<Vec<Event>>;

    /// One event.
    async fn find_event(&self, id: EventId) -> Result<Option<Event>>;

    /// Writes events of one type that happen only once, for keys that exist and are not revoked, with deliveries due at
    /// `at`; says how many were not there yet. Of the same event at any number of callers at once, one MUST be written
    /// (case `an_event_that_happens_once_is_written_once`).
    async fn add_events(&self, kind: EventType, events: Vec<NewEvent>, at: Micros) -> Result<u64>;

    /// A page of keys that are not revoked, by their expiry, soonest first (case `keys_by_their_expiry`).
    async fn expiring_keys(&self, query: ExpiryQuery) -> Result<Vec<ExpiringKey>>;

    /// Deletes at most `limit` events below an id with their deliveries, oldest first; says how many. An event whose
    /// delivery is pending MUST stay (case `what_is_pending_is_not_deleted`).
    async fn delete_events(&self, below: EventId, limit: u32) -> Result<u64>;

    /// Takes due deliveries to attempt, which are the caller's until [`Claim::until`]. Two callers MUST never hold the
    /// same delivery at once (case `a_delivery_is_claimed_by_one`), what a caller does not settle MUST become due again
    /// (case `an_unsettled_claim_becomes_due_again`), and busy hosts MUST not keep others waiting
    /// (case `busy_hosts_are_left_alone`).
    async fn claim_deliveries(&self, claim: Claim) -> Result<Vec<ClaimedDelivery>>;

    /// Writes down what came of an attempt; says whether the claim still held. One that was taken over MUST change
    /// nothing (case `a_lost_claim_settles_nothing`).
    async fn settle_delivery(&self, settlement: Settlement) -> Result<bool>;

    /// Ends a claim without an attempt: the delivery is due at `due_at`, and MUST be as if it had not been claimed (case
    /// `a_released_claim_counts_for_nothing`). Says whether the claim still held.
    async fn release_delivery(&self, event: EventId, claim: i64, due_at: Micros) -> Result<bool>;

    /// The delivery of an event, if it has one.
    async fn find_delivery(&self, event: EventId) -> Result<Option<Delivery>>;

    /// At most `limit` deliveries of a key, of events below `before`, newest first.
    async fn deliveries_of_key(&self, key: KeyId, before: Option<EventId>, limit: u32) -> Result<Vec<Delivery>>;

    /// Makes an event's delivery due now, whatever came of it so far (case `a_redelivery_begins_anew`). None if there is
    /// no such event, or its key has no webhook now.
    async fn redeliver(&self, event: EventId, now: Micros) -> Result<Option<Delivery>>;

    /// How much is to be delivered.
    async fn outbox(&self) -> Result<Outbox>;

    /// Raises a number that replicas share, and never lowers it (case `a_mark_only_rises`); answers the one that holds.
    async fn advance_watermark(&self, name: String, to: i64) -> Result<i64>;

    /// A number that replicas share; none if it was never raised.
    async fn watermark(&self, name: String) -> Result<Option<i64>>;

    /// Takes a turn, until `until`, at what one replica is enough for; says whether it is the caller's. It only saves
    /// work: nothing may depend on turns being taken by one alone (case `turns_are_taken_one_at_a_time`).
    async fn try_acquire_job_lease(&self, name: &'static str, now: Micros, until: Micros) -> Result<bool>;
}
