//! What Keyward says of a secret.

use std::{
    borrow::Cow,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{error::Error, proto};

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

    /// The verdict of a response. `scopes` are those that the check asked for.
    ///
    /// # Errors
    ///
    /// A code that this version does not know: it must not count as VALID.
    pub(crate) fn of(response: proto::VerifyResponse) -> Result<Self, Error> {
        let code = response.code();
        let message = response.message.clone();
        let rate_limit = response.rate_limit.as_ref().map(RateLimit::of).transpose()?;
        let key = if response.key_id.is_empty() { None } else { Some(Arc::new(KeyFacts::of(response)?)) };
        let Some(reason) = Reason::of(code)? else {
            let key = key.ok_or_else(|| Error::not_understood("a VALID verdict without a key"))?;
            return Ok(Self::Valid(Principal { key, rate_limit }));
        };
        let key = key.map(|key| Principal { key, rate_limit });
        Ok(Self::Refused(Refusal { reason, message: message.into(), key, rate_limit }))
    }
}

/// Why a key is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The text is not a secret of this installation.
    Malformed,
    /// There is no such key in the keyspace that the check names.
    NotFound,
    /// The key is revoked.
    Revoked,
    /// The key has expired.
    Expired,
    /// The key is bound to another environment, or to none.
    WrongEnvironment,
    /// The key is bound to another organization, or to none.
    WrongOrganization,
    /// The key is bound to another instance, or to none.
    WrongInstance,
    /// The key lacks a scope that the check asks for.
    InsufficientScope,
    /// The key has exhausted its rate limit.
    RateLimited,
}

impl Reason {
    /// The reason of a code; none for VALID.
    fn of(code: proto::Code) -> Result<Option<Self>, Error> {
        Ok(Some(match code {
            proto::Code::Valid => return Ok(None),
            proto::Code::Malformed => Self::Malformed,
            proto::Code::NotFound => Self::NotFound,
            proto::Code::Revoked => Self::Revoked,
            proto::Code::Expired => Self::Expired,
            proto::Code::WrongEnvironment => Self::WrongEnvironment,
            proto::Code::WrongOrganization => Self::WrongOrganization,
            proto::Code::WrongInstance => Self::WrongInstance,
            proto::Code::InsufficientScope => Self::InsufficientScope,
            proto::Code::RateLimited => Self::RateLimited,
            proto::Code::Unspecified => return Err(Error::not_understood("a verdict of an unknown code")),
        }))
    }

    /// The name that errors carry as their reason, such as `INSUFFICIENT_SCOPE`. REST writes it in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "MALFORMED",
            Self::NotFound => "NOT_FOUND",
            Self::Revoked => "REVOKED",
            Self::Expired => "EXPIRED",
            Self::WrongEnvironment => "WRONG_ENVIRONMENT",
            Self::WrongOrganization => "WRONG_ORGANIZATION",
            Self::WrongInstance => "WRONG_INSTANCE",
            Self::InsufficientScope => "INSUFFICIENT_SCOPE",
            Self::RateLimited => "RATE_LIMITED",
        }
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
    expires: Option<SystemTime>,
    metadata: Vec<(String, String)>,
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
        })
    }
}

impl KeyFacts {
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
            let verdict = Verdict::of(response(code, "key_1"));
            let valid = verdict.is_ok_and(|verdict| verdict.is_valid());
            assert_eq!(valid, code == proto::Code::Valid as i32, "code {code}");
        }
        assert!(Verdict::of(response(proto::Code::Valid.into(), "")).is_err(), "VALID without a key");
    }

    #[test]
    fn every_other_code_has_its_reason() {
        for code in 2..=10 {
            let name = proto::Code::try_from(code).unwrap().as_str_name();
            let Ok(Verdict::Refused(refusal)) = Verdict::of(response(code, "")) else { panic!("{name}") };
            assert_eq!(format!("CODE_{}", refusal.reason().name()), name);
            assert_eq!(refusal.key_id(), None);
        }
    }

    #[test]
    fn a_principal_is_what_the_response_says() {
        let metadata = [("tier", "gold"), ("a", "b")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        let verdict = Verdict::of(proto::VerifyResponse {
            organization: "acme".into(),
            scopes: vec!["build".into()],
            metadata: metadata.into_iter().collect(),
            ..response(proto::Code::Valid.into(), "key_1")
        });
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
        assert!(Verdict::of(response).is_err());
    }
}
