//! Warnings about settings that are valid but rarely intended.

use std::collections::HashMap;

use ipnet::IpNet;

use super::{
    database::{DatabaseUrl, sends_password_without_tls},
    environment,
    load::Config,
    rate_limit::{RateLimitStore, is_remote_without_tls},
    setting::{Setting, Table},
    tables::TABLES,
};

/// The prefix of the names of Keyward's environment variables.
const VARIABLES: &str = "KEYWARD_";
/// Variables of Keyward that are no settings: those of its command line, of the files for gateways, and the switches of
/// test builds.
const OTHERS: [&str; 7] = [
    "KEYWARD_API_KEY",
    "KEYWARD_ENV",
    "KEYWARD_FAULTS",
    "KEYWARD_FORWARD_AUTH",
    "KEYWARD_GATEWAY_KEY",
    "KEYWARD_ORG",
    "KEYWARD_URL",
];
/// Prefixes of the variables of `keyward agent`, and of those that Kubernetes sets for a service of the name `keyward`.
const OTHER_PREFIXES: [&str; 3] = ["KEYWARD_AGENT_", "KEYWARD_PORT", "KEYWARD_SERVICE_"];
/// Parts of the names that Kubernetes gives such variables, if the name of the service only begins with `keyward-`.
const KUBERNETES_PARTS: [&str; 3] = ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT_"];
/// The prefix of every JSON Web Token: `{"` in base64url.
const TOKEN_START: &str = "eyJ";
/// The shortest prefix lengths of networks that belong to one operator: IPv4 and IPv6.
const MIN_PREFIX_LENS: (u8, u8) = (8, 16);

/// Returns one line for each such setting.
pub fn warnings(config: &Config, environment: &HashMap<String, String>) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut warn = |text: String| warnings.push(text);
    let urls = match &config.database.url {
        DatabaseUrl::Postgres(url) => vec![("database.url", url)],
        DatabaseUrl::Sqlite(_) => Vec::new(),
    };
    for (name, url) in
        urls.into_iter().chain(config.database.migrate_url.iter().map(|url| ("database.migrate_url", url)))
    {
        if sends_password_without_tls(url) {
            warn(format!(
                "{name}: sslmode=disable sends the password to any server that answers: use sslmode=verify-full"
            ));
        }
    }
    if let RateLimitStore::Redis(url) = &config.rate_limit.store
        && is_remote_without_tls(url)
    {
        warn("rate_limit.store: is on another machine, and without TLS anybody between can read and change it: use rediss://".to_owned());
    }
    for (name, networks, what) in [
        ("http.trusted_proxies", &config.http.trusted_proxies, "any client may claim any address"),
        ("webhooks.allow_cidrs", &config.webhooks.egress.allow_cidrs, "webhooks may reach every host of the network"),
    ] {
        if let Some(network) = networks.iter().find(|network| is_too_wide(network)) {
            warn(format!("{name}: {network} is no network of one owner: {what}"));
        }
    }
    let plain = match config.server.metrics_addr {
        None if config.tls.is_some() => None,
        None => Some(("server.http_addr", config.server.http_addr)),
        Some(address) => Some(("server.metrics_addr", address)),
    };
    if let Some((name, address)) = plain.filter(|(_, address)| address.ip().to_canonical().is_unspecified()) {
        warn(format!("{name}: {address} serves metrics in plain text on every address of this machine"));
    }
    if config.master_keys.iter().any(|key| key.iter().all(|byte| *byte == 0)) {
        warn("KEYWARD_MASTER_KEY: a key is all zeros, which anybody guesses: openssl rand -base64 32".to_owned());
    }
    for keyspace in config.registry.configured() {
        let of_token = |prefix: &str| prefix.starts_with(TOKEN_START) || TOKEN_START.starts_with(prefix);
        for (_, prefix) in keyspace.prefixes.iter().filter(|(_, prefix)| of_token(prefix)) {
            let name = &keyspace.name;
            warn(format!(
                "keyspace \"{name}\": the prefix \"{prefix}\" begins like a session token, and hides such tokens"
            ));
        }
    }
    let mut unknown: Vec<&String> = environment.keys().filter(|name| is_unknown(name)).collect();
    unknown.sort();
    for name in unknown {
        warn(format!("{name}: is not a setting of keyward, and has no effect"));
    }
    warnings
}

/// Whether a network is larger than any that belongs to one operator: every address, or the public ones of IPv6.
fn is_too_wide(network: &IpNet) -> bool {
    match network {
        // In IPv6 these are the addresses of IPv4.
        IpNet::V6(network) if network.addr().to_ipv4_mapped().is_some() => {
            network.prefix_len() < 96 + MIN_PREFIX_LENS.0
        }
        IpNet::V4(network) => network.prefix_len() < MIN_PREFIX_LENS.0,
        IpNet::V6(network) => network.prefix_len() < MIN_PREFIX_LENS.1,
    }
}

fn is_unknown(name: &str) -> bool {
    name.starts_with(VARIABLES)
        && !OTHERS.contains(&name)
        && !OTHER_PREFIXES.iter().any(|begin| name.starts_with(begin))
        && !KUBERNETES_PARTS.iter().any(|part| name.contains(part))
        && !environment::SETTINGS.iter().any(|setting| setting.variable == Some(name))
        && !TABLES.iter().any(|table| declares(table, name))
}

fn declares(table: &Table, name: &str) -> bool {
    let has = |settings: &[Setting]| settings.iter().any(|setting| setting.variable == Some(name));
    has(table.settings) || table.tables.iter().any(|inner| declares(inner, name))
}
