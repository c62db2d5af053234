//! What Keyward says of a secret.

use std::{
    borrow::Cow,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    ended::{Ended, NotWatched},
    error::Error,
    proto,
    reason::Reason,
};

/// The verdict on a secret. Only [`Verdict::Valid`] holds a [`Principal`], so that a refusal cannot be taken for a caller.
#[derive(Debug, Clone)]
#[must_use = "a verdict that nobody looks at lets everybody in"]
pub enum Verdict {
    /// The key is valid, and is what the check asked for.
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

    /// The verdict of a response. A valid key is watched at `origin`, if there is one.
    ///
    /// # Errors
    ///
    /// A code that this version does not know: it must not count as VALID.
    pub(crate) fn of(response: proto::VerifyResponse, origin: Option<Box<dyn Origin>>) -> Result<Self, Error> {
        let code = response.code();
        let message = response.message.clone();
        let rate_limit = response.rate_limit.as_ref().map(RateLimit::of).transpose()?;
        let key = if response.key_id.is_empty() { None } else { Some(KeyFacts::of(response)?) };
        let Some(reason) = Reason::of(code)? else {
            let key = key.ok_or_else(|| Error::not_understood("a VALID verdict without a key"))?;
            return Ok(Self::Valid(Principal { key: Arc::new(key.watched_at(origin)), rate_limit }));
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

    /// The id of the refused key; none if the secret belongs to no key that the caller may know of.
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

/// A key that is valid, and whose it is. Cheap to clone.
#[derive(Clone)]
pub struct Principal {
    key: Arc<KeyFacts>,
    rate_limit: Option<RateLimit>,
}

/// What a verdict tells of a key.
pub(crate) struct KeyFacts {
    id: String,
    pub(crate) keyspace: String,
    pub(crate) organization: String,
    pub(crate) instance: String,
    pub(crate) environment: String,
    name: String,
    pub(crate) scopes: Vec<String>,
    created: SystemTime,
    pub(crate) expires: Option<SystemTime>,
    metadata: Vec<(String, String)>,
    /// None if nobody tells of the key's end.
    origin: Option<Box<dyn Origin>>,
}

/// Where facts come from: whoever hears of the key's end.
pub(crate) trait Origin: Send + Sync {
    /// Waits until the key is over, or is not what these facts say.
    fn watch(&self, facts: &Arc<KeyFacts>) -> Ended;
}

impl KeyFacts {
    /// The facts in a response.
    ///
    /// # Errors
    ///
    /// A time that is out of range.
    pub(crate) fn of(response: proto::VerifyResponse) -> Result<Self, Error> {
        let mut metadata: Vec<_> = response.metadata.into_iter().collect();
        metadata.sort();
        Ok(Self {
            id: response.key_id,
            keyspace: response.keyspace,
            organization: response.organization,
            instance: response.instance,
            environment: response.environment,
            name: response.name,
            scopes: response.scopes,
            created: response.create_time.map(time).transpose()?.unwrap_or(SystemTime::UNIX_EPOCH),
            expires: response.expire_time.map(time).transpose()?,
            metadata,
            origin: None,
        })
    }

    /// The same facts, of a key whose end is heard of at `origin`.
    pub(crate) fn watched_at(self, origin: Option<Box<dyn Origin>>) -> Self {
        Self { origin, ..self }
    }

    /// What a verdict on the key would say, now that it has become `current`: the first reason why it is not what it was.
    /// A scope that it lost counts whether or not the check named it, since the caller may have relied on it.
    pub(crate) fn lost(&self, current: &Self) -> Option<Reason> {
        let parts = [
            (&self.keyspace, &current.keyspace, Reason::NotFound),
            (&self.environment, &current.environment, Reason::WrongEnvironment),
            (&self.organization, &current.organization, Reason::WrongOrganization),
            (&self.instance, &current.instance, Reason::WrongInstance),
        ];
        let part = parts.iter().find(|(own, now, _)| own != now).map(|(_, _, reason)| *reason);
        let keeps = |scope| current.scopes.contains(scope);
        part.or_else(|| (!self.scopes.iter().all(keeps)).then_some(Reason::InsufficientScope))
    }

    /// Bytes that they take, about.
    pub(crate) fn bytes(&self) -> usize {
        let texts = [&self.id, &self.keyspace, &self.organization, &self.instance, &self.environment, &self.name];
        let scopes = self.scopes.iter().map(|scope| scope.len() + size_of::<String>());
        let metadata = self.metadata.iter().map(|(name, value)| name.len() + value.len() + 2 * size_of::<String>());
        size_of::<Self>() + texts.iter().map(|text| text.len()).chain(scopes).chain(metadata).sum::<usize>()
    }
}

/// A text that is there, or none.
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

    /// Waits until the work that was admitted under this key has to end: the key is revoked, has expired, or is not any
    /// more what this principal says of it. The waiting begins with this call, not with the first poll.
    ///
    /// Only an attached client hears of the end of a key ([`Client::attach`](crate::Client::attach)). A principal of any
    /// other client resolves at once, with [`NotWatched::NotAttached`]; so does one that was verified before the client was
    /// attached. If the client loses its lease, that alone ends nothing, unless
    /// [`AttachOptions::grace_period`](crate::AttachOptions::grace_period) says when.
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
        match &self.key.origin {
            Some(origin) => origin.watch(&self.key),
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

/// The state of a key's rate limit: never more than `limit` in any span of one window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// The limit in any span of one window.
    pub limit: u32,
    /// How much is left.
    pub remaining: u32,
    /// When `remaining` grows next.
    pub reset: SystemTime,
    /// How long until the same cost would be admitted; none if it was admitted, or can never be.
    pub retry_after: Option<Duration>,
}

impl RateLimit {
    fn of(state: &proto::RateLimitState) -> Result<Self, Error> {
        let bad = || Error::not_understood("a rate limit with a time that is out of range");
        Ok(Self {
            limit: state.limit,
            remaining: state.remaining,
            reset: time(state.reset_time.ok_or_else(bad)?)?,
            retry_after: state.retry_after.map(|wait| Duration::try_from(wait).map_err(|_| bad())).transpose()?,
        })
    }
}

/// The seconds of the years 1 to 9999, which a protobuf timestamp may have.
const TIMESTAMP_SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

fn time(time: prost_types::Timestamp) -> Result<SystemTime, Error> {
    let bad = || Error::not_understood("a time that is out of range");
    if !TIMESTAMP_SECONDS.contains(&time.seconds) {
        return Err(bad());
    }
    SystemTime::try_from(time).map_err(|_| bad())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The facts of a key with this id.
    pub(crate) fn facts(id: &str) -> Arc<KeyFacts> {
        Arc::new(KeyFacts::of(response(proto::Code::Valid.into(), id)).unwrap())
    }

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
    fn facts_are_lost_in_the_order_of_verdicts() {
        type Change = fn(&mut proto::VerifyResponse);
        let facts = |change: Change| {
            let mut response = proto::VerifyResponse {
                keyspace: "norrix".into(),
                scopes: vec!["build".into(), "submit".into()],
                ..response(proto::Code::Valid.into(), "key_1")
            };
            change(&mut response);
            KeyFacts::of(response).unwrap()
        };
        let before = facts(|_| {});
        let cases: [(Change, Option<Reason>); 8] = [
            (|_| {}, None),
            (|key| key.name = "other".into(), None),
            (|key| key.scopes.push("update".into()), None),
            (|key| key.scopes.clear(), Some(Reason::InsufficientScope)),
            (|key| (key.instance, key.scopes) = ("other".into(), Vec::new()), Some(Reason::WrongInstance)),
            (|key| (key.organization, key.instance) = ("b".into(), "b".into()), Some(Reason::WrongOrganization)),
            (|key| (key.environment, key.organization) = ("b".into(), "b".into()), Some(Reason::WrongEnvironment)),
            (|key| (key.keyspace, key.environment) = ("b".into(), "b".into()), Some(Reason::NotFound)),
        ];
        for (change, lost) in cases {
            assert_eq!(before.lost(&facts(change)), lost);
        }
    }

    #[test]
    fn times_that_are_out_of_range_are_refused() {
        let far = prost_types::Timestamp { seconds: i64::MAX, nanos: i32::MAX };
        let response = proto::VerifyResponse { expire_time: Some(far), ..response(proto::Code::Valid.into(), "key_1") };
        assert!(Verdict::of(response, None).is_err());
    }
}
