//! Use cases: the only code that decides the order of steps. gRPC, REST, the command line and workers call the same
//! functions.
//!
//! [`Services`] is what the composition root builds and a transport gets. Each service in it holds what it uses itself;
//! what several of them share is behind an `Arc`.

pub mod attach;
pub(crate) mod audit;
pub(crate) mod authenticate;
pub mod bootstrap;
pub mod bulk;
pub(crate) mod context;
pub(crate) mod credential;
pub(crate) mod csrf;
pub(crate) mod dashboard;
pub(crate) mod deliveries;
pub(crate) mod discovery;
pub mod gateway;
pub(crate) mod health;
pub(crate) mod ids;
pub(crate) mod jobs;
pub(crate) mod keys;
mod management;
pub(crate) mod overview;
mod paging;
mod rate_limited;
pub mod supervisor;
#[cfg(test)]
mod tests;
pub mod trail;
pub mod verify;

use std::sync::Arc;

use tokio::{runtime::Handle, sync::OnceCell};
use tokio_util::sync::CancellationToken;

pub(crate) use self::context::CallContext;
use self::{
    attach::AttachService,
    audit::AuditLog,
    authenticate::{Authenticator, RootCredential},
    bulk::Bulk,
    dashboard::DashboardSessions,
    deliveries::DeliverySignal,
    gateway::{GatewayConfig, Gateways},
    health::Health,
    ids::IdGenerator,
    jobs::Jobs,
    keys::Keys,
    management::ManagementCalls,
    overview::Overview,
    paging::PageTokens,
    supervisor::Supervisor,
    trail::AuditTrail,
    verify::{Verifier, evaluator::Evaluator},
};
use crate::{
    domain::{
        clock::{Clock, Entropy, Micros},
        dashboard::SessionLifetimes,
        egress::Egress,
        event::EventRules,
        keyspace::Registry,
        master_keys::MasterKeys,
        rate_limit::{DEFAULT_FAILED_AUTHENTICATION_LIMIT, DEFAULT_PUBLIC_CREATE_LIMIT, RateLimit},
    },
    limiter::{Limiter, auth_failures::AuthFailures, memory::MemoryLimiter},
    replica::Replica,
    session::Sessions,
    store::Store,
    telemetry::Metrics,
};

/// Default of the number of management calls of one caller that may be in flight.
pub const DEFAULT_CALLS_PER_CALLER: usize = 256;

/// Every service, and other parts that their callers need.
pub struct Services {
    /// The configured keyspaces.
    pub registry: Arc<Registry>,
    /// Verifies keys.
    pub verify: Verifier,
    /// Decides for gateways.
    pub gateways: Gateways,
    /// Opens sessions of clients that hold keys in their own memory.
    pub attach: Arc<AttachService>,
    /// Authenticates callers.
    pub auth: Arc<Authenticator>,
    /// Creates, reads, lists, changes and revokes keys.
    pub keys: Arc<Keys>,
    /// Events, and the deliveries of them to webhooks.
    pub audit: AuditLog,
    /// Records what changes no key: sign-ins, denied calls and refused credentials.
    pub trail: Arc<AuditTrail>,
    /// Background jobs.
    pub jobs: Arc<Jobs>,
    /// Sessions of the dashboard.
    pub dashboard: Arc<DashboardSessions>,
    /// The numbers of the dashboard's first page.
    pub overview: Overview,
    /// Readiness and gauges.
    pub health: Health,
    /// Counters and histograms.
    pub metrics: Arc<Metrics>,
    /// Encodes pages of keys and events.
    pub bulk: Arc<Bulk>,
    /// Keeps workers running.
    pub supervisor: Arc<Supervisor>,
    /// Cancelled when the process stops and waiting calls have to answer.
    pub closing: CancellationToken,
    /// Wakes the webhook worker.
    pub deliveries: Arc<DeliverySignal>,
    /// Makes ids of keys and events.
    pub ids: Arc<IdGenerator>,
    /// The source of time.
    pub clock: Arc<dyn Clock>,
    /// The source of randomness.
    pub entropy: Arc<dyn Entropy>,
}

/// The required dependencies of the services.
pub struct ServiceDeps {
    /// Where keys are kept.
    pub store: Arc<dyn Store>,
    /// The cache, and the right to answer from it.
    pub replica: Arc<Replica>,
    /// The configured keyspaces.
    pub registry: Arc<Registry>,
    /// The master keys' subkeys.
    pub master_keys: Arc<MasterKeys>,
    /// The source of time.
    pub clock: Arc<dyn Clock>,
    /// The source of randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Runs tasks that must complete even if their request is dropped.
    pub runtime: Handle,
}

/// Options of the services, from the configuration.
pub struct ServiceOptions {
    /// The trusted session issuers.
    pub sessions: Arc<Sessions>,
    /// Rate limits of keys and of client addresses.
    pub limiter: Arc<Limiter>,
    /// Failed authentications by client address.
    pub failures: AuthFailures,
    /// How often a client address may create keys without a credential.
    pub public_create_limit: RateLimit,
    /// How many management calls of one caller may be in flight.
    pub calls_per_caller: usize,
    /// Encodes pages of keys and events; none: the runtime of the services does.
    pub bulk: Option<Bulk>,
    /// Which addresses webhooks may have.
    pub egress: Egress,
    /// Which expiry events there are, and how long events are kept.
    pub events: EventRules,
    /// How long sessions of the dashboard last.
    pub lifetimes: SessionLifetimes,
    /// The root credential that the environment sets.
    pub root: Option<RootCredential>,
    /// Whether the service is ready only while it can write.
    pub ready_requires_writes: bool,
    /// The environment that gateways' checks of keys assert whose keyspace requires one; empty asserts nothing.
    pub host_environment: String,
}

impl ServiceOptions {
    /// No session issuer, no root credential of the environment, limits in memory, and the defaults of all other
    /// settings.
    pub fn with_defaults(clock: &Arc<dyn Clock>) -> Self {
        Self {
            sessions: Arc::new(Sessions::none(Arc::clone(clock))),
            limiter: Arc::new(Limiter::new(MemoryLimiter::new(Arc::clone(clock)), None)),
            failures: AuthFailures::new(DEFAULT_FAILED_AUTHENTICATION_LIMIT, Arc::clone(clock)),
            public_create_limit: DEFAULT_PUBLIC_CREATE_LIMIT,
            calls_per_caller: DEFAULT_CALLS_PER_CALLER,
            bulk: None,
            egress: Egress::default(),
            events: EventRules::default(),
            lifetimes: SessionLifetimes::default(),
            root: None,
            ready_requires_writes: false,
            host_environment: String::new(),
        }
    }
}

impl Services {
    /// Services with [`ServiceOptions::with_defaults`].
    pub fn with_defaults(deps: ServiceDeps) -> Self {
        let options = ServiceOptions::with_defaults(&deps.clock);
        Self::new(deps, options)
    }

    /// Builds every service.
    #[expect(clippy::too_many_lines, reason = "one list of the services and of what each of them holds")]
    pub fn new(deps: ServiceDeps, options: ServiceOptions) -> Self {
        let ServiceDeps { store, replica, registry, master_keys, clock, entropy, runtime } = deps;
        let ServiceOptions {
            sessions,
            limiter,
            failures,
            public_create_limit,
            calls_per_caller,
            bulk,
            egress,
            events,
            lifetimes,
            root,
            ready_requires_writes,
            host_environment,
        } = options;
        let metrics = Arc::new(Metrics::new(&registry));
        let closing = CancellationToken::new();
        let supervisor = Arc::new(Supervisor::new(Arc::clone(&metrics)));
        let deliveries = Arc::<DeliverySignal>::default();
        let ids = Arc::new(IdGenerator::new(Arc::clone(&clock), Arc::clone(&entropy)));
        let evaluator = Arc::new(Evaluator {
            replica: Arc::clone(&replica),
            registry: Arc::clone(&registry),
            master_keys: Arc::clone(&master_keys),
            limiter: Arc::clone(&limiter),
            clock: Arc::clone(&clock),
        });
        let trail = Arc::new(AuditTrail::new(Arc::clone(&store), Arc::clone(&ids), Arc::clone(&clock)));
        let auth = Arc::new(Authenticator {
            evaluator: Arc::clone(&evaluator),
            registry: Arc::clone(&registry),
            sessions: Arc::clone(&sessions),
            failures,
            root,
            trail: Arc::clone(&trail),
            metrics: Arc::clone(&metrics),
        });
        let bulk = Arc::new(bulk.unwrap_or_else(|| Bulk::on(runtime.clone())));
        let calls = Arc::new(ManagementCalls::new(calls_per_caller));
        let keys = Arc::new(Keys {
            store: Arc::clone(&store),
            replica: Arc::clone(&replica),
            registry: Arc::clone(&registry),
            pages: PageTokens::new(Arc::clone(&master_keys)),
            calls: Arc::clone(&calls),
            master_keys: Arc::clone(&master_keys),
            limiter: Arc::clone(&limiter),
            public_create_limit,
            egress,
            deliveries: Arc::clone(&deliveries),
            ids: Arc::clone(&ids),
            clock: Arc::clone(&clock),
            entropy: Arc::clone(&entropy),
            metrics: Arc::clone(&metrics),
            runtime: runtime.clone(),
            closing: closing.clone(),
        });
        let dashboard = Arc::new(DashboardSessions {
            store: Arc::clone(&store),
            auth: Arc::clone(&auth),
            sessions: Arc::clone(&sessions),
            trail: Arc::clone(&trail),
            master_keys: Arc::clone(&master_keys),
            clock: Arc::clone(&clock),
            entropy: Arc::clone(&entropy),
            lifetimes,
            runtime,
        });
        let attach = Arc::new(AttachService {
            evaluator: Arc::clone(&evaluator),
            auth: Arc::clone(&auth),
            replica: Arc::clone(&replica),
            registry: Arc::clone(&registry),
            store: Arc::clone(&store),
            clock: Arc::clone(&clock),
            written: OnceCell::new(),
        });
        let gateways = Gateways {
            evaluator: Arc::clone(&evaluator),
            auth: Arc::clone(&auth),
            metrics: Arc::clone(&metrics),
            config: GatewayConfig::new(Arc::clone(&registry), host_environment),
        };
        let overview = Overview {
            store: Arc::clone(&store),
            calls: Arc::clone(&calls),
            metrics: Arc::clone(&metrics),
            clock: Arc::clone(&clock),
        };
        Self {
            attach,
            gateways,
            dashboard,
            overview,
            verify: Verifier { evaluator, auth: Arc::clone(&auth), metrics: Arc::clone(&metrics) },
            auth,
            audit: AuditLog {
                store: Arc::clone(&store),
                registry: Arc::clone(&registry),
                keys: Arc::clone(&keys),
                calls,
                pages: PageTokens::new(master_keys),
                deliveries: Arc::clone(&deliveries),
                ids: Arc::clone(&ids),
                clock: Arc::clone(&clock),
            },
            trail,
            keys,
            jobs: Arc::new(Jobs {
                store: Arc::clone(&store),
                replica: Arc::clone(&replica),
                deliveries: Arc::clone(&deliveries),
                ids: Arc::clone(&ids),
                clock: Arc::clone(&clock),
                rules: events,
            }),
            health: Health::new(store, replica, sessions, limiter, Arc::clone(&supervisor), ready_requires_writes),
            supervisor,
            closing,
            registry,
            metrics,
            bulk,
            deliveries,
            ids,
            clock,
            entropy,
        }
    }

    /// The current time of the wall clock.
    pub fn now(&self) -> Micros {
        self.clock.wall()
    }
}
