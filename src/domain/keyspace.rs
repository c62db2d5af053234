//! Keyspaces: one product's rules each, and the registry that finds them by name and by secret prefix.

use std::{sync::Arc, time::Duration};

use super::{
    key::Binding,
    master_keys::MasterKeys,
    rate_limit::RateLimit,
    secret::{self, Encoding},
};

/// Name of the keyspace that is always there: operators' and services' own keys.
pub const RESERVED_KEYSPACE: &str = "keyward";
/// Scope of the reserved keyspace that makes an operator.
pub const ROOT_SCOPE: &str = "root";
/// Scope of the reserved keyspace that makes a service.
pub const VERIFY_SCOPE: &str = "verify";

/// A keyspace's place in its registry; small enough to keep with each cached key.
pub type KeyspaceIndex = u16;

/// The keyspaces that a limited service may ask about. One that is no longer configured is not among them, so a service
/// that is left with none may ask about none.
#[derive(Debug, PartialEq, Eq)]
pub struct AllowedKeyspaces(Box<[KeyspaceIndex]>);

impl AllowedKeyspaces {
    /// Whether a keyspace is among them.
    pub fn contains(&self, index: KeyspaceIndex) -> bool {
        self.0.contains(&index)
    }
}

/// The header in which a keyspace's secrets count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialHeader {
    /// `Authorization: Bearer …`
    Bearer,
    /// `X-API-Key: …`
    XApiKey,
    /// Either of them.
    Any,
}

impl CredentialHeader {
    /// Whether a secret in `header` counts.
    pub fn reads(self, header: CredentialHeader) -> bool {
        self == Self::Any || self == header
    }
}

/// What stands before the body of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prefixes {
    /// One for all keys.
    One(String),
    /// `(environment, prefix)` pairs; a key must name one of these environments.
    ByEnvironment(Vec<(String, String)>),
}

impl Prefixes {
    /// Every prefix, with the environment it tells of (which only informs: the record decides).
    pub fn each(&self) -> impl Iterator<Item = (&str, &str)> {
        let (one, many) = match self {
            Self::One(prefix) => (Some(("", prefix.as_str())), &[][..]),
            Self::ByEnvironment(pairs) => (None, pairs.as_slice()),
        };
        one.into_iter().chain(many.iter().map(|(environment, prefix)| (environment.as_str(), prefix.as_str())))
    }

    /// The prefix of a new key in `environment`; none if the table does not have it.
    pub fn of(&self, environment: &str) -> Option<&str> {
        match self {
            Self::One(prefix) => Some(prefix),
            Self::ByEnvironment(pairs) => {
                pairs.iter().find(|(name, _)| name == environment).map(|(_, prefix)| prefix.as_str())
            }
        }
    }
}

/// Which parts of a binding every key must have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RequiredBinding {
    /// `organization`
    pub organization: bool,
    /// `instance`
    pub instance: bool,
    /// `environment`
    pub environment: bool,
}

impl RequiredBinding {
    /// The required parts that `binding` lacks, by field name.
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

/// One product's rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyspace {
    /// Its name.
    pub name: String,
    /// What its secrets begin with.
    pub prefixes: Prefixes,
    /// What follows.
    pub encoding: Encoding,
    /// Where its secrets count.
    pub credential: CredentialHeader,
    /// The scopes there are; none is free-form.
    pub scopes: Option<Vec<String>>,
    /// Scopes of a key that names none.
    pub default_scopes: Vec<String>,
    /// The scope whose holders manage keys of their own organization.
    pub admin_scope: Option<String>,
    /// What each key must be bound to.
    pub require: RequiredBinding,
    /// Expiry of a key that names none.
    pub default_ttl: Option<Duration>,
    /// How often each key may be used.
    pub rate_limit: Option<RateLimit>,
    /// Whether anybody may create a key over REST.
    pub public_create: bool,
    /// Whether a key may revoke and re-hook itself over REST.
    pub self_service: bool,
}

impl Keyspace {
    /// The keyspace of operators and services.
    pub fn reserved() -> Self {
        Self {
            scopes: Some(vec![ROOT_SCOPE.to_owned(), VERIFY_SCOPE.to_owned()]),
            // The lesser of the two: nobody becomes an operator by leaving a field out.
            default_scopes: vec![VERIFY_SCOPE.to_owned()],
            ..Self::plain(RESERVED_KEYSPACE, "kw_", Encoding::Alphanumeric { length: 40 })
        }
    }

    /// The one keyspace of an installation without a config file.
    pub fn default_keyspace() -> Self {
        Self::plain("default", "ak_", Encoding::Alphanumeric { length: 32 })
    }

    /// A bearer keyspace with free-form scopes and nothing else.
    pub fn plain(name: &str, prefix: &str, encoding: Encoding) -> Self {
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
            public_create: false,
            self_service: false,
        }
    }
}

/// Every configured keyspace, the reserved one first.
#[derive(Debug, Clone)]
pub struct Registry {
    keyspaces: Vec<Arc<Keyspace>>,
}

impl Registry {
    /// Puts the reserved keyspace before the configured ones.
    pub fn new(configured: Vec<Keyspace>) -> Self {
        let keyspaces = std::iter::once(Keyspace::reserved()).chain(configured).map(Arc::new).collect();
        Self { keyspaces }
    }

    /// The keyspace at a place.
    pub fn get(&self, index: KeyspaceIndex) -> Option<&Arc<Keyspace>> {
        self.keyspaces.get(usize::from(index))
    }

    /// The place of a name.
    pub fn index(&self, name: &str) -> Option<KeyspaceIndex> {
        self.keyspaces.iter().position(|k| k.name == name).and_then(|at| at.try_into().ok())
    }

    /// What a service that is limited to these names may ask about; none if it is not limited.
    pub fn allowed_keyspaces(&self, names: &[String]) -> Option<Arc<AllowedKeyspaces>> {
        let indices = names.iter().filter_map(|name| self.index(name));
        (!names.is_empty()).then(|| Arc::new(AllowedKeyspaces(indices.collect())))
    }

    /// The keyspace of a name.
    pub fn by_name(&self, name: &str) -> Option<&Arc<Keyspace>> {
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

    /// The keyspace whose prefix `text` begins with, and that prefix; the longest one if several fit.
    pub fn by_prefix(&self, text: &str) -> Option<(&Arc<Keyspace>, &str)> {
        self.keyspaces
            .iter()
            .flat_map(|keyspace| keyspace.prefixes.each().map(move |(_, prefix)| (keyspace, prefix)))
            .filter(|(_, prefix)| text.starts_with(prefix))
            .max_by_key(|(_, prefix)| prefix.len())
    }

    /// Whether this installation could have made `text`. No look-up is worth it otherwise.
    pub fn well_formed(&self, text: &str, master_keys: &MasterKeys) -> bool {
        text.len() <= secret::MAX_SECRET_LEN
            && self
                .by_prefix(text)
                .is_some_and(|(keyspace, prefix)| keyspace.encoding.accepts(prefix, &text[prefix.len()..], master_keys))
    }

    /// Whether this installation made `text` for a keyspace that is no longer configured.
    pub fn orphaned(&self, text: &str, master_keys: &MasterKeys) -> bool {
        self.by_prefix(text).is_none() && secret::issued_by(text, master_keys)
    }
}
