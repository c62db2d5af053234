//! Decisions about the requests that reach a gateway: one function for all gateways, on the same evaluation as Verify.
//! A decision that memory can make needs no database.

mod allowed;
mod request;

use std::sync::Arc;

use tokio::time::Instant;

pub use self::{
    allowed::{Allowed, IDENTITY_HEADERS},
    request::GatewayRequest,
};
use super::{
    authenticate::Authenticator,
    credential::{self, CredentialPolicy, Headers, Presented},
    csrf,
    rate_limited::rate_limited,
    verify::{
        check::{Check, Verdict},
        evaluator::{Evaluation, Evaluator},
    },
};
use crate::{
    domain::{
        caller::Caller,
        error::{Error, ErrorKind, Result},
        keyspace::{AllowedKeyspaces, CredentialHeader, Keyspace, KeyspaceIndex, Registry},
        route::{self, NamedOrganization, Route, RouteMatch},
        session, text,
        validation::{MAX_BINDING_LEN, Violations},
        verdict::{Assertions, VerdictCode},
    },
    telemetry::Metrics,
};

/// Characters of a method and of a path that are logged.
const MAX_LOGGED_METHOD: usize = 32;
const MAX_LOGGED_PATH: usize = 256;

/// Decides for gateways, and counts and logs the decisions.
pub struct Gateways {
    pub(super) evaluator: Arc<Evaluator>,
    pub(super) auth: Arc<Authenticator>,
    pub(super) registry: Arc<Registry>,
    pub(super) metrics: Arc<Metrics>,
    /// The environment of this host, which keys of keyspaces with environments must have; empty if it has none.
    pub(super) host_environment: String,
}

/// What is decided about a request before its credential is looked at.
struct Ground<'a> {
    keyspace: &'a Arc<Keyspace>,
    route: Option<&'a Route>,
    /// The organization that the query names; empty if none.
    named: String,
    /// Why nobody may make the request, if that is so. A caller whose credential is invalid does not learn it.
    objection: Option<Error>,
}

/// How far memory goes.
enum Step<'a, 'r> {
    Decided(Result<Allowed>),
    /// The credential has to be verified first, with what the ground is.
    Pending(Ground<'a>, Presented<'r>),
}

impl Gateways {
    /// Decides about a request. `allowed` are the keyspaces that the gateway may ask about; none: all.
    ///
    /// # Errors
    ///
    /// The refusal: INVALID_ARGUMENT, UNAUTHENTICATED, PERMISSION_DENIED or RESOURCE_EXHAUSTED. UNAVAILABLE if the request
    /// could not be decided.
    pub async fn decide<H: Headers + Sync>(
        &self,
        request: &GatewayRequest<'_, H>,
        allowed: Option<&AllowedKeyspaces>,
        deadline: Instant,
    ) -> Result<Allowed> {
        let decision = match self.begin(request, allowed) {
            Step::Decided(decision) => decision,
            Step::Pending(ground, presented) => self.verify(request, allowed, ground, presented, deadline).await,
        };
        let decision = decision.map_err(undecided_is_unavailable);
        self.record(request, &decision);
        decision
    }

    /// The decision for the gateway with this credential, as far as memory goes. Reads the lease once for both keys, the
    /// gateway's and the checked one. None where it takes more, or where the gateway may not ask: then nothing was spent,
    /// counted or logged.
    pub fn try_decide_cached<H: Headers>(
        &self,
        credential: &str,
        request: &GatewayRequest<'_, H>,
    ) -> Option<Result<Allowed>> {
        let cache = self.evaluator.replica.cache_guard()?;
        let allowed = self.auth.authorize_verify_cached(&cache, credential)?.ok()?;
        let allowed = allowed.as_deref();
        let decision = match self.begin(request, allowed) {
            Step::Decided(decision) => decision,
            Step::Pending(ground, Presented::Secret(place, secret)) => {
                let check = ground.check(request, &secret, &self.host_environment);
                match self.evaluator.evaluate(Some(&cache), &check, allowed) {
                    Ok(Evaluation::Decided(verdict)) => {
                        // These refusals show the key's rate limit, and reading that may take a round trip.
                        if matches!(verdict.code, VerdictCode::InsufficientScope | VerdictCode::WrongOrganization) {
                            return None;
                        }
                        ground.judge(request, verdict, place)
                    }
                    Ok(Evaluation::Pending(_)) => return None,
                    Err(error) => Err(error),
                }
            }
            Step::Pending(..) => return None,
        };
        self.record(request, &decision);
        Some(decision)
    }

    fn begin<'r, H: Headers>(
        &'r self,
        request: &GatewayRequest<'r, H>,
        allowed: Option<&AllowedKeyspaces>,
    ) -> Step<'r, 'r> {
        let found = self.ground(request, allowed).and_then(|ground| {
            let sessions = ground.route.is_some_and(|route| route.session);
            let policy = CredentialPolicy { sessions, header: Some(ground.keyspace.credential) };
            let presented = credential::find(request.headers, &self.auth, policy)?;
            Ok((ground, presented.ok_or_else(Error::missing_credential)?))
        });
        match found {
            Ok((ground, presented)) => Step::Pending(ground, presented),
            Err(error) => Step::Decided(Err(error)),
        }
    }

    async fn verify<H: Headers>(
        &self,
        request: &GatewayRequest<'_, H>,
        allowed: Option<&AllowedKeyspaces>,
        ground: Ground<'_>,
        presented: Presented<'_>,
        deadline: Instant,
    ) -> Result<Allowed> {
        let (token, cookie) = match &presented {
            Presented::Secret(place, secret) => {
                let check = ground.check(request, secret, &self.host_environment);
                let verdict = self.evaluator.decide(&check, allowed, deadline).await?;
                let key = verdict.key.clone();
                let judged = ground.judge(request, verdict, *place);
                return match (judged, key) {
                    // A response to a rate-limited key shows its limit, also where nothing was spent.
                    (Err(error), Some(key)) if error.kind == ErrorKind::PermissionDenied => {
                        Err(Error { rate: self.evaluator.rate_state(&key).await, ..error })
                    }
                    (judged, _) => judged,
                };
            }
            Presented::Token(token) => (token, None),
            Presented::Cookie(name, token) => {
                csrf::check(request.method, request.headers, Some(&request.host.to_ascii_lowercase()), false)?;
                (token, Some(*name))
            }
        };
        let session = self.auth.authenticate_session(token, cookie, deadline).await?;
        let Caller::Session(session) = session.caller else { return Err(Error::internal("a session is no session")) };
        let bearer = cookie.is_none().then_some(CredentialHeader::Bearer);
        ground.admit_session(request, session, bearer)
    }

    /// What the configuration says about the request.
    fn ground<'r, H>(
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

    /// Counts a decision, and logs a refusal.
    fn record<H>(&self, request: &GatewayRequest<'_, H>, decision: &Result<Allowed>) {
        let keyspace = match request.keyspace {
            "" => self.registry.configured().first().filter(|_| self.registry.configured().len() == 1),
            named => self.registry.configured().iter().find(|keyspace| keyspace.name == named),
        };
        let keyspace = keyspace.map(|keyspace| keyspace.name.as_str()).unwrap_or_default();
        match decision {
            Ok(_) => self.metrics.gateway_allowed(self.registry.index(keyspace), request.kind),
            Err(error) => {
                self.metrics.gateway_refused(keyspace, request.kind, error.reason);
                self.log(request, keyspace, error);
            }
        }
    }

    #[cold]
    fn log<H>(&self, request: &GatewayRequest<'_, H>, keyspace: &str, error: &Error) {
        let gateway = request.kind.name();
        let outcome = error.reason;
        let method = self.loggable(request.method, MAX_LOGGED_METHOD);
        let path = self.loggable(route::path_of(request.target), MAX_LOGGED_PATH);
        let key = error.presented.map(|key| key.to_string()).unwrap_or_default();
        let client = request.client.map(|client| client.to_string()).unwrap_or_default();
        let request = request.request_id;
        match &error.internal {
            None => tracing::info!(gateway, keyspace, outcome, method, path, key, client, request, "request refused"),
            Some(internal) => tracing::warn!(
                gateway,
                keyspace,
                outcome,
                method,
                path,
                key,
                client,
                request,
                internal,
                "request not decided"
            ),
        }
    }

    /// What may be logged of a text that a stranger chose: its beginning, unless it holds something like a credential.
    fn loggable<'t>(&self, text: &'t str, max: usize) -> &'t str {
        let end = text.char_indices().nth(max).map_or(text.len(), |(at, _)| at);
        let text = &text[..end];
        if self.auth.holds_credential(text) { "(withheld)" } else { text }
    }
}

impl Ground<'_> {
    fn check<'c, H>(
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
    fn judge<H>(self, request: &GatewayRequest<'_, H>, verdict: Verdict, place: CredentialHeader) -> Result<Allowed> {
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

    fn admit_session<H>(
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

/// To a gateway, everything that is no decision is the same.
fn undecided_is_unavailable(error: Error) -> Error {
    match error.kind {
        ErrorKind::DeadlineExceeded | ErrorKind::Internal | ErrorKind::NotFound | ErrorKind::FailedPrecondition => {
            Error::unavailable(error.to_string())
        }
        _ => error,
    }
}
