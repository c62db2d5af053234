//! The gRPC listener: the service, health and reflection.
//!
//! Connections are spread over threads that each run an executor of their own: a check that memory can answer never
//! leaves its thread, and nothing else runs there. Database work runs elsewhere.

use std::{io, sync::Arc, thread, time::Duration};

use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
};
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic_health::pb::health_server::{Health, HealthServer};

use super::{
    Grpc, MESSAGE_BYTES,
    connection::{Connection, Load},
    http2::{self, Patience},
    pace::Turns,
    recall::Handler,
};
use crate::{
    proto::{DESCRIPTORS, audit_service_server::AuditServiceServer, key_service_server::KeyServiceServer},
    service::Service,
    transport::{listener::ListenerOptions, peer::Peer, tls::Port},
};

/// Connections of a thread at once; more are turned away.
const CONNECTIONS: usize = 10_000;
/// Connections that a thread has been given and not taken yet.
const HANDED: usize = 64;

/// A thread that serves connections.
struct Worker {
    connections: mpsc::Sender<Connection>,
    load: Load,
    ended: oneshot::Receiver<()>,
}

/// Serves on `threads` threads until the listener's options say to stop, then lets calls in flight end.
///
/// # Errors
///
/// What ended a thread before that.
pub async fn run<H: Health>(
    listener: Arc<TcpListener>,
    service: Arc<Service>,
    health: HealthServer<H>,
    threads: usize,
    options: ListenerOptions,
) -> Result<(), String> {
    let workers: Result<Vec<Worker>, String> =
        (0..threads).map(|_| start(&service, &health, &options).map_err(|error| error.to_string())).collect();
    let workers = workers?;
    let accepting = accept(&listener, &workers);
    options.stop.run_until_cancelled(accepting).await;
    drop(listener);
    let ended = async {
        for Worker { connections, ended, .. } in workers {
            drop(connections);
            // A thread that panicked has ended too.
            let _ = ended.await;
        }
    };
    let _ = tokio::time::timeout(options.drain, ended).await;
    if options.stop.is_cancelled() { Ok(()) } else { Err("every thread has ended".to_owned()) }
}

/// Gives each connection to the thread that has the fewest. Returns only if every thread is gone.
async fn accept(listener: &TcpListener, workers: &[Worker]) {
    while !workers.iter().all(|worker| worker.connections.is_closed()) {
        let accepted = match listener.accept().await {
            Ok((stream, peer)) => {
                stream.set_nodelay(true).and_then(|()| stream.into_std()).map(|stream| (stream, peer.ip()))
            }
            Err(error) => Err(error),
        };
        // A thread that has ended has the fewest.
        let alive = workers.iter().filter(|worker| !worker.connections.is_closed());
        let Some(worker) = alive.min_by_key(|worker| worker.load.connections()) else { return };
        match accepted {
            Ok((stream, address)) if worker.load.connections() < CONNECTIONS => {
                let connection = Connection::new(stream, address, &worker.load);
                // A thread that is slow to take it delays the listener, not the process.
                let _ = worker.connections.send(connection).await;
            }
            Ok((stream, _)) => drop(stream),
            Err(error) => {
                // Out of descriptors, most likely: without a pause this would spin.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

fn start<H: Health>(service: &Arc<Service>, health: &HealthServer<H>, options: &ListenerOptions) -> io::Result<Worker> {
    let (connections, handed) = mpsc::channel(HANDED);
    let (tell, ended) = oneshot::channel();
    let (service, health, options) = (Arc::clone(service), health.clone(), options.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("grpc".to_owned()).spawn(move || {
        runtime.block_on(serve(&service, &routes(&service, health), handed, options));
        let _ = tell.send(());
    })?;
    Ok(Worker { connections, load: Load::default(), ended })
}

fn routes<H: Health>(service: &Arc<Service>, health: HealthServer<H>) -> Routes {
    let keys = KeyServiceServer::new(Grpc::new(Arc::clone(service))).max_decoding_message_size(MESSAGE_BYTES);
    let audit = AuditServiceServer::new(Grpc::new(Arc::clone(service))).max_decoding_message_size(MESSAGE_BYTES);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let v1 = reflection().build_v1().expect("the descriptors were made by this build");
    let v1alpha = reflection().build_v1alpha().expect("the descriptors were made by this build");
    Routes::new(keys).add_service(audit).add_service(health).add_service(v1).add_service(v1alpha).prepare()
}

/// Serves connections until there will be no more, and each has ended.
async fn serve(
    service: &Arc<Service>,
    routes: &Routes,
    mut connections: mpsc::Receiver<Connection>,
    options: ListenerOptions,
) {
    let serving = TaskTracker::new();
    let turns = Arc::new(Turns::default());
    while let Some(connection) = connections.recv().await {
        let address = connection.address();
        let leaving = options.stop.child_token();
        let peer = Arc::new(Peer { address, secure: false, caller: None, closing: leaving.clone() });
        let plain = Handler { grpc: Grpc::new(Arc::clone(service)), routes: routes.clone(), peer };
        let (options, age, turns) = (options.clone(), options.connection_age(&*service.entropy), Arc::clone(&turns));
        serving.spawn(async move {
            let lasting = http2::Terms { patience: Patience::default(), age, leaving: &leaving, turns: &turns };
            let Some(tls) = &options.tls else {
                return http2::serve(connection, &plain, lasting).await;
            };
            let secured = options.stop.run_until_cancelled(tls.accept(connection, address, Port::Grpc)).await;
            if let Some(Some((stream, caller))) = secured {
                let peer = Arc::new(Peer { address, secure: true, caller, closing: leaving.clone() });
                let known = Handler { peer, ..plain };
                http2::serve(stream, &known, lasting).await;
            }
        });
    }
    serving.close();
    serving.wait().await;
}
