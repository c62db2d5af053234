//! The verdict on a secret.

use std::{borrow::Cow, fmt, sync::Arc, time::SystemTime};

use crate::{
    ended::{Ended, NotWatched},
    error::Error,
    key_facts::{KeyFacts, KeyWatcher},
    proto,
    rate_limit::RateLimit,
    reason::Reason,
};

/// The verdict on a secret. Only [`Verdict::Valid`] holds a [`Principal`], so that a refusal cannot be taken for a
/// caller.
#[derive(Debug, Clone)]
#[must_use = "an ignored verdict lets every caller in"]
pub enum Verdict {
    /// The key is valid, and matches every assertion of the check.
    Valid(Principal),
    /// It is not.
    Refused(Refusal),
}

impl Verdict {
    /// Whether the key is valid.
    pub fn is_valid(&self) -> bool {
        matches!(self, Self::Valid(_))
    }

    /// The key that is valid, or why there is none.
    ///
    /// # Errors
    ///
    /// The refusal.
    pub fn into_result(self) -> Result<Principal, Refusal> {
        match self {
            Self::Valid(principal) => Ok(principal),
            Self::Refused(refusal) => Err(refusal),
        }
    }

    /// The verdict of a response. `watcher` watches the key if it is valid; none: it cannot be watched.
    ///
    /// # Errors
    ///
    /// A code that this version does not support: it must not count as VALID.
    pub(crate) fn of(response: proto::VerifyResponse, watcher: Option<Box<dyn KeyWatcher>>) -> Result<Self, Error> {
        let code = response.code();
        let message = response.message.clone();
        let rate_limit = response.rate_limit.as_ref().map(RateLimit::of).transpose()?;
        let key = if response.key_id.is_empty() { None } else { Some(KeyFacts::of(response)?) };
        let Some(reason) = Reason::of(code)? else {
            let key = key.ok_or_else(|| Error::not_understood("a VALID verdict without a key"))?;
            return Ok(Self::Valid(Principal { key: Arc::new(key.watched_by(watcher)), rate_limit }));
        };
        let key = key.map(|key| Principal { key: Arc::new(key), rate_limit });
        Ok(Self::Refused(Refusal { reason, message: message.into(), key, rate_limit }))
    }
}

/// A verdict that is not VALID.
#[derive(Debug, Clone)]
pub struct Refusal {
    reason: Reason,
    message: Cow<'static, str>,
    key: Option<Principal>,
    rate_limit: Option<RateLimit>,
}

impl Refusal {
    /// The first reason that applies.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The reason in words, for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The id of the refused key; none if the secret belongs to no key that the caller may see.
    pub fn key_id(&self) -> Option<&str> {
        self.key.as_ref().map(Principal::key_id)
    }

    /// Whether the refused key has a scope.
    pub(crate) fn has_scope(&self, scope: &str) -> bool {
        self.key.as_ref().is_some_and(|key| key.has_scope(scope))
    }

    /// The state of the key's rate limit; none unless the limit decided.
    pub fn rate_limit(&self) -> Option<RateLimit> {
        self.rate_limit
    }
}

/// A valid key and its owner. Cheap to clone.
#[derive(Clone)]
pub struct Principal {
    key: Arc<KeyFacts>,
    rate_limit: Option<RateLimit>,
}

/// None for an empty text, which means absent in a message.
fn named(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

impl Principal {
    /// The principal of a key in memory, which has no rate limit.
    pub(crate) fn of_memory(key: Arc<KeyFacts>) -> Self {
        Self { key, rate_limit: None }
    }

    /// The key's id, such as `key_01h455vb4pex5vsknk084sn02q`. Safe to log.
    pub fn key_id(&self) -> &str {
        &self.key.id
    }

    /// The product whose rules the key follows.
    pub fn keyspace(&self) -> &str {
        &self.key.keyspace
    }

    /// The organization that the key is bound to.
    pub fn organization(&self) -> Option<&str> {
        named(&self.key.organization)
    }

    /// The instance that the key is bound to.
    pub fn instance(&self) -> Option<&str> {
        named(&self.key.instance)
    }

    /// The environment that the key is bound to.
    pub fn environment(&self) -> Option<&str> {
        named(&self.key.environment)
    }

    /// The key's name, for display; may be empty.
    pub fn name(&self) -> &str {
        &self.key.name
    }

    /// The key's scopes.
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        self.key.scopes.iter().map(String::as_str)
    }

    /// Whether the key has a scope.
    pub fn has_scope(&self, scope: &str) -> bool {
        self.key.scopes.iter().any(|own| own == scope)
    }

    /// When the key was created.
    pub fn created(&self) -> SystemTime {
        self.key.created
    }

    /// When the key expires; none if never.
    pub fn expires(&self) -> Option<SystemTime> {
        self.key.expires
    }

    /// A value of the key's metadata.
    pub fn metadata(&self, name: &str) -> Option<&str> {
        let found = self.key.metadata.binary_search_by(|(own, _)| own.as_str().cmp(name)).ok()?;
        Some(&self.key.metadata[found].1)
    }

    /// Completes when work that was admitted under this key has to end: the key was revoked, has expired, or is bound
    /// to another keyspace, organization, instance or environment now, or has lost a scope. The key is watched from
    /// this call on, not from the first poll, until the future is dropped.
    ///
    /// Only an attached client can watch a key ([`Client::attach`](crate::Client::attach)). The future of any other
    /// principal completes at once with [`NotWatched::NotAttached`], also if the client was attached after the check. A
    /// lost lease alone ends nothing, unless [`AttachOptions::grace_period`](crate::AttachOptions::grace_period) is
    /// set.
    ///
    /// ```no_run
    /// # async fn f(principal: keyward_client::Principal, work: impl Future<Output = ()>) {
    /// tokio::select! {
    ///     () = work => {}
    ///     end = principal.ended() => println!("work dropped: {end:?}"),
    /// }
    /// # }
    /// ```
    pub fn ended(&self) -> Ended {
        match &self.key.watcher {
            Some(watcher) => watcher.watch(&self.key),
            None => Ended::not_watched(NotWatched::NotAttached),
        }
    }

    /// The names and values of the key's metadata, in the order of the names.
    pub fn metadata_pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.key.metadata.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The state of the key's rate limit after this check; none if it has no limit.
    pub fn rate_limit(&self) -> Option<RateLimit> {
        self.rate_limit
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Principal")
            .field("key_id", &self.key_id())
            .field("keyspace", &self.keyspace())
            .field("organization", &self.organization())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(code: i32, key_id: &str) -> proto::VerifyResponse {
        proto::VerifyResponse { code, key_id: key_id.into(), ..Default::default() }
    }

    #[test]
    fn only_the_code_valid_with_a_key_yields_a_principal() {
        for code in -1..=64 {
            let verdict = Verdict::of(response(code, "key_1"), None);
            let valid = verdict.is_ok_and(|verdict| verdict.is_valid());
            assert_eq!(valid, code == proto::Code::Valid as i32, "code {code}");
        }
        assert!(Verdict::of(response(proto::Code::Valid.into(), ""), None).is_err(), "VALID without a key");
    }

    #[test]
    fn every_other_code_has_its_reason() {
        for code in 2..=10 {
            let name = proto::Code::try_from(code).unwrap().as_str_name();
            let Ok(Verdict::Refused(refusal)) = Verdict::of(response(code, ""), None) else { panic!("{name}") };
            assert_eq!(format!("CODE_{}", refusal.reason().name()), name);
            assert_eq!(refusal.key_id(), None);
        }
    }

    #[test]
    fn a_principal_is_what_the_response_says() {
        let metadata = [("tier", "gold"), ("a", "b")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        let response = proto::VerifyResponse {
            organization: "acme".into(),
            scopes: vec!["build".into()],
            metadata: metadata.into_iter().collect(),
            ..response(proto::Code::Valid.into(), "key_1")
        };
        let verdict = Verdict::of(response, None);
        let principal = verdict.unwrap().into_result().unwrap();
        assert_eq!((principal.key_id(), principal.organization()), ("key_1", Some("acme")));
        assert_eq!((principal.instance(), principal.environment(), principal.expires()), (None, None, None));
        assert!(principal.has_scope("build") && !principal.has_scope("buil"));
        assert_eq!((principal.metadata("tier"), principal.metadata("b")), (Some("gold"), None));
    }

    #[test]
    fn times_that_are_out_of_range_are_refused() {
        let far = prost_types::Timestamp { seconds: i64::MAX, nanos: i32::MAX };
        let response = proto::VerifyResponse { expire_time: Some(far), ..response(proto::Code::Valid.into(), "key_1") };
        assert!(Verdict::of(response, None).is_err());
    }
}
