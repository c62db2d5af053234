//! The content of the answer to a Verify.

use std::{borrow::Cow, fmt};

use super::check::Verdict;
use crate::{
    domain::{clock::Micros, key::KeyId, keyspace::Registry, rate_limit::RateState, verdict::VerdictCode},
    replica::cached_key::CachedKey,
};

/// The content of the answer to a Verify. gRPC, its streams and REST write these fields, each in its own format, and no
/// others.
#[derive(Debug)]
pub struct Answer<'a> {
    /// The verdict.
    pub code: VerdictCode,
    /// The verdict in words.
    pub message: Cow<'static, str>,
    /// The key. None for MALFORMED and NOT_FOUND.
    pub key: Option<AnswerKey<'a>>,
    /// The state of the key's rate limit, if it has one and the verdict depends on it.
    pub rate: Option<RateState>,
}

/// The key in an [`Answer`]. A text without a value is empty.
pub struct AnswerKey<'a> {
    /// Its id.
    pub id: KeyId,
    /// The name of its keyspace.
    pub keyspace: &'a str,
    /// The organization that it is bound to.
    pub organization: &'a str,
    /// The instance that it is bound to.
    pub instance: &'a str,
    /// The environment that it is bound to.
    pub environment: &'a str,
    /// Its name.
    pub name: &'a str,
    /// When it was created.
    pub created_at: Micros,
    /// When it expires, if it does.
    pub expires_at: Option<Micros>,
    key: &'a CachedKey,
}

impl<'a> Answer<'a> {
    pub(crate) fn new(verdict: &'a Verdict, registry: &'a Registry) -> Self {
        let key = verdict.key.as_ref().map(|key| AnswerKey {
            id: key.id,
            keyspace: key.keyspace.and_then(|index| registry.get(index)).map_or("", |keyspace| keyspace.name.as_str()),
            organization: key.organization(),
            instance: key.instance(),
            environment: key.environment(),
            name: key.name(),
            created_at: key.created_at,
            expires_at: key.expire_time(),
            key,
        });
        Self { code: verdict.code, message: verdict.message(), key, rate: verdict.rate }
    }
}

impl<'a> AnswerKey<'a> {
    /// The key's scopes.
    pub fn scopes(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.key.scopes()
    }

    /// The key's metadata, in the order of its names.
    pub fn metadata(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        self.key.metadata()
    }
}

impl fmt::Debug for AnswerKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AnswerKey").field(&self.id).finish()
    }
}
