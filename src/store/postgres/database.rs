//! The verbs about the database in Postgres's own SQL.

use async_trait::async_trait;
use sqlx::{PgConnection, Postgres as Driver};
use uuid::Uuid;

use crate::store::{
    database::ReplicaRow,
    engine::{
        classify::AttemptResult,
        connection::{Executor as _, PooledConnection, Value},
        migrate::{APPLIED, AppliedRow},
        ops::database::DatabaseDialect,
    },
};

/// SQLite has no replicas: one process owns the file.
const REPLICAS: &str = "SELECT id, step, lease_ms, seen_revision FROM keyward_replicas";

/// A standby returns an older state, and a failover can turn the former primary into a standby.
const WRITABLE: &str = "SELECT NOT pg_is_in_recovery() AND current_setting('transaction_read_only') = 'off'";

const PRIMARY: &str = "SELECT NOT pg_is_in_recovery()";

const HAS_MIGRATIONS: &str = "SELECT to_regclass('keyward_migrations') IS NOT NULL";

const BACKEND_PID: &str = "SELECT pg_backend_pid()";

/// This covers locks of tables and of migrations.
const BLOCKERS: &str = "SELECT pid::bigint, coalesce(application_name, '') FROM pg_stat_activity \
    WHERE pid = ANY (pg_blocking_pids($1::int4)) ORDER BY pid";

/// Each statement of this file, by name, for the test that prepares them.
pub(super) const STATEMENTS: &[(&str, &str)] = &[
    ("REPLICAS", REPLICAS),
    ("WRITABLE", WRITABLE),
    ("PRIMARY", PRIMARY),
    ("HAS_MIGRATIONS", HAS_MIGRATIONS),
    ("BACKEND_PID", BACKEND_PID),
    ("BLOCKERS", BLOCKERS),
];

/// The server's process behind a connection.
pub(super) async fn backend_pid(connection: &mut PgConnection) -> sqlx::Result<i32> {
    sqlx::query_scalar(BACKEND_PID).persistent(false).fetch_one(connection).await
}

/// The sessions that hold a lock which this process of the server waits for.
pub(super) async fn blockers(db: &mut PooledConnection<Driver>, process: i32) -> AttemptResult<Vec<String>> {
    let rows: Vec<(i64, String)> = db.fetch(BLOCKERS, &[Value::Int(process.into())]).await?;
    Ok(rows.into_iter().map(|(process, application)| format!("{process} ({application})")).collect())
}

#[async_trait]
impl DatabaseDialect for PooledConnection<Driver> {
    async fn replicas(&mut self) -> sqlx::Result<Vec<ReplicaRow>> {
        let rows: Vec<(Uuid, i64, i64, i64)> = self.fetch(REPLICAS, &[]).await?;
        let row = |(id, step, lease_ms, seen_revision)| ReplicaRow { id, step, lease_ms, seen_revision };
        Ok(rows.into_iter().map(row).collect())
    }

    async fn is_writable(&mut self) -> sqlx::Result<bool> {
        sqlx::query_scalar(WRITABLE).persistent(self.persistent).fetch_one(self.driver()).await
    }

    async fn shows_present(&mut self) -> sqlx::Result<bool> {
        sqlx::query_scalar(PRIMARY).persistent(self.persistent).fetch_one(self.driver()).await
    }

    async fn applied_migrations(&mut self) -> sqlx::Result<Vec<AppliedRow>> {
        let has_migrations = sqlx::query_scalar(HAS_MIGRATIONS).persistent(self.persistent);
        if !has_migrations.fetch_one(self.driver()).await? {
            return Ok(Vec::new());
        }
        self.fetch(APPLIED, &[]).await
    }
}
