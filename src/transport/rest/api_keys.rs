//! `/api/api-keys`: managing the keys of an organization.

use http::request::Parts;
use utoipa::{
    IntoParams, PartialSchema, ToSchema,
    openapi::{ArrayBuilder, KnownFormat, ObjectBuilder, RefOr, Schema, SchemaFormat, Type, schema::SchemaType},
};

use super::{
    error::{RestResult, rest_names},
    extract::{
        body::{FromFields, StrictJson},
        caller::{KeyManager, KeyRevoker, Manager, in_organization, no_such_key_if_unreadable},
        fields::Fields,
        path::PathId,
        query::{FromQuery, Organization, Query, StrictQuery, organization},
    },
    openapi,
    request::RequestContext,
    response::RestResponse,
    self_service::{CreateOwnKey, Webhook},
};
use crate::{
    domain::{
        caller::Caller,
        key::{Binding, KeyStatus},
    },
    json::key::{CreatedKey, Key, KeyPage},
    service::keys::{create, list},
};

/// Make a key
#[utoipa::path(
    post,
    path = "/api/api-keys",
    operation_id = "createKey",
    tag = "management",
    security(("bearer" = []), ("apiKey" = []), ("session" = []), ("sessionCookie" = [])),
    params(ManagedOrganization),
    request_body = CreateKey,
    responses((status = 201, description = "The key, with its secret this once.", body = CreatedKey))
)]
pub(crate) async fn create(
    context: RequestContext,
    Manager(caller): Manager,
    Organization(named): Organization,
    StrictJson(body): StrictJson<CreateKey>,
) -> RestResult {
    let mut request = create::CreateKey::from(body.fields);
    request.keyspaces = body.keyspaces;
    if request.binding.organization.is_empty() {
        request.binding.organization = named;
    }
    let created = context.service().keys.create(&caller, request, context.call()).await.map_err(rest_names)?;
    context.set_key(created.key.id);
    Ok(RestResponse::created(&CreatedKey {
        record: Key::new(&created.key, context.now()),
        key: created.secret.expose(),
        webhook_secret: created.webhook_secret.as_ref().map(|secret| secret.as_str()),
    }))
}

/// A page of keys, newest first
#[utoipa::path(
    get,
    path = "/api/api-keys",
    operation_id = "listKeys",
    tag = "management",
    security(("bearer" = []), ("apiKey" = []), ("session" = []), ("sessionCookie" = [])),
    params(ListKeys),
    responses((status = 200, description = "The page.", body = KeyPage))
)]
pub(crate) async fn list(
    context: RequestContext,
    Manager(caller): Manager,
    StrictQuery(query): StrictQuery<ListKeys>,
) -> RestResult {
    let page = context.service().keys.list(&caller, query.into(), context.call()).await.map_err(rest_names)?;
    let now = context.now();
    let encoded = context.service().bulk.run(async move {
        let keys = page.keys.iter().map(|key| Key::new(key, now)).collect();
        RestResponse::ok(&KeyPage { keys, next_cursor: page.next.as_deref() })
    });
    Ok(encoded.await?)
}

/// One key
#[utoipa::path(
    get,
    path = "/api/api-keys/{id}",
    operation_id = "getKey",
    tag = "management",
    security(("bearer" = []), ("apiKey" = []), ("session" = []), ("sessionCookie" = [])),
    params(("id" = String, Path, description = "The key's id."), ManagedOrganization),
    responses((status = 200, description = "The key.", body = Key))
)]
pub(crate) async fn get(
    context: RequestContext,
    Manager(caller): Manager,
    PathId(id): PathId,
    Organization(named): Organization,
) -> RestResult {
    let key = no_such_key_if_unreadable(context.service().keys.get(&caller, &id, context.call()).await)?;
    in_organization(&key, &named)?;
    context.set_key(key.id);
    Ok(RestResponse::ok(&Key::new(&key, context.now())))
}

/// Revoke a key
///
/// Once this answers, the key is valid on no replica. Revoking again answers the key unchanged.
#[utoipa::path(
    delete,
    path = "/api/api-keys/{id}",
    operation_id = "revokeKey",
    tag = "management",
    security(("bearer" = []), ("apiKey" = []), ("session" = []), ("sessionCookie" = [])),
    params(("id" = String, Path, description = "The key's id."), ManagedOrganization),
    request_body = Revoke,
    responses((status = 200, description = "The key, revoked.", body = Key))
)]
pub(crate) async fn revoke(
    context: RequestContext,
    KeyRevoker { caller, id }: KeyRevoker,
    StrictJson(body): StrictJson<Revoke>,
) -> RestResult {
    let revoked = context.service().keys.revoke(&caller, &id, body.reason, context.call()).await;
    let key = no_such_key_if_unreadable(revoked)?.key;
    context.set_key(key.id);
    Ok(RestResponse::ok(&Key::new(&key, context.now())))
}

/// Change or remove a key's webhook
#[utoipa::path(
    patch,
    path = "/api/api-keys/{id}",
    operation_id = "updateWebhook",
    tag = "management",
    security(("bearer" = []), ("apiKey" = []), ("session" = []), ("sessionCookie" = [])),
    params(("id" = String, Path, description = "The key's id."), ManagedOrganization),
    request_body = Webhook,
    responses(
        (status = 200, description = "The key.", body = Key),
        (status = 409, response = openapi::Conflict),
    )
)]
pub(crate) async fn update_webhook(
    context: RequestContext,
    KeyManager { caller, id }: KeyManager,
    StrictJson(webhook): StrictJson<Webhook>,
) -> RestResult {
    let changed = context.service().keys.update_webhook(&caller, &id, webhook.into(), context.call()).await;
    let changed = no_such_key_if_unreadable(changed).map_err(rest_names)?;
    context.set_key(changed.key.id);
    let mut body = Key::new(&changed.key, context.now());
    body.webhook_secret = changed.webhook_secret.as_ref().map(|secret| secret.as_str());
    Ok(RestResponse::ok(&body))
}

/// The fields of [`CreateOwnKey`] and those for managers only.
pub(crate) struct CreateKey {
    fields: CreateOwnKey,
    keyspaces: Vec<String>,
}

impl FromFields for CreateKey {
    fn from_fields(fields: &mut Fields, parts: &Parts) -> Self {
        let body = CreateOwnKey::take(fields, false);
        let keyspaces = fields.keyspaces();
        if body.name.trim().is_empty() {
            fields.bad("name", "is required");
        }
        let (named, own) = (organization(parts), &body.org_id);
        // For a caller that is confined to organizations, the use case refuses a foreign one.
        let operator =
            RequestContext::of(parts).is_ok_and(|context| matches!(context.caller(), Some(Caller::Operator { .. })));
        if operator && !own.is_empty() && !named.is_empty() && named != *own {
            fields.bad("orgId", "is not that of the query");
        }
        Self { fields: body, keyspaces }
    }
}

/// The schema is that of [`CreateOwnKey`] with what differs here: a name is required, and a time has one form only.
impl PartialSchema for CreateKey {
    fn schema() -> RefOr<Schema> {
        let mut schema = CreateOwnKey::schema();
        if let RefOr::T(Schema::Object(object)) = &mut schema {
            object.description = None;
            object.required.push("name".to_owned());
            if let Some(RefOr::T(Schema::Object(name))) = object.properties.get_mut("name") {
                name.schema_type = SchemaType::new(Type::String);
                name.min_length = Some(1);
            }
            let expires_at = ObjectBuilder::new()
                .schema_type(SchemaType::from_iter([Type::String, Type::Null]))
                .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
                .description(Some("In the future, and at most ten years away. Not together with expiresInDays."));
            object.properties.insert("expiresAt".to_owned(), expires_at.build().into());
            let keyspaces = ArrayBuilder::new()
                .schema_type(SchemaType::from_iter([Type::Array, Type::Null]))
                .items(ObjectBuilder::new().schema_type(Type::String))
                .min_items(Some(1))
                .description(Some(
                    "Limits a service (keyspace keyward, scope verify alone) to the keys of these keyspaces; left out, \
                     it verifies the keys of all.",
                ));
            object.properties.insert("keyspaces".to_owned(), keyspaces.build().into());
        }
        schema
    }
}

impl ToSchema for CreateKey {}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Revoke {
    /// Why, for the record.
    #[schema(value_type = Option<String>, max_length = 200)]
    reason: String,
}

impl FromFields for Revoke {
    fn from_fields(fields: &mut Fields, _: &Parts) -> Self {
        Self { reason: fields.text_or_empty("reason") }
    }
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only its description is used; extractors of the caller read the parameter")]
struct ManagedOrganization {
    /// Chooses among the organizations of the caller; any other one is 403.
    #[param(rename = "orgId", required = false, value_type = String)]
    org_id: String,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
pub(crate) struct ListKeys {
    /// Only keys that have this status now.
    #[param(inline, required = false, value_type = crate::json::key::Status)]
    status: Option<KeyStatus>,
    /// nextCursor of the page before, of the same query.
    #[param(required = false)]
    cursor: String,
    /// Keys on the page.
    #[param(required = false, minimum = 1, maximum = 1_000, default = 50)]
    limit: u32,
    /// Chooses among the organizations of the caller; any other one is 403.
    #[param(required = false)]
    org_id: String,
    /// Only keys of this keyspace.
    #[param(required = false)]
    keyspace: String,
    /// Only keys of this instance.
    #[param(required = false)]
    instance_id: String,
    /// Only keys of this environment.
    #[param(required = false)]
    environment: String,
    /// Only keys that this caller made.
    #[param(required = false)]
    created_by: String,
}

impl FromQuery for ListKeys {
    fn from_query(query: &mut Query) -> Self {
        const STATUSES: [(&str, KeyStatus); 3] =
            [("active", KeyStatus::Active), ("revoked", KeyStatus::Revoked), ("expired", KeyStatus::Expired)];
        Self {
            status: query.one_of("status", &STATUSES, "must be active, revoked or expired"),
            limit: query.limit(),
            keyspace: query.text("keyspace"),
            org_id: query.text("orgId"),
            instance_id: query.text("instanceId"),
            environment: query.text("environment"),
            created_by: query.text("createdBy"),
            cursor: query.text("cursor"),
        }
    }
}

impl From<ListKeys> for list::ListKeys {
    fn from(query: ListKeys) -> Self {
        Self {
            page_size: query.limit,
            keyspace: query.keyspace,
            binding: Binding {
                organization: query.org_id,
                instance: query.instance_id,
                environment: query.environment,
            },
            status: query.status,
            created_by: query.created_by,
            created_before: None,
            page_token: query.cursor,
        }
    }
}
