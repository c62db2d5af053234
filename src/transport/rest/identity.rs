//! Who the caller is, and what a command line has to know before anybody signed in.

use super::{error::RestResult, extract::caller::IdentifiedCaller, request::RequestContext, response::RestResponse};
use crate::{
    domain::session::Role,
    json::{
        identity::{Discovery, Identity, Keyspace, Organization},
        time::Rfc3339,
    },
};

/// Who the caller is
#[utoipa::path(
    get,
    path = "/api/v1/whoami",
    operation_id = "whoami",
    tag = "identity",
    security(("bearer" = []), ("apiKey" = []), ("session" = []), ("sessionCookie" = [])),
    responses((status = 200, description = "The caller.", body = Identity))
)]
pub(crate) async fn whoami(context: RequestContext, IdentifiedCaller(caller): IdentifiedCaller) -> RestResult {
    let identity = context.service().keys.identity(&caller, context.call()).await?;
    if let Some(key) = identity.key {
        context.set_key(key);
    }
    Ok(RestResponse::ok(&Identity {
        caller: identity.caller,
        subject: identity.subject.as_deref(),
        key_id: identity.key.map(|key| key.to_string()),
        name: identity.name.as_deref(),
        keyspaces: &identity.keyspaces,
        organizations: identity.organizations.iter().map(organization).collect(),
        scopes: &identity.scopes,
        expires_at: identity.expires_at.map(Rfc3339),
    }))
}

fn organization((id, role): &(String, Option<Role>)) -> Organization<'_> {
    Organization { id, role: role.map(Role::name) }
}

/// What a command line has to know
///
/// Where people sign in, and which keyspaces there are.
#[utoipa::path(
    get,
    path = "/.well-known/keyward",
    operation_id = "discovery",
    tag = "identity",
    responses((status = 200, description = "The installation.", body = Discovery))
)]
pub(crate) async fn discovery(context: RequestContext) -> RestResponse {
    let found = context.service().discovery();
    let sign_in = found.sign_in.as_ref();
    RestResponse::ok(&Discovery {
        name: found.name,
        issuer: sign_in.map(|sign_in| sign_in.issuer),
        client_id: sign_in.map(|sign_in| sign_in.client.client_id.as_str()),
        scopes: sign_in.map(|sign_in| sign_in.client.scopes.as_slice()),
        redirect_ports: sign_in.map(|sign_in| sign_in.client.ports.as_slice()),
        device_flow: sign_in.and_then(|sign_in| sign_in.device_flow),
        grpc: context.published().grpc.as_deref(),
        keyspaces: found
            .keyspaces
            .iter()
            .map(|keyspace| Keyspace {
                name: keyspace.name,
                scopes: keyspace.scopes,
                requires: keyspace.requires.clone(),
            })
            .collect(),
        dashboard: context.published().dashboard.as_deref(),
    })
}
