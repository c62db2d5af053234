//! Use cases: the only place that orders steps. gRPC, REST, the command line and workers call the same functions.

pub mod audit;
pub mod authenticate;
pub mod bootstrap;
pub mod keys;
pub mod list;
pub mod revoke;
pub mod sweep;
pub mod verify;

use std::sync::Arc;

use tokio::{runtime::Handle, sync::Notify, time::Instant};

use crate::{
    domain::{
        clock::{Clock, Entropy, Micros},
        egress::Egress,
        event::{EventId, EventRules},
        key::{Digest, KeyIds, KeyRecord},
        keyspace::Registry,
        master_keys::MasterKeys,
        rate_limit::{FAILED_AUTHENTICATIONS, PUBLIC_CREATIONS, RateLimit},
    },
    limiter::{Limiter, Subject, auth_failures::AuthFailures, memory::MemoryLimiter},
    replica::{Replica, usage::TakenUsage},
    session::Sessions,
    store::Store,
    telemetry::{GaugeSnapshot, Metrics},
};

/// Everything that use cases need.
pub struct Service {
    /// Where keys are kept.
    pub store: Arc<dyn Store>,
    /// What memory holds, and whether it may answer.
    pub replica: Arc<Replica>,
    /// The keyspaces.
    pub registry: Arc<Registry>,
    /// The installation's subkeys.
    pub master_keys: MasterKeys,
    /// The issuers whose tokens are sessions.
    pub sessions: Sessions,
    /// Spent limits of keys and of client addresses.
    pub limiter: Limiter,
    /// Failed authentications by client address.
    pub failures: AuthFailures,
    /// Creations without a credential, for each client address.
    pub public_create_limit: RateLimit,
    /// Where webhooks may be.
    pub egress: Egress,
    /// Woken when there may be something to tell a webhook.
    pub deliveries: Notify,
    /// What is told of without a call, and for how long it is kept.
    pub events: EventRules,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub entropy: Arc<dyn Entropy>,
    /// Makes ids of keys and of events.
    pub ids: KeyIds,
    /// Digest of the environment's root credential.
    pub root: Option<Digest>,
    /// Counters.
    pub metrics: Metrics,
    /// Where work goes on that no dropped request may stop.
    pub runtime: Handle,
}

/// What a service cannot be without.
pub struct Essentials {
    /// Where keys are kept.
    pub store: Arc<dyn Store>,
    /// What memory holds.
    pub replica: Replica,
    /// The keyspaces.
    pub registry: Arc<Registry>,
    /// The installation's subkeys.
    pub master_keys: MasterKeys,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub entropy: Arc<dyn Entropy>,
    /// Where work goes on.
    pub runtime: Handle,
}

/// What a call brings besides its request.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// When the caller stops waiting.
    pub deadline: Instant,
    /// The environment that the host asserts of product keys; empty asserts nothing.
    pub host_environment: &'a str,
    /// Whose limit a creation without a credential counts against.
    pub client: Option<Subject>,
}

impl Service {
    /// A service that trusts no issuer and has no root credential of the environment, with every other rule as it is
    /// where nothing is configured.
    pub fn plain(essentials: Essentials) -> Self {
        let Essentials { store, replica, registry, master_keys, clock, entropy, runtime } = essentials;
        Self {
            store,
            replica: Arc::new(replica),
            metrics: Metrics::new(&registry),
            registry,
            master_keys,
            sessions: Sessions::none(Arc::clone(&clock)),
            limiter: Limiter::new(MemoryLimiter::new(Arc::clone(&clock)), None),
            failures: AuthFailures::new(FAILED_AUTHENTICATIONS, Arc::clone(&clock)),
            public_create_limit: PUBLIC_CREATIONS,
            egress: Egress::default(),
            deliveries: Notify::new(),
            events: EventRules::default(),
            clock,
            entropy,
            ids: KeyIds::default(),
            root: None,
            runtime,
        }
    }

    /// Something has happened to a key: its webhook is told soon.
    pub fn told(&self, key: &KeyRecord) {
        if !key.webhook_url.is_empty() {
            self.deliveries.notify_one();
        }
    }

    /// Now, by the wall clock.
    pub fn now(&self) -> Micros {
        self.clock.wall()
    }

    /// The id of an event that happens now.
    pub fn event_id(&self) -> EventId {
        EventId(self.ids.next(&*self.clock, &*self.entropy).0)
    }

    /// The record with its last use as this replica knows it, where that is not written down yet.
    fn with_last_use(&self, mut key: KeyRecord) -> KeyRecord {
        key.last_used_at = key.last_used_at.max(self.replica.cache.last_use(&key.digest));
        key
    }

    /// What the gauges show.
    pub fn levels(&self) -> GaugeSnapshot {
        let pool = self.store.pool();
        let sessions = self.sessions.level();
        GaugeSnapshot {
            open: pool.open,
            idle: pool.idle,
            cached_keys: self.replica.cache.len(),
            cached_bytes: self.replica.cache.bytes(),
            uses_dropped: self.replica.usage.dropped(),
            lease_micros: self.replica.lease.remaining(),
            limited_subjects: self.limiter.subjects(),
            limits_shared: self.limiter.is_shared(),
            limits_fallen_back: self.limiter.fallbacks(),
            issuers_without_keys: sessions.map(|level| level.without),
            issuer_keys_micros: sessions.map(|level| level.oldest),
            issuer_failures: sessions.map_or(0, |level| level.failures),
        }
    }

    /// Writes down the uses of up to `most` keys; says how many keys are left to try. What cannot be written is kept for
    /// a later time, and so is the rest.
    pub async fn write_uses_down(&self, most: usize) -> usize {
        let (taken, left) = self.replica.usage.take(most);
        if taken.is_empty() {
            return left;
        }
        let usage = taken.iter().map(TakenUsage::usage).collect();
        if let Err(error) = self.store.record_usage(usage).await {
            tracing::warn!(%error, keys = taken.len(), "uses could not be written down; they are kept");
            self.replica.usage.restore(taken);
            return 0;
        }
        left
    }

    /// Whether calls can be served: the lease holds and the database answers.
    ///
    /// # Errors
    ///
    /// Why not, for the log.
    pub async fn ready(&self) -> Result<(), String> {
        if !self.replica.lease.holds() {
            return Err("no live lease".to_owned());
        }
        self.store.ping().await.map_err(|error| error.to_string())
    }
}
