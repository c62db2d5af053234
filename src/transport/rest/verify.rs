//! `/api/v1/verify`: the JSON mapping of the proto's VerifyRequest and VerifyResponse.

use http::request::Parts;
use utoipa::ToSchema;

use super::{
    error::RestResult,
    extract::{
        body::{FromFields, StrictJson},
        caller::Verifier,
        fields::Fields,
    },
    request::RequestContext,
    response::RestResponse,
};
use crate::{
    domain::{error::Error, secret::Secret, verdict::Assertions},
    json::{
        text,
        time::Rfc3339,
        verdict::{Pairs, VerifyResponse},
    },
    service::verify::{Answer, Check, VerifyCaller},
};

/// The verdict on a secret
///
/// For operators and services. 200 whatever the verdict is.
#[utoipa::path(
    post,
    path = "/api/v1/verify",
    operation_id = "verify",
    tag = "verify",
    security(("bearer" = [])),
    request_body = VerifyRequest,
    responses((status = 200, description = "The verdict.", body = VerifyResponse))
)]
pub(crate) async fn verify(
    context: RequestContext,
    Verifier(allowed_keyspaces): Verifier,
    StrictJson(body): StrictJson<VerifyRequest>,
) -> RestResult {
    let check = Check {
        secret: body.secret.expose(),
        keyspace: &body.keyspace,
        asserted: Assertions {
            environment: &body.environment,
            organization: &body.organization,
            instance: &body.instance,
            scopes: &body.required_scopes,
            forbidden: false,
        },
        host_environment: "",
        cost: Some(body.cost.unwrap_or(1)),
    };
    let caller = VerifyCaller::Authorized(allowed_keyspaces.as_ref());
    let outcome = context.service().verify.verify(caller, &check, context.deadline()).await.map_err(json_names)?;
    Ok(RestResponse::ok(&json_answer(&context.service().verify.answer(&outcome))))
}

/// An empty field asserts nothing; a named one must equal the key's own.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct VerifyRequest {
    /// The secret as it was presented.
    #[schema(value_type = String, write_only)]
    secret: Secret,
    /// The keyspace that it must be of.
    #[schema(value_type = Option<String>)]
    keyspace: String,
    /// The organization that the key must be bound to.
    #[schema(value_type = Option<String>, max_length = 128)]
    organization: String,
    /// The instance that the key must be bound to.
    #[schema(value_type = Option<String>, max_length = 128)]
    instance: String,
    /// The environment that the key must be bound to.
    #[schema(value_type = Option<String>, max_length = 128)]
    environment: String,
    /// Scopes that it must all hold.
    #[schema(value_type = Option<Vec<String>>, max_items = 64)]
    required_scopes: Vec<String>,
    /// What to spend of the rate limit: 1 if left out; 0 spends nothing.
    #[schema(value_type = Option<u64>, minimum = 0, maximum = 4_294_967_295_u64)]
    cost: Option<u32>,
}

impl FromFields for VerifyRequest {
    fn from_fields(fields: &mut Fields, _: &Parts) -> Self {
        if !fields.has("secret") {
            fields.bad("secret", "is required");
        }
        let secret = Secret::new(fields.text_or_empty("secret"));
        let [keyspace, organization, instance, environment] =
            ["keyspace", "organization", "instance", "environment"].map(|name| fields.text_or_empty(name));
        // The proto's JSON mapping takes a field under either of its names.
        let scopes = fields.texts("requiredScopes").or_else(|| fields.texts("required_scopes"));
        let cost = fields.number("cost", 0..=u64::from(u32::MAX), "must be a whole number, 0 to 4294967295");
        Self {
            secret,
            keyspace,
            organization,
            instance,
            environment,
            required_scopes: scopes.unwrap_or_default(),
            cost: cost.and_then(|cost| u32::try_from(cost).ok()),
        }
    }
}

/// The fields of an error under the names that JSON gives the proto's fields.
fn json_names(mut error: Error) -> Error {
    for bad in error.fields.iter_mut().filter(|bad| bad.field == "required_scopes") {
        bad.field = "requiredScopes".into();
    }
    error
}

/// The answer in JSON.
fn json_answer<'a>(answer: &Answer<'a>) -> VerifyResponse<'a> {
    let key = answer.key.as_ref();
    VerifyResponse {
        code: answer.code.name(),
        message: answer.message.clone(),
        key_id: key.map(|key| key.id.to_string()),
        keyspace: key.map(|key| key.keyspace),
        organization: key.and_then(|key| text(key.organization)),
        instance: key.and_then(|key| text(key.instance)),
        environment: key.and_then(|key| text(key.environment)),
        name: key.and_then(|key| text(key.name)),
        scopes: key.map_or_else(Vec::new, |key| key.scopes().collect()),
        create_time: key.map(|key| Rfc3339(key.created_at)),
        expire_time: key.and_then(|key| key.expires_at).map(Rfc3339),
        metadata: Pairs(key.map_or_else(Vec::new, |key| key.metadata().collect())),
        rate_limit: answer.rate.map(Into::into),
    }
}
