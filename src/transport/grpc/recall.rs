//! Requests as they come: a Verify that memory decides is answered here and now, one that has to wait in a task of its
//! own; all else goes to the services.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, server::SendResponse};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{CONTENT_TYPE, HeaderName},
    request::Parts,
};
use prost::Message as _;
use tonic::{metadata::MetadataMap, service::Routes};

use super::{
    Grpc, MESSAGE_BYTES, convert, credential,
    encode::{self, FRAMING},
    exchange::{Incoming, forward, poll_data, unless_reset},
    http2::Handle,
};
use crate::{
    proto,
    service::verify::{Reached, Waiting},
    transport::peer::Peer,
};

const VERIFY: &str = "/keyward.v1.KeyService/Verify";
/// Pieces of a body that are put together here.
const PIECES: usize = 4;
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// The services of the port.
#[derive(Clone)]
pub struct Handler {
    /// Asked first.
    pub grpc: Grpc,
    /// Every service.
    pub routes: Routes,
    /// Whoever is at the other end of the connection.
    pub peer: Arc<Peer>,
}

/// How far a request came.
enum Came {
    /// To its answer, framed.
    Answered(Bytes),
    /// To where memory ends, or only as far as being read.
    Read(proto::VerifyRequest, Option<Waiting>),
    /// Nowhere: it is no Verify that is read here.
    Unread,
}

impl Handle for Handler {
    fn handle(&self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>, cx: &mut Context<'_>) {
        let (head, mut body) = request.into_parts();
        if !is_grpc(&head.headers) {
            let mut refusal = Response::new(());
            *refusal.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            // It fails where the client is gone.
            return drop(respond.send_response(refusal, true));
        }
        let mut ahead = Bytes::new();
        if is_verify(&head) {
            ahead = read(&mut body, cx);
            // A panic ends its own call, not the connection.
            match catch_unwind(AssertUnwindSafe(|| self.begin(&head.headers, &ahead, &body))) {
                Ok(Came::Answered(answer)) => return send(&mut respond, answer),
                Ok(Came::Read(message, waiting)) => {
                    let (grpc, peer) = (self.grpc.clone(), Arc::clone(&self.peer));
                    tokio::spawn(check(grpc, peer, head.headers, (message, waiting), respond));
                    return;
                }
                Ok(Came::Unread) => {}
                Err(_) => return respond.send_reset(Reason::INTERNAL_ERROR),
            }
        }
        let mut request = Request::from_parts(head, Incoming::new(ahead, body));
        request.extensions_mut().insert(Arc::clone(&self.peer));
        tokio::spawn(forward(self.routes.clone(), request, respond));
    }
}

impl Handler {
    fn begin(&self, headers: &HeaderMap, frame: &[u8], body: &RecvStream) -> Came {
        let message = message(frame).filter(|message| body.is_end_stream() && message.len() <= MESSAGE_BYTES);
        let Some(message) = message.and_then(|message| proto::VerifyRequest::decode(message).ok()) else {
            return Came::Unread;
        };
        let service = &self.grpc.service;
        let Ok(credential) = credential(headers) else { return Came::Read(message, None) };
        match service.verify_at_once(credential, &convert::check(&message)) {
            Reached::Decided(outcome) => Came::Answered(encode::verdict(&outcome, &service.registry)),
            Reached::Waits(waiting) => Came::Read(message, Some(waiting)),
            Reached::Nowhere => Came::Read(message, None),
        }
    }
}

/// Answers a Verify once that is decided. A client that gives up stops the waiting.
async fn check(
    grpc: Grpc,
    peer: Arc<Peer>,
    headers: HeaderMap,
    (message, waiting): (proto::VerifyRequest, Option<Waiting>),
    mut respond: SendResponse<Bytes>,
) {
    let metadata = MetadataMap::from_headers(headers);
    let outcome = pin!(grpc.check(&metadata, Some(&peer), &message, waiting));
    match unless_reset(outcome, &mut respond).await {
        Some(Ok(outcome)) => send(&mut respond, encode::verdict(&outcome, &grpc.service.registry)),
        // It fails where the client is gone.
        Some(Err(status)) => drop(respond.send_response(status.into_http(), true)),
        None => {}
    }
}

/// Whether a request says that it is gRPC. A form that a page sends cannot, without its browser asking first.
fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let rest = kind.and_then(|kind| kind.strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// Whether this is a plain Verify; anything unusual is left to the services.
fn is_verify(head: &Parts) -> bool {
    head.uri.path() == VERIFY
        && head.method == Method::POST
        && head.headers.get(CONTENT_TYPE) == Some(&GRPC)
        && !head.headers.contains_key(GRPC_ENCODING)
}

/// What has come of a body, as one piece: the message, and perhaps the end of the stream in a frame of its own. Where it
/// came in more pieces than that, the rest is left in the body: putting many small ones together here would be the
/// square of their number in copying, on a thread that others wait for.
fn read(body: &mut RecvStream, cx: &mut Context<'_>) -> Bytes {
    let mut whole = Bytes::new();
    for _ in 0..PIECES {
        if body.is_end_stream() {
            break;
        }
        match poll_data(body, cx) {
            Poll::Ready(Some(Ok(piece))) if whole.is_empty() => whole = piece,
            Poll::Ready(Some(Ok(piece))) if piece.is_empty() => {}
            Poll::Ready(Some(Ok(piece))) => whole = [whole, piece].concat().into(),
            Poll::Ready(Some(Err(_)) | None) | Poll::Pending => break,
        }
    }
    whole
}

/// The only message of a body, if it is one and not compressed.
fn message(frame: &[u8]) -> Option<&[u8]> {
    let (framing, message) = frame.split_first_chunk::<FRAMING>()?;
    let [0, length @ ..] = framing else { return None };
    (u32::from_be_bytes(*length) as usize == message.len()).then_some(message)
}

/// Sends an answer; the connection's next write takes all of it. It fails where the client is gone.
fn send(respond: &mut SendResponse<Bytes>, answer: Bytes) {
    let mut response = Response::new(());
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    if let Ok(mut stream) = respond.send_response(response, false) {
        let mut trailers = HeaderMap::with_capacity(1);
        trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
        let _ = stream.send_data(answer, false);
        let _ = stream.send_trailers(trailers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_in_crumbs_is_left_to_the_services() {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (mut sender, client) = h2::client::handshake(near).await.unwrap();
        tokio::spawn(client);
        let mut server = h2::server::handshake(far).await.unwrap();
        let (_answer, mut sent) = sender.send_request(Request::post("http://x/").body(()).unwrap(), false).unwrap();
        for _ in 0..100 {
            sent.send_data(Bytes::from_static(b"x"), false).unwrap();
        }
        let (request, _respond) = server.accept().await.unwrap().unwrap();
        let mut body = request.into_body();
        // Until every frame of them is there.
        let all = std::time::Duration::from_millis(200);
        let _ = tokio::time::timeout(all, std::future::poll_fn(|cx| server.poll_closed(cx))).await;
        let whole = std::future::poll_fn(|cx| Poll::Ready(read(&mut body, cx))).await;
        assert_eq!(whole.len(), PIECES);
        assert!(!body.is_end_stream());
    }
}
