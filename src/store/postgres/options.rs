//! The options of the Postgres backend.

use std::time::Duration;

use tokio::runtime::Handle;

/// How to reach Postgres, and how long to wait for it. It holds a password, and so has no `Debug`.
#[derive(Clone)]
pub struct PostgresOptions {
    /// `postgres://user:password@host:port/database`.
    pub url: String,
    /// The same database without a pooler between, for migrations: these take a lock of the session.
    pub migrate_url: Option<String>,
    /// Whether a transaction pooler such as PgBouncer is between. Each verb is then a transaction of its own, and
    /// nothing is kept on a connection.
    pub pooler: bool,
    /// Maximum number of connections.
    pub max_connections: u32,
    /// How long a verb waits for a connection.
    pub acquire_timeout: Duration,
    /// How long a verb waits for the database.
    pub statement_timeout: Duration,
    /// Where verbs run.
    pub runtime: Handle,
}

impl PostgresOptions {
    /// The defaults.
    pub fn new(url: impl Into<String>, runtime: Handle) -> Self {
        Self {
            url: url.into(),
            migrate_url: None,
            pooler: false,
            max_connections: 16,
            acquire_timeout: Duration::from_secs(2),
            statement_timeout: Duration::from_secs(5),
            runtime,
        }
    }
}
