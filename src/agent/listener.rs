//! Accepts the connections of an agent and serves them, within bounds.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::service::Routes;

use super::{authority::PlainAuthority, caller::Origin, handler::AgentHandler, socket::Socket, state::Agent};
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

/// Connections of all sockets. When there are as many, a new one takes the place of one without an authenticated call.
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
/// The address that callers of this host count by.
const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

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
    pub(super) async fn accept(self, socket: Socket) {
        loop {
            let accepted = async {
                match &socket {
                    Socket::Unix(listener, _) => {
                        let accepted = listener.accept().await;
                        accepted.map(|(stream, _)| self.admit(PlainAuthority::new(stream), Origin::Unix))
                    }
                    Socket::Loopback(listener) => listener.accept().await.map(|(stream, _)| {
                        // Without it, small responses would wait for the client's acknowledgements.
                        let _ = stream.set_nodelay(true);
                        self.admit(stream, Origin::Loopback);
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

    fn admit(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, origin: Origin) {
        // One more than there is room for is closed.
        let Some(admission) = self.table.admit(LOCAL) else { return };
        let admission = Arc::new(admission);
        let serving = self.clone().serve(stream, origin, Arc::clone(&admission));
        self.connections.spawn(async move {
            tokio::select! {
                () = serving => {}
                () = admission.displaced() => {}
            }
        });
    }

    async fn serve(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        origin: Origin,
        admission: Arc<Admission>,
    ) {
        let options = ConnectionOptions {
            timeouts: Timeouts::new(TIMEOUTS.keepalive),
            max_streams: MAX_STREAMS,
            max_age: None,
            shutdown: self.stop.child_token(),
            polls: Arc::default(),
            turns: Arc::default(),
        };
        let peer = Peer { address: LOCAL, secure: false, caller: None, closing: options.shutdown.clone(), admission };
        let connection = ClientConnection::new(Arc::new(peer), self.budget.connection(LOCAL), TIMEOUTS);
        let handler = AgentHandler { agent: self.agent, routes: self.routes, connection, origin };
        http2::serve(WriteTimeout::new(stream, TIMEOUTS.write), &handler, options).await;
    }
}
