//! Verdicts on keys, with a fixed order of reasons.

use std::borrow::Cow;

use super::{
    clock::Micros,
    error::{INVALID_CREDENTIAL, RATE_LIMIT_EXCEEDED, lacks_scope},
    key::Binding,
    text::same,
};

/// The code of a verdict. If several reasons apply, the first in this order is the verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum VerdictCode {
    /// The key is valid and matches everything that was asserted.
    Valid,
    /// The secret was not issued by this installation.
    Malformed,
    /// There is no such key in the named keyspace.
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
    /// The key lacks a required scope.
    InsufficientScope,
    /// The key's rate limit is exhausted.
    RateLimited,
}

impl VerdictCode {
    /// Every code, in order.
    pub const ALL: [Self; 10] = [
        Self::Valid,
        Self::Malformed,
        Self::NotFound,
        Self::Revoked,
        Self::Expired,
        Self::WrongEnvironment,
        Self::WrongOrganization,
        Self::WrongInstance,
        Self::InsufficientScope,
        Self::RateLimited,
    ];

    /// The code's name in the proto without `CODE_`; also the reason of the error it causes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Valid => "VALID",
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

    /// The verdict as a sentence for people: the one of the REST error with this code, so that a service can pass it on.
    /// `missing_scope` is the first required scope that the key lacks.
    pub fn message(self, missing_scope: &str) -> Cow<'static, str> {
        match self {
            Self::Valid => "The key is valid".into(),
            Self::Malformed
            | Self::NotFound
            | Self::Revoked
            | Self::Expired
            | Self::WrongEnvironment
            | Self::WrongOrganization
            | Self::WrongInstance => INVALID_CREDENTIAL.into(),
            Self::InsufficientScope => lacks_scope(missing_scope).into(),
            Self::RateLimited => RATE_LIMIT_EXCEEDED.into(),
        }
    }
}

/// The properties of a key that its verdict depends on.
pub trait KeyView {
    /// Whether the key is revoked.
    fn revoked(&self) -> bool;
    /// Expiry time; `Micros::MAX` if the key does not expire.
    fn expires_at(&self) -> Micros;
    /// Environment, organization and instance that the key is bound to.
    fn bound_to(&self) -> [&str; 3];
    /// Whether the key holds a scope.
    fn holds(&self, scope: &str) -> bool;
}

/// What a caller asserts about the key. An empty part asserts nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Assertions<'a> {
    /// The key's environment.
    pub environment: &'a str,
    /// The key's organization.
    pub organization: &'a str,
    /// The key's instance.
    pub instance: &'a str,
    /// Scopes that the key must hold.
    pub scopes: &'a [String],
    /// Whether it is already determined that the key may not do this, whatever scopes it holds. Unless an earlier
    /// reason applies, the verdict is [`VerdictCode::InsufficientScope`], and nothing is spent.
    pub forbidden: bool,
}

impl<'a> Assertions<'a> {
    /// Assertions of a binding, and of no scope.
    pub fn binding(binding: &'a Binding) -> Self {
        Self {
            environment: &binding.environment,
            organization: &binding.organization,
            instance: &binding.instance,
            scopes: &[],
            forbidden: false,
        }
    }

    /// The first asserted scope that the key lacks.
    pub(crate) fn missing_scope(&self, key: &impl KeyView) -> Option<&'a str> {
        self.scopes.iter().map(String::as_str).find(|scope| !key.holds(scope))
    }
}

/// The verdict on a key that exists, before its rate limit. The caller spends the rate limit only after
/// [`VerdictCode::Valid`].
pub(crate) fn verdict_before_limit(key: &impl KeyView, asserted: &Assertions<'_>, now: Micros) -> VerdictCode {
    if key.revoked() {
        return VerdictCode::Revoked;
    }
    if key.expires_at() <= now {
        return VerdictCode::Expired;
    }
    let [environment, organization, instance] = key.bound_to();
    // An assertion about a part to which the key is not bound is a mismatch, too.
    let mismatch = |asserted: &str, own: &str| !asserted.is_empty() && !same(asserted, own);
    if mismatch(asserted.environment, environment) {
        return VerdictCode::WrongEnvironment;
    }
    if mismatch(asserted.organization, organization) {
        return VerdictCode::WrongOrganization;
    }
    if mismatch(asserted.instance, instance) {
        return VerdictCode::WrongInstance;
    }
    if asserted.forbidden || asserted.missing_scope(key).is_some() {
        return VerdictCode::InsufficientScope;
    }
    VerdictCode::Valid
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key with chosen properties.
    #[derive(Clone, Copy)]
    struct Fake {
        revoked: bool,
        expires_at: Micros,
    }

    impl KeyView for Fake {
        fn revoked(&self) -> bool {
            self.revoked
        }
        fn expires_at(&self) -> Micros {
            self.expires_at
        }
        fn bound_to(&self) -> [&str; 3] {
            ["production", "acme", "eu-1"]
        }
        fn holds(&self, scope: &str) -> bool {
            scope == "build"
        }
    }

    /// Every reason that `verdict_before_limit` can find, in order. Each one is a bit of a set.
    const ORDER: [VerdictCode; 6] = [
        VerdictCode::Revoked,
        VerdictCode::Expired,
        VerdictCode::WrongEnvironment,
        VerdictCode::WrongOrganization,
        VerdictCode::WrongInstance,
        VerdictCode::InsufficientScope,
    ];

    #[test]
    fn the_first_reason_in_order_is_the_verdict() {
        for set in 0_u32..1 << ORDER.len() {
            let has = |code: VerdictCode| ORDER.iter().position(|c| *c == code).is_some_and(|bit| set >> bit & 1 == 1);
            let key = Fake {
                revoked: has(VerdictCode::Revoked),
                expires_at: if has(VerdictCode::Expired) { 10 } else { Micros::MAX },
            };
            let scopes = [if has(VerdictCode::InsufficientScope) { "submit" } else { "build" }.to_owned()];
            let asserted = Assertions {
                environment: if has(VerdictCode::WrongEnvironment) { "sandbox" } else { "production" },
                organization: if has(VerdictCode::WrongOrganization) { "Acme" } else { "acme" },
                instance: if has(VerdictCode::WrongInstance) { "eu-2" } else { "" },
                scopes: &scopes,
                forbidden: false,
            };
            let expected = ORDER.into_iter().find(|code| has(*code)).unwrap_or(VerdictCode::Valid);
            assert_eq!(verdict_before_limit(&key, &asserted, 10), expected, "reasons {set:#b}");
            // `forbidden` applies whatever the scopes are, and after every other reason.
            let scopes = ["build".to_owned()];
            let asserted = Assertions { scopes: &scopes, forbidden: has(VerdictCode::InsufficientScope), ..asserted };
            assert_eq!(verdict_before_limit(&key, &asserted, 10), expected, "reasons {set:#b}, forbidden");
        }
    }

    #[test]
    fn a_key_expires_at_the_moment_of_its_expiry() {
        let key = Fake { revoked: false, expires_at: 10 };
        assert_eq!(verdict_before_limit(&key, &Assertions::default(), 9), VerdictCode::Valid);
        assert_eq!(verdict_before_limit(&key, &Assertions::default(), 10), VerdictCode::Expired);
    }
}
