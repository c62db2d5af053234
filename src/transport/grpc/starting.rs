//! The gRPC listener while a start waits for its database: health tells that nothing is served, and all else is to be
//! tried again.

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
    exchange::{Incoming, forward},
    http2::{self, Handle, Patience},
    pace::Turns,
};
use crate::transport::{listener::ListenerOptions, tls::Port};

/// Connections at once; more are turned away.
const CONNECTIONS: usize = 10_000;
const HEALTH: &str = "/grpc.health.v1.Health/";

/// Answers until the options say to stop; then connections end, and the listener is the caller's again.
pub async fn run<H: Health>(listener: Arc<TcpListener>, health: HealthServer<H>, options: ListenerOptions) {
    let starting = Starting { routes: Routes::new(health) };
    let connections = TaskTracker::new();
    while let Some(accepted) = options.stop.run_until_cancelled(listener.accept()).await {
        if connections.len() >= CONNECTIONS {
            continue;
        }
        let Ok((stream, peer)) = accepted else {
            // Out of descriptors, most likely: without a pause this would spin.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (starting, options) = (starting.clone(), options.clone());
        connections.spawn(async move {
            match &options.tls {
                None => starting.serve(stream, &options).await,
                Some(tls) => {
                    let secured = options.stop.run_until_cancelled(tls.accept(stream, peer.ip(), Port::Grpc)).await;
                    if let Some(Some((stream, _))) = secured {
                        starting.serve(stream, &options).await;
                    }
                }
            }
        });
    }
    connections.close();
    let _ = tokio::time::timeout(options.drain, connections.wait()).await;
}

#[derive(Clone)]
struct Starting {
    routes: Routes,
}

impl Starting {
    async fn serve(&self, io: impl AsyncRead + AsyncWrite + Unpin, options: &ListenerOptions) {
        let leaving = options.stop.child_token();
        let lasting =
            http2::Terms { patience: Patience::default(), age: None, leaving: &leaving, turns: &Turns::new(0) };
        http2::serve(io, self, lasting).await;
    }
}

impl Handle for Starting {
    fn handle(&self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>, _: &mut Context<'_>) {
        if request.uri().path().starts_with(HEALTH) {
            let request = request.map(|body| Incoming::new(Bytes::new(), body));
            tokio::spawn(forward(self.routes.clone(), request, respond));
        } else {
            // It fails where the client is gone.
            let _ = respond.send_response(Status::unavailable("Try again").into_http(), true);
        }
    }
}
