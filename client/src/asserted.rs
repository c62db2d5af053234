//! What a check asserts, and whether a key in memory satisfies it.

use crate::key_facts::KeyFacts;

/// Characters in a keyspace, an organization, an instance or an environment that a check asserts.
const MAX_NAME_LEN: usize = 128;
/// Scopes that a check asserts.
pub(crate) const MAX_SCOPES: usize = 64;

/// What a check asserts.
#[derive(Clone, Copy)]
pub(crate) struct Asserted<'a> {
    pub(crate) keyspace: &'a str,
    pub(crate) organization: &'a str,
    pub(crate) instance: &'a str,
    pub(crate) environment: &'a str,
    pub(crate) scopes: &'a [&'a str],
}

impl Asserted<'_> {
    /// Whether a key satisfies all of it. A check beyond the contract's bounds matches no key in memory, so it becomes
    /// a call, and the replica refuses that with INVALID_ARGUMENT and the field.
    pub(crate) fn holds_for(&self, key: &KeyFacts) -> bool {
        let parts = [
            (self.keyspace, &key.keyspace),
            (self.organization, &key.organization),
            (self.instance, &key.instance),
            (self.environment, &key.environment),
        ];
        let is_bounded = |name: &str| name.len() <= MAX_NAME_LEN || name.chars().count() <= MAX_NAME_LEN;
        self.scopes.len() <= MAX_SCOPES
            && parts
                .iter()
                .all(|(asserted, own)| asserted.is_empty() || *asserted == own.as_str() && is_bounded(asserted))
            && self.scopes.iter().all(|scope| key.scopes.iter().any(|own| own == scope))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::VerifyResponse;

    #[test]
    fn checks_past_the_bounds_of_the_contract_are_not_answered_from_memory() {
        let bound = |length| "ä".repeat(length);
        let key = |organization| {
            let scopes = vec!["build".to_owned()];
            KeyFacts::of(VerifyResponse { organization, scopes, ..VerifyResponse::default() }).unwrap()
        };
        let holds = |name_len, scopes: usize| {
            let (organization, scopes) = (bound(name_len), vec!["build"; scopes]);
            let asserted =
                Asserted { keyspace: "", organization: &organization, instance: "", environment: "", scopes: &scopes };
            asserted.holds_for(&key(organization.clone()))
        };
        assert!(holds(0, 0) && holds(128, 64));
        assert!(!holds(128, 65), "too many scopes");
        assert!(!holds(129, 64), "a name that is too long");
    }
}
