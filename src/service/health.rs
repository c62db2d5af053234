//! Readiness, and what the gauges show.
//!
//! One worker measures readiness. Probes read the last measurement: they need no credential, so a probe that used a
//! database connection would let anybody use them all up.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use crate::{
    limiter::Limiter,
    replica::Replica,
    session::Sessions,
    store::{Store, StoreError},
    telemetry::GaugeSnapshot,
};

/// How long a measurement waits for the database.
const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// Age at which a measurement no longer counts: the worker that should have replaced it hangs.
const MAX_MEASUREMENT_AGE: Duration = Duration::from_secs(15);

/// Whether calls can be served, or the reason why not.
pub type Readiness = Result<(), NotReady>;

/// Why calls cannot be served.
#[derive(Debug, Clone)]
pub struct NotReady {
    /// For everybody: it holds nothing that the database or its driver said.
    pub message: &'static str,
    /// For the log.
    why: Arc<str>,
}

impl NotReady {
    fn because(message: &'static str) -> Self {
        Self { message, why: message.into() }
    }

    fn of(error: &StoreError) -> Self {
        let message = match error {
            StoreError::Unavailable(why) => why.cause.message(),
            _ => "The database does not answer as it should",
        };
        Self { message, why: error.to_string().into() }
    }
}

impl std::fmt::Display for NotReady {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.why)
    }
}

struct Measurement {
    at: Instant,
    database: Readiness,
}

/// Observes the parts that answer calls.
pub struct Health {
    store: Arc<dyn Store>,
    replica: Arc<Replica>,
    sessions: Arc<Sessions>,
    limiter: Arc<Limiter>,
    measured: watch::Sender<Measurement>,
}

impl Health {
    /// Readiness is not measured yet: not ready.
    pub(super) fn new(
        store: Arc<dyn Store>,
        replica: Arc<Replica>,
        sessions: Arc<Sessions>,
        limiter: Arc<Limiter>,
    ) -> Self {
        let measured =
            Measurement { at: Instant::now(), database: Err(NotReady::because("Readiness is not measured yet")) };
        Self { store, replica, sessions, limiter, measured: watch::Sender::new(measured) }
    }

    /// Whether calls can be served: the lease holds, and the database answered the last measurement. Reads memory only.
    ///
    /// # Errors
    ///
    /// The reason why not.
    pub fn readiness(&self) -> Readiness {
        if !self.lease_holds() {
            return Err(match self.replica.membership_error.lock().as_ref() {
                Some(error) => NotReady { why: format!("no live lease: {error}").into(), ..NotReady::of(error) },
                None => NotReady::because("There is no live lease"),
            });
        }
        let measured = self.measured.borrow();
        if measured.at.elapsed() > MAX_MEASUREMENT_AGE {
            return Err(NotReady::because("Readiness is no longer measured"));
        }
        measured.database.clone()
    }

    /// Whether the cache may answer now.
    pub fn lease_holds(&self) -> bool {
        self.replica.lease.holds()
    }

    /// Asks the database whether it accepts writes, and keeps the answer for [`Self::readiness`]. For the one worker that
    /// measures.
    pub async fn measure(&self) {
        let database = match timeout(PING_TIMEOUT, self.store.ping()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(NotReady::of(&error)),
            Err(_) => Err(NotReady::because("The database did not answer in time")),
        };
        self.measured.send_replace(Measurement { at: Instant::now(), database });
    }

    /// Waits until calls can be served. The lease is read anew after each measurement.
    pub async fn wait_until_ready(&self) {
        let mut measured = self.measured.subscribe();
        // The sender lives as long as this service, so the wait cannot fail.
        while self.readiness().is_err() && measured.changed().await.is_ok() {}
    }

    /// The current value of every gauge.
    pub fn gauges(&self) -> GaugeSnapshot {
        let pool = self.store.pool();
        let sessions = self.sessions.key_set_status();
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
        }
    }
}
