//! One connection of this listener, as its calls see it.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::transport::{budget::ConnectionBudget, listener::ConnectionTimeouts, peer::Peer};

/// What the calls of one connection share.
pub(crate) struct ClientConnection {
    /// The client.
    pub(crate) peer: Arc<Peer>,
    /// Memory for the requests of this connection.
    pub(crate) budget: ConnectionBudget,
    /// How long the client may be slow.
    pub(crate) timeouts: ConnectionTimeouts,
    /// Calls that are answered by a task.
    calls: AtomicUsize,
}

impl ClientConnection {
    /// A connection without a call.
    pub(crate) fn new(peer: Arc<Peer>, budget: ConnectionBudget, timeouts: ConnectionTimeouts) -> Arc<Self> {
        Arc::new(Self { peer, budget, timeouts, calls: AtomicUsize::new(0) })
    }

    /// Counts a call that is answered by a task, until the guard is dropped.
    pub(crate) fn begin_call(self: &Arc<Self>) -> ActiveCall {
        self.calls.fetch_add(1, Ordering::Relaxed);
        ActiveCall(Arc::clone(self))
    }

    /// Calls that are being answered by tasks.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

/// Keeps a call counted.
pub(crate) struct ActiveCall(Arc<ClientConnection>);

impl Drop for ActiveCall {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}
