//! The rules that apply to one request of a gateway, and the decision that follows from its credential.

use std::sync::Arc;

use super::{allowed::Allowed, request::GatewayRequest};
use crate::{
    domain::{
        error::{Error, ErrorKind, Result},
        keyspace::{CredentialHeader, Keyspace},
        route::Route,
        session, text,
        verdict::{Assertions, VerdictCode},
    },
    service::{
        rate_limited::rate_limited,
        verify::check::{Check, Verdict},
    },
};

/// The rules that apply to a request, found before its credential is read.
pub(super) struct RequestPolicy<'a> {
    pub(super) keyspace: &'a Arc<Keyspace>,
    pub(super) route: Option<&'a Route>,
    /// The organization that the query names; empty if none.
    pub(super) named_organization: String,
    /// Why nobody may make the request; none if somebody may. It is not shown to a caller whose credential is invalid.
    pub(super) refusal: Option<Error>,
}

impl RequestPolicy<'_> {
    /// The Verify that the request needs.
    pub(super) fn check<'c, H>(
        &'c self,
        request: &GatewayRequest<'c, H>,
        secret: &'c str,
        host_environment: &'c str,
    ) -> Check<'c> {
        // The organization that the gateway names takes precedence; the query is then compared with it.
        let organization =
            if request.organization.is_empty() { &self.named_organization } else { request.organization };
        Check {
            secret,
            keyspace: &self.keyspace.name,
            asserted: Assertions {
                environment: request.environment,
                organization,
                instance: request.instance,
                scopes: self.route.map_or(&[], |route| &route.scopes),
                forbidden: self.refusal.is_some() || self.names_another_organization(request),
            },
            host_environment,
            cost: Some(1),
        }
    }

    /// Whether the query names another organization than the gateway.
    fn names_another_organization<H>(&self, request: &GatewayRequest<'_, H>) -> bool {
        let (named, asserted) = (&self.named_organization, request.organization);
        !named.is_empty() && !asserted.is_empty() && !text::same(named, asserted)
    }

    /// The decision that follows from a key's verdict.
    ///
    /// # Errors
    ///
    /// The refusal of the key or of the request.
    pub(super) fn judge<H>(
        self,
        request: &GatewayRequest<'_, H>,
        verdict: Verdict,
        header: CredentialHeader,
    ) -> Result<Allowed> {
        let Verdict { code, key, rate, missing_scope } = verdict;
        let presented = key.as_ref().map(|key| key.id);
        let error = match (code, key) {
            (VerdictCode::Valid, Some(key)) => return Ok(Allowed::key(Arc::clone(self.keyspace), key, rate, header)),
            (VerdictCode::RateLimited, _) => rate_limited(rate),
            (VerdictCode::InsufficientScope, _) => match (self.refusal, missing_scope) {
                (Some(refusal), _) => refusal,
                (None, Some(missing)) => Error::insufficient_scope(&missing),
                (None, None) => session::foreign_organization(),
            },
            // The request's own query named it, not the gateway.
            (VerdictCode::WrongOrganization, _) if request.organization.is_empty() => session::foreign_organization(),
            (code, _) => Error::new(ErrorKind::Unauthenticated, code.name(), "Invalid or expired API key"),
        };
        Err(Error { presented, ..error })
    }

    /// The decision about a request of an authenticated session.
    ///
    /// # Errors
    ///
    /// PERMISSION_DENIED or INVALID_ARGUMENT: the refusal of the request.
    pub(super) fn judge_session<H>(
        self,
        request: &GatewayRequest<'_, H>,
        session: Arc<session::SessionCaller>,
        header: Option<CredentialHeader>,
    ) -> Result<Allowed> {
        if let Some(refusal) = self.refusal {
            return Err(refusal);
        }
        let named = if self.named_organization.is_empty() { request.organization } else { &self.named_organization };
        if self.names_another_organization(request) {
            return Err(session::foreign_organization());
        }
        let roles = self.route.map_or(&[][..], |route| &route.roles);
        let membership = session.at_route(&self.keyspace.name, named, roles)?.cloned();
        Ok(Allowed::session(Arc::clone(self.keyspace), session, membership, header))
    }
}
