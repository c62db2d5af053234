//! `[http]`: REST.

use ipnet::IpNet;

use super::{
    limit,
    section::Section,
    setting::{Setting, Table},
};
use crate::domain::{keyspace::Keyspace, rate_limit::RateLimit};

/// The table.
pub const TABLE: Table = Table {
    name: "http",
    list: false,
    help: "REST.",
    settings: &[DEFAULT_KEYSPACE, ENVIRONMENT, TRUSTED_PROXIES, PUBLIC_CREATE_LIMIT],
    tables: &[],
};

const DEFAULT_KEYSPACE: Setting = Setting::unset(
    "default_keyspace",
    "the only keyspace, if there is only one",
    "\"default\"",
    "The keyspace of a `POST /api/v1/keys` that names none.",
);

const ENVIRONMENT: Setting = Setting::new(
    "environment",
    "\"\"",
    "The environment that REST requires of every key whose keyspace requires an environment; empty requires nothing.",
)
.variable("KEYWARD_HTTP_ENVIRONMENT");

const TRUSTED_PROXIES: Setting = Setting::new(
    "trusted_proxies",
    "[]",
    "Networks of proxies whose `X-Forwarded-For` is trusted; the header is read from right to left.",
);

const PUBLIC_CREATE_LIMIT: Setting = Setting::new(
    "public_create_limit",
    "{ limit = 10, window = \"60s\" }",
    "Maximum number of keys that one client address (IPv6: each /64) may create without a credential.",
)
.fields(&limit::FIELDS);

/// `[http]`
#[derive(Debug, Clone)]
pub struct Http {
    /// The keyspace of `POST /api/v1/keys` when the request names none.
    pub default_keyspace: Option<String>,
    /// The environment that every REST check of a product's key asserts; empty asserts nothing.
    pub environment: String,
    /// Networks whose `X-Forwarded-For` is trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// Creations without a credential, for each client address.
    pub public_create_limit: RateLimit,
}

/// Reads the table. `names` are the names of all keyspaces, `keyspaces` those without a problem.
pub fn read(section: &Section<'_>, names: &[&str], keyspaces: &[Keyspace]) -> Option<Http> {
    let default_keyspace = section.text(&DEFAULT_KEYSPACE);
    if let Some(name) = &default_keyspace
        && !names.contains(&name.as_str())
    {
        section.problem(DEFAULT_KEYSPACE.name, format_args!("there is no keyspace \"{name}\""));
    }
    let environment = section.parsed(&ENVIRONMENT, |text| {
        if text.chars().count() <= 128 { Ok(text.to_owned()) } else { Err("must be at most 128 characters".to_owned()) }
    });
    if let Some(environment) = &environment {
        check_environment(section, environment, keyspaces);
    }
    let trusted_proxies = section.networks(&TRUSTED_PROXIES);
    let public_create_limit = limit::read(section, &PUBLIC_CREATE_LIMIT);
    Some(Http {
        default_keyspace,
        environment: environment?,
        trusted_proxies: trusted_proxies?,
        public_create_limit: public_create_limit?,
    })
}

/// An environment that no keyspace has would refuse every key.
fn check_environment(section: &Section<'_>, environment: &str, keyspaces: &[Keyspace]) {
    let mut requiring = keyspaces.iter().filter(|keyspace| keyspace.require.environment).peekable();
    if environment.is_empty() || requiring.peek().is_none() {
        return;
    }
    if requiring.all(|keyspace| keyspace.prefixes.for_environment(environment).is_none()) {
        section.problem_at_origin(&ENVIRONMENT, "is an environment of no keyspace that requires one");
    }
}
