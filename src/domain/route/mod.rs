//! Routes of a gateway: which requests the keys of a keyspace may make, by method and path.

mod path;
mod pattern;

use self::path::Segments;
pub use self::pattern::PathPattern;
use super::{role::Role, text::cut};

/// The settings of a keyspace for gateways.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GatewayRules {
    /// The answer to a request that no route fits.
    pub unmatched: Unmatched,
    /// Whether Envoy removes the credential before the request goes to the upstream.
    pub strip_credential: bool,
    /// The query parameter that names an organization, which has to be the caller's own.
    pub org_param: Option<String>,
    /// The routes. The first that fits counts.
    pub routes: Vec<Route>,
}

/// The kind of a gateway, which decides in which headers or fields it describes a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GatewayKind {
    /// Envoy, over gRPC.
    Envoy,
    /// nginx with `auth_request`.
    Nginx,
    /// Caddy with `forward_auth`.
    Caddy,
    /// Traefik with `forwardAuth`.
    Traefik,
    /// HAProxy with a script.
    Haproxy,
}

impl GatewayKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Envoy, Self::Nginx, Self::Caddy, Self::Traefik, Self::Haproxy];

    /// The kind's name, in paths, logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Envoy => "envoy",
            Self::Nginx => "nginx",
            Self::Caddy => "caddy",
            Self::Traefik => "traefik",
            Self::Haproxy => "haproxy",
        }
    }
}

/// The answer to a request that no route fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unmatched {
    /// Any live key passes.
    #[default]
    Allow,
    /// Nobody passes.
    Deny,
}

/// Who may make which requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The methods, compared exactly; none: every method.
    pub methods: Option<Vec<String>>,
    /// The paths.
    pub path: PathPattern,
    /// The scopes that a key needs, all of them.
    pub scopes: Vec<String>,
    /// Whether sessions pass, too.
    pub session: bool,
    /// The roles that a session needs, one of them; empty: any role.
    pub roles: Vec<Role>,
}

impl Route {
    /// Whether every request that `other` fits is one that this route fits.
    pub fn covers(&self, other: &Self) -> bool {
        let methods = match (&self.methods, &other.methods) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(own), Some(others)) => others.iter().all(|method| own.contains(method)),
        };
        methods && self.path.covers(&other.path)
    }

    fn fits(&self, method: &str, segments: &Segments<'_>) -> bool {
        self.methods.as_ref().is_none_or(|methods| methods.iter().any(|own| own == method))
            && self.path.matches(segments)
    }
}

/// How the routes match a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteMatch<'a> {
    /// This route fits.
    Route(&'a Route),
    /// No route fits, and any live key passes.
    AnyKey,
    /// No route fits, and nobody passes.
    NoRoute,
    /// Different servers could interpret the path differently.
    Ambiguous,
}

impl GatewayRules {
    /// The route of a request. `target` is the path as the client sent it, undecoded; a query after it is ignored.
    ///
    /// The upstream reads the path itself, by rules of its own, and so may a gateway in between. A path that one of
    /// them could normalize and another could not is refused: otherwise an alternative spelling of a path could bypass
    /// a route.
    pub fn route(&self, method: &str, target: &str) -> RouteMatch<'_> {
        if self.routes.is_empty() {
            return self.unmatched();
        }
        let Some(segments) = Segments::read(path_of(target)) else { return RouteMatch::Ambiguous };
        match self.routes.iter().find(|route| route.fits(method, &segments)) {
            Some(route) => RouteMatch::Route(route),
            None => self.unmatched(),
        }
    }

    /// The organization that the query of `target` names in [`Self::org_param`]. Names such as `orgId[]` count, too: many
    /// frameworks read a list from them, under the name without the brackets.
    pub fn named_organization(&self, target: &str) -> NamedOrganization {
        let Some((name, query)) = self.org_param.as_deref().zip(cut(target, b'?').1) else {
            return NamedOrganization::None;
        };
        let names = |given: &str| given.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('['));
        let mut values = url::form_urlencoded::parse(query.as_bytes()).filter(|(given, _)| names(given));
        match (values.next(), values.next()) {
            (None, _) => NamedOrganization::None,
            (Some(_), Some(_)) => NamedOrganization::Repeated,
            (Some((_, value)), None) if value.is_empty() => NamedOrganization::None,
            (Some((_, value)), None) => NamedOrganization::One(value.into_owned()),
        }
    }

    fn unmatched(&self) -> RouteMatch<'_> {
        match self.unmatched {
            Unmatched::Allow => RouteMatch::AnyKey,
            Unmatched::Deny => RouteMatch::NoRoute,
        }
    }
}

/// The organization that a query names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedOrganization {
    /// None, or an empty one.
    None,
    /// This one.
    One(String),
    /// Several. The upstream may take any of them.
    Repeated,
}

/// The path of a request target: what is before its query.
pub fn path_of(target: &str) -> &str {
    cut(target, b'?').0
}

#[cfg(test)]
mod tests;
