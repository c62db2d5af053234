//! What every request has in common, as one stack of layers around the routes.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Extension, Router,
    body::Body,
    extract::{Request, State},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use http::{HeaderValue, Method, Version, header};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use parking_lot::Mutex;
use tower::{ServiceBuilder, util::BoxCloneSyncService};

use super::{
    activity::Activity,
    error::RestError,
    extract::credential,
    forward_auth::GATEWAY_CREDENTIAL,
    request::{RequestContext, RestState},
};
use crate::{
    domain::{
        clock::Entropy,
        error::{Error, ErrorKind},
    },
    service::credential::{Presented, bearer},
    transport::{budget::BudgetPart, peer::Peer, request_id},
};

/// Handles the requests of a listener.
pub type HttpHandler = BoxCloneSyncService<Request, Response, Infallible>;

/// Maximum number of concurrent requests without a valid credential on a connection on which no call was authenticated.
const MAX_ANONYMOUS_REQUESTS: usize = 16;
/// Memory of a request while its session is looked up or its body arrives: the state of its stream and its handler, and
/// its flow-control window.
const PENDING_REQUEST_BYTES: usize = 32 << 10;

/// How much of an unread request body is read and thrown away, and for how long.
const MAX_DISCARDED_BYTES: usize = 16 << 20;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);
/// The same over HTTP/2, where longer bodies are not waited for.
const MAX_SHORT_BODY_BYTES: u64 = 16 << 10;
const SHORT_BODY_TIMEOUT: Duration = Duration::from_secs(1);

/// Stacks the layers around the routes. The first one is the outermost: it sees a request first and its response last.
pub(crate) fn stack(routes: Router, state: &Arc<RestState>) -> HttpHandler {
    let layers = ServiceBuilder::new()
        // All other layers, the extractors and the handlers use the request's context.
        .layer(from_fn_with_state(Arc::clone(state), add_context))
        // Outside of the log, so that the logged duration is that of the call, without the time in which the client
        // still sends its body.
        .layer(from_fn(discard_unread_body))
        // Outside of everything that may change the response: what is logged is what the client gets.
        .layer(from_fn(finish_call))
        // Before headers are added: the removal of one moves the last one to its position.
        .layer(from_fn(adapt_response))
        // Inside of the layers above: it may replace the response.
        .layer(from_fn(limit_failed_authentications))
        .layer(from_fn(limit_anonymous))
        .layer(from_fn(refuse_ambiguous_heads))
        .layer(from_fn(refuse_empty_segments));
    BoxCloneSyncService::new(layers.service(routes))
}

/// The stack of a listener that has no service yet: no calls to log, and no credentials to check.
pub(crate) fn startup_stack(routes: Router, entropy: Arc<dyn Entropy>) -> HttpHandler {
    let layers =
        ServiceBuilder::new().layer(from_fn_with_state(entropy, add_request_id)).layer(from_fn(adapt_response));
    BoxCloneSyncService::new(layers.service(routes))
}

async fn add_context(
    State(state): State<Arc<RestState>>,
    Extension(peer): Extension<Arc<Peer>>,
    Extension(connection): Extension<Arc<Activity>>,
    mut request: Request,
    next: Next,
) -> Response {
    let context = RequestContext::new(state, peer, connection, request.headers());
    request.extensions_mut().insert(context);
    next.run(request).await
}

/// Reads what a handler left unread of the request's body, within bounds, before the response is sent. If a connection
/// is closed while bytes are still arriving, it is reset, and the client loses the response with the reason.
async fn discard_unread_body(request: Request, next: Next) -> Response {
    let mut timeout = DISCARD_TIMEOUT;
    if request.version() == Version::HTTP_2 {
        // Over HTTP/2 a response ends only its own stream, and a refused request must not occupy memory for as long as
        // its client likes. But clients such as curl 7.88 lose the response if the stream ends before they have sent
        // the body, so wait for a body whose announced length is short.
        if request.body().size_hint().upper().is_none_or(|length| length > MAX_SHORT_BODY_BYTES) {
            return next.run(request).await;
        }
        timeout = SHORT_BODY_TIMEOUT;
    }
    // A client that waits for `100 Continue` has sent no body and gets its response at once.
    let waits = request.headers().contains_key(header::EXPECT);
    let (parts, body) = request.into_parts();
    let body = SharedBody(Arc::new(Mutex::new(body)));
    let response = next.run(Request::from_parts(parts, Body::new(body.clone()))).await;
    if !waits {
        let _ = tokio::time::timeout(timeout, body.discard()).await;
    }
    response
}

/// Adds the headers that all responses have, logs the call and counts it.
async fn finish_call(context: RequestContext, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let error = response.extensions_mut().remove::<Error>();
    context.finish(response.headers_mut(), error.as_ref());
    response
}

/// Removes or rewrites headers that axum adds to responses in another form than REST's.
async fn adapt_response(request: Request, next: Next) -> Response {
    let head = request.method() == Method::HEAD;
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    // hyper adds it after all other headers, and to no response to HEAD, where only the body's absence is certain.
    headers.remove(header::CONTENT_LENGTH);
    // axum separates methods by a comma alone.
    let spaced = headers.get(header::ALLOW).and_then(|allow| allow.to_str().ok()).map(|allow| allow.replace(',', ", "));
    if let Some(allow) = spaced.and_then(|allow| HeaderValue::try_from(allow).ok()) {
        headers.insert(header::ALLOW, allow);
    }
    if head {
        *response.body_mut() = Body::empty();
    }
    response
}

/// Counts invalid credentials by client address and by connection. An address with too many of them gets 429 instead of
/// 401, and a connection with too many in a row is closed.
async fn limit_failed_authentications(context: RequestContext, request: Request, next: Next) -> Response {
    let version = request.version();
    let mut response = next.run(request).await;
    let failed = response.extensions().get::<Error>().filter(|error| error.kind == ErrorKind::Unauthenticated);
    if let Some(error) = failed.filter(|_| !context.is_failure_counted()).cloned() {
        response = RestError::from(context.refused(error)).into_response();
    }
    // HTTP/2 has no such header; it uses a GOAWAY frame.
    if version < Version::HTTP_2 && context.connection().admission.is_refused() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Whether a request is unauthenticated, checked in memory.
enum Anonymous {
    No,
    Yes,
    /// The credential has to be looked up.
    Unknown {
        session: bool,
    },
}

/// Bounds the concurrent work of a connection while no call was authenticated on it.
///
/// A request without a valid credential is refused when there are many. One whose credential is not in memory waits for
/// a permit, because it may be the first of a burst of a valid caller. A well-formed key cannot be forged, but anybody
/// can write a session token, so requests with one are charged to the anonymous part of the budget.
async fn limit_anonymous(context: RequestContext, request: Request, next: Next) -> Response {
    let connection = Arc::clone(context.connection());
    if connection.admission.is_authenticated() {
        return next.run(request).await;
    }
    let auth = &context.service().auth;
    let of_key = |secret: &str| match auth.authenticate_cached(secret) {
        Some(Ok(())) => Anonymous::No,
        Some(Err(_)) => Anonymous::Yes,
        None => Anonymous::Unknown { session: false },
    };
    let gateway = request.headers().get(GATEWAY_CREDENTIAL).map(|value| value.to_str().unwrap_or_default());
    let anonymous = match (gateway, credential::find(request.headers(), context.service(), true)) {
        (Some(credential), _) => of_key(bearer(credential).unwrap_or(credential)),
        (None, Ok(Some(Presented::Secret(_, secret)))) => of_key(&secret),
        (None, Ok(Some(Presented::Token(_) | Presented::Cookie(..)))) => Anonymous::Unknown { session: true },
        (None, Ok(None) | Err(_)) => Anonymous::Yes,
    };
    let (charged, waits) = match anonymous {
        Anonymous::Yes if connection.requests() > MAX_ANONYMOUS_REQUESTS => {
            return RestError::from(Error::unavailable("too many anonymous requests on one connection"))
                .into_response();
        }
        Anonymous::No => return next.run(request).await,
        // A request without a body, such as a probe, is answered at once, even while the anonymous part of the budget
        // is used up.
        Anonymous::Yes => (!request.body().is_end_stream(), false),
        Anonymous::Unknown { session } => (session, true),
    };
    let reserved = charged.then(|| connection.budget.reserve(PENDING_REQUEST_BYTES, BudgetPart::Anonymous)).transpose();
    let _reserved = match reserved {
        Ok(reserved) => reserved,
        Err(exceeded) => return RestError::from(Error::unavailable(exceeded.to_string())).into_response(),
    };
    let _permit = if waits { Some(connection.admission.call_permit().await) } else { None };
    next.run(request).await
}

/// Refuses requests that a proxy in front may have interpreted differently: without a host or with several, or with a
/// transfer coding that hyper does not decode.
async fn refuse_ambiguous_heads(request: Request, next: Next) -> Response {
    let headers = request.headers();
    let host = {
        let mut hosts = headers.get_all(header::HOST).iter();
        match (hosts.next(), hosts.next(), request.uri().authority()) {
            (Some(_), Some(_), _) | (None, _, None) => {
                request.version() == Version::HTTP_10 && headers.get(header::HOST).is_none()
            }
            (Some(host), None, Some(authority)) if request.version() == Version::HTTP_2 => {
                host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes())
            }
            _ => true,
        }
    };
    let only = |name, allowed: &[u8]| {
        headers.get_all(name).iter().all(|value| value.as_bytes().trim_ascii().eq_ignore_ascii_case(allowed))
    };
    let problem = if !host {
        Some(("host", "must be given once"))
    } else if !only(header::TRANSFER_ENCODING, b"chunked") {
        Some(("transfer-encoding", "must be chunked"))
    } else if !only(header::TE, b"trailers") {
        Some(("te", "must be trailers"))
    } else {
        None
    };
    match problem {
        Some((field, what)) => RestError::from(Error::invalid(field, what)).into_response(),
        None => next.run(request).await,
    }
}

/// axum's router lets an id be empty if more of the path follows. No path of ours has an empty segment.
async fn refuse_empty_segments(request: Request, next: Next) -> Response {
    if request.uri().path().contains("//") { RestError::NoSuchPath.into_response() } else { next.run(request).await }
}

async fn add_request_id(State(entropy): State<Arc<dyn Entropy>>, request: Request, next: Next) -> Response {
    // The formats of credentials are not available yet, and a request's own id may contain one by mistake, so always
    // make a new id.
    let id = request_id::new_id(&*entropy);
    let mut response = next.run(request).await;
    if let Ok(id) = HeaderValue::try_from(id) {
        response.headers_mut().insert(request_id::REQUEST_ID, id);
    }
    response
}

/// A body that is read by a handler first, and by [`discard_unread_body`] afterwards.
#[derive(Clone)]
struct SharedBody(Arc<Mutex<Body>>);

impl SharedBody {
    async fn discard(self) {
        let mut body = std::mem::take(&mut *self.0.lock());
        let mut left = MAX_DISCARDED_BYTES;
        while left > 0 && !body.is_end_stream() {
            let Some(Ok(frame)) = body.frame().await else { break };
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        }
    }
}

impl http_body::Body for SharedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut *self.0.lock()).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().size_hint()
    }
}
