//! Verify: parse → look up → verdict → spend.

use std::sync::Arc;

use tokio::time::{Instant, timeout_at};

use super::Service;
use crate::{
    domain::{
        bounds::{BINDING, Violations},
        error::{Error, Result},
        key::Digest,
        keyspace::Keyspace,
        rate::RateState,
        secret,
        verdict::{Assertions, Code, judge},
    },
    limiter::Subject,
    replica::{Held, entry::Entry},
};

/// What is asked about one secret.
#[derive(Debug, Clone, Copy)]
pub struct Check<'a> {
    /// As it was presented.
    pub secret: &'a str,
    /// The keyspace that it must be of; empty asserts nothing.
    pub keyspace: &'a str,
    /// What the key must be.
    pub asserted: Assertions<'a>,
    /// An environment asserted of keys whose keyspace requires one; empty asserts nothing.
    pub host_environment: &'a str,
    /// What to spend of its rate limit; none does not even read it.
    pub cost: Option<u32>,
}

/// A verdict, and whose the key is.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The verdict.
    pub code: Code,
    /// The key; none for malformed and not found.
    pub entry: Option<Arc<Entry>>,
    /// Where its rate limit stands, if it has one and the verdict came that far.
    pub rate: Option<RateState>,
}

/// How far memory goes.
enum Step {
    Done(Outcome),
    LookUp(Digest),
}

impl Outcome {
    fn unknown(code: Code) -> Self {
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

    /// The same as far as memory goes; none if a look-up is needed.
    pub fn verify_from_memory(&self, check: &Check<'_>) -> Option<Result<Outcome>> {
        let start = std::time::Instant::now();
        let outcome = self.decide_from_memory(check)?;
        self.count(check, &outcome, start);
        Some(outcome)
    }

    /// The verdict without counting it, as far as memory goes.
    pub(super) fn decide_from_memory(&self, check: &Check<'_>) -> Option<Result<Outcome>> {
        match self.first_step(check) {
            Ok(Step::Done(outcome)) => Some(Ok(outcome)),
            Ok(Step::LookUp(_)) => None,
            Err(error) => Some(Err(error)),
        }
    }

    fn count(&self, check: &Check<'_>, outcome: &Result<Outcome>, start: std::time::Instant) {
        match outcome {
            Ok(outcome) => {
                let keyspace = match &outcome.entry {
                    Some(entry) => entry.keyspace,
                    None => self.registry.index(check.keyspace),
                };
                self.metrics.verdict(keyspace, outcome.code, start.elapsed());
            }
            Err(error) if error.fields.is_empty() => self.metrics.undecided(),
            Err(_) => {}
        }
    }

    /// The verdict without counting it: callers' own credentials are not checks.
    pub(super) async fn decide(&self, check: &Check<'_>, deadline: Instant) -> Result<Outcome> {
        match self.first_step(check)? {
            Step::Done(outcome) => Ok(outcome),
            Step::LookUp(digest) => match timeout_at(deadline, self.look_up(check, digest)).await {
                Ok(outcome) => outcome,
                Err(_) if !self.replica.lease.holds() => Err(Error::unavailable("no lease, and no answer in time")),
                Err(_) => Err(Error::deadline_exceeded()),
            },
        }
    }

    fn first_step(&self, check: &Check<'_>) -> Result<Step> {
        bounded(check)?;
        if check.secret.len() > secret::LONGEST {
            return Ok(Step::Done(Outcome::unknown(Code::Malformed)));
        }
        let digest = secret::digest(check.secret);
        if let Some(held) = self.replica.recall(&digest) {
            return Ok(Step::Done(self.judge(check, &held)));
        }
        // What memory holds was made here; the checksum is only for what it does not hold.
        if !self.registry.well_formed(check.secret, &self.installation) {
            return Ok(Step::Done(Outcome::unknown(Code::Malformed)));
        }
        Ok(Step::LookUp(digest))
    }

    async fn look_up(&self, check: &Check<'_>, digest: Digest) -> Result<Outcome> {
        let held = self.replica.look_up(digest).await?;
        Ok(held.map_or_else(|| Outcome::unknown(Code::NotFound), |held| self.judge(check, &held)))
    }

    fn judge(&self, check: &Check<'_>, held: &Held) -> Outcome {
        let entry = &held.entry;
        let keyspace = entry.keyspace.and_then(|index| self.registry.get(index));
        let Some(keyspace) = keyspace.filter(|own| check.keyspace.is_empty() || own.name == check.keyspace) else {
            return Outcome::unknown(Code::NotFound);
        };
        let now = self.now();
        let mut asserted = check.asserted;
        if asserted.environment.is_empty() && keyspace.require.environment {
            asserted.environment = check.host_environment;
        }
        let mut code = judge(&**entry, &asserted, now);
        let mut rate = None;
        if code == Code::Valid {
            // Last, because only this spends something.
            let spent = spend(self, keyspace, entry, check.cost);
            rate = spent.map(|(_, state)| state);
            if spent.is_some_and(|(admitted, _)| !admitted) {
                code = Code::RateLimited;
            } else {
                self.replica.usage.mark(entry, now);
            }
        }
        Outcome { code, entry: Some(Arc::clone(entry)), rate }
    }
}

fn spend(service: &Service, keyspace: &Keyspace, entry: &Entry, cost: Option<u32>) -> Option<(bool, RateState)> {
    let limit = keyspace.rate_limit?;
    let spent = service.limiter.spend(Subject::key(entry.id), limit, cost?);
    Some((spent.admitted, spent.state))
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
    if scopes.is_empty() && parts.iter().all(|(_, part)| part.len() <= BINDING) {
        return Ok(());
    }
    let mut violations = Violations::default();
    for (field, part) in parts {
        violations.bound(field, part);
    }
    violations.scopes("required_scopes", scopes);
    violations.finish()
}
