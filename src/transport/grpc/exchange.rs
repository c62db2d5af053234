//! A request that is given to the services, and their answer on its way back.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, server::SendResponse};
use http::{Request, Response};
use http_body::{Body, Frame};
use tonic::service::Routes;
use tower_service::Service as _;

/// What a client sends after the headers.
pub struct Incoming {
    /// Read already.
    ahead: Option<Bytes>,
    body: RecvStream,
}

impl Incoming {
    /// A body of which `ahead` was read already; empty if nothing was.
    pub fn new(ahead: Bytes, body: RecvStream) -> Self {
        Self { ahead: Some(ahead).filter(|ahead| !ahead.is_empty()), body }
    }
}

/// Reads the next piece of a body, and lets the client send as much more.
pub fn poll_data(body: &mut RecvStream, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
    let data = ready!(body.poll_data(cx));
    if let Some(Ok(data)) = &data {
        // Only fails for more than was received.
        let _ = body.flow_control().release_capacity(data.len());
    }
    Poll::Ready(data)
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if let Some(ahead) = self.ahead.take() {
            return Poll::Ready(Some(Ok(Frame::data(ahead))));
        }
        match ready!(poll_data(&mut self.body, cx)) {
            Some(data) => Poll::Ready(Some(data.map(Frame::data))),
            None => {
                Poll::Ready(ready!(self.body.poll_trailers(cx)).transpose().map(|found| found.map(Frame::trailers)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ahead.is_none() && self.body.is_end_stream()
    }
}

/// Waits for an answer; none if the client gives up before.
pub async fn unless_reset<T>(
    mut answer: Pin<&mut impl Future<Output = T>>,
    respond: &mut SendResponse<Bytes>,
) -> Option<T> {
    poll_fn(|cx| match answer.as_mut().poll(cx) {
        Poll::Ready(answered) => Poll::Ready(Some(answered)),
        Poll::Pending => respond.poll_reset(cx).map(|_| None),
    })
    .await
}

/// Answers a request by the services. A client that gives up stops the waiting.
pub async fn forward(mut routes: Routes, request: Request<Incoming>, mut respond: SendResponse<Bytes>) {
    let answer = pin!(routes.call(request));
    let Some(Ok(answer)) = unless_reset(answer, &mut respond).await else { return };
    let (head, body) = answer.into_parts();
    let ended = body.is_end_stream();
    // It fails where the client is gone.
    if let Ok(stream) = respond.send_response(Response::from_parts(head, ()), ended)
        && !ended
    {
        send(stream, body).await;
    }
}

/// Sends a body as fast as the client takes it.
async fn send(mut stream: SendStream<Bytes>, body: tonic::body::Body) {
    let mut body = pin!(body);
    loop {
        // Room first: what is produced and cannot be sent would gather here.
        stream.reserve_capacity(1);
        if poll_fn(|cx| poll_room(&mut stream, cx)).await.is_none() {
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
            Some(Ok(Err(rest))) => match rest.into_trailers() {
                Ok(trailers) => return drop(stream.send_trailers(trailers)),
                Err(_) => Ok(()),
            },
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Waits until something can be sent; none if nothing ever can.
fn poll_room(stream: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Poll<Option<()>> {
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
