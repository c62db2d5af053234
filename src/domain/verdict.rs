//! The verdict on a key: data with a fixed order of reasons.

use super::{clock::Micros, key::Binding};

/// A verdict. When several reasons hold, the first in this order is the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum VerdictCode {
    /// The key is good and may do what was asked.
    Valid,
    /// Not a secret that this installation made.
    Malformed,
    /// No such key in the keyspace asked for.
    NotFound,
    /// Revoked.
    Revoked,
    /// Expired.
    Expired,
    /// Bound to another environment, or to none.
    WrongEnvironment,
    /// Bound to another organization, or to none.
    WrongOrganization,
    /// Bound to another instance, or to none.
    WrongInstance,
    /// Lacks a required scope.
    InsufficientScope,
    /// Has spent its rate limit.
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

    /// The code's name in the proto, without its `CODE_`; also the reason of an error that it causes.
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

    /// The verdict in words.
    pub fn message(self) -> &'static str {
        match self {
            Self::Valid => "The key is valid",
            Self::Malformed => "The secret is malformed",
            Self::NotFound => "There is no such key",
            Self::Revoked => "The key was revoked",
            Self::Expired => "The key has expired",
            Self::WrongEnvironment => "The key belongs to another environment",
            Self::WrongOrganization => "The key belongs to another organization",
            Self::WrongInstance => "The key belongs to another instance",
            Self::InsufficientScope => "The key lacks a required scope",
            Self::RateLimited => "The key has spent its rate limit",
        }
    }
}

/// What a verdict needs to know of a key.
pub trait KeyView {
    /// Whether it was revoked.
    fn revoked(&self) -> bool;
    /// When it stops being valid; `Micros::MAX` if never.
    fn expires_at(&self) -> Micros;
    /// What it is bound to: environment, organization, instance.
    fn bound_to(&self) -> [&str; 3];
    /// Whether it holds a scope.
    fn holds(&self, scope: &str) -> bool;
}

/// What a caller asserts of the key; an empty part asserts nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Assertions<'a> {
    /// The key's environment.
    pub environment: &'a str,
    /// The key's organization.
    pub organization: &'a str,
    /// The key's instance.
    pub instance: &'a str,
    /// Scopes that it must all hold.
    pub scopes: &'a [String],
}

impl<'a> Assertions<'a> {
    /// Asserts a binding and no scope.
    pub fn binding(binding: &'a Binding) -> Self {
        Self {
            environment: &binding.environment,
            organization: &binding.organization,
            instance: &binding.instance,
            scopes: &[],
        }
    }
}

/// The verdict on a key that exists, but for the rate limit, which only [`VerdictCode::Valid`] goes on to spend.
pub fn judge(key: &impl KeyView, asserted: &Assertions<'_>, now: Micros) -> VerdictCode {
    if key.revoked() {
        return VerdictCode::Revoked;
    }
    if key.expires_at() <= now {
        return VerdictCode::Expired;
    }
    let [environment, organization, instance] = key.bound_to();
    // A key without a binding is a mismatch for whoever names one.
    let mismatch = |asserted: &str, own: &str| !asserted.is_empty() && asserted != own;
    if mismatch(asserted.environment, environment) {
        return VerdictCode::WrongEnvironment;
    }
    if mismatch(asserted.organization, organization) {
        return VerdictCode::WrongOrganization;
    }
    if mismatch(asserted.instance, instance) {
        return VerdictCode::WrongInstance;
    }
    if asserted.scopes.iter().any(|scope| !key.holds(scope)) {
        return VerdictCode::InsufficientScope;
    }
    VerdictCode::Valid
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key with chosen faults.
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

    /// Every reason that `judge` can see, in their fixed order, as a bit each.
    const ORDER: [VerdictCode; 6] = [
        VerdictCode::Revoked,
        VerdictCode::Expired,
        VerdictCode::WrongEnvironment,
        VerdictCode::WrongOrganization,
        VerdictCode::WrongInstance,
        VerdictCode::InsufficientScope,
    ];

    #[test]
    fn of_any_set_of_reasons_the_first_in_order_is_the_verdict() {
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
            };
            let expected = ORDER.into_iter().find(|code| has(*code)).unwrap_or(VerdictCode::Valid);
            assert_eq!(judge(&key, &asserted, 10), expected, "reasons {set:#b}");
        }
    }

    #[test]
    fn a_key_is_expired_from_its_expiry_on_and_not_before() {
        let key = Fake { revoked: false, expires_at: 10 };
        assert_eq!(judge(&key, &Assertions::default(), 9), VerdictCode::Valid);
        assert_eq!(judge(&key, &Assertions::default(), 10), VerdictCode::Expired);
    }
}
