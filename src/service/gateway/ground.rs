//! What the configuration says about a request of a gateway, whoever makes it.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::{allowed::Allowed, request::GatewayRequest};
use crate::{
    domain::{
        error::{Error, ErrorKind, Result},
        keyspace::{AllowedKeyspaces, CredentialHeader, Keyspace, KeyspaceIndex, Registry},
        route::{NamedOrganization, Route, RouteMatch},
        session, text,
        validation::{MAX_BINDING_LEN, Violations},
        verdict::{Assertions, VerdictCode},
    },
    replica::cached_key::CachedKey,
    service::{
        credential::{self, Headers},
        rate_limited::rate_limited,
        verify::check::{Check, Verdict},
    },
};

/// What gateways' requests are decided by, apart from keys.
pub struct GatewayConfig {
    pub(super) registry: Arc<Registry>,
    /// The environment of this host, which keys of keyspaces with environments must have; empty if it has none.
    pub(super) host_environment: String,
    fingerprint: String,
}

/// What is decided about a request before its credential is looked at.
pub(super) struct Ground<'a> {
    pub(super) keyspace: &'a Arc<Keyspace>,
    pub(super) route: Option<&'a Route>,
    /// The organization that the query names; empty if none.
    named: String,
    /// Why nobody may make the request, if that is so. A caller whose credential is invalid does not learn it.
    objection: Option<Error>,
}

impl GatewayConfig {
    /// The rules of these keyspaces at a host of this environment.
    pub fn new(registry: Arc<Registry>, host_environment: String) -> Self {
        let text = format!("{} {:?} {host_environment:?}", env!("CARGO_PKG_VERSION"), registry.configured());
        let fingerprint = data_encoding::HEXLOWER.encode(&Sha256::digest(text.as_bytes()));
        Self { registry, host_environment, fingerprint }
    }

    /// Two configurations with the same fingerprint, of one version of this program, decide alike.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The keyspaces.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The check that decides about a request whose only credential is one secret, in the header of its keyspace. None for
    /// every other request.
    pub fn secret_check<'r, H: Headers>(&'r self, request: &GatewayRequest<'r, H>) -> Option<SecretCheck<'r>> {
        let ground = self.ground(request, None).ok()?;
        let (place, secret) = credential::only_secret(request.headers, &self.registry, ground.keyspace.credential)?;
        Some(SecretCheck { ground, place, secret, host_environment: &self.host_environment })
    }

    /// What the configuration says about the request.
    pub(super) fn ground<'r, H>(
        &'r self,
        request: &GatewayRequest<'r, H>,
        allowed: Option<&AllowedKeyspaces>,
    ) -> Result<Ground<'r>> {
        let (keyspace, index) = self.keyspace(request.keyspace)?;
        if allowed.is_some_and(|allowed| !allowed.contains(index)) {
            return Err(unknown_keyspace());
        }
        self.check_bindings(request, keyspace)?;
        let rules = &keyspace.gateway;
        let (route, objection) = match rules.route(request.method, request.target) {
            RouteMatch::Route(route) => (Some(route), None),
            RouteMatch::AnyKey => (None, None),
            RouteMatch::NoRoute => (None, Some(no_route())),
            RouteMatch::Ambiguous => (None, Some(ambiguous_path())),
        };
        let (named, repeated) = match rules.named_organization(request.target) {
            NamedOrganization::None => (String::new(), None),
            // No key can be bound to such a name.
            NamedOrganization::One(named) if !is_identifier(&named) => {
                (String::new(), Some(session::foreign_organization()))
            }
            NamedOrganization::One(named) => (named, None),
            NamedOrganization::Repeated => {
                let name = rules.org_param.clone().unwrap_or_default();
                (String::new(), Some(Error::invalid(name, "must be given once")))
            }
        };
        Ok(Ground { keyspace, route, named, objection: objection.or(repeated) })
    }

    fn keyspace(&self, named: &str) -> Result<(&Arc<Keyspace>, KeyspaceIndex)> {
        let configured = self.registry.configured();
        let keyspace = match (named, configured) {
            ("", [only]) => only,
            ("", _) => return Err(Error::invalid("keyspace", "must be named: several are configured")),
            _ => configured.iter().find(|keyspace| keyspace.name == named).ok_or_else(unknown_keyspace)?,
        };
        let index = self.registry.index(&keyspace.name).ok_or_else(unknown_keyspace)?;
        Ok((keyspace, index))
    }

    fn check_bindings<H>(&self, request: &GatewayRequest<'_, H>, keyspace: &Keyspace) -> Result<()> {
        let mut violations = Violations::default();
        let bindings = [
            ("environment", request.environment),
            ("organization", request.organization),
            ("instance", request.instance),
        ];
        for (field, text) in bindings {
            violations.identifier(field, text);
        }
        let own = &*self.host_environment;
        let other = !own.is_empty() && !request.environment.is_empty() && request.environment != own;
        violations.check(!(other && keyspace.require.environment), "environment", "is not this host's");
        violations.finish()
    }
}

/// A check of the secret of a gateway's request.
pub struct SecretCheck<'a> {
    ground: Ground<'a>,
    place: CredentialHeader,
    secret: &'a str,
    host_environment: &'a str,
}

impl SecretCheck<'_> {
    /// The secret.
    pub fn secret(&self) -> &str {
        self.secret
    }

    /// What is asserted of the key.
    pub fn check<'c, H>(&'c self, request: &GatewayRequest<'c, H>) -> Check<'c> {
        let mut check = self.ground.check(request, self.secret, self.host_environment);
        if check.asserted.environment.is_empty() && self.ground.keyspace.require.environment {
            check.asserted.environment = self.host_environment;
        }
        check
    }

    /// What the upstream is told of the key, which satisfies the check and has no rate limit.
    pub fn allowed(self, key: Arc<CachedKey>) -> Allowed {
        Allowed::key(Arc::clone(self.ground.keyspace), key, None, self.place)
    }
}

impl Ground<'_> {
    pub(super) fn check<'c, H>(
        &'c self,
        request: &GatewayRequest<'c, H>,
        secret: &'c str,
        host_environment: &'c str,
    ) -> Check<'c> {
        // What the gateway names goes first; the query is then compared with it.
        let organization = if request.organization.is_empty() { &self.named } else { request.organization };
        Check {
            secret,
            keyspace: &self.keyspace.name,
            asserted: Assertions {
                environment: request.environment,
                organization,
                instance: request.instance,
                scopes: self.route.map_or(&[], |route| &route.scopes),
                forbidden: self.objection.is_some() || self.names_two(request),
            },
            host_environment,
            cost: Some(1),
        }
    }

    /// Whether the query names another organization than the gateway.
    fn names_two<H>(&self, request: &GatewayRequest<'_, H>) -> bool {
        !self.named.is_empty() && !request.organization.is_empty() && !text::same(&self.named, request.organization)
    }

    /// The decision that follows from a key's verdict.
    pub(super) fn judge<H>(
        self,
        request: &GatewayRequest<'_, H>,
        verdict: Verdict,
        place: CredentialHeader,
    ) -> Result<Allowed> {
        let Verdict { code, key, rate, missing_scope } = verdict;
        let presented = key.as_ref().map(|key| key.id);
        let error = match (code, key) {
            (VerdictCode::Valid, Some(key)) => return Ok(Allowed::key(Arc::clone(self.keyspace), key, rate, place)),
            (VerdictCode::RateLimited, _) => rate_limited(rate),
            (VerdictCode::InsufficientScope, _) => match (self.objection, missing_scope) {
                (Some(objection), _) => objection,
                (None, Some(missing)) => Error::insufficient_scope(&missing),
                (None, None) => session::foreign_organization(),
            },
            // The request's own query named it, not the gateway.
            (VerdictCode::WrongOrganization, _) if request.organization.is_empty() => session::foreign_organization(),
            (code, _) => Error::new(ErrorKind::Unauthenticated, code.name(), "Invalid or expired API key"),
        };
        Err(Error { presented, ..error })
    }

    pub(super) fn admit_session<H>(
        self,
        request: &GatewayRequest<'_, H>,
        session: Arc<session::SessionCaller>,
        place: Option<CredentialHeader>,
    ) -> Result<Allowed> {
        if let Some(objection) = self.objection {
            return Err(objection);
        }
        let named = if self.named.is_empty() { request.organization } else { &self.named };
        if self.names_two(request) {
            return Err(session::foreign_organization());
        }
        let roles = self.route.map_or(&[][..], |route| &route.roles);
        let membership = session.at_route(&self.keyspace.name, named, roles)?.cloned();
        Ok(Allowed::session(Arc::clone(self.keyspace), session, membership, place))
    }
}

fn is_identifier(text: &str) -> bool {
    text.chars().count() <= MAX_BINDING_LEN && !text.contains(char::is_control)
}

fn unknown_keyspace() -> Error {
    Error::invalid("keyspace", "there is no such keyspace")
}

fn no_route() -> Error {
    Error::new(ErrorKind::PermissionDenied, "NO_ROUTE", "No route allows this request")
}

fn ambiguous_path() -> Error {
    Error { reason: "AMBIGUOUS_PATH", ..Error::invalid("path", "could be read in different ways; send it normalized") }
}
