//! The requests of one connection of an agent.

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
use tokio::time::Instant;
use tonic::{Status, service::Routes};

use super::{
    caller::{Caller, SocketKind},
    calls::Arrival,
    check,
    metrics::Call,
    state::Agent,
    stream::STREAM_PATH,
};
use crate::{
    domain::error::Error,
    transport::{
        accept::MAX_ANONYMOUS_CALLS,
        budget::BudgetPart,
        grpc::{
            codec::{self, MAX_MESSAGE_BYTES},
            connection::{ActiveCall, ClientConnection},
            http2::StreamHandler,
            metadata,
            plain_call::{CHECK_PATH, CallHeaders, ReceivedBody, VERIFY_PATH, read_body, refuse_content_type, send},
            request_body::{Charge, MessageBounds, RequestBody, overloaded},
            tonic_bridge::{ForwardedCall, forward, refuse, unless_reset},
            verify::messages,
        },
    },
};

const HEALTH_PREFIX: &str = "/grpc.health.v1.Health/";
/// The largest message of a call that anyone may make.
const MAX_HEALTH_BYTES: usize = 16 << 10;

/// Handles the requests of one connection.
#[derive(Clone)]
pub(super) struct AgentHandler {
    pub(super) agent: Arc<Agent>,
    /// Every service of the agent.
    pub(super) routes: Routes,
    pub(super) connection: Arc<ClientConnection>,
    pub(super) origin: SocketKind,
}

/// Who may make a call, and how it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// Anyone may make it.
    Health,
    /// One message of an authenticated caller.
    Unary,
    /// A stream of messages of an authenticated caller.
    Stream,
    /// Only a replica answers it.
    Unsupported,
}

fn rule(path: &str) -> Rule {
    match path {
        VERIFY_PATH | CHECK_PATH => Rule::Unary,
        STREAM_PATH => Rule::Stream,
        _ if path.starts_with(HEALTH_PREFIX) => Rule::Health,
        _ => Rule::Unsupported,
    }
}

impl StreamHandler for AgentHandler {
    fn handle(&self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>, cx: &mut Context<'_>) {
        let (head, mut body) = request.into_parts();
        let headers = CallHeaders::read(&head.headers);
        if !headers.is_grpc() {
            return refuse_content_type(&mut respond);
        }
        let mut received = ReceivedBody::default();
        let check = headers.is_plain(&head, CHECK_PATH);
        if check || headers.is_plain(&head, VERIFY_PATH) {
            received = read_body(&mut body, cx);
            // A panic ends its own call, not the connection.
            let answered =
                catch_unwind(AssertUnwindSafe(|| self.answer_locally(check, &head.headers, received.whole()?)));
            match answered {
                Ok(Some(frame)) => {
                    self.connection.peer.admission.authenticated();
                    return send(&mut respond, frame);
                }
                Ok(None) => {}
                Err(_) => return respond.send_reset(Reason::INTERNAL_ERROR),
            }
        }
        let rule = rule(head.uri.path());
        if rule == Rule::Unsupported {
            // Sending fails only if the client has closed the stream.
            let refusal = Status::unimplemented(self.agent.unsupported.clone());
            return drop(respond.send_response(refusal.into_http(), true));
        }
        match self.admit(rule, &head.headers) {
            Err(error) => refuse(&mut respond, &error),
            Ok((bounds, charge)) => {
                let first = self.connection.timeouts.body;
                let mut request =
                    Request::from_parts(head, RequestBody::new(received.bytes, body, bounds, charge, first));
                request.extensions_mut().insert(Arc::clone(&self.connection.peer));
                request.extensions_mut().insert(self.origin);
                request.extensions_mut().insert(Arrival(Instant::now()));
                let call = self.connection.begin_call();
                tokio::spawn(self.clone().pass_on(request, rule, respond, call));
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

impl AgentHandler {
    /// The answer to a Check or a Verify, if memory has it.
    fn answer_locally(&self, check: bool, headers: &HeaderMap, received: &[u8]) -> Option<Bytes> {
        let caller = self.agent.callers.of(headers, self.origin).ok()?;
        if check {
            return check::try_answer(&self.agent, caller, received);
        }
        let request = messages::decode(received)?;
        let answer = self.agent.verify_locally(Call::Verify, caller, &request.check())?;
        Some(codec::frame(&answer))
    }

    /// Reserves memory for a call.
    ///
    /// # Errors
    ///
    /// Those of [`super::caller::Callers::of`]; RESOURCE_EXHAUSTED if there is no memory for the call, or if the connection
    /// makes too many calls that anyone may make.
    fn admit(&self, rule: Rule, headers: &HeaderMap) -> Result<(MessageBounds, Charge), Error> {
        let ClientConnection { peer, budget, .. } = &*self.connection;
        let authenticated = peer.admission.is_authenticated();
        if rule == Rule::Health && !authenticated && self.connection.calls() >= MAX_ANONYMOUS_CALLS {
            return Err(overloaded("too many calls at once on one connection"));
        }
        let authenticated = match rule {
            Rule::Health | Rule::Unsupported => authenticated,
            Rule::Unary | Rule::Stream => match self.agent.callers.of(headers, self.origin)? {
                Caller::Own => true,
                Caller::Secret(_) => authenticated,
            },
        };
        let part = if authenticated { BudgetPart::Authenticated } else { BudgetPart::Anonymous };
        let max_bytes = if rule == Rule::Health { MAX_HEALTH_BYTES } else { MAX_MESSAGE_BYTES };
        let bounds = MessageBounds { max_bytes, unary: rule != Rule::Stream };
        let buffers = !authenticated && self.connection.calls() > 0;
        let charge = Charge::new(budget, headers, part, buffers);
        Ok((bounds, charge.map_err(|exceeded| overloaded(exceeded.to_string()))?))
    }

    /// Passes a call on to the services. On a connection on which nobody was authenticated it first waits for a permit,
    /// at most until the caller's deadline.
    async fn pass_on(
        self,
        request: Request<RequestBody>,
        rule: Rule,
        mut respond: SendResponse<Bytes>,
        _call: ActiveCall,
    ) {
        let public = rule == Rule::Health;
        let deadline = metadata::deadline(request.headers(), Arrival::of(request.extensions()));
        let _permit = if public {
            None
        } else {
            match unless_reset(pin!(self.connection.call_permit(deadline)), &mut respond).await {
                Some(Ok(permit)) => permit,
                Some(Err(error)) => return refuse(&mut respond, &error),
                None => return,
            }
        };
        let timeouts = self.connection.timeouts;
        forward(self.routes, ForwardedCall { request, respond, timeouts, public, bulk: None }).await;
    }
}
