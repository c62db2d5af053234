//! The bodies of a guarded service's responses.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::work::Work;

/// What an error of a body is.
pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

pin_project! {
    /// The body of a response: the guarded service's own, or that of a refusal.
    #[derive(Debug)]
    pub struct GuardedBody<B> {
        #[pin]
        kind: BodyKind<B>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = Projected]
    enum BodyKind<B> {
        // `work` is set until the body is complete, if the request ends with its key.
        Service { #[pin] body: B, work: Option<Work>, grpc: bool },
        // The bytes of a refusal that are not sent yet.
        Refusal { rest: Option<Bytes> },
        // The key ended before the body was done.
        Ended,
    }
}

impl<B> GuardedBody<B> {
    pub(super) fn refusal(text: String) -> Self {
        Self { kind: BodyKind::Refusal { rest: Some(Bytes::from(text)).filter(|text| !text.is_empty()) } }
    }
}

impl<B: Body<Data = Bytes>> GuardedBody<B> {
    /// The service's own body, which ends with the key of the work.
    pub(super) fn service(body: B, work: Option<Work>, grpc: bool) -> Self {
        let work = work.filter(|_| !body.is_end_stream());
        Self { kind: BodyKind::Service { body, work, grpc } }
    }
}

impl<B: Body<Data = Bytes>> Body for GuardedBody<B>
where
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut kind = self.project().kind;
        let (denial, grpc) = match kind.as_mut().project() {
            Projected::Service { mut body, work, grpc } => {
                let polled = match work {
                    None => body.as_mut().poll_frame(cx).map(Ok),
                    Some(work) => work.poll(cx, |cx| body.as_mut().poll_frame(cx)),
                };
                match ready!(polled) {
                    Ok(frame) => {
                        if !matches!(frame, Some(Ok(_))) || body.is_end_stream() {
                            *work = None;
                        }
                        return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
                    }
                    Err(denial) => (denial, *grpc),
                }
            }
            Projected::Refusal { rest } => return Poll::Ready(rest.take().map(|text| Ok(Frame::data(text)))),
            Projected::Ended => return Poll::Ready(None),
        };
        // This drops the service's body and all that it holds.
        kind.set(BodyKind::Ended);
        Poll::Ready(Some(if grpc { Ok(Frame::trailers(denial.into_trailers())) } else { Err(denial.into_error()) }))
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            BodyKind::Service { body, .. } => body.is_end_stream(),
            BodyKind::Refusal { rest } => rest.is_none(),
            BodyKind::Ended => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            BodyKind::Service { body, .. } => body.size_hint(),
            BodyKind::Ended => SizeHint::with_exact(0),
            BodyKind::Refusal { rest } => SizeHint::with_exact(rest.as_ref().map_or(0, Bytes::len) as u64),
        }
    }
}
