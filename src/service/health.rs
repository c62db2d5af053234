//! Readiness, and what the gauges show.

use std::sync::Arc;

use crate::{limiter::Limiter, replica::Replica, session::Sessions, store::Store, telemetry::GaugeSnapshot};

/// Observes the parts that answer calls.
pub struct Health {
    pub(super) store: Arc<dyn Store>,
    pub(super) replica: Arc<Replica>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) limiter: Arc<Limiter>,
}

impl Health {
    /// Whether calls can be served: the lease holds and the database answers.
    ///
    /// # Errors
    ///
    /// The reason why not, for the log.
    pub async fn ready(&self) -> Result<(), String> {
        if !self.replica.lease.holds() {
            return Err("no live lease".to_owned());
        }
        self.store.ping().await.map_err(|error| error.to_string())
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
            issuers_without_keys: sessions.map(|status| status.without),
            issuer_keys_micros: sessions.map(|status| status.oldest),
            issuer_failures: sessions.map_or(0, |status| status.failures),
        }
    }
}
