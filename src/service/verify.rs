//! Verify: parse → look up → verdict → spend.

use std::sync::Arc;

use tokio::time::Instant;

use super::Service;
use crate::{
    domain::{
        clock::Micros,
        error::Result,
        key::Digest,
        keyspace::{AllowedKeyspaces, Keyspace},
        rate_limit::{RateLimit, RateState, SpendResult},
        secret,
        validation::{MAX_BINDING_LEN, Violations},
        verdict::{Assertions, VerdictCode, judge},
    },
    limiter::Subject,
    replica::{CacheGuard, KeySnapshot, cached_key::CachedKey},
};

/// What is asked about one secret.
#[derive(Debug, Clone, Copy)]
pub struct Check<'a> {
    /// As it was presented.
    pub secret: &'a str,
    /// The keyspace that it must be of; empty asserts nothing.
    pub keyspace: &'a str,
    /// What the caller may ask about; none: everything.
    pub allowed_keyspaces: Option<&'a AllowedKeyspaces>,
    /// What the key must be.
    pub asserted: Assertions<'a>,
    /// An environment asserted of keys whose keyspace requires one; empty asserts nothing.
    pub host_environment: &'a str,
    /// What to spend of its rate limit; none does not even read it.
    pub cost: Option<u32>,
}

impl<'a> Check<'a> {
    /// The same check by a caller that may only ask about so much.
    #[must_use]
    pub fn within(self, allowed_keyspaces: Option<&'a AllowedKeyspaces>) -> Self {
        Self { allowed_keyspaces, ..self }
    }
}

/// A verdict, and whose the key is.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The verdict.
    pub code: VerdictCode,
    /// The key; none for malformed and not found.
    pub entry: Option<Arc<CachedKey>>,
    /// Where its rate limit stands, if it has one and the verdict came that far.
    pub rate: Option<RateState>,
}

/// How far memory goes.
enum Step {
    Done(Outcome),
    Wait(Pending),
}

/// A verdict that waits for a look-up, or, with the key at hand, for the limiter.
struct Pending {
    digest: Digest,
    held: Option<KeySnapshot>,
}

/// How far a check came at once.
pub enum Reached {
    /// To its end.
    Decided(Outcome),
    /// To where memory ends, for a caller that may ask.
    Waits(Waiting),
    /// Nowhere: the caller is not in memory, or either is refused.
    Nowhere,
}

/// A check that memory could not decide.
pub struct Waiting {
    allowed_keyspaces: Option<Arc<AllowedKeyspaces>>,
    pending: Pending,
    start: std::time::Instant,
}

/// A verdict but for the rate limit.
enum Judged {
    Done(Outcome),
    Good { now: Micros, limit: Option<RateLimit> },
}

impl Outcome {
    fn unknown(code: VerdictCode) -> Self {
        Self { code, entry: None, rate: None }
    }
}

impl Service {
    /// The verdict on one secret. From memory it is there at the first poll.
    pub async fn verify(&self, check: &Check<'_>, deadline: Instant) -> Result<Outcome> {
        let start = std::time::Instant::now();
        let outcome = self.decide(check, deadline).await;
        self.count(check, &outcome, start);
        outcome
    }

    /// The same for a caller that has to prove that it may ask.
    pub async fn verify_for(&self, credential: &str, check: &Check<'_>, deadline: Instant) -> Result<Outcome> {
        // Boxed: the larger part of what waits here, and rarely needed.
        let allowed_keyspaces = Box::pin(self.authenticate_verifier(credential, deadline)).await?;
        self.verify(&check.within(allowed_keyspaces.as_deref()), deadline).await
    }

    /// The same as far as memory goes, by one look at the lease.
    pub fn verify_at_once(&self, credential: &str, check: &Check<'_>) -> Reached {
        // Both are read by one right: memory answers for one moment.
        let Some(memory) = self.replica.cache_guard() else { return Reached::Nowhere };
        let Some(Ok(allowed_keyspaces)) = self.verifier_from_memory(&memory, credential) else {
            return Reached::Nowhere;
        };
        let start = std::time::Instant::now();
        let check = check.within(allowed_keyspaces.as_deref());
        match self.first_step(Some(&memory), &check) {
            Ok(Step::Done(outcome)) => {
                self.count_verdict(&check, &outcome, start);
                Reached::Decided(outcome)
            }
            Ok(Step::Wait(pending)) => Reached::Waits(Waiting { allowed_keyspaces, pending, start }),
            Err(_) => Reached::Nowhere,
        }
    }

    /// Decides what could not be decided at once.
    pub async fn verify_waiting(&self, waiting: Waiting, check: &Check<'_>, deadline: Instant) -> Result<Outcome> {
        let Waiting { allowed_keyspaces, pending, start } = waiting;
        let check = check.within(allowed_keyspaces.as_deref());
        let outcome = self.settle(&check, pending, deadline).await;
        self.count(&check, &outcome, start);
        outcome
    }

    /// The same as far as memory goes; none if a look-up is needed.
    pub fn verify_from_memory(&self, memory: &CacheGuard<'_>, check: &Check<'_>) -> Option<Result<Outcome>> {
        let start = std::time::Instant::now();
        let outcome = self.decide_from_memory(memory, check)?;
        self.count(check, &outcome, start);
        Some(outcome)
    }

    /// The verdict without counting it, as far as memory goes.
    pub(super) fn decide_from_memory(&self, memory: &CacheGuard<'_>, check: &Check<'_>) -> Option<Result<Outcome>> {
        match self.first_step(Some(memory), check) {
            Ok(Step::Done(outcome)) => Some(Ok(outcome)),
            Ok(Step::Wait(_)) => None,
            Err(error) => Some(Err(error)),
        }
    }

    fn count(&self, check: &Check<'_>, outcome: &Result<Outcome>, start: std::time::Instant) {
        match outcome {
            Ok(outcome) => self.count_verdict(check, outcome, start),
            Err(error) if error.fields.is_empty() => self.metrics.undecided(),
            Err(_) => {}
        }
    }

    fn count_verdict(&self, check: &Check<'_>, outcome: &Outcome, start: std::time::Instant) {
        let keyspace = match &outcome.entry {
            Some(entry) => entry.keyspace,
            None => self.registry.index(check.keyspace),
        };
        self.metrics.verdict(keyspace, outcome.code, start.elapsed());
    }

    /// The verdict without counting it: callers' own credentials are not checks.
    pub(super) async fn decide(&self, check: &Check<'_>, deadline: Instant) -> Result<Outcome> {
        match self.first_step(self.replica.cache_guard().as_ref(), check)? {
            Step::Done(outcome) => Ok(outcome),
            Step::Wait(pending) => self.settle(check, pending, deadline).await,
        }
    }

    fn first_step(&self, memory: Option<&CacheGuard<'_>>, check: &Check<'_>) -> Result<Step> {
        bounded(check)?;
        if check.secret.len() > secret::MAX_SECRET_LEN {
            return Ok(Step::Done(Outcome::unknown(VerdictCode::Malformed)));
        }
        let digest = secret::digest(check.secret);
        if let Some(held) = memory.and_then(|memory| memory.get(&digest)) {
            return Ok(match self.judge(check, &held.entry) {
                Judged::Done(outcome) => Step::Done(outcome),
                Judged::Good { now, limit } => match self.spend_local(check, &held.entry, limit) {
                    Some(spent) => Step::Done(self.spent(&held.entry, now, spent)),
                    None => Step::Wait(Pending { digest, held: Some(held) }),
                },
            });
        }
        // What memory holds was made here; the checksum is only for what it does not hold.
        if !self.registry.well_formed(check.secret, &self.master_keys) {
            let orphaned = self.registry.orphaned(check.secret, &self.master_keys);
            return Ok(Step::Done(Outcome::unknown(if orphaned {
                VerdictCode::NotFound
            } else {
                VerdictCode::Malformed
            })));
        }
        Ok(Step::Wait(Pending { digest, held: None }))
    }

    /// Goes on where memory could not: waits for a look-up, for the limiter (which bounds itself), or for both.
    async fn settle(&self, check: &Check<'_>, pending: Pending, deadline: Instant) -> Result<Outcome> {
        let Pending { digest, mut held } = pending;
        let mut paid = None;
        loop {
            let key = match held.take() {
                Some(held) => held,
                None => match self.replica.look_up(digest, deadline).await? {
                    Some(found) => found,
                    None => return Ok(Outcome::unknown(VerdictCode::NotFound)),
                },
            };
            let (now, limit) = match self.judge(check, &key.entry) {
                Judged::Done(outcome) => return Ok(outcome),
                Judged::Good { now, limit } => (now, limit),
            };
            let spent = match (paid, limit.zip(check.cost)) {
                (Some(spent), _) => Some(spent),
                (None, Some((limit, cost))) => {
                    Some(Box::pin(self.limiter.spend(Subject::key(key.entry.id), limit, cost)).await)
                }
                (None, None) => None,
            };
            // A change that was applied while this waited is newer than what was judged. What is paid stays paid.
            if self.replica.is_current(&key, &digest) {
                return Ok(self.spent(&key.entry, now, spent));
            }
            paid = spent;
        }
    }

    /// Where a key's rate limit stands, if it has one; nothing is spent.
    pub(super) async fn rate_state(&self, entry: &CachedKey) -> Option<RateState> {
        let limit = limit_of(entry, self.registry.get(entry.keyspace?)?)?;
        Some(self.limiter.spend(Subject::key(entry.id), limit, 0).await.state)
    }

    /// The verdict but for the rate limit.
    fn judge(&self, check: &Check<'_>, entry: &Arc<CachedKey>) -> Judged {
        // For a caller that may not ask about its keyspace, a key does not exist.
        let index = entry
            .keyspace
            .filter(|index| check.allowed_keyspaces.is_none_or(|allowed_keyspaces| allowed_keyspaces.contains(*index)));
        let keyspace = index.and_then(|index| self.registry.get(index));
        let Some(keyspace) = keyspace.filter(|own| check.keyspace.is_empty() || own.name == check.keyspace) else {
            return Judged::Done(Outcome::unknown(VerdictCode::NotFound));
        };
        let now = self.now();
        let mut asserted = check.asserted;
        if asserted.environment.is_empty() && keyspace.require.environment {
            asserted.environment = check.host_environment;
        }
        match judge(&**entry, &asserted, now) {
            VerdictCode::Valid => Judged::Good { now, limit: limit_of(entry, keyspace) },
            code => Judged::Done(Outcome { code, entry: Some(Arc::clone(entry)), rate: None }),
        }
    }

    /// The verdict on a key of which nothing is asserted and nothing is spent.
    pub(super) fn free_verdict(&self, secret: &str, entry: &Arc<CachedKey>) -> Outcome {
        let asserted = Assertions::default();
        match self.judge(
            &Check { secret, keyspace: "", allowed_keyspaces: None, asserted, host_environment: "", cost: None },
            entry,
        ) {
            Judged::Done(outcome) => outcome,
            Judged::Good { now, .. } => self.spent(entry, now, None),
        }
    }

    /// Spends where that needs no waiting.
    #[expect(
        clippy::option_option,
        reason = "the outer one: whether it could be done; the inner one: whether there is a limit"
    )]
    fn spend_local(
        &self,
        check: &Check<'_>,
        entry: &CachedKey,
        limit: Option<RateLimit>,
    ) -> Option<Option<SpendResult>> {
        match limit.zip(check.cost) {
            None => Some(None),
            Some((limit, cost)) => self.limiter.spend_local(Subject::key(entry.id), limit, cost).map(Some),
        }
    }

    #[cold]
    fn note_refusal(&self, entry: &CachedKey, now: Micros) {
        let keyspace = entry.keyspace.and_then(|index| self.registry.get(index));
        if let Some(limit) = keyspace.and_then(|keyspace| limit_of(entry, keyspace)) {
            self.replica.rate_limit_events.record(entry.id, limit, now);
        }
    }

    /// The verdict on a key that is good but for its rate limit. Last, because only this spends something.
    fn spent(&self, entry: &Arc<CachedKey>, now: Micros, spent: Option<SpendResult>) -> Outcome {
        let code = if spent.is_some_and(|spent| !spent.admitted) {
            self.note_refusal(entry, now);
            VerdictCode::RateLimited
        } else {
            self.replica.usage.record(entry, now);
            VerdictCode::Valid
        };
        Outcome { code, entry: Some(Arc::clone(entry)), rate: spent.map(|spent| spent.state) }
    }
}

/// How often a key may be used: its own limit goes before its keyspace's.
fn limit_of(entry: &CachedKey, keyspace: &Keyspace) -> Option<RateLimit> {
    entry.rate_limit().or(keyspace.rate_limit)
}

/// Refuses what could not be any key's. The common case is a few comparisons of lengths.
fn bounded(check: &Check<'_>) -> Result<()> {
    let Assertions { environment, organization, instance, scopes } = check.asserted;
    let parts = [
        ("keyspace", check.keyspace),
        ("environment", environment),
        ("organization", organization),
        ("instance", instance),
    ];
    if scopes.is_empty() && parts.iter().all(|(_, part)| part.len() <= MAX_BINDING_LEN) {
        return Ok(());
    }
    let mut violations = Violations::default();
    for (field, part) in parts {
        violations.bound(field, part);
    }
    violations.scopes("required_scopes", scopes);
    violations.finish()
}
