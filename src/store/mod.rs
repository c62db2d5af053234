//! The store seam: coarse verbs, one atomic business write each. The backend owns connections, transactions and
//! retries; no transaction type leaks out.
//!
//! The conformance suite (`tests/store/`) runs on every backend; each MUST below names its case.

pub mod batch;
pub mod change_feed;
pub mod event_postgres;
mod event_rows;
pub mod event_sql;
pub mod event_sqlite;
mod event_verbs;
pub mod events;
mod failure;
pub mod feed_postgres;
pub mod migrate;
mod new_key;
mod pool;
pub mod postgres;
mod session;
pub mod sql;
pub mod sqlite;
mod verbs;
mod writes;

use async_trait::async_trait;
use uuid::Uuid;

use self::events::{EventStore, WebhookUpdate};
pub use self::migrate::OpenError;
use crate::domain::{
    clock::Micros,
    error::Error,
    event::EventId,
    key::{Digest, KeyFacts, KeyId, KeyRecord, KeyStatus},
};

/// Why a store call gave nothing.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The database is away, or did not answer in time. For a write: it may have happened or not.
    #[error("database unavailable: {0}")]
    Unavailable(String),
    /// Another key has this digest.
    #[error("digest collision")]
    DigestCollision,
    /// What one row holds: the database did not take it, or this program cannot read it.
    #[error("database error in one row: {0}")]
    Row(String),
    /// The database refused.
    #[error("database error: {0}")]
    Broken(String),
}

/// The result of a store call.
pub type Result<T> = std::result::Result<T, StoreError>;

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => Self::unavailable(error.to_string()),
            StoreError::DigestCollision | StoreError::Row(_) | StoreError::Broken(_) => {
                Self::internal(error.to_string())
            }
        }
    }
}

/// What the settings say of the installation key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstallationRow {
    /// Names the key that the database is at.
    pub fingerprint: String,
    /// The key in base64, where it is kept in the database; none where it comes from the environment.
    pub key: Option<String>,
    /// Names the keys that it was at before, oldest first.
    pub earlier: Vec<String>,
}

/// A revocation to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// When.
    pub at: Micros,
    /// Why; may be empty.
    pub reason: String,
    /// Who.
    pub by: String,
    /// The id of the event that tells.
    pub event: EventId,
}

/// What came of a webhook change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookChange {
    /// The key as it now stands.
    pub key: KeyRecord,
    /// Whether the change was written; not for a key that is revoked or expired.
    pub applied: bool,
}

/// Filters and a position. `None` does not filter; `Some("")` finds keys without.
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
    /// Who made the key.
    pub created_by: Option<String>,
    /// Only ids below this one: the last of the page before.
    pub before: Option<KeyId>,
    /// At most so many.
    pub limit: u32,
    /// The time at which `status` is meant.
    pub now: Micros,
}

/// A key's use, to be added to what is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// The key.
    pub id: KeyId,
    /// Its last VALID answer.
    pub last_used_at: Micros,
    /// VALID answers since the last write.
    pub count: i64,
}

/// A replica as the database has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicaRow {
    /// Chosen anew at each join.
    pub id: Uuid,
    /// Counts its renewals.
    pub step: i64,
    /// Its lease, in milliseconds.
    pub lease_ms: i64,
    /// It has applied every change up to this revision.
    pub seen_revision: i64,
}

/// Connections of the pool, for gauges.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolGauge {
    /// Open connections.
    pub open: u32,
    /// Open connections that nobody uses.
    pub idle: u32,
}

/// Where keys are kept.
///
/// Each method runs to its end even when its caller stops waiting, and is bounded in time: past the bound it is
/// [`StoreError::Unavailable`], and its connection is closed rather than used again.
#[async_trait]
pub trait Store: EventStore + Send + Sync + 'static {
    /// Writes the installation row if there is none, and answers the one that is there. Of several callers at once,
    /// one MUST win, and all MUST see it (case `one_installation_wins`).
    async fn installation(&self, proposed: InstallationRow) -> Result<InstallationRow>;

    /// Exchanges the installation row if it is still `from`, and answers the one that is there. Of several callers at
    /// once, one MUST win, and all MUST see it (case `one_installation_move_wins`).
    async fn move_installation(&self, from: InstallationRow, to: InstallationRow) -> Result<InstallationRow>;

    /// Writes the first root key, with its event, if this was never done and there is no key at all; says whether it was
    /// written.
    /// MUST write one among any number of callers at once (case `one_first_root_key`).
    async fn first_root_key(&self, key: KeyRecord) -> Result<bool>;

    /// Writes a new key, durably. A retry of the same id is a success (case `create_is_idempotent_by_id`); another
    /// key's digest is [`StoreError::DigestCollision`] and changes nothing (case `digest_collision`). Keys that are created
    /// at once may share a statement, but MUST not share their outcome (case `creations_at_once_end_each_in_its_own_way`). The
    /// same statement MUST write its event, whose id is the key's (case `a_creation_tells`), and its delivery where the key
    /// has a webhook (case `a_delivery_for_each_event_of_a_key_with_a_webhook`); so it is for every change below.
    async fn create_key(&self, key: KeyRecord) -> Result<()>;

    /// What verdicts on these digests are taken from, in any order; those that don't exist are left out. One indexed
    /// query (case `find_by_digest`).
    async fn find_by_digests(&self, digests: Vec<Digest>) -> Result<Vec<KeyFacts>>;

    /// One key with its last use.
    async fn find_by_id(&self, id: KeyId) -> Result<Option<KeyRecord>>;

    /// A page of keys with their last use, newest (highest id) first. Pages MUST stay stable while keys are added
    /// (case `pages_stay_stable`); strings compare by case (case `case_pairs`).
    async fn list_keys(&self, query: ListQuery) -> Result<Vec<KeyRecord>>;

    /// Revokes a key and answers it as it now stands; none if there is no such key. A revoked key MUST stay as it is
    /// (case `second_revoke_changes_nothing`), also under two at once (case `two_revokes_at_once`). Revocations at once may
    /// share a statement, but MUST not share their outcome (case `revocations_at_once_end_each_in_its_own_way`). The change
    /// gets the next revision, and revisions MUST become visible in their order (case `revision_order`). Only the call that
    /// changed the key MUST tell (case `a_revocation_tells_once`).
    async fn revoke_key(&self, id: KeyId, revocation: Revocation) -> Result<Option<KeyRecord>>;

    /// Sets or (empty) removes the webhook URL of a key that is active at that time; its signing
    /// secret MUST change from the version that the update names, or not at all (cases
    /// `the_first_webhook_ever_makes_the_first_version` and `a_rotation_happens_once`). None if there is no such key. A
    /// dead key MUST stay as it is (case `webhook_of_dead_key`), and only a change MUST tell (case
    /// `a_webhook_change_tells`).
    async fn set_webhook(&self, id: KeyId, update: WebhookUpdate) -> Result<Option<WebhookChange>>;

    /// Adds uses: the latest time wins, counts add up, and uses of keys that don't exist are ignored
    /// (case `usage_keeps_the_latest`). MUST not touch the keys' own rows (case `usage_leaves_revisions_alone`).
    async fn record_usage(&self, usage: Vec<Usage>) -> Result<()>;

    /// Every replica that may be answering from memory. Always empty where one process owns the database.
    async fn replicas(&self) -> Result<Vec<ReplicaRow>>;

    /// A round trip to the database, which must be able to take writes.
    async fn ping(&self) -> Result<()>;

    /// Connections now.
    fn pool(&self) -> PoolGauge;

    /// Ends every connection; calls in flight end first.
    async fn close(&self);
}
