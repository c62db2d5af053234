//! Builds the services over an open store.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::{error::RunError, open_store::OpenStore};
use crate::{
    config::{Config, RateLimitStore, RateLimits},
    domain::{
        clock::{Clock, Entropy, SystemClock, SystemEntropy},
        master_keys::MasterKeys,
    },
    limiter::{
        Limiter,
        auth_failures::AuthFailures,
        memory::MemoryLimiter,
        permit_leases::PermitLeases,
        redis::{SharedLimiter, SharedOptions},
    },
    replica::{Replica, attach::AttachRules},
    service::{ServiceDeps, ServiceOptions, Services, authenticate::RootCredential, bootstrap, bulk::Bulk},
    session::Sessions,
    store::Store,
};

/// The services, and those of their parts that workers use themselves.
pub struct Parts {
    pub services: Arc<Services>,
    pub store: Arc<dyn Store>,
    pub replica: Arc<Replica>,
    pub master_keys: Arc<MasterKeys>,
    pub limiter: Arc<Limiter>,
    pub sessions: Arc<Sessions>,
}

/// The clocks of the machine, unless a test wants a wall clock that steps.
fn clock() -> Arc<dyn Clock> {
    #[cfg(feature = "faults")]
    if crate::replica::fault_injection::disabled("steady_wall") {
        return Arc::new(crate::domain::clock::SteppingClock::default());
    }
    Arc::new(SystemClock)
}

impl Parts {
    /// Builds the services from the configuration.
    pub async fn build(config: &Config, opened: &OpenStore) -> Result<Self, RunError> {
        let clock = clock();
        let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
        let store = Arc::clone(&opened.store);
        let master_keys = Arc::new(bootstrap::load_master_keys(&*store, &*entropy, &config.master_keys).await?);
        let registry = Arc::clone(&config.registry);
        let runtime = Handle::current();
        let shared = match &config.rate_limit.store {
            RateLimitStore::Memory => None,
            RateLimitStore::Redis(url) => {
                let leases = (config.rate_limit.batch > 1)
                    .then(|| PermitLeases::new(Arc::clone(&clock), config.rate_limit.batch));
                let RateLimits { timeout, on_timeout, .. } = config.rate_limit;
                let shared = SharedLimiter::new(url, SharedOptions { timeout, on_timeout }, leases, &runtime);
                Some(shared.map_err(|error| RunError::RateLimitStore(error.to_string()))?)
            }
        };
        let replica = Replica::new(
            Arc::clone(&store),
            Arc::clone(&registry),
            Arc::clone(&clock),
            config.replica.cache_bytes,
            opened.peers(),
            &runtime,
        );
        let rules = AttachRules {
            // A replica that renews at a third of its lease has two thirds left.
            lease: config.attach.lease.min(config.replica.lease * 2 / 3),
            max_clients: config.attach.max_clients,
        };
        let replica = Arc::new(replica.with_attach_rules(rules));
        let sessions = Arc::new(Sessions::new(&config.issuers, &clock, &runtime).map_err(RunError::Sessions)?);
        let limiter = Arc::new(Limiter::new(MemoryLimiter::new(Arc::clone(&clock)), shared));
        let options = ServiceOptions {
            sessions: Arc::clone(&sessions),
            limiter: Arc::clone(&limiter),
            failures: AuthFailures::new(config.server.failed_authentications, Arc::clone(&clock)),
            public_create_limit: config.http.public_create_limit,
            calls_per_caller: config.server.calls_per_caller,
            bulk: Some(Bulk::start().map_err(RunError::Thread)?),
            egress: config.webhooks.egress.clone(),
            events: config.events.clone(),
            lifetimes: config.dashboard.lifetimes,
            host_environment: config.http.environment.clone(),
            root: config.root_key.as_ref().map(|root| RootCredential::new(root.expose())),
            ready_requires_writes: config.server.ready_requires_writes,
        };
        let deps = ServiceDeps {
            store: Arc::clone(&store),
            replica: Arc::clone(&replica),
            registry,
            master_keys: Arc::clone(&master_keys),
            clock,
            entropy,
            runtime,
        };
        let services = Arc::new(Services::new(deps, options));
        Ok(Self { services, store, replica, master_keys, limiter, sessions })
    }
}
