//! The verbs about the database in SQLite's own SQL.

use async_trait::async_trait;
use sqlx::Sqlite as Driver;

use crate::store::{
    database::ReplicaRow,
    engine::{
        connection::{Executor as _, PooledConnection},
        migrate::{APPLIED, AppliedRow},
        ops::database::DatabaseDialect,
    },
};

const HAS_MIGRATIONS: &str = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'keyward_migrations'";

/// Each statement of this file, by name, for the test that prepares them.
pub(super) const STATEMENTS: &[(&str, &str)] = &[("HAS_MIGRATIONS", HAS_MIGRATIONS)];

#[async_trait]
impl DatabaseDialect for PooledConnection<Driver> {
    /// There are none: one process owns the file.
    async fn replicas(&mut self) -> sqlx::Result<Vec<ReplicaRow>> {
        Ok(Vec::new())
    }

    async fn is_writable(&mut self) -> sqlx::Result<bool> {
        // Takes the lock of a writer, and writes nothing.
        self.begin().await?;
        self.execute("ROLLBACK", &[]).await?;
        Ok(true)
    }

    async fn shows_present(&mut self) -> sqlx::Result<bool> {
        // Reads the file, not only the connection's memory.
        self.fetch::<(i64,)>(HAS_MIGRATIONS, &[]).await?;
        Ok(true)
    }

    async fn applied_migrations(&mut self) -> sqlx::Result<Vec<AppliedRow>> {
        if self.fetch::<(i64,)>(HAS_MIGRATIONS, &[]).await? != [(1,)] {
            return Ok(Vec::new());
        }
        self.fetch(APPLIED, &[]).await
    }
}
