//! VerifyStream: many checks in flight on one stream. A check that memory can decide is answered at once and may overtake
//! those that wait for the database, so that none is delayed by another one's look-up.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{FutureExt as _, Stream, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Status, Streaming};

use super::{super::convert, encode};
use crate::{
    domain::{
        error::{Error, ErrorKind, Result},
        keyspace::AllowedKeyspaces,
        secret::Secret,
    },
    proto::{self, verify_stream_response},
    replica::CacheGuard,
    service::{Service, verify::Outcome},
    transport::{deadline::deadline, status},
};

/// Checks of one stream that wait for a look-up. While there are this many, no further message is read.
const MAX_PENDING: usize = 256;

type StreamItem = std::result::Result<proto::VerifyStreamResponse, Status>;

/// The caller of a stream.
#[derive(Clone)]
pub(crate) enum StreamCaller {
    /// Identified by a secret. The secret is verified for each message, so that revoking the caller ends its stream.
    Secret(Arc<Secret>),
    /// Identified by a client certificate, which holds as long as the connection; with the keyspaces it may ask about.
    Certificate(Option<Arc<AllowedKeyspaces>>),
}

impl StreamCaller {
    /// The keyspaces that the caller may ask about. None if memory does not hold the caller.
    fn cached_keyspaces(
        &self,
        service: &Service,
        memory: &CacheGuard<'_>,
    ) -> Option<Result<Option<Arc<AllowedKeyspaces>>>> {
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

/// The responses of one stream.
pub(crate) struct VerdictStream {
    service: Arc<Service>,
    caller: StreamCaller,
    inbound: Streaming<proto::VerifyStreamRequest>,
    pending: FuturesUnordered<BoxFuture<'static, StreamItem>>,
    /// No further message is read: the client has finished, the stream has failed, or its connection is closing.
    ended: bool,
    closing: Pin<Box<WaitForCancellationFutureOwned>>,
    /// The error that ends the stream after the pending responses.
    final_status: Option<Status>,
}

impl VerdictStream {
    /// Answers `inbound` for an authenticated caller until `closing` is cancelled.
    pub(crate) fn new(
        service: Arc<Service>,
        caller: StreamCaller,
        inbound: Streaming<proto::VerifyStreamRequest>,
        closing: CancellationToken,
    ) -> Self {
        let closing = Box::pin(closing.cancelled_owned());
        Self { service, caller, inbound, pending: FuturesUnordered::new(), ended: false, closing, final_status: None }
    }

    /// Answers from memory, if memory can decide.
    fn try_cached(&self, message: &proto::VerifyStreamRequest) -> Option<StreamItem> {
        let memory = self.service.replica.cache_guard()?;
        let allowed_keyspaces = match self.caller.cached_keyspaces(&self.service, &memory)? {
            Ok(allowed_keyspaces) => allowed_keyspaces,
            Err(error) => return Some(refusal(&self.service, message.id, error)),
        };
        let Some(request) = &message.request else {
            return Some(Ok(response(&self.service, message.id, Err(missing_request()))));
        };
        let outcome =
            self.service.verify_from_memory(&memory, &convert::check(request).within(allowed_keyspaces.as_deref()))?;
        Some(Ok(response(&self.service, message.id, outcome)))
    }

    /// Answers once the database has.
    fn complete(&self, message: proto::VerifyStreamRequest) -> BoxFuture<'static, StreamItem> {
        let (service, caller) = (Arc::clone(&self.service), self.caller.clone());
        async move {
            let deadline = deadline(None);
            let allowed_keyspaces = match caller.allowed_keyspaces(&service, deadline).await {
                Ok(allowed_keyspaces) => allowed_keyspaces,
                Err(error) => return refusal(&service, message.id, error),
            };
            let outcome = match &message.request {
                Some(request) => {
                    service.verify(&convert::check(request).within(allowed_keyspaces.as_deref()), deadline).await
                }
                None => Err(missing_request()),
            };
            Ok(response(&service, message.id, outcome))
        }
        .boxed()
    }

    /// Passes an item on. An error ends the stream.
    fn emit(&mut self, item: StreamItem) -> StreamItem {
        if item.is_err() {
            self.ended = true;
            self.pending.clear();
        }
        item
    }
}

/// The item for a message whose caller was refused. A caller that is no longer valid ends its stream. If that could not be
/// decided, for example because the database is unavailable, only this check fails.
fn refusal(service: &Service, id: u64, error: Error) -> StreamItem {
    match error.kind {
        ErrorKind::Unauthenticated | ErrorKind::PermissionDenied => Err(status::grpc(&error)),
        _ => Ok(response(service, id, Err(error))),
    }
}

/// The error of a message without a request.
fn missing_request() -> Error {
    Error::invalid("request", "is required")
}

fn response(service: &Service, id: u64, outcome: Result<Outcome>) -> proto::VerifyStreamResponse {
    let outcome = match outcome {
        Ok(outcome) => verify_stream_response::Outcome::Response(encode::message(&outcome, &service.registry)),
        Err(error) => verify_stream_response::Outcome::Error(convert::status(&error)),
    };
    proto::VerifyStreamResponse { id, outcome: Some(outcome) }
}

impl Stream for VerdictStream {
    type Item = StreamItem;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<StreamItem>> {
        loop {
            if let Poll::Ready(Some(item)) = self.pending.poll_next_unpin(cx) {
                return Poll::Ready(Some(self.emit(item)));
            }
            if self.ended {
                return if self.pending.is_empty() {
                    Poll::Ready(self.final_status.take().map(Err))
                } else {
                    Poll::Pending
                };
            }
            if self.closing.as_mut().poll(cx).is_ready() {
                // Messages that were read are answered. The client sends the others on a new connection.
                self.ended = true;
                self.final_status = Some(status::grpc(&Error::unavailable("the connection is to end")));
                continue;
            }
            if self.pending.len() >= MAX_PENDING {
                return Poll::Pending;
            }
            match self.inbound.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(message))) => {
                    if let Some(item) = self.try_cached(&message) {
                        return Poll::Ready(Some(self.emit(item)));
                    }
                    let pending = self.complete(message);
                    self.pending.push(pending);
                }
                // The client's own error, such as a message that is too large.
                Poll::Ready(Some(Err(status))) => return Poll::Ready(Some(self.emit(Err(status)))),
                Poll::Ready(None) => self.ended = true,
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
