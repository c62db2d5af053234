//! VerifyStream: what memory has is answered at once; all other checks of one stream go to a replica on one stream.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{FutureExt as _, Stream, future::BoxFuture, stream};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

use super::{caller::Caller, metrics::Call, state::Agent, upstream::relayed};
use crate::{
    domain::{error::Error, secret::Secret},
    proto::{VerifyStreamRequest, VerifyStreamResponse, verify_stream_response::Outcome},
    transport::{deadline::deadline, grpc::verify::messages, status},
};

pub(super) const STREAM_PATH: &str = "/keyward.v1.KeyService/VerifyStream";
/// Checks of one stream that wait for a replica. While there are this many, no further message is read.
const MAX_PENDING: usize = 256;
/// Answers that wait for the client.
const MAX_ANSWERS: usize = 64;

type StreamAnswer = Result<VerifyStreamResponse, Status>;
type Messages = mpsc::Sender<VerifyStreamRequest>;

/// A queue of messages to a replica, and its end.
pub(super) fn messages() -> (Messages, impl Stream<Item = VerifyStreamRequest> + Send + 'static) {
    let (messages, queued) = mpsc::channel::<VerifyStreamRequest>(MAX_PENDING);
    let queued = stream::unfold(queued, async |mut queued| Some((queued.recv().await?, queued)));
    (messages, queued)
}

/// The caller of a stream. It is authenticated for each message, so that revoking it ends its stream.
#[derive(Clone)]
pub(super) enum StreamCaller {
    Own,
    Secret(Arc<Secret>),
}

impl StreamCaller {
    fn caller(&self) -> Caller<'_> {
        match self {
            Self::Own => Caller::Own,
            Self::Secret(secret) => Caller::Secret(secret.expose()),
        }
    }
}

/// The answers of one stream.
pub(super) struct AnswerStream(mpsc::Receiver<StreamAnswer>);

impl Stream for AnswerStream {
    type Item = StreamAnswer;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<StreamAnswer>> {
        self.0.poll_recv(cx)
    }
}

/// A check that a replica has not answered yet.
struct PendingCheck {
    message: VerifyStreamRequest,
    /// It was sent on an earlier stream, which broke.
    repeated: bool,
}

/// The stream to a replica.
enum Forwarded {
    Closed,
    Opening(Messages, BoxFuture<'static, Result<Streaming<VerifyStreamResponse>, Status>>),
    Open(Messages, Box<Streaming<VerifyStreamResponse>>),
}

impl Forwarded {
    /// The next answer; opens the stream first. Never completes while there is none.
    async fn next(&mut self) -> Result<VerifyStreamResponse, Status> {
        if let Self::Opening(messages, opening) = self {
            let opened = opening.await?;
            *self = Self::Open(messages.clone(), Box::new(opened));
        }
        match self {
            Self::Open(_, answers) => match answers.message().await {
                Ok(Some(answer)) => Ok(answer),
                Ok(None) => Err(status::grpc(&Error::unavailable("the replica has ended the stream"))),
                Err(status) => Err(relayed(&status)),
            },
            Self::Closed | Self::Opening(..) => std::future::pending().await,
        }
    }
}

/// The end of a stream, with the status that its client gets; none if the client has ended it.
struct StreamEnd(Option<Status>);

/// One stream of checks.
pub(super) struct CheckStream {
    agent: Arc<Agent>,
    caller: StreamCaller,
    forwarded: Forwarded,
    /// By the client's own ids, which need not be unique.
    pending: HashMap<u64, Vec<PendingCheck>>,
    waiting: usize,
}

impl CheckStream {
    /// A stream of an authenticated caller; `forwarded`: one to a replica that is open already.
    pub(super) fn new(
        agent: Arc<Agent>,
        caller: StreamCaller,
        forwarded: Option<(Messages, Streaming<VerifyStreamResponse>)>,
    ) -> Self {
        let forwarded =
            forwarded.map_or(Forwarded::Closed, |(messages, open)| Forwarded::Open(messages, Box::new(open)));
        Self { agent, caller, forwarded, pending: HashMap::new(), waiting: 0 }
    }

    /// Answers `inbound` until it ends, or until `closing` is cancelled.
    pub(super) fn serve(mut self, inbound: Streaming<VerifyStreamRequest>, closing: CancellationToken) -> AnswerStream {
        let (answers, output) = mpsc::channel(MAX_ANSWERS);
        tokio::spawn(async move {
            let StreamEnd(status) = tokio::select! {
                end = self.run(inbound, &answers, &closing) => end,
                // The client is gone.
                () = answers.closed() => return,
            };
            if let Some(status) = status {
                let _ = answers.send(Err(status)).await;
            }
        });
        AnswerStream(output)
    }

    async fn run(
        &mut self,
        mut inbound: Streaming<VerifyStreamRequest>,
        answers: &mpsc::Sender<StreamAnswer>,
        closing: &CancellationToken,
    ) -> StreamEnd {
        let (mut reading, mut last) = (true, None);
        while reading || self.waiting > 0 {
            let ready = tokio::select! {
                answer = self.forwarded.next() => match answer {
                    Ok(answer) => self.answered(answer),
                    Err(status) if matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied) => {
                        return StreamEnd(Some(status));
                    }
                    Err(status) => self.broken(&status),
                },
                // Messages that were read are answered. The client sends the others on a new connection.
                () = closing.cancelled(), if reading => {
                    reading = false;
                    last = Some(status::grpc(&Error::unavailable("the connection is to end")));
                    continue;
                }
                message = inbound.message(), if reading && self.waiting < MAX_PENDING => match message {
                    Ok(Some(message)) => self.answer(message),
                    Ok(None) => {
                        reading = false;
                        continue;
                    }
                    // The client's own error, such as a message that is too large.
                    Err(status) => return StreamEnd(Some(status)),
                },
            };
            for answer in ready {
                // Fails only if the client has disconnected.
                let _ = answers.send(Ok(answer)).await;
            }
        }
        StreamEnd(last)
    }

    /// Answers from memory, or forwards the check to a replica.
    fn answer(&mut self, message: VerifyStreamRequest) -> Vec<VerifyStreamResponse> {
        let check = message.request.as_ref().map(messages::check);
        let local = check.and_then(|check| self.agent.verify_locally(Call::VerifyStream, self.caller.caller(), &check));
        match local {
            Some(response) => vec![VerifyStreamResponse { id: message.id, outcome: Some(Outcome::Response(response)) }],
            None => self.forward(PendingCheck { message, repeated: false }).into_iter().collect(),
        }
    }

    /// Sends a check to a replica. Returns its answer if that cannot be done.
    fn forward(&mut self, check: PendingCheck) -> Option<VerifyStreamResponse> {
        if matches!(self.forwarded, Forwarded::Closed) {
            self.forwarded = self.open();
        }
        let (Forwarded::Opening(messages, _) | Forwarded::Open(messages, _)) = &self.forwarded else { return None };
        let id = check.message.id;
        // There is room: no more than this many checks wait. It fails only if the stream has ended; then `next` returns
        // that end.
        let sent = messages.try_send(check.message.clone()).is_ok();
        if !sent && check.repeated {
            let ended = status::grpc(&Error::unavailable("the stream to the replica has ended"));
            return Some(self.undecided(id, &ended));
        }
        self.pending.entry(id).or_default().push(check);
        self.waiting += 1;
        None
    }

    fn open(&self) -> Forwarded {
        let (messages, queued) = messages();
        let (agent, caller) = (Arc::clone(&self.agent), self.caller.clone());
        let opening = async move {
            let caller = (caller.caller(), true);
            agent.upstream.stream(STREAM_PATH, caller, queued, deadline(None)).await
        };
        Forwarded::Opening(messages, opening.boxed())
    }

    /// Handles an answer of a replica.
    fn answered(&mut self, answer: VerifyStreamResponse) -> Vec<VerifyStreamResponse> {
        let Some(check) = self.take(answer.id) else { return Vec::new() };
        match (&answer.outcome, &check.message.request) {
            (Some(Outcome::Response(response)), Some(request)) => {
                let answered: Result<(), Status> = Ok(());
                self.agent.note(Call::VerifyStream, self.caller.caller(), None, &answered);
                self.agent.remember(&request.secret, response);
            }
            (Some(Outcome::Error(error)), _) => {
                self.agent.counters.failed(Call::VerifyStream, &Status::new(Code::from(error.code), ""));
            }
            _ => {}
        }
        vec![answer]
    }

    fn take(&mut self, id: u64) -> Option<PendingCheck> {
        let checks = self.pending.get_mut(&id)?;
        let check = checks.pop();
        if checks.is_empty() {
            self.pending.remove(&id);
        }
        self.waiting -= usize::from(check.is_some());
        check
    }

    /// The stream to the replica has ended. What it has not answered is sent once more, on a new one.
    fn broken(&mut self, status: &Status) -> Vec<VerifyStreamResponse> {
        self.forwarded = Forwarded::Closed;
        self.waiting = 0;
        let checks: Vec<_> = self.pending.drain().flat_map(|(_, checks)| checks).collect();
        let mut answers = Vec::new();
        for check in checks {
            if check.repeated {
                answers.push(self.undecided(check.message.id, status));
            } else {
                answers.extend(self.forward(PendingCheck { repeated: true, ..check }));
            }
        }
        answers
    }

    fn undecided(&self, id: u64, status: &Status) -> VerifyStreamResponse {
        self.agent.counters.failed(Call::VerifyStream, status);
        VerifyStreamResponse { id, outcome: Some(Outcome::Error(message_of(status))) }
    }
}

/// A status as a message, with its details.
fn message_of(status: &Status) -> tonic_types::pb::Status {
    let details = tonic_types::pb::Status::decode(status.details()).unwrap_or_default();
    tonic_types::pb::Status { code: status.code().into(), message: status.message().to_owned(), ..details }
}
