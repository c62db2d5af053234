//! The verbs about the database in Postgres's own SQL.

use async_trait::async_trait;
use sqlx::Postgres as Driver;
use uuid::Uuid;

use crate::store::{
    database::ReplicaRow,
    engine::{
        connection::{Executor as _, PooledConnection},
        migrate::{APPLIED, AppliedRow},
        ops::database::DatabaseDialect,
    },
};

/// SQLite has no replicas: one process owns the file.
const REPLICAS: &str = "SELECT id, step, lease_ms, seen_revision FROM keyward_replicas";

/// A standby reads the past, and a failover can make one of the server that was the primary.
const WRITABLE: &str = "SELECT NOT pg_is_in_recovery() AND current_setting('transaction_read_only') = 'off'";

const HAS_MIGRATIONS: &str = "SELECT to_regclass('keyward_migrations') IS NOT NULL";

/// Each statement of this file, by name, for the test that prepares them.
pub(super) const STATEMENTS: &[(&str, &str)] =
    &[("REPLICAS", REPLICAS), ("WRITABLE", WRITABLE), ("HAS_MIGRATIONS", HAS_MIGRATIONS)];

#[async_trait]
impl DatabaseDialect for PooledConnection<Driver> {
    async fn replicas(&mut self) -> sqlx::Result<Vec<ReplicaRow>> {
        let rows: Vec<(Uuid, i64, i64, i64)> = self.fetch(REPLICAS, &[]).await?;
        let row = |(id, step, lease_ms, seen_revision)| ReplicaRow { id, step, lease_ms, seen_revision };
        Ok(rows.into_iter().map(row).collect())
    }

    async fn is_writable(&mut self) -> sqlx::Result<bool> {
        sqlx::query_scalar(WRITABLE).persistent(self.persistent).fetch_one(&mut *self.checkout).await
    }

    async fn applied_migrations(&mut self) -> sqlx::Result<Vec<AppliedRow>> {
        let has_migrations = sqlx::query_scalar(HAS_MIGRATIONS).persistent(self.persistent);
        if !has_migrations.fetch_one(&mut *self.checkout).await? {
            return Ok(Vec::new());
        }
        self.fetch(APPLIED, &[]).await
    }
}
