//! Keys: what the store takes and returns, and its verbs.

use async_trait::async_trait;

use super::{error::Result, page::RowPage};
use crate::domain::{
    clock::Micros,
    event::{EventId, EventType},
    key::{Digest, KeyFacts, KeyId, KeyRecord, KeyStatus},
};

/// A revocation to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// When the key is revoked.
    pub at: Micros,
    /// Why; may be empty.
    pub reason: String,
    /// Who revokes it.
    pub by: String,
    /// The id of the event that is written with the revocation.
    pub event: EventId,
}

/// A change of a webhook's signing secret from one version to the next. Of two changes from the same version, only the
/// first is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SecretChange {
    /// The current version; 0 is none. A key with another version keeps its secret.
    pub from: i64,
    /// The next version.
    pub to: i64,
    /// Until when `from`, and earlier versions that still sign, go on signing together with `to`.
    pub former_until: Micros,
}

/// A webhook to set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookUpdate {
    /// The URL. An empty one removes the webhook.
    pub url: String,
    /// The change of the signing secret. Ignored when the webhook is removed.
    pub secret: SecretChange,
    /// When the webhook is set.
    pub at: Micros,
    /// Who sets it.
    pub by: String,
    /// The id of the event that is written with the change.
    pub event: EventId,
    /// The type of that event: [`EventType::WebhookUpdated`] or [`EventType::WebhookRotated`].
    pub kind: EventType,
}

/// The result of setting a webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookChange {
    /// The key after the call.
    pub key: KeyRecord,
    /// Whether the change was written. It is not for a key that is revoked or expired.
    pub applied: bool,
}

/// A webhook to remove because its receiver answered 410 Gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookRemoval {
    /// The URL of that receiver. A webhook with another URL stays.
    pub url: String,
    /// When the webhook is removed.
    pub at: Micros,
    /// The id of the event that is written with the removal.
    pub event: EventId,
}

/// The filters and the position of a page of keys. `None` does not filter; `Some("")` finds keys without a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListQuery {
    /// Keyspace.
    pub keyspace: Option<String>,
    /// Organization.
    pub organization: Option<String>,
    /// Instance.
    pub instance: Option<String>,
    /// Environment.
    pub environment: Option<String>,
    /// Status at `now`.
    pub status: Option<KeyStatus>,
    /// Who created the key.
    pub created_by: Option<String>,
    /// Only ids below this one: the last id of the previous page.
    pub before: Option<KeyId>,
    /// Maximum number of keys.
    pub limit: u32,
    /// The time at which `status` is evaluated.
    pub now: Micros,
}

/// What a search for keys looks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySearch {
    /// Keys whose name begins like this, without regard to the case of ASCII letters; by name, then newest first.
    Name(String),
    /// Keys whose secret begins like this: the first 12 characters; newest first.
    Prefix(String),
    /// Keys that are not revoked and expire after [`SearchQuery::now`] and before this time; the soonest first.
    ExpiresBefore(Micros),
}

/// A search for keys with its filters. `None` does not filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchQuery {
    /// What to look for.
    pub search: KeySearch,
    /// Keyspace.
    pub keyspace: Option<String>,
    /// Organization.
    pub organization: Option<String>,
    /// Instance.
    pub instance: Option<String>,
    /// Environment.
    pub environment: Option<String>,
    /// Status at `now`.
    pub status: Option<KeyStatus>,
    /// Who created the key.
    pub created_by: Option<String>,
    /// The time at which statuses are evaluated.
    pub now: Micros,
    /// Maximum number of keys.
    pub limit: u32,
}

impl SearchQuery {
    /// Whether a filter may exclude keys that the search finds.
    pub fn has_filters(&self) -> bool {
        let Self { keyspace, organization, instance, environment, created_by, .. } = self;
        [keyspace, organization, instance, environment, created_by].iter().any(|filter| filter.is_some())
            || self.status.is_some()
    }
}

/// What a search found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundKeys {
    /// The keys.
    pub keys: Vec<KeyRecord>,
    /// Whether every key that the search could find was read. If not, the filters were applied to the first
    /// [`MAX_SCANNED_ROWS`](super::page::MAX_SCANNED_ROWS) of them.
    pub is_whole: bool,
}

/// Numbers of keys by status and by day.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyCounts {
    /// How many are active, revoked and expired.
    pub by_status: [u64; 3],
    /// `(day, keys created)`; days since the Unix epoch.
    pub created: Vec<(i64, u64)>,
    /// `(day, keys revoked)`.
    pub revoked: Vec<(i64, u64)>,
}

impl KeyCounts {
    /// Adds the numbers of other keys.
    pub fn add(&mut self, other: Self) {
        for (sum, number) in self.by_status.iter_mut().zip(other.by_status) {
            *sum += number;
        }
        add_days(&mut self.created, other.created);
        add_days(&mut self.revoked, other.revoked);
    }
}

fn add_days(days: &mut Vec<(i64, u64)>, other: Vec<(i64, u64)>) {
    for (day, number) in other {
        match days.iter_mut().find(|(known, _)| *known == day) {
            Some((_, sum)) => *sum += number,
            None => days.push((day, number)),
        }
    }
}

/// What to count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountQuery {
    /// Keyspace; `None` for all.
    pub keyspace: Option<String>,
    /// Organization; `None` for all.
    pub organization: Option<String>,
    /// Instance; `None` for all.
    pub instance: Option<String>,
    /// Environment; `None` for all.
    pub environment: Option<String>,
    /// The time at which statuses are evaluated.
    pub now: Micros,
    /// The first day of `created` and `revoked`.
    pub since: Micros,
    /// Maximum number of keys and of events that are counted: the newest.
    pub limit: u32,
}

/// Uses of a key since the last flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// The key.
    pub id: KeyId,
    /// Time of the last VALID answer.
    pub last_used_at: Micros,
    /// VALID answers since the last flush.
    pub count: i64,
}

/// The verbs about keys. The rules of [`Store`](super::Store) apply.
#[async_trait]
pub trait KeyStore {
    /// Writes the first root key with its event, unless that was done before or any key exists. Returns whether it was
    /// written.
    /// Of any number of concurrent calls, one MUST write (case `one_first_root_key`).
    async fn first_root_key(&self, key: KeyRecord) -> Result<bool>;

    /// Writes a new key, durably. A retry with the same id succeeds (case `create_is_idempotent_by_id`). A digest that
    /// another key has is [`StoreError::DigestCollision`](super::StoreError::DigestCollision) and changes nothing (case
    /// `digest_collision`). Concurrent creations may share a statement, but MUST not share their result (case
    /// `concurrent_creations_have_their_own_results`).
    ///
    /// The same statement or transaction MUST write the event, whose id is the key's (case
    /// `creating_a_key_writes_its_event`), and a delivery if the key has a webhook (case
    /// `each_event_of_a_key_with_a_webhook_has_a_delivery`). This holds for each change below, too.
    async fn create_key(&self, key: KeyRecord) -> Result<()>;

    /// Like [`Self::create_key`], unless the key's organization has `max` keys in the key's keyspace that are neither
    /// revoked nor expired at [`KeyRecord::created_at`]. Returns whether the key was written. Of any number of
    /// concurrent calls, also of other replicas, no more MUST write than fit (case
    /// `an_organization_has_no_more_keys_than_its_bound`). Keys that `create_key` writes meanwhile are not counted.
    async fn create_key_within(&self, key: KeyRecord, max: u32) -> Result<bool>;

    /// Reads what verdicts on these digests need, in any order. Digests without a key are left out. One indexed query
    /// (case `find_by_digest`).
    async fn find_by_digests(&self, digests: Vec<Digest>) -> Result<Vec<KeyFacts>>;

    /// Reads one key with its last use.
    async fn find_by_id(&self, id: KeyId) -> Result<Option<KeyRecord>>;

    /// Reads a page of keys with their last use, newest (highest id) first. Pages MUST stay stable while keys are added
    /// (case `pages_stay_stable`). Strings are compared by case (case `case_pairs`). A page reads a bounded number of
    /// rows whatever its filters (case `a_page_reads_a_bounded_number_of_rows`).
    async fn list_keys(&self, query: ListQuery) -> Result<RowPage<KeyRecord>>;

    /// Reads the keys that a search finds, with their last use. Names are compared from their beginning (case
    /// `a_search_finds_names_by_their_beginning`), filters hold as in a list (case
    /// `a_search_has_the_filters_of_a_list`). It MUST read no more than
    /// [`MAX_SCANNED_ROWS`](super::page::MAX_SCANNED_ROWS), whatever its filters (case
    /// `a_search_reads_a_bounded_number_of_rows`).
    async fn search_keys(&self, query: SearchQuery) -> Result<FoundKeys>;

    /// Counts the newest keys and revocations, at most [`CountQuery::limit`] of each (case
    /// `keys_are_counted_by_status_and_day`).
    async fn count_keys(&self, query: CountQuery) -> Result<KeyCounts>;

    /// Revokes a key and returns it as it is afterwards; `None` if there is no such key.
    ///
    /// A revoked key MUST not change (case `second_revoke_changes_nothing`), even under concurrent revocations (case
    /// `two_revokes_at_once`). Concurrent revocations may share a statement, but MUST not share their result (case
    /// `concurrent_revocations_have_their_own_results`). The change gets the next revision, and revisions MUST become
    /// visible in their order (case `revision_order`). Only the call that revoked the key MUST write an event (case
    /// `only_the_first_revocation_writes_an_event`).
    async fn revoke_key(&self, id: KeyId, revocation: Revocation) -> Result<Option<KeyRecord>>;

    /// Sets the webhook of a key that is active at [`WebhookUpdate::at`], or removes it (empty URL). `None` if there is
    /// no such key.
    ///
    /// The signing secret MUST change from the version that the update names, or not at all (cases
    /// `the_first_webhook_ever_makes_the_first_version` and `two_rotations_from_one_version_rotate_once`). A revoked or
    /// expired key MUST not change (case `webhook_of_dead_key`), and only a change MUST write an event (case
    /// `a_webhook_change_writes_an_event`).
    async fn set_webhook(&self, id: KeyId, update: WebhookUpdate) -> Result<Option<WebhookChange>>;

    /// Removes a webhook whose receiver answered 410 Gone. Returns whether the key still had that webhook. A revoked
    /// key, and a webhook that was changed meanwhile, MUST not change (case
    /// `only_the_webhook_that_refused_is_disabled`).
    async fn disable_webhook(&self, id: KeyId, removal: WebhookRemoval) -> Result<bool>;

    /// Adds uses. The latest time wins, counts add up, and uses of keys that do not exist are ignored (case
    /// `usage_keeps_the_latest`). The keys' own rows MUST not change (case `usage_leaves_revisions_alone`).
    async fn record_usage(&self, usage: Vec<Usage>) -> Result<()>;
}
