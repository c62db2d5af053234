//! Starts and stops an agent.

use std::{fmt::Write as _, io::Write as _, sync::Arc, thread, time::Duration};

use keyward_client::{BuildError, Client, ClientBuilder};
use tokio::{
    net::TcpListener,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::service::Routes;

use super::{
    caller::Callers,
    calls::AgentApi,
    listener::{Listeners, Protocol},
    metrics_server, readiness,
    settings::Settings,
    socket::Socket,
    state::Agent,
    upstream::Upstream,
};
use crate::{
    proto::{
        envoy::service::auth::v3::authorization_server::AuthorizationServer, key_service_server::KeyServiceServer,
    },
    transport::grpc::codec::MAX_MESSAGE_BYTES,
};

/// The largest message of a health check.
const MAX_HEALTH_BYTES: usize = 16 << 10;
/// How long calls in flight may go on at a stop, and how long the replica may take then to end the session.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);
const DETACH_TIMEOUT: Duration = Duration::from_millis(1_500);

/// Runs an agent until `stop` is cancelled. It then lets calls in flight end, ends its lease, and detaches from
/// the replica, so that no Revoke waits for it afterwards. Takes less than 5 seconds.
///
/// # Errors
///
/// The reason why it could not start.
pub async fn run(settings: Settings, stop: CancellationToken) -> Result<(), String> {
    let mut sockets = Vec::new();
    let grpc = settings.listen.iter().map(|listen| (Protocol::Grpc, listen));
    for (protocol, listen) in grpc.chain(settings.http_listen.iter().map(|listen| (Protocol::Http, listen))) {
        let bound = Socket::bind(listen, settings.socket_mode).await;
        sockets.push((protocol, bound.map_err(|error| format!("cannot listen on {listen}: {error}"))?));
    }
    let metrics = match settings.metrics_addr {
        None => None,
        Some(address) => {
            let bound = TcpListener::bind(address).await;
            Some(bound.map_err(|error| format!("cannot listen on {address}: {error}"))?)
        }
    };
    let mut addresses: Vec<_> = sockets.iter().map(|(protocol, socket)| (protocol.name(), socket.name())).collect();
    let metrics_address = metrics.as_ref().and_then(|listener| listener.local_addr().ok());
    addresses.extend(metrics_address.map(|address| ("metrics", address.to_string())));
    let agent = Arc::new(build(settings).map_err(|error| format!("upstream: {error}"))?);

    let (health, health_service) = tonic_health::server::health_reporter();
    readiness::set_serving(&health, false).await;
    let api = AgentApi { agent: Arc::clone(&agent) };
    let routes = Routes::new(KeyServiceServer::new(api.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(AuthorizationServer::new(api).max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(health_service.max_decoding_message_size(MAX_HEALTH_BYTES))
        .prepare();
    let listeners = Listeners::new(Arc::clone(&agent), routes, stop.clone());
    let tasks = TaskTracker::new();
    tasks.spawn(readiness::follow(Arc::clone(&agent), health, stop.clone()));
    for (protocol, socket) in sockets {
        tasks.spawn(listeners.clone().accept(protocol, socket));
    }
    if let Some(listener) = metrics {
        let (agent, stop) = (Arc::clone(&agent), stop.clone());
        tasks.spawn(async move { stop.run_until_cancelled(metrics_server::run(listener, agent)).await });
    }
    print(&addresses);
    stop.cancelled().await;
    tracing::info!("stopping");
    tasks.close();
    let drained = Instant::now() + DRAIN_TIMEOUT;
    let _ = timeout_at(drained, async { tokio::join!(listeners.ended(), tasks.wait()) }).await;
    if timeout(DETACH_TIMEOUT, agent.client.detach()).await.is_err() {
        tracing::warn!("the replica did not end the session in time: a Revoke may wait for the rest of its lease");
    }
    tracing::info!("stopped");
    Ok(())
}

fn build(settings: Settings) -> Result<Agent, BuildError> {
    let own = match &settings.credential {
        Some(credential) => settings.client().credential(credential.expose()),
        None => settings.client(),
    };
    let [own, authenticated, strangers] = [own, settings.client(), settings.client()].map(ClientBuilder::build);
    let own: Client = own?;
    own.attach(settings.attach)?;
    let upstream = Upstream::new(own.clone(), authenticated?, strangers?);
    let unsupported = format!(
        "The agent answers Verify, VerifyStream, Check, /forward-auth and health; make this call at a replica: {}",
        settings.upstream.join(", ")
    );
    let callers = Callers::new(settings.credential, settings.socket_auth);
    Ok(Agent::new(callers, (own, upstream), settings.gateway_config, unsupported))
}

/// Prints the addresses that the agent listens on. On a thread of its own, so that a pipe that is full or closed does
/// not block the agent.
fn print(addresses: &[(&'static str, String)]) {
    let mut text = String::new();
    for (name, address) in addresses {
        let _ = writeln!(text, "{name} listening on {address}");
    }
    let printing = move || {
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    };
    let _ = thread::Builder::new().name("banner".to_owned()).spawn(printing);
}
