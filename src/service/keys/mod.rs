//! Keys: create, read, list, revoke, and change the webhook.

pub(crate) mod create;
mod get;
mod identity;
pub(crate) mod list;
pub(crate) mod revoke;
mod root;
pub(crate) mod search;
pub(crate) mod webhook;

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::{deliveries::DeliverySignal, ids::IdGenerator, management::ManagementCalls, paging::PageTokens};
use crate::{
    domain::{
        clock::{Clock, Entropy},
        egress::Egress,
        key::KeyRecord,
        keyspace::Registry,
        master_keys::MasterKeys,
        rate_limit::RateLimit,
    },
    limiter::Limiter,
    replica::Replica,
    store::Store,
    telemetry::Metrics,
};

/// Manages keys.
#[expect(clippy::struct_field_names, reason = "master keys are called so everywhere")]
pub struct Keys {
    pub(super) store: Arc<dyn Store>,
    pub(super) replica: Arc<Replica>,
    pub(super) registry: Arc<Registry>,
    pub(super) master_keys: Arc<MasterKeys>,
    pub(super) pages: PageTokens,
    pub(super) calls: Arc<ManagementCalls>,
    pub(super) limiter: Arc<Limiter>,
    pub(super) public_create_limit: RateLimit,
    pub(super) egress: Egress,
    pub(super) deliveries: Arc<DeliverySignal>,
    pub(super) ids: Arc<IdGenerator>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) metrics: Arc<Metrics>,
    /// Runs tasks that must complete even if their request is dropped.
    pub(super) runtime: Handle,
    /// Cancelled when calls in flight have to end, since the process stops.
    pub(super) closing: CancellationToken,
}

impl Keys {
    /// The record with the last use that this replica has counted, which may be newer than the flushed one.
    fn with_last_use(&self, mut key: KeyRecord) -> KeyRecord {
        key.last_used_at = key.last_used_at.max(self.replica.cache.last_use(&key.digest));
        key
    }
}
