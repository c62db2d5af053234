//! The verdict on one secret: [`Evaluator::evaluate`] uses memory alone, [`Evaluator::complete`] waits for a look-up or for
//! the limiter where that is not enough. Verify and authentication both go this way, and nothing else makes a verdict.

use std::sync::Arc;

use tokio::time::Instant;

use super::check::{Check, Verdict};
use crate::{
    domain::{
        clock::{Clock, Micros},
        error::Result,
        key::Digest,
        keyspace::{AllowedKeyspaces, Keyspace, Registry},
        master_keys::MasterKeys,
        rate_limit::{RateLimit, RateState, SpendResult},
        secret,
        verdict::{VerdictCode, verdict_before_limit},
    },
    limiter::{Limiter, Subject},
    replica::{CacheGuard, KeySnapshot, Replica, cached_key::CachedKey},
};

/// Makes verdicts.
pub(in crate::service) struct Evaluator {
    pub(in crate::service) replica: Arc<Replica>,
    pub(in crate::service) registry: Arc<Registry>,
    pub(in crate::service) master_keys: Arc<MasterKeys>,
    pub(in crate::service) limiter: Arc<Limiter>,
    pub(in crate::service) clock: Arc<dyn Clock>,
}

/// The result of an evaluation that used memory alone.
pub(in crate::service) enum Evaluation {
    Decided(Verdict),
    Pending(Pending),
}

/// A verdict that waits for a look-up, or, with the key at hand, for the limiter.
pub(in crate::service) struct Pending {
    digest: Digest,
    cached: Option<KeySnapshot>,
}

/// A verdict without the rate limit.
enum WithoutLimit {
    Decided(Verdict),
    Valid { limit: Option<RateLimit> },
}

impl Evaluator {
    /// The verdict, if memory has everything that it needs. `cache` is none while memory may not answer; `allowed` are the
    /// keyspaces whose keys the caller may verify.
    ///
    /// # Errors
    ///
    /// INVALID_ARGUMENT for a check that could not match any key.
    pub fn evaluate(
        &self,
        cache: Option<&CacheGuard<'_>>,
        check: &Check<'_>,
        allowed: Option<&AllowedKeyspaces>,
    ) -> Result<Evaluation> {
        check.validate()?;
        Ok(match digest_of(check.secret) {
            Some(digest) => self.evaluate_digest(cache, digest, check, allowed),
            None => Evaluation::Decided(Verdict::unknown(VerdictCode::Malformed)),
        })
    }

    /// The rest of [`Self::evaluate`], for a caller that has the digest at hand and asserts nothing.
    pub fn evaluate_digest(
        &self,
        cache: Option<&CacheGuard<'_>>,
        digest: Digest,
        check: &Check<'_>,
        allowed: Option<&AllowedKeyspaces>,
    ) -> Evaluation {
        if let Some((cache, cached)) = cache.and_then(|cache| Some((cache, cache.get(&digest)?))) {
            let now = cache.now;
            return match self.without_limit(check, allowed, &cached.entry, now) {
                WithoutLimit::Decided(verdict) => Evaluation::Decided(verdict),
                WithoutLimit::Valid { limit } => match self.spend_local(check, &cached.entry, limit) {
                    Some(spent) => Evaluation::Decided(self.finish(&cached.entry, now, spent)),
                    None => Evaluation::Pending(Pending { digest, cached: Some(cached) }),
                },
            };
        }
        // The cache holds only secrets that were made here; the checksum saves the look-up of any other.
        if !self.registry.well_formed(check.secret, &self.master_keys) {
            let orphaned = self.registry.orphaned(check.secret, &self.master_keys);
            return Evaluation::Decided(Verdict::unknown(if orphaned {
                VerdictCode::NotFound
            } else {
                VerdictCode::Malformed
            }));
        }
        Evaluation::Pending(Pending { digest, cached: None })
    }

    /// Completes a pending verdict: waits for a look-up, for the limiter (which bounds its own time), or for both.
    ///
    /// # Errors
    ///
    /// UNAVAILABLE or DEADLINE_EXCEEDED of the look-up.
    pub async fn complete(
        &self,
        check: &Check<'_>,
        allowed: Option<&AllowedKeyspaces>,
        pending: Pending,
        deadline: Instant,
    ) -> Result<Verdict> {
        let Pending { digest, mut cached } = pending;
        let mut paid = None;
        loop {
            let key = match cached.take() {
                Some(cached) => cached,
                None => match self.replica.look_up(digest, deadline).await? {
                    Some(found) => found,
                    None => return Ok(Verdict::unknown(VerdictCode::NotFound)),
                },
            };
            let now = self.clock.wall();
            let limit = match self.without_limit(check, allowed, &key.entry, now) {
                WithoutLimit::Decided(verdict) => return Ok(verdict),
                WithoutLimit::Valid { limit } => limit,
            };
            let spent = match (paid, limit.zip(check.cost)) {
                (Some(spent), _) => Some(spent),
                (None, Some((limit, cost))) => {
                    Some(Box::pin(self.limiter.spend(Subject::key(key.entry.id), limit, cost)).await)
                }
                (None, None) => None,
            };
            // A change that was applied during the wait is newer than the key that was judged: judge again, but do not
            // spend twice.
            if self.replica.is_current(&key, &digest) {
                return Ok(self.finish(&key.entry, now, spent));
            }
            paid = spent;
        }
    }

    /// Both steps, for a verdict that may wait.
    ///
    /// # Errors
    ///
    /// Those of [`Self::evaluate`] and [`Self::complete`].
    pub async fn decide(
        &self,
        check: &Check<'_>,
        allowed: Option<&AllowedKeyspaces>,
        deadline: Instant,
    ) -> Result<Verdict> {
        match self.evaluate(self.replica.cache_guard().as_ref(), check, allowed)? {
            Evaluation::Decided(verdict) => Ok(verdict),
            Evaluation::Pending(pending) => self.complete(check, allowed, pending, deadline).await,
        }
    }

    /// The verdict on the key with this digest, for a caller that proved earlier that it holds the secret.
    ///
    /// # Errors
    ///
    /// Those of [`Self::complete`].
    pub async fn decide_by_digest(&self, digest: Digest, check: &Check<'_>, deadline: Instant) -> Result<Verdict> {
        let cached = self.replica.cache_guard().and_then(|cache| cache.get(&digest));
        self.complete(check, None, Pending { digest, cached }, deadline).await
    }

    /// The verdict on the key with this digest as far as its rate limit, for a caller that has looked it up by its secret
    /// before. Nothing is asserted, spent or recorded.
    ///
    /// # Errors
    ///
    /// UNAVAILABLE or DEADLINE_EXCEEDED of the look-up.
    pub async fn verdict_without_limit(
        &self,
        digest: Digest,
        allowed: Option<&AllowedKeyspaces>,
        deadline: Instant,
    ) -> Result<Verdict> {
        let cached = self.replica.cache_guard().and_then(|cache| cache.get(&digest));
        let found = match cached {
            Some(cached) => Some(cached),
            None => self.replica.look_up(digest, deadline).await?,
        };
        let Some(key) = found else { return Ok(Verdict::unknown(VerdictCode::NotFound)) };
        Ok(match self.without_limit(&Check::default(), allowed, &key.entry, self.clock.wall()) {
            WithoutLimit::Decided(verdict) => verdict,
            WithoutLimit::Valid { .. } => {
                Verdict { code: VerdictCode::Valid, key: Some(key.entry), rate: None, missing_scope: None }
            }
        })
    }

    /// The state of a key's rate limit, if it has one; nothing is spent.
    pub async fn rate_state(&self, key: &CachedKey) -> Option<RateState> {
        let limit = limit_of(key, self.registry.get(key.keyspace?)?)?;
        Some(self.limiter.spend(Subject::key(key.id), limit, 0).await.state)
    }

    fn without_limit(
        &self,
        check: &Check<'_>,
        allowed: Option<&AllowedKeyspaces>,
        key: &Arc<CachedKey>,
        now: Micros,
    ) -> WithoutLimit {
        // For a caller that may not ask about its keyspace, a key does not exist.
        let index = key.keyspace.filter(|index| allowed.is_none_or(|allowed| allowed.contains(*index)));
        let keyspace = index.and_then(|index| self.registry.get(index));
        let Some(keyspace) = keyspace.filter(|own| check.keyspace.is_empty() || own.name == check.keyspace) else {
            return WithoutLimit::Decided(Verdict::unknown(VerdictCode::NotFound));
        };
        let mut asserted = check.asserted;
        if asserted.environment.is_empty() && keyspace.require.environment {
            asserted.environment = check.host_environment;
        }
        match verdict_before_limit(&**key, &asserted, now) {
            VerdictCode::Valid => WithoutLimit::Valid { limit: limit_of(key, keyspace) },
            code => {
                let missing =
                    (code == VerdictCode::InsufficientScope).then(|| asserted.missing_scope(&**key)).flatten();
                let (key, missing_scope) = (Some(Arc::clone(key)), missing.map(Box::from));
                WithoutLimit::Decided(Verdict { code, key, rate: None, missing_scope })
            }
        }
    }

    /// Spends where that needs no round trip.
    #[expect(
        clippy::option_option,
        reason = "the outer one: whether it could be done at once; the inner one: whether there is a limit"
    )]
    fn spend_local(&self, check: &Check<'_>, key: &CachedKey, limit: Option<RateLimit>) -> Option<Option<SpendResult>> {
        match limit.zip(check.cost) {
            None => Some(None),
            Some((limit, cost)) => self.limiter.spend_local(Subject::key(key.id), limit, cost).map(Some),
        }
    }

    /// The verdict on a key that is valid except for its rate limit. The limit comes last, because only this spends
    /// something.
    fn finish(&self, key: &Arc<CachedKey>, now: Micros, spent: Option<SpendResult>) -> Verdict {
        let code = if spent.is_some_and(|spent| !spent.admitted) {
            self.note_rate_limited(key, now);
            VerdictCode::RateLimited
        } else {
            self.replica.usage.record(key, now);
            VerdictCode::Valid
        };
        Verdict { code, key: Some(Arc::clone(key)), rate: spent.map(|spent| spent.state), missing_scope: None }
    }

    #[cold]
    fn note_rate_limited(&self, key: &CachedKey, now: Micros) {
        let keyspace = key.keyspace.and_then(|index| self.registry.get(index));
        if let Some(limit) = keyspace.and_then(|keyspace| limit_of(key, keyspace)) {
            self.replica.rate_limit_events.record(key.id, limit, now);
        }
    }
}

/// The digest of a secret; none for one that is too long to be one.
pub(in crate::service) fn digest_of(secret: &str) -> Option<Digest> {
    (secret.len() <= secret::MAX_SECRET_LEN).then(|| secret::digest(secret))
}

/// A key's rate limit: its own goes before its keyspace's.
fn limit_of(key: &CachedKey, keyspace: &Keyspace) -> Option<RateLimit> {
    key.rate_limit().or(keyspace.rate_limit)
}
