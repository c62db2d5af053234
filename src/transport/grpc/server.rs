//! The gRPC listener: the service, health and reflection.
//!
//! Connections are spread over threads that each run an executor of their own: a check that memory can answer never
//! leaves its thread, and nothing else runs there. Database work runs elsewhere.

use std::{io, sync::Arc, thread, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::{mpsc, oneshot},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::Connected};
use tonic_health::pb::health_server::{Health, HealthServer};

use super::{
    Grpc, MESSAGE_BYTES,
    connection::{Connection, Load, Secured},
};
use crate::{
    proto::{DESCRIPTORS, key_service_server::KeyServiceServer},
    service::Service,
    transport::{
        terms::{GRACE, Peer, Terms},
        tls::{Port, Tls},
    },
};

/// Streams of one connection, at most.
const STREAMS: u32 = 1_024;
/// Calls that a client gave up before they were begun, for each connection: a replica that was paused finds what its
/// clients gave up meanwhile, and must not answer that by closing the connection. Past this, it is an attack.
const RESETS: usize = STREAMS as usize;
/// Connections at once; more wait in the listener's queue.
const CONNECTIONS: usize = 10_000;
/// Connections that a thread has been given and not taken yet.
const HANDED: usize = 64;
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// A thread that serves connections.
struct Worker {
    connections: mpsc::Sender<io::Result<Connection>>,
    load: Load,
    ended: oneshot::Receiver<Result<(), tonic::transport::Error>>,
}

/// Serves on `threads` threads until the listener's terms say to stop, then lets calls in flight end.
///
/// # Errors
///
/// What ended a thread before that.
pub async fn run<H: Health>(
    listener: TcpListener,
    service: Arc<Service>,
    health: HealthServer<H>,
    threads: usize,
    terms: Terms,
) -> Result<(), String> {
    let workers: Result<Vec<Worker>, String> =
        (0..threads).map(|_| start(&service, &health, &terms).map_err(|error| error.to_string())).collect();
    let workers = workers?;
    let accepting = accept(&listener, &workers, &service, &terms);
    terms.stop.run_until_cancelled(accepting).await;
    drop(listener);
    let ended = async {
        for Worker { connections, ended, .. } in workers {
            drop(connections);
            if let Ok(Err(error)) = ended.await {
                return Err(error.to_string());
            }
        }
        Ok(())
    };
    tokio::time::timeout(terms.drain, ended).await.unwrap_or(Ok(()))
}

/// Gives each connection to the thread that has the fewest. Returns only if every thread is gone.
async fn accept(listener: &TcpListener, workers: &[Worker], service: &Service, terms: &Terms) {
    while !workers.iter().all(|worker| worker.connections.is_closed()) {
        let accepted = match listener.accept().await {
            Ok((stream, peer)) => {
                stream.set_nodelay(true).and_then(|()| stream.into_std()).map(|stream| (stream, peer.ip()))
            }
            Err(error) => Err(error),
        };
        let Some(worker) = workers.iter().min_by_key(|worker| worker.load.connections()) else { return };
        match accepted {
            Ok((stream, address)) if worker.load.connections() < CONNECTIONS => {
                let life = terms.age(&*service.entropy).map(|age| age + GRACE);
                let connection = Connection::new(stream, address, &worker.load, life);
                // A thread that is slow to take it delays the listener, not the process.
                let _ = worker.connections.send(Ok(connection)).await;
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

fn start<H: Health>(service: &Arc<Service>, health: &HealthServer<H>, terms: &Terms) -> io::Result<Worker> {
    let (connections, handed) = mpsc::channel(HANDED);
    let (tell, ended) = oneshot::channel();
    let (service, health, terms) = (Arc::clone(service), health.clone(), terms.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("grpc".to_owned()).spawn(move || {
        let served = runtime.block_on(async {
            match &terms.tls {
                None => serve(service, health, handed, &terms).await,
                Some(tls) => {
                    let secured = secure(handed, tls, &terms.stop);
                    serve(service, health, secured, &terms).await
                }
            }
        });
        let _ = tell.send(served);
    })?;
    Ok(Worker { connections, load: Load::default(), ended })
}

/// The same connections after their handshakes, which overtake each other.
fn secure(
    mut handed: mpsc::Receiver<io::Result<Connection>>,
    tls: &Arc<Tls>,
    stop: &CancellationToken,
) -> mpsc::Receiver<io::Result<Secured>> {
    let (ready, secured) = mpsc::channel(HANDED);
    let (tls, stop) = (Arc::clone(tls), stop.clone());
    tokio::spawn(async move {
        while let Some(Ok(connection)) = handed.recv().await {
            let (tls, stop, ready) = (Arc::clone(&tls), stop.clone(), ready.clone());
            tokio::spawn(async move {
                let address = connection.peer().address;
                if let Some(Some((stream, caller))) = stop.run_until_cancelled(tls.accept(connection, Port::Grpc)).await
                {
                    let _ = ready.send(Ok(Secured::new(stream, Peer { address, caller }))).await;
                }
            });
        }
    });
    secured
}

async fn serve<H: Health, I>(
    service: Arc<Service>,
    health: HealthServer<H>,
    connections: mpsc::Receiver<io::Result<I>>,
    terms: &Terms,
) -> Result<(), tonic::transport::Error>
where
    I: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let age = terms.age(&*service.entropy);
    let keys = KeyServiceServer::new(Grpc::new(service)).max_decoding_message_size(MESSAGE_BYTES);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let v1 = reflection().build_v1().expect("the descriptors were made by this build");
    let v1alpha = reflection().build_v1alpha().expect("the descriptors were made by this build");
    let mut server = Server::builder();
    if let Some(age) = age {
        server = server.max_connection_age(age);
    }
    server
        .max_concurrent_streams(STREAMS)
        .http2_max_pending_accept_reset_streams(Some(RESETS))
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(keys)
        .add_service(health)
        .add_service(v1)
        .add_service(v1alpha)
        .serve_with_incoming_shutdown(ReceiverStream::new(connections), terms.stop.clone().cancelled_owned())
        .await
}
