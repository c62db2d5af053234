//! One connection of this listener: the state that its calls share.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::SemaphorePermit,
    time::{Instant, timeout_at},
};

use crate::{
    domain::error::{Error, Result},
    transport::{
        budget::ConnectionBudget, charged_input::ChargedInput, listener::ConnectionTimeouts, peer::Peer,
        write_timeout::WriteTimeout,
    },
};

/// How long calls may go on when their connection is closed for refused credentials.
const REFUSED_GRACE: Duration = Duration::from_secs(1);

/// What the calls of one connection share.
pub(crate) struct ClientConnection {
    /// The client.
    pub(crate) peer: Arc<Peer>,
    /// Memory for the requests of this connection.
    pub(crate) budget: ConnectionBudget,
    /// Timeouts of the client.
    pub(crate) timeouts: ConnectionTimeouts,
    /// Number of calls that a task answers.
    calls: AtomicUsize,
}

impl ClientConnection {
    /// A connection without a call.
    pub(crate) fn new(peer: Arc<Peer>, budget: ConnectionBudget, timeouts: ConnectionTimeouts) -> Arc<Self> {
        Arc::new(Self { peer, budget, timeouts, calls: AtomicUsize::new(0) })
    }

    /// The client's stream, bounded in what it may send without an authenticated call, and in the time of a write.
    pub(crate) fn bound<I>(self: &Arc<Self>, io: I) -> ChargedInput<WriteTimeout<I>, impl Fn() + Unpin + use<I>> {
        let (io, connection) = (WriteTimeout::new(io, self.timeouts.write), Arc::clone(self));
        let close_idle = move || {
            if connection.calls() == 0 {
                connection.peer.closing.cancel();
            }
        };
        ChargedInput::new(io, Arc::clone(&self.peer.admission), self.budget.clone(), close_idle)
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

    /// Waits for the permit of a call, see [`crate::transport::accept::Admission::call_permit`].
    ///
    /// # Errors
    ///
    /// DEADLINE_EXCEEDED if there is none at the call's deadline.
    pub(crate) async fn call_permit(&self, deadline: Instant) -> Result<Option<SemaphorePermit<'_>>> {
        timeout_at(deadline, self.peer.admission.call_permit()).await.map_err(|_| Error::deadline_exceeded())
    }

    /// See [`super::http2::StreamHandler::is_authenticated`].
    pub(crate) fn is_authenticated(&self) -> bool {
        self.peer.admission.is_authenticated()
    }

    /// See [`super::http2::StreamHandler::keeps_idle`].
    pub(crate) fn keeps_idle(&self) -> bool {
        self.is_authenticated() || self.calls() > 0
    }

    /// See [`super::http2::StreamHandler::grace`].
    pub(crate) fn grace(&self) -> Option<Duration> {
        self.peer.admission.is_refused().then_some(REFUSED_GRACE)
    }
}

/// Keeps a call counted.
pub(crate) struct ActiveCall(Arc<ClientConnection>);

impl Drop for ActiveCall {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}
