//! Passes a request on to tonic once its first message has arrived, and sends tonic's response to the client.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, SendStream, server::SendResponse};
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use tokio::time::timeout;
use tonic::service::Routes;
use tower_service::Service as _;

use super::request_body::{BodyError, RequestBody};
use crate::{
    domain::error::Error,
    service::bulk::Bulk,
    transport::{listener::ConnectionTimeouts, status},
};

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

/// A call that is passed on to tonic.
pub(crate) struct ForwardedCall {
    pub(crate) request: Request<RequestBody>,
    pub(crate) respond: SendResponse<Bytes>,
    /// Timeouts of the first message, and of a client that reads none of the response.
    pub(crate) timeouts: ConnectionTimeouts,
    /// Anyone may make the call. It is charged until it ends; other calls only until they are authenticated.
    pub(crate) public: bool,
    /// Runs the call and encodes its message if the response is a page; this thread then only sends it.
    pub(crate) bulk: Option<Arc<Bulk>>,
}

/// Calls the tonic service and sends its response. If the client resets the stream, the call is dropped.
pub(crate) async fn forward(mut routes: Routes, call: ForwardedCall) {
    let ForwardedCall { mut request, mut respond, timeouts, public, bulk } = call;
    // The caller of a stream is authenticated before its first message, which may come later. Any other call is passed on
    // with its message, since tonic allocates buffers for each call.
    if public || request.body().is_unary() {
        let first_message = poll_fn(|cx| request.body_mut().poll_begin(cx));
        if let Err(error) = timeout(timeouts.body, first_message).await.unwrap_or(Err(BodyError::Late)) {
            if let Some(refusal) = error.refusal() {
                refuse(&mut respond, &refusal);
            }
            return;
        }
    }
    let mut charged = request.body_mut().take_charge();
    let answered = match bulk {
        None => unless_reset(pin!(routes.call(request)), &mut respond).await.map(Result::ok),
        Some(bulk) => {
            let page = bulk.run(async move {
                let (head, body) = routes.call(request).await.ok()?.into_parts();
                // A refusal has only headers, and the stream has to end with them.
                if body.is_end_stream() {
                    return Some(Response::from_parts(head, body));
                }
                Some(Response::from_parts(head, tonic::body::Body::new(body.collect().await.ok()?)))
            });
            unless_reset(pin!(page), &mut respond).await.map(|page| page.ok().flatten())
        }
    };
    let response = match answered {
        Some(Some(response)) => response,
        Some(None) => return respond.send_reset(Reason::INTERNAL_ERROR),
        None => return,
    };
    if !public {
        charged = None;
    }
    let (head, body) = response.into_parts();
    let ended = body.is_end_stream();
    // Sending fails only if the client has reset the stream or closed the connection.
    if let Ok(stream) = respond.send_response(Response::from_parts(head, ()), ended)
        && !ended
    {
        send(stream, body, timeouts.write).await;
    }
    drop(charged);
}

/// Queues the refusal of a call.
pub(crate) fn refuse(respond: &mut SendResponse<Bytes>, error: &Error) {
    // Sending fails only if the client has closed the stream.
    let _ = respond.send_response(status::grpc(error).into_http(), true);
}

/// The calls whose responses are pages.
const PAGES: [&str; 3] =
    ["/keyward.v1.KeyService/List", "/keyward.v1.AuditService/ListEvents", "/keyward.v1.AuditService/ListDeliveries"];

/// Whether the response to a request is a page.
pub(crate) fn is_page(request: &Request<RequestBody>) -> bool {
    PAGES.contains(&request.uri().path())
}

/// Sends a body as fast as the client reads it.
async fn send(mut stream: SendStream<Bytes>, body: tonic::body::Body, write_timeout: Duration) {
    let mut body = pin!(body);
    loop {
        // Wait for the window first: a frame that is produced but cannot be sent would be buffered without a bound.
        stream.reserve_capacity(1);
        if stream.capacity() == 0 {
            // A client that opens no window keeps its stream, and all that the stream holds.
            match timeout(write_timeout, poll_fn(|cx| poll_window(&mut stream, cx))).await {
                Ok(Some(())) => {}
                Ok(None) => return,
                Err(_) => return stream.send_reset(Reason::CANCEL),
            }
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
