//! The gRPC listener until the database is open: health answers NOT_SERVING, all other calls are UNAVAILABLE.

use std::{sync::Arc, task::Context, time::Duration};

use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::Request;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use tokio_util::task::TaskTracker;
use tonic::{Status, service::Routes};
use tonic_health::pb::health_server::{Health, HealthServer};

use super::{
    http2::{self, ConnectionOptions, StreamHandler, Timeouts},
    tonic_bridge::{RequestBody, forward},
};
use crate::transport::{listener::ListenerOptions, tls::Port};

/// Connections at once. Further ones are closed at once.
const MAX_CONNECTIONS: usize = 10_000;
/// Pause after an accept that failed, so that the accept loop does not spin when no file descriptor is left.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);
const HEALTH_PREFIX: &str = "/grpc.health.v1.Health/";

/// Serves until `options.stop` is cancelled, then closes its connections. The listener stays open for the server that
/// takes over.
pub async fn run<H: Health>(listener: Arc<TcpListener>, health: HealthServer<H>, options: ListenerOptions) {
    let handler = StartupHandler { routes: Routes::new(health) };
    let connections = TaskTracker::new();
    while let Some(accepted) = options.stop.run_until_cancelled(listener.accept()).await {
        if connections.len() >= MAX_CONNECTIONS {
            continue;
        }
        let Ok((stream, peer)) = accepted else {
            tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
            continue;
        };
        let (handler, options) = (handler.clone(), options.clone());
        connections.spawn(async move {
            let Some(tls) = &options.tls else { return handler.serve(stream, &options).await };
            let handshake = options.stop.run_until_cancelled(tls.accept(stream, peer.ip(), Port::Grpc)).await;
            if let Some(Some((stream, _))) = handshake {
                handler.serve(stream, &options).await;
            }
        });
    }
    connections.close();
    let _ = tokio::time::timeout(options.drain, connections.wait()).await;
}

#[derive(Clone)]
struct StartupHandler {
    routes: Routes,
}

impl StartupHandler {
    async fn serve(&self, io: impl AsyncRead + AsyncWrite + Unpin, listener: &ListenerOptions) {
        let options = ConnectionOptions {
            timeouts: Timeouts::default(),
            max_age: None,
            shutdown: listener.stop.child_token(),
            polls: Arc::default(),
        };
        http2::serve(io, self, options).await;
    }
}

impl StreamHandler for StartupHandler {
    fn handle(&self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>, _: &mut Context<'_>) {
        if request.uri().path().starts_with(HEALTH_PREFIX) {
            let request = request.map(|body| RequestBody::new(Bytes::new(), body));
            tokio::spawn(forward(self.routes.clone(), request, respond));
        } else {
            // Sending fails only if the client has closed the stream.
            let _ = respond.send_response(Status::unavailable("Try again").into_http(), true);
        }
    }
}
