//! The change feed of Postgres: a follower's two connections, and the listener for notifications.
//!
//! Each value here is a number or a UUID, so statements are formatted with their values and sent by the simple protocol.
//! Each is one round trip and commits by itself, with and without a transaction pooler.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, PgConnection, Row as _,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions, PgRow},
};
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::connect::check_server;
use crate::{
    domain::key::Digest,
    store::{
        change_feed::{ChangeBatch, ChangeFeed, MAX_CHANGES, Notification},
        database::ReplicaRow,
        engine::classify::{describe, unavailability},
        error::{Result, StoreError, Unavailability, UnavailableCause},
    },
};

/// Begins a statement that a crash of the server must not undo, whatever the server's default is. If a join were lost, no
/// Revoke would wait for a replica that still answers from memory. If a renewal were lost, a peer could take the
/// replica for dead before its lease has ended.
const DURABLE: &str = "SET LOCAL synchronous_commit = on; ";

/// Two connections. What is written on one is read on the other, where it is visible only if it is committed.
pub struct PostgresChangeFeed {
    options: PgConnectOptions,
    /// Timeout of a statement. When it passes, the connection is closed.
    statement_timeout: Duration,
    /// The prefix of each statement.
    begin: String,
    /// Called when the server allows no more connections, so that the pool releases some.
    when_full: Option<Box<dyn Fn() + Send + Sync>>,
    writer: Option<PgConnection>,
    reader: Option<PgConnection>,
}

impl PostgresChangeFeed {
    /// Makes a feed that is not connected.
    pub fn new(options: PgConnectOptions, statement_timeout: Duration) -> Self {
        Self { options, statement_timeout, begin: String::new(), when_full: None, writer: None, reader: None }
    }

    /// Lets each statement begin with `begin`, which holds for its transaction.
    pub(super) fn begin_with(self, begin: String) -> Self {
        Self { begin, ..self }
    }

    /// Calls `release` when the server allows no more connections.
    pub(super) fn when_full(self, release: impl Fn() + Send + Sync + 'static) -> Self {
        Self { when_full: Some(Box::new(release)), ..self }
    }

    async fn open(&self) -> Result<PgConnection> {
        let opened = timeout(self.statement_timeout, async {
            let mut connection = self.options.connect().await?;
            check_server(&mut connection).await?;
            Ok(connection)
        });
        let opened = check(opened.await);
        if let (Err(StoreError::Unavailable(why)), Some(release)) = (&opened, &self.when_full)
            && why.cause == UnavailableCause::TooManyConnections
        {
            release();
        }
        opened
    }

    /// Runs statements on the writer. A failure drops the connection, because the result is unknown.
    async fn write(&mut self, sql: String) -> Result<u64> {
        let mut connection = self.writer.take().ok_or_else(not_connected)?;
        let sql = AssertSqlSafe(format!("{}{sql}", self.begin));
        let done = timeout(self.statement_timeout, connection.execute(sqlx::raw_sql(sql)));
        let done = check(done.await)?;
        self.writer = Some(connection);
        Ok(done.rows_affected())
    }

    async fn rows(&mut self, sql: String) -> Result<Vec<PgRow>> {
        let mut connection = self.reader.take().ok_or_else(not_connected)?;
        let sql = AssertSqlSafe(format!("{}{sql}", self.begin));
        let rows = timeout(self.statement_timeout, connection.fetch_all(sqlx::raw_sql(sql)));
        let rows = check(rows.await)?;
        self.reader = Some(connection);
        Ok(rows)
    }
}

fn check<T>(result: std::result::Result<sqlx::Result<T>, tokio::time::error::Elapsed>) -> Result<T> {
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(StoreError::Unavailable(unavailability(&error))),
        Err(_) => Err(StoreError::Unavailable(Unavailability::timed_out())),
    }
}

fn not_connected() -> StoreError {
    StoreError::Unavailable("not connected".into())
}

fn unreadable(error: &sqlx::Error) -> StoreError {
    StoreError::Broken(describe(error))
}

/// The statement that reads the changes from a revision on. The revision is above 0, because the index holds only those.
pub fn changes(from: i64) -> String {
    format!(
        "SELECT NULL::uuid, revision, NULL::bigint, NULL::bigint, digest, 2 FROM keyward_keys \
         WHERE revision >= {from} ORDER BY revision LIMIT {MAX_CHANGES}"
    )
}

#[async_trait]
impl ChangeFeed for PostgresChangeFeed {
    async fn connect(&mut self) -> Result<()> {
        for connection in [self.writer.take(), self.reader.take()].into_iter().flatten() {
            let _ = connection.close_hard().await;
        }
        self.writer = Some(self.open().await?);
        self.reader = Some(self.open().await?);
        Ok(())
    }

    async fn join(&mut self, id: Uuid, lease_ms: i64) -> Result<i64> {
        let insert = "INSERT INTO keyward_replicas (id, step, lease_ms, seen_revision)";
        self.write(format!("{DURABLE}{insert} VALUES ('{id}', 0, {lease_ms}, -1)")).await?;
        // A row that is not visible here is not committed, whatever the answer was: no Revoke would wait for this replica.
        let visible = format!("EXISTS (SELECT 1 FROM keyward_replicas WHERE id = '{id}')");
        let rows = self.rows(format!("SELECT value FROM keyward_revision WHERE {visible}")).await?;
        let [row] = rows.as_slice() else {
            return Err(StoreError::Unavailable("the row of the join is not visible".into()));
        };
        row.try_get(0).map_err(|error| unreadable(&error))
    }

    async fn renew(&mut self, id: Uuid, step: i64, next: i64) -> Result<bool> {
        let renew = format!("{DURABLE}UPDATE keyward_replicas SET step = {next} WHERE id = '{id}' AND step = {step}");
        Ok(self.write(renew).await? == 1)
    }

    async fn read(&mut self, seen: i64) -> Result<ChangeBatch> {
        // Keys that were never changed have revision 0.
        let from = seen.max(1);
        // The changes are read last, so that they include every change that the head or a replica's row reflects.
        let rows = self
            .rows(format!(
                "SELECT id, step, lease_ms, seen_revision, NULL::bytea, 0 FROM keyward_replicas; \
                 SELECT NULL::uuid, value, NULL::bigint, NULL::bigint, NULL::bytea, 1 FROM keyward_revision; {}",
                changes(from)
            ))
            .await?;
        let mut batch = ChangeBatch::default();
        for row in &rows {
            read_row(row, &mut batch).map_err(|error| unreadable(&error))?;
        }
        batch.complete = batch.changes.len() < MAX_CHANGES;
        if batch.changes.first().is_some_and(|(revision, _)| *revision == seen) {
            batch.last_seen = Some(batch.changes.remove(0).1);
        }
        Ok(batch)
    }

    async fn report(&mut self, id: Uuid, seen: i64) -> Result<()> {
        // The commit does not wait for the disk: a report that a crash loses is repeated, and until then it only delays
        // Revokes.
        self.write(format!(
            "SELECT set_config('synchronous_commit', 'off', true); \
             UPDATE keyward_replicas SET seen_revision = {seen} WHERE id = '{id}' AND seen_revision < {seen}; \
             SELECT pg_notify('keyward_seen', '')"
        ))
        .await
        .map(|_| ())
    }

    async fn remove(&mut self, id: Uuid, step: Option<i64>) -> Result<()> {
        let condition = step.map_or_else(String::new, |step| format!(" AND step = {step}"));
        self.write(format!("DELETE FROM keyward_replicas WHERE id = '{id}'{condition}")).await.map(|_| ())
    }
}

fn read_row(row: &PgRow, batch: &mut ChangeBatch) -> sqlx::Result<()> {
    match row.try_get::<i32, _>(5)? {
        0 => batch.replicas.push(ReplicaRow {
            id: row.try_get(0)?,
            step: row.try_get(1)?,
            lease_ms: row.try_get(2)?,
            seen_revision: row.try_get(3)?,
        }),
        1 => batch.head = row.try_get(1)?,
        _ => {
            let digest: Vec<u8> = row.try_get(4)?;
            let digest = digest.try_into().map_err(|_| sqlx::Error::Decode("a digest has 32 bytes".into()))?;
            batch.changes.push((row.try_get(1)?, Digest(digest)));
        }
    }
    Ok(())
}

/// How long the listener waits for a notification before it checks its connection.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Timeout of that check.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// A cause that lasts is logged again after this time.
const REPEAT_INTERVAL: Duration = Duration::from_secs(30);

/// Delay before the listener reconnects.
const RECONNECT_DELAY: Duration = Duration::from_millis(250);

/// Listens for ever, and calls `on_notification` for each notification. A notification only makes a replica read before
/// its next poll; correctness does not depend on its arrival.
pub async fn listen(options: PgConnectOptions, on_notification: impl Fn(Notification)) {
    let mut quiet_until = Instant::now();
    loop {
        if let Err(error) = listen_once(&options, &on_notification).await
            && Instant::now() >= quiet_until
        {
            let error = describe(&error);
            tracing::warn!(error, "the listener has no connection, reconnecting; revocations take longer meanwhile");
            quiet_until = Instant::now() + REPEAT_INTERVAL;
        }
        on_notification(Notification::Lost);
        tokio::time::sleep(RECONNECT_DELAY).await;
    }
}

async fn listen_once(options: &PgConnectOptions, on_notification: &impl Fn(Notification)) -> sqlx::Result<()> {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .max_lifetime(None)
        .idle_timeout(None)
        .acquire_timeout(Duration::from_secs(2))
        .connect_lazy_with(options.clone());
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.listen_all(["keyward_changes", "keyward_seen"]).await?;
    on_notification(Notification::Lost);
    loop {
        let Ok(received) = timeout(KEEPALIVE_INTERVAL, listener.try_recv()).await else {
            // Either there was no change, or the connection is broken without an error; in that case every Revoke would
            // wait for a poll. Check the connection.
            let answer = timeout(KEEPALIVE_TIMEOUT, listener.execute(sqlx::raw_sql("SELECT 1")));
            answer.await.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
            continue;
        };
        match received? {
            Some(notification) if notification.channel() == "keyward_seen" => on_notification(Notification::Seen),
            Some(_) => on_notification(Notification::Change),
            None => return Ok(()),
        }
    }
}
