//! The gRPC listener: the service, health and reflection.

use std::{sync::Arc, time::Duration};

use tokio::net::TcpListener;
use tokio_stream::{StreamExt as _, wrappers::TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic_health::pb::health_server::{Health, HealthServer};

use super::{Grpc, MESSAGE_BYTES};
use crate::{
    proto::{DESCRIPTORS, key_service_server::KeyServiceServer},
    service::Service,
};

/// Streams of one connection, at most.
const STREAMS: u32 = 1_024;
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Serves until `stop` is cancelled, then lets calls in flight end for at most `drain`.
///
/// # Errors
///
/// What ended the server before that.
pub async fn run(
    listener: TcpListener,
    service: Arc<Service>,
    health: HealthServer<impl Health>,
    stop: CancellationToken,
    drain: Duration,
) -> Result<(), tonic::transport::Error> {
    let keys = KeyServiceServer::new(Grpc::new(service)).max_decoding_message_size(MESSAGE_BYTES);
    let v1 = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("the descriptors were made by this build");
    let v1alpha = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1alpha()
        .expect("the descriptors were made by this build");
    let incoming = TcpListenerStream::new(listener).map(|stream| {
        stream.inspect(|stream| {
            let _ = stream.set_nodelay(true);
        })
    });
    let serving = Server::builder()
        .max_concurrent_streams(STREAMS)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(keys)
        .add_service(health)
        .add_service(v1)
        .add_service(v1alpha)
        .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    tokio::select! {
        served = serving => served,
        () = async { stop.cancelled().await; tokio::time::sleep(drain).await } => Ok(()),
    }
}
