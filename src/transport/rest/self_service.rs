//! `/api/v1/keys`: making a key, and what a key does with itself.

use std::collections::BTreeMap;

use http::request::Parts;
use utoipa::{
    ToSchema,
    openapi::{KnownFormat, Object, ObjectBuilder, Ref, SchemaFormat, Type, schema::SchemaType},
};

use super::{
    error::{RestResult, rest_names},
    extract::{
        body::{FromFields, StrictJson},
        caller::{AnyCaller, OwnId, SelfRevoker, SelfServiceKey},
        fields::Fields,
    },
    openapi,
    request::RequestContext,
    response::RestResponse,
};
use crate::{
    domain::{
        caller::Caller,
        clock::{Micros, SECOND},
        key::Binding,
        rate_limit::RateLimit,
    },
    json::{
        key::{CreatedOwnKey, OwnKey, Revoked, own_rate_limit},
        time::millis,
    },
    service::keys::{
        create::{self, Expiry},
        webhook::WebhookPatch,
    },
};

const DAY: Micros = 86_400 * SECOND;

/// Make a key
///
/// As the keyspace allows, also without a credential. Creations without rights of one's own are limited for each client address.
#[utoipa::path(
    post,
    path = "/api/v1/keys",
    operation_id = "createOwnKey",
    tag = "own key",
    security((), ("bearer" = []), ("apiKey" = [])),
    request_body = CreateOwnKey,
    responses((status = 201, description = "The key, with its secret this once.", body = CreatedOwnKey))
)]
pub(crate) async fn create(
    context: RequestContext,
    AnyCaller(caller): AnyCaller,
    StrictJson(body): StrictJson<CreateOwnKey>,
) -> RestResult {
    let mut request = create::CreateKey::from(body);
    let manages = matches!(&caller, Caller::Key(key) if key.admin);
    if request.keyspace.is_empty() && !manages {
        request.keyspace = context.http().default_keyspace.clone().unwrap_or_default();
    }
    let created = context.service().keys.create(&caller, request, context.call()).await.map_err(rest_names)?;
    context.set_key(created.key.id);
    Ok(RestResponse::created(&CreatedOwnKey {
        key: created.secret.expose(),
        id: created.key.id.to_string(),
        prefix: &created.key.prefix,
        expires: created.key.expires_at.map(millis),
        webhook_secret: created.webhook_secret.as_ref().map(|secret| secret.as_str()),
    }))
}

/// A key's own record
#[utoipa::path(
    get,
    path = "/api/v1/keys",
    operation_id = "getOwnKey",
    tag = "own key",
    security(("bearer" = []), ("apiKey" = [])),
    responses((status = 200, description = "The record.", body = OwnKey))
)]
pub(crate) async fn get(context: RequestContext, OwnId(id): OwnId) -> RestResult {
    let record = context.service().keys.own_record(id, context.call()).await?;
    Ok(RestResponse::ok(&OwnKey::new(&record, context.now())))
}

/// End the key that calls
///
/// Neither refused by the rate limit nor counted in it. A repeated call of a revoked key answers 200 too.
#[utoipa::path(
    delete,
    path = "/api/v1/keys",
    operation_id = "revokeOwnKey",
    tag = "own key",
    security(("bearer" = []), ("apiKey" = [])),
    responses((status = 200, description = "The key is revoked, everywhere and for good.", body = Revoked))
)]
pub(crate) async fn revoke(context: RequestContext, SelfRevoker(key): SelfRevoker) -> RestResult {
    context.service().keys.revoke_own(&key, context.call()).await?;
    Ok(RestResponse::ok(&Revoked { revoked: true }))
}

/// Change or remove the webhook of the key that calls
#[utoipa::path(
    patch,
    path = "/api/v1/keys",
    operation_id = "updateOwnWebhook",
    tag = "own key",
    security(("bearer" = []), ("apiKey" = [])),
    request_body = Webhook,
    responses(
        (status = 200, description = "The record.", body = OwnKey),
        (status = 409, response = openapi::Conflict),
    )
)]
pub(crate) async fn update_webhook(
    context: RequestContext,
    SelfServiceKey(key): SelfServiceKey,
    StrictJson(webhook): StrictJson<Webhook>,
) -> RestResult {
    let changed = context.service().keys.update_own_webhook(&key, webhook.into(), context.call()).await;
    let changed = changed.map_err(rest_names)?;
    let mut body = OwnKey::new(&changed.key, context.now());
    body.webhook_secret = changed.webhook_secret.as_ref().map(|secret| secret.as_str());
    Ok(RestResponse::ok(&body))
}

/// Every field may be left out. Without a credential only webhook, name, metadata and an expiry within the keyspace's default may be chosen.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct CreateOwnKey {
    /// A name for people; need not be unique.
    #[schema(value_type = Option<String>, max_length = 200)]
    pub(crate) name: String,
    /// Leave it out for the keyspace's defaults.
    #[schema(inline, value_type = Option<Vec<ScopeName>>, min_items = 1, max_items = 64)]
    scopes: Option<Vec<String>>,
    /// Not together with expiresAt.
    #[schema(minimum = 1, maximum = 3_650)]
    expires_in_days: Option<u64>,
    #[schema(schema_with = expires_at)]
    expires_at: Option<Micros>,
    /// Name of the keyspace. Left out: the caller's own, the only one, or (POST /api/v1/keys) http.default_keyspace.
    #[schema(value_type = Option<String>)]
    keyspace: String,
    /// Organization; an admin key may only name its own, which is also what it gets without.
    #[schema(value_type = Option<String>, max_length = 128)]
    pub(crate) org_id: String,
    /// Instance.
    #[schema(value_type = Option<String>, max_length = 128)]
    instance_id: String,
    /// Environment; left out at a host of one environment, it is the host's.
    #[schema(value_type = Option<String>, max_length = 128)]
    environment: String,
    /// Where the key's notifications go: an absolute https URL.
    #[schema(value_type = Option<String>, format = "uri", max_length = 2_048)]
    webhook: String,
    #[schema(required = false, schema_with = metadata)]
    metadata: BTreeMap<String, String>,
    #[schema(schema_with = rate_limit)]
    rate_limit: Option<RateLimit>,
}

// A scope that may be granted. No doc comment: it would become a description in the document.
#[derive(ToSchema)]
#[schema(value_type = String, pattern = "^[A-Za-z0-9._:-]{1,64}$")]
struct ScopeName(#[expect(dead_code, reason = "only its schema is used")] String);

impl CreateOwnKey {
    /// Takes the fields. `millis` says whether times may be unix milliseconds.
    pub(crate) fn take(fields: &mut Fields, millis: bool) -> Self {
        let [keyspace, org_id, instance_id, environment, name] =
            ["keyspace", "orgId", "instanceId", "environment", "name"].map(|name| fields.text_or_empty(name));
        let scopes = fields.scopes();
        let (expires_in_days, expires_at) = fields.expiry(millis);
        Self {
            name,
            scopes,
            expires_in_days,
            expires_at,
            keyspace,
            org_id,
            instance_id,
            environment,
            webhook: fields.text_or_empty("webhook"),
            metadata: fields.pairs("metadata"),
            rate_limit: fields.rate_limit(),
        }
    }
}

impl FromFields for CreateOwnKey {
    fn from_fields(fields: &mut Fields, _: &Parts) -> Self {
        Self::take(fields, true)
    }
}

impl From<CreateOwnKey> for create::CreateKey {
    fn from(body: CreateOwnKey) -> Self {
        let ttl = body.expires_in_days.and_then(|days| Micros::try_from(days).ok());
        Self {
            keyspace: body.keyspace,
            binding: Binding { organization: body.org_id, instance: body.instance_id, environment: body.environment },
            name: body.name,
            scopes: body.scopes,
            expiry: match (ttl, body.expires_at) {
                (Some(days), _) => Expiry::In(days.saturating_mul(DAY)),
                (None, Some(at)) => Expiry::At(at),
                (None, None) => Expiry::Default,
            },
            webhook_url: body.webhook,
            metadata: body.metadata,
            rate_limit: body.rate_limit,
            keyspaces: Vec::new(),
        }
    }
}

#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Webhook {
    /// An absolute https URL, whose host is no address of a private network; an empty string removes the webhook.
    #[schema(max_length = 2_048)]
    webhook: String,
    /// Makes a new signing secret; for 24 hours the one before signs, too.
    #[schema(value_type = Option<bool>)]
    rotate_secret: bool,
}

impl FromFields for Webhook {
    fn from_fields(fields: &mut Fields, _: &Parts) -> Self {
        if !fields.has("webhook") {
            fields.bad("webhook", "is required; an empty string removes it");
        }
        Self { webhook: fields.text_or_empty("webhook"), rotate_secret: fields.flag("rotateSecret") }
    }
}

impl From<Webhook> for WebhookPatch {
    fn from(body: Webhook) -> Self {
        Self { url: body.webhook, rotate_secret: body.rotate_secret }
    }
}

/// A time in one of two forms, for which there is no Rust type.
fn expires_at() -> Object {
    ObjectBuilder::new()
        .schema_type(SchemaType::from_iter([Type::String, Type::Integer, Type::Null]))
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
        .description(Some(
            "RFC 3339, or unix milliseconds as this route answers them. In the future, and at most ten years away. Not \
             together with expiresInDays.",
        ))
        .build()
}

/// Utoipa's attributes do not support `maxProperties` of a field.
fn metadata() -> Object {
    ObjectBuilder::new()
        .schema_type(SchemaType::from_iter([Type::Object, Type::Null]))
        .additional_properties(Some(ObjectBuilder::new().schema_type(Type::String)))
        .max_properties(Some(32))
        .description(Some("At most 32 pairs and 4 KiB."))
        .build()
}

fn rate_limit() -> Ref {
    let mut reference = own_rate_limit();
    reference.description.push_str("For operators only; left out, the keyspace's limit holds.");
    reference
}
