//! Envoy's Check, from memory: by the keyspaces and routes of the replicas' own configuration.

use std::{collections::BTreeMap, sync::Arc, time::UNIX_EPOCH};

use bytes::Bytes;
use keyward_client::Principal;

use super::{
    caller::Caller,
    local::LocalCaller,
    metrics::{Call, Source},
    state::Agent,
};
use crate::{
    domain::{
        clock::{Micros, SystemEntropy},
        key::{Binding, Digest, KeyFacts},
        keyspace::Registry,
    },
    proto::envoy::service::auth::v3::{CheckResponse, check_response::HttpResponse},
    service::{
        credential::Headers,
        gateway::{Allowed, GatewayConfig, GatewayRequest},
        verify::CachedKey,
    },
    transport::{
        grpc::{
            codec,
            ext_authz::{self, CheckedRequest},
        },
        request_id::{self, REQUEST_ID},
    },
};

/// The answer to the `CheckRequest` in a body, with its gRPC prefix; none if memory does not have it.
pub(super) fn try_answer(agent: &Agent, caller: Caller<'_>, body: &[u8]) -> Option<Bytes> {
    let checked = ext_authz::read(codec::plain_message(body)?)?;
    let allowed = decide(agent, caller, &checked)?;
    Some(ext_authz::pass(&allowed, &checked, &request_id(agent, checked.header(REQUEST_ID))))
}

/// Lets a request pass by what memory has. None in every other case: a replica decides.
pub(super) fn decide(agent: &Agent, caller: Caller<'_>, checked: &CheckedRequest<'_>) -> Option<Allowed> {
    // The id is for the log, and requests that pass are not logged.
    allow(agent, caller, &checked.request(""))
}

/// Lets a request of any kind of gateway pass by what memory has. None in every other case: a replica decides.
pub(super) fn allow<H: Headers>(agent: &Agent, caller: Caller<'_>, request: &GatewayRequest<'_, H>) -> Option<Allowed> {
    let config = agent.gateway_config.as_ref()?;
    let local = LocalCaller::of(&agent.client, caller)?;
    // The session's replica decides by the same rules, for as long as the session lasts.
    if local.gateway_rules() != config.fingerprint() {
        return None;
    }
    let secret = config.secret_check(request)?;
    let principal = local.verify(&secret.check(request))?;
    let key = cached_key(&principal, config.registry())?;
    agent.counters.answered(Call::Check, Source::Memory);
    Some(secret.allowed(Arc::new(key)))
}

/// Requests the key of a request that a replica has allowed, to keep it in memory.
pub(super) fn remember<H: Headers>(agent: &Agent, request: &GatewayRequest<'_, H>, answer: &CheckResponse) {
    let passed = matches!(answer.http_response, Some(HttpResponse::OkResponse(_)));
    let secret = agent.gateway_config.as_ref().filter(|_| passed).and_then(|config| config.secret_check(request));
    if let Some(secret) = secret {
        agent.client.remember(secret.secret());
    }
}

/// The id of a request: its own, if that is safe to repeat.
pub(super) fn request_id(agent: &Agent, incoming: Option<&[u8]>) -> String {
    let registry = agent.gateway_config.as_ref().map(GatewayConfig::registry);
    // Without the keyspaces' formats a credential in the id cannot be recognised, so every id is replaced.
    let holds = |id: &str| agent.callers.is_own(id) || registry.is_none_or(|registry| registry.holds_credential(id));
    request_id::choose_unless(incoming, holds, &SystemEntropy)
}

/// The key as the answer to a gateway needs it.
fn cached_key(principal: &Principal, registry: &Registry) -> Option<CachedKey> {
    let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
    let created = principal.created().duration_since(UNIX_EPOCH).unwrap_or_default();
    let facts = KeyFacts {
        id: principal.key_id().parse().ok()?,
        keyspace: principal.keyspace().to_owned(),
        digest: Digest([0; 32]),
        binding: Binding {
            organization: text(principal.organization()),
            instance: text(principal.instance()),
            environment: text(principal.environment()),
        },
        name: principal.name().to_owned(),
        scopes: principal.scopes().map(str::to_owned).collect(),
        created_at: Micros::try_from(created.as_micros()).unwrap_or(Micros::MAX),
        // The look-up in memory has checked these already.
        expires_at: None,
        revoked: false,
        metadata: BTreeMap::new(),
        rate_limit: None,
        keyspaces: Vec::new(),
    };
    Some(CachedKey::new(&facts, Some(registry.index(principal.keyspace())?)))
}
