//! Passes a request on to tonic, and sends tonic's response to the client.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, server::SendResponse};
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use tonic::service::Routes;
use tower_service::Service as _;

use crate::service::bulk::Bulk;

/// The body of a request.
pub(crate) struct RequestBody {
    /// The beginning of the body, if it was read already.
    prefix: Option<Bytes>,
    body: RecvStream,
}

impl RequestBody {
    /// A body of which `prefix` was read already; empty if nothing was.
    pub(crate) fn new(prefix: Bytes, body: RecvStream) -> Self {
        Self { prefix: Some(prefix).filter(|prefix| !prefix.is_empty()), body }
    }
}

/// Reads the next piece of a body, and opens the client's flow-control window by its length.
pub(crate) fn poll_data(body: &mut RecvStream, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
    let data = ready!(body.poll_data(cx));
    if let Some(Ok(data)) = &data {
        // This fails only for more than was received.
        let _ = body.flow_control().release_capacity(data.len());
    }
    Poll::Ready(data)
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if let Some(prefix) = self.prefix.take() {
            return Poll::Ready(Some(Ok(Frame::data(prefix))));
        }
        if let Some(data) = ready!(poll_data(&mut self.body, cx)) {
            return Poll::Ready(Some(data.map(Frame::data)));
        }
        let trailers = ready!(self.body.poll_trailers(cx));
        Poll::Ready(trailers.transpose().map(|trailers| trailers.map(Frame::trailers)))
    }

    fn is_end_stream(&self) -> bool {
        self.prefix.is_none() && self.body.is_end_stream()
    }
}

/// Waits for `response`. None if the client resets the stream before.
pub(crate) async fn unless_reset<T>(
    mut response: Pin<&mut impl Future<Output = T>>,
    respond: &mut SendResponse<Bytes>,
) -> Option<T> {
    poll_fn(|cx| match response.as_mut().poll(cx) {
        Poll::Ready(response) => Poll::Ready(Some(response)),
        Poll::Pending => respond.poll_reset(cx).map(|_| None),
    })
    .await
}

/// Calls the tonic service for `request` and sends its response. If the client resets the stream, the call is dropped.
pub(crate) async fn forward(mut routes: Routes, request: Request<RequestBody>, mut respond: SendResponse<Bytes>) {
    let response = pin!(routes.call(request));
    let Some(Ok(response)) = unless_reset(response, &mut respond).await else { return };
    let (head, body) = response.into_parts();
    let ended = body.is_end_stream();
    // Sending fails only if the client has reset the stream or closed the connection.
    if let Ok(stream) = respond.send_response(Response::from_parts(head, ()), ended)
        && !ended
    {
        send(stream, body).await;
    }
}

/// The calls whose responses are pages.
const PAGES: [&str; 3] =
    ["/keyward.v1.KeyService/List", "/keyward.v1.AuditService/ListEvents", "/keyward.v1.AuditService/ListDeliveries"];

/// Whether the response to a request is a page.
pub(crate) fn is_page(request: &Request<RequestBody>) -> bool {
    PAGES.contains(&request.uri().path())
}

/// Like [`forward`], for a page: the call runs elsewhere, and its message is made there. This thread only sends it.
pub(crate) async fn forward_page(
    mut routes: Routes,
    request: Request<RequestBody>,
    mut respond: SendResponse<Bytes>,
    bulk: &Bulk,
) {
    let page = pin!(bulk.run(async move {
        let (head, body) = routes.call(request).await.ok()?.into_parts();
        Some((head, body.collect().await.ok()?))
    }));
    match unless_reset(page, &mut respond).await {
        Some(Ok(Some((head, body)))) => {
            if let Ok(stream) = respond.send_response(Response::from_parts(head, ()), false) {
                send(stream, tonic::body::Body::new(body)).await;
            }
        }
        Some(_) => respond.send_reset(Reason::INTERNAL_ERROR),
        None => {}
    }
}

/// Sends a body as fast as the client takes it.
async fn send(mut stream: SendStream<Bytes>, body: tonic::body::Body) {
    let mut body = pin!(body);
    loop {
        // Wait for the window first: a frame that is produced but cannot be sent would be buffered without a bound.
        stream.reserve_capacity(1);
        if poll_fn(|cx| poll_window(&mut stream, cx)).await.is_none() {
            return;
        }
        let frame = poll_fn(|cx| match body.as_mut().poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(Some(frame)),
            Poll::Pending => stream.poll_reset(cx).map(|_| None),
        });
        let Some(frame) = frame.await else { return };
        let sent = match frame.map(|frame| frame.map(Frame::into_data)) {
            None => return drop(stream.send_data(Bytes::new(), true)),
            Some(Err(_)) => return stream.send_reset(Reason::INTERNAL_ERROR),
            Some(Ok(Ok(data))) => {
                let ended = body.is_end_stream();
                let sent = stream.send_data(data, ended);
                if ended {
                    return;
                }
                sent
            }
            Some(Ok(Err(frame))) => match frame.into_trailers() {
                Ok(trailers) => return drop(stream.send_trailers(trailers)),
                Err(_) => Ok(()),
            },
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Waits until the client's window has room. None if the stream is closed.
fn poll_window(stream: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Poll<Option<()>> {
    if stream.capacity() > 0 {
        return Poll::Ready(Some(()));
    }
    loop {
        match ready!(stream.poll_capacity(cx)) {
            Some(Ok(0)) => {}
            Some(Ok(_)) => return Poll::Ready(Some(())),
            Some(Err(_)) | None => return Poll::Ready(None),
        }
    }
}
