//! `gateway` and `[[keyspace.route]]`: which requests gateways may pass for a keyspace's keys.

use super::super::{
    section::Section,
    setting::{Setting, Table},
};
use crate::domain::{
    route::{GatewayRules, PathPattern, Route, Unmatched},
    session::Role,
    validation::Violations,
};

/// Routes of one keyspace: each request is compared with them one by one.
const MAX_ROUTES: usize = 1_000;
/// The methods that HTTP defines, and others that clients send.
const KNOWN_METHODS: [&str; 21] = [
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "CONNECT",
    "OPTIONS",
    "TRACE",
    "PATCH",
    "QUERY",
    "PROPFIND",
    "PROPPATCH",
    "MKCOL",
    "COPY",
    "MOVE",
    "LOCK",
    "UNLOCK",
    "REPORT",
    "SEARCH",
    "MKCALENDAR",
    "PURGE",
];

/// `[[keyspace.route]]`
pub const TABLE: Table = Table {
    name: "route",
    list: true,
    help: "A route of a gateway in front of the product: which keys may make which requests. The first route that fits \
           counts.",
    settings: &[METHODS, PATH, SCOPES, SESSION, ROLES],
    tables: &[],
};

const METHODS: Setting = Setting::unset(
    "methods",
    "any",
    "[\"GET\", \"POST\"]",
    "The methods, compared exactly: a route for `GET` is none for `HEAD`.",
);
const PATH: Setting = Setting::required(
    "path",
    "\"/api/build/*\"",
    "The path. `/api/build/*` is `/api/build` and everything below it, without `/*` the path is exact, and `{name}` stands \
     for one segment. It is compared with the decoded path, case-sensitively.",
);
const SCOPES: Setting =
    Setting::unset("scopes", "any live key", "[\"read\"]", "The scopes that a key needs, all of them.");
const SESSION: Setting = Setting::new(
    "session",
    "false",
    "Whether sessions of the keyspace's issuers pass, too, by bearer token or cookie.",
);
const ROLES: Setting = Setting::unset(
    "roles",
    "any role",
    "[\"owner\", \"admin\"]",
    "The roles that a session needs, one of them: `owner`, `admin` or `member`.",
);

/// `gateway`
pub const GATEWAY: Setting = Setting::unset(
    "gateway",
    "any live key passes, or only those that a route lets pass",
    "{ unmatched = \"deny\", strip_credential = true, org_param = \"orgId\" }",
    "How requests of gateways about keys of this keyspace are decided ([gateways.md](gateways.md)).",
)
.fields(&[UNMATCHED, STRIP_CREDENTIAL, ORG_PARAM]);

const UNMATCHED: Setting = Setting::unset(
    "unmatched",
    "`deny` where there are routes, otherwise `allow`",
    "\"deny\"",
    "The answer to requests that no route fits: `deny`, or `allow` for any live key.",
);
const STRIP_CREDENTIAL: Setting = Setting::new(
    "strip_credential",
    "false",
    "Whether Envoy removes the header with the credential before a request goes to the upstream. Other gateways do this by \
     their own configuration.",
);
const ORG_PARAM: Setting = Setting::unset(
    "org_param",
    "none",
    "\"orgId\"",
    "The query parameter that names an organization. It has to be the key's own, or one of the session's.",
);

/// Reads `gateway` and the routes. `scopes` are the keyspace's; none: any.
pub fn read(section: &Section<'_>, scopes: Option<&[String]>) -> GatewayRules {
    let sections = section.list(&TABLE);
    if sections.len() > MAX_ROUTES {
        section.problem(TABLE.name, format_args!("must be at most {MAX_ROUTES} routes"));
    }
    let mut routes: Vec<(usize, Route)> = Vec::new();
    for (index, section) in sections.iter().enumerate().take(MAX_ROUTES) {
        let Some(route) = route(section, scopes) else { continue };
        if let Some((at, earlier)) = routes.iter().find(|(_, earlier)| earlier.covers(&route)) {
            section.warning(
                PATH.name,
                format_args!(
                    "the route never counts: route[{at}], \"{}\", fits every such request first",
                    earlier.path
                ),
            );
        }
        routes.push((index, route));
    }
    let unmatched = if sections.is_empty() { Unmatched::Allow } else { Unmatched::Deny };
    let routes = routes.into_iter().map(|(_, route)| route).collect();
    let rules = section
        .inline(&GATEWAY, |table| Some(gateway(table, unmatched)))
        .unwrap_or(GatewayRules { unmatched, ..GatewayRules::default() });
    GatewayRules { routes, ..rules }
}

fn gateway(table: &Section<'_>, default: Unmatched) -> GatewayRules {
    let unmatched = match table.text(&UNMATCHED).as_deref() {
        None => default,
        Some("deny") => Unmatched::Deny,
        Some("allow") => Unmatched::Allow,
        Some(_) => {
            table.problem(UNMATCHED.name, "must be \"deny\" or \"allow\"");
            default
        }
    };
    let org_param = table.text(&ORG_PARAM);
    if org_param.as_ref().is_some_and(|name| !(1..=64).contains(&name.len()) || !name.bytes().all(is_visible)) {
        table.problem(ORG_PARAM.name, "must be 1 to 64 visible ASCII characters");
    }
    GatewayRules {
        unmatched,
        strip_credential: table.boolean(&STRIP_CREDENTIAL) == Some(true),
        org_param,
        routes: Vec::new(),
    }
}

fn route(section: &Section<'_>, all: Option<&[String]>) -> Option<Route> {
    let methods = methods(section);
    if !section.has(PATH.name) {
        section.problem("", "path is missing");
    }
    let path = section.text(&PATH).and_then(|text| {
        let path = PathPattern::parse(&text).map_err(|what| section.problem(PATH.name, what)).ok()?;
        if let Some(why) = path.never_matches() {
            section.warning(PATH.name, format_args!("never fits a request: \"{path}\" {why}"));
        }
        Some(path)
    });
    let scopes = section.texts(&SCOPES).unwrap_or_default();
    let mut violations = Violations::default();
    violations.scopes(SCOPES.name, &scopes);
    if let Err(error) = violations.finish() {
        section.problem(SCOPES.name, &error.fields[0].description);
    }
    for scope in scopes.iter().filter(|scope| all.is_some_and(|all| !all.contains(scope))) {
        section.problem(SCOPES.name, format_args!("\"{scope}\" is not in the keyspace's scopes"));
    }
    let session = section.boolean(&SESSION) == Some(true);
    let roles = roles(section);
    if !session && !roles.is_empty() {
        section.warning(ROLES.name, "no session passes this route: roles need session = true");
    }
    Some(Route { methods, path: path?, scopes, session, roles })
}

fn methods(section: &Section<'_>) -> Option<Vec<String>> {
    let methods = section.texts(&METHODS)?;
    if methods.is_empty() {
        section.problem(METHODS.name, "must name at least one method; leave it out for any");
    }
    for method in &methods {
        if method.is_empty() || method.len() > 32 || !method.bytes().all(is_visible) {
            section.problem(METHODS.name, "each must be 1 to 32 visible ASCII characters");
        } else if !KNOWN_METHODS.contains(&method.as_str()) {
            section.warning(METHODS.name, format_args!("no client sends \"{method}\": methods are compared exactly"));
        }
    }
    Some(methods)
}

fn roles(section: &Section<'_>) -> Vec<Role> {
    let names = section.texts(&ROLES).unwrap_or_default();
    if section.has(ROLES.name) && names.is_empty() {
        section.problem(ROLES.name, "must name at least one role; leave it out for any");
    }
    let role = |name: &String| {
        let role = Role::named(name);
        if role.is_none() {
            section.problem(ROLES.name, "may hold \"owner\", \"admin\" and \"member\"");
        }
        role
    };
    names.iter().filter_map(role).collect()
}

fn is_visible(byte: u8) -> bool {
    byte.is_ascii_graphic()
}
