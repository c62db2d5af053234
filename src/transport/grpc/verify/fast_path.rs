//! The fast path: answers a Verify or a gateway's Check from memory in the task that read it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, RecvStream, server::SendResponse};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{CONTENT_TYPE, HeaderName},
    request::Parts,
};
use prost::Message as _;
use tonic::{Status, metadata::MetadataMap, service::Routes};

use super::{
    super::{
        admission::{self, Admitted, CallerStanding, admit},
        api::GrpcApi,
        connection::{ActiveCall, ClientConnection},
        ext_authz,
        http2::StreamHandler,
        metadata,
        request_body::{RequestBody, overloaded, poll_data},
        tonic_bridge::{ForwardedCall, forward, is_page, refuse, unless_reset},
    },
    messages, unary,
};
use crate::{
    domain::error::Error,
    proto,
    service::verify::{CachedVerdict, PendingVerify, VerifyCaller},
};

const VERIFY_PATH: &str = "/keyward.v1.KeyService/Verify";
const CHECK_PATH: &str = "/envoy.service.auth.v3.Authorization/Check";
/// Pieces of a body that are joined here.
const MAX_PIECES: usize = 4;
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// How long the calls of a connection may go on that is closed for its refused credentials.
const REFUSED_GRACE: Duration = Duration::from_secs(1);

/// Handles the requests of one connection: Verify and Check itself as far as memory goes, all other calls by tonic.
#[derive(Clone)]
pub(crate) struct RequestHandler {
    /// Answers Verify.
    pub(crate) api: GrpcApi,
    /// Every service of the listener.
    pub(crate) routes: Routes,
    /// The connection.
    pub(crate) connection: Arc<ClientConnection>,
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
                Ok(Some(frame)) => {
                    self.connection.peer.admission.authenticated();
                    return send(&mut respond, frame);
                }
                Ok(None) => {}
                Err(_) => return respond.send_reset(Reason::INTERNAL_ERROR),
            }
        } else if is_plain(&head, VERIFY_PATH) {
            received = read_body(&mut body, cx);
            // A panic ends its own call, not the connection.
            match catch_unwind(AssertUnwindSafe(|| self.try_cached(&head.headers, &received, &body))) {
                Ok(FastPath::Answered(frame)) => {
                    self.connection.peer.admission.authenticated();
                    return send(&mut respond, frame);
                }
                Ok(FastPath::Undecided(message, pending)) => {
                    return self.complete_later(head.headers, message, pending, respond);
                }
                Ok(FastPath::NotTaken) => {}
                Err(_) => return respond.send_reset(Reason::INTERNAL_ERROR),
            }
        }
        match admit(&self.api, &self.connection, head.uri.path(), &head.headers) {
            Err(error) => refuse(&mut respond, &error),
            Ok(None) => {
                // Sending fails only if the client has closed the stream.
                let _ = respond.send_response(Status::unimplemented("").into_http(), true);
            }
            Ok(Some(Admitted { bounds, charge, caller })) => {
                let first = self.connection.timeouts.body;
                let mut request = Request::from_parts(head, RequestBody::new(received, body, bounds, charge, first));
                request.extensions_mut().insert(Arc::clone(&self.connection.peer));
                tokio::spawn(self.clone().pass_on(request, caller, respond, self.connection.begin_call()));
            }
        }
    }

    fn is_authenticated(&self) -> bool {
        self.connection.peer.admission.is_authenticated()
    }

    fn keeps_idle(&self) -> bool {
        self.is_authenticated() || self.connection.calls() > 0
    }

    fn grace(&self) -> Option<Duration> {
        self.connection.peer.admission.is_refused().then_some(REFUSED_GRACE)
    }
}

impl RequestHandler {
    /// Passes a call on to tonic. A credential that memory does not know is looked up first.
    async fn pass_on(
        self,
        mut request: Request<RequestBody>,
        caller: CallerStanding,
        mut respond: SendResponse<Bytes>,
        _active: ActiveCall,
    ) {
        if let CallerStanding::Unknown { call, .. } = caller {
            let look_up = async {
                let _turn = self.connection.peer.admission.turn().await;
                admission::look_up(&self.api, &self.connection, call, request.headers()).await?;
                request.body_mut().authenticate().map_err(|exceeded| overloaded(exceeded.to_string()))
            };
            match unless_reset(pin!(look_up), &mut respond).await {
                Some(Ok(())) => {}
                Some(Err(error)) => return refuse(&mut respond, &error),
                None => return,
            }
        }
        let (timeouts, public) = (self.connection.timeouts, caller == CallerStanding::Public);
        let bulk = is_page(&request).then(|| Arc::clone(&self.api.service.bulk));
        forward(self.routes, ForwardedCall { request, respond, timeouts, public, bulk }).await;
    }

    /// Completes a Verify in a task. A caller that memory does not know is charged for it, and waits for its turn.
    fn complete_later(
        &self,
        headers: HeaderMap,
        message: proto::VerifyRequest,
        pending: Option<PendingVerify>,
        mut respond: SendResponse<Bytes>,
    ) {
        let admission = &self.connection.peer.admission;
        let admitted = if pending.is_some() {
            admission.authenticated();
            None
        } else {
            let admitted = admit(&self.api, &self.connection, VERIFY_PATH, &headers).and_then(|admitted| {
                let mut admitted = admitted.ok_or_else(|| Error::internal("Verify has no rule"))?;
                let bytes = message.encoded_len();
                admitted.charge.cover(bytes).map_err(|exceeded| overloaded(exceeded.to_string()))?;
                Ok(admitted)
            });
            match admitted {
                Ok(admitted) => Some(admitted),
                Err(error) => return refuse(&mut respond, &error),
            }
        };
        let (api, connection, active) = (self.api.clone(), Arc::clone(&self.connection), self.connection.begin_call());
        tokio::spawn(async move {
            complete(&api, &connection, headers, (message, pending), respond).await;
            drop((admitted, active));
        });
    }

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
    api: &GrpcApi,
    connection: &ClientConnection,
    headers: HeaderMap,
    (message, pending): (proto::VerifyRequest, Option<PendingVerify>),
    mut respond: SendResponse<Bytes>,
) {
    let metadata = MetadataMap::from_headers(headers);
    let outcome = async {
        let _turn = connection.peer.admission.turn().await;
        unary::verify(api, &metadata, Some(&connection.peer), &message, pending).await
    };
    match unless_reset(pin!(outcome), &mut respond).await {
        Some(Ok(outcome)) => {
            connection.peer.admission.authenticated();
            send(&mut respond, messages::frame(&api.service.verify.answer(&outcome)));
        }
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
