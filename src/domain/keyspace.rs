//! Keyspaces, each with the rules of one product, and the registry that finds them by name or by secret prefix.

use std::{sync::Arc, time::Duration};

use super::{
    key::Binding,
    master_keys::MasterKeys,
    rate_limit::RateLimit,
    route::GatewayRules,
    secret::{self, Encoding},
    text::same,
};

/// Name of the built-in keyspace for the keys of operators and services.
pub const RESERVED_KEYSPACE: &str = "keyward";
/// Scope of the reserved keyspace that makes a key an operator's.
pub(crate) const ROOT_SCOPE: &str = "root";
/// Scope of the reserved keyspace that makes a key a service's.
pub const VERIFY_SCOPE: &str = "verify";

/// Index of a keyspace in its registry; small enough to store with each cached key.
pub type KeyspaceIndex = u16;

/// No secret is shorter than this: it has at least 96 random bits.
const MIN_SECRET_LEN: usize = 20;
/// The prefixes of signing secrets and of session tokens.
const OTHER_CREDENTIALS: [&str; 2] = ["whsec_", "eyJ"];

/// The keyspaces that a limited service may verify. Keyspaces that are no longer configured are left out; if none is left,
/// the service may verify no key at all.
#[derive(Debug, PartialEq, Eq)]
pub struct AllowedKeyspaces(Box<[KeyspaceIndex]>);

impl AllowedKeyspaces {
    /// Whether a keyspace is allowed.
    pub fn contains(&self, index: KeyspaceIndex) -> bool {
        self.0.contains(&index)
    }
}

/// The header in which a keyspace's secrets are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialHeader {
    /// `Authorization: Bearer …`
    Bearer,
    /// `X-API-Key: …`
    XApiKey,
    /// Either header.
    Any,
}

impl CredentialHeader {
    /// Whether a secret in `header` is accepted.
    pub(crate) fn accepts(self, header: CredentialHeader) -> bool {
        self == Self::Any || self == header
    }
}

/// The prefixes of a keyspace's secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prefixes {
    /// One prefix for all keys.
    One(String),
    /// `(environment, prefix)` pairs. Every key must be bound to one of these environments.
    ByEnvironment(Vec<(String, String)>),
}

impl Prefixes {
    /// Every prefix with its environment. The environment is informative only: verdicts use the key's record.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let (one, many) = match self {
            Self::One(prefix) => (Some(("", prefix.as_str())), &[][..]),
            Self::ByEnvironment(pairs) => (None, pairs.as_slice()),
        };
        one.into_iter().chain(many.iter().map(|(environment, prefix)| (environment.as_str(), prefix.as_str())))
    }

    /// The prefix of a new key in `environment`; `None` if the environment is not listed.
    pub(crate) fn for_environment(&self, environment: &str) -> Option<&str> {
        match self {
            Self::One(prefix) => Some(prefix),
            Self::ByEnvironment(pairs) => {
                pairs.iter().find(|(name, _)| same(name, environment)).map(|(_, prefix)| prefix.as_str())
            }
        }
    }
}

/// The parts of a binding that every key of a keyspace must have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RequiredBinding {
    /// Whether an organization is required.
    pub organization: bool,
    /// Whether an instance is required.
    pub instance: bool,
    /// Whether an environment is required.
    pub environment: bool,
}

impl RequiredBinding {
    /// Field names of the required parts that `binding` lacks.
    pub fn missing(self, binding: &Binding) -> impl Iterator<Item = &'static str> {
        [
            (self.organization && binding.organization.is_empty(), "organization"),
            (self.instance && binding.instance.is_empty(), "instance"),
            (self.environment && binding.environment.is_empty(), "environment"),
        ]
        .into_iter()
        .filter_map(|(lacks, field)| lacks.then_some(field))
    }
}

/// The rules of one product.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyspace {
    /// The name, unique among keyspaces.
    pub name: String,
    /// Prefixes of the secrets.
    pub prefixes: Prefixes,
    /// Encoding of the part after the prefix.
    pub encoding: Encoding,
    /// Header in which the secrets are accepted.
    pub credential: CredentialHeader,
    /// The defined scopes; `None` if any scope is allowed.
    pub scopes: Option<Vec<String>>,
    /// Scopes of a new key whose request names none.
    pub default_scopes: Vec<String>,
    /// The scope that lets a key manage the keys of its own organization.
    pub admin_scope: Option<String>,
    /// The parts of a binding that each key must have.
    pub require: RequiredBinding,
    /// Lifetime of a new key whose request names no expiry.
    pub default_ttl: Option<Duration>,
    /// Rate limit of each key.
    pub rate_limit: Option<RateLimit>,
    /// How many keys that are neither revoked nor expired an organization may have.
    pub max_keys: Option<u32>,
    /// How often a caller that is not an operator may create keys.
    pub create_limit: Option<RateLimit>,
    /// Whether keys can be created over REST without a credential.
    pub public_create: bool,
    /// Whether a key may revoke itself and change its webhook over REST.
    pub self_service: bool,
    /// How gateways' requests about its keys are decided.
    pub gateway: GatewayRules,
}

impl Keyspace {
    /// The keyspace of operators and services.
    pub fn reserved() -> Self {
        Self {
            scopes: Some(vec![ROOT_SCOPE.to_owned(), VERIFY_SCOPE.to_owned()]),
            // The weaker scope, so that omitting a field never creates an operator.
            default_scopes: vec![VERIFY_SCOPE.to_owned()],
            ..Self::with_defaults(RESERVED_KEYSPACE, "kw_", Encoding::Alphanumeric { length: 40 })
        }
    }

    /// The only keyspace of an installation without a configuration file.
    pub fn default_keyspace() -> Self {
        Self::with_defaults("default", "ak_", Encoding::Alphanumeric { length: 32 })
    }

    /// A keyspace with bearer secrets, free-form scopes and no other rules.
    pub fn with_defaults(name: &str, prefix: &str, encoding: Encoding) -> Self {
        Self {
            name: name.to_owned(),
            prefixes: Prefixes::One(prefix.to_owned()),
            encoding,
            credential: CredentialHeader::Bearer,
            scopes: None,
            default_scopes: Vec::new(),
            admin_scope: None,
            require: RequiredBinding::default(),
            default_ttl: None,
            rate_limit: None,
            max_keys: None,
            create_limit: None,
            public_create: false,
            self_service: false,
            gateway: GatewayRules::default(),
        }
    }
}

/// Every configured keyspace, the reserved one first.
#[derive(Debug, Clone)]
pub struct Registry {
    keyspaces: Vec<Arc<Keyspace>>,
    /// Whether a secret or a token can begin with a byte.
    first_bytes: [bool; 256],
}

impl Registry {
    /// A registry of the reserved keyspace, followed by the configured ones.
    pub fn new(configured: Vec<Keyspace>) -> Self {
        let keyspaces: Vec<_> = std::iter::once(Keyspace::reserved()).chain(configured).map(Arc::new).collect();
        let prefixes = keyspaces.iter().flat_map(|keyspace| keyspace.prefixes.iter()).map(|(_, prefix)| prefix);
        let mut first_bytes = [false; 256];
        for first in prefixes.chain(OTHER_CREDENTIALS).filter_map(|prefix| prefix.bytes().next()) {
            first_bytes[usize::from(first)] = true;
        }
        Self { keyspaces, first_bytes }
    }

    /// The keyspace at an index.
    pub fn get(&self, index: KeyspaceIndex) -> Option<&Arc<Keyspace>> {
        self.keyspaces.get(usize::from(index))
    }

    /// The index of a name.
    pub fn index(&self, name: &str) -> Option<KeyspaceIndex> {
        self.keyspaces.iter().position(|k| k.name == name).and_then(|at| at.try_into().ok())
    }

    /// The keyspaces that a service limited to these names may verify; `None` if there are no names: not limited.
    pub(crate) fn allowed_keyspaces(&self, names: &[String]) -> Option<Arc<AllowedKeyspaces>> {
        let indices = names.iter().filter_map(|name| self.index(name));
        (!names.is_empty()).then(|| Arc::new(AllowedKeyspaces(indices.collect())))
    }

    /// The keyspace with a name.
    pub(crate) fn by_name(&self, name: &str) -> Option<&Arc<Keyspace>> {
        self.keyspaces.iter().find(|k| k.name == name)
    }

    /// The configured keyspaces, without the reserved one.
    pub fn configured(&self) -> &[Arc<Keyspace>] {
        &self.keyspaces[1..]
    }

    /// Every keyspace, the reserved one first.
    pub fn all(&self) -> &[Arc<Keyspace>] {
        &self.keyspaces
    }

    /// The keyspace whose prefix `text` starts with, and that prefix. If several match, the longest one.
    pub(crate) fn by_prefix(&self, text: &str) -> Option<(&Arc<Keyspace>, &str)> {
        self.keyspaces
            .iter()
            .flat_map(|keyspace| keyspace.prefixes.iter().map(move |(_, prefix)| (keyspace, prefix)))
            .filter(|(_, prefix)| text.starts_with(prefix))
            .max_by_key(|(_, prefix)| prefix.len())
    }

    /// Whether a text may contain a secret or a token. A part that only has the prefix of one counts.
    pub(crate) fn holds_credential(&self, text: &str) -> bool {
        let begins = |rest: &str| {
            self.by_prefix(rest).is_some() || OTHER_CREDENTIALS.iter().any(|prefix| rest.starts_with(prefix))
        };
        let starts = 0..(text.len() + 1).saturating_sub(MIN_SECRET_LEN);
        // This runs for the id of every request, and few bytes can be the first of a credential, so test that first.
        text.as_bytes()[starts.clone()]
            .iter()
            .zip(starts)
            .filter(|(byte, _)| self.first_bytes[usize::from(**byte)])
            .any(|(_, start)| text.get(start..).is_some_and(begins))
    }

    /// Whether `text` is a secret that this installation can have issued: its prefix, length and checksum are right.
    /// Anything else is refused without a look-up.
    pub fn well_formed(&self, text: &str, master_keys: &MasterKeys) -> bool {
        text.len() <= secret::MAX_SECRET_LEN
            && self
                .by_prefix(text)
                .is_some_and(|(keyspace, prefix)| keyspace.encoding.accepts(prefix, &text[prefix.len()..], master_keys))
    }

    /// Whether this installation issued `text` for a keyspace that is no longer configured.
    pub(crate) fn orphaned(&self, text: &str, master_keys: &MasterKeys) -> bool {
        self.by_prefix(text).is_none() && secret::issued_by(text, master_keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_holds_a_credential_where_one_of_each_kind_can_begin_in_it() {
        let registry = Registry::new(vec![Keyspace::default_keyspace()]);
        let filler = "x".repeat(MIN_SECRET_LEN);
        for prefix in ["ak_", "kw_", "whsec_", "eyJ"] {
            let shortest = format!("{prefix}{}", &filler[prefix.len()..]);
            assert_eq!(shortest.len(), MIN_SECRET_LEN);
            for holds in [shortest.clone(), format!("a{shortest}"), format!("é-{shortest}z"), format!("k{shortest}")] {
                assert!(registry.holds_credential(&holds), "{holds}");
            }
            for holds_none in [&shortest[1..], &shortest[..MIN_SECRET_LEN - 1], prefix, ""] {
                assert!(!registry.holds_credential(holds_none), "{holds_none}");
            }
        }
        assert!(!registry.holds_credential("0f3c3ad4-6c5b-4a1e-9c3e-0f0a4b5d6e7f"));
    }
}
