//! Credential → caller. A credential is a key like any other, so its verdict is taken anew for each call: a revoked
//! caller is out as fast as any revoked key.

use std::sync::Arc;

use subtle::ConstantTimeEq as _;
use tokio::time::Instant;

use super::{
    Context, Service,
    verify::{Check, Outcome},
};
use crate::{
    domain::{
        access,
        caller::{AuthMethod, Caller, KeyCaller},
        error::{Error, ErrorKind, Result},
        key::{Digest, KeyId},
        keyspace::{AllowedKeyspaces, RESERVED_KEYSPACE, ROOT_SCOPE, VERIFY_SCOPE},
        rate_limit::RateState,
        secret,
        verdict::{Assertions, KeyView, VerdictCode},
    },
    limiter::Subject,
    replica::{CacheGuard, cached_key::CachedKey},
};

/// A caller that has proved who it is.
#[derive(Debug, Clone)]
pub struct Authenticated {
    /// Who it is.
    pub caller: Caller,
    /// Where its own rate limit stands, if the call was counted against one.
    pub rate: Option<RateState>,
}

/// How an authentication treats the key's rate limit and revocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Not even read.
    Free,
    /// Costs one call, and is refused when the limit is spent.
    Counted,
    /// Read but not counted; and a key that is revoked already still counts as itself, for repeating its own revocation.
    Revoking,
}

impl Service {
    /// Who presents this credential.
    ///
    /// # Errors
    ///
    /// UNAUTHENTICATED with the verdict as reason; RESOURCE_EXHAUSTED for a spent limit; UNAVAILABLE.
    pub async fn authenticate(
        &self,
        credential: &str,
        admission: Admission,
        context: Context<'_>,
    ) -> Result<Authenticated> {
        if self.is_root(credential) {
            return Ok(Authenticated { caller: Caller::Operator { method: AuthMethod::Root }, rate: None });
        }
        let check = Check {
            secret: credential,
            keyspace: "",
            allowed_keyspaces: None,
            asserted: Assertions::default(),
            host_environment: context.host_environment,
            cost: match admission {
                Admission::Free => None,
                Admission::Counted => Some(1),
                // Read, so that the answer can tell; never spent, never refused.
                Admission::Revoking => Some(0),
            },
        };
        let outcome = self.decide(&check, context.deadline).await?;
        let mut authenticated = self.admit(&outcome, admission)?;
        if let (Admission::Revoking, None, Some(entry)) = (admission, authenticated.rate, &outcome.entry) {
            authenticated.rate = self.rate_state(entry).await;
        }
        Ok(authenticated)
    }

    /// Who presents this credential, which may be a session's token.
    ///
    /// # Errors
    ///
    /// As [`Self::authenticate`].
    pub async fn authenticate_any(
        &self,
        credential: &str,
        admission: Admission,
        context: Context<'_>,
    ) -> Result<Authenticated> {
        if self.is_session(credential) {
            self.authenticate_session(credential, None, context.deadline).await
        } else {
            self.authenticate(credential, admission, context).await
        }
    }

    /// The same for a call that revokes the key `id`. Its own holder is not refused by a spent limit, and may repeat what
    /// is pending although the key is revoked already.
    ///
    /// # Errors
    ///
    /// As [`Self::authenticate_any`].
    pub async fn authenticate_to_revoke(
        &self,
        credential: &str,
        id: &str,
        admission: Admission,
        context: Context<'_>,
    ) -> Result<Authenticated> {
        if let Ok(id) = id.parse::<KeyId>()
            && !self.is_session(credential)
            && let Ok(own) = self.authenticate(credential, Admission::Revoking, context).await
            && own.caller.key_id() == Some(id)
        {
            return Ok(own);
        }
        self.authenticate_any(credential, admission, context).await
    }

    /// Whether this credential is to be read as a session's token: it has the form of one, and of nothing else.
    pub fn is_session(&self, credential: &str) -> bool {
        self.sessions.has_form(credential) && self.registry.by_prefix(credential).is_none() && !self.is_root(credential)
    }

    /// Whose session a token is; `cookie` names the cookie that held it, if one did.
    ///
    /// # Errors
    ///
    /// UNAUTHENTICATED; UNAVAILABLE where its issuer's keys cannot be had.
    pub async fn authenticate_session(
        &self,
        token: &str,
        cookie: Option<&str>,
        deadline: Instant,
    ) -> Result<Authenticated> {
        let caller = self.sessions.caller(token, cookie, deadline).await?;
        Ok(Authenticated { caller: Caller::Session(Arc::new(caller)), rate: None })
    }

    fn admit(&self, outcome: &Outcome, admission: Admission) -> Result<Authenticated> {
        match (&outcome.entry, outcome.code) {
            (Some(entry), VerdictCode::Valid) => Ok(Authenticated { caller: self.caller(entry), rate: outcome.rate }),
            (Some(entry), VerdictCode::Revoked) if admission == Admission::Revoking => {
                Ok(Authenticated { caller: self.caller(entry), rate: None })
            }
            (entry, VerdictCode::RateLimited) => {
                Err(Error { presented: entry.as_ref().map(|entry| entry.id), ..rate_limited(outcome.rate) })
            }
            (entry, code) => Err(Error {
                presented: entry.as_ref().map(|entry| entry.id),
                ..Error::new(ErrorKind::Unauthenticated, code.name(), "Invalid or expired API key")
            }),
        }
    }

    /// [`Self::authenticate_verifier`] as far as memory goes; none if a look-up is needed.
    pub fn verifier_from_memory(
        &self,
        memory: &CacheGuard<'_>,
        credential: &str,
    ) -> Option<Result<Option<Arc<AllowedKeyspaces>>>> {
        if credential.len() > secret::MAX_SECRET_LEN {
            return None;
        }
        let digest = secret::digest(credential);
        if self.is_root_digest(&digest) {
            return Some(Ok(None));
        }
        let held = memory.get(&digest)?;
        let outcome = self.free_verdict(credential, &held.entry);
        Some(self.admit(&outcome, Admission::Free).and_then(|admitted| access::may_verify(&admitted.caller)))
    }

    /// Whether a service or operator presents this credential, and what it may ask about.
    ///
    /// # Errors
    ///
    /// As [`Self::authenticate`], and PERMISSION_DENIED for any other caller.
    pub async fn authenticate_verifier(
        &self,
        credential: &str,
        deadline: Instant,
    ) -> Result<Option<Arc<AllowedKeyspaces>>> {
        let context = Context { deadline, host_environment: "", client: None };
        let authenticated = self.authenticate_any(credential, Admission::Free, context).await?;
        access::may_verify(&authenticated.caller)
    }

    /// What a client hears of an error. A credential that was not good is counted against its address, and past what is
    /// forgiven answered as a spent limit. The credential was looked at first: whoever shares the address and has a good
    /// one never hears of it. A request without a credential has not tried.
    pub fn refused(&self, client: Subject, error: Error) -> Error {
        if error.kind != ErrorKind::Unauthenticated || error.reason == "MISSING_CREDENTIAL" {
            return error;
        }
        let wait = self.failures.fail(client);
        self.metrics.failed_authentication(wait.is_some());
        let Some(wait) = wait else { return error };
        let retry_after = u64::try_from(wait).ok().map(std::time::Duration::from_micros);
        Error { retry_after, presented: error.presented, ..rate_limited(None) }
    }

    /// Whether this is the environment's root credential.
    pub fn is_root(&self, credential: &str) -> bool {
        self.root.is_some() && self.is_root_digest(&secret::digest(credential))
    }

    fn is_root_digest(&self, digest: &Digest) -> bool {
        self.root.is_some_and(|root| digest.0.ct_eq(&root.0).into())
    }

    fn caller(&self, entry: &Arc<CachedKey>) -> Caller {
        let keyspace = entry.keyspace.and_then(|index| self.registry.get(index));
        // `decide` answers not-found for a key without a keyspace, so this is only for the type.
        let Some(keyspace) = keyspace else { return Caller::Anonymous };
        if keyspace.name == RESERVED_KEYSPACE {
            if entry.holds(ROOT_SCOPE) {
                return Caller::Operator { method: AuthMethod::Key(entry.id) };
            }
            if entry.holds(VERIFY_SCOPE) {
                return Caller::Service {
                    method: AuthMethod::Key(entry.id),
                    allowed_keyspaces: entry.allowed_keyspaces().cloned(),
                };
            }
        }
        let admin = keyspace.admin_scope.as_deref().is_some_and(|scope| entry.holds(scope));
        Caller::Key(Arc::new(KeyCaller {
            id: entry.id,
            keyspace: Arc::clone(keyspace),
            binding: entry.binding(),
            admin,
        }))
    }
}

/// The refusal of a spent limit.
pub fn rate_limited(rate: Option<RateState>) -> Error {
    let retry_after = rate.and_then(|state| state.retry_after).and_then(|wait| u64::try_from(wait).ok());
    Error {
        rate,
        retry_after: retry_after.map(std::time::Duration::from_micros),
        ..Error::new(ErrorKind::ResourceExhausted, "RATE_LIMITED", "Rate limit exceeded")
    }
}
