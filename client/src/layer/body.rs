//! The bodies of a guarded service's responses.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

/// What an error of a body is.
pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

pin_project! {
    /// The body of a response: the guarded service's own, or that of a refusal.
    #[derive(Debug)]
    pub struct GuardedBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = Projected]
    enum Kind<B> {
        Service { #[pin] body: B },
        // What is left of a refusal.
        Refusal { rest: Option<Bytes> },
    }
}

impl<B> GuardedBody<B> {
    pub(super) fn service(body: B) -> Self {
        Self { kind: Kind::Service { body } }
    }

    pub(super) fn refusal(text: String) -> Self {
        Self { kind: Kind::Refusal { rest: Some(Bytes::from(text)).filter(|text| !text.is_empty()) } }
    }
}

impl<B: Body<Data = Bytes>> Body for GuardedBody<B>
where
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project().kind.project() {
            Projected::Service { body } => body.poll_frame(cx).map_err(Into::into),
            Projected::Refusal { rest } => Poll::Ready(rest.take().map(|text| Ok(Frame::data(text)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Service { body } => body.is_end_stream(),
            Kind::Refusal { rest } => rest.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Service { body } => body.size_hint(),
            Kind::Refusal { rest } => SizeHint::with_exact(rest.as_ref().map_or(0, Bytes::len) as u64),
        }
    }
}
