//! Accepts connections and serves them.
//!
//! Connections are spread over threads. Each thread runs an executor of its own that serves connections and nothing else,
//! so a Verify that memory can decide never leaves its thread. Database work runs on the main runtime.

use std::{io, sync::Arc, thread};

use tokio::{
    net::TcpListener,
    sync::{Mutex, mpsc, oneshot},
};
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic_health::pb::health_server::{Health, HealthServer};

use super::{
    admission::MAX_PUBLIC_MESSAGE_BYTES,
    api::GrpcApi,
    codec::MAX_MESSAGE_BYTES,
    connection::ClientConnection,
    handoff::{ConnectionCount, HandedConnection},
    http2::{self, ConnectionOptions, Timeouts},
    verify::fast_path::RequestHandler,
};
use crate::{
    domain::caller::Caller,
    proto::{
        DESCRIPTORS, audit_service_server::AuditServiceServer,
        envoy::service::auth::v3::authorization_server::AuthorizationServer, key_service_server::KeyServiceServer,
    },
    service::Services,
    transport::{accept::Acceptor, listener::ListenerOptions, peer::Peer, tls::Port},
};

/// Connections that wait for a thread to serve them.
const MAX_HANDED: usize = 64;

/// A thread that serves connections.
struct Worker {
    connections: mpsc::Sender<HandedConnection>,
    count: ConnectionCount,
    ended: oneshot::Receiver<()>,
}

/// Serves on `threads` threads until `options.stop` is cancelled, then waits for the calls in flight.
///
/// # Errors
///
/// Why the threads could not be started, or that all of them ended before the stop.
pub async fn run<H: Health>(
    listener: Arc<TcpListener>,
    service: Arc<Services>,
    health: HealthServer<H>,
    threads: usize,
    options: ListenerOptions,
) -> Result<(), String> {
    let workers: Result<Vec<Worker>, String> =
        (0..threads).map(|_| start(&service, &health, &options).map_err(|error| error.to_string())).collect();
    let workers = workers?;
    let accepting = || accept(Acceptor::new(Arc::clone(&listener), Arc::clone(&options.connections)), &workers);
    let accepting = service.supervisor.keep_running("grpc_listener", &options.stop, accepting);
    options.stop.run_until_cancelled(accepting).await;
    drop(listener);
    let ended = async {
        for Worker { connections, ended, .. } in workers {
            drop(connections);
            // An error means that the thread panicked: it has ended, too.
            let _ = ended.await;
        }
    };
    let _ = tokio::time::timeout(options.drain, ended).await;
    if options.stop.is_cancelled() { Ok(()) } else { Err("every thread has ended".to_owned()) }
}

/// Hands each connection to the thread that has the fewest. Returns only if every thread has ended.
async fn accept(mut acceptor: Acceptor, workers: &[Worker]) {
    while !workers.iter().all(|worker| worker.connections.is_closed()) {
        let (stream, address, admission) = acceptor.accept().await;
        // A thread that has ended has no connections, but must get none.
        let alive = workers.iter().filter(|worker| !worker.connections.is_closed());
        let Some(worker) = alive.min_by_key(|worker| worker.count.get()) else { return };
        // This fails only if the reactor refuses to give the socket back.
        let Ok(connection) = HandedConnection::new(stream, address, admission, &worker.count) else { continue };
        // A thread that is slow to take its connections delays the accept loop.
        let _ = worker.connections.send(connection).await;
    }
}

fn start<H: Health>(
    service: &Arc<Services>,
    health: &HealthServer<H>,
    options: &ListenerOptions,
) -> io::Result<Worker> {
    let (connections, handed) = mpsc::channel(MAX_HANDED);
    let (ending, ended) = oneshot::channel();
    let (service, health, options) = (Arc::clone(service), health.clone(), options.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("grpc".to_owned()).spawn(move || {
        let (supervisor, stop) = (Arc::clone(&service.supervisor), options.stop.clone());
        let api = GrpcApi::new(service);
        let routes = routes(&api, health);
        let handed = Mutex::new(handed);
        let serve = || serve(api.clone(), routes.clone(), &handed, options.clone());
        runtime.block_on(supervisor.keep_running("grpc_thread", &stop, serve));
        let _ = ending.send(());
    })?;
    Ok(Worker { connections, count: ConnectionCount::default(), ended })
}

#[expect(clippy::expect_used, reason = "the descriptors are constants, so every test of the listener would fail first")]
fn routes<H: Health>(api: &GrpcApi, health: HealthServer<H>) -> Routes {
    let keys = KeyServiceServer::new(api.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let audit = AuditServiceServer::new(api.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let authorization = AuthorizationServer::new(api.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let health = health.max_decoding_message_size(MAX_PUBLIC_MESSAGE_BYTES);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let v1 = reflection().build_v1().expect("the descriptors were made by this build");
    let v1 = v1.max_decoding_message_size(MAX_PUBLIC_MESSAGE_BYTES);
    let v1alpha = reflection().build_v1alpha().expect("the descriptors were made by this build");
    let v1alpha = v1alpha.max_decoding_message_size(MAX_PUBLIC_MESSAGE_BYTES);
    Routes::new(keys)
        .add_service(audit)
        .add_service(authorization)
        .add_service(health)
        .add_service(v1)
        .add_service(v1alpha)
        .prepare()
}

/// Serves the connections of one thread until the accept loop has stopped and each connection has ended.
async fn serve(
    api: GrpcApi,
    routes: Routes,
    handed: &Mutex<mpsc::Receiver<HandedConnection>>,
    options: ListenerOptions,
) {
    let mut connections = handed.lock().await;
    let serving = TaskTracker::new();
    let (polls, turns) = (Arc::default(), Arc::default());
    while let Some(connection) = connections.recv().await {
        let connection_options = ConnectionOptions {
            timeouts: Timeouts::new(options.timeouts.keepalive),
            max_streams: options.max_streams,
            max_age: options.connection_age(&*api.service.entropy),
            shutdown: options.stop.child_token(),
            polls: Arc::clone(&polls),
            turns: Arc::clone(&turns),
        };
        let admission = connection.admission();
        let connection = serve_connection(connection, api.clone(), routes.clone(), options.clone(), connection_options);
        // A task of its own waits for the displacement of the connection: the connection itself would check
        // whenever it is polled.
        let mut connection = serving.spawn(connection);
        serving.spawn(async move {
            tokio::select! {
                _ = &mut connection => {}
                () = admission.displaced() => connection.abort(),
            }
        });
    }
    serving.close();
    serving.wait().await;
}

async fn serve_connection(
    connection: HandedConnection,
    api: GrpcApi,
    routes: Routes,
    listener: ListenerOptions,
    options: ConnectionOptions,
) {
    let (address, admission) = (connection.address(), connection.admission());
    let Ok((stream, _guard)) = connection.open() else { return };
    let handler = |secure, caller: Option<Caller>| {
        if caller.is_some() {
            admission.authenticated();
        }
        let (closing, admission) = (options.shutdown.clone(), Arc::clone(&admission));
        let peer = Arc::new(Peer { address, secure, caller, closing, admission });
        let connection = ClientConnection::new(peer, listener.budget.connection(address), listener.timeouts);
        RequestHandler { api, routes, connection }
    };
    let Some(tls) = &listener.tls else {
        let handler = handler(false, None);
        return http2::serve(handler.connection.bound(stream), &handler, options).await;
    };
    let handshake = listener.stop.run_until_cancelled(tls.accept(stream, address, Port::Grpc)).await;
    if let Some(Some((stream, caller))) = handshake {
        let handler = handler(true, caller);
        http2::serve(handler.connection.bound(stream), &handler, options).await;
    }
}
