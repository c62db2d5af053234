//! The follower's connections to Postgres.
//!
//! Every value here is a number or a UUID, so statements are written out whole and sent by the simple protocol: one
//! round trip each, committed by itself, through a transaction pooler as well as without.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, PgConnection, Row as _,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions, PgRow},
};
use tokio::time::timeout;
use uuid::Uuid;

use super::{
    ReplicaRow, Result, StoreError,
    change_feed::{ChangeBatch, ChangeFeed, MAX_CHANGES, Notification},
    failure::describe,
};
use crate::domain::key::Digest;

/// Begins what a crash of the server must not undo, whatever its default is. Were a join lost, nobody would wait for a
/// replica that still answers from memory; were a renewal lost, a peer could take the replica for dead before its lease
/// has ended.
const DURABLY: &str = "SET LOCAL synchronous_commit = on; ";

/// Two connections: what is written on one is read on the other.
pub struct PostgresChangeFeed {
    options: PgConnectOptions,
    /// How long a statement may take; past that its connection is closed.
    bound: Duration,
    writer: Option<PgConnection>,
    reader: Option<PgConnection>,
}

impl PostgresChangeFeed {
    /// Not connected yet.
    pub fn new(options: PgConnectOptions, bound: Duration) -> Self {
        Self { options, bound, writer: None, reader: None }
    }

    async fn open(&self) -> Result<PgConnection> {
        let opened = timeout(self.bound, async {
            let mut connection = self.options.connect().await?;
            let standby = connection.fetch_one(sqlx::raw_sql("SELECT pg_is_in_recovery()")).await?;
            if standby.try_get::<bool, _>(0)? {
                return Err(sqlx::Error::Io(std::io::Error::other("the server is a standby")));
            }
            Ok(connection)
        });
        settle(opened.await)
    }

    /// Runs statements on the writer. After a failure the connection is gone: its outcome is not known.
    async fn write(&mut self, sql: String) -> Result<u64> {
        let mut connection = self.writer.take().ok_or_else(not_connected)?;
        let done = timeout(self.bound, connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))));
        let done = settle(done.await)?;
        self.writer = Some(connection);
        Ok(done.rows_affected())
    }

    async fn rows(&mut self, sql: String) -> Result<Vec<PgRow>> {
        let mut connection = self.reader.take().ok_or_else(not_connected)?;
        let rows = timeout(self.bound, connection.fetch_all(sqlx::raw_sql(AssertSqlSafe(sql))));
        let rows = settle(rows.await)?;
        self.reader = Some(connection);
        Ok(rows)
    }
}

fn settle<T>(outcome: std::result::Result<sqlx::Result<T>, tokio::time::error::Elapsed>) -> Result<T> {
    match outcome {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(StoreError::Unavailable(describe(&error))),
        Err(_) => Err(StoreError::Unavailable("no answer within the bound".to_owned())),
    }
}

fn not_connected() -> StoreError {
    StoreError::Unavailable("not connected".to_owned())
}

fn unreadable(error: &sqlx::Error) -> StoreError {
    StoreError::Broken(describe(error))
}

/// Reads the changes from a revision on, which is above 0: that is what their index holds.
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
        self.write(format!("{DURABLY}{insert} VALUES ('{id}', 0, {lease_ms}, -1)")).await?;
        // A row that does not show is not committed, whatever was answered: no Revoke would wait for this replica.
        let shown = format!("EXISTS (SELECT 1 FROM keyward_replicas WHERE id = '{id}')");
        let rows = self.rows(format!("SELECT value FROM keyward_revision WHERE {shown}")).await?;
        let [row] = rows.as_slice() else { return Err(StoreError::Unavailable("the join does not show".to_owned())) };
        row.try_get(0).map_err(|error| unreadable(&error))
    }

    async fn renew(&mut self, id: Uuid, step: i64, next: i64) -> Result<bool> {
        let renew = format!("{DURABLY}UPDATE keyward_replicas SET step = {next} WHERE id = '{id}' AND step = {step}");
        Ok(self.write(renew).await? == 1)
    }

    async fn read(&mut self, seen: i64) -> Result<ChangeBatch> {
        // A revision of 0 is that of every key that was never changed.
        let from = seen.max(1);
        // Changes last: a change that the head or a row tells of is then among them.
        let rows = self
            .rows(format!(
                "SELECT id, step, lease_ms, seen_revision, NULL::bytea, 0 FROM keyward_replicas; \
                 SELECT NULL::uuid, value, NULL::bigint, NULL::bigint, NULL::bytea, 1 FROM keyward_revision; {}",
                changes(from)
            ))
            .await?;
        let mut news = ChangeBatch::default();
        for row in &rows {
            take(row, &mut news).map_err(|error| unreadable(&error))?;
        }
        news.complete = news.changes.len() < MAX_CHANGES;
        if news.changes.first().is_some_and(|(revision, _)| *revision == seen) {
            news.last_seen = Some(news.changes.remove(0).1);
        }
        Ok(news)
    }

    async fn report(&mut self, id: Uuid, seen: i64) -> Result<()> {
        // Not waited for on disk: a report that a crash loses is made again, and meanwhile only delays.
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

fn take(row: &PgRow, news: &mut ChangeBatch) -> sqlx::Result<()> {
    match row.try_get::<i32, _>(5)? {
        0 => news.replicas.push(ReplicaRow {
            id: row.try_get(0)?,
            step: row.try_get(1)?,
            lease_ms: row.try_get(2)?,
            seen_revision: row.try_get(3)?,
        }),
        1 => news.head = row.try_get(1)?,
        _ => {
            let digest: Vec<u8> = row.try_get(4)?;
            let digest = digest.try_into().map_err(|_| sqlx::Error::Decode("a digest has 32 bytes".into()))?;
            news.changes.push((row.try_get(1)?, Digest(digest)));
        }
    }
    Ok(())
}

/// How long a listener that hears nothing goes on before it asks whether it is still heard.
const QUIET: Duration = Duration::from_secs(5);
/// How long it waits for the answer.
const ANSWER: Duration = Duration::from_secs(2);

/// Calls `told` for each notification, for ever: a hint that saves waiting, never the guarantee.
pub async fn listen(options: PgConnectOptions, told: impl Fn(Notification)) {
    loop {
        if let Err(error) = listen_once(&options, &told).await {
            tracing::debug!(error = describe(&error), "the listener lost its connection");
        }
        told(Notification::Lost);
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

async fn listen_once(options: &PgConnectOptions, told: &impl Fn(Notification)) -> sqlx::Result<()> {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .max_lifetime(None)
        .idle_timeout(None)
        .acquire_timeout(Duration::from_secs(2))
        .connect_lazy_with(options.clone());
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.listen_all(["keyward_changes", "keyward_seen"]).await?;
    told(Notification::Lost);
    loop {
        let Ok(received) = timeout(QUIET, listener.try_recv()).await else {
            // Nothing happens, or the connection is gone without a word: then every Revoke would wait for a poll.
            let answer = timeout(ANSWER, listener.execute(sqlx::raw_sql("SELECT 1")));
            answer.await.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
            continue;
        };
        match received? {
            Some(notification) if notification.channel() == "keyward_seen" => told(Notification::Seen),
            Some(_) => told(Notification::Change),
            None => return Ok(()),
        }
    }
}
