//! The configuration by which requests of gateways are decided.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::{allowed::Allowed, policy::RequestPolicy, request::GatewayRequest};
use crate::{
    domain::{
        error::{Error, ErrorKind, Result},
        keyspace::{AllowedKeyspaces, CredentialHeader, Keyspace, KeyspaceIndex, Registry},
        route::{NamedOrganization, RouteMatch},
        session,
        validation::{MAX_BINDING_LEN, Violations},
    },
    replica::cached_key::CachedKey,
    service::{
        credential::{self, Headers},
        verify::check::Check,
    },
};

/// The keyspaces and routes by which requests of gateways are decided.
pub struct GatewayConfig {
    pub(super) registry: Arc<Registry>,
    /// The environment of this host, which keys of keyspaces with environments must have; empty if it has none.
    pub(super) host_environment: String,
    fingerprint: String,
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
        let policy = self.policy(request, None).ok()?;
        let (header, secret) = credential::only_secret(request.headers, &self.registry, policy.keyspace.credential)?;
        Some(SecretCheck { policy, header, secret, host_environment: &self.host_environment })
    }

    /// Finds the keyspace, the route and the organization of a request. Does not read its credential.
    ///
    /// # Errors
    ///
    /// INVALID_ARGUMENT if the gateway names no keyspace whose keys it may verify, or a binding that no key can have here.
    pub(super) fn policy<'r, H>(
        &'r self,
        request: &GatewayRequest<'r, H>,
        allowed: Option<&AllowedKeyspaces>,
    ) -> Result<RequestPolicy<'r>> {
        let (keyspace, index) = self.keyspace(request.keyspace)?;
        if allowed.is_some_and(|allowed| !allowed.contains(index)) {
            return Err(unknown_keyspace());
        }
        self.check_bindings(request, keyspace)?;
        let rules = &keyspace.gateway;
        let (route, route_refusal) = match rules.route(request.method, request.target) {
            RouteMatch::Route(route) => (Some(route), None),
            RouteMatch::AnyKey => (None, None),
            RouteMatch::NoRoute => (None, Some(no_route())),
            RouteMatch::Ambiguous => (None, Some(ambiguous_path())),
        };
        let (named_organization, organization_refusal) = match rules.named_organization(request.target) {
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
        Ok(RequestPolicy { keyspace, route, named_organization, refusal: route_refusal.or(organization_refusal) })
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
        for (field, text) in bindings.into_iter().filter(|(_, text)| !text.is_empty()) {
            violations.identifier(field, text);
        }
        let own = &*self.host_environment;
        let other = !own.is_empty() && !request.environment.is_empty() && request.environment != own;
        violations.check(!(other && keyspace.require.environment), "environment", "is not this host's");
        violations.finish()
    }
}

/// The check that decides about a request with one secret.
pub struct SecretCheck<'a> {
    policy: RequestPolicy<'a>,
    header: CredentialHeader,
    secret: &'a str,
    host_environment: &'a str,
}

impl SecretCheck<'_> {
    /// The secret that the request presents.
    pub fn secret(&self) -> &str {
        self.secret
    }

    /// The Verify that the request needs: the secret, and what its key must be.
    pub fn check<'c, H>(&'c self, request: &GatewayRequest<'c, H>) -> Check<'c> {
        let mut check = self.policy.check(request, self.secret, self.host_environment);
        if check.asserted.environment.is_empty() && self.policy.keyspace.require.environment {
            check.asserted.environment = self.host_environment;
        }
        check
    }

    /// The decision for a key that satisfies the check and has no rate limit.
    pub fn allowed(self, key: Arc<CachedKey>) -> Allowed {
        Allowed::key(Arc::clone(self.policy.keyspace), key, None, self.header)
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
