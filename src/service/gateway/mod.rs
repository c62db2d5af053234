//! Decisions about the requests that reach a gateway: one function for all gateways, on the same evaluation as Verify.
//! A decision that memory can make needs no database.

mod allowed;
mod config;
mod policy;
mod request;

use std::sync::Arc;

use tokio::time::Instant;

use self::policy::RequestPolicy;
pub use self::{
    allowed::{Allowed, IDENTITY_HEADERS},
    config::{GatewayConfig, SecretCheck},
    request::GatewayRequest,
};
use super::{
    authenticate::Authenticator,
    credential::{self, CredentialPolicy, Headers, Presented},
    csrf,
    verify::evaluator::{Evaluation, Evaluator},
};
use crate::{
    domain::{
        caller::Caller,
        error::{Error, ErrorKind, Result},
        keyspace::{AllowedKeyspaces, CredentialHeader},
        route,
        verdict::VerdictCode,
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
    pub(super) metrics: Arc<Metrics>,
    pub(super) config: GatewayConfig,
}

/// A decision, or the work that is left for one.
enum DecisionStep<'a, 'r> {
    Decided(Result<Allowed>),
    /// The credential has to be verified first.
    Pending(RequestPolicy<'a>, Presented<'r>),
}

impl Gateways {
    /// See [`GatewayConfig::fingerprint`].
    pub fn config_fingerprint(&self) -> &str {
        self.config.fingerprint()
    }

    /// Decides about a request. `allowed` are the keyspaces whose keys the gateway may verify; none: all.
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
            DecisionStep::Decided(decision) => decision,
            DecisionStep::Pending(policy, presented) => {
                self.verify(request, allowed, policy, presented, deadline).await
            }
        };
        let decision = decision.map_err(undecided_is_unavailable);
        self.record(request, &decision);
        decision
    }

    /// The decision for the gateway with this credential, if memory suffices. Reads the lease once for both keys, the
    /// gateway's and the checked one. None if it needs the database or the limiter, or if the gateway may not verify:
    /// then nothing was spent, counted or logged.
    pub fn try_decide_cached<H: Headers>(
        &self,
        credential: &str,
        request: &GatewayRequest<'_, H>,
    ) -> Option<Result<Allowed>> {
        let cache = self.evaluator.replica.cache_guard()?;
        let allowed = self.auth.authorize_verify_cached(&cache, credential)?.ok()?;
        let allowed = allowed.as_deref();
        let decision = match self.begin(request, allowed) {
            DecisionStep::Decided(decision) => decision,
            DecisionStep::Pending(policy, Presented::Secret(header, secret)) => {
                let check = policy.check(request, &secret, &self.config.host_environment);
                match self.evaluator.evaluate(Some(&cache), &check, allowed) {
                    Ok(Evaluation::Decided(verdict)) => {
                        // These refusals show the key's rate limit, and reading that may take a round trip.
                        if matches!(verdict.code, VerdictCode::InsufficientScope | VerdictCode::WrongOrganization) {
                            return None;
                        }
                        policy.judge(request, verdict, header)
                    }
                    Ok(Evaluation::Pending(_)) => return None,
                    Err(error) => Err(error),
                }
            }
            DecisionStep::Pending(..) => return None,
        };
        self.record(request, &decision);
        Some(decision)
    }

    fn begin<'r, H: Headers>(
        &'r self,
        request: &GatewayRequest<'r, H>,
        allowed: Option<&AllowedKeyspaces>,
    ) -> DecisionStep<'r, 'r> {
        let found = self.config.policy(request, allowed).and_then(|policy| {
            let sessions = policy.route.is_some_and(|route| route.session);
            let credential_policy = CredentialPolicy { sessions, header: Some(policy.keyspace.credential) };
            let presented = credential::find(request.headers, &self.auth, credential_policy)?;
            Ok((policy, presented.ok_or_else(Error::missing_credential)?))
        });
        match found {
            Ok((policy, presented)) => DecisionStep::Pending(policy, presented),
            Err(error) => DecisionStep::Decided(Err(error)),
        }
    }

    async fn verify<H: Headers>(
        &self,
        request: &GatewayRequest<'_, H>,
        allowed: Option<&AllowedKeyspaces>,
        policy: RequestPolicy<'_>,
        presented: Presented<'_>,
        deadline: Instant,
    ) -> Result<Allowed> {
        let (token, cookie) = match &presented {
            Presented::Secret(header, secret) => {
                let check = policy.check(request, secret, &self.config.host_environment);
                let verdict = self.evaluator.decide(&check, allowed, deadline).await?;
                let key = verdict.key.clone();
                let judged = policy.judge(request, verdict, *header);
                return match (judged, key) {
                    // The response for a key with a rate limit shows the limit, even if nothing was spent.
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
        policy.judge_session(request, session, bearer)
    }

    /// Counts a decision, and logs a refusal.
    fn record<H>(&self, request: &GatewayRequest<'_, H>, decision: &Result<Allowed>) {
        let registry = &self.config.registry;
        let keyspace = match request.keyspace {
            "" => registry.configured().first().filter(|_| registry.configured().len() == 1),
            named => registry.configured().iter().find(|keyspace| keyspace.name == named),
        };
        let keyspace = keyspace.map(|keyspace| keyspace.name.as_str()).unwrap_or_default();
        match decision {
            Ok(_) => self.metrics.gateway_allowed(registry.index(keyspace), request.kind),
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

    /// The part of an untrusted text that may be logged: its beginning, unless the text may contain a credential.
    fn loggable<'t>(&self, text: &'t str, max: usize) -> &'t str {
        let end = text.char_indices().nth(max).map_or(text.len(), |(at, _)| at);
        let text = &text[..end];
        if self.auth.holds_credential(text) { "(withheld)" } else { text }
    }
}

/// A gateway cannot act on the reason why there is no decision, so every such error becomes UNAVAILABLE.
fn undecided_is_unavailable(error: Error) -> Error {
    match error.kind {
        ErrorKind::DeadlineExceeded | ErrorKind::Internal | ErrorKind::NotFound | ErrorKind::FailedPrecondition => {
            Error::unavailable(error.to_string())
        }
        _ => error,
    }
}
