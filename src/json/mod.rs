//! Records as JSON. A field without a value is null.

use serde_json::{Value, json};
use time::{OffsetDateTime, macros::format_description};

use crate::domain::{
    clock::Micros,
    event::Event,
    key::{KeyRecord, KeyStatus},
    rate_limit::RateLimit,
};

/// A time in RFC 3339 with milliseconds, rounded down.
pub fn rfc3339(at: Micros) -> Value {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at) * 1_000).ok();
    time.and_then(|time| time.format(format).ok()).into()
}

/// A time in unix milliseconds, rounded down.
pub fn millis(at: Micros) -> Value {
    at.div_euclid(1_000).into()
}

/// A text; null if empty.
pub fn text(text: &str) -> Value {
    Some(text).filter(|text| !text.is_empty()).into()
}

fn status(key: &KeyRecord, now: Micros) -> &'static str {
    match key.status(now) {
        KeyStatus::Active => "active",
        KeyStatus::Revoked => "revoked",
        KeyStatus::Expired => "expired",
    }
}

/// A key's own record, as `/api/v1/keys` gives it: times in unix milliseconds.
pub fn own(key: &KeyRecord, now: Micros) -> Value {
    json!({
        "id": key.id.to_string(),
        "prefix": key.prefix,
        "name": text(&key.name),
        "scopes": key.scopes,
        "status": status(key, now),
        "created": millis(key.created_at),
        "expires": key.expires_at.map(millis),
        "lastUsed": key.last_used_at.map(millis),
        "webhook": text(&key.webhook_url),
        "orgId": text(&key.binding.organization),
        "instanceId": text(&key.binding.instance),
        "environment": text(&key.binding.environment),
    })
}

/// A key as `/api/api-keys` gives it: times in RFC 3339.
pub fn item(key: &KeyRecord, now: Micros) -> Value {
    let mut item = json!({
        "id": key.id.to_string(),
        "name": text(&key.name),
        "prefix": key.prefix,
        "scopes": key.scopes,
        "status": status(key, now),
        "lastUsedAt": key.last_used_at.map(rfc3339),
        "expiresAt": key.expires_at.map(rfc3339),
        "createdAt": rfc3339(key.created_at),
        "createdBy": text(&key.created_by),
        "revokedAt": key.revoked_at.map(rfc3339),
        "orgId": text(&key.binding.organization),
        "instanceId": text(&key.binding.instance),
        "environment": text(&key.binding.environment),
        "webhook": text(&key.webhook_url),
        "metadata": key.metadata,
        "rateLimit": key.rate_limit.map(rate_limit),
    });
    with_keyspaces(&mut item, key);
    item
}

fn rate_limit(own: RateLimit) -> Value {
    json!({"limit": own.limit, "windowMs": millis(own.window)})
}

/// Adds the keyspaces that a service's key is limited to, where it is.
fn with_keyspaces(record: &mut Value, key: &KeyRecord) {
    if !key.keyspaces.is_empty() {
        record["keyspaces"] = key.keyspaces.clone().into();
    }
}

/// The key of an event as its webhook is told: as it was right after. Its last use is not of that moment, and left out.
pub fn told(event: &Event) -> Value {
    let (key, at) = (&event.key, event.id.at());
    let mut told = json!({
        "id": key.id.to_string(),
        "keyspace": key.keyspace,
        "name": text(&key.name),
        "prefix": key.prefix,
        "scopes": key.scopes,
        "status": status(key, at),
        "expiresAt": key.expires_at.map(rfc3339),
        "createdAt": rfc3339(key.created_at),
        "createdBy": text(&key.created_by),
        "revokedAt": key.revoked_at.map(rfc3339),
        "revokedBy": text(&key.revoked_by),
        "revokeReason": text(&key.revoke_reason),
        "orgId": text(&key.binding.organization),
        "instanceId": text(&key.binding.instance),
        "environment": text(&key.binding.environment),
        "webhook": text(&key.webhook_url),
        "metadata": key.metadata,
        "rateLimit": key.rate_limit.map(rate_limit),
    });
    with_keyspaces(&mut told, key);
    told
}
