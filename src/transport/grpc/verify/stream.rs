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

use super::{super::convert, messages};
use crate::{
    domain::{
        error::{Error, ErrorKind, Result},
        keyspace::AllowedKeyspaces,
        secret::Secret,
    },
    proto::{self, verify_stream_response},
    service::{
        Services,
        verify::{CachedVerdict, PendingVerify, Verdict, VerifyCaller},
    },
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
    /// Identified by a client certificate, which holds as long as the connection; with the keyspaces whose keys it may
    /// verify.
    Certificate(Option<Arc<AllowedKeyspaces>>),
}

impl StreamCaller {
    fn verify_caller(&self) -> VerifyCaller<'_> {
        match self {
            Self::Secret(secret) => VerifyCaller::Credential(secret.expose()),
            Self::Certificate(allowed_keyspaces) => VerifyCaller::Authorized(allowed_keyspaces.as_ref()),
        }
    }

    /// The answer to a message without a request. The caller is authenticated first, as for any other message.
    async fn refuse_empty(&self, service: &Services, deadline: Instant) -> Error {
        if let Self::Secret(secret) = self
            && let Err(error) = service.auth.authorize_verify(secret.expose(), deadline).await
        {
            return error;
        }
        Error::invalid("request", "is required")
    }
}

/// The responses of one stream.
pub(crate) struct VerdictStream {
    service: Arc<Services>,
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
        service: Arc<Services>,
        caller: StreamCaller,
        inbound: Streaming<proto::VerifyStreamRequest>,
        closing: CancellationToken,
    ) -> Self {
        let closing = Box::pin(closing.cancelled_owned());
        Self { service, caller, inbound, pending: FuturesUnordered::new(), ended: false, closing, final_status: None }
    }

    /// Answers from memory if memory can decide, and otherwise later.
    fn answer(
        &self,
        message: proto::VerifyStreamRequest,
    ) -> std::result::Result<StreamItem, BoxFuture<'static, StreamItem>> {
        let check = message.request.as_ref().map(messages::check);
        let cached = check.map(|check| self.service.verify.try_verify_cached(self.caller.verify_caller(), &check));
        match cached {
            Some(CachedVerdict::Decided(verdict)) => Ok(response(&self.service, message.id, Ok(verdict))),
            Some(CachedVerdict::Refused(error)) => Ok(response(&self.service, message.id, Err(error))),
            Some(CachedVerdict::Pending(pending)) => Err(self.complete(message, Some(pending))),
            Some(CachedVerdict::CallerNotCached) | None => Err(self.complete(message, None)),
        }
    }

    /// Answers once the database or the shared rate limit has.
    fn complete(
        &self,
        message: proto::VerifyStreamRequest,
        pending: Option<PendingVerify>,
    ) -> BoxFuture<'static, StreamItem> {
        let (service, caller) = (Arc::clone(&self.service), self.caller.clone());
        async move {
            let deadline = deadline(None);
            let check = message.request.as_ref().map(messages::check);
            let verdict = match (check, pending) {
                (Some(check), Some(pending)) => service.verify.complete(pending, &check, deadline).await,
                (Some(check), None) => service.verify.verify(caller.verify_caller(), &check, deadline).await,
                (None, _) => Err(caller.refuse_empty(&service, deadline).await),
            };
            response(&service, message.id, verdict)
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

/// The item for one message. A caller that is no longer valid ends its stream. If that could not be decided, for example
/// because the database is unavailable, only this check fails.
fn response(service: &Services, id: u64, verdict: Result<Verdict>) -> StreamItem {
    let outcome = match verdict {
        Ok(verdict) => verify_stream_response::Outcome::Response(messages::response(&service.verify.answer(&verdict))),
        Err(error) if matches!(error.kind, ErrorKind::Unauthenticated | ErrorKind::PermissionDenied) => {
            return Err(status::grpc(&error));
        }
        Err(error) => verify_stream_response::Outcome::Error(convert::status(&error)),
    };
    Ok(proto::VerifyStreamResponse { id, outcome: Some(outcome) })
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
                Poll::Ready(Some(Ok(message))) => match self.answer(message) {
                    Ok(item) => return Poll::Ready(Some(self.emit(item))),
                    Err(pending) => self.pending.push(pending),
                },
                // The client's own error, such as a message that is too large.
                Poll::Ready(Some(Err(status))) => return Poll::Ready(Some(self.emit(Err(status)))),
                Poll::Ready(None) => self.ended = true,
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
