//! Opens the configured database, and starts what is different for each kind of it.

use std::{sync::Arc, time::Duration};

use tokio::{runtime::Handle, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Config, Database, DatabaseUrl},
    domain::clock::{Clock, Entropy, Micros},
    replica::{PeerMode, Replica, follower::Follower, follower_thread},
    store::{
        OpenError, Store,
        postgres::change_feed::listen,
        postgres::{Postgres, PostgresOptions},
        sqlite::{Sqlite, SqliteOptions},
    },
};

/// How long a start retries while the database is unavailable.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// Interval between two looks at the lease, which is in memory.
const LEASE_INTERVAL: Duration = Duration::from_millis(100);
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// The shortest timeout of a follower's query. With a short lease, half of it would be less than a slow query takes.
const MIN_QUERY_TIMEOUT: Duration = Duration::from_millis(500);

/// An open store, with what depends on its kind.
pub struct OpenStore {
    pub store: Arc<dyn Store>,
    kind: Kind,
}

enum Kind {
    Sqlite(Arc<Sqlite>),
    Postgres(Arc<Postgres>),
}

impl OpenStore {
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

    /// Starts the follower, which applies changes of other replicas and renews the lease. SQLite needs none: one process
    /// owns the file and invalidates its cache itself, so its lease never ends.
    pub fn follow(
        &self,
        config: &Config,
        replica: &Arc<Replica>,
        clock: &Arc<dyn Clock>,
        entropy: &Arc<dyn Entropy>,
    ) -> std::io::Result<FollowerHandle> {
        let Kind::Postgres(postgres) = &self.kind else {
            replica.lease.extend(Micros::MAX);
            return Ok(FollowerHandle::default());
        };
        let stop = CancellationToken::new();
        let lease = config.replica.lease;
        let query_timeout = (lease / 2).max(MIN_QUERY_TIMEOUT);
        let (replica, clock, entropy) = (Arc::clone(replica), Arc::clone(clock), Arc::clone(entropy));
        let (postgres, has_pooler, stopped) = (Arc::clone(postgres), config.database.pooler, stop.clone());
        let make = move || {
            let feed = postgres.change_feed(query_timeout);
            let (clock, entropy) = (Arc::clone(&clock), Arc::clone(&entropy));
            let follower = Follower::new(feed, &replica, clock, entropy, lease, stopped.clone());
            let (notified, options) = (Arc::clone(&replica), postgres.connect_options());
            let listening = async move {
                if has_pooler {
                    // A transaction pooler drops LISTEN. The reads of the renewals are enough, only later.
                    std::future::pending::<()>().await;
                }
                loop {
                    wait_for_lease(&notified, true).await;
                    let on_notification = |notification| notified.on_notification(notification);
                    tokio::select! {
                        () = listen(options.clone(), on_notification) => {}
                        // Where the server allows few connections, those of the lease come first.
                        () = wait_for_lease(&notified, false) => {}
                    }
                }
            };
            (follower, listening)
        };
        Ok(FollowerHandle { stop, thread: Some(follower_thread::spawn(make)?) })
    }

    /// Applies pending migrations.
    pub async fn migrate(&self) -> Result<(), OpenError> {
        match &self.kind {
            Kind::Sqlite(sqlite) => sqlite.migrate().await,
            Kind::Postgres(postgres) => postgres.migrate().await,
        }
    }
}

/// Waits until the lease holds, or no longer holds.
async fn wait_for_lease(replica: &Replica, held: bool) {
    while replica.lease.holds() != held {
        tokio::time::sleep(LEASE_INTERVAL).await;
    }
}

/// A running follower.
#[derive(Default)]
pub struct FollowerHandle {
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl FollowerHandle {
    /// Leaves the replicas: ends the lease, so that memory answers no more, and then removes the replica's row.
    pub async fn leave(self) {
        self.stop.cancel();
        if let Some(thread) = self.thread {
            follower_thread::wait_for_exit(thread).await;
        }
    }
}

/// Opens the database, and retries for a while if it is unavailable.
pub async fn open_with_retry(config: &Config) -> Result<OpenStore, OpenError> {
    let give_up_at = Instant::now() + OPEN_TIMEOUT;
    let mut logged = String::new();
    loop {
        match OpenStore::open(&config.database).await {
            Err(OpenError::Unavailable(why)) if Instant::now() + RETRY_DELAY < give_up_at => {
                // A cause that lasts is logged once: the start itself ends with it.
                if logged != why {
                    tracing::warn!(why, "database unavailable, retrying");
                    logged = why;
                }
                tokio::time::sleep(RETRY_DELAY).await;
            }
            opened => return opened,
        }
    }
}
