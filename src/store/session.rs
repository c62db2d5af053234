//! One connection at work: what the verbs need of a database, and the rules for giving a connection back.

use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use sqlx::{Database, Pool, pool::PoolConnection};
use tokio::{runtime::Handle, time::Instant};
use uuid::Uuid;

use super::{
    PoolGauge, ReplicaRow, StoreError, Usage,
    failure::{Failure, Outcome},
    sql::KeyRow,
};
use crate::domain::key::Digest;

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

/// The statements that every database runs in the same words.
#[async_trait]
pub trait Statements: Send {
    /// Runs a statement and says how many rows it touched.
    async fn execute(&mut self, sql: &'static str, values: &[Value<'_>]) -> sqlx::Result<u64>;
    /// Reads keys.
    async fn keys(&mut self, sql: &'static str, values: &[Value<'_>]) -> sqlx::Result<Vec<KeyRow>>;
    /// Reads one text.
    async fn text(&mut self, sql: &'static str, values: &[Value<'_>]) -> sqlx::Result<Option<String>>;
    /// Reads numbers.
    async fn numbers(&mut self, sql: &'static str) -> sqlx::Result<Vec<i64>>;
}

/// What a verb may do with the connection that it was given: shared statements, and what each database does in its own
/// words.
#[async_trait]
pub trait Session: Statements {
    /// Reads the keys of several digests in one statement.
    async fn keys_of_digests(&mut self, digests: &[Digest]) -> sqlx::Result<Vec<KeyRow>>;
    /// Writes a key, given as the values of a new one, if there is none and this was never done; atomic.
    async fn first_key(&mut self, key: &[Value<'_>]) -> sqlx::Result<bool>;
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
    pub(super) conn: PoolConnection<DB>,
    /// Whether statements stay prepared on it.
    pub(super) persistent: bool,
    sound: bool,
    runtime: Handle,
}

/// A connection is tested as it goes back. On one that went silent the test would hold its place in the pool until TCP
/// gives up.
const GIVE_BACK: Duration = Duration::from_secs(1);

impl<DB: Database> Link<DB> {
    /// Takes a connection to work.
    pub(super) fn new(conn: PoolConnection<DB>, persistent: bool, runtime: Handle) -> Self {
        Self { conn, persistent, sound: false, runtime }
    }

    /// Ends the work, and notes whether the connection outlived it.
    pub(super) fn settle<T>(mut self, outcome: Outcome<T>) -> Outcome<T> {
        self.sound = outcome.as_ref().map_or_else(Failure::leaves_connection_sound, |_| true);
        outcome
    }
}

/// Waits for work on a connection, but not for ever.
pub(super) async fn within<T>(deadline: Instant, work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    tokio::time::timeout_at(deadline, work).await.unwrap_or(Err(Failure::TimedOut))
}

impl<DB: Database> Drop for Link<DB> {
    fn drop(&mut self) {
        if self.sound {
            self.runtime.spawn(tokio::time::timeout(GIVE_BACK, self.conn.return_to_pool()));
        } else {
            self.conn.close_on_drop();
        }
    }
}

/// A pool's connections.
pub(super) fn gauge<DB: Database>(pool: &Pool<DB>) -> PoolGauge {
    PoolGauge { open: pool.size(), idle: u32::try_from(pool.num_idle()).unwrap_or(u32::MAX) }
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

            async fn text(&mut self, sql: &'static str, values: &[Value<'_>]) -> sqlx::Result<Option<String>> {
                let query = sqlx::query_scalar_with(sql, arguments(values)?).persistent(self.persistent);
                query.fetch_optional(&mut *self.conn).await
            }

            async fn numbers(&mut self, sql: &'static str) -> sqlx::Result<Vec<i64>> {
                sqlx::query_scalar(sql).persistent(self.persistent).fetch_all(&mut *self.conn).await
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
