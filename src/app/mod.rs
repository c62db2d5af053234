//! The composition root: what is made in which order at the start, and ended in which order at a stop.

mod banner;
mod build;
mod database;
mod workers;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic_health::pb::health_server::{Health, HealthServer};

pub use self::database::{migrate, root_key};
use crate::{
    config::Config,
    domain::clock::SystemEntropy,
    service::bootstrap,
    transport::{
        grpc::{self, server},
        listener::ListenerOptions,
        rest::{Rest, Routes, server as http_server, startup},
        tls::Tls,
    },
};

/// How long calls in flight have to end at a stop.
const DRAIN: Duration = Duration::from_secs(10);

/// Why the program ended without having been asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// An address cannot be listened on.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, std::io::Error),
    /// The database cannot be used.
    #[error(transparent)]
    Database(#[from] crate::store::OpenError),
    /// The store failed at the start.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// The master_keys key does not fit the database.
    #[error(transparent)]
    MasterKeys(#[from] bootstrap::InstallationError),
    /// The certificates and keys cannot be used.
    #[error("{}", .0.join("; "))]
    Tls(Vec<String>),
    /// The system gives no thread.
    #[error("a thread could not be started: {0}")]
    Thread(std::io::Error),
    /// The rate limit server's URL cannot be read.
    #[error("rate_limit.store: {0}")]
    RateLimitStore(String),
    /// The session issuers cannot be asked.
    #[error("session issuers cannot be asked: {0}")]
    Sessions(String),
    /// The gRPC server ended by itself.
    #[error("the gRPC server failed: {0}")]
    Grpc(String),
}

/// The sockets, bound before anything else: a port that is taken shows at once.
struct Listeners {
    grpc: Arc<TcpListener>,
    http: Arc<TcpListener>,
    metrics: Option<Arc<TcpListener>>,
}

impl Listeners {
    async fn bind(config: &Config) -> Result<Self, RunError> {
        let bind = async |address| {
            TcpListener::bind(address).await.map(Arc::new).map_err(|error| RunError::Listen(address, error))
        };
        let metrics = match config.server.metrics_addr {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        Ok(Self { grpc: bind(config.server.grpc_addr).await?, http: bind(config.server.http_addr).await?, metrics })
    }
}

/// `keyward config check`, past what the settings themselves tell: whether the files that they name can be used.
///
/// # Errors
///
/// Every problem.
pub fn check(config: &Config) -> Result<(), Vec<String>> {
    config.tls.as_ref().map_or(Ok(()), |tls| Tls::load(tls, &config.registry).map(|_| ()))
}

/// Runs the service until `stop` is cancelled, then drains and returns.
///
/// # Errors
///
/// What kept it from starting, or ended it.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), RunError> {
    let tls = config.tls.as_ref().map(|tls| Tls::load(tls, &config.registry)).transpose().map_err(RunError::Tls)?;
    let listeners = Listeners::bind(&config).await?;
    let (health, health_service) = tonic_health::server::health_reporter();
    workers::set(&health, false).await;
    let options = ListenerOptions { tls, max_age: config.server.max_connection_age, stop: stop.clone(), drain: DRAIN };
    let starting = Starting::begin(&listeners, health_service.clone(), &options);
    let opened = tokio::select! {
        opened = database::open_patiently(&config) => opened?,
        () = stop.cancelled() => return Ok(()),
    };
    opened.migrate().await?;
    let parts = build::build(&config, &opened).await?;
    let services = Arc::clone(&parts.services);
    let made = if config.root_key.is_none() { services.keys.create_first_root_key().await? } else { None };
    let following = opened.follow(&config, &parts).map_err(RunError::Thread)?;

    let addresses = Addresses::of(&listeners);
    let tasks = TaskTracker::new();
    let end = CancellationToken::new();
    workers::start(&tasks, &stop, &end, &parts, health);
    if config.webhooks.deliver {
        workers::deliver(&tasks, &stop, &parts, &config.webhooks);
    }

    // All listeners drain together; workers go on until that is done, to write the last uses down.
    let serving = TaskTracker::new();
    let rest = Rest::new(Arc::clone(&services), config.http.clone());
    let routes = if listeners.metrics.is_some() { Routes::Api } else { Routes::All };
    starting.end().await;
    if let Some(tls) = &options.tls {
        tasks.spawn(Arc::clone(tls).reload_on_change(stop.clone()));
    }
    serving.spawn(http_server::run(listeners.http, Arc::clone(&rest), routes, options.clone()));
    if let Some(listener) = listeners.metrics {
        serving.spawn(http_server::run(
            listener,
            rest,
            Routes::Probes,
            ListenerOptions { tls: None, ..options.clone() },
        ));
    }
    let mut grpc = serving.spawn(server::run(
        listeners.grpc,
        Arc::clone(&services),
        health_service,
        config.server.grpc_threads,
        options,
    ));
    serving.close();

    workers::first_readiness(&services.health).await;
    banner::print(&config, &addresses, made.as_ref());

    let ended = tokio::select! {
        () = stop.cancelled() => Ok(()),
        ended = &mut grpc => match ended {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(RunError::Grpc(error)),
            Err(error) => Err(RunError::Grpc(error.to_string())),
        },
    };
    tracing::info!("stopping");
    stop.cancel();
    serving.wait().await;
    following.leave().await;
    end.cancel();
    tasks.close();
    tasks.wait().await;
    parts.store.close().await;
    tracing::info!("stopped");
    ended
}

/// What answers while there is no service yet.
struct Starting {
    tasks: TaskTracker,
    until: CancellationToken,
}

impl Starting {
    /// How long whoever asks then has for the answer.
    const DRAIN: Duration = Duration::from_secs(1);

    fn begin<H: Health>(listeners: &Listeners, health: HealthServer<H>, options: &ListenerOptions) -> Self {
        let (tasks, until) = (TaskTracker::new(), options.stop.child_token());
        let options = ListenerOptions { stop: until.clone(), drain: Self::DRAIN, ..options.clone() };
        let front = Arc::new(startup::Startup::new(Arc::new(SystemEntropy)));
        tasks.spawn(grpc::startup::run(Arc::clone(&listeners.grpc), health, options.clone()));
        tasks.spawn(http_server::run(Arc::clone(&listeners.http), Arc::clone(&front), Routes::All, options.clone()));
        if let Some(listener) = &listeners.metrics {
            let plain = ListenerOptions { tls: None, ..options };
            tasks.spawn(http_server::run(Arc::clone(listener), front, Routes::Probes, plain));
        }
        tasks.close();
        Self { tasks, until }
    }

    /// Leaves the listeners to the service.
    async fn end(self) {
        self.until.cancel();
        self.tasks.wait().await;
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        self.until.cancel();
    }
}

/// What the sockets are bound to.
struct Addresses {
    grpc: Option<SocketAddr>,
    http: Option<SocketAddr>,
    metrics: Option<SocketAddr>,
}

impl Addresses {
    fn of(listeners: &Listeners) -> Self {
        Self {
            grpc: listeners.grpc.local_addr().ok(),
            http: listeners.http.local_addr().ok(),
            metrics: listeners.metrics.as_ref().and_then(|listener| listener.local_addr().ok()),
        }
    }
}
