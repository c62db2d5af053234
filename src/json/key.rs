//! Keys in JSON.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{Ref, RefOr, Schema, schema::Object},
};

use super::{
    one_of, text,
    time::{Rfc3339, millis},
};
use crate::domain::{
    clock::Micros,
    key::{KeyRecord, KeyStatus},
    rate_limit::RateLimit,
};

/// A rate limit of the key's own, instead of its keyspace's.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct OwnRateLimit {
    /// The most that may be spent in any span of one window.
    #[schema(minimum = 1, maximum = 1_000_000_000)]
    limit: u32,
    /// The window, in milliseconds.
    #[schema(minimum = 1_000, maximum = 31_622_400_000_i64)]
    window_ms: i64,
}

impl From<RateLimit> for OwnRateLimit {
    fn from(own: RateLimit) -> Self {
        Self { limit: own.limit, window_ms: millis(own.window) }
    }
}

// No doc comment: it would become a description wherever the schema is inlined.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    Active,
    Revoked,
    Expired,
}

impl Status {
    pub(super) fn of(key: &KeyRecord, now: Micros) -> Self {
        match key.status(now) {
            KeyStatus::Active => Self::Active,
            KeyStatus::Revoked => Self::Revoked,
            KeyStatus::Expired => Self::Expired,
        }
    }
}

/// A key as it sees itself. webhookSecret comes only when a URL was set for the first time or the secret was rotated.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct OwnKey<'a> {
    /// The key's id.
    #[schema(pattern = "^key_[0-7][0-9a-hjkmnp-tv-z]{25}$")]
    id: String,
    /// The first 12 characters of the secret.
    #[schema(max_length = 12)]
    prefix: &'a str,
    /// Its name.
    #[schema(required)]
    name: Option<&'a str>,
    /// What it may do.
    scopes: &'a [String],
    #[schema(schema_with = status)]
    status: Status,
    /// When it was made, in unix milliseconds.
    created: i64,
    /// When it stops being valid, in unix milliseconds
    #[schema(required)]
    expires: Option<i64>,
    /// When it was last valid, in unix milliseconds
    #[schema(required)]
    last_used: Option<i64>,
    /// Where its notifications go.
    #[schema(required)]
    webhook: Option<&'a str>,
    /// Its organization.
    #[schema(required)]
    org_id: Option<&'a str>,
    /// Its instance.
    #[schema(required)]
    instance_id: Option<&'a str>,
    /// Its environment.
    #[schema(required)]
    environment: Option<&'a str>,
    /// The webhook's signing secret, shown this once.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, pattern = "^whsec_")]
    pub(crate) webhook_secret: Option<&'a str>,
}

impl<'a> OwnKey<'a> {
    pub(crate) fn new(key: &'a KeyRecord, now: Micros) -> Self {
        Self {
            id: key.id.to_string(),
            prefix: &key.prefix,
            name: text(&key.name),
            scopes: &key.scopes,
            status: Status::of(key, now),
            created: millis(key.created_at),
            expires: key.expires_at.map(millis),
            last_used: key.last_used_at.map(millis),
            webhook: text(&key.webhook_url),
            org_id: text(&key.binding.organization),
            instance_id: text(&key.binding.instance),
            environment: text(&key.binding.environment),
            webhook_secret: None,
        }
    }
}

/// A key as its managers see it. webhookSecret comes only when a URL was set for the first time or the secret was rotated.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Key<'a> {
    /// The key's id.
    #[schema(pattern = "^key_[0-7][0-9a-hjkmnp-tv-z]{25}$")]
    id: String,
    /// Its name.
    #[schema(required)]
    name: Option<&'a str>,
    /// The first 12 characters of the secret.
    #[schema(max_length = 12)]
    prefix: &'a str,
    /// What it may do.
    scopes: &'a [String],
    #[schema(schema_with = status)]
    status: Status,
    /// When it was last valid.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    last_used_at: Option<Rfc3339>,
    /// When it stops being valid.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    expires_at: Option<Rfc3339>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    created_at: Rfc3339,
    /// Who made it: root, key:<id>, user:<subject> or public.
    #[expect(rustdoc::invalid_html_tags, reason = "the OpenAPI document shows this text, which is not HTML")]
    #[schema(required)]
    created_by: Option<&'a str>,
    /// When it was revoked.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    revoked_at: Option<Rfc3339>,
    /// Its organization.
    #[schema(required)]
    org_id: Option<&'a str>,
    /// Its instance.
    #[schema(required)]
    instance_id: Option<&'a str>,
    /// Its environment.
    #[schema(required)]
    environment: Option<&'a str>,
    /// Where its notifications go.
    #[schema(required)]
    webhook: Option<&'a str>,
    /// Free-form pairs.
    metadata: &'a BTreeMap<String, String>,
    #[schema(required, schema_with = own_rate_limit)]
    rate_limit: Option<OwnRateLimit>,
    /// The keyspaces that a service is limited to; left out for any other key.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    #[schema(required = false, min_items = 1)]
    keyspaces: &'a [String],
    /// The webhook's signing secret, shown this once.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, pattern = "^whsec_")]
    pub(crate) webhook_secret: Option<&'a str>,
}

impl<'a> Key<'a> {
    pub(crate) fn new(key: &'a KeyRecord, now: Micros) -> Self {
        Self {
            id: key.id.to_string(),
            name: text(&key.name),
            prefix: &key.prefix,
            scopes: &key.scopes,
            status: Status::of(key, now),
            last_used_at: key.last_used_at.map(Rfc3339),
            expires_at: key.expires_at.map(Rfc3339),
            created_at: Rfc3339(key.created_at),
            created_by: text(&key.created_by),
            revoked_at: key.revoked_at.map(Rfc3339),
            org_id: text(&key.binding.organization),
            instance_id: text(&key.binding.instance),
            environment: text(&key.binding.environment),
            webhook: text(&key.webhook_url),
            metadata: &key.metadata,
            rate_limit: key.rate_limit.map(OwnRateLimit::from),
            keyspaces: &key.keyspaces,
            webhook_secret: None,
        }
    }
}

/// A key right after it was made, with its secret.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CreatedKey<'a> {
    #[serde(flatten)]
    pub(crate) record: Key<'a>,
    pub(crate) key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) webhook_secret: Option<&'a str>,
}

/// The schema is that of [`Key`] and the secret. `allOf` cannot say this: each part would refuse the other's fields.
impl PartialSchema for CreatedKey<'_> {
    fn schema() -> RefOr<Schema> {
        let mut schema = Key::schema();
        if let RefOr::T(Schema::Object(object)) = &mut schema {
            object.description = None;
            object.required.push("key".to_owned());
            object.properties.insert("key".to_owned(), secret().into());
        }
        schema
    }
}

impl ToSchema for CreatedKey<'_> {}

// The key right after it was made, on the self-service route.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct CreatedOwnKey<'a> {
    /// The secret, shown this once.
    #[schema(read_only)]
    pub(crate) key: &'a str,
    /// The key's id.
    #[schema(pattern = "^key_[0-7][0-9a-hjkmnp-tv-z]{25}$")]
    pub(crate) id: String,
    /// The first 12 characters of the secret.
    #[schema(max_length = 12)]
    pub(crate) prefix: &'a str,
    /// When the key stops being valid, in unix milliseconds
    #[schema(required)]
    pub(crate) expires: Option<i64>,
    /// The webhook's signing secret, shown this once.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, pattern = "^whsec_")]
    pub(crate) webhook_secret: Option<&'a str>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct KeyPage<'a> {
    /// Newest first.
    pub(crate) keys: Vec<Key<'a>>,
    /// Gives the next page; null on the last one.
    #[schema(required)]
    pub(crate) next_cursor: Option<&'a str>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Revoked {
    #[schema(schema_with = always_true)]
    pub(crate) revoked: bool,
}

fn status() -> Object {
    one_of(
        ["active", "revoked", "expired"],
        Some("What the key is now; a key that is both revoked and expired is revoked."),
    )
}

/// Schema of a secret that is shown once.
fn secret() -> Object {
    let mut secret = Object::with_type(utoipa::openapi::Type::String);
    secret.description = Some("The secret, shown this once.".to_owned());
    secret.read_only = Some(true);
    secret
}

/// Refers to [`OwnRateLimit`], which is null itself where there is none.
pub(crate) fn own_rate_limit() -> Ref {
    Ref::from_schema_name("OwnRateLimit")
}

/// Utoipa knows no `const`; an extension can have any name.
fn always_true() -> Object {
    let mut schema = Object::with_type(utoipa::openapi::Type::Boolean);
    schema.extensions = Some([("const", true)].into_iter().collect());
    schema
}
