//! Authentication: from a credential to the caller. A credential is a key like any other, and its verdict is made for
//! each call, so a revoked caller is out as fast as any revoked key.

use std::{net::IpAddr, sync::Arc, time::Duration};

use subtle::ConstantTimeEq as _;
use tokio::time::Instant;

use super::{
    context::CallContext,
    rate_limited::rate_limited,
    trail::AuditTrail,
    verify::{
        check::{Check, Verdict},
        evaluator::{Evaluation, Evaluator, digest_of},
    },
};
use crate::{
    domain::{
        access,
        caller::{AuthMethod, Caller, KeyCaller},
        clock::Micros,
        error::{Error, Result},
        key::{Digest, KeyId},
        keyspace::{AllowedKeyspaces, RESERVED_KEYSPACE, ROOT_SCOPE, Registry, VERIFY_SCOPE},
        oidc::CliClient,
        rate_limit::RateState,
        secret,
        verdict::{KeyView, VerdictCode},
    },
    limiter::{Subject, auth_failures::AuthFailures},
    replica::{CacheGuard, cached_key::CachedKey},
    session::Sessions,
    telemetry::Metrics,
};

/// Authenticates callers by secret or by session token.
pub struct Authenticator {
    pub(super) evaluator: Arc<Evaluator>,
    pub(super) registry: Arc<Registry>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) failures: AuthFailures,
    /// The root credential that the environment sets.
    pub(super) root: Option<RootCredential>,
    pub(super) trail: Arc<AuditTrail>,
    pub(super) metrics: Arc<Metrics>,
}

/// What is kept of the root credential. A text of another length is not hashed: how long an answer takes may show the
/// credential's length, never its content.
#[derive(Debug, Clone, Copy)]
pub struct RootCredential {
    length: usize,
    digest: Digest,
}

impl RootCredential {
    /// For a root credential.
    pub fn new(credential: &str) -> Self {
        Self { length: credential.len(), digest: secret::digest(credential) }
    }

    fn has_digest(&self, digest: &Digest) -> bool {
        // In halves: `subtle` compares an array byte by byte, which takes as long as the rest of a caller's verdict.
        let ([first, second], [own_first, own_second]) = (halves(digest), halves(&self.digest));
        (first.ct_eq(&own_first) & second.ct_eq(&own_second)).into()
    }
}

fn halves(digest: &Digest) -> [u128; 2] {
    [0, 16].map(|start| u128::from_ne_bytes(std::array::from_fn(|index| digest.0[start + index])))
}

/// A caller that has proved who it is.
#[derive(Debug, Clone)]
pub struct Authenticated {
    /// The caller.
    pub caller: Caller,
    /// The state of its own rate limit, if it has one and the [`AuthMode`] reads it.
    pub rate: Option<RateState>,
}

/// How an authentication treats the rate limit and the revocation of the caller's own key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMode {
    /// Does not read the rate limit.
    WithoutLimit,
    /// Spends one call, and refuses a caller whose limit is spent.
    SpendLimit,
    /// For a key that revokes itself: reads the rate limit without spending it, and accepts a key that is revoked
    /// already, so that its holder can repeat a revocation that is still pending.
    SelfRevocation,
}

impl AuthMode {
    fn cost(self) -> Option<u32> {
        match self {
            Self::WithoutLimit => None,
            Self::SpendLimit => Some(1),
            Self::SelfRevocation => Some(0),
        }
    }
}

impl Authenticator {
    /// The holder of this secret.
    ///
    /// # Errors
    ///
    /// UNAUTHENTICATED with the verdict as reason; RESOURCE_EXHAUSTED for a spent limit; UNAVAILABLE.
    pub async fn authenticate(
        &self,
        credential: &str,
        mode: AuthMode,
        context: CallContext<'_>,
    ) -> Result<Authenticated> {
        if self.is_root(credential) {
            return Ok(Authenticated { caller: root(), rate: None });
        }
        let check = Check {
            secret: credential,
            host_environment: context.host_environment,
            cost: mode.cost(),
            ..Check::default()
        };
        let verdict = self.evaluator.decide(&check, None, context.deadline).await?;
        let mut authenticated = self.admit(&verdict, mode)?;
        if let (AuthMode::SelfRevocation, None, Some(key)) = (mode, authenticated.rate, &verdict.key) {
            authenticated.rate = self.evaluator.rate_state(key).await;
        }
        Ok(authenticated)
    }

    /// The one that proved earlier that it holds the credential with this digest. Its verdict is evaluated again.
    ///
    /// # Errors
    ///
    /// Those of [`Self::authenticate`].
    pub async fn authenticate_digest(
        &self,
        digest: Digest,
        mode: AuthMode,
        context: CallContext<'_>,
    ) -> Result<Authenticated> {
        if self.is_root_digest(&digest) {
            return Ok(Authenticated { caller: root(), rate: None });
        }
        let check = Check { host_environment: context.host_environment, cost: mode.cost(), ..Check::default() };
        let verdict = self.evaluator.decide_by_digest(digest, &check, context.deadline).await?;
        self.admit(&verdict, mode)
    }

    /// The holder of this credential, which may also be a session token.
    ///
    /// # Errors
    ///
    /// Those of [`Self::authenticate`] and [`Self::authenticate_session`].
    pub async fn authenticate_any(
        &self,
        credential: &str,
        mode: AuthMode,
        context: CallContext<'_>,
    ) -> Result<Authenticated> {
        if self.is_session(credential) {
            self.authenticate_session(credential, None, context.deadline).await
        } else {
            self.authenticate(credential, mode, context).await
        }
    }

    /// Like [`Self::authenticate_any`], for a call that revokes the key `id`. The holder of that very key is not refused
    /// for a spent limit, and may repeat a pending revocation although the key is revoked already.
    ///
    /// # Errors
    ///
    /// Those of [`Self::authenticate_any`].
    pub async fn authenticate_to_revoke(
        &self,
        credential: &str,
        id: &str,
        mode: AuthMode,
        context: CallContext<'_>,
    ) -> Result<Authenticated> {
        if let Ok(id) = id.parse::<KeyId>()
            && !self.is_session(credential)
            && let Ok(own) = self.authenticate(credential, AuthMode::SelfRevocation, context).await
            && own.caller.key_id() == Some(id)
        {
            return Ok(own);
        }
        self.authenticate_any(credential, mode, context).await
    }

    /// Whether a credential is a session token: it has the form of one, and is neither a key nor the root credential.
    pub fn is_session(&self, credential: &str) -> bool {
        self.sessions.has_form(credential) && self.registry.by_prefix(credential).is_none() && !self.is_root(credential)
    }

    /// Whether a text is a secret that this installation can have made.
    pub fn is_well_formed(&self, text: &str) -> bool {
        self.registry.well_formed(text, &self.evaluator.master_keys)
    }

    /// Whether a text that may be logged and repeated, such as a request id, holds something like a credential. A part
    /// that only begins like a secret, or like a token of any issuer, counts: a mistyped one must not be in a log either.
    pub fn holds_credential(&self, text: &str) -> bool {
        self.is_root(text) || self.registry.holds_credential(text)
    }

    /// The caller of a session token; `cookie` is the name of the cookie that held it, if one did.
    ///
    /// # Errors
    ///
    /// UNAUTHENTICATED; UNAVAILABLE where the keys of its issuer cannot be fetched.
    pub async fn authenticate_session(
        &self,
        token: &str,
        cookie: Option<&str>,
        deadline: Instant,
    ) -> Result<Authenticated> {
        let caller = self.sessions.caller(token, cookie, deadline).await?;
        Ok(Authenticated { caller: Caller::Session(Arc::new(caller)), rate: None })
    }

    /// How people sign in from a command line: the issuer, its client, and whether it offers the device flow.
    pub(super) fn cli_sign_in(&self) -> Option<(&str, &CliClient, Option<bool>)> {
        self.sessions.cli_sign_in()
    }

    /// The names of the cookies that may hold a session token.
    pub fn session_cookies(&self) -> impl Iterator<Item = &str> {
        self.sessions.cookies()
    }

    /// The keyspaces that the holder of this credential may verify keys of; none: all.
    ///
    /// # Errors
    ///
    /// Those of [`Self::authenticate_any`]; PERMISSION_DENIED for a caller that may not verify.
    pub async fn authorize_verify(&self, credential: &str, deadline: Instant) -> Result<Option<Arc<AllowedKeyspaces>>> {
        let context = CallContext { deadline, host_environment: "", client: None };
        let authenticated = self.authenticate_any(credential, AuthMode::WithoutLimit, context).await?;
        access::may_verify(&authenticated.caller)
    }

    /// [`Self::authorize_verify`] for a caller that attaches; also when its credential expires, if it does.
    ///
    /// # Errors
    ///
    /// Those of [`Self::authorize_verify`]. A session token is no credential here: no change feed reports its revocation.
    pub(super) async fn authorize_attach(
        &self,
        credential: &str,
        deadline: Instant,
    ) -> Result<(Option<Arc<AllowedKeyspaces>>, Option<Micros>)> {
        if self.is_root(credential) {
            return Ok((None, None));
        }
        let check = Check { secret: credential, cost: AuthMode::WithoutLimit.cost(), ..Check::default() };
        let verdict = self.evaluator.decide(&check, None, deadline).await?;
        let admitted = self.admit(&verdict, AuthMode::WithoutLimit)?;
        let expires = verdict.key.as_ref().and_then(|key| key.expire_time());
        Ok((access::may_verify(&admitted.caller)?, expires))
    }

    /// [`Self::authorize_verify`] from memory; none where that needs a look-up.
    pub fn authorize_verify_cached(
        &self,
        cache: &CacheGuard<'_>,
        credential: &str,
    ) -> Option<Result<Option<Arc<AllowedKeyspaces>>>> {
        let digest = digest_of(credential)?;
        if self.is_root_digest(&digest) {
            return Some(Ok(None));
        }
        let check = Check { secret: credential, cost: AuthMode::WithoutLimit.cost(), ..Check::default() };
        let Evaluation::Decided(verdict) = self.evaluator.evaluate_digest(Some(cache), digest, &check, None) else {
            return None;
        };
        // A session token has the form of no key. Its verdict takes the issuer's keys.
        verdict.key.as_ref()?;
        let admitted = self.admit(&verdict, AuthMode::WithoutLimit);
        Some(admitted.and_then(|admitted| access::may_verify(&admitted.caller)))
    }

    /// Whether a credential is valid, from memory; `None` if that needs a look-up, and for every session token.
    ///
    /// # Errors
    ///
    /// Those of [`Self::authenticate`].
    pub fn authenticate_cached(&self, credential: &str) -> Option<Result<()>> {
        if self.is_root(credential) {
            return Some(Ok(()));
        }
        if self.is_session(credential) {
            return None;
        }
        let check = Check { secret: credential, cost: AuthMode::WithoutLimit.cost(), ..Check::default() };
        let cache = self.evaluator.replica.cache_guard();
        match self.evaluator.evaluate(cache.as_ref(), &check, None) {
            Ok(Evaluation::Decided(verdict)) => Some(self.admit(&verdict, AuthMode::WithoutLimit).map(drop)),
            Ok(Evaluation::Pending(_)) => None,
            Err(error) => Some(Err(error)),
        }
    }

    /// The answer to a client whose call failed. An invalid credential counts against the client's address, and after too
    /// many of them is answered like a spent rate limit. The credential is always verified first, so a valid one is never
    /// refused for the failures of others at the same address. A call without a credential is no attempt and not counted.
    pub fn note_failure(&self, client: IpAddr, error: Error) -> Error {
        if !error.refuses_credential() {
            return error;
        }
        self.trail.record_refusal(client);
        let wait = self.failures.record(Subject::address(client));
        self.metrics.failed_authentication(wait.is_some());
        let Some(wait) = wait else { return error };
        let retry_after = u64::try_from(wait).ok().map(Duration::from_micros);
        Error { retry_after, presented: error.presented, ..rate_limited(None) }
    }

    /// Whether this is the root credential that the environment sets.
    pub fn is_root(&self, credential: &str) -> bool {
        self.root.is_some_and(|root| credential.len() == root.length && root.has_digest(&secret::digest(credential)))
    }

    fn is_root_digest(&self, digest: &Digest) -> bool {
        self.root.is_some_and(|root| root.has_digest(digest))
    }

    fn admit(&self, verdict: &Verdict, mode: AuthMode) -> Result<Authenticated> {
        let presented = verdict.key.as_ref().map(|key| key.id);
        match (&verdict.key, verdict.code) {
            (Some(key), VerdictCode::Valid) => Ok(Authenticated { caller: self.caller(key), rate: verdict.rate }),
            (Some(key), VerdictCode::Revoked) if mode == AuthMode::SelfRevocation => {
                Ok(Authenticated { caller: self.caller(key), rate: None })
            }
            (_, VerdictCode::RateLimited) => Err(Error { presented, ..rate_limited(verdict.rate) }),
            (_, code) => Err(Error { presented, ..Error::invalid_credential(code.name()) }),
        }
    }

    /// The holder of a key.
    pub(super) fn caller(&self, key: &Arc<CachedKey>) -> Caller {
        let keyspace = key.keyspace.and_then(|index| self.registry.get(index));
        // The verdict on a key without a keyspace is NOT_FOUND, so this case does not occur.
        let Some(keyspace) = keyspace else { return Caller::Anonymous };
        if keyspace.name == RESERVED_KEYSPACE {
            if key.holds(ROOT_SCOPE) {
                return Caller::Operator { method: AuthMethod::Key(key.id) };
            }
            if key.holds(VERIFY_SCOPE) {
                return Caller::Service {
                    method: AuthMethod::Key(key.id),
                    allowed_keyspaces: key.allowed_keyspaces().cloned(),
                };
            }
        }
        let admin = keyspace.admin_scope.as_deref().is_some_and(|scope| key.holds(scope));
        Caller::Key(Arc::new(KeyCaller { id: key.id, keyspace: Arc::clone(keyspace), binding: key.binding(), admin }))
    }
}

fn root() -> Caller {
    Caller::Operator { method: AuthMethod::Root }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_the_root_credentials_digest_is_compared() {
        let root = RootCredential::new("a root credential");
        let digest = secret::digest("a root credential");
        assert!(root.has_digest(&digest));
        for index in 0..digest.0.len() {
            let mut other = digest;
            other.0[index] ^= 1;
            assert!(!root.has_digest(&other), "byte {index}");
        }
    }
}
