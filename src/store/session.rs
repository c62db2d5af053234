//! One connection at work: what the verbs need of a database, and the rules for giving a connection back.

use async_trait::async_trait;
use futures::future::BoxFuture;
use sqlx::Database;
use tokio::{runtime::Handle, time::Instant};
use uuid::Uuid;

use super::{
    ReplicaRow, Revocation, StoreError, Usage,
    event_rows::{ClaimRow, DeliveryRow, EventRow, ExpiringRow},
    events::{Claim, NewEvent},
    failure::{Failure, Outcome},
    new_key::NewKey,
    pool::Taken,
    sql::{FactsRow, KeyRow},
};
use crate::domain::{
    clock::Micros,
    event::EventType,
    key::{Digest, KeyId, KeyRecord},
};

/// A parameter of a statement.
#[derive(Clone, Copy)]
pub enum Value<'a> {
    /// A text.
    Text(&'a str),
    /// A text or NULL.
    MaybeText(Option<&'a str>),
    /// A number.
    Int(i64),
    /// A number or NULL.
    MaybeInt(Option<i64>),
    /// An id.
    Id(Uuid),
    /// Bytes.
    Bytes(&'a [u8]),
}

/// A change to a key that is there, which is written with its event and, where the key then has a webhook, its delivery.
pub struct Change<'a> {
    /// Which one.
    pub kind: EventType,
    /// The parameters of its statement, then the event's id and its actor.
    pub values: &'a [Value<'a>],
    /// The event's id.
    pub event: Uuid,
    /// The key.
    pub key: Uuid,
    /// Who.
    pub actor: &'a str,
    /// When.
    pub at: Micros,
}

impl Change<'_> {
    /// The parameters of the change itself.
    pub(super) fn own(&self) -> &[Value<'_>] {
        &self.values[..self.values.len() - 2]
    }
}

/// The statements that every database runs in the same words.
#[async_trait]
pub trait Statements: Send {
    /// Runs a statement and says how many rows it touched.
    async fn execute(&mut self, sql: &'static str, values: &[Value<'_>]) -> sqlx::Result<u64>;
    /// Reads keys.
    async fn keys(&mut self, sql: &'static str, values: &[Value<'_>]) -> sqlx::Result<Vec<KeyRow>>;
    /// Reads what verdicts are taken from.
    async fn facts(&mut self, sql: &'static str, values: &[Value<'_>]) -> sqlx::Result<Vec<FactsRow>>;
    /// Reads one text.
    async fn text(&mut self, sql: &'static str, values: &[Value<'_>]) -> sqlx::Result<Option<String>>;
    /// Reads numbers.
    async fn numbers(&mut self, sql: &'static str) -> sqlx::Result<Vec<i64>>;
    /// Reads events.
    async fn events(&mut self, sql: &'static str, values: &[Value<'_>]) -> sqlx::Result<Vec<EventRow>>;
    /// Reads deliveries.
    async fn deliveries(&mut self, sql: &'static str, values: &[Value<'_>]) -> sqlx::Result<Vec<DeliveryRow>>;
    /// Reads keys by their expiry.
    async fn expiring(&mut self, sql: &'static str, values: &[Value<'_>]) -> sqlx::Result<Vec<ExpiringRow>>;
    /// Reads deliveries with their events.
    async fn claims(&mut self, sql: &'static str, values: &[Value<'_>]) -> sqlx::Result<Vec<ClaimRow>>;
}

/// What each database does in its own words about events.
#[async_trait]
pub trait EventSession: Statements {
    /// Writes those keys whose id and digest are not there yet, with their events and deliveries; atomic. The ids of those
    /// that were written.
    async fn create_keys(&mut self, keys: &[NewKey<'_>]) -> sqlx::Result<Vec<Uuid>>;
    /// Revokes those keys that are not revoked, with their events and deliveries; atomic.
    async fn revoke_keys(&mut self, revocations: &[(KeyId, Revocation)]) -> sqlx::Result<()>;
    /// Makes another change to a key, if its conditions hold, and writes its event and delivery; atomic. Says whether it was made.
    async fn change(&mut self, change: &Change<'_>) -> sqlx::Result<bool>;
    /// Writes those events of one type that are not there yet, for keys that are not revoked, and their deliveries, due
    /// at `at`; atomic. Says how many.
    async fn add_events(&mut self, kind: EventType, events: &[NewEvent], at: Micros) -> sqlx::Result<u64>;
    /// Takes deliveries that are due; atomic, and past those that another worker takes at the same time.
    async fn claim(&mut self, claim: &Claim) -> sqlx::Result<Vec<ClaimRow>>;
    /// Makes the delivery of an event due at `at`, anew if it has ended; says whether the event is there and its key has
    /// a webhook.
    async fn redeliver(&mut self, event: Uuid, at: Micros) -> sqlx::Result<bool>;
    /// Deletes at most `limit` events below an id, but none whose delivery is pending, and their deliveries; atomic. Says
    /// how many.
    async fn delete_events(&mut self, below: Uuid, limit: i64) -> sqlx::Result<u64>;
}

/// What a verb may do with the connection that it was given: shared statements, and what each database does in its own
/// words.
#[async_trait]
pub trait Session: EventSession {
    /// Reads what verdicts on several digests are taken from, in one statement.
    async fn facts_of_digests(&mut self, digests: &[Digest]) -> sqlx::Result<Vec<FactsRow>>;
    /// Reads keys by their ids, in any order.
    async fn keys_of_ids(&mut self, ids: &[Uuid]) -> sqlx::Result<Vec<KeyRow>>;
    /// Writes a key, given also as the values of a new one, with its event, if there is none and this was never done;
    /// atomic.
    async fn first_key(&mut self, key: &KeyRecord, values: &[Value<'_>]) -> sqlx::Result<bool>;
    /// Adds uses, each key at most once, in one statement.
    async fn add_usage(&mut self, usage: &[Usage]) -> sqlx::Result<()>;
    /// Reads the replicas.
    async fn replicas(&mut self) -> sqlx::Result<Vec<ReplicaRow>>;
    /// Whether the database takes writes.
    async fn writable(&mut self) -> sqlx::Result<bool>;
    /// The versions of the migrations that were applied; none where the table is not there yet.
    async fn applied(&mut self) -> sqlx::Result<Vec<i64>>;
}

/// A verb: what to do on a connection. It may be run again on another one.
pub type Job<I, T> = for<'a> fn(&'a mut dyn Session, &'a I) -> BoxFuture<'a, Outcome<T>>;

/// A connection out of the pool. It goes back only when it is known to be sound: a call that timed out, failed or
/// panicked on it may have left it inside a statement or a transaction.
pub(super) struct Link<DB: Database> {
    /// The connection.
    pub(super) conn: Taken<DB>,
    /// Whether statements stay prepared on it.
    pub(super) persistent: bool,
}

impl<DB: Database> Link<DB> {
    /// Ends the work: the connection goes back if it has outlived it.
    pub(super) fn settle<T>(self, outcome: Outcome<T>) -> Outcome<T> {
        if outcome.as_ref().map_or_else(Failure::leaves_connection_sound, |_| true) {
            self.conn.give_back();
        }
        outcome
    }
}

/// Waits for work on a connection, but not for ever.
pub(super) async fn within<T>(deadline: Instant, work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    tokio::time::timeout_at(deadline, work).await.unwrap_or(Err(Failure::TimedOut))
}

/// Runs a call to its end even when its caller stops waiting: a driver's future that is dropped half way would leave
/// its connection, and the caller, in doubt.
pub(super) async fn in_own_task<T, E>(
    runtime: &Handle,
    call: impl Future<Output = std::result::Result<T, E>> + Send + 'static,
) -> std::result::Result<T, E>
where
    T: Send + 'static,
    E: From<StoreError> + Send + 'static,
{
    runtime.spawn(call).await.unwrap_or_else(|error| {
        Err(E::from(if error.is_panic() {
            StoreError::Broken("a store call panicked".to_owned())
        } else {
            StoreError::Unavailable("the program is shutting down".to_owned())
        }))
    })
}

/// Implements [`Statements`] for a driver. A macro because the driver has no trait for a statement's result, and its
/// encoding bounds do not carry over to generic code.
macro_rules! statements {
    ($driver:ty, $arguments:ty) => {
        #[async_trait]
        impl Statements for Link<$driver> {
            async fn execute(&mut self, sql: &'static str, values: &[Value<'_>]) -> sqlx::Result<u64> {
                let query = sqlx::query_with(sql, arguments(values)?).persistent(self.persistent);
                Ok(query.execute(&mut *self.conn).await?.rows_affected())
            }

            async fn keys(&mut self, sql: &'static str, values: &[Value<'_>]) -> sqlx::Result<Vec<KeyRow>> {
                let query = sqlx::query_as_with(sql, arguments(values)?).persistent(self.persistent);
                query.fetch_all(&mut *self.conn).await
            }

            async fn facts(&mut self, sql: &'static str, values: &[Value<'_>]) -> sqlx::Result<Vec<FactsRow>> {
                let query = sqlx::query_as_with(sql, arguments(values)?).persistent(self.persistent);
                query.fetch_all(&mut *self.conn).await
            }

            async fn text(&mut self, sql: &'static str, values: &[Value<'_>]) -> sqlx::Result<Option<String>> {
                let query = sqlx::query_scalar_with(sql, arguments(values)?).persistent(self.persistent);
                query.fetch_optional(&mut *self.conn).await
            }

            async fn numbers(&mut self, sql: &'static str) -> sqlx::Result<Vec<i64>> {
                sqlx::query_scalar(sql).persistent(self.persistent).fetch_all(&mut *self.conn).await
            }

            async fn events(&mut self, sql: &'static str, values: &[Value<'_>]) -> sqlx::Result<Vec<EventRow>> {
                let query = sqlx::query_as_with(sql, arguments(values)?).persistent(self.persistent);
                query.fetch_all(&mut *self.conn).await
            }

            async fn deliveries(&mut self, sql: &'static str, values: &[Value<'_>]) -> sqlx::Result<Vec<DeliveryRow>> {
                let query = sqlx::query_as_with(sql, arguments(values)?).persistent(self.persistent);
                query.fetch_all(&mut *self.conn).await
            }

            async fn expiring(&mut self, sql: &'static str, values: &[Value<'_>]) -> sqlx::Result<Vec<ExpiringRow>> {
                let query = sqlx::query_as_with(sql, arguments(values)?).persistent(self.persistent);
                query.fetch_all(&mut *self.conn).await
            }

            async fn claims(&mut self, sql: &'static str, values: &[Value<'_>]) -> sqlx::Result<Vec<ClaimRow>> {
                let query = sqlx::query_as_with(sql, arguments(values)?).persistent(self.persistent);
                query.fetch_all(&mut *self.conn).await
            }
        }

        fn arguments(values: &[Value<'_>]) -> sqlx::Result<$arguments> {
            let mut arguments = <$arguments>::default();
            for value in values {
                match *value {
                    Value::Text(text) => arguments.add(text),
                    Value::MaybeText(text) => arguments.add(text),
                    Value::Int(number) => arguments.add(number),
                    Value::MaybeInt(number) => arguments.add(number),
                    Value::Id(id) => arguments.add(id),
                    Value::Bytes(bytes) => arguments.add(bytes),
                }
                .map_err(sqlx::Error::Encode)?;
            }
            Ok(arguments)
        }
    };
}
pub(super) use statements;
