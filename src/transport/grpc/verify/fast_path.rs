//! The fast path: answers a Verify or a gateway's Check from memory in the task that read it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::Arc,
    task::Context,
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, RecvStream, server::SendResponse};
use http::{HeaderMap, Request};
use prost::Message as _;
use tokio::time::Instant;
use tonic::{Status, metadata::MetadataMap, service::Routes};

use super::{
    super::{
        admission::{self, Admitted, CallerStanding, admit},
        api::GrpcApi,
        connection::{ActiveCall, ClientConnection},
        ext_authz,
        http2::StreamHandler,
        metadata,
        plain_call::{CHECK_PATH, CallHeaders, ReceivedBody, VERIFY_PATH, read_body, refuse_content_type, send},
        request_body::{RequestBody, overloaded},
        tonic_bridge::{ForwardedCall, forward, is_page, refuse, unless_reset},
    },
    messages, unary,
};
use crate::{
    domain::error::Error,
    proto,
    service::verify::{CachedVerdict, PendingVerify, VerifyCaller},
};

/// Handles the requests of one connection: answers Verify and Check from memory, and passes all other calls to tonic.
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
        let headers = CallHeaders::read(&head.headers);
        if !headers.is_grpc() {
            return refuse_content_type(&mut respond);
        }
        let mut received = ReceivedBody::default();
        if headers.is_plain(&head, CHECK_PATH) {
            received = read_body(&mut body, cx);
            // A panic ends its own call, not the connection.
            let decided = catch_unwind(AssertUnwindSafe(|| {
                ext_authz::try_cached(&self.api.service, headers.secret()?, received.whole()?)
            }));
            match decided {
                Ok(Some(frame)) => {
                    self.connection.peer.admission.authenticated();
                    return send(&mut respond, frame);
                }
                Ok(None) => {}
                Err(_) => return respond.send_reset(Reason::INTERNAL_ERROR),
            }
        } else if headers.is_plain(&head, VERIFY_PATH) {
            received = read_body(&mut body, cx);
            // A panic ends its own call, not the connection.
            match catch_unwind(AssertUnwindSafe(|| self.try_cached(headers.secret(), received.whole()))) {
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
                let mut request =
                    Request::from_parts(head, RequestBody::new(received.bytes, body, bounds, charge, first));
                request.extensions_mut().insert(Arc::clone(&self.connection.peer));
                let active = self.connection.begin_call();
                tokio::spawn(self.clone().pass_on(request, caller, respond, (active, Instant::now())));
            }
        }
    }

    fn is_authenticated(&self) -> bool {
        self.connection.is_authenticated()
    }

    fn keeps_idle(&self) -> bool {
        self.connection.keeps_idle()
    }

    fn grace(&self) -> Option<Duration> {
        self.connection.grace()
    }
}

impl RequestHandler {
    /// Passes a call on to tonic. A credential that is not in memory is looked up first.
    async fn pass_on(
        self,
        mut request: Request<RequestBody>,
        caller: CallerStanding,
        mut respond: SendResponse<Bytes>,
        (_active, arrived): (ActiveCall, Instant),
    ) {
        if let CallerStanding::Unknown { call, .. } = caller {
            let look_up = async {
                admission::look_up(&self.api, &self.connection, (call, arrived), request.headers()).await?;
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

    /// Completes a Verify in a task. A caller that is not in memory is charged for it, and waits for a permit.
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
        let arrived = Instant::now();
        tokio::spawn(async move {
            complete(&api, &connection, (headers, arrived), (message, pending), respond).await;
            drop((admitted, active));
        });
    }

    /// Answers from memory, or says how far it got.
    fn try_cached(&self, credential: Option<&str>, received: Option<&[u8]>) -> FastPath {
        let Some(request) = received.and_then(messages::decode) else { return FastPath::NotTaken };
        let service = &self.api.service;
        let Some(credential) = credential else { return FastPath::Undecided(request.into_message(), None) };
        match service.verify.try_verify_cached(VerifyCaller::Credential(credential), &request.check()) {
            CachedVerdict::Decided(verdict) => FastPath::Answered(messages::frame(&service.verify.answer(&verdict))),
            CachedVerdict::Pending(pending) => FastPath::Undecided(request.into_message(), Some(pending)),
            CachedVerdict::Refused(_) | CachedVerdict::CallerNotCached => {
                FastPath::Undecided(request.into_message(), None)
            }
        }
    }
}

/// Completes a Verify that needs more than memory. If the client resets the stream, the wait is dropped.
async fn complete(
    api: &GrpcApi,
    connection: &ClientConnection,
    (headers, arrived): (HeaderMap, Instant),
    (message, pending): (proto::VerifyRequest, Option<PendingVerify>),
    mut respond: SendResponse<Bytes>,
) {
    let metadata = MetadataMap::from_headers(headers);
    let outcome = async {
        let peer = Some(&*connection.peer);
        let permit = connection.call_permit(metadata::deadline(metadata.as_ref(), arrived)).await;
        let _permit = permit.map_err(|error| api.verify_error("verify", peer, arrived, error))?;
        unary::verify(api, &metadata, peer, (&message, arrived), pending).await
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
