//! Verify: whether a secret is a valid key that has what the caller asserts of it.

mod answer;
pub(super) mod check;
pub(super) mod evaluator;

use std::sync::Arc;

use tokio::time::Instant;

use self::evaluator::{Evaluation, Evaluator, Pending};
pub use self::{
    answer::{Answer, AnswerKey},
    check::{Check, Verdict, VerifyCaller},
};
use super::authenticate::Authenticator;
pub use crate::replica::cached_key::CachedKey;
#[cfg(test)]
pub(crate) use crate::replica::cached_key::tests::facts as test_facts;
use crate::{
    domain::{
        error::{Error, Result},
        keyspace::AllowedKeyspaces,
    },
    telemetry::Metrics,
};

/// Verifies keys for authenticated callers, and counts the verdicts.
pub struct Verifier {
    pub(super) evaluator: Arc<Evaluator>,
    pub(super) auth: Arc<Authenticator>,
    pub(super) metrics: Arc<Metrics>,
}

/// The result of a Verify that used memory alone.
pub enum CachedVerdict {
    /// The verdict.
    Decided(Verdict),
    /// The caller or the check is refused.
    Refused(Error),
    /// The caller may ask, and the verdict waits for a look-up or for a shared rate limit: see [`Verifier::complete`].
    Pending(PendingVerify),
    /// Memory may not answer now, or does not hold the caller's own key: see [`Verifier::verify`].
    CallerNotCached,
}

/// A Verify of an authenticated caller that needs more than memory.
pub struct PendingVerify {
    allowed: Option<Arc<AllowedKeyspaces>>,
    pending: Pending,
    start: std::time::Instant,
}

impl Verifier {
    /// The verdict, waiting for whatever it needs.
    ///
    /// # Errors
    ///
    /// Those of [`Authenticator::authorize_verify`]; INVALID_ARGUMENT; UNAVAILABLE; DEADLINE_EXCEEDED.
    pub async fn verify(&self, caller: VerifyCaller<'_>, check: &Check<'_>, deadline: Instant) -> Result<Verdict> {
        let authenticated = match caller {
            // Boxed: the larger part of this future, and rarely needed.
            VerifyCaller::Credential(credential) => Box::pin(self.auth.authorize_verify(credential, deadline)).await?,
            VerifyCaller::Authorized(allowed) => allowed.cloned(),
        };
        let start = std::time::Instant::now();
        let verdict = self.evaluator.decide(check, authenticated.as_deref(), deadline).await;
        self.count(check, &verdict, start);
        verdict
    }

    /// The verdict from memory, or what is left to do. Reads the lease once for both keys, the caller's and the checked
    /// one, so that both are answered as of one moment.
    pub fn try_verify_cached(&self, caller: VerifyCaller<'_>, check: &Check<'_>) -> CachedVerdict {
        let Some(cache) = self.evaluator.replica.cache_guard() else { return CachedVerdict::CallerNotCached };
        let authenticated;
        let allowed = match caller {
            VerifyCaller::Credential(credential) => match self.auth.authorize_verify_cached(&cache, credential) {
                Some(Ok(allowed)) => {
                    authenticated = allowed;
                    authenticated.as_ref()
                }
                Some(Err(error)) => return CachedVerdict::Refused(error),
                None => return CachedVerdict::CallerNotCached,
            },
            VerifyCaller::Authorized(allowed) => allowed,
        };
        let start = std::time::Instant::now();
        match self.evaluator.evaluate(Some(&cache), check, allowed.map(|allowed| &**allowed)) {
            Ok(Evaluation::Decided(verdict)) => {
                self.count_verdict(check, &verdict, start);
                CachedVerdict::Decided(verdict)
            }
            Ok(Evaluation::Pending(pending)) => {
                CachedVerdict::Pending(PendingVerify { allowed: allowed.cloned(), pending, start })
            }
            Err(error) => CachedVerdict::Refused(error),
        }
    }

    /// The verdict that [`Self::try_verify_cached`] left pending; `check` is the same one.
    ///
    /// # Errors
    ///
    /// UNAVAILABLE; DEADLINE_EXCEEDED.
    pub async fn complete(&self, pending: PendingVerify, check: &Check<'_>, deadline: Instant) -> Result<Verdict> {
        let PendingVerify { allowed, pending, start } = pending;
        let verdict = self.evaluator.complete(check, allowed.as_deref(), pending, deadline).await;
        self.count(check, &verdict, start);
        verdict
    }

    /// The content of the answer to a Verify with this verdict.
    pub fn answer<'a>(&'a self, verdict: &'a Verdict) -> Answer<'a> {
        Answer::new(verdict, &self.evaluator.registry)
    }

    fn count(&self, check: &Check<'_>, verdict: &Result<Verdict>, start: std::time::Instant) {
        match verdict {
            Ok(verdict) => self.count_verdict(check, verdict, start),
            Err(error) if error.fields.is_empty() => self.metrics.undecided(),
            Err(_) => {}
        }
    }

    fn count_verdict(&self, check: &Check<'_>, verdict: &Verdict, start: std::time::Instant) {
        let keyspace = match &verdict.key {
            Some(key) => key.keyspace,
            None => self.evaluator.registry.index(check.keyspace),
        };
        self.metrics.verdict(keyspace, verdict.code, start.elapsed());
    }
}
