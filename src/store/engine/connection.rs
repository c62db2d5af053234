//! A connection in use by one attempt, and the statements that run on it.

use async_trait::async_trait;
use sqlx::{Arguments as _, AssertSqlSafe, Database, Executor as _, FromRow, postgres::PgRow, sqlite::SqliteRow};
use uuid::Uuid;

use super::{
    classify::{AttemptError, AttemptResult},
    pool::Checkout,
};

/// A parameter of a statement.
#[derive(Clone, Copy)]
pub enum Value<'a> {
    Text(&'a str),
    MaybeText(Option<&'a str>),
    Int(i64),
    MaybeInt(Option<i64>),
    Id(Uuid),
    Bytes(&'a [u8]),
}

/// Runs statements on a connection.
#[async_trait]
pub trait Executor: Send {
    /// Runs a statement and returns the number of rows that it changed.
    async fn execute(&mut self, sql: &'static str, values: &[Value<'_>]) -> sqlx::Result<u64>;

    /// Runs a statement and reads its rows. A tuple reads columns by position.
    async fn fetch<T>(&mut self, sql: &'static str, values: &[Value<'_>]) -> sqlx::Result<Vec<T>>
    where
        T: for<'r> FromRow<'r, PgRow> + for<'r> FromRow<'r, SqliteRow> + Send + Unpin;

    /// Runs statements without parameters, by the simple protocol.
    async fn execute_script(&mut self, sql: &str) -> sqlx::Result<()>;
}

/// A connection out of the pool. It goes back only when it is known to be sound: an attempt that timed out, failed or
/// panicked may have left it inside a statement or a transaction.
pub struct PooledConnection<DB: Database> {
    pub(crate) checkout: Checkout<DB>,
    /// Whether statements stay prepared on it.
    pub(crate) persistent: bool,
    statements: u64,
}

impl<DB: Database> PooledConnection<DB> {
    pub(crate) fn new(checkout: Checkout<DB>, persistent: bool) -> Self {
        Self { checkout, persistent, statements: 0 }
    }

    /// The driver's connection, for one statement.
    pub(crate) fn driver(&mut self) -> &mut DB::Connection {
        self.statements += 1;
        &mut self.checkout
    }

    /// How many statements ran.
    pub(super) fn statements(&self) -> u64 {
        self.statements
    }

    /// Ends the attempt: returns the connection to the pool if it is sound, and closes it otherwise.
    pub(crate) fn finish<T>(self, result: AttemptResult<T>) -> AttemptResult<T> {
        if result.as_ref().map_or_else(AttemptError::leaves_connection_sound, |_| true) {
            self.checkout.release();
        }
        result
    }
}

/// Implements [`Executor`] for the connections of one driver. A macro, because the driver has no trait for the result of a
/// statement, and its bounds on encoding do not carry over to generic code.
macro_rules! executor {
    ($driver:ty) => {
        impl PooledConnection<$driver> {
            fn arguments(values: &[Value<'_>]) -> sqlx::Result<<$driver as Database>::Arguments> {
                let mut arguments = <$driver as Database>::Arguments::default();
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
        }

        #[async_trait]
        impl Executor for PooledConnection<$driver> {
            async fn execute(&mut self, sql: &'static str, values: &[Value<'_>]) -> sqlx::Result<u64> {
                let query = sqlx::query_with(sql, Self::arguments(values)?).persistent(self.persistent);
                Ok(query.execute(self.driver()).await?.rows_affected())
            }

            async fn fetch<T>(&mut self, sql: &'static str, values: &[Value<'_>]) -> sqlx::Result<Vec<T>>
            where
                T: for<'r> FromRow<'r, PgRow> + for<'r> FromRow<'r, SqliteRow> + Send + Unpin,
            {
                let query = sqlx::query_as_with(sql, Self::arguments(values)?).persistent(self.persistent);
                query.fetch_all(self.driver()).await
            }

            async fn execute_script(&mut self, sql: &str) -> sqlx::Result<()> {
                self.driver().execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await?;
                Ok(())
            }
        }
    };
}

executor!(sqlx::Postgres);
executor!(sqlx::Sqlite);
