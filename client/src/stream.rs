//! One VerifyStream that many checks share. Calls that run at the same time become messages of one stream, which the
//! connection writes together: that is several times cheaper for both sides than a call for each.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use prost::Message as _;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep},
};
use tokio_stream::Stream;
use tonic::{Code, Status, transport::Channel};

use crate::{
    credential::Credential,
    error::is_transport,
    proto::{self, key_service_client::KeyServiceClient, verify_stream_response::Outcome},
};

/// Checks that wait to be sent. More wait for room, each within its own deadline.
const MAX_QUEUED: usize = 1_024;
/// Checks that were sent and not answered. While there are this many, no further one is sent.
const MAX_PENDING: usize = 16_384;
/// A stream that answers none of its checks for this long has failed. It is longer than any look-up of the server.
const STALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval between two checks for a stall.
const STALL_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// A check, and the sender of its answer.
pub(crate) struct Job {
    pub(crate) message: proto::VerifyRequest,
    pub(crate) reply: oneshot::Sender<Result<proto::VerifyResponse, CheckFailure>>,
}

/// Why a check has no answer.
#[derive(Clone)]
pub(crate) struct CheckFailure {
    pub(crate) status: Status,
    /// Only this check failed; the stream continues.
    of_check: bool,
}

impl CheckFailure {
    /// Whether the address is unlikely to answer other checks. The end of a stream does not count, because a server
    /// that stops also ends its streams cleanly.
    pub(crate) fn is_of_endpoint(&self) -> bool {
        is_transport(&self.status) || self.of_check && self.status.code() == Code::Unavailable
    }
}

/// An open stream.
pub(crate) struct CheckStream {
    /// Takes checks until the stream ends.
    pub(crate) jobs: mpsc::Sender<Job>,
}

impl CheckStream {
    /// Opens a stream. It ends with the last sender of its jobs, or when the server ends it.
    pub(crate) fn open(channel: Channel, credential: Credential) -> Self {
        let (jobs, queued) = mpsc::channel(MAX_QUEUED);
        let shared = Arc::new(Shared(Mutex::new(State {
            queued,
            next_id: 0,
            pending: HashMap::new(),
            answered: Instant::now(),
            full: None,
        })));
        tokio::spawn(drive(channel, credential, shared));
        Self { jobs }
    }
}

/// What the two directions of a stream share.
struct Shared(Mutex<State>);

struct State {
    queued: mpsc::Receiver<Job>,
    next_id: u64,
    pending: HashMap<u64, oneshot::Sender<Result<proto::VerifyResponse, CheckFailure>>>,
    /// The last answer, or when the first of the pending checks was sent.
    answered: Instant,
    /// Wakes the sending side, which waits for room among the pending checks.
    full: Option<Waker>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Delivers an answer to the caller of its check. False if no check with its id is pending.
    fn answer(&self, response: proto::VerifyStreamResponse) -> bool {
        let reply = {
            let mut state = self.lock();
            state.answered = Instant::now();
            if let Some(waker) = state.full.take() {
                waker.wake();
            }
            state.pending.remove(&response.id)
        };
        let Some(reply) = reply else { return false };
        let answer = match response.outcome {
            Some(Outcome::Response(response)) => Ok(response),
            Some(Outcome::Error(error)) => {
                let (code, details) = (Code::from(error.code), error.encode_to_vec());
                let status = Status::with_details(code, error.message, details.into());
                Err(CheckFailure { status, of_check: true })
            }
            None => Err(CheckFailure { status: Status::internal("an answer without an outcome"), of_check: true }),
        };
        // The caller may have stopped waiting.
        let _ = reply.send(answer);
        true
    }

    /// Ends the stream: nothing is queued or pending afterwards.
    fn close(&self, status: &Status) {
        let mut state = self.lock();
        state.queued.close();
        let mut ended: Vec<_> = state.pending.drain().map(|(_, reply)| reply).collect();
        while let Ok(job) = state.queued.try_recv() {
            ended.push(job.reply);
        }
        drop(state);
        for reply in ended {
            let _ = reply.send(Err(CheckFailure { status: status.clone(), of_check: false }));
        }
    }

    /// Waits until checks are pending and none was answered for [`STALL_TIMEOUT`].
    async fn stalled(&self) {
        loop {
            sleep(STALL_CHECK_INTERVAL).await;
            let state = self.lock();
            if !state.pending.is_empty() && state.answered.elapsed() >= STALL_TIMEOUT {
                return;
            }
        }
    }
}

/// The messages to the server. They are taken from the queue only when the connection has room for them.
struct Outgoing(Arc<Shared>);

impl Stream for Outgoing {
    type Item = proto::VerifyStreamRequest;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.0.lock();
        loop {
            if state.pending.len() >= MAX_PENDING {
                state.full = Some(cx.waker().clone());
                return Poll::Pending;
            }
            match state.queued.poll_recv(cx) {
                // The caller has stopped waiting.
                Poll::Ready(Some(job)) if job.reply.is_closed() => {}
                Poll::Ready(Some(job)) => {
                    if state.pending.is_empty() {
                        state.answered = Instant::now();
                    }
                    let id = state.next_id;
                    state.next_id += 1;
                    state.pending.insert(id, job.reply);
                    return Poll::Ready(Some(proto::VerifyStreamRequest { id, request: Some(job.message) }));
                }
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

/// Runs a stream to its end.
async fn drive(channel: Channel, credential: Credential, shared: Arc<Shared>) {
    let status = tokio::select! {
        status = exchange(channel, credential, &shared) => status,
        () = shared.stalled() => stalled_status(),
    };
    shared.close(&status);
}

/// The status of a stream that stalled. It has a source, as the errors of connections have.
fn stalled_status() -> Status {
    let why: Box<dyn std::error::Error + Send + Sync> = "the server answers nothing".into();
    let mut status = Status::unavailable("the server answers nothing");
    status.set_source(why.into());
    status
}

async fn exchange(channel: Channel, credential: Credential, shared: &Arc<Shared>) -> Status {
    let mut client = KeyServiceClient::with_interceptor(channel, credential);
    let mut answers = match client.verify_stream(Outgoing(Arc::clone(shared))).await {
        Ok(response) => response.into_inner(),
        Err(status) => return status,
    };
    loop {
        match answers.message().await {
            Ok(Some(answer)) => {
                if !shared.answer(answer) {
                    return Status::internal("the server sent an answer to no pending check");
                }
            }
            Ok(None) => return Status::unavailable("the server has ended the stream"),
            Err(status) => return status,
        }
    }
}
