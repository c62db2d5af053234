//! `/api/v1/verify`: VerifyRequest and VerifyResponse in JSON.

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::{
    Body,
    body::Fields,
    request::RequestContext,
    response::{RestError, RestResponse},
};
use crate::{
    domain::{access, clock::SECOND, error::Error, rate_limit::RateState, secret::Secret, verdict::Assertions},
    json,
    service::{
        Services,
        verify::{Check, Verdict, VerifyCaller},
    },
};

/// `POST`: the verdict on a secret; 200 whatever it is.
pub async fn verify(
    exchange: &mut RequestContext<'_>,
    body: &mut Body,
) -> std::result::Result<RestResponse, RestError> {
    let caller = exchange.known_caller().await?;
    let allowed_keyspaces = access::may_verify(&caller)?;
    let mut fields = Fields::read(&exchange.parts.headers, body, exchange.context.deadline).await?;
    if !fields.has("secret") {
        fields.bad("secret", "is required");
    }
    let secret = Secret::new(fields.text_or_empty("secret"));
    let [keyspace, organization, instance, environment] =
        ["keyspace", "organization", "instance", "environment"].map(|name| fields.text_or_empty(name));
    // The proto's JSON mapping takes a field under either of its names.
    let scopes = fields.texts("requiredScopes").or_else(|| fields.texts("required_scopes")).unwrap_or_default();
    let cost = fields.number("cost", 0..=u64::from(u32::MAX), "must be a whole number, 0 to 4294967295");
    fields.finish()?;
    let check = Check {
        secret: secret.expose(),
        keyspace: &keyspace,
        asserted: Assertions {
            environment: &environment,
            organization: &organization,
            instance: &instance,
            scopes: &scopes,
        },
        host_environment: "",
        cost: Some(cost.and_then(|cost| u32::try_from(cost).ok()).unwrap_or(1)),
    };
    let caller = VerifyCaller::Authorized(allowed_keyspaces.as_ref());
    let outcome =
        exchange.service.verify.verify(caller, &check, exchange.context.deadline).await.map_err(json_names)?;
    Ok(RestResponse::json(StatusCode::OK, &verdict(&outcome, exchange.service)))
}

/// The request's own names are the proto's, as JSON writes them.
fn json_names(mut error: Error) -> Error {
    for bad in error.fields.iter_mut().filter(|bad| bad.field == "required_scopes") {
        bad.field = "requiredScopes".into();
    }
    error
}

fn verdict(outcome: &Verdict, service: &Services) -> Value {
    let entry = outcome.key.as_ref();
    let keyspace = entry.and_then(|entry| service.registry.get(entry.keyspace?));
    let metadata: Map<String, Value> = entry
        .into_iter()
        .flat_map(|entry| entry.metadata())
        .map(|(key, value)| (key.to_owned(), value.into()))
        .collect();
    json!({
        "code": outcome.code.name(),
        "message": outcome.code.message(),
        "keyId": entry.map(|entry| entry.id.to_string()),
        "keyspace": keyspace.map(|keyspace| &keyspace.name),
        "organization": entry.map(|entry| json::text(entry.organization())),
        "instance": entry.map(|entry| json::text(entry.instance())),
        "environment": entry.map(|entry| json::text(entry.environment())),
        "name": entry.map(|entry| json::text(entry.name())),
        "scopes": entry.map_or_else(Vec::new, |entry| entry.scopes().collect()),
        "createTime": entry.map(|entry| json::rfc3339(entry.created_at)),
        "expireTime": entry.and_then(|entry| entry.expire_time()).map(json::rfc3339),
        "metadata": metadata,
        "rateLimit": outcome.rate.map(rate_limit),
    })
}

fn rate_limit(state: RateState) -> Value {
    json!({
        "limit": state.limit,
        "remaining": state.remaining,
        "resetTime": json::rfc3339(state.reset_at.saturating_add(999)),
        // As the proto's JSON mapping writes a duration.
        "retryAfter": state.retry_after.map(|wait| format!("{}.{:06}s", wait / SECOND, wait % SECOND)),
    })
}
