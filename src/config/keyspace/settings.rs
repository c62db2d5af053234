//! The settings of `[[keyspace]]`. Their examples are the built-in keyspace `default`.

use super::{
    super::{
        limit,
        setting::{Setting, Table},
    },
    routes,
};

/// The table.
pub const TABLE: Table = Table {
    name: "keyspace",
    list: true,
    help: "A keyspace: the rules of one product's keys. Without any there is one, `default`, with free-form scopes and no \
           expiry.",
    settings: &[
        NAME,
        PREFIX,
        SECRET,
        CREDENTIAL,
        SCOPES,
        DEFAULT_SCOPES,
        ADMIN_SCOPE,
        REQUIRE,
        DEFAULT_TTL,
        RATE_LIMIT,
        MAX_KEYS,
        CREATE_LIMIT,
        PUBLIC_CREATE,
        SELF_SERVICE,
        routes::GATEWAY,
    ],
    tables: &[routes::TABLE],
};

/// `name`
pub const NAME: Setting = Setting::required("name", "\"default\"", "The name: 1 to 64 characters of `[A-Za-z0-9._-]`.");

/// `prefix`
pub const PREFIX: Setting = Setting::required(
    "prefix",
    "\"ak_\"",
    "What secrets begin with, 1 to 32 characters of `[A-Za-z0-9._-]`; or one prefix for each environment, such as \
     `{ sandbox = \"sk_test_\", production = \"sk_live_\" }`. No prefix of any keyspace may begin with another.",
);

/// `secret`
pub const SECRET: Setting = Setting::required(
    "secret",
    "{ encoding = \"alphanumeric\", length = 32 }",
    "The format of the secret after the prefix. It must have at least 96 random bits beyond the displayed first 12 \
     characters.",
)
.fields(&[ENCODING, BYTES, LENGTH]);

/// `secret.encoding`
pub const ENCODING: Setting = Setting::required(
    "encoding",
    "\"alphanumeric\"",
    "`base64url` (needs `bytes`) or `alphanumeric` (needs `length`).",
);

/// `secret.bytes`
pub const BYTES: Setting = Setting::unset(
    "bytes",
    "",
    "32",
    "For `base64url`: random bytes, 16 to 128. 4 bytes of checksum are added before encoding.",
);

/// `secret.length`
pub const LENGTH: Setting =
    Setting::unset("length", "", "32", "For `alphanumeric`: characters, 23 to 192. The last 6 are the checksum.");

/// `credential`
pub const CREDENTIAL: Setting = Setting::new(
    "credential",
    "\"bearer\"",
    "The header that carries a key over REST: `bearer` (`Authorization: Bearer …`), `x-api-key` (`X-API-Key: …`) or `any`.",
);

/// `scopes`
pub const SCOPES: Setting =
    Setting::unset("scopes", "free-form", "[\"read\", \"write\", \"admin\"]", "The scopes that keys may have.");

/// `default_scopes`
pub const DEFAULT_SCOPES: Setting = Setting::unset(
    "default_scopes",
    "all of `scopes` but `admin_scope`",
    "[\"read\"]",
    "The scopes of a key whose creator names none.",
);

/// `admin_scope`
pub const ADMIN_SCOPE: Setting = Setting::unset(
    "admin_scope",
    "no admin keys",
    "\"admin\"",
    "The scope whose holders manage the keys of their own organization.",
);

/// `require`
pub const REQUIRE: Setting = Setting::new(
    "require",
    "[]",
    "What each key must be bound to: any of `organization`, `instance` and `environment`.",
);

/// `default_ttl`
pub const DEFAULT_TTL: Setting = Setting::unset(
    "default_ttl",
    "never",
    "\"90d\"",
    "When a key expires whose creator names no expiry, at most 10 years.",
);

/// `rate_limit`
pub const RATE_LIMIT: Setting =
    Setting::unset("rate_limit", "unlimited", "{ limit = 100, window = \"60s\" }", "How often a key may be used.")
        .fields(&limit::FIELDS);

/// `max_keys`
pub const MAX_KEYS: Setting = Setting::unset(
    "max_keys",
    "unlimited",
    "1000",
    "How many keys that are neither revoked nor expired an organization may have, 1 to 1000000. Keys without an \
     organization are not counted.",
);

/// `create_limit`
pub const CREATE_LIMIT: Setting = Setting::unset(
    "create_limit",
    "unlimited",
    "{ limit = 100, window = \"60s\" }",
    "How often one admin key or session may create keys. Operators are not limited.",
)
.fields(&limit::FIELDS);

/// `public_create`
pub const PUBLIC_CREATE: Setting = Setting::new(
    "public_create",
    "false",
    "Whether `POST /api/v1/keys` creates keys without a credential (see `http.public_create_limit`).",
);

/// `self_service`
pub const SELF_SERVICE: Setting =
    Setting::new("self_service", "false", "Whether a key may revoke itself and change its own webhook.");
