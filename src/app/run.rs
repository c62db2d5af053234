//! `keyward serve`: the order of the start and of the stop.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    net::TcpListener,
    task::{JoinError, JoinHandle},
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic_health::pb::health_server::{Health, HealthServer};

use super::{
    banner,
    error::RunError,
    listeners::Listeners,
    memory,
    open_store::{FollowerHandle, open_with_retry},
    parts::Parts,
    port_options::PortOptions,
    progress::StartProgress,
    readiness,
    startup_servers::StartupServers,
    workers,
};
use crate::{
    config::Config,
    dashboard::{self, DashboardOptions},
    domain::secret::Secret,
    replica::follower_thread,
    service::Services,
    transport::{
        grpc,
        listener::ListenerOptions,
        rest::{HttpHandler, Published, Rest, Routes, server as http_server},
        tls::Tls,
    },
};

/// At a stop: how long calls in flight may still be answered from memory, before the follower ends the lease.
const ANSWER_DRAIN_TIMEOUT: Duration = Duration::from_millis(500);
/// How long the last flush may take, counted from the moment at which the servers and the follower must have ended. If the
/// process was paused until later, it counts from then on: otherwise writes are lost that the database would have taken.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// How long closing the database may take after that.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(300);
/// How long a stop during the start waits for a root key that is being created: it is printed once, or never.
const ROOT_KEY_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs the service until `stop` is cancelled, then drains and returns.
///
/// The start: TLS files, sockets, servers that answer "not ready", the database, the services, the follower, workers, and
/// then the servers instead of the first ones. It ends at once if `stop` is cancelled meanwhile. The stop: readiness, calls
/// in flight and the follower (from here on memory does not answer), workers with their last flush, and the database. Each
/// part of the stop is bounded, whatever clients and the database do.
///
/// # Errors
///
/// The reason why it could not start, or why it ended by itself.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), RunError> {
    memory::protect_unless(config.server.dumpable);
    let tls = config.tls.as_ref().map(|tls| Tls::load(tls, &config.registry)).transpose().map_err(RunError::Tls)?;
    let listeners = Listeners::bind(&config).await?;
    let (health, health_service) = tonic_health::server::health_reporter();
    readiness::set_serving(&health, false).await;
    let options = PortOptions::new(&config, tls, &stop);
    let progress = StartProgress::default();
    let startup = StartupServers::start(&listeners, health_service.clone(), &options, &progress);
    let started = Box::pin(start_services(&config, &stop, &progress)).await;
    startup.stop().await;
    let Some(Started { parts, follower, root_key }) = started? else {
        tracing::info!("stopped during the start");
        return Ok(());
    };

    // Two groups, since workers outlive the servers: the last calls still use keys, and their usage is flushed.
    let (servers, tasks, end) = (TaskTracker::new(), TaskTracker::new(), CancellationToken::new());
    workers::watch_readiness(&tasks, &stop, &parts, health);
    workers::start(&tasks, &stop, &end, &parts, config.events.summary_period);
    if config.webhooks.deliver {
        workers::deliver_webhooks(&tasks, &stop, &parts, &config.webhooks);
    }
    if let Some(tls) = &options.grpc.tls {
        workers::reload_tls(&tasks, &stop, &parts, tls);
    }
    let addresses = listeners.addresses();
    let mut grpc = serve(&servers, listeners, &parts.services, &config, health_service, &options);
    servers.close();
    stop.run_until_cancelled(readiness::wait_until_ready(&parts.services.health)).await;
    // Print a new root key even if the service is stopping: it is stored nowhere, and would be lost.
    if !stop.is_cancelled() || root_key.is_some() {
        banner::print(&config, &addresses, root_key.as_ref()).await;
    }

    let ended = tokio::select! {
        () = stop.cancelled() => Ok(()),
        ended = &mut grpc => grpc_result(ended),
    };
    tracing::info!("stopping");
    stop.cancel();
    let (began, drain) = (Instant::now(), config.server.drain_timeout);
    let drained = async {
        if timeout(drain * 3 / 4, servers.wait()).await.is_err() {
            // Revokes that wait for another replica answer that they are pending, while there is time to send it.
            parts.services.closing.cancel();
            let _ = timeout(drain / 4, servers.wait()).await;
        }
    };
    let left = async {
        // Stop the follower early. Otherwise a process that is killed because its stop takes too long leaves its row
        // behind, and the next Revoke of another replica waits for its lease.
        let _ = timeout(ANSWER_DRAIN_TIMEOUT.min(drain), servers.wait()).await;
        follower.stop().await;
    };
    tokio::join!(drained, left);
    end.cancel();
    tasks.close();
    let ended_by = began + drain.max(ANSWER_DRAIN_TIMEOUT + follower_thread::LEAVE_TIMEOUT);
    let deadline = ended_by.max(Instant::now()) + FLUSH_TIMEOUT;
    if timeout_at(deadline, tasks.wait()).await.is_err() {
        tracing::warn!("the database did not take the last writes in time");
    }
    parts.services.trail.report_lost();
    let _ = timeout_at(deadline + CLOSE_TIMEOUT, parts.store.close()).await;
    tracing::info!("stopped");
    ended
}

/// The parts that exist once the database is open.
struct Started {
    parts: Parts,
    follower: FollowerHandle,
    /// The first root key of this database, if it was created now.
    root_key: Option<Secret>,
}

/// Opens the database and builds the services; none if `stop` is cancelled meanwhile.
async fn start_services(
    config: &Config,
    stop: &CancellationToken,
    progress: &StartProgress,
) -> Result<Option<Started>, RunError> {
    let building = async {
        let opened = open_with_retry(config, progress).await?;
        opened.migrate(progress).await?;
        let parts = Parts::build(config, &opened).await?;
        // Before the first Revoke.
        parts.services.attach.load_earlier_grants().await?;
        Ok::<_, RunError>((opened, parts))
    };
    let Some(built) = stop.run_until_cancelled(Box::pin(building)).await else { return Ok(None) };
    let (opened, parts) = built?;
    let creating =
        async { if config.root_key.is_some() { Ok(None) } else { parts.services.keys.create_first_root_key().await } };
    let too_late = async {
        stop.cancelled().await;
        sleep(ROOT_KEY_TIMEOUT).await;
    };
    let root_key = tokio::select! {
        created = creating => created?,
        () = too_late => return Ok(None),
    };
    let follower = opened.follow(config, &parts.replica, &parts.services).map_err(RunError::Thread)?;
    Ok(Some(Started { parts, follower, root_key }))
}

/// Starts the servers on every listener; returns the gRPC server, which ends only if it fails.
fn serve<H: Health>(
    servers: &TaskTracker,
    listeners: Listeners,
    services: &Arc<Services>,
    config: &Config,
    health_service: HealthServer<H>,
    options: &PortOptions,
) -> JoinHandle<Result<(), String>> {
    let mut rest = Rest::new(Arc::clone(services), config.http.clone(), published(&listeners, config));
    if config.dashboard.enabled {
        rest = rest.with_pages(dashboard::routes(DashboardOptions { url: config.dashboard.url.clone() }));
    }
    let routes = if listeners.metrics.is_some() { Routes::Api } else { Routes::All };
    serve_http(servers, "http_listener", listeners.http, rest.handler(routes), services, &options.http);
    if let Some(listener) = listeners.metrics {
        serve_http(servers, "metrics_listener", listener, rest.handler(Routes::Probes), services, &options.metrics);
    }
    servers.spawn(grpc::server::run(
        listeners.grpc,
        Arc::clone(services),
        health_service,
        config.server.grpc_threads,
        options.grpc.clone(),
    ))
}

fn serve_http(
    servers: &TaskTracker,
    name: &'static str,
    listener: Arc<TcpListener>,
    handler: HttpHandler,
    services: &Arc<Services>,
    options: &ListenerOptions,
) {
    let (services, options) = (Arc::clone(services), options.clone());
    servers.spawn(async move {
        let stop = options.stop.clone();
        let listener = Mutex::new(Some(listener));
        let serve = || {
            let (listener, handler, options) = (listener.lock().clone(), handler.clone(), options.clone());
            let entropy = Arc::clone(&services.entropy);
            async move {
                if let Some(listener) = listener {
                    http_server::run(listener, handler, entropy, options).await;
                }
            }
        };
        // The port is closed at once, so that clients go elsewhere while the last calls complete.
        let closing = async {
            stop.cancelled().await;
            listener.lock().take();
        };
        tokio::join!(services.supervisor.keep_running(name, &stop, serve), closing);
    });
}

/// What discovery answers about the listeners. A listener on every address has no single URL.
fn published(listeners: &Listeners, config: &Config) -> Published {
    let grpc = listeners.addresses().grpc.filter(|address| !address.ip().is_unspecified());
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let url = config.dashboard.url.as_ref().map(|url| url.as_str().trim_end_matches('/')).unwrap_or_default();
    Published {
        grpc: grpc.map(|address| format!("{scheme}://{address}")),
        dashboard: config.dashboard.enabled.then(|| format!("{url}/dashboard")),
    }
}

fn grpc_result(ended: Result<Result<(), String>, JoinError>) -> Result<(), RunError> {
    match ended {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(RunError::Grpc(error)),
        Err(error) => Err(RunError::Grpc(error.to_string())),
    }
}
