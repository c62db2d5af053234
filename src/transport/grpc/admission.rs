//! What is decided about a call when its headers have arrived, before any of its body is kept.

use http::HeaderMap;
use tokio::time::Instant;

use super::{
    api::GrpcApi,
    codec::MAX_MESSAGE_BYTES,
    connection::ClientConnection,
    metadata::{self, Credential},
    request_body::{Charge, MessageBounds, overloaded},
};
use crate::{
    domain::{error::Error, verdict::VerdictCode},
    service::{CallContext, authenticate::AuthMode},
    transport::{accept::MAX_STRANGER_CALLS, budget::BudgetPart},
};

/// The largest message of a call that anyone may make: health and reflection.
pub(crate) const MAX_PUBLIC_MESSAGE_BYTES: usize = 16 << 10;

/// Who may make a call, and how its request is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// It needs a credential. The name is that of its log lines.
    Protected(&'static str, Requests),
    /// Anyone may make it.
    Public(Requests),
    /// This listener has no such method. Nothing of its body is read.
    Unknown,
}

/// How many messages a request has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Requests {
    /// Exactly one.
    One,
    /// Any number, as long as the client likes. The first one has to arrive within `server.body_timeout`.
    Stream,
}

/// The rule of each method. A new method gets a line here: without one it is answered UNIMPLEMENTED.
fn rule(path: &str) -> Rule {
    use Requests::{One, Stream};
    use Rule::{Protected, Public, Unknown};
    match path {
        "/keyward.v1.KeyService/Create" => Protected("create", One),
        "/keyward.v1.KeyService/List" => Protected("list", One),
        "/keyward.v1.KeyService/Revoke" => Protected(REVOKE, One),
        "/keyward.v1.KeyService/Verify" => Protected("verify", One),
        "/keyward.v1.KeyService/VerifyStream" => Protected("verify_stream", Stream),
        "/keyward.v1.KeyService/Attach" => Protected("attach", Stream),
        "/keyward.v1.KeyService/UpdateWebhook" => Protected("update_webhook", One),
        "/keyward.v1.AuditService/ListEvents" => Protected("list_events", One),
        "/keyward.v1.AuditService/ListDeliveries" => Protected("list_deliveries", One),
        "/keyward.v1.AuditService/Redeliver" => Protected("redeliver", One),
        "/envoy.service.auth.v3.Authorization/Check" => Protected("check", One),
        _ if path.starts_with("/grpc.health.v1.Health/") => Public(One),
        _ if path.starts_with("/grpc.reflection.") => Public(Stream),
        _ => Unknown,
    }
}

const REVOKE: &str = "revoke";

/// A call that may go on.
pub(crate) struct Admitted {
    /// How its messages may be.
    pub(crate) bounds: MessageBounds,
    /// What it takes of the memory for requests.
    pub(crate) charge: Charge,
    /// Who makes it, as far as that is known.
    pub(crate) caller: CallerStanding,
}

/// What is known of a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallerStanding {
    /// Anyone may make the call.
    Public,
    /// The credential is valid as far as memory goes.
    Authenticated,
    /// The credential is that of a revoked key, which may repeat its own revocation: only the message names the key.
    Revoked,
    /// Memory does not know the credential: see [`look_up`].
    Unknown {
        /// The name of the call.
        call: &'static str,
        /// The credential is a session token, and otherwise a well-formed key.
        session: bool,
    },
}

/// Looks at the credential of a call as far as memory can judge it, and reserves memory for the call. `None`: there is no
/// such method.
///
/// # Errors
///
/// Those of [`Credential::of`]; UNAUTHENTICATED; RESOURCE_EXHAUSTED if there is no memory for the call, or if the
/// connection makes too many calls that anyone may make. The refusal is logged.
pub(crate) fn admit(
    api: &GrpcApi,
    connection: &ClientConnection,
    path: &str,
    headers: &HeaderMap,
) -> Result<Option<Admitted>, Error> {
    let admission = &connection.peer.admission;
    let (requests, caller) = match rule(path) {
        Rule::Unknown => return Ok(None),
        Rule::Public(_) if !admission.is_authenticated() && connection.calls() >= MAX_STRANGER_CALLS => {
            return Err(overloaded("too many calls at once on one connection"));
        }
        Rule::Public(requests) => (requests, CallerStanding::Public),
        Rule::Protected(call, requests) => {
            let refuse = |error| api.refuse(call, &connection.peer, Instant::now(), error);
            (requests, caller_standing(api, connection, call, headers).map_err(refuse)?)
        }
    };
    let max_bytes = match caller {
        CallerStanding::Public | CallerStanding::Revoked => MAX_PUBLIC_MESSAGE_BYTES,
        CallerStanding::Authenticated | CallerStanding::Unknown { .. } => MAX_MESSAGE_BYTES,
    };
    // Nobody can forge a key that is well-formed, so its holder is no stranger. Anybody can write a token.
    let trusted = match caller {
        CallerStanding::Public => admission.is_authenticated(),
        CallerStanding::Authenticated => true,
        CallerStanding::Revoked => false,
        CallerStanding::Unknown { session, .. } => !session,
    };
    let part = if trusted { BudgetPart::Authenticated } else { BudgetPart::Anonymous };
    let bounds = MessageBounds { max_bytes, unary: requests == Requests::One };
    // Tonic's buffers, if a stranger may hold them for long. A watch of the health is such a call, and many clients make
    // one: the first call of each connection is bounded by the number of connections.
    let buffers = caller == CallerStanding::Public && connection.calls() > 0;
    let charge = Charge::new(&connection.budget, headers, part, buffers);
    Ok(Some(Admitted { bounds, charge: charge.map_err(|exceeded| overloaded(exceeded.to_string()))?, caller }))
}

/// What memory knows of the caller.
fn caller_standing(
    api: &GrpcApi,
    connection: &ClientConnection,
    call: &'static str,
    headers: &HeaderMap,
) -> Result<CallerStanding, Error> {
    let auth = &api.service.auth;
    let trusted = match Credential::of(headers, Some(&connection.peer))? {
        Credential::Certificate(_) => Ok(()),
        Credential::Secret(secret) => match auth.authenticate_cached(secret) {
            Some(trusted) => trusted,
            None => return Ok(CallerStanding::Unknown { call, session: auth.is_session(secret) }),
        },
    };
    match trusted {
        Ok(()) => {
            connection.peer.admission.authenticated();
            Ok(CallerStanding::Authenticated)
        }
        Err(error) if repeats_revocation(call, &error) => Ok(CallerStanding::Revoked),
        Err(error) => Err(error),
    }
}

/// Whether a refused call may be one that a revoked key repeats.
fn repeats_revocation(call: &str, refusal: &Error) -> bool {
    call == REVOKE && refusal.reason == VerdictCode::Revoked.name()
}

/// Looks up the credential of a call that memory does not know, once the call has its turn. The call is authenticated once
/// more when its message is there: its caller may be revoked meanwhile.
///
/// # Errors
///
/// Those of [`crate::service::authenticate::Authenticator::authenticate_any`]. The refusal is logged.
pub(crate) async fn look_up(
    api: &GrpcApi,
    connection: &ClientConnection,
    (call, arrived): (&'static str, Instant),
    headers: &HeaderMap,
) -> Result<(), Error> {
    let context = CallContext { deadline: metadata::deadline(headers, arrived), host_environment: "", client: None };
    let found = async {
        let Credential::Secret(secret) = Credential::of(headers, Some(&connection.peer))? else { return Ok(()) };
        let _permit = connection.turn(context.deadline).await?;
        api.service.auth.authenticate_any(secret, AuthMode::WithoutLimit, context).await.map(drop)
    }
    .await;
    match found {
        Ok(()) => connection.peer.admission.authenticated(),
        Err(error) if repeats_revocation(call, &error) => {}
        Err(error) => return Err(api.refuse(call, &connection.peer, arrived, error)),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;
    use crate::proto::DESCRIPTORS;

    #[test]
    fn every_method_has_a_rule_and_needs_a_credential() {
        let files = FileDescriptorSet::decode(DESCRIPTORS).unwrap();
        let mut methods = 0;
        for file in &files.file {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    let Rule::Protected(_, requests) = rule(&path) else { panic!("{path}") };
                    assert_eq!(method.client_streaming(), requests == Requests::Stream, "{path}");
                    methods += 1;
                }
            }
        }
        assert!(methods >= 9, "{methods}");
    }
}
