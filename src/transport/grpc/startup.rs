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
    admission::MAX_PUBLIC_MESSAGE_BYTES,
    http2::{self, ConnectionOptions, StreamHandler, Timeouts},
    request_body::{Charge, MessageBounds, RequestBody, overloaded},
    tonic_bridge::{ForwardedCall, forward, refuse},
};
use crate::transport::{
    accept::Acceptor,
    budget::{BudgetPart, ConnectionBudget},
    listener::{ConnectionTimeouts, ListenerOptions},
    tls::Port,
    write_timeout::WriteTimeout,
};

const HEALTH_PREFIX: &str = "/grpc.health.v1.Health/";

/// Serves until `options.stop` is cancelled, then closes its connections. The listener stays open for the server that
/// takes over.
pub async fn run<H: Health>(listener: Arc<TcpListener>, health: HealthServer<H>, options: ListenerOptions) {
    let routes = Routes::new(health.max_decoding_message_size(MAX_PUBLIC_MESSAGE_BYTES));
    let connections = TaskTracker::new();
    let mut acceptor = Acceptor::new(listener, Arc::clone(&options.connections));
    while let Some((stream, client, admission)) = options.stop.run_until_cancelled(acceptor.accept()).await {
        let (budget, timeouts) = (options.budget.connection(client), options.timeouts);
        let handler = StartupHandler { routes: routes.clone(), budget, timeouts };
        let options = options.clone();
        connections.spawn(async move {
            let serving = async {
                let Some(tls) = &options.tls else { return handler.serve(stream, &options).await };
                let handshake = options.stop.run_until_cancelled(tls.accept(stream, client, Port::Grpc)).await;
                if let Some(Some((stream, _))) = handshake {
                    handler.serve(stream, &options).await;
                }
            };
            tokio::select! {
                () = serving => {}
                () = admission.displaced() => {}
            }
        });
    }
    connections.close();
    let _ = tokio::time::timeout(options.drain, connections.wait()).await;
}

struct StartupHandler {
    routes: Routes,
    budget: ConnectionBudget,
    timeouts: ConnectionTimeouts,
}

impl StartupHandler {
    async fn serve(&self, io: impl AsyncRead + AsyncWrite + Unpin, listener: &ListenerOptions) {
        let options = ConnectionOptions {
            timeouts: Timeouts::new(listener.timeouts.keepalive),
            max_streams: listener.max_streams,
            max_age: None,
            shutdown: listener.stop.child_token(),
            polls: Arc::default(),
            turns: Arc::default(),
        };
        http2::serve(WriteTimeout::new(io, listener.timeouts.write), self, options).await;
    }
}

impl StreamHandler for StartupHandler {
    fn handle(&self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>, _: &mut Context<'_>) {
        if request.uri().path().starts_with(HEALTH_PREFIX) {
            let charge = match Charge::new(&self.budget, request.headers(), BudgetPart::Anonymous, true) {
                Ok(charge) => charge,
                Err(exceeded) => return refuse(&mut respond, &overloaded(exceeded.to_string())),
            };
            let bounds = MessageBounds { max_bytes: MAX_PUBLIC_MESSAGE_BYTES, unary: true };
            let first = self.timeouts.body;
            let request = request.map(|body| RequestBody::new(Bytes::new(), body, bounds, charge, first));
            let call = ForwardedCall { request, respond, timeouts: self.timeouts, public: true, bulk: None };
            tokio::spawn(forward(self.routes.clone(), call));
        } else {
            // Sending fails only if the client has closed the stream.
            let _ = respond.send_response(Status::unavailable("Try again").into_http(), true);
        }
    }

    fn is_authenticated(&self) -> bool {
        false
    }

    fn keeps_idle(&self) -> bool {
        false
    }

    fn grace(&self) -> Option<Duration> {
        None
    }
}
