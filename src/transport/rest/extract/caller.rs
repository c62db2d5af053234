//! Callers: each extractor accepts one kind of caller, and refuses all others.

use std::{borrow::Cow, sync::Arc};

use axum::extract::FromRequestParts;
use http::request::Parts;

use super::{credential, csrf, path::PathId, query};
use crate::{
    domain::{
        access,
        caller::{Caller, KeyCaller},
        error::{Error, Result},
        key::{KeyId, KeyRecord},
        keyspace::AllowedKeyspaces,
        text::same,
    },
    service::{
        authenticate::{AuthMode, Authenticated},
        credential::Presented,
    },
    transport::rest::{error::RestError, request::RequestContext},
};

/// How a route authenticates.
#[derive(Clone, Copy)]
struct Policy<'a> {
    mode: AuthMode,
    /// Whether sessions may call, also by cookie.
    sessions: bool,
    /// The key that the call revokes, whose holder may repeat the call after its key is revoked.
    revokes: Option<&'a str>,
}

/// A product's key on the self-service routes, or any other caller without a session.
const NO_SESSIONS: Policy<'_> = Policy { mode: AuthMode::SpendLimit, sessions: false, revokes: None };
const WITH_SESSIONS: Policy<'_> = Policy { mode: AuthMode::SpendLimit, sessions: true, revokes: None };

/// Authenticates the caller; anonymous without a credential.
async fn authenticate(context: &RequestContext, parts: &Parts, policy: Policy<'_>) -> Result<Caller> {
    let (service, call) = (context.service(), context.call());
    let proved = match credential::find(&parts.headers, service, policy.sessions)? {
        None => {
            let certified = context.peer().certified(&parts.headers)?;
            Ok(Authenticated { caller: certified.cloned().unwrap_or(Caller::Anonymous), rate: None })
        }
        Some(Presented::Secret(_, secret)) => match policy.revokes {
            Some(id) => service.auth.authenticate_to_revoke(&secret, id, policy.mode, call).await,
            None => service.auth.authenticate(&secret, policy.mode, call).await,
        },
        Some(Presented::Token(token)) => service.auth.authenticate_session(&token, None, call.deadline).await,
        Some(Presented::Cookie(name, token)) => {
            csrf::check(parts, context.peer().secure)?;
            service.auth.authenticate_session(&token, Some(name), call.deadline).await
        }
    };
    match proved {
        Ok(Authenticated { caller, rate }) => {
            context.set_rate(rate);
            context.set_caller(caller.clone());
            Ok(caller)
        }
        Err(error) => {
            context.set_rate(error.rate);
            Err(error)
        }
    }
}

/// Like [`authenticate`], but a credential is required.
async fn identified_caller(context: &RequestContext, parts: &Parts, policy: Policy<'_>) -> Result<Caller> {
    match authenticate(context, parts, policy).await? {
        Caller::Anonymous => Err(Error::missing_credential()),
        caller => Ok(caller),
    }
}

async fn key_caller(context: &RequestContext, parts: &Parts, mode: AuthMode) -> Result<Arc<KeyCaller>> {
    match authenticate(context, parts, Policy { mode, ..NO_SESSIONS }).await? {
        Caller::Key(key) => {
            context.set_key(key.id);
            Ok(key)
        }
        Caller::Anonymous => Err(Error::missing_credential()),
        Caller::Session(_) => Err(Error::forbidden("A session is no key")),
        Caller::Operator { .. } | Caller::Service { .. } => {
            Err(Error::forbidden("Keys of operators and services cannot change themselves"))
        }
    }
}

/// The caller must be able to manage keys. `orgId` in the query restricts it to one organization; on no route does it
/// grant more.
async fn manager(context: &RequestContext, parts: &Parts, policy: Policy<'_>) -> Result<Caller> {
    let mut caller = identified_caller(context, parts, policy).await?;
    access::may_manage(&caller)?;
    for organization in query::organizations(parts) {
        caller = access::restrict_to_organization(caller, &organization)?;
    }
    Ok(caller)
}

/// If the query names an organization, the key must be of it: in any other organization it does not exist.
async fn check_organization(context: &RequestContext, parts: &Parts, caller: &Caller, id: &str) -> Result<()> {
    let named = query::organization(parts);
    if named.is_empty() {
        return Ok(());
    }
    let key = no_such_key_if_unreadable(context.service().keys.get(caller, id, context.call()).await)?;
    in_organization(&key, &named)
}

/// A key does not exist in another organization than its own.
pub(crate) fn in_organization(key: &KeyRecord, named: &str) -> Result<()> {
    if named.is_empty() || same(&key.binding.organization, named) { Ok(()) } else { Err(Error::no_such_key()) }
}

/// Replaces the error for a malformed id by the one for an id without a key.
pub(crate) fn no_such_key_if_unreadable<T>(result: Result<T>) -> Result<T> {
    result.map_err(|error| match error.fields.as_slice() {
        [only] if only.field == "id" => Error::no_such_key(),
        _ => error,
    })
}

fn path_id(parts: &Parts) -> Result<Cow<'_, str>> {
    PathId::of(parts).ok_or_else(|| Error::internal("the route has no id in its path"))
}

/// Any caller, also an anonymous one.
pub(crate) struct AnyCaller(pub(in crate::transport::rest) Caller);

/// The id of the calling key. Every key may read its own record.
pub(crate) struct OwnId(pub(in crate::transport::rest) KeyId);

/// A product's key that revokes itself. A spent rate limit never refuses this.
pub(crate) struct SelfRevoker(pub(in crate::transport::rest) Arc<KeyCaller>);

/// A product's key that may change its own settings.
pub(crate) struct SelfServiceKey(pub(in crate::transport::rest) Arc<KeyCaller>);

/// Any caller with a credential, also a session.
pub(crate) struct IdentifiedCaller(pub(in crate::transport::rest) Caller);

/// A caller that may verify keys: of these keyspaces, or of all.
pub(crate) struct Verifier(pub(in crate::transport::rest) Option<Arc<AllowedKeyspaces>>);

/// A caller that may manage keys.
pub(crate) struct Manager(pub(in crate::transport::rest) Caller);

/// A caller that may manage keys, and the id of a key in the organization that the query names.
pub(crate) struct KeyManager {
    pub(crate) caller: Caller,
    pub(crate) id: String,
}

/// Like [`KeyManager`], for a call that revokes the key.
pub(crate) struct KeyRevoker {
    pub(crate) caller: Caller,
    pub(crate) id: String,
}

impl AnyCaller {
    async fn extract(context: &RequestContext, parts: &Parts) -> Result<Self> {
        authenticate(context, parts, NO_SESSIONS).await.map(Self)
    }
}

impl OwnId {
    async fn extract(context: &RequestContext, parts: &Parts) -> Result<Self> {
        let caller = identified_caller(context, parts, NO_SESSIONS).await?;
        let id = caller.key_id().ok_or_else(|| Error::forbidden("This caller is no key and has no record"))?;
        context.set_key(id);
        Ok(Self(id))
    }
}

impl SelfRevoker {
    async fn extract(context: &RequestContext, parts: &Parts) -> Result<Self> {
        key_caller(context, parts, AuthMode::SelfRevocation).await.map(Self)
    }
}

impl SelfServiceKey {
    async fn extract(context: &RequestContext, parts: &Parts) -> Result<Self> {
        let key = key_caller(context, parts, AuthMode::SpendLimit).await?;
        access::may_change_itself(&key)?;
        Ok(Self(key))
    }
}

impl IdentifiedCaller {
    async fn extract(context: &RequestContext, parts: &Parts) -> Result<Self> {
        identified_caller(context, parts, WITH_SESSIONS).await.map(Self)
    }
}

impl Verifier {
    async fn extract(context: &RequestContext, parts: &Parts) -> Result<Self> {
        access::may_verify(&identified_caller(context, parts, NO_SESSIONS).await?).map(Self)
    }
}

impl Manager {
    async fn extract(context: &RequestContext, parts: &Parts) -> Result<Self> {
        manager(context, parts, WITH_SESSIONS).await.map(Self)
    }
}

impl KeyManager {
    async fn extract(context: &RequestContext, parts: &Parts) -> Result<Self> {
        let id = path_id(parts)?.into_owned();
        let caller = manager(context, parts, WITH_SESSIONS).await?;
        check_organization(context, parts, &caller, &id).await?;
        Ok(Self { caller, id })
    }
}

impl KeyRevoker {
    async fn extract(context: &RequestContext, parts: &Parts) -> Result<Self> {
        let id = path_id(parts)?.into_owned();
        let caller = manager(context, parts, Policy { revokes: Some(&id), ..WITH_SESSIONS }).await?;
        check_organization(context, parts, &caller, &id).await?;
        Ok(Self { caller, id })
    }
}

macro_rules! extractors {
    ($($name:ident)*) => {$(
        impl<S: Sync> FromRequestParts<S> for $name {
            type Rejection = RestError;

            async fn from_request_parts(parts: &mut Parts, _: &S) -> std::result::Result<Self, RestError> {
                let context = RequestContext::of(parts)?;
                Ok(Self::extract(&context, parts).await?)
            }
        }
    )*};
}

extractors!(AnyCaller IdentifiedCaller OwnId SelfRevoker SelfServiceKey Verifier Manager KeyManager KeyRevoker);
