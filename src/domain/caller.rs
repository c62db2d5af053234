//! Who makes a call. There is no default: code that needs a caller does not compile without one.

use std::sync::Arc;

use super::{
    key::{Binding, KeyId},
    keyspace::{Keyspace, Reach},
};

/// Who makes a call to Keyward.
#[derive(Debug, Clone)]
pub enum Caller {
    /// May do everything. `key` is none for the root credential of the environment.
    Operator {
        /// The operator's key.
        key: Option<KeyId>,
    },
    /// May verify.
    Service {
        /// The service's key.
        key: KeyId,
        /// What it may ask about; none: everything.
        reach: Option<Arc<Reach>>,
    },
    /// A product's key: an admin of its organization where it holds the admin scope, and always itself.
    Key(Arc<KeyCaller>),
    /// No credential; over REST only.
    Nobody,
}

/// A product's key as a caller.
#[derive(Debug, Clone)]
pub struct KeyCaller {
    /// Its id.
    pub id: KeyId,
    /// Its keyspace.
    pub keyspace: Arc<Keyspace>,
    /// What it is bound to.
    pub binding: Binding,
    /// Whether it holds its keyspace's admin scope.
    pub admin: bool,
}

impl Caller {
    /// The caller as `created_by` and `revoked_by` record it.
    pub fn actor(&self) -> String {
        match self {
            Self::Operator { key: None } => "root".to_owned(),
            Self::Operator { key: Some(key) } | Self::Service { key, .. } => format!("key:{key}"),
            Self::Key(key) => format!("key:{}", key.id),
            Self::Nobody => "public".to_owned(),
        }
    }

    /// The caller's own key; none for the environment's root credential and for nobody.
    pub fn key_id(&self) -> Option<KeyId> {
        match self {
            Self::Operator { key } => *key,
            Self::Service { key, .. } => Some(*key),
            Self::Key(key) => Some(key.id),
            Self::Nobody => None,
        }
    }

    /// The caller's kind, for logs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Operator { .. } => "operator",
            Self::Service { .. } => "service",
            Self::Key(key) if key.admin => "admin_key",
            Self::Key(_) => "key",
            Self::Nobody => "nobody",
        }
    }
}
