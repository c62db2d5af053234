//! Admission of a call: what is decided from its headers, before any of its body is buffered.

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
    transport::{accept::MAX_ANONYMOUS_CALLS, budget::BudgetPart},
};

/// The largest message of a call that anyone may make: health and reflection.
pub(crate) const MAX_PUBLIC_MESSAGE_BYTES: usize = 16 << 10;

/// Who may make a call, and how its request is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// It needs a credential. The string is the name of the call in log lines.
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
    /// Any number, without a bound in time. The first one has to arrive within `server.body_timeout`.
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

/// A call that is admitted.
pub(crate) struct Admitted {
    /// The bounds of its messages.
    pub(crate) bounds: MessageBounds,
    /// The memory for requests that it has reserved.
    pub(crate) charge: Charge,
    /// The result of checking its caller in memory.
    pub(crate) caller: CallerStanding,
}

/// The result of checking a caller in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallerStanding {
    /// Anyone may make the call.
    Public,
    /// The credential is valid, from memory.
    Authenticated,
    /// The credential is that of a revoked key, which may repeat its own revocation: only the message names the key.
    Revoked,
    /// The credential is not in memory: see [`look_up`].
    Unknown {
        /// The name of the call.
        call: &'static str,
        /// The credential is a session token, and otherwise a well-formed key.
        session: bool,
    },
}

/// Checks the credential of a call in memory, without a look-up, and reserves memory for the call. `None`: there is no
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
        Rule::Public(_) if !admission.is_authenticated() && connection.calls() >= MAX_ANONYMOUS_CALLS => {
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
    // A well-formed key has a checksum that nobody can forge, so its holder counts as authenticated here. Anybody can
    // write a token.
    let trusted = match caller {
        CallerStanding::Public => admission.is_authenticated(),
        CallerStanding::Authenticated => true,
        CallerStanding::Revoked => false,
        CallerStanding::Unknown { session, .. } => !session,
    };
    let part = if trusted { BudgetPart::Authenticated } else { BudgetPart::Anonymous };
    let bounds = MessageBounds { max_bytes, unary: requests == Requests::One };
    // Charge tonic's buffers too if an unauthenticated client may hold them for long, as a health watch does. The first
    // call of each connection is exempt, since many clients make a health watch; it is bounded by the number of
    // connections.
    let buffers = caller == CallerStanding::Public && connection.calls() > 0;
    let charge = Charge::new(&connection.budget, headers, part, buffers);
    Ok(Some(Admitted { bounds, charge: charge.map_err(|exceeded| overloaded(exceeded.to_string()))?, caller }))
}

/// Checks the caller in memory.
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

/// Looks up the credential of a call that is not in memory, once the call has a permit. The call is authenticated once
/// more when its message has arrived, because its caller may be revoked meanwhile.
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
        let _permit = connection.call_permit(context.deadline).await?;
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
