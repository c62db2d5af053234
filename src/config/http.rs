//! `[http]`: REST.

use std::time::Duration;

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
    settings: &[DEFAULT_KEYSPACE, ENVIRONMENT, TRUSTED_PROXIES, GATEWAYS, PUBLIC_CREATE_LIMIT, IDLE_TIMEOUT],
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

const GATEWAYS: Setting = Setting::new(
    "gateways",
    "[]",
    "Networks of gateways that may ask about keys (`/forward-auth/…`) without a credential of their own. The address of the \
     connection counts, whatever its headers say ([gateways.md](gateways.md)).",
);

const PUBLIC_CREATE_LIMIT: Setting = Setting::new(
    "public_create_limit",
    "{ limit = 10, window = \"60s\" }",
    "Maximum number of keys that one client address (IPv6: each /64) may create without a credential.",
)
.fields(&limit::FIELDS);

const IDLE_TIMEOUT: Setting = Setting::new(
    "idle_timeout",
    "\"75s\"",
    "How long a connection without a request is kept open, 1s to 1h. Keep it longer than the idle timeout of a load \
     balancer in front (often 60s), or the balancer uses a connection that is being closed.",
);

/// `[http]`
#[derive(Debug, Clone)]
pub struct Http {
    /// The keyspace of `POST /api/v1/keys` when the request names none.
    pub default_keyspace: Option<String>,
    /// The environment that every REST check of a product's key asserts; empty asserts nothing.
    pub environment: String,
    /// Networks whose `X-Forwarded-For` is trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// Networks whose hosts may request decisions as gateways.
    pub gateways: Vec<IpNet>,
    /// Creations without a credential, for each client address.
    pub public_create_limit: RateLimit,
    /// How long a connection without a request is kept open.
    pub idle_timeout: Duration,
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
    let gateways = section.networks(&GATEWAYS);
    let public_create_limit = limit::read(section, &PUBLIC_CREATE_LIMIT);
    let bounds = Duration::from_secs(1)..=Duration::from_hours(1);
    let idle_timeout = section.duration_within(&IDLE_TIMEOUT, bounds, "must be a length of time from 1s to 1h");
    Some(Http {
        default_keyspace,
        environment: environment?,
        trusted_proxies: trusted_proxies?,
        gateways: gateways?,
        public_create_limit: public_create_limit?,
        idle_timeout: idle_timeout?,
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
