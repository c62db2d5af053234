//! Accepts the connections of an agent and serves them, within bounds.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, Ipv4Addr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use http::Request;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::service::Routes;

use super::{
    authority::PlainAuthority, caller::SocketKind, forward_auth, handler::AgentHandler, socket::Socket, state::Agent,
};
use crate::transport::{
    accept::{Admission, ConnectionLimits, ConnectionTable},
    budget::{Budget, BudgetLimits},
    grpc::{
        connection::ClientConnection,
        http2::{self, ConnectionOptions, Timeouts},
    },
    listener::ConnectionTimeouts,
    peer::Peer,
    write_timeout::WriteTimeout,
};

/// Connections of all sockets. At this number, a new connection displaces one without an authenticated call.
const MAX_CONNECTIONS: usize = 512;
/// Calls at once on one connection.
const MAX_STREAMS: u32 = 1_024;
/// Memory for requests while they arrive. All callers are at one address.
const MEMORY: BudgetLimits =
    BudgetLimits { authenticated: 256 << 20, anonymous: 32 << 20, address: 32 << 20, connection: 4 << 20 };
const TIMEOUTS: ConnectionTimeouts = ConnectionTimeouts {
    body: Duration::from_secs(10),
    write: Duration::from_secs(30),
    idle: Duration::from_secs(60),
    keepalive: Duration::from_secs(60),
};
/// Pause after an accept that failed.
const RETRY_DELAY: Duration = Duration::from_millis(50);
/// The largest headers of an HTTP request.
const MAX_HEADER_BYTES: usize = 16 << 10;
/// The address that all callers count under: they are on this host.
const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The protocol of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Grpc,
    Http,
}

impl Protocol {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Http => "http",
        }
    }
}

/// A client's stream.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}

/// What the connections of an agent share.
#[derive(Clone)]
pub(super) struct Listeners {
    agent: Arc<Agent>,
    routes: Routes,
    table: Arc<ConnectionTable>,
    budget: Budget,
    stop: CancellationToken,
    connections: TaskTracker,
}

impl Listeners {
    pub(super) fn new(agent: Arc<Agent>, routes: Routes, stop: CancellationToken) -> Self {
        let limits = ConnectionLimits { total: MAX_CONNECTIONS, per_address: MAX_CONNECTIONS, proxies: Vec::new() };
        let (table, budget) = (ConnectionTable::new(limits), Budget::new(MEMORY));
        Self { agent, routes, table, budget, stop, connections: TaskTracker::new() }
    }

    /// Accepts the connections of a socket until the agent stops.
    pub(super) async fn accept(self, protocol: Protocol, socket: Socket) {
        loop {
            let accepted = async {
                match &socket {
                    Socket::Unix(listener, _) => {
                        let accepted = listener.accept().await;
                        accepted.map(|(stream, _)| match protocol {
                            Protocol::Grpc => self.admit(protocol, PlainAuthority::new(stream), SocketKind::Unix),
                            Protocol::Http => self.admit(protocol, stream, SocketKind::Unix),
                        })
                    }
                    Socket::Loopback(listener) => listener.accept().await.map(|(stream, _)| {
                        // Without it, small responses would wait for the client's acknowledgements.
                        let _ = stream.set_nodelay(true);
                        self.admit(protocol, stream, SocketKind::Loopback);
                    }),
                }
            };
            let accepted: Option<io::Result<()>> = self.stop.run_until_cancelled(accepted).await;
            match accepted {
                None => return,
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    tracing::warn!(%error, "accept failed, retrying");
                    sleep(RETRY_DELAY).await;
                }
            }
        }
    }

    /// Waits until every connection has ended.
    pub(super) async fn ended(&self) {
        self.connections.close();
        self.connections.wait().await;
    }

    fn admit(&self, protocol: Protocol, stream: impl Stream, origin: SocketKind) {
        // Dropping the stream closes it: every connection has an authenticated call.
        let Some(admission) = self.table.admit(LOCAL) else { return };
        let admission = Arc::new(admission);
        let (listeners, admitted) = (self.clone(), Arc::clone(&admission));
        self.connections.spawn(async move {
            let serving = async {
                match protocol {
                    Protocol::Grpc => listeners.serve_grpc(stream, origin, admitted).await,
                    Protocol::Http => listeners.serve_http(stream, origin, admitted).await,
                }
            };
            tokio::select! {
                () = serving => {}
                () = admission.displaced() => {}
            }
        });
    }

    fn peer(&self, admission: Arc<Admission>) -> Arc<Peer> {
        let closing = self.stop.child_token();
        Arc::new(Peer { address: LOCAL, secure: false, caller: None, closing, admission })
    }

    /// HTTP/1.1, for gateways.
    async fn serve_http(self, stream: impl Stream, origin: SocketKind, admission: Arc<Admission>) {
        let (agent, peer) = (self.agent.clone(), self.peer(admission));
        let service = service_fn(|request: Request<Incoming>| {
            let (agent, peer) = (Arc::clone(&agent), Arc::clone(&peer));
            // The body is ignored: a gateway describes the request in headers.
            let (parts, _) = request.into_parts();
            async move { Ok::<_, Infallible>(forward_auth::answer(&agent, (origin, &peer), parts).await) }
        });
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(TIMEOUTS.idle).max_buf_size(MAX_HEADER_BYTES);
        let io = TokioIo::new(WriteTimeout::new(stream, TIMEOUTS.write));
        let mut connection = pin!(builder.serve_connection(io, service));
        tokio::select! {
            // The connection ends, or its client breaks it off: neither is an error of this process.
            _ = connection.as_mut() => return,
            () = peer.closing.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    }

    async fn serve_grpc(self, stream: impl Stream, origin: SocketKind, admission: Arc<Admission>) {
        let peer = self.peer(admission);
        let options = ConnectionOptions {
            timeouts: Timeouts::new(TIMEOUTS.keepalive),
            max_streams: MAX_STREAMS,
            max_age: None,
            shutdown: peer.closing.clone(),
            polls: Arc::default(),
            turns: Arc::default(),
        };
        let connection = ClientConnection::new(peer, self.budget.connection(LOCAL), TIMEOUTS);
        let handler = AgentHandler { agent: self.agent, routes: self.routes, connection, origin };
        http2::serve(handler.connection.bound(stream), &handler, options).await;
    }
}
