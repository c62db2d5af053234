//! Readiness, and the values of the gauges.
//!
//! One worker measures readiness. Probes read the last measurement: they need no credential, so if each probe used a
//! database connection, anybody could exhaust the pool.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, error::Elapsed, timeout},
};

use super::supervisor::Supervisor;
use crate::{
    limiter::Limiter,
    replica::Replica,
    session::Sessions,
    store::{Store, StoreError},
    telemetry::{AttachSnapshot, GaugeSnapshot},
};

/// How long a measurement waits for the database.
const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// Interval between two measurements, each of which is a round trip to the database.
const SERVER_INTERVAL: Duration = Duration::from_secs(1);
/// The same where the database is a file of this process.
const FILE_INTERVAL: Duration = Duration::from_millis(250);
/// Age at which a measurement no longer counts: the worker that should have replaced it hangs.
const MAX_MEASUREMENT_AGE: Duration = Duration::from_secs(15);

/// What can be served, or why nothing can.
pub type Readiness = Result<Ready, NotReady>;

/// What can be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    /// Every call.
    All,
    /// Verify and reads; why there are no writes.
    WithoutWrites(&'static str),
}

/// What the caller of a probe needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Every call, or, if the settings allow it, all but writes.
    Service,
    /// Verify alone.
    Verify,
}

/// Why calls cannot be served.
#[derive(Debug, Clone)]
pub struct NotReady {
    /// Public: it contains no text of the database or its driver.
    pub message: &'static str,
    /// For the log.
    why: Arc<str>,
    /// Whether only writes fail for this reason.
    writes_only: bool,
}

impl NotReady {
    /// A reason that is public as it is.
    pub(crate) fn because(message: &'static str) -> Self {
        Self { message, why: message.into(), writes_only: false }
    }

    fn of(error: &StoreError) -> Self {
        let (message, writes_only) = match error {
            StoreError::Unavailable(why) => (why.cause.message(), why.cause.concerns_writes_only()),
            _ => ("The database does not answer as it should", false),
        };
        Self { message, why: error.to_string().into(), writes_only }
    }
}

impl std::fmt::Display for NotReady {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.why)
    }
}

/// The result of the last measurement of the database.
struct Measurement {
    at: Instant,
    writes: Result<(), NotReady>,
    reads: Result<(), NotReady>,
}

/// Observes the parts that answer calls.
pub struct Health {
    store: Arc<dyn Store>,
    replica: Arc<Replica>,
    sessions: Arc<Sessions>,
    limiter: Arc<Limiter>,
    supervisor: Arc<Supervisor>,
    /// Whether the service is ready only while it can write.
    requires_writes: bool,
    measured: watch::Sender<Measurement>,
}

impl Health {
    /// Readiness is not measured yet: not ready.
    pub(super) fn new(
        store: Arc<dyn Store>,
        replica: Arc<Replica>,
        sessions: Arc<Sessions>,
        limiter: Arc<Limiter>,
        supervisor: Arc<Supervisor>,
        requires_writes: bool,
    ) -> Self {
        let not_yet = || Err(NotReady::because("Readiness is not measured yet"));
        let measured = watch::Sender::new(Measurement { at: Instant::now(), writes: not_yet(), reads: not_yet() });
        Self { store, replica, sessions, limiter, supervisor, requires_writes, measured }
    }

    /// Whether calls can be served: every worker runs, the lease holds, and the database answered the last measurement.
    /// Reads memory only.
    ///
    /// While the database accepts no writes, the lease cannot be renewed, and Verify is answered by look-ups.
    ///
    /// # Errors
    ///
    /// The reason why not.
    pub fn readiness(&self, need: Need) -> Readiness {
        let measured = self.measured.borrow();
        if measured.at.elapsed() > MAX_MEASUREMENT_AGE {
            return Err(NotReady::because("Readiness is no longer measured"));
        }
        let without_writes = measured.writes.as_ref().err().filter(|why| why.writes_only && measured.reads.is_ok());
        if need == Need::Verify {
            return match &measured.reads {
                Err(why) if !self.lease_holds() => Err(why.clone()),
                _ => Ok(without_writes.map_or(Ready::All, |why| Ready::WithoutWrites(why.message))),
            };
        }
        if let Some(worker) = self.supervisor.missing() {
            let why = format!("the worker {worker} does not run").into();
            return Err(NotReady { why, ..NotReady::because("A part of the service is being restarted") });
        }
        if let Some(why) = without_writes.filter(|_| !self.requires_writes) {
            return Ok(Ready::WithoutWrites(why.message));
        }
        if !self.lease_holds() {
            return Err(match self.replica.membership_error.lock().as_ref() {
                Some(error) => NotReady { why: format!("no live lease: {error}").into(), ..NotReady::of(error) },
                None => NotReady::because("There is no live lease"),
            });
        }
        measured.writes.clone().map(|()| Ready::All)
    }

    /// Whether the cache may answer now.
    pub fn lease_holds(&self) -> bool {
        self.replica.lease.holds()
    }

    /// The state that changes readiness between two measurements: whether the lease holds, and the worker that does not
    /// run.
    pub fn state(&self) -> (bool, Option<&'static str>) {
        (self.lease_holds(), self.supervisor.missing())
    }

    /// Asks the database whether it accepts writes, and if not, whether it answers reads. Keeps the answers for
    /// [`Self::readiness`]. For the one worker that measures.
    pub async fn measure(&self) {
        let answer = |answered: Result<Result<(), StoreError>, Elapsed>| match answered {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(NotReady::of(&error)),
            Err(_) => Err(NotReady::because("The database did not answer in time")),
        };
        let writes = answer(timeout(PING_TIMEOUT, self.store.check_writes()).await);
        let reads = match &writes {
            Ok(()) => Ok(()),
            Err(_) => answer(timeout(PING_TIMEOUT, self.store.check_reads()).await),
        };
        self.measured.send_replace(Measurement { at: Instant::now(), writes, reads });
    }

    /// How long after one measurement the next one is due. A file is measured more often than a server: that is cheap,
    /// and nothing else detects that another process holds its lock.
    pub fn measure_interval(&self) -> Duration {
        if self.replica.has_peers() { SERVER_INTERVAL } else { FILE_INTERVAL }
    }

    /// Waits until calls can be served. The lease is read again after each measurement.
    pub async fn wait_until_ready(&self) {
        let mut measured = self.measured.subscribe();
        // The sender is owned by `self`, so the wait cannot fail.
        while self.readiness(Need::Service).is_err() && measured.changed().await.is_ok() {}
    }

    /// The current value of every gauge.
    pub fn gauges(&self) -> GaugeSnapshot {
        let pool = self.store.pool();
        let sessions = self.sessions.key_set_status();
        let attached = self.replica.attachments.status();
        GaugeSnapshot {
            open: pool.open,
            idle: pool.idle,
            unreadable_rows: self.store.unreadable_rows(),
            cached_keys: self.replica.cache.len(),
            cached_bytes: self.replica.cache.bytes(),
            uses_dropped: self.replica.usage.dropped(),
            lease_micros: self.replica.lease.remaining(),
            limited_subjects: self.limiter.subjects(),
            limits_shared: self.limiter.is_shared(),
            limit_fallbacks: self.limiter.fallbacks(),
            limit_timeouts: self.limiter.timeouts(),
            issuers_without_keys: sessions.map(|status| status.without),
            issuer_keys_micros: sessions.map(|status| status.oldest),
            issuer_failures: sessions.map_or(0, |status| status.failures),
            attach: AttachSnapshot {
                sessions: attached.sessions,
                behind: attached.behind,
                ghost_micros: attached.ghosts,
                wait_micros: attached.wait,
                opened: attached.opened,
                cut: attached.cut,
                notices: attached.notices,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Handle;

    use super::*;
    use crate::{
        domain::{
            clock::{Clock, Micros, SystemClock, SystemEntropy},
            keyspace::Registry,
            master_keys::{MasterKey, MasterKeys},
        },
        replica::PeerMode,
        service::{ServiceDeps, Services},
        store::sqlite::{Sqlite, SqliteOptions},
    };

    async fn services(folder: &tempfile::TempDir) -> (Services, Arc<Sqlite>) {
        let url = format!("sqlite://{}", folder.path().join("keyward.db").display());
        let sqlite = Sqlite::open(SqliteOptions::new(url, Handle::current())).await.unwrap();
        sqlite.migrate().await.unwrap();
        let store = Arc::clone(&sqlite) as Arc<dyn Store>;
        let (registry, clock) = (Arc::new(Registry::new(Vec::new())), Arc::new(SystemClock) as Arc<dyn Clock>);
        let replica = Replica::new(
            Arc::clone(&store),
            Arc::clone(&registry),
            Arc::clone(&clock),
            1 << 20,
            PeerMode::SingleProcess,
            &Handle::current(),
        );
        let services = Services::with_defaults(ServiceDeps {
            store,
            replica: Arc::new(replica),
            registry,
            master_keys: Arc::new(MasterKeys::derive(&MasterKey::new([7; 32]))),
            clock,
            entropy: Arc::new(SystemEntropy),
            runtime: Handle::current(),
        });
        (services, sqlite)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_service_is_not_ready_while_a_worker_is_missing_or_the_lease_does_not_hold() {
        let folder = tempfile::tempdir().unwrap();
        let (services, _sqlite) = services(&folder).await;
        let health = &services.health;
        assert!(
            health.readiness(Need::Service).is_err() && health.readiness(Need::Verify).is_err(),
            "not measured yet"
        );
        health.measure().await;
        let why = |need| health.readiness(need).map_err(|why| why.to_string());
        assert_eq!(why(Need::Service), Err("There is no live lease".to_owned()));
        // Look-ups answer Verify.
        assert_eq!(why(Need::Verify), Ok(Ready::All));
        health.replica.lease.extend(Micros::MAX);
        assert_eq!(why(Need::Service), Ok(Ready::All));
        let missing = services.supervisor.panicked("work");
        assert_eq!(why(Need::Service), Err("the worker work does not run".to_owned()));
        assert_eq!(health.readiness(Need::Service).unwrap_err().message, "A part of the service is being restarted");
        assert_eq!(why(Need::Verify), Ok(Ready::All));
        drop(missing);
        assert_eq!(why(Need::Service), Ok(Ready::All));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_write_that_is_running_is_no_lock_of_another_process() {
        let folder = tempfile::tempdir().unwrap();
        let (services, sqlite) = services(&folder).await;
        services.health.replica.lease.extend(Micros::MAX);
        // The only connection that writes, inside a transaction of this process.
        let mut writing = sqlite.attempts.writers.acquire().await.unwrap();
        sqlx::Executor::execute(&mut *writing, "BEGIN IMMEDIATE").await.unwrap();
        services.health.measure().await;
        assert_eq!(services.health.readiness(Need::Service).map_err(|why| why.to_string()), Ok(Ready::All));
    }
}
