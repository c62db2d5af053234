//! Transactions: on SQLite a change, its event and its delivery are one transaction.

use std::io;

use sqlx::Sqlite as Driver;
use uuid::Uuid;

use crate::{
    domain::{clock::Micros, event::EventType},
    store::engine::{
        classify::{describe, sqlite_code},
        connection::{Executor as _, PooledConnection, Value},
        sql::events::{insert_event, key_snapshot},
    },
};

/// Writes the event `$1` of type `$2`, caused by `$3`, with the number `$4`, for key `$5`, unless it exists. Postgres makes
/// JSON by a function of another name.
const WRITE_EVENT: &str = concat!(
    insert_event!(),
    " SELECT $1, $2, $3, k.id, k.keyspace, k.organization, k.instance, k.environment, $4, ",
    key_snapshot!("json_object"),
    " FROM keyward_keys k WHERE k.id = $5 ON CONFLICT DO NOTHING"
);

/// The beginning of each statement that writes a delivery.
macro_rules! insert_delivery {
    ($event:literal) => {
        concat!(
            "INSERT INTO keyward_deliveries (event_id, key_id, host, next_attempt_at) SELECT ",
            $event,
            ", k.id, k.webhook_host, $2"
        )
    };
}

/// Writes the delivery of event `$1`, due at `$2`, if its key `$3` has a webhook.
const WRITE_DELIVERY: &str =
    concat!(insert_delivery!("$1"), " FROM keyward_keys k WHERE k.id = $3 AND k.webhook_url <> ''");
pub(super) use insert_delivery;

/// Each statement of this file, by name, for the test that prepares them.
pub(super) const STATEMENTS: &[(&str, &str)] = &[("WRITE_EVENT", WRITE_EVENT), ("WRITE_DELIVERY", WRITE_DELIVERY)];

/// Begins a transaction that writes. Not deferred: of two transactions that begin by reading, neither could upgrade to
/// writing.
const BEGIN: &str = "BEGIN IMMEDIATE";

/// An event to write.
pub(super) struct EventToWrite<'a> {
    pub id: Uuid,
    pub kind: EventType,
    /// With the key and the type it identifies an event that is written only once.
    pub once: Option<i64>,
    pub actor: &'a str,
    pub key: Uuid,
    /// When its delivery is due.
    pub at: Micros,
}

impl PooledConnection<Driver> {
    /// Begins a transaction. One connection writes in this process, so that it waits only for other processes.
    pub(super) async fn begin(&mut self) -> sqlx::Result<()> {
        let _waiting = self.checkout.wait_for_lock();
        self.execute(BEGIN, &[]).await?;
        Ok(())
    }

    /// Ends a transaction: commits it, or rolls it back after an error.
    ///
    /// A failed statement leaves the transaction open. Some errors, such as a full disk, end it, and then the rollback
    /// fails, too. If ending the transaction fails, the first error is returned as one that closes the connection,
    /// because the connection may still be inside the transaction.
    pub(super) async fn end<T>(&mut self, result: sqlx::Result<T>) -> sqlx::Result<T> {
        let lost = |error: &sqlx::Error| sqlx::Error::Io(io::Error::new(kind(error), describe(error)));
        match result {
            Ok(done) => match self.execute("COMMIT", &[]).await {
                Ok(_) => Ok(done),
                Err(error) => Err(lost(&error)),
            },
            Err(error) => match self.execute("ROLLBACK", &[]).await {
                Ok(_) => Err(error),
                Err(_) => Err(lost(&error)),
            },
        }
    }

    /// Writes an event and its delivery. Returns false if the event exists.
    pub(super) async fn write_event(&mut self, event: &EventToWrite<'_>) -> sqlx::Result<bool> {
        let &EventToWrite { id, kind, once, actor, key, at } = event;
        let values =
            [Value::Id(id), Value::Text(kind.name()), Value::Text(actor), Value::MaybeInt(once), Value::Id(key)];
        let written = self.execute(WRITE_EVENT, &values).await? == 1;
        if written {
            self.execute(WRITE_DELIVERY, &[Value::Id(id), Value::Int(at), Value::Id(key)]).await?;
        }
        Ok(written)
    }
}

/// Maps an error of SQLite that makes writes impossible to the system's kind of error.
fn kind(error: &sqlx::Error) -> io::ErrorKind {
    match error.as_database_error().and_then(sqlite_code) {
        Some(5 | 6) => io::ErrorKind::ResourceBusy,
        Some(8) => io::ErrorKind::ReadOnlyFilesystem,
        Some(13) => io::ErrorKind::StorageFull,
        _ => io::ErrorKind::Other,
    }
}

/// Fails if an event was not written because another one has its id: a change must not be made without its event.
pub(super) fn require_written(written: bool) -> sqlx::Result<()> {
    let id_exists = || sqlx::Error::InvalidArgument("the id of an event is taken".to_owned());
    written.then_some(()).ok_or_else(id_exists)
}
