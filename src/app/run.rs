//! `keyward serve`: the order of the start and of the stop.

use std::sync::Arc;

use tokio::task::{JoinError, JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic_health::pb::health_server::{Health, HealthServer};

use super::{
    banner,
    error::RunError,
    listeners::Listeners,
    open_store::{FollowerHandle, open_with_retry},
    parts::Parts,
    port_options::PortOptions,
    readiness,
    startup_servers::StartupServers,
    workers,
};
use crate::{
    config::Config,
    domain::secret::Secret,
    service::Services,
    transport::{
        grpc,
        rest::{Rest, Routes, server as http_server},
        tls::Tls,
    },
};

/// Runs the service until `stop` is cancelled, then drains and returns.
///
/// The start: TLS files, sockets, servers that answer "not ready", the database, the services, the follower, workers, and
/// then the servers in place of the first ones. The stop: readiness, calls in flight, the follower (from here on memory does
/// not answer), workers with their last flush, and the database.
///
/// # Errors
///
/// The reason why it could not start, or why it ended by itself.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), RunError> {
    let tls = config.tls.as_ref().map(|tls| Tls::load(tls, &config.registry)).transpose().map_err(RunError::Tls)?;
    let listeners = Listeners::bind(&config).await?;
    let (health, health_service) = tonic_health::server::health_reporter();
    readiness::set_serving(&health, false).await;
    let options = PortOptions::new(&config, tls, &stop);
    let startup = StartupServers::start(&listeners, health_service.clone(), &options);
    let started = start_services(&config, &stop).await;
    startup.stop().await;
    let Some(Started { parts, follower, root_key }) = started? else { return Ok(()) };

    // Two groups, since workers outlive the servers: the last calls still use keys, and their usage is flushed.
    let (servers, tasks, end) = (TaskTracker::new(), TaskTracker::new(), CancellationToken::new());
    tasks.spawn(readiness::follow(Arc::clone(&parts.services), health, stop.clone()));
    workers::start(&tasks, &stop, &end, &parts);
    if config.webhooks.deliver {
        workers::deliver_webhooks(&tasks, &stop, &parts, &config.webhooks);
    }
    if let Some(tls) = &options.grpc.tls {
        tasks.spawn(Arc::clone(tls).reload_on_change(stop.clone()));
    }
    let addresses = listeners.addresses();
    let mut grpc = serve(&servers, listeners, &parts.services, &config, health_service, &options);
    servers.close();
    readiness::wait_until_ready(&parts.services.health).await;
    banner::print(&config, &addresses, root_key.as_ref());

    let ended = tokio::select! {
        () = stop.cancelled() => Ok(()),
        ended = &mut grpc => grpc_result(ended),
    };
    tracing::info!("stopping");
    stop.cancel();
    servers.wait().await;
    follower.leave().await;
    end.cancel();
    tasks.close();
    tasks.wait().await;
    parts.store.close().await;
    tracing::info!("stopped");
    ended
}

/// What there is once the database is open.
struct Started {
    parts: Parts,
    follower: FollowerHandle,
    /// The first root key of this database, if it was created now.
    root_key: Option<Secret>,
}

/// Opens the database and builds the services; none if `stop` is cancelled while the database is unavailable.
async fn start_services(config: &Config, stop: &CancellationToken) -> Result<Option<Started>, RunError> {
    let Some(opened) = stop.run_until_cancelled(open_with_retry(config)).await else { return Ok(None) };
    let opened = opened?;
    opened.migrate().await?;
    let parts = Parts::build(config, &opened).await?;
    let root_key = if config.root_key.is_none() { parts.services.keys.create_first_root_key().await? } else { None };
    let services = &parts.services;
    let follower = opened.follow(config, &parts.replica, &services.clock, &services.entropy);
    let follower = follower.map_err(RunError::Thread)?;
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
    let rest = Rest::new(Arc::clone(services), config.http.clone());
    let routes = if listeners.metrics.is_some() { Routes::Api } else { Routes::All };
    let entropy = &services.entropy;
    servers.spawn(http_server::run(listeners.http, rest.handler(routes), Arc::clone(entropy), options.http.clone()));
    if let Some(listener) = listeners.metrics {
        let (handler, entropy) = (rest.handler(Routes::Probes), Arc::clone(entropy));
        servers.spawn(http_server::run(listener, handler, entropy, options.metrics.clone()));
    }
    servers.spawn(grpc::server::run(
        listeners.grpc,
        Arc::clone(services),
        health_service,
        config.server.grpc_threads,
        options.grpc.clone(),
    ))
}

fn grpc_result(ended: Result<Result<(), String>, JoinError>) -> Result<(), RunError> {
    match ended {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(RunError::Grpc(error)),
        Err(error) => Err(RunError::Grpc(error.to_string())),
    }
}
