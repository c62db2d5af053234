//! What the outbox worker and its attempts use.

use std::sync::Arc;

use crate::{
    domain::{
        clock::{Clock, Entropy},
        master_keys::MasterKeys,
    },
    service::{deliveries::DeliverySignal, ids::IdGenerator},
    store::Store,
    telemetry::Metrics,
};

/// What the outbox worker and its attempts use.
pub struct OutboxDeps {
    /// Holds the outbox.
    pub store: Arc<dyn Store>,
    /// Derive the secrets that sign deliveries.
    pub master_keys: Arc<MasterKeys>,
    /// Wakes the worker.
    pub deliveries: Arc<DeliverySignal>,
    /// Makes the ids of events.
    pub ids: Arc<IdGenerator>,
    /// The source of time.
    pub clock: Arc<dyn Clock>,
    /// The source of randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Counters and histograms.
    pub metrics: Arc<Metrics>,
}
