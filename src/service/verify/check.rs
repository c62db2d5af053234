//! The request and the result of a Verify.

use std::{borrow::Cow, sync::Arc};

use crate::{
    domain::{
        error::Result,
        keyspace::AllowedKeyspaces,
        rate_limit::RateState,
        validation::{MAX_BINDING_LEN, Violations},
        verdict::{Assertions, VerdictCode},
    },
    replica::cached_key::CachedKey,
};

/// One secret, and what its key has to have.
#[derive(Debug, Clone, Copy, Default)]
pub struct Check<'a> {
    /// The secret as it was presented.
    pub secret: &'a str,
    /// The keyspace that the key must be of; empty asserts nothing.
    pub keyspace: &'a str,
    /// What the key must be bound to, and the scopes that it must have.
    pub asserted: Assertions<'a>,
    /// The environment that keys must have whose keyspace requires one; empty asserts nothing.
    pub host_environment: &'a str,
    /// How much of the key's rate limit to spend; 0 only reads it, none does not even read it.
    pub cost: Option<u32>,
}

impl Check<'_> {
    /// Refuses what could not match any key. In the common case this compares a few lengths.
    ///
    /// # Errors
    ///
    /// INVALID_ARGUMENT with every bad field.
    pub(crate) fn validate(&self) -> Result<()> {
        let Assertions { environment, organization, instance, scopes, forbidden: _ } = self.asserted;
        let parts = [
            ("keyspace", self.keyspace),
            ("environment", environment),
            ("organization", organization),
            ("instance", instance),
        ];
        if scopes.is_empty() && parts.iter().all(|(_, part)| part.len() <= MAX_BINDING_LEN) {
            return Ok(());
        }
        let mut violations = Violations::default();
        for (field, part) in parts {
            violations.identifier(field, part);
        }
        violations.scopes("required_scopes", scopes);
        violations.finish()
    }
}

/// The caller of a Verify.
#[derive(Debug, Clone, Copy)]
pub enum VerifyCaller<'a> {
    /// The holder of this secret, which is verified for each call: a revoked caller gets no further verdict.
    Credential(&'a str),
    /// A caller that is authenticated already, with the keyspaces whose keys it may verify; none: all.
    Authorized(Option<&'a Arc<AllowedKeyspaces>>),
}

/// The answer to a [`Check`].
#[derive(Debug, Clone)]
pub struct Verdict {
    /// VALID, or the first reason why not.
    pub code: VerdictCode,
    /// The key; none where the answer must not describe it: MALFORMED and NOT_FOUND.
    pub key: Option<Arc<CachedKey>>,
    /// The state of its rate limit, if it has one and the key is valid except for it.
    pub rate: Option<RateState>,
    /// The first required scope that the key lacks, for INSUFFICIENT_SCOPE.
    pub missing_scope: Option<Box<str>>,
}

impl Verdict {
    /// A verdict that describes no key.
    pub(super) fn unknown(code: VerdictCode) -> Self {
        Self { code, key: None, rate: None, missing_scope: None }
    }

    /// The verdict in words.
    pub(crate) fn message(&self) -> Cow<'static, str> {
        self.code.message(self.missing_scope.as_deref().unwrap_or_default())
    }
}
