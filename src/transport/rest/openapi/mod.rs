//! The OpenAPI document. Routes and types describe themselves; this adds what they have in common.

mod components;

use utoipa::openapi::{
    Components, Info, License, OpenApi, OpenApiBuilder, Ref, RefOr, Required, Schema, Server, Tag, Type,
    path::Operation, schema::SchemaType, tag::TagBuilder,
};

pub(crate) use self::components::Conflict;
use self::components::{COMMON_HEADERS, CONFLICT, ERRORS, Of, RATE_HEADERS, add_headers, headers, security_schemes};
use crate::json::{key::OwnRateLimit, verdict::RateLimitState};
use crate::transport::refusal::ErrorBody;

/// Completes the descriptions of the routes, and renders the document as JSON.
pub(crate) fn document(routes: OpenApi) -> String {
    let mut document = base();
    document.merge(routes);
    for (path, item) in &mut document.paths.paths {
        let operations = [&mut item.get, &mut item.post, &mut item.delete, &mut item.patch];
        for operation in operations.into_iter().flatten() {
            complete(path, operation, document.components.as_ref());
        }
    }
    if let Some(components) = &mut document.components {
        // No limit of a key's own is null wherever one is shown or set.
        if let Some(RefOr::T(Schema::Object(limit))) = components.schemas.get_mut("OwnRateLimit") {
            limit.schema_type = SchemaType::from_iter([Type::Object, Type::Null]);
        }
    }
    serde_json::to_string(&document).unwrap_or_default()
}

fn base() -> OpenApi {
    let mut info = Info::new("Keyward", "1");
    info.description = Some(DESCRIPTION.to_owned());
    let mut license = License::new("Apache-2.0");
    license.identifier = Some("Apache-2.0".to_owned());
    info.license = Some(license);
    // Utoipa does not support `summary` here; an extension can have any name.
    info.extensions = Some([("summary", "Makes, lists, revokes and verifies API keys.")].into_iter().collect());
    let mut components = headers()
        .into_iter()
        .fold(Components::builder(), |components, (name, header)| components.header(name, header))
        .schema_from::<ErrorBody<'_>>()
        .schema_from::<OwnRateLimit>()
        .schema_from::<RateLimitState>();
    for (name, scheme) in security_schemes() {
        components = components.security_scheme(name, scheme);
    }
    for error in ERRORS.iter().chain([&CONFLICT]) {
        components = components.response(error.name, error.response());
    }
    OpenApiBuilder::new()
        .info(info)
        .servers(Some([Server::new("/")]))
        .tags(Some(
            TAGS.map(|(name, description)| -> Tag {
                TagBuilder::new().name(name).description(Some(description)).build()
            }),
        ))
        .components(Some(components.build()))
        .build()
}

/// Adds to an operation what follows from its path and its body: the headers and the errors that it can answer.
fn complete(path: &str, operation: &mut Operation, components: Option<&Components>) {
    let (api, verifies) = (path.starts_with("/api/"), path == "/api/v1/verify");
    for response in operation.responses.responses.values_mut() {
        if let RefOr::T(response) = response {
            add_headers(response, &COMMON_HEADERS);
            if api && !verifies {
                add_headers(response, &RATE_HEADERS);
            }
        }
    }
    if let Some(RefOr::T(body)) = &mut operation.request_body {
        let schema = body.content.values().find_map(|content| match content {
            RefOr::T(content) => content.schema.as_ref(),
            RefOr::Ref(_) => None,
        });
        // A body may be left out if each of its fields may.
        let required = schema.is_some_and(|schema| has_required_fields(schema, components));
        body.required = Some(if required { Required::True } else { Required::False });
    }
    let has_body = operation.request_body.is_some();
    for error in &ERRORS {
        let applies = match error.of {
            Of::Api => api,
            Of::Id => path.contains("{id}"),
            Of::Body => has_body,
            Of::ApiAndReadiness => api || path == "/readyz",
        };
        if applies {
            operation.responses.responses.insert(error.status.to_owned(), Ref::from_response_name(error.name).into());
        }
    }
    if !api {
        operation.security = Some(Vec::new());
    }
}

fn has_required_fields(schema: &RefOr<Schema>, components: Option<&Components>) -> bool {
    match schema {
        RefOr::T(Schema::Object(object)) => !object.required.is_empty(),
        RefOr::Ref(reference) => reference
            .ref_location
            .strip_prefix("#/components/schemas/")
            .and_then(|name| components?.schemas.get(name))
            .is_some_and(|schema| has_required_fields(schema, components)),
        RefOr::T(_) => false,
    }
}

const DESCRIPTION: &str = "JSON over HTTP/1.1 and h2c. Fields without a value are null. Unknown fields are refused. A \
secret counts only in the header that the keyspace of its prefix reads; two secrets that both count are 400. Any other \
method of a path is 405, any other path 404 (`no_such_path`), both in the shape of Error. Every answer has an \
x-request-id, and none may be cached.";

const TAGS: [(&str, &str); 6] = [
    ("own key", "What a key does with itself."),
    ("management", "For admin keys, sessions of owners and admins, and operators."),
    ("events", "The audit log, for admin keys, sessions of owners and admins, and operators."),
    ("verify", "For services."),
    ("identity", "Who a caller is, and what a command line has to know."),
    ("operation", "For orchestrators and scrapers; no credential."),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use http::Request;
    use serde_json::Value;
    use utoipa::PartialSchema;

    use crate::transport::rest::{
        api_keys::{CreateKey, Revoke},
        events::NoFields,
        extract::{body::FromFields, fields::Fields},
        self_service::{CreateOwnKey, Webhook},
        verify::VerifyRequest,
    };

    /// The names that a body's reader takes are the properties of its schema, so that neither can have one more.
    fn check<T: FromFields + PartialSchema>(also_read: &[&str]) {
        let schema = serde_json::to_value(T::schema()).unwrap();
        let empty = serde_json::Map::new();
        let described: BTreeSet<_> = schema["properties"].as_object().unwrap_or(&empty).keys().cloned().collect();
        assert_eq!(schema["additionalProperties"], Value::Bool(false), "{schema}");

        let parts = Request::new(()).into_parts().0;
        let unknown = |names: &[String]| {
            let body = names.iter().map(|name| (name.clone(), Value::Array(Vec::new()))).collect();
            let mut fields = Fields::of(body);
            T::from_fields(&mut fields, &parts);
            let violations = fields.finish().err().map(|error| error.fields).unwrap_or_default();
            let unknown = violations.into_iter().filter(|bad| bad.description == "unknown field");
            unknown.map(|bad| bad.field.into_owned()).collect::<Vec<_>>()
        };
        let names: Vec<_> = described.into_iter().collect();
        assert_eq!(unknown(&names), [""; 0], "described, but not read");
        for name in also_read {
            assert_eq!(unknown(&[(*name).to_owned()]), [""; 0]);
        }
        for candidate in
            EVERY_NAME.iter().filter(|name| !names.iter().any(|known| known == *name) && !also_read.contains(name))
        {
            assert_eq!(unknown(&[(*candidate).to_owned()]), [*candidate], "read, but not described");
        }
    }

    /// Every name that any reader takes.
    const EVERY_NAME: [&str; 21] = [
        "name",
        "scopes",
        "expiresInDays",
        "expiresAt",
        "keyspace",
        "orgId",
        "instanceId",
        "environment",
        "webhook",
        "metadata",
        "rateLimit",
        "keyspaces",
        "rotateSecret",
        "reason",
        "secret",
        "organization",
        "instance",
        "requiredScopes",
        "required_scopes",
        "cost",
        "nothing",
    ];

    #[test]
    fn bodies_are_read_as_their_schemas_say() {
        check::<CreateOwnKey>(&[]);
        check::<CreateKey>(&[]);
        check::<Webhook>(&[]);
        check::<Revoke>(&[]);
        check::<VerifyRequest>(&["required_scopes"]);
        check::<NoFields>(&[]);
    }
}
