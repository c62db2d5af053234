//! The activity of one HTTP connection, from which its idle time follows.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    response::Response,
};
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use crate::transport::{
    accept::Admission, budget::ConnectionBudget, deadline::DEFAULT_TIMEOUT, listener::ConnectionTimeouts,
};

/// Timeout for the first request of a connection, and for the headers of each.
pub(crate) const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// One HTTP connection.
pub(crate) struct Activity {
    /// Its slot among the connections of its listener.
    pub(crate) admission: Arc<Admission>,
    /// Its share of the memory for requests.
    pub(crate) budget: ConnectionBudget,
    timeouts: ConnectionTimeouts,
    /// Cancelled when too many credentials were refused in a row.
    closing: CancellationToken,
    /// Cancelled by [`Self::close_idle`].
    closing_idle: CancellationToken,
    /// Requests whose response is not complete.
    requests: AtomicUsize,
    times: Mutex<Times>,
}

struct Times {
    /// The last time that a request or a response made progress.
    progress: Instant,
    /// When the first byte of a request arrived whose headers are not complete. None over HTTP/2, where a client also
    /// sends frames that belong to no request.
    headers: Option<Instant>,
    /// The first bytes of the connection.
    preface: Vec<u8>,
    requested: bool,
}

/// No method of HTTP/1.1 begins like the preface of HTTP/2.
const HTTP2_PREFACE: &[u8] = b"PRI";

impl Activity {
    pub(crate) fn new(admission: Arc<Admission>, budget: ConnectionBudget, timeouts: ConnectionTimeouts) -> Arc<Self> {
        let times = Times { progress: Instant::now(), headers: None, preface: Vec::new(), requested: false };
        let (closing, closing_idle) = (CancellationToken::new(), CancellationToken::new());
        let (requests, times) = (AtomicUsize::new(0), Mutex::new(times));
        Arc::new(Self { admission, budget, timeouts, closing, closing_idle, requests, times })
    }

    /// Counts a request whose headers are complete. It counts until the guard is dropped.
    pub(crate) fn request(self: &Arc<Self>) -> ActiveRequest {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let mut times = self.times.lock();
        (times.progress, times.headers, times.requested) = (Instant::now(), None, true);
        drop(times);
        ActiveRequest(Arc::clone(self))
    }

    /// Counts a refused credential, and closes the connection after too many in a row.
    pub(crate) fn refused(&self) {
        if self.admission.refused() {
            self.closing.cancel();
        }
    }

    /// Completes when too many credentials in a row were refused.
    pub(crate) fn refused_too_often(&self) -> WaitForCancellationFuture<'_> {
        self.closing.cancelled()
    }

    /// Closes the connection gracefully if it has no request in progress.
    pub(crate) fn close_idle(&self) {
        if self.requests() == 0 {
            self.closing_idle.cancel();
        }
    }

    /// Completes when [`Self::close_idle`] closes the connection.
    pub(crate) fn closed_idle(&self) -> WaitForCancellationFuture<'_> {
        self.closing_idle.cancelled()
    }

    /// How many requests are being served.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// How long a body may take to arrive.
    pub(crate) fn body_timeout(&self) -> Duration {
        self.timeouts.body
    }

    /// Completes when the client has been silent or stalled for too long.
    pub(crate) async fn expired(&self) {
        loop {
            let deadline = self.deadline();
            if Instant::now() >= deadline {
                return;
            }
            // Progress moves the deadline back, and headers may move it forward, so compute it again at short
            // intervals.
            sleep_until(deadline.min(Instant::now() + Duration::from_secs(1))).await;
        }
    }

    fn deadline(&self) -> Instant {
        let times = self.times.lock();
        let headers = times.headers.map(|since| since + HEADER_TIMEOUT);
        let progress = times.progress
            + match (times.requested, self.requests()) {
                (false, _) => HEADER_TIMEOUT,
                (true, 0) => self.timeouts.idle,
                // A handler has a deadline of its own, which is earlier. Beyond it, the connection can only be waiting
                // for the client.
                (true, _) => DEFAULT_TIMEOUT + self.timeouts.body + self.timeouts.write,
            };
        headers.map_or(progress, |headers| headers.min(progress))
    }

    /// Records bytes that were read from the client. At the end of the stream there are none.
    pub(crate) fn received(&self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let mut times = self.times.lock();
        if times.preface.len() < HTTP2_PREFACE.len() {
            let missing = HTTP2_PREFACE.len() - times.preface.len();
            times.preface.extend(bytes.iter().take(missing));
        }
        if times.headers.is_none() && self.requests() == 0 && times.preface != HTTP2_PREFACE {
            times.headers = Some(Instant::now());
        }
    }

    fn progress(&self) {
        self.times.lock().progress = Instant::now();
    }
}

/// Keeps a request counted.
pub(crate) struct ActiveRequest(Arc<Activity>);

impl ActiveRequest {
    /// Counts the request until its response's body is sent.
    pub(crate) fn until_sent(self, response: Response) -> Response {
        self.0.progress();
        response.map(|body| Body::new(CountedBody { body, request: self }))
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.progress();
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of a response whose request is counted.
struct CountedBody {
    body: Body,
    request: ActiveRequest,
}

impl http_body::Body for CountedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.request.0.progress();
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
