//! Who a caller is, and what a command line has to know, in JSON.

use serde::Serialize;
use utoipa::{ToSchema, openapi::Object};

use super::{one_of, time::Rfc3339};

// The caller of a request.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Identity<'a> {
    #[schema(schema_with = caller)]
    pub(crate) caller: &'static str,
    /// A person's subject, or the subject alternative name of a certificate.
    #[schema(required)]
    pub(crate) subject: Option<&'a str>,
    /// The id of the caller's key.
    #[schema(required)]
    pub(crate) key_id: Option<String>,
    /// The key's name, or what the person's token calls the person. Only for display.
    #[schema(required)]
    pub(crate) name: Option<&'a str>,
    /// The keyspaces in which the caller may do something.
    pub(crate) keyspaces: &'a [String],
    /// A person's organizations, or the one of the key.
    pub(crate) organizations: Vec<Organization<'a>>,
    /// What the key may do; empty for a session, whose rights are its roles.
    pub(crate) scopes: &'a [String],
    /// When the key or the token expires.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub(crate) expires_at: Option<Rfc3339>,
}

// No doc comment: it would become a description where the schema is inlined.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Organization<'a> {
    pub(crate) id: &'a str,
    /// owner, admin or member; null for a key.
    #[schema(required)]
    pub(crate) role: Option<&'static str>,
}

// What a command line has to know.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Discovery<'a> {
    /// What the installation is for.
    pub(crate) name: &'a str,
    /// Where people sign in, by OpenID Connect; null if they cannot from a command line.
    #[schema(required)]
    pub(crate) issuer: Option<&'a str>,
    /// The client to sign in with.
    #[schema(required)]
    pub(crate) client_id: Option<&'a str>,
    /// The scopes to ask for when signing in.
    #[schema(required)]
    pub(crate) scopes: Option<&'a [String]>,
    /// The ports of the loopback redirect that the issuer accepts; empty if it accepts any.
    #[schema(required)]
    pub(crate) redirect_ports: Option<&'a [u16]>,
    /// Whether the issuer offers the device flow (RFC 8628); null while that is not known.
    #[schema(required)]
    pub(crate) device_flow: Option<bool>,
    /// Where gRPC is served, as the replica itself knows it; null if it listens on every address.
    #[schema(required)]
    pub(crate) grpc: Option<&'a str>,
    pub(crate) keyspaces: Vec<Keyspace<'a>>,
    /// The dashboard's URL, or its path; null without one.
    #[schema(required)]
    pub(crate) dashboard: Option<&'a str>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OfferedKeyspace)]
#[serde(deny_unknown_fields)]
pub(crate) struct Keyspace<'a> {
    pub(crate) name: &'a str,
    /// The scopes that its keys can have; null if they are free-form.
    #[schema(required)]
    pub(crate) scopes: Option<&'a [String]>,
    /// Which of organization, instance and environment a key needs.
    pub(crate) requires: Vec<&'static str>,
}

fn caller() -> Object {
    one_of(["operator", "service", "key", "session"], Some("What kind of caller this is."))
}
