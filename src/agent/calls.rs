//! The calls that an agent answers, as gRPC services. Calls that are answered on the task that read them do not use
//! these services.

use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Extensions, Request, Response, Status, Streaming, metadata::MetadataMap};

use super::{
    caller::{Caller, SocketKind},
    check,
    metrics::Call,
    state::Agent,
    stream::{self, AnswerStream, CheckStream, STREAM_PATH, StreamCaller},
};
use crate::{
    domain::{error::Error, secret::Secret},
    proto::{
        self,
        envoy::service::auth::v3::{CheckRequest, CheckResponse, authorization_server::Authorization},
        key_service_server::KeyService,
    },
    service::gateway::Allowed,
    transport::{
        deadline,
        grpc::{
            ext_authz::{CheckedRequest, respond},
            metadata,
            plain_call::{CHECK_PATH, VERIFY_PATH},
            verify::messages,
        },
        peer::Peer,
        request_id::REQUEST_ID,
        status,
    },
};

/// Implements the services of an agent.
#[derive(Clone)]
pub(super) struct AgentApi {
    pub(super) agent: Arc<Agent>,
}

/// When a call arrived. Its deadline counts from then, even if it had to wait for a permit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival(pub(super) Instant);

impl Arrival {
    /// The arrival of a call with these extensions.
    pub(super) fn of(extensions: &Extensions) -> Instant {
        extensions.get::<Self>().map_or_else(Instant::now, |arrival| arrival.0)
    }
}

/// The caller, the connection and the deadline of a call.
pub(super) struct CallHead<'a> {
    pub(super) caller: Caller<'a>,
    pub(super) peer: Option<&'a Peer>,
    pub(super) deadline: Instant,
}

impl CallHead<'_> {
    /// Whether a call was authenticated on this connection before.
    pub(super) fn was_authenticated(&self) -> bool {
        self.peer.is_some_and(|peer| peer.admission.is_authenticated())
    }
}

impl AgentApi {
    /// Reads the head of a call.
    ///
    /// # Errors
    ///
    /// Those of [`super::caller::Callers::of`].
    pub(super) fn head<'a>(
        &self,
        metadata: &'a MetadataMap,
        extensions: &'a Extensions,
    ) -> Result<CallHead<'a>, Status> {
        let arrived = Arrival::of(extensions);
        let origin = extensions.get::<SocketKind>().copied().unwrap_or(SocketKind::Loopback);
        let caller = self.agent.callers.of(metadata.as_ref(), origin).map_err(|error| status::grpc(&error))?;
        let deadline = metadata::deadline(metadata.as_ref(), arrived);
        Ok(CallHead { caller, peer: metadata::peer(extensions), deadline })
    }

    fn unsupported<T>(&self) -> Result<T, Status> {
        Err(Status::unimplemented(self.agent.unsupported.clone()))
    }
}

#[tonic::async_trait]
impl Authorization for AgentApi {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let head = self.head(&metadata, &extensions)?;
        let checked = CheckedRequest::of(&message);
        let respond = |decision: Result<Allowed, Error>| {
            Response::new(respond(&decision, &checked, check::request_id(&self.agent, checked.header(REQUEST_ID))))
        };
        if let Some(allowed) = check::decide(&self.agent, head.caller, &checked) {
            return Ok(respond(Ok(allowed)));
        }
        let caller = (head.caller, head.was_authenticated());
        let answer = self.agent.upstream.unary(CHECK_PATH, caller, &message, head.deadline).await;
        self.agent.note(Call::Check, head.caller, head.peer, &answer);
        match answer {
            Ok(answer) => {
                check::remember(&self.agent, &checked.request(""), &answer);
                Ok(Response::new(answer))
            }
            // Envoy's protocol has a response for a request that could not be decided.
            Err(status) if is_undecided(&status) && self.agent.local(head.caller).is_some() => {
                Ok(respond(Err(Error::unavailable(status.message().to_owned()))))
            }
            Err(status) => Err(status),
        }
    }
}

/// Whether a call has failed because there was no decision.
fn is_undecided(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded)
}

#[tonic::async_trait]
impl KeyService for AgentApi {
    async fn verify(&self, request: Request<proto::VerifyRequest>) -> Result<Response<proto::VerifyResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let head = self.head(&metadata, &extensions)?;
        if let Some(answer) = self.agent.verify_locally(Call::Verify, head.caller, &messages::check(&message)) {
            return Ok(Response::new(answer));
        }
        let caller = (head.caller, head.was_authenticated());
        let answer = self.agent.upstream.unary(VERIFY_PATH, caller, &message, head.deadline).await;
        self.agent.note(Call::Verify, head.caller, head.peer, &answer);
        let answer: proto::VerifyResponse = answer?;
        self.agent.remember(&message.secret, &answer);
        Ok(Response::new(answer))
    }

    type VerifyStreamStream = AnswerStream;

    async fn verify_stream(
        &self,
        request: Request<Streaming<proto::VerifyStreamRequest>>,
    ) -> Result<Response<AnswerStream>, Status> {
        let (metadata, extensions, inbound) = request.into_parts();
        let head = self.head(&metadata, &extensions)?;
        let (agent, authenticated) = (Arc::clone(&self.agent), head.was_authenticated());
        let caller = match head.caller {
            Caller::Own => StreamCaller::Own,
            Caller::Secret(secret) => StreamCaller::Secret(Arc::new(Secret::new(secret.to_owned()))),
        };
        // The caller of a stream is authenticated before its first message.
        let forwarded = if agent.local(head.caller).is_some() {
            None
        } else {
            let (messages, queued) = stream::messages();
            let opened = agent
                .upstream
                .stream(STREAM_PATH, (head.caller, authenticated), queued, deadline::deadline(None))
                .await;
            agent.note(Call::VerifyStream, head.caller, head.peer, &opened);
            Some((messages, opened?))
        };
        if let Some(peer) = head.peer {
            peer.admission.authenticated();
        }
        let closing = head.peer.map_or_else(CancellationToken::new, |peer| peer.closing.clone());
        Ok(Response::new(CheckStream::new(agent, caller, forwarded).serve(inbound, closing)))
    }

    async fn create(&self, _: Request<proto::CreateRequest>) -> Result<Response<proto::CreateResponse>, Status> {
        self.unsupported()
    }

    async fn list(&self, _: Request<proto::ListRequest>) -> Result<Response<proto::ListResponse>, Status> {
        self.unsupported()
    }

    async fn revoke(&self, _: Request<proto::RevokeRequest>) -> Result<Response<proto::RevokeResponse>, Status> {
        self.unsupported()
    }

    type AttachStream = futures::stream::Empty<Result<proto::AttachResponse, Status>>;

    async fn attach(
        &self,
        _: Request<Streaming<proto::AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        self.unsupported()
    }

    async fn update_webhook(
        &self,
        _: Request<proto::UpdateWebhookRequest>,
    ) -> Result<Response<proto::UpdateWebhookResponse>, Status> {
        self.unsupported()
    }
}
