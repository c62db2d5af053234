//! Opens the configured database, and starts what is different for each kind of it.

use std::{sync::Arc, time::Duration};

use tokio::{
    runtime::Handle,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::progress::StartProgress;
use crate::{
    config::{Config, Database, DatabaseUrl},
    domain::clock::Micros,
    replica::{
        PeerMode, Replica,
        follower::Follower,
        follower_thread::{self, FollowerThread},
    },
    service::{Services, supervisor::RestartBackoff},
    store::{
        OpenError, Store,
        postgres::change_feed::listen,
        postgres::{Postgres, PostgresOptions},
        sqlite::{Sqlite, SqliteOptions},
    },
};

/// How long a start retries while the database is unavailable.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// Interval between two reads of the lease, which is in memory.
const LEASE_INTERVAL: Duration = Duration::from_millis(100);
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// Interval between two log lines about what the start waits for.
const WAIT_LOG_INTERVAL: Duration = Duration::from_secs(3);
/// How soon a follower that pauses after a panic notices the stop.
const STOP_CHECK_INTERVAL: Duration = Duration::from_millis(20);
/// The shortest timeout of a follower's query. With a short lease, half of it would be less than a slow query takes.
const MIN_QUERY_TIMEOUT: Duration = Duration::from_millis(500);

/// An open store, with what depends on its kind.
pub struct OpenStore {
    pub store: Arc<dyn Store>,
    kind: StoreKind,
}

enum StoreKind {
    Sqlite(Arc<Sqlite>),
    Postgres(Arc<Postgres>),
}

impl OpenStore {
    async fn open(database: &Database) -> Result<Self, OpenError> {
        match &database.url {
            DatabaseUrl::Sqlite(path) => {
                let url = format!("sqlite://{}", path.display());
                let sqlite = Sqlite::open(SqliteOptions::new(url, Handle::current())).await?;
                Ok(Self { store: Arc::clone(&sqlite) as Arc<dyn Store>, kind: StoreKind::Sqlite(sqlite) })
            }
            DatabaseUrl::Postgres(url) => {
                let options = PostgresOptions {
                    migrate_url: database.migrate_url.clone(),
                    pooler: database.pooler,
                    max_connections: database.max_connections,
                    ..PostgresOptions::new(url, Handle::current())
                };
                let postgres = Postgres::open(options).await?;
                Ok(Self { store: Arc::clone(&postgres) as Arc<dyn Store>, kind: StoreKind::Postgres(postgres) })
            }
        }
    }

    /// Whether other processes may use the same database.
    pub fn peers(&self) -> PeerMode {
        match &self.kind {
            StoreKind::Sqlite(_) => PeerMode::SingleProcess,
            StoreKind::Postgres(_) => PeerMode::Replicated,
        }
    }

    /// Starts the follower, which applies changes of other replicas and renews the lease. SQLite needs none: one process
    /// owns the file and invalidates its cache itself, so its lease never ends.
    pub fn follow(
        &self,
        config: &Config,
        replica: &Arc<Replica>,
        services: &Arc<Services>,
    ) -> std::io::Result<FollowerHandle> {
        let StoreKind::Postgres(postgres) = &self.kind else {
            replica.lease.extend(Micros::MAX);
            return Ok(FollowerHandle::default());
        };
        let stop = CancellationToken::new();
        let lease = config.replica.lease;
        let query_timeout = (lease / 2).max(MIN_QUERY_TIMEOUT);
        let supervised = Arc::clone(services);
        let (replica, services) = (Arc::clone(replica), Arc::clone(services));
        let (postgres, has_pooler, stopped) = (Arc::clone(postgres), config.database.pooler, stop.clone());
        let make = move || {
            let feed = postgres.change_feed(query_timeout);
            let (clock, entropy) = (Arc::clone(&services.clock), Arc::clone(&services.entropy));
            let follower = Follower::new(feed, &replica, clock, entropy, lease, stopped.clone());
            let (notified, options) = (Arc::clone(&replica), postgres.connect_options());
            let listening = async move {
                if has_pooler {
                    // A transaction pooler drops LISTEN. Changes are then found by the reads of renewals, which takes
                    // longer.
                    std::future::pending::<()>().await;
                }
                loop {
                    wait_for_lease(&notified, true).await;
                    let on_notification = |notification| notified.on_notification(notification);
                    tokio::select! {
                        () = listen(options.clone(), on_notification) => {}
                        // Wait until the lease holds: on a server that allows few connections, the follower needs them
                        // first.
                        () = wait_for_lease(&notified, false) => {}
                    }
                }
            };
            (follower, listening)
        };
        let supervisor = Arc::clone(&supervised.supervisor);
        let (mut backoff, stopping) = (RestartBackoff::new(Instant::now()), stop.clone());
        let pause = move || {
            let _missing = supervisor.panicked("follower");
            let until = Instant::now() + backoff.pause(Instant::now());
            while Instant::now() < until && !stopping.is_cancelled() {
                std::thread::sleep(STOP_CHECK_INTERVAL);
            }
        };
        Ok(FollowerHandle { stop, thread: Some(follower_thread::spawn(make, pause)?) })
    }

    /// Applies pending migrations, and logs every few seconds what they wait for.
    pub async fn migrate(&self, progress: &StartProgress) -> Result<(), OpenError> {
        progress.waits_for("Migrations are being applied");
        let migrating = async {
            match &self.kind {
                StoreKind::Sqlite(sqlite) => sqlite.migrate().await,
                StoreKind::Postgres(postgres) => postgres.migrate().await,
            }
        };
        let reporting = async {
            loop {
                sleep(WAIT_LOG_INTERVAL).await;
                let blockers = match &self.kind {
                    StoreKind::Sqlite(_) => Vec::new(),
                    StoreKind::Postgres(postgres) => postgres.migration_blockers().await.unwrap_or_default(),
                };
                if blockers.is_empty() {
                    tracing::info!("migrations are being applied");
                } else {
                    progress.waits_for("Migrations wait for another session of the database");
                    tracing::info!(sessions = blockers.join(", "), "migrations wait for a lock that others hold");
                }
            }
        };
        tokio::select! {
            migrated = migrating => migrated?,
            () = reporting => {}
        }
        progress.waits_for("The service is starting");
        Ok(())
    }
}

/// Waits until the lease holds, or no longer holds.
async fn wait_for_lease(replica: &Replica, holds: bool) {
    while replica.lease.holds() != holds {
        sleep(LEASE_INTERVAL).await;
    }
}

/// A running follower.
#[derive(Default)]
pub struct FollowerHandle {
    stop: CancellationToken,
    thread: Option<FollowerThread>,
}

impl FollowerHandle {
    /// Stops the follower: ends the lease, so that memory no longer answers, and then removes the replica's row.
    pub async fn stop(self) {
        self.stop.cancel();
        if let Some(thread) = self.thread {
            thread.wait_for_exit().await;
        }
    }
}

/// Opens the database, and retries for a while if it is unavailable.
pub async fn open_with_retry(config: &Config, progress: &StartProgress) -> Result<OpenStore, OpenError> {
    let give_up_at = Instant::now() + OPEN_TIMEOUT;
    let (mut logged, mut quiet_until) = (None, Instant::now());
    loop {
        match OpenStore::open(&config.database).await {
            Err(OpenError::Unavailable(why)) if Instant::now() + RETRY_DELAY < give_up_at => {
                progress.waits_for(why.cause.message());
                let now = Instant::now();
                if now >= quiet_until || logged.as_ref() != Some(&why) {
                    tracing::warn!(%why, "database unavailable, retrying");
                    quiet_until = now + WAIT_LOG_INTERVAL;
                    logged = Some(why);
                }
                sleep(RETRY_DELAY).await;
            }
            opened => return opened,
        }
    }
}
