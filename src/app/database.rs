//! Opening the configured database, also when it is away for a while.

use std::{sync::Arc, time::Duration};

use tokio::{runtime::Handle, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    RunError,
    build::{self, Parts},
};
use crate::{
    config::{Config, Database, DatabaseUrl},
    domain::clock::Micros,
    replica::{PeerMode, follower::Follower, follower_thread},
    store::{
        OpenError, Store,
        postgres::change_feed::{PostgresChangeFeed, listen},
        postgres::{Postgres, PostgresOptions},
        sqlite::{Sqlite, SqliteOptions},
    },
};

/// How long a start waits for a database that is away.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(500);

/// An open store, and what only its own kind can do.
pub struct Opened {
    /// The store.
    pub store: Arc<dyn Store>,
    kind: Kind,
}

enum Kind {
    Sqlite(Arc<Sqlite>),
    Postgres(Arc<Postgres>),
}

impl Opened {
    async fn open(database: &Database) -> Result<Self, OpenError> {
        match &database.url {
            DatabaseUrl::Sqlite(path) => {
                let url = format!("sqlite://{}", path.display());
                let sqlite = Sqlite::open(SqliteOptions::new(url, Handle::current())).await?;
                Ok(Self { store: Arc::clone(&sqlite) as Arc<dyn Store>, kind: Kind::Sqlite(sqlite) })
            }
            DatabaseUrl::Postgres(url) => {
                let options = PostgresOptions {
                    migrate_url: database.migrate_url.clone(),
                    pooler: database.pooler,
                    max_connections: database.max_connections,
                    ..PostgresOptions::new(url, Handle::current())
                };
                let postgres = Postgres::open(options).await?;
                Ok(Self { store: Arc::clone(&postgres) as Arc<dyn Store>, kind: Kind::Postgres(postgres) })
            }
        }
    }

    /// Whether other processes may use the same database.
    pub fn peers(&self) -> PeerMode {
        match &self.kind {
            Kind::Sqlite(_) => PeerMode::SingleProcess,
            Kind::Postgres(_) => PeerMode::Replicated,
        }
    }

    /// Keeps the replica's memory true from now on. On SQLite one process owns the file: its memory is never behind.
    pub fn follow(&self, config: &Config, parts: &Parts) -> std::io::Result<Following> {
        let Kind::Postgres(postgres) = &self.kind else {
            parts.replica.lease.extend(Micros::MAX);
            return Ok(Following::default());
        };
        let stop = CancellationToken::new();
        let length = config.replica.lease;
        let bound = (length / 2).max(Duration::from_millis(500));
        let (clock, entropy) = (Arc::clone(&parts.services.clock), Arc::clone(&parts.services.entropy));
        let (replica, options) = (Arc::clone(&parts.replica), postgres.connect_options());
        let (pooled, stopped) = (config.database.pooler, stop.clone());
        let make = move || {
            let feed = PostgresChangeFeed::new(options.clone(), bound);
            let (clock, entropy) = (Arc::clone(&clock), Arc::clone(&entropy));
            let follower = Follower::new(feed, &replica, clock, entropy, length, stopped.clone());
            let (told, options) = (Arc::clone(&replica), options.clone());
            let listening = async move {
                if pooled {
                    // A transaction pooler keeps no LISTEN: the renewals' own reads are enough.
                    std::future::pending::<()>().await;
                }
                listen(options, move |hint| told.on_notification(hint)).await;
            };
            (follower, listening)
        };
        Ok(Following { stop, thread: Some(follower_thread::spawn(make)?) })
    }

    /// Applies pending migrations.
    pub async fn migrate(&self) -> Result<(), OpenError> {
        match &self.kind {
            Kind::Sqlite(sqlite) => sqlite.migrate().await,
            Kind::Postgres(postgres) => postgres.migrate().await,
        }
    }
}

/// A follower at work.
#[derive(Default)]
pub struct Following {
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Following {
    /// Leaves the replicas: memory answers no more, then the row is removed.
    pub async fn leave(self) {
        self.stop.cancel();
        if let Some(thread) = self.thread {
            follower_thread::wait_for_exit(thread).await;
        }
    }
}

/// Opens the database, trying again for a while if it is away.
pub async fn open_patiently(config: &Config) -> Result<Opened, OpenError> {
    let patience = Instant::now() + PATIENCE;
    loop {
        match Opened::open(&config.database).await {
            Err(OpenError::Unavailable(why)) if Instant::now() + PAUSE < patience => {
                tracing::warn!(why, "the database is away; trying again");
                tokio::time::sleep(PAUSE).await;
            }
            opened => return opened,
        }
    }
}

/// `keyward migrate`
///
/// # Errors
///
/// What kept the migrations from being applied.
pub async fn migrate(config: &Config) -> Result<(), RunError> {
    let opened = open_patiently(config).await?;
    opened.migrate().await?;
    opened.store.close().await;
    Ok(())
}

/// `keyward root-key`: makes a root key in the database itself, for the operator who has lost the last one.
///
/// # Errors
///
/// What kept it from being made.
pub async fn root_key(config: &Config) -> Result<crate::domain::secret::Secret, RunError> {
    let opened = open_patiently(config).await?;
    opened.migrate().await?;
    let parts = build::build(config, &opened).await?;
    let secret = parts.services.keys.create_root_key().await?;
    parts.store.close().await;
    Ok(secret)
}
