//! `[[session.issuer]]`: OpenID Connect issuers whose tokens are sessions.

use std::{sync::Arc, time::Duration};

use url::Url;

use super::{
    section::Section,
    session_dashboard,
    setting::{Setting, Table},
};
use crate::domain::{
    keyspace::RESERVED_KEYSPACE,
    oidc::{Algorithm, CliClient, Issuer},
};

/// The table.
pub const TABLE: Table =
    Table { name: "session", list: false, help: "Sessions of people.", settings: &[], tables: &[ISSUER_TABLE] };

/// The table of an issuer.
pub const ISSUER_TABLE: Table = Table {
    name: "issuer",
    list: true,
    help: "An OpenID Connect issuer whose tokens are sessions: see docs/sessions.md.",
    settings: &[
        ISSUER,
        AUDIENCE,
        KEYSPACES,
        CLAIMS,
        ALGORITHMS,
        COOKIE,
        SUBJECT_PREFIX,
        REFRESH,
        ALLOW_HTTP,
        JWKS_HOSTS,
        MAX_TOKEN_LIFE,
        session_dashboard::DASHBOARD,
        CLI,
    ],
    tables: &[],
};

const ISSUER: Setting = Setting::required(
    "issuer",
    "\"https://login.example.com/pool\"",
    "The token's `iss`, compared byte by byte. Its key set is found by discovery from this URL.",
);

const AUDIENCE: Setting = Setting::required(
    "audience",
    "\"dashboard\"",
    "The token's `aud`, or a list of which the token must name at least one.",
);

const KEYSPACES: Setting =
    Setting::required("keyspaces", "[\"default\"]", "The keyspaces whose keys these people manage.");

const CLAIMS: Setting = Setting::required(
    "claims",
    "{ organizations = \"orgs\", role = \"role\" }",
    "Which claims hold the organizations and the role.",
)
.fields(&[ORGANIZATIONS, ROLE]);

const ORGANIZATIONS: Setting = Setting::required("organizations", "\"orgs\"", "The claim with the organizations.");

const ROLE: Setting = Setting::unset(
    "role",
    "",
    "\"role\"",
    "The claim with the role. Not needed if the organizations' claim holds the roles.",
);

const ALGORITHMS: Setting = Setting::new(
    "algorithms",
    "[\"RS256\"]",
    "The signature algorithms that are accepted. A token that names any other algorithm is refused.",
);

const COOKIE: Setting = Setting::unset(
    "cookie",
    "bearer tokens only",
    "\"__Host-session\"",
    "The cookie that may hold a token of this issuer.",
);

const SUBJECT_PREFIX: Setting = Setting::new(
    "subject_prefix",
    "\"\"",
    "Prefix of this issuer's subjects in `created_by`. Two issuers of one keyspace each need one, and neither may begin \
     with the other: otherwise a subject of one issuer could pass for the other's and change the keys that it created.",
);

const REFRESH: Setting =
    Setting::new("refresh", "\"15m\"", "Maximum age of the issuer's key set before it is fetched again, 1s to 24h.");

const ALLOW_HTTP: Setting = Setting::new(
    "allow_http",
    "false",
    "Allows an issuer on another machine without TLS. Only for a network that you trust.",
);

const JWKS_HOSTS: Setting = Setting::new(
    "jwks_hosts",
    "[]",
    "Hosts other than the issuer's own that may serve its key set, such as `www.googleapis.com`.",
);

const MAX_TOKEN_LIFE: Setting = Setting::new(
    "max_token_life",
    "\"24h\"",
    "The longest life of a token, from its `iat` (without one, from now) to its `exp`, 1m to 365d. A token that lives longer \
     is refused.",
);

const CLI: Setting = Setting::unset(
    "cli",
    "people cannot sign in from a command line",
    "{ client_id = \"cli\", scopes = [\"openid\"], ports = [8976] }",
    "The issuer's public client (no secret, PKCE) that command lines sign in with: see [cli.md](cli.md). Its ID tokens \
     are accepted like those for `audience`.",
)
.fields(&[CLIENT_ID, SCOPES, PORTS]);

const CLIENT_ID: Setting = Setting::required("client_id", "\"cli\"", "The client's id.");

const SCOPES: Setting = Setting::new(
    "scopes",
    "[\"openid\"]",
    "The scopes to ask for; `openid` is always among them. Many issuers give a refresh token for `offline_access` only.",
);

const PORTS: Setting = Setting::new(
    "ports",
    "[]",
    "Ports of the loopback redirect `http://127.0.0.1:PORT/callback`, for an issuer that accepts only registered ones. \
     Empty: any port.",
);

/// Maximum number of scopes, and of ports, of a client for command lines. Discovery serves them to anybody.
const MAX_CLI_LIST: usize = 32;

/// Longest subject prefix; the bound of recorded callers, [`crate::domain::validation::MAX_ACTOR_LEN`], allows for it.
const MAX_SUBJECT_PREFIX_LEN: usize = 64;

/// Reads every issuer. `keyspaces` are the names of all keyspaces.
pub fn read(section: &Section<'_>, keyspaces: &[&str]) -> Vec<Issuer> {
    let mut issuers: Vec<(usize, Issuer)> = Vec::new();
    for (index, section) in section.list(&ISSUER_TABLE).iter().enumerate() {
        let Some(issuer) = issuer(section, keyspaces) else { continue };
        for (at, other) in &issuers {
            check_distinct(section, &issuer, *at, other);
        }
        issuers.push((index, issuer));
    }
    issuers.into_iter().map(|(_, issuer)| issuer).collect()
}

/// A token must belong to exactly one issuer, and a recorded subject must name exactly one person.
fn check_distinct(section: &Section<'_>, own: &Issuer, at: usize, other: &Issuer) {
    if own.issuer == other.issuer {
        if let Some(audience) = own.audiences.iter().find(|audience| other.audiences.contains(audience)) {
            let what = format_args!("\"{audience}\" of this issuer is session.issuer[{at}]'s already");
            section.problem(AUDIENCE.name, what);
        }
        return;
    }
    let begins = |a: &Issuer, b: &Issuer| a.subject_prefix.starts_with(&b.subject_prefix);
    if let Some(shared) = own.keyspaces.iter().find(|name| other.keyspaces.contains(name))
        && (begins(own, other) || begins(other, own))
    {
        let what = format_args!(
            "\"{shared}\" is session.issuer[{at}]'s too, and a subject of the one could be taken for the other's: \
             give each a subject_prefix, of which neither begins with the other"
        );
        section.problem(KEYSPACES.name, what);
    }
}

fn issuer(section: &Section<'_>, configured: &[&str]) -> Option<Issuer> {
    for setting in [ISSUER, AUDIENCE, KEYSPACES, CLAIMS] {
        if !section.has(setting.name) {
            section.problem("", format_args!("{} is missing", setting.name));
        }
    }
    // Trim it: the URL parser ignores white space around a URL, but the comparison with a token's issuer does not.
    let issuer = section.text(&ISSUER).map(|issuer| issuer.trim().to_owned());
    let named = issuer.is_some();
    let audiences = section.one_or_more(&AUDIENCE);
    if audiences.as_ref().is_some_and(|audiences| audiences.is_empty() || audiences.iter().any(String::is_empty)) {
        section.problem(AUDIENCE.name, "must name at least one audience, and none that is empty");
    }
    let cli = section.inline(&CLI, |cli| Some(read_cli(cli)));
    // A token for the command line's client is a session like any other.
    let client = cli.iter().map(|cli| cli.client_id.clone());
    let audiences = audiences.map(|mut audiences| {
        audiences.extend(client.filter(|client| !audiences.contains(client)).collect::<Vec<_>>());
        audiences
    });
    let keyspaces = keyspaces(section, configured);
    let (organizations, role) = section.inline(&CLAIMS, |claims| Some(read_claims(claims))).unwrap_or_default();
    let read = Issuer {
        issuer: issuer.unwrap_or_default(),
        audiences: audiences.unwrap_or_default(),
        algorithms: algorithms(section),
        keyspaces: keyspaces.unwrap_or_default(),
        organizations,
        role,
        cookie: cookie(section),
        subject_prefix: subject_prefix(section),
        refresh: refresh(section),
        allow_http: section.boolean(&ALLOW_HTTP) == Some(true),
        dashboard: session_dashboard::read(section),
        cli,
        jwks_hosts: jwks_hosts(section),
        max_token_life: max_token_life(section),
    };
    if !named {
        // The problem is reported above, and there is nothing to compare with the other issuers.
        return None;
    }
    check_url(section, &read);
    Some(read)
}

fn check_url(section: &Section<'_>, issuer: &Issuer) {
    let url = Url::parse(&issuer.issuer).ok().filter(|url| {
        let plain = url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
        plain && url.password().is_none() && matches!(url.scheme(), "http" | "https") && url.has_host()
    });
    match url {
        None => section.problem(ISSUER.name, "must be an https URL with no query, such as https://login.example.com"),
        Some(url) if !issuer.may_fetch(&url) => {
            section.problem(ISSUER.name, "must be https, unless it is on this machine or allow_http = true is set");
        }
        Some(_) => {}
    }
}

fn read_claims(claims: &Section<'_>) -> (String, Option<String>) {
    let organizations = claims.text(&ORGANIZATIONS);
    if !claims.has(ORGANIZATIONS.name) {
        claims.problem("", "organizations is missing");
    }
    (organizations.unwrap_or_default(), claims.text(&ROLE))
}

fn read_cli(cli: &Section<'_>) -> CliClient {
    let client_id = cli.text(&CLIENT_ID).unwrap_or_default();
    if !cli.has(CLIENT_ID.name) {
        cli.problem("", "client_id is missing");
    } else if !(1..=255).contains(&client_id.len()) || client_id.contains(char::is_control) {
        cli.problem(CLIENT_ID.name, "must be 1 to 255 characters");
    }
    let mut scopes = cli.texts(&SCOPES).unwrap_or_default();
    // RFC 6749, section 3.3.
    let token = |c: u8| matches!(c, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
    if scopes.len() > MAX_CLI_LIST || !scopes.iter().all(|scope| !scope.is_empty() && scope.bytes().all(token)) {
        cli.problem(SCOPES.name, format_args!("must be at most {MAX_CLI_LIST} scopes without spaces or quotes"));
    }
    if !scopes.iter().any(|scope| scope == "openid") {
        scopes.insert(0, "openid".to_owned());
    }
    let ports = cli.numbers(&PORTS, 1..=65_535).unwrap_or_default();
    if ports.len() > MAX_CLI_LIST {
        cli.problem(PORTS.name, format_args!("must be at most {MAX_CLI_LIST} ports"));
    }
    CliClient { client_id, scopes, ports: ports.into_iter().filter_map(|port| port.try_into().ok()).collect() }
}

fn keyspaces(section: &Section<'_>, configured: &[&str]) -> Option<Arc<[String]>> {
    let keyspaces = section.texts(&KEYSPACES)?;
    if keyspaces.is_empty() {
        section.problem(KEYSPACES.name, "must name at least one keyspace");
    }
    for name in &keyspaces {
        if name == RESERVED_KEYSPACE {
            // Otherwise every person of the issuer could create a root key.
            section.problem(KEYSPACES.name, format_args!("\"{RESERVED_KEYSPACE}\" is not for sessions"));
        } else if !configured.contains(&name.as_str()) {
            section.problem(KEYSPACES.name, format_args!("there is no keyspace \"{name}\""));
        }
    }
    Some(keyspaces.into())
}

fn algorithms(section: &Section<'_>) -> Vec<Algorithm> {
    let Some(names) = section.texts(&ALGORITHMS) else { return Vec::new() };
    if names.is_empty() {
        section.problem(ALGORITHMS.name, "must name at least one algorithm");
    }
    let mut algorithms = Vec::new();
    for name in names {
        if let Some(algorithm) = Algorithm::named(&name) {
            algorithms.push(algorithm);
        } else {
            let known = Algorithm::ALL.map(|(name, _)| name).join(", ");
            section.problem(ALGORITHMS.name, format_args!("\"{name}\" is not one of {known}"));
        }
    }
    algorithms
}

fn cookie(section: &Section<'_>) -> Option<String> {
    let cookie = section.text(&COOKIE)?;
    let is_valid = (1..=128).contains(&cookie.len())
        && cookie.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-'));
    if !is_valid {
        section.problem(COOKIE.name, "must be 1 to 128 characters of [A-Za-z0-9._-]");
    }
    Some(cookie)
}

fn subject_prefix(section: &Section<'_>) -> String {
    let prefix = section.text(&SUBJECT_PREFIX).unwrap_or_default();
    let is_valid = prefix.len() <= MAX_SUBJECT_PREFIX_LEN
        && prefix.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-' | b':'));
    if !is_valid {
        section.problem(SUBJECT_PREFIX.name, "must be at most 64 characters of [A-Za-z0-9._:-]");
    }
    prefix
}

fn refresh(section: &Section<'_>) -> Duration {
    let bounds = Duration::from_secs(1)..=Duration::from_hours(24);
    section.duration_within(&REFRESH, bounds, "must be a length of time from 1s to 24h").unwrap_or_default()
}

fn jwks_hosts(section: &Section<'_>) -> Vec<String> {
    let hosts = section.texts(&JWKS_HOSTS).unwrap_or_default();
    for host in &hosts {
        if !Url::parse(&format!("https://{host}")).is_ok_and(|url| url.host_str() == Some(&host.to_ascii_lowercase())) {
            section.problem(JWKS_HOSTS.name, format_args!("\"{host}\" is not a host such as www.googleapis.com"));
        }
    }
    hosts
}

fn max_token_life(section: &Section<'_>) -> Duration {
    let bounds = Duration::from_mins(1)..=Duration::from_hours(24 * 365);
    let what = "must be a length of time from 1m to 365d";
    section.duration_within(&MAX_TOKEN_LIFE, bounds, what).unwrap_or_default()
}
