//! `/api/v1/keys`: making a key, and what a key does with itself.

use http::StatusCode;
use serde_json::json;

use super::{
    Body,
    body::Fields,
    request::RequestContext,
    response::{RestError, RestResponse, rest_names},
};
use crate::{
    domain::{access, caller::Caller, key::Binding},
    json,
    service::{
        authenticate::AuthMode,
        keys::{
            create::CreateKey,
            webhook::{WebhookPatch, WebhookUpdated},
        },
    },
};

/// `POST`: as the keyspace allows, also without a credential.
pub async fn create(
    exchange: &mut RequestContext<'_>,
    body: &mut Body,
) -> std::result::Result<RestResponse, RestError> {
    let caller = exchange.caller(AuthMode::SpendLimit).await?;
    let mut fields = Fields::read(&exchange.parts.headers, body, exchange.context.deadline).await?;
    let mut request = create_request(&mut fields, true);
    fields.finish()?;
    let manages = matches!(&caller, Caller::Key(key) if key.admin);
    if request.keyspace.is_empty() && !manages {
        request.keyspace = exchange.http.default_keyspace.clone().unwrap_or_default();
    }
    let created = exchange.service.keys.create(&caller, request, exchange.context).await.map_err(rest_names)?;
    exchange.key = created.key.id.to_string();
    let mut answer = json!({
        "key": created.secret.expose(),
        "id": created.key.id.to_string(),
        "prefix": created.key.prefix,
        "expires": created.key.expires_at.map(json::millis),
    });
    if let Some(secret) = created.webhook_secret {
        answer["webhookSecret"] = secret.as_str().into();
    }
    Ok(RestResponse::json(StatusCode::CREATED, &answer))
}

/// The fields of a key to make, which both routes share.
pub fn create_request(fields: &mut Fields, millis: bool) -> CreateKey {
    CreateKey {
        keyspace: fields.text_or_empty("keyspace"),
        binding: Binding {
            organization: fields.text_or_empty("orgId"),
            instance: fields.text_or_empty("instanceId"),
            environment: fields.text_or_empty("environment"),
        },
        name: fields.text_or_empty("name"),
        scopes: fields.scopes(),
        expiry: fields.expiry(millis),
        webhook_url: fields.text_or_empty("webhook"),
        metadata: fields.pairs("metadata"),
        rate_limit: fields.rate_limit(),
        keyspaces: Vec::new(),
    }
}

/// `GET`: the key's own record.
pub async fn read(exchange: &mut RequestContext<'_>) -> std::result::Result<RestResponse, RestError> {
    let id = exchange.own_id().await?;
    let record = exchange.service.keys.own_record(id, exchange.context).await?;
    Ok(RestResponse::json(StatusCode::OK, &json::own(&record, exchange.now())))
}

/// `DELETE`: ends the key. A spent limit never refuses this.
pub async fn revoke(exchange: &mut RequestContext<'_>) -> std::result::Result<RestResponse, RestError> {
    let key = exchange.key_caller(AuthMode::SelfRevocation).await?;
    exchange.service.keys.revoke_own(&key, exchange.context).await?;
    Ok(RestResponse::json(StatusCode::OK, &json!({"revoked": true})))
}

/// `PATCH`: changes or removes the key's webhook.
pub async fn update(
    exchange: &mut RequestContext<'_>,
    body: &mut Body,
) -> std::result::Result<RestResponse, RestError> {
    let key = exchange.key_caller(AuthMode::SpendLimit).await?;
    access::may_change_itself(&key)?;
    let hook = webhook(exchange, body).await?;
    let hooked = exchange.service.keys.update_own_webhook(&key, hook, exchange.context).await.map_err(rest_names)?;
    let mut answer = json::own(&hooked.key, exchange.now());
    with_secret(&mut answer, &hooked);
    Ok(RestResponse::json(StatusCode::OK, &answer))
}

/// The webhook that a PATCH must name.
pub async fn webhook(exchange: &RequestContext<'_>, body: &mut Body) -> std::result::Result<WebhookPatch, RestError> {
    let mut fields = Fields::read(&exchange.parts.headers, body, exchange.context.deadline).await?;
    if !fields.has("webhook") {
        fields.bad("webhook", "is required; an empty string removes it");
    }
    let hook = WebhookPatch { url: fields.text_or_empty("webhook"), rotate_secret: fields.flag("rotateSecret") };
    fields.finish()?;
    Ok(hook)
}

/// Adds the signing secret where there is a new one.
pub fn with_secret(answer: &mut serde_json::Value, hooked: &WebhookUpdated) {
    if let Some(secret) = &hooked.webhook_secret {
        answer["webhookSecret"] = secret.as_str().into();
    }
}
