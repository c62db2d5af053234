//! Calls that are answered where they are read: one message without compression, answered by one message.

use std::task::{Context, Poll};

use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderName},
    request::Parts,
};

use super::request_body::poll_data;
use crate::service::credential::bearer;

pub(crate) const VERIFY_PATH: &str = "/keyward.v1.KeyService/Verify";
pub(crate) const CHECK_PATH: &str = "/envoy.service.auth.v3.Authorization/Check";
/// Pieces of a body that are joined here.
const MAX_PIECES: usize = 4;
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// Refuses a request that is no gRPC.
pub(crate) fn refuse_content_type(respond: &mut SendResponse<Bytes>) {
    let mut refusal = Response::new(());
    *refusal.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    // Sending fails only if the client has closed the stream.
    let _ = respond.send_response(refusal, true);
}

/// The headers that decide whether a call is answered where it is read. One pass finds all of them, instead of a look-up
/// for each.
pub(crate) struct CallHeaders<'a> {
    content_type: Option<&'a HeaderValue>,
    compressed: bool,
    authorization: Option<&'a HeaderValue>,
    /// There are several `authorization` headers.
    ambiguous: bool,
}

impl<'a> CallHeaders<'a> {
    /// Reads the headers of a call.
    pub(crate) fn read(headers: &'a HeaderMap) -> Self {
        let mut read = Self { content_type: None, compressed: false, authorization: None, ambiguous: false };
        for (name, value) in headers {
            if name == CONTENT_TYPE {
                read.content_type.get_or_insert(value);
            } else if name == AUTHORIZATION {
                read.ambiguous |= read.authorization.is_some();
                read.authorization.get_or_insert(value);
            } else if name == GRPC_ENCODING {
                read.compressed = true;
            }
        }
        read
    }

    /// Whether the content type is gRPC. A browser sends such a request for a page only after a preflight, which fails: so
    /// no page can use its visitor's client certificate.
    pub(crate) fn is_grpc(&self) -> bool {
        let suffix = self.content_type.and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"));
        suffix.is_some_and(|suffix| matches!(suffix.first(), None | Some(b'+' | b';')))
    }

    /// Whether this is a call of a method without compression or another content type.
    pub(crate) fn is_plain(&self, head: &Parts, path: &str) -> bool {
        head.uri.path() == path && head.method == Method::POST && self.content_type == Some(&GRPC) && !self.compressed
    }

    /// The secret in the `authorization` header; `None` where [`super::metadata::secret`] fails.
    pub(crate) fn secret(&self) -> Option<&'a str> {
        self.authorization.filter(|_| !self.ambiguous).and_then(|value| bearer(value.to_str().ok()?))
    }
}

/// What has arrived of a body.
#[derive(Default)]
pub(crate) struct ReceivedBody {
    pub(crate) bytes: Bytes,
    /// Nothing follows.
    ended: bool,
}

impl ReceivedBody {
    /// The body, if all of it has arrived.
    pub(crate) fn whole(&self) -> Option<&[u8]> {
        self.ended.then_some(&*self.bytes)
    }
}

/// Joins the pieces of a body that have arrived: usually the message, sometimes followed by an empty piece that ends the
/// stream. More pieces than [`MAX_PIECES`] are left in the body: joining many small ones would copy the square of their
/// number, on a thread that other connections wait for.
pub(crate) fn read_body(body: &mut RecvStream, cx: &mut Context<'_>) -> ReceivedBody {
    let mut joined = Bytes::new();
    for _ in 0..MAX_PIECES {
        match poll_data(body, cx) {
            Poll::Ready(Some(Ok(piece))) if joined.is_empty() => joined = piece,
            Poll::Ready(Some(Ok(piece))) if piece.is_empty() => {}
            Poll::Ready(Some(Ok(piece))) => joined = [joined, piece].concat().into(),
            Poll::Ready(Some(Err(_)) | None) | Poll::Pending => break,
        }
        // Each question takes the lock of the connection's streams, so this one is asked once for most calls.
        if body.is_end_stream() {
            return ReceivedBody { bytes: joined, ended: true };
        }
    }
    ReceivedBody { bytes: joined, ended: body.is_end_stream() }
}

/// Queues a response. The next write of the connection sends all of it.
pub(crate) fn send(respond: &mut SendResponse<Bytes>, frame: Bytes) {
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
    use http::Request;

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
        assert_eq!(whole.bytes.len(), MAX_PIECES);
        assert_eq!(whole.whole(), None);
        assert!(!body.is_end_stream());
    }

    #[test]
    fn one_pass_finds_what_look_ups_find() {
        for values in [
            &[][..],
            &["Bearer kw_a"],
            &["bearer   kw_a "],
            &["kw_a"],
            &["Basic a:b"],
            &["Bearer "],
            &["Bearer kw_a", "Bearer kw_b"],
            &["Bearer kw_a", "Bearer kw_a"],
            &["Bearer kw_\u{e4}"],
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("x-other", HeaderValue::from_static("1"));
            for value in values {
                headers.append(AUTHORIZATION, HeaderValue::from_bytes(value.as_bytes()).unwrap());
            }
            assert_eq!(
                CallHeaders::read(&headers).secret(),
                super::super::metadata::secret(&headers).ok(),
                "{values:?}"
            );
        }
    }

    #[test]
    fn a_plain_call_is_one_of_grpc_without_compression() {
        for (headers, grpc, plain) in [
            (&[("content-type", "application/grpc")][..], true, true),
            (&[("content-type", "application/grpc+proto")], true, false),
            (&[("content-type", "application/grpc"), ("grpc-encoding", "gzip")], true, false),
            (&[("content-type", "application/grpc-web")], false, false),
            (&[("content-type", "application/json"), ("content-type", "application/grpc")], false, false),
            (&[], false, false),
        ] {
            let mut request = Request::post(VERIFY_PATH).body(()).unwrap();
            for (name, value) in headers {
                request.headers_mut().append(*name, HeaderValue::from_static(value));
            }
            let (head, ()) = request.into_parts();
            let read = CallHeaders::read(&head.headers);
            assert_eq!((read.is_grpc(), read.is_plain(&head, VERIFY_PATH)), (grpc, plain), "{headers:?}");
            assert!(!read.is_plain(&head, CHECK_PATH));
        }
    }
}
