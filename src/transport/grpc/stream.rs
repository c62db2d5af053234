//! VerifyStream: many checks in flight on one stream. What memory can answer is answered at once; the rest waits apart
//! and overtakes nobody's deadline.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{FutureExt as _, Stream, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Status, Streaming};

use super::{super::deadline, convert, status};
use crate::{
    domain::{
        error::{Error, ErrorKind, Result},
        keyspace::AllowedKeyspaces,
        secret::Secret,
    },
    proto::{self, verify_stream_response},
    replica::CacheGuard,
    service::{Service, verify::Outcome},
};

/// Checks of one stream that wait for a look-up, at most; past that the stream is not read on.
const WAITING: usize = 256;

type Answer = std::result::Result<proto::VerifyStreamResponse, Status>;

/// Whoever asks on a stream.
#[derive(Clone)]
pub enum Asker {
    /// Verified anew for each message: a caller that is no longer good ends its stream.
    Secret(Arc<Secret>),
    /// By its certificate, which is good for as long as its connection; and what it may ask about.
    Certificate(Option<Arc<AllowedKeyspaces>>),
}

impl Asker {
    /// What it may ask about, as far as memory knows; none if that takes a look-up.
    fn at_once(&self, service: &Service, memory: &CacheGuard<'_>) -> Option<Result<Option<Arc<AllowedKeyspaces>>>> {
        match self {
            Self::Secret(secret) => service.verifier_from_memory(memory, secret.expose()),
            Self::Certificate(allowed_keyspaces) => Some(Ok(allowed_keyspaces.clone())),
        }
    }

    async fn allowed_keyspaces(&self, service: &Service, deadline: Instant) -> Result<Option<Arc<AllowedKeyspaces>>> {
        match self {
            Self::Secret(secret) => service.authenticate_verifier(secret.expose(), deadline).await,
            Self::Certificate(allowed_keyspaces) => Ok(allowed_keyspaces.clone()),
        }
    }
}

/// The answers of one stream.
pub struct Verdicts {
    service: Arc<Service>,
    asker: Asker,
    inbound: Streaming<proto::VerifyStreamRequest>,
    waiting: FuturesUnordered<BoxFuture<'static, Answer>>,
    /// No message is read any more: the client is done, the stream has failed, or its connection is to end.
    ended: bool,
    leaving: Pin<Box<WaitForCancellationFutureOwned>>,
    /// What the stream ends with; none: in good order.
    last: Option<Status>,
}

impl Verdicts {
    /// Answers `inbound` for a caller that was admitted, until `leaving` is cancelled.
    pub fn new(
        service: Arc<Service>,
        asker: Asker,
        inbound: Streaming<proto::VerifyStreamRequest>,
        leaving: CancellationToken,
    ) -> Self {
        let leaving = Box::pin(leaving.cancelled_owned());
        Self { service, asker, inbound, waiting: FuturesUnordered::new(), ended: false, leaving, last: None }
    }

    /// The answer, if memory can give it.
    fn at_once(&self, message: &proto::VerifyStreamRequest) -> Option<Answer> {
        let memory = self.service.replica.cache_guard()?;
        let allowed_keyspaces = match self.asker.at_once(&self.service, &memory)? {
            Ok(allowed_keyspaces) => allowed_keyspaces,
            Err(error) => return Some(refusal(&self.service, message.id, error)),
        };
        let Some(request) = &message.request else {
            return Some(Ok(answer(&self.service, message.id, Err(missing()))));
        };
        let outcome =
            self.service.verify_from_memory(&memory, &convert::check(request).within(allowed_keyspaces.as_deref()))?;
        Some(Ok(answer(&self.service, message.id, outcome)))
    }

    fn later(&self, message: proto::VerifyStreamRequest) -> BoxFuture<'static, Answer> {
        let (service, asker) = (Arc::clone(&self.service), self.asker.clone());
        async move {
            let deadline = deadline::deadline(None);
            let allowed_keyspaces = match asker.allowed_keyspaces(&service, deadline).await {
                Ok(allowed_keyspaces) => allowed_keyspaces,
                Err(error) => return refusal(&service, message.id, error),
            };
            let outcome = match &message.request {
                Some(request) => {
                    service.verify(&convert::check(request).within(allowed_keyspaces.as_deref()), deadline).await
                }
                None => Err(missing()),
            };
            Ok(answer(&service, message.id, outcome))
        }
        .boxed()
    }

    fn fail(&mut self, answer: Answer) -> Answer {
        if answer.is_err() {
            self.ended = true;
            self.waiting.clear();
        }
        answer
    }
}

/// What a caller that was not admitted hears. One that is no longer good has its stream ended; where that could not be
/// decided, as with the database away, only this check has no answer.
fn refusal(service: &Service, id: u64, error: Error) -> Answer {
    match error.kind {
        ErrorKind::Unauthenticated | ErrorKind::PermissionDenied => Err(status::grpc(&error)),
        _ => Ok(answer(service, id, Err(error))),
    }
}

/// A message that asks nothing.
fn missing() -> Error {
    Error::invalid("request", "is required")
}

fn answer(service: &Service, id: u64, outcome: Result<Outcome>) -> proto::VerifyStreamResponse {
    let outcome = match outcome {
        Ok(outcome) => verify_stream_response::Outcome::Response(convert::verdict(&outcome, &service.registry)),
        Err(error) => verify_stream_response::Outcome::Error(convert::status(&error)),
    };
    proto::VerifyStreamResponse { id, outcome: Some(outcome) }
}

impl Stream for Verdicts {
    type Item = Answer;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Answer>> {
        loop {
            if let Poll::Ready(Some(answer)) = self.waiting.poll_next_unpin(cx) {
                return Poll::Ready(Some(self.fail(answer)));
            }
            if self.ended {
                return if self.waiting.is_empty() { Poll::Ready(self.last.take().map(Err)) } else { Poll::Pending };
            }
            if self.leaving.as_mut().poll(cx).is_ready() {
                // What was read is answered; the rest, and whatever follows, is for another connection.
                self.ended = true;
                self.last = Some(status::grpc(&Error::unavailable("the connection is to end")));
                continue;
            }
            if self.waiting.len() >= WAITING {
                return Poll::Pending;
            }
            match self.inbound.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(message))) => {
                    if let Some(answer) = self.at_once(&message) {
                        return Poll::Ready(Some(self.fail(answer)));
                    }
                    let later = self.later(message);
                    self.waiting.push(later);
                }
                // The client's own failure, such as a message past the bound: it ends the stream.
                Poll::Ready(Some(Err(status))) => return Poll::Ready(Some(self.fail(Err(status)))),
                Poll::Ready(None) => self.ended = true,
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
