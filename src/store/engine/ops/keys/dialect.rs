//! What the verbs about keys need of a database in its own SQL.

use async_trait::async_trait;
use uuid::Uuid;

use crate::{
    domain::{
        clock::Micros,
        event::EventType,
        key::{Digest, KeyId},
    },
    store::{
        engine::{
            connection::{Executor, Value},
            insert::NewKey,
            rows::keys::{FactsRow, KeyRow},
        },
        keys::{Revocation, Usage},
    },
};

/// The event of a change to an existing key. The database writes it with the change, and its delivery if the key then has a
/// webhook.
pub struct ChangeEvent<'a> {
    /// The event's id.
    pub id: Uuid,
    /// The event's type.
    pub kind: EventType,
    /// The key.
    pub key: Uuid,
    /// Who makes the change.
    pub actor: &'a str,
    /// When the delivery is due.
    pub at: Micros,
}

/// What the verbs about keys need of a database in its own SQL. Each method is atomic.
#[async_trait]
pub trait KeyDialect: Executor {
    /// Writes a key with its event, if there is no key and the first key was never written. Returns whether it was written.
    async fn first_key(&mut self, key: &NewKey<'_>) -> sqlx::Result<bool>;
    /// Writes those keys whose id and digest do not exist yet, with their events and deliveries. Returns the ids of the
    /// keys that were written.
    async fn create_keys(&mut self, keys: &[NewKey<'_>]) -> sqlx::Result<Vec<Uuid>>;
    /// Begins a transaction in which keys are counted and created. Until it ends, nobody else counts the keys of these
    /// organizations. The names are in ascending order.
    async fn begin_counting(&mut self, organizations: &[String]) -> sqlx::Result<()>;
    /// The same as [`Self::create_keys`], in that transaction.
    async fn create_counted_keys(&mut self, keys: &[NewKey<'_>]) -> sqlx::Result<Vec<Uuid>>;
    /// Ends that transaction: commits it, or rolls it back. An error closes the connection.
    async fn end_counting(&mut self, commit: bool) -> sqlx::Result<()>;
    /// Reads what verdicts on several digests need, in one statement.
    async fn facts_of_digests(&mut self, digests: &[Digest]) -> sqlx::Result<Vec<FactsRow>>;
    /// Reads keys by their ids, in any order.
    async fn keys_of_ids(&mut self, ids: &[Uuid]) -> sqlx::Result<Vec<KeyRow>>;
    /// Revokes those keys that are not revoked, with their events and deliveries.
    async fn revoke_keys(&mut self, revocations: &[(KeyId, Revocation)]) -> sqlx::Result<()>;
    /// Runs the UPDATE of `SET_WEBHOOK` with these values, and writes the event if it changed the key. Returns whether it
    /// did.
    async fn set_webhook(&mut self, values: &[Value<'_>], event: &ChangeEvent<'_>) -> sqlx::Result<bool>;
    /// The same with `DISABLE_WEBHOOK`.
    async fn disable_webhook(&mut self, values: &[Value<'_>], event: &ChangeEvent<'_>) -> sqlx::Result<bool>;
    /// Adds uses, with each key at most once, in one statement.
    async fn add_usage(&mut self, usage: &[Usage]) -> sqlx::Result<()>;
}
