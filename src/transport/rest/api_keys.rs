//! `/api/api-keys`: managing the keys of an organization.

use std::collections::HashMap;

use http::StatusCode;
use serde_json::json;

use super::{
    Body,
    body::Fields,
    request::RequestContext,
    response::{RestError, RestResponse, rest_names},
    self_service,
};
use crate::{
    domain::{
        access,
        caller::Caller,
        error::{Error, Result},
        key::{Binding, KeyRecord, KeyStatus},
        validation::Violations,
    },
    json,
    service::keys::list::ListKeys,
};

/// `POST`: makes a key.
pub async fn create(
    exchange: &mut RequestContext<'_>,
    body: &mut Body,
) -> std::result::Result<RestResponse, RestError> {
    let caller = manager(exchange).await?;
    let mut fields = Fields::read(&exchange.parts.headers, body, exchange.context.deadline).await?;
    let mut request = self_service::create_request(&mut fields, false);
    request.keyspaces = fields.keyspaces();
    if request.name.trim().is_empty() {
        fields.bad("name", "is required");
    }
    let named = organization(exchange);
    if request.binding.organization.is_empty() {
        request.binding.organization = named;
    } else if !named.is_empty() && named != request.binding.organization && matches!(caller, Caller::Operator { .. }) {
        // Whoever is confined to organizations hears so below.
        fields.bad("orgId", "is not that of the query");
    }
    fields.finish()?;
    let created = exchange.service.keys.create(&caller, request, exchange.context).await.map_err(rest_names)?;
    exchange.key = created.key.id.to_string();
    let mut answer = json::item(&created.key, exchange.now());
    answer["key"] = created.secret.expose().into();
    if let Some(secret) = created.webhook_secret {
        answer["webhookSecret"] = secret.as_str().into();
    }
    Ok(RestResponse::json(StatusCode::CREATED, &answer))
}

/// `GET`: a page of keys.
pub async fn list(exchange: &mut RequestContext<'_>) -> std::result::Result<RestResponse, RestError> {
    let caller = manager(exchange).await?;
    let request = list_request(exchange.parts.uri.query().unwrap_or_default())?;
    let page = exchange.service.keys.list(&caller, request, exchange.context).await.map_err(rest_names)?;
    let now = exchange.now();
    let keys: Vec<_> = page.keys.iter().map(|key| json::item(key, now)).collect();
    Ok(RestResponse::json(StatusCode::OK, &json!({"keys": keys, "nextCursor": page.next})))
}

/// `GET` of one key.
pub async fn read(exchange: &mut RequestContext<'_>, id: &str) -> std::result::Result<RestResponse, RestError> {
    let caller = manager(exchange).await?;
    let key = unknown_if_unreadable(exchange.service.keys.get(&caller, id, exchange.context).await)?;
    of_organization(&key, &organization(exchange))?;
    Ok(item(exchange, &key))
}

/// `DELETE` of one key. A body is not needed; it may give the reason.
pub async fn revoke(
    exchange: &mut RequestContext<'_>,
    id: &str,
    body: &mut Body,
) -> std::result::Result<RestResponse, RestError> {
    let caller = manager(exchange).await?;
    in_organization(exchange, &caller, id).await?;
    let mut fields = Fields::read(&exchange.parts.headers, body, exchange.context.deadline).await?;
    let reason = fields.text_or_empty("reason");
    fields.finish()?;
    let revoked = exchange.service.keys.revoke(&caller, id, reason, exchange.context).await;
    let key = unknown_if_unreadable(revoked)?;
    Ok(item(exchange, &key))
}

/// `PATCH` of one key.
pub async fn update(
    exchange: &mut RequestContext<'_>,
    id: &str,
    body: &mut Body,
) -> std::result::Result<RestResponse, RestError> {
    let caller = manager(exchange).await?;
    in_organization(exchange, &caller, id).await?;
    let hook = self_service::webhook(exchange, body).await?;
    let hooked = exchange.service.keys.update_webhook(&caller, id, hook, exchange.context).await;
    let hooked = unknown_if_unreadable(hooked).map_err(rest_names)?;
    exchange.key = hooked.key.id.to_string();
    let mut answer = json::item(&hooked.key, exchange.now());
    self_service::with_secret(&mut answer, &hooked);
    Ok(RestResponse::json(StatusCode::OK, &answer))
}

fn item(exchange: &mut RequestContext<'_>, key: &KeyRecord) -> RestResponse {
    exchange.key = key.id.to_string();
    RestResponse::json(StatusCode::OK, &json::item(key, exchange.now()))
}

/// The organization that the query names; empty if none.
fn organization(exchange: &RequestContext<'_>) -> String {
    let query = exchange.parts.uri.query().unwrap_or_default();
    let named = url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "orgId");
    named.map(|(_, organization)| organization.into_owned()).unwrap_or_default()
}

/// In another organization than the one that was named, a key does not exist.
fn of_organization(key: &KeyRecord, named: &str) -> Result<()> {
    if named.is_empty() || key.binding.organization == named { Ok(()) } else { Err(Error::no_such_key()) }
}

/// The same of a key that is yet to be read, where an organization is named.
async fn in_organization(exchange: &RequestContext<'_>, caller: &Caller, id: &str) -> Result<()> {
    let named = organization(exchange);
    if named.is_empty() {
        return Ok(());
    }
    let key = unknown_if_unreadable(exchange.service.keys.get(caller, id, exchange.context).await)?;
    of_organization(&key, &named)
}

/// The caller, who must be able to manage keys: said before a word of the request is looked at.
pub(super) async fn manager(exchange: &mut RequestContext<'_>) -> Result<Caller> {
    let mut caller = exchange.known_caller().await?;
    access::may_manage(&caller)?;
    // `orgId` may stand on any of these routes; it only ever narrows.
    let query = exchange.parts.uri.query().unwrap_or_default();
    for (_, organization) in url::form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == "orgId") {
        caller = access::restrict_to_organization(caller, &organization)?;
    }
    Ok(caller)
}

/// A path segment that is no id at all names no key either.
fn unknown_if_unreadable<T>(result: Result<T>) -> Result<T> {
    result.map_err(|error| match error.fields.as_slice() {
        [only] if only.field == "id" => Error::no_such_key(),
        _ => error,
    })
}

/// The parameters of a query string, each to be taken once.
pub(super) struct Query(HashMap<String, String>);

impl Query {
    /// Reads them; one that is given twice is a violation.
    pub(super) fn read(query: &str, violations: &mut Violations) -> Self {
        let mut given: HashMap<String, String> = HashMap::new();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let name: String = name.chars().take(64).collect();
            if given.insert(name.clone(), value.into_owned()).is_some() {
                violations.add(name, "must be given once");
            }
        }
        Self(given)
    }

    /// One of them; empty if it is absent.
    pub(super) fn take(&mut self, name: &str) -> String {
        self.0.remove(name).unwrap_or_default()
    }

    /// The size of a page.
    pub(super) fn limit(&mut self, violations: &mut Violations) -> u32 {
        match self.take("limit").as_str() {
            "" => 0,
            text => text.parse().ok().filter(|limit| (0..=1_000).contains(limit)).unwrap_or_else(|| {
                violations.add("limit", "must be a whole number, 1 to 1000, or 0 for 50");
                0
            }),
        }
    }

    /// What nobody took is a violation.
    pub(super) fn finish(self, violations: &mut Violations) {
        for name in self.0.into_keys() {
            violations.add(name, "unknown parameter");
        }
    }
}

fn list_request(query: &str) -> Result<ListKeys> {
    let mut violations = Violations::default();
    let mut query = Query::read(query, &mut violations);
    let status = match query.take("status").as_str() {
        "" => None,
        "active" => Some(KeyStatus::Active),
        "revoked" => Some(KeyStatus::Revoked),
        "expired" => Some(KeyStatus::Expired),
        _ => {
            violations.add("status", "must be active, revoked or expired");
            None
        }
    };
    let request = ListKeys {
        page_size: query.limit(&mut violations),
        keyspace: query.take("keyspace"),
        binding: Binding {
            organization: query.take("orgId"),
            instance: query.take("instanceId"),
            environment: query.take("environment"),
        },
        status,
        created_by: query.take("createdBy"),
        page_token: query.take("cursor"),
    };
    query.finish(&mut violations);
    violations.finish()?;
    Ok(request)
}
