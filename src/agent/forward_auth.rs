//! `/forward-auth/…`, for gateways that use HTTP: decided from memory like Envoy's Check, and otherwise by a Check at a
//! replica, which decides about every gateway's request in the same way.

use std::borrow::Cow;

use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, request::Parts};
use tokio::time::Instant;
use tonic::{Code, Status};

use super::{
    caller::{Caller, SocketKind},
    check,
    metrics::Call,
    state::Agent,
};
use crate::{
    domain::error::{Error, ErrorKind},
    proto::envoy::{
        config::core::v3::{
            Address, HeaderMap as CheckedHeaders, HeaderValue as CheckedHeader, HeaderValueOption, SocketAddress,
            address,
        },
        service::auth::v3::{
            AttributeContext, CheckRequest, CheckResponse, attribute_context, check_response::HttpResponse,
        },
    },
    service::gateway::{GatewayRequest, IDENTITY_HEADERS},
    transport::{
        grpc::plain_call::CHECK_PATH,
        peer::Peer,
        request_id::REQUEST_ID,
        rest::{
            error::RestError,
            forward_auth::{CallPath, DECISION_TIMEOUT, GATEWAY_CREDENTIAL, not_a_gateway, passed, with_body},
        },
    },
};

const PREFIX: &str = "/forward-auth/";

/// Answers a gateway.
pub(super) async fn answer(agent: &Agent, (origin, peer): (SocketKind, &Peer), parts: Parts) -> Response {
    let mut ids = parts.headers.get_all(REQUEST_ID).iter();
    let own = ids.next().filter(|_| ids.next().is_none()).map(HeaderValue::as_bytes);
    let id = check::request_id(agent, own);
    let mut response = respond(agent, (origin, peer), &parts, &id).await;
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

async fn respond(agent: &Agent, (origin, peer): (SocketKind, &Peer), parts: &Parts, id: &str) -> Response {
    let Some(rest) = parts.uri.path().strip_prefix(PREFIX) else {
        let unsupported = Error::new(ErrorKind::NotFound, "NO_SUCH_PATH", agent.unsupported.clone());
        return RestError::from(unsupported).into_response();
    };
    // {kind}/{keyspace} or {kind}/{keyspace}/{environment}.
    if !(2..=3).contains(&rest.split('/').count()) || rest.split('/').any(str::is_empty) {
        return RestError::NoSuchPath.into_response();
    }
    let path = CallPath::of(&parts.uri);
    let Some(caller) = agent.callers.gateway(&parts.headers, origin) else {
        return with_body(path.as_ref(), not_a_gateway());
    };
    let refused = match path.as_ref().map(|path| (path, path.read(&parts.headers))) {
        Some((path, Ok(described))) => {
            let request = described.request(path, &parts.headers, id);
            if let Some(allowed) = check::allow(agent, caller, &request) {
                peer.admission.authenticated();
                return passed(IDENTITY_HEADERS.into_iter().zip(allowed.identity()));
            }
            return check_at_replica(agent, (caller, peer), path, &request).await;
        }
        Some((_, Err(error))) => Some(error),
        None => None,
    };
    // Only an authenticated gateway gets the reason.
    match (verify_caller(agent, caller, peer).await, refused) {
        (Err(error), _) | (Ok(()), Some(error)) => with_body(path.as_ref(), error),
        (Ok(()), None) => RestError::NoSuchPath.into_response(),
    }
}

/// Whether the caller may request decisions as a gateway.
async fn verify_caller(agent: &Agent, caller: Caller<'_>, peer: &Peer) -> Result<(), Error> {
    if agent.local(caller).is_some() {
        return Ok(());
    }
    // A replica refuses a Check without a request. Its error shows whether it accepts the caller as a gateway.
    let answer = call(agent, (caller, peer), &CheckRequest::default()).await;
    answer.map(drop).map_err(|status| refusal(&status))
}

/// Sends the request to a replica.
async fn check_at_replica(
    agent: &Agent,
    (caller, peer): (Caller<'_>, &Peer),
    path: &CallPath,
    request: &GatewayRequest<'_, HeaderMap>,
) -> Response {
    match call(agent, (caller, peer), &check_request(request)).await {
        Ok(answer) => {
            check::remember(agent, request, &answer);
            response(path, answer)
        }
        Err(status) => with_body(Some(path), refusal(&status)),
    }
}

async fn call(
    agent: &Agent,
    (caller, peer): (Caller<'_>, &Peer),
    message: &CheckRequest,
) -> Result<CheckResponse, Status> {
    // A connection of HTTP/1.1 has one call at a time, so it needs no permit.
    let authenticated = peer.admission.is_authenticated();
    let deadline = Instant::now() + DECISION_TIMEOUT;
    let answer = agent.upstream.unary(CHECK_PATH, (caller, authenticated), message, deadline).await;
    agent.note(Call::Check, caller, Some(peer), &answer);
    answer
}

/// The refusal that a gateway gets for a call without a decision.
fn refusal(status: &Status) -> Error {
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted => {
            Error::unavailable(status.message().to_owned())
        }
        // The gateway would pass a 401 on to its client.
        _ => not_a_gateway(),
    }
}

/// The same request as Envoy describes it.
fn check_request(request: &GatewayRequest<'_, HeaderMap>) -> CheckRequest {
    let headers = request.headers.iter().filter(|(name, _)| *name != GATEWAY_CREDENTIAL);
    let headers = headers.map(|(name, value)| CheckedHeader {
        key: name.as_str().to_owned(),
        value: String::new(),
        raw_value: value.as_bytes().to_vec(),
    });
    let extensions = [("keyspace", request.keyspace), ("environment", request.environment)];
    let source = request.client.map(|client| attribute_context::Peer {
        address: Some(Address {
            address: Some(address::Address::SocketAddress(SocketAddress { address: client.to_string() })),
        }),
    });
    let http = attribute_context::HttpRequest {
        method: request.method.to_owned(),
        path: request.target.to_owned(),
        host: request.host.to_owned(),
        header_map: Some(CheckedHeaders { headers: headers.collect() }),
        ..attribute_context::HttpRequest::default()
    };
    CheckRequest {
        attributes: Some(AttributeContext {
            source,
            request: Some(attribute_context::Request { http: Some(http) }),
            context_extensions: extensions.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        }),
    }
}

/// A replica's decision as an HTTP response.
fn response(path: &CallPath, answer: CheckResponse) -> Response {
    match answer.http_response {
        Some(HttpResponse::OkResponse(ok)) => {
            let identity = |name: &'static str| {
                let own = ok.headers.iter().filter_map(|option| option.header.as_ref());
                let value = own.filter(|header| header.key == name).map(|header| header.value.as_str()).next();
                (name, Cow::Borrowed(value.unwrap_or_default()))
            };
            let mut response = passed(IDENTITY_HEADERS.into_iter().map(identity));
            add(&ok.response_headers_to_add, response.headers_mut());
            response
        }
        Some(HttpResponse::DeniedResponse(denied) | HttpResponse::ErrorResponse(denied)) => {
            let status = denied.status.and_then(|status| u16::try_from(status.code).ok());
            let status = status.and_then(|status| StatusCode::from_u16(status).ok());
            let mut response = Response::new(denied.body.clone().into());
            *response.status_mut() = status.unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
            add(&denied.headers, response.headers_mut());
            path.repeat_body(denied.body.as_bytes(), response.headers_mut());
            response
        }
        None => with_body(Some(path), Error::unavailable("a decision without an answer")),
    }
}

fn add(options: &[HeaderValueOption], headers: &mut HeaderMap) {
    for header in options.iter().filter_map(|option| option.header.as_ref()) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(header.key.as_str()), HeaderValue::from_str(&header.value))
        {
            headers.insert(name, value);
        }
    }
}
