//! Components of the OpenAPI document without a type of the API: errors, headers and security schemes.

use utoipa::{
    ToResponse, ToSchema,
    openapi::{
        ContentBuilder, HeaderBuilder, ObjectBuilder, Ref, RefOr, Response, ResponseBuilder, Type,
        header::Header,
        schema::{KnownFormat, SchemaFormat},
        security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme},
    },
};

use crate::transport::refusal::ErrorBody;

/// Headers of every response.
pub(super) const COMMON_HEADERS: [&str; 2] = ["x-request-id", "cache-control"];
/// Headers of the responses that show the caller's rate limit.
pub(super) const RATE_HEADERS: [&str; 3] = ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"];

pub(super) fn add_headers(response: &mut Response, names: &[&str]) {
    for name in names {
        response.headers.insert((*name).to_owned(), RefOr::Ref(Ref::new(format!("#/components/headers/{name}"))));
    }
}

/// Which operations can answer an error.
#[derive(Clone, Copy)]
pub(super) enum Of {
    Api,
    Id,
    Body,
    ApiAndReadiness,
}

/// The response of an error, as a component.
pub(super) struct ErrorResponse {
    pub(super) status: &'static str,
    pub(super) name: &'static str,
    description: &'static str,
    pub(super) of: Of,
    headers: &'static [&'static str],
}

impl ErrorResponse {
    pub(super) fn response(&self) -> Response {
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(ErrorBody::name()))).build();
        let mut response =
            ResponseBuilder::new().description(self.description).content("application/json", content).build();
        add_headers(&mut response, &COMMON_HEADERS);
        add_headers(&mut response, self.headers);
        response
    }
}

/// 409, for the operations that name it.
pub(crate) struct Conflict;

impl<'r> ToResponse<'r> for Conflict {
    fn response() -> (&'r str, RefOr<Response>) {
        (CONFLICT.name, CONFLICT.response().into())
    }
}

pub(super) const CONFLICT: ErrorResponse = ErrorResponse {
    status: "409",
    name: "Conflict",
    description: "The key is revoked or expired (`conflict`).",
    of: Of::Id,
    headers: &RATE_HEADERS,
};

pub(super) const ERRORS: [ErrorResponse; 9] = [
    ErrorResponse {
        status: "400",
        name: "BadRequest",
        description: "A bad body or query; the message names each field and why (`invalid_argument`).",
        of: Of::Api,
        headers: &RATE_HEADERS,
    },
    ErrorResponse {
        status: "401",
        name: "Unauthorized",
        description: "No credential (`missing_credential`), or one that is `malformed`, `not_found`, `expired`, \
                      `revoked` or of the `wrong_environment`.",
        of: Of::Api,
        headers: &["www-authenticate"],
    },
    ErrorResponse {
        status: "403",
        name: "Forbidden",
        description: "The caller may not (`forbidden`), or lacks a scope (`insufficient_scope`).",
        of: Of::Api,
        headers: &RATE_HEADERS,
    },
    ErrorResponse {
        status: "404",
        name: "NotFound",
        description: "No such key, or none that the caller may see (`not_found`).",
        of: Of::Id,
        headers: &RATE_HEADERS,
    },
    ErrorResponse {
        status: "413",
        name: "TooLarge",
        description: "The body is past 1 MiB (`invalid_argument`).",
        of: Of::Body,
        headers: &RATE_HEADERS,
    },
    ErrorResponse {
        status: "415",
        name: "UnsupportedMediaType",
        description: "The body's type is not application/json (`invalid_argument`).",
        of: Of::Body,
        headers: &RATE_HEADERS,
    },
    ErrorResponse {
        status: "429",
        name: "TooManyRequests",
        description: "The rate limit is spent (`rate_limited`).",
        of: Of::Api,
        headers: &["retry-after", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"],
    },
    ErrorResponse {
        status: "500",
        name: "Internal",
        description: "A defect of the service (`internal`).",
        of: Of::Api,
        headers: &[],
    },
    ErrorResponse {
        status: "503",
        name: "Unavailable",
        description: "It could not be decided now (`unavailable`), or a revocation is not yet certain everywhere \
                      (`revocation_pending`): try again.",
        of: Of::ApiAndReadiness,
        headers: &["retry-after"],
    },
];

pub(super) fn security_schemes() -> [(&'static str, SecurityScheme); 4] {
    let bearer = |description: &str| Http::builder().scheme(HttpAuthScheme::Bearer).description(Some(description));
    let session = bearer("A token of a configured OpenID Connect issuer.").bearer_format("JWT").build();
    let key = ApiKeyValue::with_description("X-API-Key", "A secret of a keyspace that reads X-API-Key.");
    let cookie = ApiKeyValue::with_description(
        "__Host-norrix_session",
        "The same token in the cookie that the configuration names for its issuer. A request that changes something \
         needs `Sec-Fetch-Site: same-origin` or an `Origin` of this host; otherwise it is 403.",
    );
    [
        (
            "bearer",
            SecurityScheme::Http(
                bearer("A secret of a keyspace that reads bearer, of an operator or of a service.").build(),
            ),
        ),
        ("apiKey", SecurityScheme::ApiKey(ApiKey::Header(key))),
        ("session", SecurityScheme::Http(session)),
        ("sessionCookie", SecurityScheme::ApiKey(ApiKey::Cookie(cookie))),
    ]
}

pub(super) fn headers() -> [(&'static str, Header); 7] {
    let header = |description: &str, schema: ObjectBuilder| {
        HeaderBuilder::new().description(Some(description)).schema(Some(schema.build())).build()
    };
    let string = || ObjectBuilder::new().schema_type(Type::String);
    let integer = || ObjectBuilder::new().schema_type(Type::Integer);
    // Utoipa does not support `const`; an extension can have any name.
    let no_store = string().extensions(Some([("const", "no-store")].into_iter().collect()));
    [
        (
            "x-request-id",
            header(
                "The request's own id where it was safe to repeat, or a new one.",
                string().min_length(Some(1)).max_length(Some(128)),
            ),
        ),
        ("cache-control", header("Always no-store.", no_store)),
        ("www-authenticate", header("Which scheme is understood.", string())),
        ("retry-after", header("Seconds after which trying again makes sense.", integer().minimum(Some(1)))),
        ("x-ratelimit-limit", header("Calls in any span of one window; where a rate-limited key called.", integer())),
        ("x-ratelimit-remaining", header("What may still be spent.", integer())),
        (
            "x-ratelimit-reset",
            header(
                "When remaining next grows, in unix milliseconds.",
                integer().format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64))),
            ),
        ),
    ]
}
