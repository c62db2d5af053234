//! Options that both listeners share: TLS, the age of connections, and shutdown.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{accept::ConnectionTable, budget::Budget, tls::Tls};
use crate::domain::clock::Entropy;

/// How long the calls in flight on a connection may go on once the connection has reached its maximum age.
pub const AGE_GRACE: Duration = Duration::from_secs(30);

/// How a listener serves its connections.
#[derive(Clone)]
pub struct ListenerOptions {
    /// Certificates and keys; `None` serves plain text.
    pub tls: Option<Arc<Tls>>,
    /// Age at which a connection is closed gracefully; `None` sets no limit.
    pub max_age: Option<Duration>,
    /// Cancelled when the listener stops to accept connections.
    pub stop: CancellationToken,
    /// How long calls in flight may go on after `stop`.
    pub drain: Duration,
    /// The connections of this listener.
    pub connections: Arc<ConnectionTable>,
    /// Memory for requests while they arrive; all listeners share it.
    pub budget: Budget,
    /// How long clients may be silent or slow.
    pub timeouts: ConnectionTimeouts,
    /// Calls at once on one gRPC connection.
    pub max_streams: u32,
}

/// How long clients may be silent or slow.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionTimeouts {
    /// For a request's body, or the first message of a stream.
    pub body: Duration,
    /// For any byte of what is written to the client.
    pub write: Duration,
    /// For the next request of an HTTP connection.
    pub idle: Duration,
    /// Between two keepalive pings of a gRPC connection.
    pub keepalive: Duration,
}

impl ListenerOptions {
    /// Draws the maximum age of one connection: up to a tenth less than `max_age`. Without this spread, connections
    /// that were opened together would be closed together, and their clients would all reconnect at once.
    pub fn connection_age(&self, entropy: &dyn Entropy) -> Option<Duration> {
        let max = self.max_age?;
        let mut random = [0];
        entropy.fill(&mut random);
        Some(max.saturating_sub(max * u32::from(random[0]) / 2_560))
    }
}
