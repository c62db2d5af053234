//! Background jobs: flush usage, emit events that no call causes, and delete old events and ended sessions.

mod expiry;
mod rate_limit_events;
mod retention;
mod usage;

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{deliveries::DeliverySignal, ids::IdGenerator};
use crate::{
    domain::{
        clock::{Clock, Micros, SECOND},
        event::{EventRules, EventType},
    },
    replica::Replica,
    store::{Store, StoreError},
};

/// For how long one replica sweeps on behalf of all of them.
const JOB_LEASE: Micros = 12 * SECOND;
/// How long one sweep may take; the next one continues where it stopped.
const SWEEP_BUDGET: Duration = Duration::from_secs(10);
/// Keys, events or sessions in one statement.
const STATEMENT_BATCH: u32 = 500;

/// The jobs of one replica.
pub struct Jobs {
    pub(super) store: Arc<dyn Store>,
    pub(super) replica: Arc<Replica>,
    pub(super) deliveries: Arc<DeliverySignal>,
    pub(super) ids: Arc<IdGenerator>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) rules: EventRules,
}

impl Jobs {
    /// Emits the events of keys that have expired or are about to, and deletes events past their retention and sessions
    /// of the dashboard that have ended. One replica does so for all of them.
    pub async fn sweep_events(&self) {
        let now = self.clock.wall();
        let swept = match self.store.try_acquire_job_lease("event_sweep", now, now + JOB_LEASE).await {
            Ok(false) => return,
            Ok(true) => self.sweep(Instant::now() + SWEEP_BUDGET).await,
            Err(error) => Err(error),
        };
        if let Err(error) = swept {
            tracing::warn!(%error, "event sweep failed, the next one continues where it stopped");
        }
    }

    async fn sweep(&self, deadline: Instant) -> Result<(), StoreError> {
        self.emit_expiry_events(EventType::KeyExpired, 0, deadline).await?;
        for before in &self.rules.expiring_before {
            self.emit_expiry_events(EventType::KeyExpiring, *before, deadline).await?;
        }
        self.delete_old_events(deadline).await?;
        self.delete_ended_sessions(deadline).await
    }
}
