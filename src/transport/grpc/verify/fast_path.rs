//! The fast path: answers a Verify or a gateway's Check from memory in the task that read it.

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
use tonic::{metadata::MetadataMap, service::Routes};

use super::{
    super::{
        api::GrpcApi,
        ext_authz,
        http2::StreamHandler,
        metadata,
        tonic_bridge::{RequestBody, forward, forward_page, is_page, poll_data, unless_reset},
    },
    messages, unary,
};
use crate::{
    proto,
    service::verify::{CachedVerdict, PendingVerify, VerifyCaller},
    transport::peer::Peer,
};

const VERIFY_PATH: &str = "/keyward.v1.KeyService/Verify";
const CHECK_PATH: &str = "/envoy.service.auth.v3.Authorization/Check";
/// Pieces of a body that are joined here.
const MAX_PIECES: usize = 4;
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// Handles the requests of one connection: Verify and Check itself as far as memory goes, all other calls by tonic.
#[derive(Clone)]
pub(crate) struct RequestHandler {
    /// Answers Verify.
    pub(crate) api: GrpcApi,
    /// Every service of the listener.
    pub(crate) routes: Routes,
    /// The client.
    pub(crate) peer: Arc<Peer>,
}

/// The outcome of trying the fast path.
enum FastPath {
    /// The response message, with its gRPC prefix.
    Answered(Bytes),
    /// The request was read. Memory cannot decide it, or cannot identify its caller (`None`).
    Undecided(proto::VerifyRequest, Option<PendingVerify>),
    /// The request is not one that the fast path reads. Tonic handles it.
    NotTaken,
}

impl StreamHandler for RequestHandler {
    fn handle(&self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>, cx: &mut Context<'_>) {
        let (head, mut body) = request.into_parts();
        if !is_grpc(&head.headers) {
            let mut refusal = Response::new(());
            *refusal.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            // Sending fails only if the client has closed the stream.
            return drop(respond.send_response(refusal, true));
        }
        let mut received = Bytes::new();
        if is_plain(&head, CHECK_PATH) {
            received = read_body(&mut body, cx);
            // A panic ends its own call, not the connection.
            let decided = catch_unwind(AssertUnwindSafe(|| {
                let secret = metadata::secret(&head.headers).ok().filter(|_| body.is_end_stream())?;
                ext_authz::try_cached(&self.api.service, secret, &received)
            }));
            match decided {
                Ok(Some(frame)) => return send(&mut respond, frame),
                Ok(None) => {}
                Err(_) => return respond.send_reset(Reason::INTERNAL_ERROR),
            }
        } else if is_plain(&head, VERIFY_PATH) {
            received = read_body(&mut body, cx);
            // A panic ends its own call, not the connection.
            match catch_unwind(AssertUnwindSafe(|| self.try_cached(&head.headers, &received, &body))) {
                Ok(FastPath::Answered(frame)) => return send(&mut respond, frame),
                Ok(FastPath::Undecided(message, pending)) => {
                    let (api, peer) = (self.api.clone(), Arc::clone(&self.peer));
                    tokio::spawn(complete(api, peer, head.headers, (message, pending), respond));
                    return;
                }
                Ok(FastPath::NotTaken) => {}
                Err(_) => return respond.send_reset(Reason::INTERNAL_ERROR),
            }
        }
        let mut request = Request::from_parts(head, RequestBody::new(received, body));
        request.extensions_mut().insert(Arc::clone(&self.peer));
        let routes = self.routes.clone();
        if is_page(&request) {
            let bulk = Arc::clone(&self.api.service.bulk);
            tokio::spawn(async move { forward_page(routes, request, respond, &bulk).await });
        } else {
            tokio::spawn(forward(routes, request, respond));
        }
    }
}

impl RequestHandler {
    /// Answers from memory, or says how far it got.
    fn try_cached(&self, headers: &HeaderMap, received: &[u8], body: &RecvStream) -> FastPath {
        let Some(message) = body.is_end_stream().then(|| messages::decode(received)).flatten() else {
            return FastPath::NotTaken;
        };
        let service = &self.api.service;
        let Ok(secret) = metadata::secret(headers) else { return FastPath::Undecided(message, None) };
        match service.verify.try_verify_cached(VerifyCaller::Credential(secret), &messages::check(&message)) {
            CachedVerdict::Decided(verdict) => FastPath::Answered(messages::frame(&service.verify.answer(&verdict))),
            CachedVerdict::Pending(pending) => FastPath::Undecided(message, Some(pending)),
            CachedVerdict::Refused(_) | CachedVerdict::CallerNotCached => FastPath::Undecided(message, None),
        }
    }
}

/// Completes a Verify that memory could not decide. If the client resets the stream, the wait is dropped.
async fn complete(
    api: GrpcApi,
    peer: Arc<Peer>,
    headers: HeaderMap,
    (message, pending): (proto::VerifyRequest, Option<PendingVerify>),
    mut respond: SendResponse<Bytes>,
) {
    let metadata = MetadataMap::from_headers(headers);
    let outcome = pin!(unary::verify(&api, &metadata, Some(&peer), &message, pending));
    match unless_reset(outcome, &mut respond).await {
        Some(Ok(outcome)) => send(&mut respond, messages::frame(&api.service.verify.answer(&outcome))),
        // Sending fails only if the client has closed the stream.
        Some(Err(status)) => drop(respond.send_response(status.into_http(), true)),
        None => {}
    }
}

/// Whether the content type is gRPC. A browser sends such a request for a page only after a preflight, which fails: so no
/// page can use its visitor's client certificate.
fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let suffix = content_type.and_then(|content_type| content_type.strip_prefix(b"application/grpc"));
    suffix.is_some_and(|suffix| matches!(suffix.first(), None | Some(b'+' | b';')))
}

/// Whether this is a call of a method without compression or another content type.
fn is_plain(head: &Parts, path: &str) -> bool {
    head.uri.path() == path
        && head.method == Method::POST
        && head.headers.get(CONTENT_TYPE) == Some(&GRPC)
        && !head.headers.contains_key(GRPC_ENCODING)
}

/// Joins the pieces of a body that have arrived: usually the message, sometimes followed by an empty piece that ends the
/// stream. More pieces than [`MAX_PIECES`] are left in the body: joining many small ones would copy the square of their
/// number, on a thread that other connections wait for.
fn read_body(body: &mut RecvStream, cx: &mut Context<'_>) -> Bytes {
    let mut joined = Bytes::new();
    for _ in 0..MAX_PIECES {
        if body.is_end_stream() {
            break;
        }
        match poll_data(body, cx) {
            Poll::Ready(Some(Ok(piece))) if joined.is_empty() => joined = piece,
            Poll::Ready(Some(Ok(piece))) if piece.is_empty() => {}
            Poll::Ready(Some(Ok(piece))) => joined = [joined, piece].concat().into(),
            Poll::Ready(Some(Err(_)) | None) | Poll::Pending => break,
        }
    }
    joined
}

/// Queues a response. The next write of the connection sends all of it.
fn send(respond: &mut SendResponse<Bytes>, frame: Bytes) {
    let mut response = Response::new(());
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    // Sending fails only if the client has closed the stream.
    if let Ok(mut stream) = respond.send_response(response, false) {
        let mut trailers = HeaderMap::with_capacity(1);
        trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
        let _ = stream.send_data(frame, false);
        let _ = stream.send_trailers(trailers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_in_many_pieces_is_left_to_tonic() {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (mut sender, client) = h2::client::handshake(near).await.unwrap();
        tokio::spawn(client);
        let mut server = h2::server::handshake(far).await.unwrap();
        let (_response, mut sent) = sender.send_request(Request::post("http://x/").body(()).unwrap(), false).unwrap();
        for _ in 0..100 {
            sent.send_data(Bytes::from_static(b"x"), false).unwrap();
        }
        let (request, _respond) = server.accept().await.unwrap().unwrap();
        let mut body = request.into_body();
        // Lets the connection receive every frame.
        let all = std::time::Duration::from_millis(200);
        let _ = tokio::time::timeout(all, std::future::poll_fn(|cx| server.poll_closed(cx))).await;
        let whole = std::future::poll_fn(|cx| Poll::Ready(read_body(&mut body, cx))).await;
        assert_eq!(whole.len(), MAX_PIECES);
        assert!(!body.is_end_stream());
    }
}
